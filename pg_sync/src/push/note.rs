//! What triggers, policies and handlers may ask about the batch that is being applied.
//!
//! Kept in this backend's memory and not in a setting, which any user could set.

use super::refusal::Refusal;
use super::subtransaction;
use crate::error::spi;
use crate::render::pinned;
use pgrx::prelude::*;
use std::cell::RefCell;
use sync_shared::limits;
use sync_shared::message::Batch;
use uuid::Uuid;

thread_local! {
    static APPLYING: RefCell<Option<Applying>> = const { RefCell::new(None) };
}

/// The batch that is being applied.
struct Applying {
    device: Uuid,
    number: i64,
    note: Option<String>,
}

/// While it lives, a batch is being applied.
pub struct Scope(());

impl Scope {
    pub fn begin(device: Uuid, number: i64, note: Option<String>) -> Self {
        APPLYING.with(|a| *a.borrow_mut() = Some(Applying { device, number, note }));
        Scope(())
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        APPLYING.with(|a| *a.borrow_mut() = None);
    }
}

fn of<T>(f: impl FnOnce(&Applying) -> Option<T>) -> Option<T> {
    APPLYING.with(|a| a.borrow().as_ref().and_then(f))
}

/// The device and the number of the batch that is being applied.
pub fn current() -> Option<(Uuid, i64)> {
    of(|a| Some((a.device, a.number)))
}

/// A batch's note as Postgres writes it; None without one.
pub fn read(batch: &Batch) -> Result<Option<String>, Refusal> {
    if batch.note.is_empty() {
        return Ok(None);
    }
    if batch.note.len() > limits::NOTE_BYTES {
        let message = format!("the note has {} bytes, {} are allowed", batch.note.len(), limits::NOTE_BYTES);
        return Err(Refusal::new("54000", message, "note"));
    }
    let parse = || Spi::get_one_with_args::<String>("SELECT $1::jsonb::text", &[batch.note.as_str().into()]);
    subtransaction::run(|| Ok(spi("reading a note", pinned(parse)))).map_err(|refusal| Refusal {
        message: format!("the note is not JSON that the server can keep: {}", refusal.message),
        subject: "note".into(),
        ..refusal
    })
}

#[pg_extern(stable)]
fn device() -> Option<pgrx::Uuid> {
    of(|a| Some(pgrx::Uuid::from_bytes(*a.device.as_bytes())))
}

#[pg_extern(stable)]
fn batch_number() -> Option<i64> {
    of(|a| Some(a.number))
}

#[pg_extern(stable)]
fn note_text() -> Option<String> {
    of(|a| a.note.clone())
}
