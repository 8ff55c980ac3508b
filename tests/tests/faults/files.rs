//! A device's file is saved while it is in use, by whatever SQLite offers for it, and used later: in place of the one that was lost, with
//! or without what happened since, or beside it. What was written is on the server once.

use postgres::Client;
use rusqlite::backup::Backup;
use rusqlite::Connection;
use std::time::Duration;
use sync_tests::compare::{assert_same, assert_verified, server_rows};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Device};

#[derive(Debug, Clone, Copy)]
enum How {
    /// The file is copied, with its write-ahead log.
    Files,
    /// VACUUM INTO.
    Vacuum,
    /// SQLite's backup API.
    Backup,
}

fn write(device: &Device, title: &str) {
    device.run(&format!("BEGIN; INSERT INTO note (title) VALUES ('{title}'); UPDATE counter SET n = n + 1; COMMIT"));
}

/// A copy of the file, made while it is open.
fn save(device: &Device, how: How) -> Device {
    let mut copy = Device::for_user(device.user.clone());
    copy.close();
    for end in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{end}", copy.path().display())));
    }
    match how {
        How::Files => {
            for end in ["", "-wal"] {
                let name = |device: &Device| format!("{}{end}", device.path().display());
                std::fs::copy(name(device), name(&copy)).expect("a file is copied");
            }
        }
        How::Vacuum => device.run(&format!("VACUUM INTO '{}'", copy.path().display())),
        How::Backup => {
            let mut target = Connection::open(copy.path()).expect("a file for the backup");
            let backup = Backup::new(device.connection(), &mut target).expect("a backup begins");
            backup.run_to_completion(10, Duration::ZERO, None).expect("a backup ends");
        }
    }
    copy.restart();
    copy
}

/// A device with a write of each kind: confirmed, sent with its answer lost, sealed, and only captured.
fn device(server: &mut Client) -> Device {
    let device = Device::new("ann");
    device.sync(server);
    write(&device, "confirmed");
    device.sync(server);
    write(&device, "sent");
    server_push(server, &device.user, &device.pending_ops().expect("batches")).expect("an answer, which is lost");
    write(&device, "sealed");
    device.pending_ops().expect("batches");
    write(&device, "captured");
    device
}

fn server() -> Client {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text); CREATE TABLE counter (id int PRIMARY KEY, n int)");
    db.run("INSERT INTO counter VALUES (1, 0)");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note'); SELECT sync.add_table('all', 'counter')");
    db.run("SELECT sync.set_policy('counter', 'counter', 'n')");
    db.connect()
}

/// Everybody syncs until nothing waits; then each write is there once, and all are the same.
fn check(devices: &[&Device], server: &mut Client, titles: &[&str], what: &str) {
    for _ in 0..4 {
        devices.iter().for_each(|device| device.sync(server));
    }
    let mut titles: Vec<Vec<String>> = titles.iter().map(|title| vec![(*title).to_owned()]).collect();
    titles.sort();
    assert_eq!(server_rows(server, "SELECT title FROM note ORDER BY title COLLATE \"C\""), titles, "{what}");
    assert_eq!(server_rows(server, "SELECT n FROM counter"), [[titles.len().to_string()]], "{what}");
    for device in devices {
        for table in ["note", "counter"] {
            assert_same(device, server, &format!("SELECT * FROM {table}"));
        }
        assert_eq!(device.rows("SELECT * FROM sync_pending"), Vec::<Vec<String>>::new(), "{what}");
        assert_verified(device);
    }
}

const BEFORE: [&str; 4] = ["confirmed", "sent", "sealed", "captured"];

#[test]
fn faults_a_saved_file_comes_back_in_place_of_a_lost_one() {
    for how in [How::Files, How::Vacuum, How::Backup] {
        let mut server = server();
        let lost = device(&mut server);
        let saved = save(&lost, how);
        drop(lost);
        write(&saved, "later");
        check(&[&saved], &mut server, &[&BEFORE[..], &["later"]].concat(), &format!("{how:?}"));
    }
}

#[test]
fn faults_an_old_file_comes_back_after_the_device_went_on() {
    for how in [How::Files, How::Vacuum, How::Backup] {
        let mut server = server();
        let lost = device(&mut server);
        let saved = save(&lost, how);
        write(&lost, "since then");
        lost.sync(&mut server);
        write(&lost, "since then, and sent last");
        lost.sync(&mut server);
        drop(lost);
        write(&saved, "later");
        let titles = [&BEFORE[..], &["since then", "since then, and sent last", "later"]].concat();
        check(&[&saved], &mut server, &titles, &format!("{how:?}"));
    }
}

#[test]
fn faults_a_saved_file_is_used_beside_the_original() {
    for how in [How::Files, How::Vacuum, How::Backup] {
        let mut server = server();
        let original = device(&mut server);
        let saved = save(&original, how);
        write(&original, "on the original");
        write(&saved, "on the other");
        // One of the two is in the middle of a pull while the other sends.
        let request = saved.pull_request();
        original.sync(&mut server);
        let reply = server_pull(&mut server, &saved.user, &request).expect("an answer");
        saved.apply(&reply).expect("it is applied");
        saved.sync(&mut server);
        write(&original, "on the original again");
        let titles = [&BEFORE[..], &["on the original", "on the other", "on the original again"]].concat();
        check(&[&original, &saved], &mut server, &titles, &format!("{how:?}"));
        let names = [&original, &saved].map(|d| d.value("SELECT value FROM sync_status WHERE name = 'device'"));
        assert_ne!(names[0], names[1], "{how:?}: two devices");
    }
}
