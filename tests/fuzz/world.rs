//! A real sync, recorded: the messages that fuzzing begins with.

use postgres::Client;
use sync_shared::envelope;
use sync_shared::message::{Notice, NoticeKind};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Device};

const TABLES: &str = r#"
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE reader (name text, list int, PRIMARY KEY (name, list));
    CREATE TABLE item (id int PRIMARY KEY, list int, body text, hidden boolean NOT NULL DEFAULT false);
    CREATE TABLE wide (a uuid, b bigint, list int, f float8, n numeric(20, 4), t timestamptz DEFAULT now(), d date, j jsonb, x bytea,
        l text[], r int4range, m mood, g bigint GENERATED ALWAYS AS (b / 2) STORED, PRIMARY KEY (a, b));
    CREATE TABLE child (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), item int REFERENCES item ON DELETE CASCADE, name citext NOT NULL UNIQUE);
    CREATE TABLE place (region text, id int, topic text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
    CREATE TABLE place_north PARTITION OF place FOR VALUES IN ('north');
    CREATE TABLE place_other PARTITION OF place DEFAULT;
    INSERT INTO reader VALUES ('ann', 1), ('ann', 2), ('bob', 2), ('bob', 3);
    INSERT INTO item SELECT i, i % 3 + 1, 'item ' || i FROM generate_series(1, 60) i;
    INSERT INTO wide SELECT gen_random_uuid(), i, i % 3 + 1, i / 7.0, i * 1.25, now(), 'today', jsonb_build_object('i', i), '\x00ff',
        ARRAY['a', NULL, i::text], int4range(1, i), 'good' FROM generate_series(1, 40) i;
    INSERT INTO child (item, name) SELECT i, 'child ' || i FROM generate_series(1, 20) i;
    INSERT INTO place SELECT CASE i % 2 WHEN 0 THEN 'north' ELSE 'south' END, i, 'topic ' || i % 4 FROM generate_series(1, 30) i;
"#;

const RULES: &str = r#"
    SELECT sync.create_bucket('list', members => 'SELECT list FROM reader WHERE name = sync.user_id()', priority => 10);
    SELECT sync.add_table('list', 'item', key => 'list', filter => 'NOT hidden');
    SELECT sync.add_table('list', 'wide', key => 'list');
    SELECT sync.create_bucket('everybody', priority => 20);
    SELECT sync.add_table('everybody', 'child');
    SELECT sync.create_bucket('topic', members => $$ SELECT sync.param('topic') $$, priority => 5);
    SELECT sync.add_table('topic', 'place', key => 'topic');
    SELECT sync.maintain();

    -- Fails where the sums of all rows are not what the base and the log add up to, and undoes whatever was pushed.
    CREATE FUNCTION push_and_undo(batches bytea, look boolean) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        reply bytea := sync.push(batches);
        wrong bigint := 0;
    BEGIN
        IF look THEN
            SELECT count(*) INTO wrong FROM (
                SELECT p.bucket, p.entry FROM (
                    SELECT s.bucket, e.entry_id AS entry, -s.sum::numeric AS sum, -s.count::numeric AS count
                    FROM sync.entry e, sync.scan_entry(e.entry_id) s
                    UNION ALL SELECT bucket, entry, sum, count FROM sync.base
                    UNION ALL SELECT bucket, entry, hash, n FROM sync.op) p
                GROUP BY p.bucket, p.entry HAVING mod(sum(p.sum), 18446744073709551616) <> 0 OR sum(p.count) <> 0) w;
            IF wrong > 0 THEN
                RAISE EXCEPTION 'the sums of % parts are wrong', wrong USING ERRCODE = 'XX000';
            END IF;
        END IF;
        RAISE EXCEPTION 'undone' USING DETAIL = encode(reply, 'hex');
    END $$;
"#;

/// A server, a device in the middle of things, and what they said to each other.
pub struct World {
    pub server: Client,
    pub device: Device,
    /// What the device asked and sent.
    pub requests: Vec<Vec<u8>>,
    pub pushes: Vec<Vec<u8>>,
    /// What the server answered.
    pub answers: Vec<Vec<u8>>,
}

impl World {
    pub fn new(cluster: &Cluster) -> World {
        let db = cluster.database();
        db.run("CREATE EXTENSION citext");
        db.run(TABLES);
        db.run(RULES);
        let (requests, pushes, answers) = Default::default();
        let mut world = World { server: db.connect(), device: Device::new("ann"), requests, pushes, answers };
        world.record();
        let claims = r#"SELECT set_config('request.jwt.claims', '{"sub": "ann"}', false)"#;
        world.server.batch_execute(claims).expect("claims can be set");
        world.server.batch_execute("SET statement_timeout = '20s'").expect("a timeout can be set");
        world
    }

    /// A first sync in small pages, writes of both sides, subscriptions, a comparison of sums.
    fn record(&mut self) {
        self.pull();
        self.device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        self.device.run("SELECT sync_subscribe('topic', '{\"topic\": \"topic 1\"}')");
        self.run("INSERT INTO item SELECT i, 1, repeat(md5(i::text), 20) FROM generate_series(100, 180) i");
        self.device
            .run("INSERT INTO item (id, list, body) VALUES (500, 1, 'mine'); UPDATE wide SET j = '[1]', f = 0.5 WHERE b = 3");
        self.push();
        self.pull();
        self.run("UPDATE item SET list = 3 WHERE id IN (3, 4); UPDATE wide SET n = 7, m = 'bad' WHERE b < 9; DELETE FROM child WHERE item = 2");
        self.run("DELETE FROM reader WHERE name = 'ann' AND list = 2; TRUNCATE place_north");
        self.device.run("UPDATE item SET body = 'also mine' WHERE id = 3; DELETE FROM item WHERE id = 5");
        self.device.run("INSERT INTO child (item, name) VALUES (1, 'child 3')");
        self.push();
        self.pull();
        let resync = Notice {
            kind: NoticeKind::Resync,
            message: "recorded".into(),
            cursor: Default::default(),
            keep: Vec::new(),
            turn: 0,
        };
        self.take(envelope::encode(&resync).expect("a notice"));
        self.pull();
        // Left waiting, so that what is applied meets unsent writes.
        self.run(
            "UPDATE item SET body = body || '!' WHERE id > 40; INSERT INTO wide (a, b, list) VALUES (gen_random_uuid(), 99, 1)",
        );
        self.device.run("UPDATE item SET body = 'waiting' WHERE id > 50; DELETE FROM wide WHERE b = 12");
        self.device
            .run("INSERT INTO wide (a, b, list, x, l) VALUES ('11111111-2222-3333-4444-555555555555', 1, 1, x'00', '[\"q\"]')");
        self.pushes.push(self.device.pending_ops().expect("something waits"));
        let request = self.device.pull_request();
        self.answers.push(server_pull(&mut self.server, &self.device.user, &request).expect("a page"));
        self.requests.push(request);
    }

    fn run(&mut self, sql: &str) {
        self.server.batch_execute(sql).unwrap_or_else(|e| panic!("{}\nin: {sql}", sync_tests::cluster::describe(&e)));
    }

    fn take(&mut self, answer: Vec<u8>) -> bool {
        let more = self.device.apply(&answer).expect("an answer is applied").more();
        self.answers.push(answer);
        more
    }

    fn pull(&mut self) {
        loop {
            let request = self.device.pull_request();
            let answer = server_pull(&mut self.server, &self.device.user, &request).expect("a page");
            self.requests.push(request);
            if !self.take(answer) {
                return;
            }
        }
    }

    fn push(&mut self) {
        while let Some(batches) = self.device.pending_ops() {
            let answer = server_push(&mut self.server, &self.device.user, &batches).expect("a reply");
            self.pushes.push(batches);
            self.take(answer);
        }
    }
}
