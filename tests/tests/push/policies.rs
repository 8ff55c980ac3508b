//! Row level security decides what a device's writes do, command by command: what is allowed goes through, what is forbidden comes back
//! with its SQLSTATE, its batch is undone whole, and the batches around it are taken.

use crate::phone::{delete, insert, int, now, short, text, update, Phone, SECOND};
use postgres::Client;
use sync_shared::message::Change;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database, User};

const DENIED: &str = "rejected 42501";

/// A table of documents of ann and bob under policies, a role for both, and ann's phone. `ROLE` in the SQL is the role.
fn documents(policies: &str) -> (Database<'static>, Client, Phone) {
    let db = Cluster::shared().database();
    let role = format!("writer_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {role} NOLOGIN"));
    db.run(
        &"CREATE FUNCTION uid() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('request.jwt.claims')::json ->> 'sub' $$;
         CREATE TABLE doc (id int PRIMARY KEY, owner text NOT NULL, state text DEFAULT 'draft', body text, n int NOT NULL DEFAULT 0);
         CREATE TABLE log (id int PRIMARY KEY, note text);
         INSERT INTO doc (id, owner, body) VALUES (1, 'ann', 'one'), (2, 'bob', 'SECRET'), (3, 'ann', 'three'), (4, 'ann', 'four');
         ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
         GRANT SELECT, INSERT, UPDATE, DELETE ON doc, log TO ROLE"
            .replace("ROLE", &role),
    );
    db.run(&policies.replace("ROLE", &role));
    db.run("SELECT sync.create_bucket('all')");
    db.run("SELECT sync.add_table('all', 'doc', rls => 'rules_decide'), sync.add_table('all', 'log')");
    let server = db.connect();
    (db, server, Phone::of(User::with_role("ann", &role)))
}

const OWN: &str = "CREATE POLICY own ON doc USING (owner = uid());";

/// Sends each change in a batch with another that is allowed: which of both were done must be the same. Answers the verdicts.
fn send(server: &mut Client, phone: &mut Phone, changes: Vec<Change>) -> Vec<String> {
    let first = server_value(server, "SELECT coalesce(max(id), 0) + 1 FROM log").parse::<i64>().expect("a number");
    let beside = |i: usize| insert("log", first + i as i64, &[("note", text("beside it"))]);
    let mut batches: Vec<_> = changes.into_iter().enumerate().map(|(i, change)| vec![beside(i), change]).collect();
    let last = batches.len();
    batches.push(vec![beside(last)]);
    let results = phone.send(server, batches);
    let told = short(&results);
    for (i, verdict) in told.iter().enumerate() {
        let done = server_value(server, &format!("SELECT count(*) FROM log WHERE id = {}", first + i as i64)) == "1";
        assert_eq!(done, !verdict.starts_with("rejected"), "batch {i} is whole: {:?}", results[i]);
    }
    assert_eq!(told[last], "accepted", "the batch behind all of them");
    assert!(!format!("{results:?}").contains("SECRET"), "what the user may not see is not told: {results:?}");
    told[..last].to_vec()
}

fn body(id: i64, old: &str, new: &str) -> Change {
    update("doc", id, &[("body", text(old), text(new))])
}

fn docs(server: &mut Client) -> Vec<Vec<String>> {
    server_rows(server, "SELECT id, owner, state, body FROM doc ORDER BY id")
}

#[test]
fn policies_of_each_command_decide() {
    let (_db, mut server, mut phone) = documents(
        "CREATE POLICY look ON doc FOR SELECT USING (true);
         CREATE POLICY make ON doc FOR INSERT WITH CHECK (owner = uid() AND state = 'draft');
         CREATE POLICY change ON doc FOR UPDATE USING (owner = uid()) WITH CHECK (owner = uid() AND state <> 'sealed');
         CREATE POLICY remove ON doc FOR DELETE USING (owner = uid() AND state = 'draft')",
    );
    let state = |id, old: &str, new: &str| update("doc", id, &[("state", text(old), text(new))]);
    let told = send(
        &mut server,
        &mut phone,
        vec![
            insert("doc", 10, &[("owner", text("ann"))]),
            insert("doc", 11, &[("owner", text("bob"))]),
            insert("doc", 12, &[("owner", text("ann")), ("state", text("final"))]),
            body(1, "one", "changed"),
            body(2, "x", "changed"),
            state(1, "draft", "sealed"),
            update("doc", 1, &[("owner", text("ann"), text("bob"))]),
            state(3, "draft", "final"),
            delete("doc", 3, &[("state", text("final"))]),
            delete("doc", 2, &[("state", text("draft"))]),
            delete("doc", 4, &[("state", text("draft"))]),
        ],
    );
    let ok = "accepted";
    assert_eq!(told, [ok, DENIED, DENIED, ok, DENIED, DENIED, DENIED, ok, DENIED, DENIED, ok]);
    assert_eq!(
        docs(&mut server),
        [
            ["1", "ann", "draft", "changed"],
            ["2", "bob", "draft", "SECRET"],
            ["3", "ann", "final", "three"],
            ["10", "ann", "draft", "∅"]
        ]
    );
}

#[test]
fn a_restrictive_policy_counts_beside_a_permissive_one() {
    let (_db, mut server, mut phone) = documents(&format!(
        "{OWN} CREATE POLICY never ON doc AS RESTRICTIVE USING (state <> 'frozen') WITH CHECK (body IS DISTINCT FROM 'bad');
         UPDATE doc SET state = 'frozen' WHERE id = 3"
    ));
    let changes = vec![
        body(1, "one", "good"),
        body(1, "good", "bad"),
        body(3, "three", "good"),
        insert("doc", 10, &[("owner", text("ann")), ("body", text("bad"))]),
        delete("doc", 3, &[("body", text("three"))]),
        delete("doc", 4, &[("body", text("four"))]),
    ];
    assert_eq!(send(&mut server, &mut phone, changes), ["accepted", DENIED, DENIED, DENIED, DENIED, "accepted"]);
    assert_eq!(server_value(&mut server, "SELECT string_agg(id || body, ' ' ORDER BY id) FROM doc"), "1good 2SECRET 3three");
}

#[test]
fn a_policy_that_reads_another_table_follows_it() {
    let (db, mut server, mut phone) = documents(
        "CREATE TABLE editor (doc int, who text); INSERT INTO editor VALUES (2, 'ann'); GRANT SELECT ON editor TO ROLE;
         CREATE POLICY editors ON doc USING (EXISTS (SELECT FROM editor e WHERE e.doc = id AND e.who = uid()))",
    );
    let told = send(&mut server, &mut phone, vec![update("doc", 2, &[("n", int(0), int(1))]), body(1, "one", "changed")]);
    assert_eq!(told, ["accepted", DENIED]);
    db.run("DELETE FROM editor; INSERT INTO editor VALUES (1, 'ann')");
    let told = send(&mut server, &mut phone, vec![update("doc", 2, &[("n", int(1), int(2))]), body(1, "one", "changed")]);
    assert_eq!(told, [DENIED, "accepted"]);
    // One that the role may not read lets nothing through.
    db.run("DO $$ BEGIN EXECUTE (SELECT format('REVOKE SELECT ON editor FROM %I', grantee) FROM information_schema.role_table_grants WHERE table_name = 'editor' AND grantee LIKE 'writer%'); END $$");
    assert_eq!(send(&mut server, &mut phone, vec![body(1, "changed", "again")]), [DENIED]);
    assert_eq!(
        server_rows(&mut server, "SELECT id, body, n FROM doc WHERE id < 3 ORDER BY id"),
        [["1", "changed", "0"], ["2", "SECRET", "1"]]
    );
}

#[test]
fn a_policy_that_calls_a_function_is_decided_by_it() {
    let (db, mut server, mut phone) = documents(
        "CREATE TABLE hidden (who text, least int); INSERT INTO hidden VALUES ('ann', 3);
         CREATE FUNCTION least_of(who text) RETURNS int LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
             AS $$ SELECT h.least FROM hidden h WHERE h.who = least_of.who $$;
         CREATE FUNCTION is_fine(body text) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN
             IF body = 'burst' THEN RAISE EXCEPTION 'it burst' USING ERRCODE = 'ZX001'; END IF;
             RETURN body <> 'bad';
         END $$;
         CREATE POLICY far ON doc USING (owner = uid() AND id >= least_of(uid())) WITH CHECK (is_fine(body))",
    );
    let changes = vec![body(3, "three", "good"), body(1, "one", "good"), body(3, "good", "bad"), body(3, "good", "burst")];
    assert_eq!(send(&mut server, &mut phone, changes), ["accepted", DENIED, DENIED, "rejected zx001"]);
    db.run("UPDATE hidden SET least = 1");
    assert_eq!(send(&mut server, &mut phone, vec![body(1, "one", "good")]), ["accepted"]);
}

#[test]
fn policies_bind_an_owner_only_where_they_are_forced() {
    let (db, mut server, mut phone) = documents(&format!("{OWN} ALTER TABLE doc OWNER TO ROLE"));
    let owner = |new: &str| update("doc", 3, &[("owner", text("ann"), text(new))]);
    assert_eq!(send(&mut server, &mut phone, vec![owner("bob"), owner("ann")])[0], "accepted", "the owner's own policies");
    db.run("UPDATE doc SET owner = 'ann' WHERE id = 3; ALTER TABLE doc FORCE ROW LEVEL SECURITY");
    let changes =
        vec![body(1, "one", "changed"), owner("bob"), body(2, "x", "changed"), delete("doc", 2, &[("owner", text("bob"))])];
    assert_eq!(send(&mut server, &mut phone, changes), ["accepted", DENIED, DENIED, DENIED]);
    assert_eq!(server_value(&mut server, "SELECT string_agg(owner, ' ' ORDER BY id) FROM doc"), "ann bob ann ann");
}

#[test]
fn what_a_trigger_makes_of_a_row_with_the_users_claims_is_what_is_checked() {
    let (_db, mut server, mut phone) = documents(&format!(
        "{OWN}
         CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.body = 'mine' THEN NEW.owner := uid(); END IF;
             IF NEW.body = 'theirs' THEN NEW.owner := 'bob'; END IF;
             IF NEW.body = 'no' THEN RAISE EXCEPTION 'not so, %', sync.user_id() USING ERRCODE = 'ZX002'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION stamp()"
    ));
    let make = |id: i64, owner: &str, body: &str| insert("doc", id, &[("owner", text(owner)), ("body", text(body))]);
    let changes = vec![
        make(10, "bob", "mine"),
        make(11, "ann", "theirs"),
        make(12, "bob", "x"),
        body(1, "one", "theirs"),
        body(1, "one", "no"),
        body(3, "three", "mine"),
    ];
    assert_eq!(send(&mut server, &mut phone, changes), ["accepted", DENIED, DENIED, DENIED, "rejected zx002", "accepted"]);
    assert_eq!(
        server_value(&mut server, "SELECT string_agg(id || owner, ' ' ORDER BY id) FROM doc"),
        "1ann 2bob 3ann 4ann 10ann"
    );
}

#[test]
fn an_insert_that_meets_a_row_is_an_update_under_its_policies() {
    let (_db, mut server, mut phone) = documents(
        "CREATE POLICY look ON doc FOR SELECT USING (owner = uid() OR id = 4);
         CREATE POLICY make ON doc FOR INSERT WITH CHECK (true);
         CREATE POLICY change ON doc FOR UPDATE USING (owner = uid()) WITH CHECK (owner = uid() AND body IS DISTINCT FROM 'bad');
         UPDATE doc SET owner = 'bob' WHERE id = 4",
    );
    let make = |id: i64, body: &str| insert("doc", id, &[("owner", text("ann")), ("body", text(body))]);
    let changes = vec![make(1, "again"), make(1, "bad"), make(2, "mine now"), make(4, "mine now"), make(10, "bad")];
    assert_eq!(send(&mut server, &mut phone, changes), ["merged", DENIED, "rejected 23505", "rejected 23505", "accepted"]);
    assert_eq!(
        server_rows(&mut server, "SELECT id, owner, body FROM doc WHERE id IN (1, 2, 4) ORDER BY id"),
        [["1", "ann", "again"], ["2", "bob", "SECRET"], ["4", "bob", "four"]]
    );
}

#[test]
fn what_counters_and_text_merges_come_to_is_checked() {
    let (db, mut server, mut phone) = documents(
        "CREATE POLICY own ON doc USING (owner = uid()) WITH CHECK (owner = uid() AND n <= 10 AND body NOT LIKE '%alpha%omega%');
         SELECT sync.set_policy('doc', 'counter', 'n'), sync.set_policy('doc', 'text', 'body');
         UPDATE doc SET n = 5, body = E'first\\nmiddle\\nlast' WHERE id = 1",
    );
    let count = |new: i64| update("doc", 1, &[("n", int(0), int(new))]);
    assert_eq!(send(&mut server, &mut phone, vec![count(6), count(4)]), [DENIED, "merged"]);
    assert_eq!(server_value(&mut server, "SELECT n FROM doc WHERE id = 1"), "9");
    let base = "first\nmiddle\nlast";
    db.run("UPDATE doc SET body = E'alpha\\nmiddle\\nlast' WHERE id = 1");
    phone.clock = Some(now() + SECOND);
    let told = send(&mut server, &mut phone, vec![body(1, base, "first\nmiddle\nomega"), body(1, base, "first\nmiddle\nend")]);
    assert_eq!(told, [DENIED, "merged"]);
    assert_eq!(server_value(&mut server, "SELECT body FROM doc WHERE id = 1"), "alpha\nmiddle\nend");
    // And a row of somebody else is not counted in.
    assert_eq!(send(&mut server, &mut phone, vec![update("doc", 2, &[("n", int(0), int(1))])]), [DENIED]);
}

#[test]
fn grants_on_columns_hold_under_policies() {
    let (db, mut server, mut phone) = documents(OWN);
    db.run(
        "DO $$ DECLARE r text := (SELECT rolname FROM pg_roles JOIN information_schema.role_table_grants ON grantee = rolname
             WHERE table_name = 'doc' AND table_schema = 'public' AND grantee LIKE 'writer%' LIMIT 1);
         BEGIN
             EXECUTE format('REVOKE ALL ON doc FROM %I; GRANT SELECT, DELETE, INSERT (id, owner, body), UPDATE (body) ON doc TO %1$I', r);
         END $$",
    );
    let changes = vec![
        body(1, "one", "changed"),
        update("doc", 1, &[("n", int(0), int(1))]),
        update("doc", 1, &[("body", text("changed"), text("x")), ("n", int(0), int(1))]),
        body(2, "x", "changed"),
        insert("doc", 10, &[("owner", text("ann")), ("body", text("new"))]),
        insert("doc", 11, &[("owner", text("ann")), ("n", int(1))]),
        insert("doc", 12, &[("owner", text("bob"))]),
        delete("doc", 3, &[("body", text("three"))]),
    ];
    assert_eq!(
        send(&mut server, &mut phone, changes),
        ["accepted", DENIED, DENIED, DENIED, "accepted", DENIED, DENIED, "accepted"]
    );
    assert_eq!(
        server_value(&mut server, "SELECT string_agg(id || body || n, ' ' ORDER BY id) FROM doc"),
        "1changed0 2SECRET0 4four0 10new0"
    );
}
