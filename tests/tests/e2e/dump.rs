//! Databases that are dumped and restored, copied or upgraded: rules come along, devices keep their rows and unsent writes.

use crate::lists::Lists;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Database};

/// Lists with everything that is declared by number or id: renamed tables and columns, column lists, other owners. Ann has written,
/// sent and unsent.
fn declared() -> Lists {
    let mut lists = Lists::new();
    lists.run("DO $$ BEGIN CREATE ROLE \"the owner\"; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
    lists.run("CREATE SCHEMA app; CREATE TABLE app.first (gone int, a text, b int, secret text, PRIMARY KEY (b, a)); GRANT USAGE ON SCHEMA app TO \"the owner\"");
    lists.run("ALTER TABLE app.first DROP gone; ALTER TABLE app.first OWNER TO \"the owner\"");
    lists.run(
        "SELECT sync.create_bucket('all', priority => 3); SELECT sync.add_table('all', 'app.first', columns => ARRAY['a', 'b'])",
    );
    lists.run("SELECT sync.add_table('list', 'app.first', key => 'b', columns => ARRAY['a', 'b'], filter => $$a <> 'no'$$, rls => 'enforce')");
    lists.run("ALTER TABLE app.first RENAME TO \"Second\"; ALTER TABLE app.\"Second\" RENAME a TO \"A b\"; ALTER SCHEMA app RENAME TO app2");
    lists.run("INSERT INTO app2.\"Second\" VALUES ('x', 1, 's'), ('y', 2, 's'), ('no', 3, 's')");
    lists.run("SELECT sync.set_policy('app2.\"Second\"', 'reject'); SELECT sync.set_policy('item', 'text', 'body'); SELECT sync.set_delete_policy('item', 'delete_wins')");
    lists.run(
        "CREATE TABLE heard (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text); SELECT sync.add_upload_table('heard')",
    );
    lists.run("SELECT sync.keep_history('item', '30 days')");
    lists.ann.run("INSERT INTO item VALUES (1000, 1, 'sent before the dump', 0)");
    lists.sync();
    lists.run("SELECT sync.maintain()");
    lists.sync();
    lists.ann.run("INSERT INTO item VALUES (1001, 1, 'not sent', 0); UPDATE item SET body = 'not sent' WHERE id = 3");
    lists
}

/// The devices go on with another database.
fn go_on(lists: &mut Lists, database: Database<'static>) {
    lists.server = database.connect();
    lists.db = database;
}

/// The devices have all rows of the second table, and what either side writes to it arrives.
fn check_second(lists: &mut Lists) {
    lists.check();
    lists.run("INSERT INTO app2.\"Second\" VALUES ('after', 7, 's'); DELETE FROM app2.\"Second\" WHERE b = 1");
    lists
        .ann
        .run("UPDATE item SET body = 'written afterwards' WHERE id = 6; INSERT INTO app_first (\"A b\", b) VALUES ('mine', 2)");
    lists.check();
    for device in [&lists.ann, &lists.bob] {
        let rows = device.rows("SELECT b, \"A b\" FROM app_first ORDER BY b, \"A b\"");
        assert_eq!(rows, [["2", "mine"], ["2", "y"], ["3", "no"], ["7", "after"]]);
        assert_eq!(device.value("SELECT count(*) FROM sync_rejected"), "0");
    }
    assert_eq!(server_value(&mut lists.server, "SELECT count(*) FROM item WHERE id IN (1000, 1001)"), "2");
    assert_eq!(server_value(&mut lists.server, "SELECT string_agg(state, ',') FROM sync.entry"), "ready,ready,ready");
    assert_eq!(
        server_value(&mut lists.server, "SELECT count(*) FROM sync.carried WHERE home <> sync.home() OR problem IS NOT NULL"),
        "0"
    );
}

#[test]
fn a_plain_dump_carries_the_rules_and_the_first_push_makes_them_anew() {
    let mut lists = declared();
    let rules =
        "SELECT bucket, priority, members, \"table\", key, filter, columns, key_types, owner, rls FROM sync.rules ORDER BY 1, \"table\"::text, 5";
    let before = server_rows(&mut lists.server, rules);
    let (policies, tables) = ("SELECT p FROM sync.policies p ORDER BY p::text", "SELECT t FROM sync.tables t ORDER BY t::text");
    let declared = [policies, tables].map(|sql| server_rows(&mut lists.server, sql));
    assert!(declared[0].len() == 3 && declared[1].len() == 3, "{declared:?}");
    let file = lists.db.dump(&[]);
    let restored = Cluster::shared().empty_database();
    restored.load(&file);
    go_on(&mut lists, restored);
    let error = server_pull(&mut lists.server, &lists.bob.user, &lists.bob.pull_request()).expect_err("nothing is captured yet");
    assert!(error.contains("call sync.maintain() once"), "{error}");
    // Written before anything captures: no device must miss it.
    lists.run("INSERT INTO item VALUES (1002, 2, 'written before the rules came to life')");
    lists.ann.push(&mut lists.server);
    check_second(&mut lists);
    assert_eq!(server_rows(&mut lists.server, rules), before);
    assert_eq!(server_value(&mut lists.server, "SELECT count(*) > 0 FROM sync.history('item', '6')"), "t");
    assert_eq!([policies, tables].map(|sql| server_rows(&mut lists.server, sql)), declared);
    assert_eq!(lists.bob.value("SELECT body FROM item WHERE id = 1002"), "written before the rules came to life");
}

#[test]
fn a_restored_archive_keeps_what_devices_have() {
    let mut lists = declared();
    let file = lists.db.dump(&["--format=custom"]);
    let restored = Cluster::shared().empty_database();
    restored.restore(&file, &["--jobs=2"]);
    go_on(&mut lists, restored);
    lists.run("SELECT sync.maintain()");
    let fetched: u64 = lists.bob.pull(&mut lists.server).iter().map(|answer| answer.rows()).sum();
    assert_eq!(fetched, 0, "rows that are the same on both sides were fetched again");
    check_second(&mut lists);
}

#[test]
fn the_schema_alone_does_nothing_and_the_data_bring_the_rules() {
    let mut lists = declared();
    let (schema, data) = (lists.db.dump(&["--schema-only"]), lists.db.dump(&["--data-only"]));
    let restored = Cluster::shared().empty_database();
    restored.load(&schema);
    restored.run("INSERT INTO item VALUES (1, 1, 'nothing is synced here')");
    let known = "SELECT (SELECT count(*) FROM sync.rules), (SELECT count(*) FROM sync.op), (SELECT count(*) FROM pg_trigger WHERE tgname ~ '^sync_capture')";
    assert_eq!(server_rows(&mut restored.connect(), known), [["0", "0", "8"]]);
    restored.run("DELETE FROM item");
    restored.load(&data);
    go_on(&mut lists, restored);
    lists.run("SELECT sync.maintain()");
    check_second(&mut lists);
}

#[test]
fn a_table_that_is_missing_after_a_restore_waits_and_rejects_nothing() {
    let mut lists = declared();
    lists.ann.push(&mut lists.server);
    let file = lists.db.dump(&["--exclude-table=item"]);
    let restored = Cluster::shared().empty_database();
    restored.load(&file);
    lists.ann.run("INSERT INTO item VALUES (1003, 1, 'for a table that is not there', 0)");
    go_on(&mut lists, restored);
    let batches = lists.ann.pending_ops().expect("something waits");
    let reply = server_push(&mut lists.server, &lists.ann.user, &batches).expect("a reply");
    assert_eq!(lists.ann.apply(&reply).expect("a reply is applied").verdicts("later"), 1);
    let problem = server_value(
        &mut lists.server,
        "SELECT name || ': ' || problem FROM sync.carried WHERE problem IS NOT NULL AND kind = 'table'",
    );
    assert_eq!(problem, "public.item: there is no such table");
    lists.run("CREATE TABLE item (id int PRIMARY KEY, list int, body text, hidden boolean NOT NULL DEFAULT false)");
    lists.run("SELECT sync.maintain()");
    lists.check();
    assert_eq!(lists.ann.value("SELECT body FROM item WHERE id = 1003"), "for a table that is not there");
}

#[test]
fn a_cluster_is_upgraded_and_devices_go_on() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start("")));
    if !cluster.can_upgrade() {
        return sync_tests::skipped("pg_upgrade wants a psql of the server's version");
    }
    let mut lists = Lists::on(cluster);
    // A function of the application's in a filter: it has another id afterwards.
    lists.run("CREATE FUNCTION is_good(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 <> 'bad' $$");
    lists.run("CREATE TABLE fact (id int PRIMARY KEY, body text NOT NULL); INSERT INTO fact VALUES (1, 'good'), (2, 'bad')");
    lists.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'fact', filter => 'is_good(body)')");
    lists.sync();
    lists.run("SELECT sync.maintain()");
    lists.sync();
    lists.ann.run("INSERT INTO item VALUES (1001, 1, 'not sent', 0); INSERT INTO fact VALUES (3, 'mine')");
    let name = lists.db.name().to_owned();
    // pg_upgrade wants nobody else.
    lists.server = cluster.connect("postgres", "postgres");
    cluster.upgrade();
    lists.server = cluster.connect(&name, "postgres");
    let error = server_pull(&mut lists.server, &lists.bob.user, &lists.bob.pull_request()).expect_err("nothing is captured yet");
    assert!(error.contains("call sync.maintain() once"), "{error}");
    lists.run("INSERT INTO item VALUES (1002, 2, 'before maintain'); INSERT INTO fact VALUES (4, 'bad'), (5, 'fine')");
    lists.run("SELECT sync.maintain()");
    lists.check();
    lists.run("UPDATE fact SET body = 'bad' WHERE id = 1; UPDATE item SET list = 3 WHERE id = 1002");
    lists.check();
    for device in [&lists.ann, &lists.bob] {
        assert_eq!(device.rows("SELECT id FROM fact ORDER BY id"), [["3"], ["5"]]);
    }
    assert_eq!(lists.ann.value("SELECT body FROM item WHERE id = 1001"), "not sent");
}
