//! The past as it was: whole transactions, in the order in which rows changed.

use crate::{as_of, moment, tasks, titles};
use sync_tests::compare::{server_rows, server_value};

#[test]
fn a_table_is_shown_as_of_any_moment() {
    let (_db, mut server) = tasks();
    let mut seen = Vec::new();
    for sql in [
        "INSERT INTO task VALUES (2, 'two')",
        "UPDATE task SET title = 'one' WHERE id = 1",
        "DELETE FROM task WHERE id = 1",
        "INSERT INTO task VALUES (1, 'back'), (3, 'three')",
        "TRUNCATE task",
        "INSERT INTO task VALUES (4, 'four')",
    ] {
        seen.push((moment(&mut server), server_rows(&mut server, "SELECT id || ' ' || title FROM task ORDER BY id")));
        server.batch_execute(sql).expect("a write");
    }
    seen.push((moment(&mut server), server_rows(&mut server, "SELECT id || ' ' || title FROM task ORDER BY id")));
    for (at, rows) in seen {
        assert_eq!(as_of(&mut server, &at), rows.into_iter().map(|r| r[0].clone()).collect::<Vec<_>>(), "at {at}");
    }
}

#[test]
fn rows_of_the_past_are_rows_again() {
    let (_db, mut server) = tasks();
    let at = moment(&mut server);
    server.batch_execute("DELETE FROM task").expect("a write");
    let sql = format!("SELECT r.* FROM sync.as_of('task', '{at}') j, jsonb_populate_record(NULL::task, j) r");
    assert_eq!(server_rows(&mut server, &sql), [["1", "old", "f"]]);
}

#[test]
fn a_trigger_that_changes_the_row_again_leaves_no_wrong_past() {
    let (db, mut server) = tasks();
    // What the trigger writes is recorded before the statement that fired it.
    db.run(
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN UPDATE task SET title = NEW.title || '!' WHERE id = NEW.id; RETURN NULL; END $$;
         CREATE TRIGGER stamp AFTER INSERT OR UPDATE ON task FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION stamp()",
    );
    let start = moment(&mut server);
    server.batch_execute("UPDATE task SET title = 'a' WHERE id = 1").expect("a write");
    let middle = moment(&mut server);
    server.batch_execute("BEGIN; UPDATE task SET title = 'b' WHERE id = 1; INSERT INTO task VALUES (2, 'c'); UPDATE task SET title = 'd' WHERE id = 1; COMMIT").expect("writes");
    assert_eq!(titles(&mut server, "1"), [["update", "old", "a!"], ["update", "a!", "d!"]]);
    assert_eq!(titles(&mut server, "2"), [["insert", "∅", "c!"]]);
    assert_eq!(as_of(&mut server, &start), ["1 old"]);
    assert_eq!(as_of(&mut server, &middle), ["1 a!"]);
    assert_eq!(
        server_value(
            &mut server,
            "SELECT min(version_id) <> min(version_id) FILTER (WHERE before ->> 'title' = 'old') FROM sync.version"
        ),
        "t"
    );
}

#[test]
fn no_moment_shows_half_of_a_transaction() {
    let (db, mut server) = tasks();
    db.run("INSERT INTO task VALUES (2, '0'); UPDATE task SET title = '0'");
    let mut other = db.connect();
    // The other one starts first and ends last; both write row 1, one after the other.
    other.batch_execute("BEGIN; UPDATE task SET title = 'other' WHERE id = 2").expect("a write");
    let mut moments = vec![moment(&mut server)];
    server.batch_execute("BEGIN; UPDATE task SET title = 'mine' WHERE id = 1; COMMIT").expect("a write");
    moments.push(moment(&mut server));
    other.batch_execute("UPDATE task SET title = 'other' WHERE id = 1").expect("a write");
    other.batch_execute("COMMIT").expect("a commit");
    moments.push(moment(&mut server));
    let past: Vec<Vec<String>> = moments.iter().map(|at| as_of(&mut server, at)).collect();
    assert_eq!(past, [["1 0", "2 0"], ["1 mine", "2 0"], ["1 other", "2 other"]]);
}

#[test]
fn what_was_rolled_back_never_was() {
    let (_db, mut server) = tasks();
    server
        .batch_execute(
            "BEGIN; UPDATE task SET title = 'x'; ROLLBACK;
             BEGIN; SAVEPOINT s; UPDATE task SET title = 'y'; ROLLBACK TO s; UPDATE task SET title = 'z'; COMMIT",
        )
        .expect("writes");
    assert_eq!(titles(&mut server, "1"), [["update", "old", "z"]]);
}
