//! Other systems on the device: what installs from package registries, each driven by `peers/peers.py` through one driver, in
//! turns with plain tables and with ours.

use crate::plain;
use crate::report::{Goal, Report, Unit};
use crate::stats::{interleave, Run, Sample, Spread};
use crate::transport::{world, Transport};
use crate::Size;
use rusqlite::types::Value;
use serde_json::json;
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use sync_tests::{build, Cluster, Device};

const APSW: &str = "apsw==3.54.1.0";
const POWERSYNC: &str = "@powersync/node@1.1.0";
const SQLITE_SYNC: &str = "@sqliteai/sqlite-sync-linux-x86_64@1.1.4";

/// The Python function, what it is called in the table, its library.
struct Contender {
    function: &'static str,
    title: &'static str,
    library: PathBuf,
}

/// Runs the comparison.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "peers",
        "Peers on the device",
        &format!(
            "The same {} rows for all, each contender in a process and files of its own, through one driver (PyPI {APSW} with the SQLite \
             inside it), WAL mode, synchronous=NORMAL: `bench/peers/peers.py` is the whole driver. Plain: one `executemany` of upserts. \
             pg_sync: the client loop of README against a server. PowerSync ({POWERSYNC}, its core extension): sync lines of 1,000 \
             operations, one transaction a line as its SDKs do, and all in one transaction. sqlite-sync ({SQLITE_SYNC}): one payload. \
             Session: SQLite's own extension, a changeset applied. Making what is sent is not counted for any; the rows are compared at \
             the end. Local: one transaction of inserts with capture on, for the session with its changeset. Ratios are over plain, of \
             times or bytes; a table with only a primary key.",
            size.peer_rows
        ),
    );
    let python = match install_driver() {
        Ok(python) => python,
        Err(reason) => return report.skip("peers", &reason),
    };
    let (database, _session) = world(cluster, &[("reader", 1, 1, size.peer_rows), ("writer", 2, 1, 0)], false);
    let transport = RefCell::new(Transport::new(&database));
    let device = Device::new("reader");
    transport.borrow_mut().sync(&device);
    let work = std::env::temp_dir().join(format!("pg_sync_peers.{}", std::process::id()));
    std::fs::create_dir_all(&work).expect("a folder is created");
    std::fs::write(work.join("rows.json"), rows_as_json(&device)).expect("rows are written");

    let ours = build::library("libsqlite_sync.so");
    let mut contenders = vec![
        Contender { function: "plain", title: "plain", library: PathBuf::new() },
        Contender { function: "pg_sync", title: "pg_sync", library: std::fs::canonicalize(ours).expect("our library is there") },
        Contender { function: "session", title: "session extension", library: PathBuf::new() },
    ];
    match install_package(POWERSYNC, "@powersync/node/lib/libpowersync_x64.linux.so") {
        Ok(library) => contenders.extend([
            Contender { function: "powersync", title: "PowerSync, a transaction a line", library: library.clone() },
            Contender { function: "powersync_at_once", title: "PowerSync, one transaction", library },
        ]),
        Err(reason) => report.skip("PowerSync", &reason),
    }
    match install_package(SQLITE_SYNC, "@sqliteai/sqlite-sync-linux-x86_64/cloudsync.so") {
        Ok(library) => contenders.push(Contender { function: "sqlite_sync", title: "sqlite-sync", library }),
        Err(reason) => report.skip("sqlite-sync", &reason),
    }
    // One try each, so that a peer that does not work here is skipped and said so.
    contenders.retain(|c| match once(&python, c, &work, &transport) {
        Ok(_) => true,
        Err(reason) if c.function == "plain" || c.function == "pg_sync" => panic!("{}: {reason}", c.title),
        Err(reason) => {
            report.skip(c.title, &reason);
            false
        }
    });
    eprintln!("  {} contenders are ready", contenders.len());
    let runs = contenders.iter().map(|c| {
        let run: Run<'_> =
            Box::new(|| once(&python, c, &work, &transport).unwrap_or_else(|reason| panic!("{}: {reason}", c.title)));
        (c.title, run)
    });
    let rounds = interleave(size.rounds, runs.collect());
    for c in &contenders {
        let rate = rounds.values(c.title, "apply").0.iter().map(|s| size.peer_rows as f64 / s).collect();
        report.line(&format!("apply, {}", c.title), Unit::Of("rows/s"), Goal::None, Spread(rate));
    }
    for c in contenders.iter().filter(|c| c.function != "plain") {
        let times = [
            ("apply", "apply, time"),
            ("apply cpu", "apply, processor time"),
            ("size", "file"),
            ("local", "local bulk insert, time"),
        ];
        for (figure, what) in times {
            report.line(&format!("{what}, {}", c.title), Unit::Times, Goal::None, rounds.ratio(c.title, "plain", figure));
        }
    }
    for c in contenders.iter().filter(|c| !["plain", "pg_sync"].contains(&c.function)) {
        let what = format!("apply, speed of pg_sync over {}", c.title);
        let goal = match c.function {
            "powersync" | "powersync_at_once" => Goal::AtLeast(8.0),
            "sqlite_sync" => Goal::AtLeast(10.0),
            _ => Goal::None,
        };
        report.line(&what, Unit::Times, goal, rounds.ratio(c.title, "pg_sync", "apply"));
    }
    let _ = std::fs::remove_dir_all(work);
}

fn rows_as_json(device: &Device) -> String {
    let value = |value: Value| match value {
        Value::Integer(i) => json!(i),
        Value::Text(text) => json!(text),
        other => panic!("no such value is in these rows: {other:?}"),
    };
    let rows: Vec<Vec<_>> = plain::rows_of(device).into_iter().map(|row| row.into_iter().map(value).collect()).collect();
    json!(rows).to_string()
}

/// One contender in a process of its own. We are the server that it asks.
fn once(python: &Path, contender: &Contender, work: &Path, transport: &RefCell<Transport>) -> Result<Sample, String> {
    let folder = work.join(contender.function);
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let mut child = Command::new(python)
        .arg(build::root().join("bench/peers/peers.py"))
        .arg(contender.function)
        .arg(&folder)
        .arg(work.join("rows.json"))
        .arg(&contender.library)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut asks = child.stdin.take().ok_or("no pipe")?;
    let mut done = None;
    for line in BufReader::new(child.stdout.take().ok_or("no pipe")?).lines() {
        let line = line.map_err(|e| e.to_string())?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["pull", user, request] => {
                let (_, reply) = transport.borrow_mut().pull(user, &from_hex(request)?);
                writeln!(asks, "{}", to_hex(&reply)).map_err(|e| e.to_string())?;
            }
            ["done", ..] => done = serde_json::from_str::<serde_json::Value>(&line["done ".len()..]).ok(),
            _ => return Err(format!("the driver said: {line}")),
        }
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let _ = std::fs::remove_dir_all(folder);
    let done = done.ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("it ended with {}: {}", output.status, said.lines().last().unwrap_or(""))
    })?;
    let figure = |name: &'static str| (name, done[name].as_f64().unwrap_or(f64::NAN));
    Ok(Sample(vec![figure("apply"), figure("apply cpu"), figure("local"), figure("size")]))
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|e| e.to_string())).collect()
}

fn cache() -> Result<PathBuf, String> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).ok_or("there is no cache folder")?;
    let folder = folder.join("pg_sync/peers");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    Ok(folder)
}

/// A Python with the driver in it.
fn install_driver() -> Result<PathBuf, String> {
    let folder = cache()?.join(APSW.replace("==", "-"));
    let python = folder.join("bin/python");
    let works =
        |python: &Path| Command::new(python).args(["-c", "import apsw; apsw.Session"]).output().is_ok_and(|o| o.status.success());
    if !works(&python) {
        quietly(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        quietly(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", APSW]))?;
    }
    works(&python).then_some(python).ok_or_else(|| format!("{APSW} cannot be loaded"))
}

/// A library out of an npm package; nothing that the package brings is run.
fn install_package(package: &str, file: &str) -> Result<PathBuf, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("its library is asked for on x86-64 Linux only".to_owned());
    }
    let folder = cache()?.join(package.replace(['@', '/'], "-"));
    let library = folder.join("node_modules").join(file);
    if !library.exists() {
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps", "--prefix"]);
        quietly(npm.arg(&folder).arg(package))?;
    }
    library.exists().then_some(library).ok_or_else(|| format!("{package} does not hold {file}"))
}

fn quietly(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    // What a package manager says may name hosts: that belongs on the terminal, not into the results.
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    Err(format!(
        "not installable here: {} ended with {}",
        Path::new(&program).file_name().unwrap_or_default().display(),
        output.status
    ))
}
