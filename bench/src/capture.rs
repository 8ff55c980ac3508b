//! What capture costs a writer: bulk statements, and single rows under pgbench.

use crate::report::{Goal, Report, Unit};
use crate::server::{self, Session};
use crate::slot;
use crate::stats::{interleave, Rounds, Run, Sample, Spread};
use crate::Size;
use std::cell::RefCell;
use std::process::Command;
use sync_tests::{Cluster, Database};

const OWNERS: usize = 100;
const PLAIN: &str = "plain";
const OURS: &str = "pg_sync";
const PLPGSQL: &str = "PL/pgSQL";
/// The same with a trigger that fires for each row.
const PLPGSQL_ROW: &str = "PL/pgSQL by row";
/// pg_sync with `sync.keep_history` for both tables.
const HISTORY: &str = "pg_sync with history";

/// Two tables in a database: one with only a primary key, one with two more indexes and a foreign key.
fn tables(rows: usize) -> String {
    format!(
        "CREATE TABLE owner (id uuid PRIMARY KEY);
         INSERT INTO owner SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid FROM generate_series(0, {OWNERS}) n;
         CREATE TABLE slim ({columns});
         CREATE TABLE wide ({columns});
         CREATE INDEX ON wide (owner_id, id);
         CREATE INDEX ON wide (updated_at);
         ALTER TABLE wide ADD FOREIGN KEY (owner_id) REFERENCES owner;
         CREATE TABLE source AS {source};
         VACUUM ANALYZE",
        columns = server::COLUMNS,
        source = server::rows(rows, 0, OWNERS),
    )
}

/// As somebody would write it who has no extension: a statement trigger that logs what `sync.op` holds, in its order, with its
/// index. Its hash is Postgres's own, which is cheaper than one that a device can compute as well.
const PLPGSQL_CAPTURE: &str = r"
    CREATE TABLE log (bucket uuid NOT NULL, xid xid8 NOT NULL, hash bigint NOT NULL, at bigint NOT NULL, changed bigint NOT NULL,
        op_id integer NOT NULL, entry integer NOT NULL, n smallint NOT NULL, key bytea NOT NULL);
    CREATE INDEX ON log (bucket, xid, op_id);
    CREATE FUNCTION capture() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        t bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO log SELECT owner_id, pg_current_xact_id(), hashtextextended(r::text, 0), t, -1, row_number() OVER (), 1, 1,
                uuid_send(id) FROM new_rows r;
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO log SELECT owner_id, pg_current_xact_id(), -hashtextextended(r::text, 0), t, -1, row_number() OVER (), 1, -1,
                uuid_send(id) FROM old_rows r;
        ELSE
            INSERT INTO log SELECT n.owner_id, pg_current_xact_id(),
                (hashtextextended(n::text, 0)::numeric - hashtextextended(o::text, 0)) / 2, t, 1, row_number() OVER (), 1, 0,
                uuid_send(n.id) FROM new_rows n JOIN old_rows o USING (id);
        END IF;
        RETURN NULL;
    END
    $$;
";

/// The same for one row at a time: what most hand-written change logs are.
const PLPGSQL_ROW_CAPTURE: &str = r"
    CREATE FUNCTION capture_row() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        t bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO log VALUES (NEW.owner_id, pg_current_xact_id(), hashtextextended(NEW::text, 0), t, -1, 1, 1, 1, uuid_send(NEW.id));
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO log VALUES (OLD.owner_id, pg_current_xact_id(), -hashtextextended(OLD::text, 0), t, -1, 1, 1, -1, uuid_send(OLD.id));
        ELSE
            INSERT INTO log VALUES (NEW.owner_id, pg_current_xact_id(),
                (hashtextextended(NEW::text, 0)::numeric - hashtextextended(OLD::text, 0)) / 2, t, 1, 1, 1, 0, uuid_send(NEW.id));
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER r AFTER INSERT OR UPDATE OR DELETE ON slim FOR EACH ROW EXECUTE FUNCTION capture_row();
";

fn prepare(name: &str, session: &mut Session, rows: usize) {
    for statement in tables(rows).split_inclusive(';') {
        session.run(statement);
    }
    match name {
        OURS | HISTORY => {
            session.run("SELECT sync.create_bucket('owner', members => 'SELECT id FROM owner')");
            for table in ["slim", "wide"] {
                session.run(&format!("SELECT sync.add_table('owner', '{table}', key => 'owner_id')"));
            }
            session.run("SELECT sync.maintain()");
            if name == HISTORY {
                session.run("SELECT sync.keep_history('slim'); SELECT sync.keep_history('wide')");
            }
        }
        PLPGSQL_ROW => {
            session.run(PLPGSQL_CAPTURE);
            session.run(PLPGSQL_ROW_CAPTURE);
        }
        PLPGSQL => {
            session.run(PLPGSQL_CAPTURE);
            for table in ["slim", "wide"] {
                session.run(&format!(
                    "CREATE TRIGGER i AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION capture();
                     CREATE TRIGGER d AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows EXECUTE FUNCTION capture();
                     CREATE TRIGGER u AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                         EXECUTE FUNCTION capture();"
                ));
            }
        }
        _ => {}
    }
}

/// The log table of a contender.
fn log(name: &str) -> Option<&'static str> {
    match name {
        OURS => Some("sync.op"),
        HISTORY => Some("sync.version"),
        PLPGSQL | PLPGSQL_ROW => Some("log"),
        _ => None,
    }
}

/// Empties a table and the log, and writes out what is dirty.
fn clear(name: &str, session: &mut Session, table: &str) {
    session.run(&format!("TRUNCATE {table}"));
    if let Some(log) = log(name) {
        session.run(&format!("TRUNCATE {log}"));
    }
    if name == HISTORY {
        session.run("TRUNCATE sync.op");
    }
    session.run("CHECKPOINT");
}

/// One contender's round: everything inserted, one column of everything updated, everything deleted.
fn bulk(name: &str, session: &mut Session, table: &str, rows: usize) -> Sample {
    let mut sample = Sample::default();
    clear(name, session, table);
    let statements = [
        (format!("INSERT INTO {table} SELECT * FROM source"), ["insert", "insert cpu", "insert wal"]),
        (format!("UPDATE {table} SET rank = rank + 1"), ["update", "update cpu", "update wal"]),
        (format!("DELETE FROM {table}"), ["delete", "delete cpu", "delete wal"]),
    ];
    for (sql, [wall, cpu, wal]) in statements {
        let before = session.wal();
        let took = session.time(&sql);
        sample.put(wall, took.wall);
        sample.put(cpu, took.cpu);
        sample.put(wal, (session.wal() - before) / rows as f64);
        if let (Some(log), "insert") = (log(name), wall) {
            sample.put("log heap", session.number(&format!("pg_relation_size('{log}')")) / rows as f64);
            sample.put("log index", session.number(&format!("pg_indexes_size('{log}')")) / rows as f64);
        }
    }
    clear(name, session, table);
    sample
}

struct Contender<'a> {
    name: &'static str,
    database: &'a Database<'a>,
    session: RefCell<Session>,
}

/// Runs everything about capture.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    let databases: Vec<_> =
        [PLAIN, OURS, PLPGSQL, PLPGSQL_ROW, HISTORY].map(|name| (name, cluster.database())).into_iter().collect();
    let contenders: Vec<_> = databases
        .iter()
        .map(|(name, database)| {
            let mut session = Session::new(database.connect());
            prepare(name, &mut session, size.rows);
            Contender { name, database, session: RefCell::new(session) }
        })
        .collect();
    for (table, about, goals) in [
        ("slim", "only a primary key", [Goal::AtMost(1.8), Goal::AtMost(1.6), Goal::AtMost(1.9)]),
        ("wide", "two more indexes and a foreign key", [Goal::AtMost(1.5), Goal::None, Goal::None]),
    ] {
        report.section(
            if table == "slim" { "capture" } else { "capture-wide" },
            &format!("Capture, bulk: a table with {about}"),
            &format!(
                "{} rows of 117 bytes of values for {OWNERS} owners, `INSERT ... SELECT`, `UPDATE` of one column of all rows, `DELETE` \
                 of all, each one transaction, in databases of one server: without capture, with a rule of pg_sync (one bucket \
                 per owner), with statement triggers in PL/pgSQL that log the same facts{}, and with a rule and `sync.keep_history`, which also \
                 keeps what each row was.{} Ratios are of times.",
                size.rows,
                if table == "slim" { " (by row: triggers for each row)" } else { "" },
                if table == "slim" {
                    " A logical slot, on a server of its own with `wal_level = logical` beside a plain table there: what is written, and \
                     then read through `pgoutput`, since what nobody reads keeps its WAL for ever; nobody has sorted it into buckets yet."
                } else {
                    ""
                }
            ),
        );
        let runs = contenders.iter().filter(|c| table == "slim" || c.name != PLPGSQL_ROW).map(|c| {
            let run: Run<'_> = Box::new(|| bulk(c.name, &mut c.session.borrow_mut(), table, size.rows));
            (c.name, run)
        });
        let rounds = interleave(size.rounds, runs.collect());
        bulk_lines(&rounds, goals, size, report);
        if table == "slim" {
            for kind in ["insert", "update", "delete"] {
                let ratio = rounds.ratio(PLPGSQL_ROW, PLAIN, kind);
                report.line(&format!("{kind}, {PLPGSQL_ROW} over plain"), Unit::Times, Goal::None, ratio);
            }
            slot::lines(size, report);
        }
    }
    single(&contenders, size, report);
}

fn bulk_lines(rounds: &Rounds, goals: [Goal; 3], size: &Size, report: &mut Report) {
    for (kind, cpu, goal) in
        [("insert", "insert cpu", goals[0]), ("update", "update cpu", goals[1]), ("delete", "delete cpu", goals[2])]
    {
        report.line(&format!("{kind}, plain"), Unit::Of("rows/s"), Goal::None, rate(rounds, PLAIN, kind, size.rows));
        report.line(&format!("{kind}, pg_sync over plain"), Unit::Times, goal, rounds.ratio(OURS, PLAIN, kind));
        report.line(
            &format!("{kind}, pg_sync over plain, processor time"),
            Unit::Times,
            Goal::None,
            rounds.ratio(OURS, PLAIN, cpu),
        );
        report.line(&format!("{kind}, PL/pgSQL over plain"), Unit::Times, Goal::None, rounds.ratio(PLPGSQL, PLAIN, kind));
        report.line(
            &format!("{kind}, pg_sync with history over plain"),
            Unit::Times,
            Goal::None,
            rounds.ratio(HISTORY, PLAIN, kind),
        );
        report.line(
            &format!("{kind}, pg_sync with history over pg_sync"),
            Unit::Times,
            Goal::None,
            rounds.ratio(HISTORY, OURS, kind),
        );
    }
    for wal in ["insert wal", "update wal", "delete wal"] {
        let what = wal.replace(" wal", "");
        report.line(&format!("WAL per row, {what}, plain"), Unit::Of("B"), Goal::None, rounds.values(PLAIN, wal));
        report.line(
            &format!("WAL per row, {what}, pg_sync over plain"),
            Unit::Times,
            Goal::AtMost(1.6),
            rounds.ratio(OURS, PLAIN, wal),
        );
        report.line(
            &format!("WAL per row, {what}, PL/pgSQL over plain"),
            Unit::Times,
            Goal::None,
            rounds.ratio(PLPGSQL, PLAIN, wal),
        );
    }
    for (name, goal) in [(OURS, Goal::AtMost(110.0)), (PLPGSQL, Goal::None), (HISTORY, Goal::None)] {
        let (heap, index) = (rounds.values(name, "log heap"), rounds.values(name, "log index"));
        let both = Spread(heap.0.iter().zip(&index.0).map(|(heap, index)| heap + index).collect());
        report.line(&format!("log per op, heap and index, {name}"), Unit::Of("B"), goal, both);
        report.line(&format!("log per op, index alone, {name}"), Unit::Of("B"), Goal::None, index);
    }
}

fn rate(rounds: &Rounds, name: &str, kind: &str, rows: usize) -> Spread {
    Spread(rounds.values(name, kind).0.iter().map(|seconds| rows as f64 / seconds).collect())
}

/// One row a transaction.
fn single(contenders: &[Contender<'_>], size: &Size, report: &mut Report) {
    let pgbench = pgbench();
    report.section(
        "single",
        "Capture, one row a transaction",
        &format!(
            "pgbench, prepared statements, {} s a round and contender: `INSERT` of one row with a random key into the table with only a \
             primary key. Ratios are of transactions per second.",
            size.seconds
        ),
    );
    if pgbench.is_none() {
        return report.skip("single-row transactions", "pgbench is not there");
    }
    let program = pgbench.unwrap_or_default();
    for (about, clients, owners, commit, goal) in [
        ("4 clients, synchronous_commit on", 4, OWNERS, "on", Goal::AtLeast(0.92)),
        ("4 clients, synchronous_commit off", 4, OWNERS, "off", Goal::AtLeast(0.85)),
        ("64 clients into one bucket, synchronous_commit on", 64, 1, "on", Goal::AtLeast(0.85)),
        ("64 clients into one bucket, synchronous_commit off", 64, 1, "off", Goal::AtLeast(0.85)),
    ] {
        let program = &program;
        let runs = contenders.iter().filter(|c| c.name != PLPGSQL_ROW).map(|c| {
            let run: Run<'_> = Box::new(move || {
                clear(c.name, &mut c.session.borrow_mut(), "slim");
                Sample(vec![("tps", transactions(program, c.database, clients, owners, commit, size.seconds))])
            });
            (c.name, run)
        });
        let rounds = interleave(size.rounds, runs.collect());
        report.line(&format!("{about}, plain"), Unit::Of("tps"), Goal::None, rounds.values(PLAIN, "tps"));
        report.line(&format!("{about}, pg_sync over plain"), Unit::Times, goal, rounds.ratio(OURS, PLAIN, "tps"));
        report.line(&format!("{about}, PL/pgSQL over plain"), Unit::Times, Goal::None, rounds.ratio(PLPGSQL, PLAIN, "tps"));
        let history = rounds.ratio(HISTORY, PLAIN, "tps");
        report.line(&format!("{about}, pg_sync with history over plain"), Unit::Times, Goal::None, history);
    }
}

fn pgbench() -> Option<std::path::PathBuf> {
    let config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
    let output = Command::new(config).arg("--bindir").output().ok()?;
    let path = std::path::PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("pgbench");
    path.exists().then_some(path)
}

fn transactions(
    program: &std::path::Path,
    database: &Database<'_>,
    clients: usize,
    owners: usize,
    commit: &str,
    seconds: usize,
) -> f64 {
    let script = std::env::temp_dir().join(format!("pg_sync_bench.{}.sql", std::process::id()));
    let sql = format!(
        "\\set owner random(0, {})\n\\set n random(1, 9999999)\n\
         INSERT INTO slim VALUES (gen_random_uuid(), ('00000000-0000-4000-8000-' || lpad(to_hex(:owner::int), 12, '0'))::uuid, \
         'note ' || lpad(:n::text, 7, '0') || ' of a list', 'what it says:' || 'c4ca4238a0b923820dcc' || ' and a little more', :n::int, now());\n",
        owners - 1
    );
    std::fs::write(&script, sql).expect("a script for pgbench is written");
    let output = Command::new(program)
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--username=postgres"])
        .arg(format!("--client={clients}"))
        .arg(format!("--time={seconds}"))
        .arg(format!("--file={}", script.display()))
        .arg(format!("--host={}", database.cluster().socket().display()))
        .arg(format!("--port={}", database.cluster().port()))
        .arg(database.name())
        .env("PGOPTIONS", format!("-c synchronous_commit={commit}"))
        .output()
        .expect("pgbench runs");
    let _ = std::fs::remove_file(script);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("tps = "));
    let tps = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    tps.unwrap_or_else(|| panic!("pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
