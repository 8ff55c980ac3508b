//! Devices that are listed, named and shut out.

use postgres::Client;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Database, Device};

const TEXT: &str = "a very secret text";

/// A table of notes, and two devices of one person that hold it.
fn two_devices() -> (Database<'static>, Client, Device, Device) {
    let db = Cluster::shared().database();
    db.run(&format!("CREATE TABLE note (id int PRIMARY KEY, body text); INSERT INTO note VALUES (1, '{TEXT}')"));
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
    let mut server = db.connect();
    let (phone, laptop) = (Device::new("ann"), Device::new("ann"));
    for device in [&phone, &laptop] {
        // The second round registers it.
        device.sync(&mut server);
        device.sync(&mut server);
        assert_eq!(device.rows("SELECT body FROM note"), [[TEXT]]);
    }
    (db, server, phone, laptop)
}

fn id(device: &Device) -> String {
    device.value("SELECT value FROM sync_status WHERE name = 'device'")
}

fn error(device: &Device, call: &str) -> String {
    device.connection().query_row(&format!("SELECT {call}"), [], |_| Ok(())).expect_err("refused").to_string()
}

/// Whether any byte of the text is left in the device's files.
fn is_readable(device: &Device) -> bool {
    let folder = device.path().parent().expect("a folder").to_owned();
    let files =
        std::fs::read_dir(folder).expect("the folder").map(|file| std::fs::read(file.expect("a file").path()).expect("read"));
    files.into_iter().any(|bytes| bytes.windows(11).any(|window| window == b"very secret"))
}

#[test]
fn a_revoked_device_is_told_to_wipe_and_does() {
    let (db, mut server, phone, laptop) = two_devices();
    phone.run(&format!("INSERT INTO note VALUES (2, '{TEXT}, never sent')"));
    let lost = id(&phone);
    db.run(&format!("SELECT sync.name_device('{lost}', 'the lost phone'); SELECT sync.revoke_device('{lost}')"));
    assert_eq!(
        server_rows(&mut server, "SELECT name, user_id, revoked IS NOT NULL, told_to_wipe FROM sync.devices ORDER BY name"),
        [["the lost phone", "ann", "t", "t"], ["∅", "ann", "f", "f"]]
    );
    let late = server_pull(&mut server, &phone.user, &phone.pull_request()).expect("an answer");
    phone.push(&mut server);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM note"), "1", "nothing is taken from it");
    assert!(is_readable(&phone));
    let answers = phone.pull(&mut server);
    let answer = &answers[answers.len() - 1];
    assert_eq!((answer.more(), answer.0["wiped"].as_bool()), (false, Some(true)), "{answer:?}");
    assert!(!is_readable(&phone), "something is left");
    assert_eq!(phone.value("SELECT count(*) FROM sqlite_schema WHERE name = 'note'"), "0");
    // It does not start over by itself, with a token that is still good.
    for call in ["pull_request()", "pending_ops()"] {
        let told = error(&phone, call);
        assert!(told.contains("this device was revoked") && told.contains("sync_sign_out('wipe')"), "{call}: {told}");
    }
    assert!(phone.apply(&late).expect_err("refused").contains("revoked"));
    // The other one goes on.
    laptop.run("UPDATE note SET body = 'changed'");
    laptop.sync(&mut server);
    assert_eq!(server_value(&mut server, "SELECT body FROM note"), "changed");
    // Whoever has the file may make it a new device, which the server can see and revoke again.
    phone.value("SELECT sync_sign_out('wipe')");
    phone.sync(&mut server);
    phone.sync(&mut server);
    assert_eq!(phone.rows("SELECT body FROM note"), [["changed"]]);
    assert_ne!(id(&phone), lost);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.devices"), "3");
}

#[test]
fn a_revoked_device_may_keep_what_it_has_and_come_back() {
    let (db, mut server, phone, _laptop) = two_devices();
    phone.run("INSERT INTO note VALUES (2, 'unsent')");
    db.run(&format!("SELECT sync.revoke_device('{}', wipe => false)", id(&phone)));
    for _ in 0..2 {
        phone.sync(&mut server);
    }
    assert_eq!(phone.rows("SELECT body FROM note ORDER BY id"), [[TEXT], ["unsent"]]);
    assert!(phone.value("SELECT value FROM sync_status WHERE name = 'notice'").contains("this device was revoked"));
    db.run("UPDATE note SET body = 'changed'");
    phone.sync(&mut server);
    assert_eq!(phone.value("SELECT body FROM note WHERE id = 1"), TEXT, "nothing is sent to it");
    db.run(&format!("SELECT sync.admit_device('{}')", id(&phone)));
    phone.sync(&mut server);
    phone.sync(&mut server);
    assert_eq!(phone.rows("SELECT body FROM note ORDER BY id"), [["changed"], ["unsent"]]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM note"), "2");
}

#[test]
fn an_order_to_wipe_counts_only_as_the_answer_to_the_last_question() {
    let (db, mut server, phone, _laptop) = two_devices();
    db.run(&format!("SELECT sync.revoke_device('{}')", id(&phone)));
    let order = server_pull(&mut server, &phone.user, &phone.pull_request()).expect("an answer");
    db.run(&format!("SELECT sync.admit_device('{}')", id(&phone)));
    phone.sync(&mut server);
    assert_eq!(phone.apply(&order).expect("left aside").rows(), 0);
    assert_eq!(phone.rows("SELECT body FROM note"), [[TEXT]]);
}

#[test]
fn devices_that_are_not_there_are_named_in_the_error() {
    let db = Cluster::shared().database();
    for call in ["name_device(gen_random_uuid(), 'x')", "revoke_device(gen_random_uuid())", "admit_device(gen_random_uuid())"] {
        let told = db.try_run(&format!("SELECT sync.{call}")).expect_err("refused");
        assert!(told.contains("there is no device") && told.contains("sync.devices"), "{told}");
    }
}
