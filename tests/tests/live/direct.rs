//! No transport at all: a driver for Postgres on the device, and the functions called over its connection.

use postgres::Client;
use sync_tests::cluster::describe;
use sync_tests::gateway::served;
use sync_tests::{Cluster, Device};

/// The loop as an application with a driver for Postgres writes it.
fn sync(device: &Device, client: &mut Client) -> Result<(), String> {
    let mut call = |sql: &str, message: &[u8]| -> Result<Vec<u8>, String> {
        Ok(client.query_one(sql, &[&message]).map_err(|e| describe(&e))?.get(0))
    };
    while let Some(batches) = device.pending_ops() {
        device.apply(&call("SELECT sync.push($1)", &batches)?)?;
    }
    while device.apply(&call("SELECT sync.pull($1)", &device.pull_request())?)?.more() {}
    Ok(())
}

#[test]
fn a_driver_and_a_login_are_all_that_is_needed() {
    let served = served(Cluster::shared());
    let (ann, bob) = (format!("ann_{}", served.db.name()), format!("bob_{}", served.db.name()));
    let functions = "sync.pull(bytea), sync.push(bytea), sync.head(), sync.changed_since(text, integer), sync.my_buckets(bytea)";
    served.db.run(&format!(
        "CREATE ROLE {ann} LOGIN IN ROLE {person}; CREATE ROLE {bob} LOGIN IN ROLE {person};
         GRANT EXECUTE ON FUNCTION {functions} TO {person};
         INSERT INTO list VALUES (1, 'Groceries'), (2, 'secret'); INSERT INTO member VALUES (1, '{ann}'), (2, '{bob}')",
        person = served.person
    ));
    let device = Device::new(&ann);
    let mut client = served.db.connect_as(&ann);
    sync(&device, &mut client).expect("a sync");
    assert_eq!(device.value("SELECT group_concat(title) FROM list"), "Groceries");
    device.run("INSERT INTO task (list_id, body) VALUES (1, 'Milk'); INSERT INTO task (list_id, body) VALUES (1, '')");
    sync(&device, &mut client).expect("a sync");
    assert_eq!(device.value("SELECT count(*) || ' ' || (SELECT count(*) FROM sync_rejected) FROM task"), "1 1");
    // Live: the same connection waits.
    let head: String = client.query_one("SELECT head FROM sync.changed_since(NULL)", &[]).expect("a head").get(0);
    served.db.run("UPDATE list SET title = 'Shopping' WHERE id = 1");
    let sql = "SELECT c.buckets && sync.my_buckets() FROM sync.changed_since($1, 10000) c";
    let mine: bool = client.query_one(sql, &[&head]).expect("news").get(0);
    assert!(mine);
    sync(&device, &mut client).expect("a sync");
    assert_eq!(device.value("SELECT title FROM list"), "Shopping");
    // Whoever says that he is somebody else is not.
    client.batch_execute(&format!("SET request.jwt.claims = '{{\"sub\": \"{bob}\"}}'")).expect("a setting");
    sync(&device, &mut client).expect("a sync");
    assert_eq!(device.value("SELECT group_concat(title) FROM list"), "Shopping");
}
