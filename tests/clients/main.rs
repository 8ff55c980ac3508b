//! Runs the example clients against a throwaway Postgres and checks what both sides hold afterwards: `./dev clients`.
//!
//! The README's tour makes the tables, so what it says is what the clients find. The packages for applications are tested against the same
//! server, by tests of their own.
//!
//! # Layout
//! - [`languages`]: how to make each client's command, or why it cannot run here

mod languages;

use languages::{file, text, Cannot, Client, Expected, CLIENTS};
use serde_json::json;
use std::process::Command;
use sync_tests::build::{library, root};
use sync_tests::compare::{assert_same, assert_verified, server_rows};
use sync_tests::device::rows;
use sync_tests::gateway::Gateway;
use sync_tests::token::{claims, hs256};
use sync_tests::{Cluster, Database, Device};

const ISSUER: &str = "https://issuer.example";
const SECRET: &str = "a secret of at least thirty-two bytes";

/// More lines than this for the part that is sync, and the SQL interface is at fault.
const LINES: usize = 60;

fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = only.iter().find(|name| CLIENTS.iter().all(|client| client.name != *name)) {
        eprintln!("clients: there is no client {unknown:?}: {}", CLIENTS.map(|client| client.name).join(", "));
        std::process::exit(2);
    }
    let cluster = Cluster::start("");
    let made = std::env::temp_dir().join(format!("pg_sync_clients.{}", std::process::id()));
    std::fs::create_dir(&made).expect("a folder for what is compiled");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for client in CLIENTS.iter().filter(|client| only.is_empty() || only.iter().any(|o| o == client.name)) {
        println!("{}", client.name);
        match (client.command)(&made).map(|command| run(&cluster, client, command)) {
            Err(Cannot::Skip(why)) => {
                println!("    skipped: {why}");
                skipped += 1;
            }
            Err(Cannot::Fail(why)) => {
                println!("    FAILED: {why}");
                failed += 1;
            }
            Ok(Ok(said)) => {
                said.lines().for_each(|line| println!("    {line}"));
                passed += 1;
            }
            Ok(Err(why)) => {
                println!("    FAILED: {why}");
                failed += 1;
            }
        }
    }
    let _gone = std::fs::remove_dir_all(&made);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    drop(cluster);
    std::process::exit(i32::from(failed > 0 || passed == 0));
}

/// One client against a database of its own. Answers what it said.
fn run(cluster: &Cluster, client: &Client, mut command: Command) -> Result<String, String> {
    let db = cluster.database();
    install(&db);
    let login = format!("host={} port={} user=todo_server dbname={}", cluster.socket().display(), cluster.port(), db.name());
    let gateway = Gateway::try_start(&login, &[])?;
    let (phone, laptop) = (Device::new("ann"), Device::new("ann"));
    let token = hs256(SECRET, &claims("ann", ISSUER, "todo", json!({ "role": "todo_user" })), json!({ "alg": "HS256" }));
    if let Expected::Tour(_) = client.expected {
        command.args([phone.path(), laptop.path()]);
    }
    let output = command
        .env("SYNC_LIBRARY", library("libsqlite_sync.so"))
        .env("SYNC_URL", format!("http://{}/sync", gateway.address))
        .env("SYNC_TOKEN", token)
        .env("PGHOST", cluster.socket())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", "todo_server")
        .env("PGDATABASE", db.name())
        .output();
    let said = text(output, client.name)?;
    let Expected::Tour(source) = client.expected else { return Ok(said) };
    let (lines, language) = (lines_of_sync(source)?, source.split('/').next().unwrap_or(source));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&db, &phone, language, &said))).map_err(|cause| {
        let why = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied()).unwrap_or("?");
        format!("{why}\nit said:\n{said}")
    })?;
    Ok(format!("{said}sync takes {lines} lines"))
}

/// How many lines the client's part is that is sync, between two comments that say so; empty ones do not count.
fn lines_of_sync(source: &str) -> Result<usize, String> {
    let text = std::fs::read_to_string(file(source)).map_err(|e| format!("{source}: {e}"))?;
    let part = text.split_once("sync: begin").and_then(|(_, rest)| rest.split_once("sync: end"));
    let (part, _) = part.ok_or(format!("{source} does not say where the part that is sync begins and ends"))?;
    let lines = part.lines().skip(1).filter(|line| !line.trim().is_empty()).count() - 1;
    if lines > LINES {
        return Err(format!("the part that is sync takes {lines} lines, more than {LINES}: what is missing in SQL?"));
    }
    Ok(lines)
}

/// The blocks of the README's tour for Postgres, and the key that tokens are signed with; the roles exist from the second time on.
fn install(db: &Database<'_>) {
    db.run("DROP EXTENSION pg_sync; DROP ROLE IF EXISTS todo_server");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let blocks = readme.split("```sql\n-- Postgres\n").skip(1).filter_map(|block| block.split("```").next());
    for block in blocks {
        let again =
            db.connect().query("SELECT FROM pg_roles WHERE rolname = 'todo_user'", &[]).is_ok_and(|rows| !rows.is_empty());
        let block = if again { block.replace("CREATE ROLE todo_user NOLOGIN;", "") } else { block.to_owned() };
        db.run(&block);
    }
    db.run(&format!("SELECT sync.add_auth_key('{SECRET}', 'HS256', issuer => '{ISSUER}', audience => 'todo')"));
}

/// What the client must have done, on the server, in its own file, and on another device.
fn check(db: &Database<'_>, phone: &Device, name: &str, said: &str) {
    let mut server = db.connect();
    let (new, live) = (format!("from {name}"), format!("live from {name}"));
    let tasks = "SELECT body, CAST(done AS integer) FROM task ORDER BY body";
    let held = [["Milk, 2 l", "1"], [new.as_str(), "0"], [live.as_str(), "0"]];
    assert_eq!(server_rows(&mut server, tasks), held, "on the server");
    assert_eq!(rows(&phone.plain_connection(), tasks), held, "in the phone's file");
    assert_eq!(rows(&phone.plain_connection(), "SELECT code FROM sync_rejected"), [["23514"]], "what was refused");
    let conflicts = "SELECT column_name, base, mine, theirs, result FROM sync_conflicts";
    assert_eq!(
        rows(&phone.plain_connection(), conflicts),
        [["body", "Milk", "Oat milk", "Milk, 2 l", "Milk, 2 l"]],
        "the conflict"
    );
    assert_eq!(phone.value("SELECT count(*) FROM sync_pending"), "0", "what waits");
    assert_verified(phone);
    let other = Device::new("ann");
    other.sync(&mut server);
    assert_same(&other, &mut server, "SELECT id, body FROM task");
    let parts: Vec<&str> = said.split('\n').filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(parts, ["after the first sync", "offline", "online again", "live", ""], "what it did");
    let expected = [
        "[ ] Milk",
        "[x] Oat milk",
        "[x] Milk, 2 l",
        &format!("[ ] {new}"),
        &format!("[ ] {live}"),
        "conflict: body was Milk, here Oat milk, elsewhere Milk, 2 l: ",
        "refused: 23514",
    ];
    let silent: Vec<_> = expected.into_iter().filter(|line| !said.contains(line)).collect();
    assert!(silent.is_empty(), "it did not say {silent:?}");
}
