//! Conflict policies: one file for each kind, by messages made by hand and with two real devices.

#[allow(dead_code)]
#[path = "../push/phone.rs"]
mod phone;

#[path = "."]
mod policies {
    mod counter;
    mod custom;
    mod declare;
    mod deletes;
    mod document;
    mod keep_both;
    mod pair;
    mod set;
    mod sides;
    mod text;
    mod work;
}
