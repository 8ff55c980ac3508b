//! Runs the example clients against a throwaway Postgres and checks what both sides hold afterwards: `./dev clients`.
//!
//! The README's tour makes the tables, so what it says is what the clients find.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use sync_tests::build::{library, root};
use sync_tests::compare::{assert_same, assert_verified, server_rows};
use sync_tests::device::rows;
use sync_tests::{Cluster, Database, Device};

/// An example: its name, and how to make its command, or why it cannot run here.
type Client = (&'static str, fn(&Path) -> Result<Command, String>);

const CLIENTS: [Client; 5] = [("shell", shell), ("python", python), ("node", node), ("rust", rust), ("c", c)];

fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = only.iter().find(|name| CLIENTS.iter().all(|(client, _)| client != name)) {
        eprintln!("clients: there is no client {unknown:?}: {}", CLIENTS.map(|(name, _)| name).join(", "));
        std::process::exit(2);
    }
    let cluster = Cluster::start("");
    let made = std::env::temp_dir().join(format!("pg_sync_clients.{}", std::process::id()));
    std::fs::create_dir(&made).expect("a folder for what is compiled");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, command) in CLIENTS.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|o| o == name)) {
        println!("{name}");
        match command(&made).map(|command| run(&cluster, name, command)) {
            Err(why) => {
                println!("    skipped: {why}");
                skipped += 1;
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
fn run(cluster: &Cluster, name: &str, mut command: Command) -> Result<String, String> {
    let db = cluster.database();
    install(&db);
    let device = Device::new("ann");
    let output = command
        .env("SYNC_LIBRARY", library("libsqlite_sync.so"))
        .env("SYNC_DATABASE", device.path())
        .env("SYNC_USER", "ann")
        .env("PGHOST", cluster.socket())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", "todo_server")
        .env("PGDATABASE", db.name())
        .output();
    let said = text(output, name)?;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&db, &device, name, &said))).map_err(|cause| {
        let why = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied()).unwrap_or("?");
        format!("{why}\nit said:\n{said}")
    })?;
    Ok(said)
}

/// The blocks of the README's tour for Postgres; the login exists from the second time on.
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
}

/// What the client must have done, on the server, in its own file, and on another device.
fn check(db: &Database<'_>, device: &Device, name: &str, said: &str) {
    let mut server = db.connect();
    let new = format!("from {name}");
    let tasks = [["Milk", "t"], [new.as_str(), "f"]];
    assert_eq!(server_rows(&mut server, "SELECT body, done FROM task ORDER BY body"), tasks, "on the server");
    let held = [["Milk", "1"], [new.as_str(), "0"]];
    let tasks = "SELECT body, done FROM task ORDER BY body";
    assert_eq!(rows(&device.plain_connection(), tasks), held, "in the client's file");
    assert_eq!(rows(&device.plain_connection(), "SELECT code FROM sync_rejected"), [["23514"]], "what was refused");
    assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0", "what waits");
    assert_verified(device);
    let other = Device::new("ann");
    other.sync(&mut server);
    assert_same(&other, &mut server, "SELECT id, body FROM task");
    let expected = ["[x] Milk", &format!("[ ] {new}"), "refused: 23514"];
    assert!(expected.iter().all(|line| said.contains(line)), "it did not say {expected:?}");
}

fn text(output: std::io::Result<Output>, name: &str) -> Result<String, String> {
    let output = output.map_err(|e| format!("{name} could not be run: {e}"))?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(out.into_owned());
    }
    Err(format!("{name} ended with {}\n{out}{errors}", output.status))
}

fn folder(name: &str) -> PathBuf {
    root().join("examples/clients").join(name)
}

/// Whether a program is there and answers.
fn needs(program: &str, arguments: &[&str], otherwise: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    if output.is_ok_and(|o| o.status.success()) {
        return Ok(());
    }
    Err(otherwise.to_owned())
}

fn shell(_: &Path) -> Result<Command, String> {
    needs("sqlite3", &["--version"], "the program sqlite3 is not installed")?;
    needs("psql", &["--version"], "the program psql is not installed")?;
    let mut command = Command::new("sh");
    command.arg(folder("shell").join("client.sh"));
    Ok(command)
}

fn python(_: &Path) -> Result<Command, String> {
    needs("psql", &["--version"], "the program psql is not installed")?;
    // The first python on PATH may have been built without loadable extensions; Debian's was not.
    let able = ["-c", "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)"];
    let python = ["python3", "/usr/bin/python3"].into_iter().find(|python| needs(python, &able, "").is_ok());
    let mut command = Command::new(python.ok_or("no python3 whose sqlite3 can load extensions is installed")?);
    command.arg(folder("python").join("client.py"));
    Ok(command)
}

/// Packages are looked for in the folder that `./dev clients` installs them to.
fn node(_: &Path) -> Result<Command, String> {
    needs("node", &["--version"], "node is not installed")?;
    let packages = std::env::var_os("SYNC_NODE_PACKAGES").map(PathBuf::from).ok_or("its packages are not installed")?;
    let client = packages.join("client.mjs");
    std::fs::copy(folder("node").join("client.mjs"), &client).map_err(|e| format!("its packages are not installed: {e}"))?;
    let sqlite =
        "const old = Number(process.versions.node.split('.')[0]) < 22; if (old) require('better-sqlite3'); require('pg')";
    let mut probe = Command::new("node");
    let found = probe.current_dir(&packages).args(["-e", sqlite]).output();
    if !found.is_ok_and(|o| o.status.success()) {
        return Err("pg, and for Node before 22.13 better-sqlite3, could not be installed".into());
    }
    let mut command = Command::new("node");
    command.arg(client);
    Ok(command)
}

fn rust(_: &Path) -> Result<Command, String> {
    let program = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("sync-client")));
    let program = program.filter(|path| path.exists()).ok_or("sync-client is not built")?;
    Ok(Command::new(program))
}

fn c(made: &Path) -> Result<Command, String> {
    needs("cc", &["--version"], "no C compiler is installed")?;
    let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    let of = |what: &str| text(Command::new(&pg_config).arg(what).output(), "pg_config").map(|path| path.trim().to_owned());
    let (headers, libraries) = (of("--includedir")?, of("--libdir")?);
    if !Path::new(&headers).join("libpq-fe.h").exists() {
        return Err("the headers of libpq are not installed".into());
    }
    let program = made.join("client");
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(folder("c").join("client.c"));
    compiler
        .args([format!("-I{headers}"), format!("-L{libraries}"), format!("-Wl,-rpath,{libraries}")])
        .args(["-lsqlite3", "-lpq"]);
    text(compiler.output(), "cc")?;
    Ok(Command::new(program))
}
