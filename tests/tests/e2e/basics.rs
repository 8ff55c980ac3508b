//! One row down, one write back, and what an application sees of it.

use sync_tests::compare::{assert_same, assert_verified, server_rows};
use sync_tests::{Cluster, Device};

const NOTES: &str = "
    CREATE TABLE notes (id int PRIMARY KEY, owner text NOT NULL, body text);
    SELECT sync.create_bucket('owner', members => 'SELECT sync.user_id()');
    SELECT sync.add_table('owner', 'notes', key => 'owner');
";

#[test]
fn a_row_goes_down() {
    let db = Cluster::shared().database();
    db.run(NOTES);
    db.run("INSERT INTO notes VALUES (1, 'ann', 'hello'), (2, 'bob', 'not for ann')");
    let device = Device::new("ann");
    device.sync(&mut db.connect());
    assert_eq!(device.rows("SELECT * FROM notes"), [["1", "ann", "hello"]]);
    assert_verified(&device);
}

#[test]
fn a_write_comes_back() {
    let db = Cluster::shared().database();
    db.run(NOTES);
    let mut client = db.connect();
    let device = Device::new("ann");
    device.sync(&mut client);
    device.run("INSERT INTO notes VALUES (7, 'ann', 'from the device')");
    device.sync(&mut client);
    assert_eq!(server_rows(&mut client, "SELECT * FROM notes"), [["7", "ann", "from the device"]]);
    device.run("UPDATE notes SET body = 'changed' WHERE id = 7");
    device.sync(&mut client);
    assert_eq!(server_rows(&mut client, "SELECT * FROM notes"), [["7", "ann", "changed"]]);
    device.run("DELETE FROM notes WHERE id = 7");
    device.sync(&mut client);
    assert_eq!(server_rows(&mut client, "SELECT * FROM notes"), Vec::<Vec<String>>::new());
    assert_same(&device, &mut client, "SELECT * FROM notes");
    assert_verified(&device);
}

#[test]
fn a_table_that_already_holds_rows_works_at_once() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE places (id int PRIMARY KEY, name text)");
    db.run("INSERT INTO places SELECT i, 'place ' || i FROM generate_series(1, 3000) i");
    db.run("SELECT sync.create_bucket('world'); SELECT sync.add_table('world', 'places')");
    let mut client = db.connect();
    let device = Device::new("ann");
    device.sync(&mut client);
    assert_same(&device, &mut client, "SELECT * FROM places");
}
