//! Whether a device holds what a query on the server says.

use crate::device::Device;
use postgres::{Client, SimpleQueryMessage};

/// A query's rows as text, as [`Device::rows`] gives them. The session's settings are those that values travel under.
pub fn server_rows(client: &mut Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).unwrap_or_else(|e| panic!("{}\nin: {sql}", crate::cluster::describe(&e)));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).unwrap_or("∅").to_owned()).collect()),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// A query's only value as text.
pub fn server_value(client: &mut Client, sql: &str) -> String {
    let rows = server_rows(client, sql);
    assert!(rows.len() == 1 && rows[0].len() == 1, "one value expected from {sql}: {rows:?}");
    rows[0][0].clone()
}

/// Fails unless the same query gives the same rows on both sides, whatever their order.
#[track_caller]
pub fn assert_same(device: &Device, client: &mut Client, sql: &str) {
    assert_alike(device, sql, client, sql);
}

/// Fails unless two queries give the same rows, whatever their order.
#[track_caller]
pub fn assert_alike(device: &Device, on_device: &str, client: &mut Client, on_server: &str) {
    let (mut have, mut want) = (device.rows(on_device), server_rows(client, on_server));
    have.sort();
    want.sort();
    if have != want {
        let extra: Vec<_> = have.iter().filter(|row| !want.contains(row)).take(10).collect();
        let missing: Vec<_> = want.iter().filter(|row| !have.contains(row)).take(10).collect();
        panic!(
            "the device ({} rows) and the server ({} rows) differ\nquery: {on_server}\nonly on the device: {extra:?}\nonly on the server: {missing:?}",
            have.len(),
            want.len()
        );
    }
}

/// Fails unless the device's stored values add up to the sums that the server published.
#[track_caller]
pub fn assert_verified(device: &Device) {
    let report = device.value("SELECT sync_verify()");
    let json: serde_json::Value = serde_json::from_str(&report).unwrap_or_else(|e| panic!("{e} in {report}"));
    let differing = ["differing", "differences", "mismatches", "different"].iter().find_map(|name| json.get(*name));
    let clean = match differing {
        Some(serde_json::Value::Array(list)) => list.is_empty(),
        Some(serde_json::Value::Number(n)) => n.as_u64() == Some(0),
        _ => panic!("sync_verify() does not say what differs: {report}"),
    };
    assert!(clean, "the device's content differs from what the server published: {report}");
}
