//! Going back is a new change, with the rights of whoever asks for it.

use crate::{moment, tasks, titles};
use sync_tests::cluster::describe;
use sync_tests::compare::{assert_same, server_rows, server_value};
use sync_tests::Device;

fn role(db: &sync_tests::Database<'_>, what: &str) -> String {
    format!("{what}_{}_{}", db.name(), std::process::id())
}

#[test]
fn a_row_is_restored_as_a_new_change_and_reaches_devices() {
    let (db, mut server) = tasks();
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'task')");
    let device = Device::new("ann");
    device.sync(&mut server);
    let at = moment(&mut server);
    db.run("UPDATE task SET title = 'new', done = true");
    let restore = format!("SELECT sync.restore_row('task', '1', '{at}')");
    assert_eq!(server_value(&mut server, &restore), "restored");
    assert_eq!(server_rows(&mut server, "SELECT title, done FROM task"), [["old", "f"]]);
    db.run("DELETE FROM task");
    device.sync(&mut server);
    assert_eq!(server_value(&mut server, &restore), "restored");
    db.run("INSERT INTO task VALUES (2, 'two')");
    assert_eq!(server_value(&mut server, &format!("SELECT sync.restore_row('task', '2', '{at}')")), "removed");
    assert_eq!(server_value(&mut server, &format!("SELECT sync.restore_row('task', '3', '{at}')")), "unchanged");
    let now = moment(&mut server);
    assert_eq!(server_value(&mut server, &format!("SELECT sync.restore_row('task', '1', '{now}')")), "unchanged");
    assert_eq!(server_rows(&mut server, "SELECT id, title FROM task"), [["1", "old"]]);
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT id, title FROM task");
    assert_eq!(titles(&mut server, "1").len(), 4);
}

#[test]
fn columns_that_came_later_keep_their_values() {
    let (db, mut server) = tasks();
    let at = moment(&mut server);
    db.run("UPDATE task SET title = 'new'");
    db.run("ALTER TABLE task ADD body text, ADD up text GENERATED ALWAYS AS (upper(title)) STORED");
    db.run("UPDATE task SET body = 'body'");
    server.batch_execute(&format!("SELECT sync.restore_row('task', '1', '{at}')")).expect("restored");
    assert_eq!(server_rows(&mut server, "SELECT title, body, up FROM task"), [["old", "body", "OLD"]]);
    // Nothing but a key.
    db.run("CREATE TABLE tag (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY); SELECT sync.keep_history('tag')");
    db.run("INSERT INTO tag DEFAULT VALUES");
    let at = moment(&mut server);
    db.run("DELETE FROM tag");
    assert_eq!(server_value(&mut server, &format!("SELECT sync.restore_row('tag', '1', '{at}')")), "restored");
    assert_eq!(server_rows(&mut server, "SELECT id FROM tag"), [["1"]]);
}

#[test]
fn a_batch_is_undone_whole() {
    let (db, mut server) = tasks();
    db.run("CREATE TABLE step (id int PRIMARY KEY, task int REFERENCES task, title text); SELECT sync.keep_history('step')");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'task'); SELECT sync.add_table('all', 'step')");
    let device = Device::new("ann");
    device.sync(&mut server);
    device.run(
        "BEGIN; UPDATE task SET title = 'first batch' WHERE id = 1; INSERT INTO task VALUES (2, 'two', 0); INSERT INTO step VALUES (7, 2, 's');
         COMMIT",
    );
    device.run("INSERT INTO task VALUES (5, 'second batch', 0)");
    device.sync(&mut server);
    let id = server_value(&mut server, "SELECT device FROM sync.device");
    let undo = format!("SELECT sync.restore_batch('{id}', 1)");
    db.run("UPDATE step SET title = 'later' WHERE id = 7");
    let error = server.batch_execute(&undo).expect_err("refused");
    assert!(describe(&error).contains("row {\"id\": 7} was changed again at"), "{}", describe(&error));
    assert_eq!(server_value(&mut server, &undo.replace(", 1)", ", 1, force => true)")), "3");
    assert_eq!(server_rows(&mut server, "SELECT id, title FROM task ORDER BY id"), [["1", "old"], ["5", "second batch"]]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM step"), "0");
    let error = server.batch_execute(&format!("SELECT sync.restore_batch('{id}', 9)")).expect_err("refused");
    assert!(describe(&error).contains("nothing is known of this batch"), "{error}");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT id, title FROM task");
    // The undoing can be undone: it is history too.
    assert_eq!(titles(&mut server, "1"), [["update", "old", "first batch"], ["update", "first batch", "old"]]);
}

#[test]
fn restoring_has_the_callers_rights_and_settings() {
    let (db, mut server) = tasks();
    let admin = role(&db, "admin");
    db.run(&format!(
        "CREATE ROLE {admin} LOGIN IN ROLE sync_admin; GRANT SELECT, UPDATE ON task TO {admin};
         CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO {admin}; CREATE TABLE app.seen (who text); GRANT INSERT ON app.seen TO {admin};
         CREATE FUNCTION app.look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (current_user); RETURN NEW; END $$;
         CREATE TRIGGER look BEFORE UPDATE ON task FOR EACH ROW EXECUTE FUNCTION app.look()"
    ));
    let at = moment(&mut server);
    server.batch_execute("SET search_path = app, public; UPDATE task SET title = 'new'; DELETE FROM seen").expect("a write");
    let mut client = db.connect_as(&admin);
    client.batch_execute("SET search_path = app, public").expect("a setting");
    let restore = format!("SELECT sync.restore_row('task', '1', '{at}')");
    assert_eq!(server_value(&mut client, &restore), "restored");
    assert_eq!(server_rows(&mut server, "SELECT who FROM app.seen"), [[admin.as_str()]]);
    db.run("DELETE FROM task");
    let error = client.batch_execute(&restore).expect_err("refused");
    assert_eq!(error.code().map(|c| c.code()), Some("42501"), "{error}");
    db.run("INSERT INTO task VALUES (1, 'new'); ALTER TABLE task ENABLE ROW LEVEL SECURITY");
    assert!(client.batch_execute(&restore).is_err(), "a row that policies hide is not there to be changed");
}

#[test]
fn only_admins_look_into_the_past_and_only_owners_keep_it() {
    let (db, _server) = tasks();
    let (admin, other) = (role(&db, "admin"), role(&db, "other"));
    db.run(&format!("CREATE ROLE {admin} LOGIN IN ROLE sync_admin; CREATE ROLE {other} LOGIN; GRANT ALL ON task TO {other}"));
    db.run("UPDATE task SET title = 'secret'; UPDATE task SET title = 'public'");
    let mut client = db.connect_as(&other);
    // A writer needs no right on the history, and gets none.
    client.batch_execute("UPDATE task SET title = 'written'").expect("a write");
    for sql in [
        "SELECT * FROM sync.version",
        "SELECT * FROM sync.net_change",
        "SELECT sync.history('task', '1')",
        "SELECT sync.as_of('task', now())",
        "SELECT sync.restore_row('task', '1', now())",
        "SELECT sync.restore_batch(gen_random_uuid(), 1)",
        "SELECT sync.keep_history('task')",
        "SELECT sync.drop_history('task')",
        "CREATE TRIGGER fake AFTER UPDATE ON task EXECUTE FUNCTION sync.keep_version('{}')",
    ] {
        let error = client.batch_execute(sql).expect_err(sql);
        assert_eq!(error.code().map(|c| c.code()), Some("42501"), "{sql}: {}", describe(&error));
    }
    let mut client = db.connect_as(&admin);
    let error = client.batch_execute("SELECT sync.history('task', '1')").expect_err("the table itself is not for everybody");
    assert_eq!(error.code().map(|c| c.code()), Some("42501"), "{error}");
    let error = client.batch_execute("SELECT sync.keep_history('task')").expect_err("not the owner");
    assert_eq!(error.code().map(|c| c.code()), Some("42501"), "{error}");
    db.run(&format!("GRANT SELECT ON task TO {admin}"));
    assert_eq!(
        server_rows(&mut client, "SELECT user_id, after ->> 'title' FROM sync.history('task', '1')"),
        [["postgres", "public"], [other.as_str(), "written"]]
    );
}

#[test]
fn casts_that_an_owner_plants_run_with_the_owners_rights() {
    let (db, mut server) = tasks();
    let owner = role(&db, "owner");
    db.run(&format!(
        "CREATE ROLE {owner}; GRANT CREATE ON SCHEMA public TO {owner}; CREATE TABLE trace (who text); GRANT INSERT ON trace TO PUBLIC;
         SET ROLE {owner};
         CREATE TYPE odd AS ENUM ('a', 'b');
         CREATE FUNCTION planted(odd) RETURNS json LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.trace VALUES (current_user); RETURN '1'; END $$;
         CREATE CAST (odd AS json) WITH FUNCTION planted(odd);
         CREATE TABLE theirs (id int PRIMARY KEY, o odd);"
    ));
    db.run("SELECT sync.keep_history('theirs')");
    server.batch_execute("INSERT INTO theirs VALUES (1, 'a'); UPDATE theirs SET o = 'b'; DELETE FROM theirs").expect("writes");
    assert_eq!(server_rows(&mut server, "SELECT DISTINCT who FROM trace"), [[owner.as_str()]]);
}
