//! What is under way when a server goes back, and what must have become of it in the end.

use crate::lists::Lists;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::server_push;
use sync_tests::Device;

/// Rows that devices wrote and that must be there in the end, whatever the server lost.
const WRITTEN: &str = "2000,2001,2002,2003,2101,2102,2103";
/// Rows of others that the server loses, in the list that both devices hold.
const LOST: [&str; 3] = ["3000", "3001", "3002"];

/// What the server will still have.
pub fn before(lists: &mut Lists) {
    lists.ann.run("INSERT INTO item VALUES (2000, 2, 'confirmed, and not lost', 0)");
    lists.check();
}

/// What the server will lose: others' writes that both devices have seen, and writes of both devices in every state.
pub fn after(lists: &mut Lists) {
    lists.run("INSERT INTO item SELECT i, 2, 'seen and lost' FROM generate_series(3000, 3002) i");
    lists.run("UPDATE item SET body = 'newer' WHERE id = 4; DELETE FROM item WHERE id = 7");
    lists.ann.run("INSERT INTO item VALUES (2001, 2, 'confirmed, then lost', 0)");
    lists.ann.run("UPDATE item SET body = 'confirmed, then lost' WHERE id = 10");
    lists.bob.run("INSERT INTO item VALUES (2101, 3, 'confirmed, then lost', 0)");
    lists.check();
    lists.ann.run("INSERT INTO item VALUES (2002, 1, 'sent, answer lost', 0)");
    let batches = lists.ann.pending_ops().expect("a batch waits");
    server_push(&mut lists.server, &lists.ann.user, &batches).expect("it is taken");
    lists.bob.run("INSERT INTO item VALUES (2102, 2, 'answered', 0)");
    lists.bob.push(&mut lists.server);
    unsent(lists);
}

/// Writes that the server never saw.
fn unsent(lists: &Lists) {
    lists.ann.run("INSERT INTO item VALUES (2003, 2, 'unsent', 0)");
    lists.bob.run("INSERT INTO item VALUES (2103, 3, 'unsent', 0)");
}

/// In another history: other rows, under transaction ids that devices may have seen.
pub fn elsewhere(lists: &mut Lists, transactions: i32) {
    for i in 0..transactions {
        lists.run(&format!("INSERT INTO item VALUES ({}, {}, 'another history')", 5000 + i, i % 3 + 1));
    }
}

/// Everything that devices wrote is there, they hold what the server has, and what it lost of others is offered.
#[track_caller]
pub fn check(lists: &mut Lists) {
    lists.sync();
    lists.check();
    let written =
        server_value(&mut lists.server, "SELECT string_agg(id::text, ',' ORDER BY id) FROM item WHERE id BETWEEN 2000 AND 2999");
    assert_eq!(written, WRITTEN, "writes of devices were lost");
    assert_eq!(server_value(&mut lists.server, "SELECT body FROM item WHERE id = 10"), "confirmed, then lost");
    for device in [&lists.ann, &lists.bob] {
        assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0");
        assert_eq!(device.value("SELECT count(*) FROM sync_rejected"), "0");
        assert_offered(device);
    }
    give_back(lists);
}

/// Rows that others had written, and the newer version of one that is older now; nothing that came back.
#[track_caller]
fn assert_offered(device: &Device) {
    let offered = device.rows("SELECT json_extract(key, '$[0]') FROM sync_lost WHERE server IS NULL ORDER BY 1");
    assert_eq!(offered.concat(), LOST, "{}", device.user.id);
    let changed = device.rows(
        "SELECT json_extract(key, '$[0]'), json_extract(row, '$.body'), json_extract(server, '$.body') FROM sync_lost \
         WHERE server IS NOT NULL ORDER BY 1",
    );
    assert_eq!(changed, [["4", "newer", "item 4"]], "{}", device.user.id);
}

/// Ann gives back what was lost: it is everywhere again, and offered by nobody any more. Bob discards nothing that is back.
fn give_back(lists: &mut Lists) {
    lists.ann.run("BEGIN");
    for id in lists.ann.rows("SELECT id FROM sync_lost ORDER BY id").concat() {
        let said = lists.ann.value(&format!("SELECT sync_restore_lost({id})"));
        assert!(said.contains("\"written\"") || said.contains("\"changed\""), "{said}");
    }
    lists.ann.run("COMMIT");
    lists.sync();
    lists.check();
    let back = server_rows(&mut lists.server, "SELECT id, body FROM item WHERE id = 4 OR id BETWEEN 3000 AND 3999 ORDER BY id");
    assert_eq!(back[0], ["4", "newer"]);
    assert_eq!(back[1..].iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), LOST);
    for device in [&lists.ann, &lists.bob] {
        assert_eq!(device.value("SELECT count(*) FROM sync_lost"), "0", "{} is offered what is back", device.user.id);
    }
}
