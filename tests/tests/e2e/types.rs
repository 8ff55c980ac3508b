//! Every type that travels: what a device stores, that it hashes alike whoever wrote it under whatever settings, and that
//! the device's own write of the same value arrives as the same value.

use sync_tests::compare::{assert_verified, server_rows};
use sync_tests::{Cluster, Database, Device};

/// A type, and literals of it with what a device stores.
type Case = (&'static str, &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("boolean", &[("true", "1"), ("false", "0")]),
    ("smallint", &[("32767", "32767"), ("-32768", "-32768"), ("0", "0")]),
    ("integer", &[("2147483647", "2147483647"), ("-2147483648", "-2147483648")]),
    ("bigint", &[("9223372036854775807", "9223372036854775807"), ("-9223372036854775808", "-9223372036854775808")]),
    ("oid", &[("4294967295", "4294967295"), ("0", "0")]),
    ("real", &[("1.5", "1.5"), ("'NaN'", "NaN"), ("'Infinity'", "inf"), ("'-0.0'", "0.0"), ("0.1", "0.10000000149011612")]),
    (
        "double precision",
        &[
            ("0.1", "0.1"),
            ("'NaN'", "NaN"),
            ("'Infinity'", "inf"),
            ("'-Infinity'", "-inf"),
            ("'-0.0'", "0.0"),
            ("1e300", "1e300"),
            ("4.9e-324", "5e-324"),
            ("3", "3.0"),
            ("9007199254740993", "9007199254740992.0"),
        ],
    ),
    (
        "numeric",
        &[
            ("1234567890123456789012345678901234567890.0123456789", "1234567890123456789012345678901234567890.0123456789"),
            ("1.0", "1.0"),
            ("1", "1"),
            ("1.50", "1.50"),
            ("'NaN'", "NaN"),
            ("'Infinity'", "Infinity"),
            ("-0.000", "0.000"),
        ],
    ),
    ("numeric(10,2)", &[("1", "1.00"), ("-12345678.9", "-12345678.90")]),
    ("uuid", &[("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]),
    (
        "text",
        &[
            ("''", ""),
            ("'é 漢字 🙂'", "é 漢字 🙂"),
            ("E'quote '' \" back\\\\slash\\nnew line\\ttab'", "quote ' \" back\\slash\nnew line\ttab"),
        ],
    ),
    ("varchar(10)", &[("'abc  '", "abc  ")]),
    ("char(5)", &[("'ab'", "ab   ")]),
    ("mood", &[("'happy'", "happy"), ("'it''s ok'", "it's ok")]),
    ("short_text", &[("'abc'", "abc")]),
    ("positive", &[("7", "7")]),
    ("bytea", &[("''", "\\x"), ("'\\x00ff10'", "\\x00ff10")]),
    (
        "timestamptz",
        &[
            ("'2024-02-29 12:34:56.789+02'", "2024-02-29T10:34:56.789000Z"),
            ("'1999-12-31 23:59:59.999999-11:30'", "2000-01-01T11:29:59.999999Z"),
            ("'0044-03-15 12:00:00+00 BC'", ""),
            ("'infinity'", ""),
            ("'-infinity'", ""),
            ("'294276-12-31 23:59:59.999999+00'", ""),
        ],
    ),
    (
        "timestamp",
        &[("'2024-02-29 12:34:56'", "2024-02-29T12:34:56.000000"), ("'0044-03-15 12:00:00 BC'", ""), ("'infinity'", "")],
    ),
    ("date", &[("'2024-02-29'", "2024-02-29"), ("'0044-03-15 BC'", ""), ("'infinity'", ""), ("'5874897-12-31'", "")]),
    ("time", &[("'12:34:56.789'", ""), ("'24:00:00'", "")]),
    ("timetz", &[("'12:34:56.789+05:30'", "")]),
    ("interval", &[("'1 year 2 mons -3 days 04:05:06.789'", ""), ("'-1 day +02:03'", ""), ("'0'", "")]),
    ("money", &[("'-1234.56'", "")]),
    ("json", &[("'{\"b\": 1,  \"a\": [1.10, null]}'", ""), ("'null'", "null")]),
    ("jsonb", &[("'{\"b\": 12345678901234567890.10, \"a\": \"é\\\\u0041\"}'", ""), ("'null'", "null"), ("'[]'", "[]")]),
    (
        "integer[]",
        &[
            ("'{}'", ""),
            ("'{1,NULL,3}'", ""),
            ("'{{1,2},{3,4}}'", ""),
            ("'[2:3]={7,8}'", "[2:3]={7,8}"),
            ("'[0:0][-1:0]={{1,NULL}}'", "[0:0][-1:0]={{1,NULL}}"),
        ],
    ),
    ("text[]", &[("ARRAY['a,b', 'c\"d', '', NULL, 'NULL', E'new\\nline', 'é']", "")]),
    (
        "timestamptz[]",
        &[("ARRAY['2024-02-29 12:34:56+02'::timestamptz, NULL, 'infinity']", ""), ("'[5:5]={2024-02-29 12:34:56+02}'", "")],
    ),
    ("double precision[]", &[("'{0.1,NaN,-Infinity,1e300}'", "")]),
    ("bytea[]", &[("ARRAY['\\x00ff'::bytea, '']", "")]),
    ("mood[]", &[("'{happy,NULL}'", "")]),
    ("pair", &[("ROW(1, 'a,\"b')", ""), ("ROW(NULL, NULL)", "")]),
    ("stamped", &[("ROW('2024-02-29 12:34:56+02', '1 day 02:00')", "")]),
    ("int4range", &[("'[1,10)'", "[1,10)"), ("'empty'", "empty"), ("'(,5]'", "(,6)")]),
    ("tstzrange", &[("'[2024-02-29 12:00+02,2024-03-01 00:00+00)'", ""), ("'(,)'", "")]),
    ("int4multirange", &[("'{[1,3),[5,9)}'", "")]),
    ("inet", &[("'192.168.0.1/24'", "192.168.0.1/24"), ("'::1'", "::1")]),
    ("cidr", &[("'10.0.0.0/8'", "10.0.0.0/8")]),
    ("macaddr", &[("'08:00:2b:01:02:03'", "08:00:2b:01:02:03")]),
    ("bit(3)", &[("B'101'", "101")]),
    ("varbit", &[("B''", ""), ("B'0110'", "0110")]),
    ("tsvector", &[("to_tsvector('simple', 'The fat cat''s hat')", "")]),
    ("tsquery", &[("'fat & (cat | !rat)'", "")]),
    ("point", &[("'(0.1,-2)'", "(0.1,-2)")]),
    ("polygon", &[("'((0,0),(1,0.1),(1,1))'", "")]),
    ("pg_lsn", &[("'16/B374D848'", "16/B374D848")]),
];

/// What only a server has that was built with libxml.
const XML: &[Case] = &[("xml", &[("'<a b=\"c\">d</a>'", "<a b=\"c\">d</a>")])];

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('happy', 'it''s ok');
    CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 5);
    CREATE DOMAIN positive AS bigint CHECK (VALUE > 0);
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE stamped AS (at timestamptz, during interval);
";

/// Settings of the writing session, each of which changes how Postgres prints something.
const SETTINGS: &[&str] = &[
    "SELECT 1",
    "SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'postgres_verbose'",
    "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'",
    "SET TimeZone = '+03'; SET DateStyle = 'Postgres, MDY'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 0",
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET extra_float_digits = -15; SET lc_monetary = 'C'; SET xmloption = 'document'",
];

/// One table with a column per type and a row per literal, under one setting after the other.
fn fill(db: &Database<'_>, cases: &[Case]) {
    db.run(TYPES);
    let columns: Vec<_> = cases.iter().enumerate().map(|(i, (name, _))| format!("c{i} {name}")).collect();
    db.run(&format!("CREATE TABLE every_type (id int PRIMARY KEY, {})", columns.join(", ")));
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'every_type')");
    for (s, settings) in SETTINGS.iter().enumerate() {
        let mut session = db.connect();
        session.batch_execute(settings).expect("settings");
        for (i, (name, literals)) in cases.iter().enumerate() {
            for (l, (literal, _)) in literals.iter().enumerate() {
                let sql = format!("INSERT INTO every_type (id, c{i}) VALUES ({}, ({literal})::{name})", id(s, i, l));
                session.batch_execute(&sql).unwrap_or_else(|e| panic!("{} in {sql}", sync_tests::cluster::describe(&e)));
            }
        }
    }
}

/// The key of the row that holds a literal of a type, written under a setting.
fn id(setting: usize, case: usize, literal: usize) -> usize {
    setting * 10_000 + case * 100 + literal
}

#[test]
fn every_value_is_stored_as_the_table_of_types_says_whoever_wrote_it() {
    assert_stored_as_expected(&Cluster::shared().database(), CASES);
}

#[test]
fn xml_is_stored_as_the_table_of_types_says_whoever_wrote_it() {
    let db = Cluster::shared().database();
    if has_xml(&db) {
        assert_stored_as_expected(&db, XML);
    }
}

/// False on a server without libxml, where the test is skipped.
fn has_xml(db: &Database<'_>) -> bool {
    let refused = db.try_run("SELECT '<a/>'::xml");
    match &refused {
        Err(message) if message.starts_with("0A000") => sync_tests::skipped("the server was built without libxml"),
        other => assert_eq!(*other, Ok(())),
    }
    refused.is_ok()
}

fn assert_stored_as_expected(db: &Database<'_>, cases: &[Case]) {
    fill(db, cases);
    let device = Device::new("ann");
    device.sync(&mut db.connect());
    let mut wrong = Vec::new();
    for (i, (name, literals)) in cases.iter().enumerate() {
        for (l, (literal, expected)) in literals.iter().enumerate() {
            let stored = |s| device.rows(&format!("SELECT c{i}, typeof(c{i}) FROM every_type WHERE id = {}", id(s, i, l)));
            let first = stored(0);
            if !expected.is_empty() && first.first().is_none_or(|row| row[0] != *expected) {
                wrong.push(format!("{name} {literal}: stored as {first:?}, expected {expected}"));
            }
            for (s, settings) in SETTINGS.iter().enumerate().skip(1) {
                if stored(s) != first {
                    wrong.push(format!("{name} {literal}: {:?} under {settings}, {first:?} otherwise", stored(s)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_verified(&device);
}

#[test]
fn every_value_that_a_device_writes_back_is_the_same_value_on_the_server() {
    assert_comes_back(&Cluster::shared().database(), CASES);
}

#[test]
fn xml_that_a_device_writes_back_is_the_same_value_on_the_server() {
    let db = Cluster::shared().database();
    if has_xml(&db) {
        assert_comes_back(&db, XML);
    }
}

fn assert_comes_back(db: &Database<'_>, cases: &[Case]) {
    fill(db, cases);
    let mut server = db.connect();
    let device = Device::new("ann");
    device.sync(&mut server);
    let columns: Vec<_> = (0..cases.len()).map(|i| format!("c{i}")).collect();
    let columns = columns.join(", ");
    device.run(&format!("INSERT INTO every_type (id, {columns}) SELECT id + 1000000, {columns} FROM every_type"));
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT code, message FROM sync_rejected"), Vec::<Vec<String>>::new());
    let mut wrong = Vec::new();
    for (i, (name, literals)) in cases.iter().enumerate() {
        for (l, (literal, _)) in literals.iter().enumerate() {
            let text = |id| server_rows(&mut db.connect(), &format!("SELECT c{i}::text FROM every_type WHERE id = {id}"));
            let (was, is) = (text(id(0, i, l)), text(id(0, i, l) + 1_000_000));
            let same_up_to_sign_of_zero = was.iter().flatten().all(|t| t == "-0") && is.iter().flatten().all(|t| t == "0");
            if was != is && !same_up_to_sign_of_zero {
                wrong.push(format!("{name} {literal}: {was:?} came back as {is:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_verified(&device);
}

/// What renders a type's values may keep state, which must live as long as the query that is used for one bucket after the other.
#[test]
fn values_of_types_with_state_come_of_many_buckets_and_of_pulls_one_after_the_other() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TYPE pair AS (a int, b text);
         CREATE TABLE stateful (id int PRIMARY KEY, k int NOT NULL, list int[], names text[], pair pair, span int4range, spans int4multirange);
         CREATE INDEX ON stateful (k, id);
         SELECT sync.create_bucket('k', members => 'SELECT generate_series(1, 40)');
         SELECT sync.add_table('k', 'stateful', key => 'k');
         INSERT INTO stateful SELECT i, 1 + i % 40, ARRAY[i, i + 1], ARRAY['a' || i, NULL], ROW(i, 'b' || i)::pair, int4range(i, i + 3), int4multirange(int4range(i, i + 2))
         FROM generate_series(1, 400) i",
    );
    // One backend: its second pull finds the queries prepared.
    let mut server = db.connect();
    for user in ["ann", "ben", "cleo"] {
        let device = Device::new(user);
        device.sync(&mut server);
        assert_verified(&device);
        let told = "SELECT id, list, names, pair, span, spans FROM stateful ORDER BY id";
        let sent = server_rows(
            &mut server,
            "SELECT id, to_json(list)::text, to_json(names)::text, to_json(pair)::text, span::text, spans::text FROM stateful ORDER BY id",
        );
        assert_eq!(device.rows(told), sent, "{user}");
        server.batch_execute("UPDATE stateful SET list = list || 7, pair = ROW(0, 'changed by ' || k)::pair").expect("an update");
        device.sync(&mut server);
        assert_verified(&device);
        assert_eq!(device.rows("SELECT count(*) FROM stateful WHERE list LIKE '%7]'"), [["400"]]);
    }
}

#[test]
fn a_text_of_a_megabyte_and_a_blob_of_two() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE large (id int PRIMARY KEY, t text, b bytea)");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'large')");
    db.run("INSERT INTO large SELECT i, repeat('é' || i, 350000), decode(repeat('00ff', 1000000), 'hex') FROM generate_series(1, 5) i");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT id, length(t), length(b) FROM large").len(), 5);
    assert_verified(&device);
    device.run("INSERT INTO large SELECT id + 10, t, b FROM large WHERE id = 1");
    device.sync(&mut server);
    let same = "SELECT a.t = b.t AND a.b = b.b FROM large a, large b WHERE a.id = 1 AND b.id = 11";
    assert_eq!(server_rows(&mut server, same), [["t"]]);
}

#[test]
fn a_value_that_the_column_cannot_hold_is_refused_with_the_columns_name() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE strict (id int PRIMARY KEY, amount int, at timestamptz, body text)");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'strict')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    for (id, column, value) in
        [(1, "amount", "'many'"), (2, "at", "'yesterday-ish'"), (3, "amount", "99999999999"), (4, "body", "x'ff00'")]
    {
        device.run(&format!("INSERT INTO strict (id, {column}) VALUES ({id}, {value})"));
        device.sync(&mut server);
        let rejected = device.rows("SELECT message, subject FROM sync_rejected");
        assert_eq!(rejected.len(), id, "after {column} = {value}: {rejected:?}");
        let named = rejected.iter().filter(|row| row.iter().any(|text| text.contains(column))).count();
        assert!(named > 0, "no message names {column}: {rejected:?}");
    }
    device.run("INSERT INTO strict VALUES (9, 1, '2024-01-01', 'good')");
    device.sync(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT id, at FROM strict"), [["9", "2024-01-01 00:00:00+00"]]);
    assert_eq!(device.rows("SELECT id FROM strict"), [["9"]]);
}
