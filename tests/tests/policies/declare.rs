//! What can be declared, by whom, and what is refused with the remedy.

use crate::phone::{text, update, Phone};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

fn notes() -> Database<'static> {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE note (id int PRIMARY KEY, title text, tags text[], likes int, shape point, doubled int GENERATED ALWAYS AS (likes * 2) STORED);
         CREATE TABLE named (name text PRIMARY KEY, copy_of text, other int);
         CREATE FUNCTION decide(conflict jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT conflict';
         CREATE FUNCTION wrong(conflict json) RETURNS jsonb LANGUAGE sql AS 'SELECT conflict::jsonb';
         CREATE FUNCTION many(conflict jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT conflict'",
    );
    db
}

#[test]
fn a_policy_that_cannot_work_is_refused_with_the_remedy() {
    let db = notes();
    let mut server = db.connect();
    let refusals = [
        ("set_policy('note', 'first_wins')", "there is no policy \"first_wins\" for a whole table", "Choose one of merge"),
        (
            "set_policy('note', 'counter')",
            "table public.note: there is no policy \"counter\" for a whole table",
            "It is for one column",
        ),
        ("set_policy('note', 'keep_both', 'title')", "table public.note, column \"title\"", "It is for a whole table"),
        ("set_policy('note', 'merge', 'title')", "for one column", "last_writer"),
        ("set_policy('note', NULL)", "there is no policy \"NULL\"", "Choose one of"),
        ("set_policy('note', 'counter', 'nowhere')", "there is no column \"nowhere\"", ""),
        (
            "set_policy('note', 'counter', 'title')",
            "\"counter\" does not fit the type text: it needs a number",
            "Choose another policy",
        ),
        ("set_policy('note', 'text', 'likes')", "does not fit the type integer: it needs text", "Choose another policy"),
        ("set_policy('note', 'set', 'title')", "it needs an array", "Choose another policy"),
        ("set_policy('note', 'max', 'shape')", "it needs a type with an order", "Choose another policy"),
        ("set_policy('note', 'max', 'doubled')", "a generated column", "computed from"),
        ("set_policy('note', 'max', 'id')", "primary key never changes", "another column"),
        ("set_policy('note', 'custom')", "needs a handler", "handler =>"),
        ("set_policy('note', 'custom', handler => 'wrong(json)')", "wrong(json) cannot be a handler", "RETURNS jsonb"),
        ("set_policy('note', 'custom', handler => 'many(jsonb)')", "cannot be a handler", "RETURNS jsonb"),
        ("set_policy('note', 'reject', handler => 'decide(jsonb)')", "calls no handler", "Leave out the handler"),
        ("set_policy('note', 'reject', options => '{\"as\": \"row\"}')", "takes no options", ""),
        ("set_policy('named', 'keep_both')", "does not say what becomes of the losing version", "\"record\""),
        ("set_policy('named', 'keep_both', options => '{\"as\": \"row\"}')", "does not say", "\"link\""),
        (
            "set_policy('named', 'keep_both', options => '{\"as\": \"row\", \"link\": \"copy_of\"}')",
            "cannot make a key",
            "default",
        ),
        ("set_delete_policy('note', 'server_wins')", "there is no policy \"server_wins\" for deletes", "keep_update"),
        ("drop_policy('note')", "no policy is declared for the table", "sync.policies"),
        ("drop_policy('note', 'title')", "no policy is declared for the column \"title\"", "sync.policies"),
        ("set_policy('pg_class', 'reject')", "system tables", ""),
    ];
    for (call, message, hint) in refusals {
        let error = server.batch_execute(&format!("SELECT sync.{call}")).expect_err(call);
        let error = error.as_db_error().expect("an error of the server");
        assert!(error.message().contains(message), "{call}: {}", error.message());
        assert!(error.hint().unwrap_or_default().contains(hint), "{call}: {:?}", error.hint());
    }
    db.run("ALTER TABLE named ALTER name SET DEFAULT gen_random_uuid()::text");
    let link = "SELECT sync.set_policy('named', 'keep_both', options => '{\"as\": \"row\", \"link\": \"other\"}')";
    let error = server.batch_execute(link).expect_err("another type");
    assert!(
        error.to_string().contains("cannot link") || error.as_db_error().is_some_and(|e| e.message().contains("cannot link"))
    );
    db.run(&link.replace("other", "copy_of"));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.policies"), "1");
}

#[test]
fn the_view_lists_what_is_declared() {
    let db = notes();
    db.run(
        "SELECT sync.set_policy('note', 'custom', handler => 'decide(jsonb)'), sync.set_policy('note', 'counter', 'likes'),
             sync.set_policy('note', 'set', 'tags'), sync.set_delete_policy('note', 'delete_wins');
         ALTER TABLE named ALTER name SET DEFAULT gen_random_uuid()::text;
         SELECT sync.set_policy('named', 'keep_both', options => '{\"as\": \"row\", \"link\": \"copy_of\"}');
         SELECT sync.set_policy('note', 'max', 'likes')",
    );
    let mut server = db.connect();
    let list = "SELECT * FROM sync.policies";
    assert_eq!(
        server_rows(&mut server, list),
        [
            ["note", "∅", "change", "custom", "public.decide(jsonb)", "{}"],
            ["note", "∅", "delete", "delete_wins", "∅", "{}"],
            ["note", "tags", "change", "set", "∅", "{}"],
            ["note", "likes", "change", "max", "∅", "{}"],
            ["named", "∅", "change", "keep_both", "∅", "{\"as\": \"row\", \"link\": \"copy_of\"}"],
        ]
    );
    // Renamed, they are still there; what is dropped takes its policy along.
    db.run(
        "ALTER TABLE note RENAME TO memo; ALTER TABLE memo RENAME likes TO hearts; ALTER FUNCTION decide RENAME TO judge;
         ALTER TABLE memo DROP COLUMN tags; DROP TABLE named",
    );
    assert_eq!(
        server_rows(&mut server, list),
        [
            ["memo", "∅", "change", "custom", "public.judge(jsonb)", "{}"],
            ["memo", "∅", "delete", "delete_wins", "∅", "{}"],
            ["memo", "hearts", "change", "max", "∅", "{}"],
        ]
    );
    db.run("SELECT sync.drop_policy('memo')");
    assert_eq!(server_rows(&mut server, list), [["memo", "hearts", "change", "max", "∅", "{}"]]);
    db.run("SELECT sync.drop_policy('memo', 'hearts')");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.policy"), "0");
}

#[test]
fn only_the_tables_owner_declares_policies() {
    let db = notes();
    let role = format!("keeper_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {role} LOGIN IN ROLE sync_admin"));
    let mut server = db.connect_as(&role);
    for call in ["set_policy('note', 'reject')", "drop_policy('note')", "set_delete_policy('note', 'reject')"] {
        let error = server.batch_execute(&format!("SELECT sync.{call}")).expect_err(call);
        let error = error.as_db_error().expect("an error of the server");
        assert!(error.message().contains("only its owner"), "{call}: {}", error.message());
    }
    for direct in ["INSERT INTO sync.policy VALUES (1, 0, 'change', 'reject')", "SELECT sync.put_delete_policy('note', 'reject')"]
    {
        assert_eq!(server.batch_execute(direct).expect_err(direct).code().map(|c| c.code()), Some("42501"));
    }
    db.run(&format!("ALTER TABLE note OWNER TO {role}"));
    server.batch_execute("SELECT sync.set_policy('note', 'reject')").expect("the owner declares");
    assert_eq!(server_value(&mut server, "SELECT policy || options FROM sync.policies WHERE handler IS NULL"), "reject{}");
}

#[test]
fn a_policy_stays_when_its_table_leaves_its_rules_and_comes_back() {
    let db = notes();
    db.run(
        "SELECT sync.set_policy('note', 'server_wins');
         SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note', columns => '{id,title}')",
    );
    db.run("SELECT sync.drop_table('all', 'note'); INSERT INTO note VALUES (1, 'title')");
    db.run("SELECT sync.add_table('all', 'note', columns => '{id,title}'); UPDATE note SET title = 'theirs'");
    let result = Phone::new("ann").one(&mut db.connect(), update("note", 1, &[("title", text("title"), text("mine"))]));
    assert_eq!(result.conflicts[0].policy, "server_wins");
}

#[test]
fn a_policy_that_no_longer_fits_its_column_rejects_with_the_remedy() {
    let db = notes();
    db.run(
        "ALTER TABLE note DROP doubled; SELECT sync.set_policy('note', 'counter', 'likes');
         SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note', columns => '{id,title,likes}');
         ALTER TABLE note ALTER likes TYPE text; INSERT INTO note VALUES (1, 'title', NULL, '5')",
    );
    let result = Phone::new("ann").one(&mut db.connect(), update("note", 1, &[("likes", text("3"), text("4"))]));
    assert_eq!(result.code, "SY011");
    assert!(result.message.contains("column \"likes\"") && result.message.contains("sync.set_policy"), "{}", result.message);
}
