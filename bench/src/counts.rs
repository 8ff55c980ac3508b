//! `./dev bench instructions`, the server's part: instructions of fixed work in a single-user backend under callgrind.
//!
//! Each work is run twice, with fewer and with more statements: the difference over their number is one statement, without what starting
//! the backend, reading catalogs and planning cost. Statements are alone in their transactions, as Postgres runs them in that mode.

use crate::server::{owner, rows};
use crate::transport::{world, Transport};
use std::fmt::Write;
use sync_tests::{Cluster, Device};

/// Buckets of the user who has many.
const BUCKETS: usize = 1000;
const ROWS: usize = 20_000;
/// Rows of one statement in bulk.
const BULK: usize = 5_000;

/// Prints a line for each work: name, how many statements were counted, instructions of one.
pub fn run() -> Result<(), String> {
    let cluster = Cluster::start("\nshared_buffers = 256MB\nautovacuum = off\nfsync = off\n");
    let (database, mut session) = world(&cluster, &[("one", 1, 1, 2_000), ("many", 1000, BUCKETS, ROWS)], true);
    let mut transport = Transport::new(&database);
    let first = Device::new("one").pull_request();
    let [one, many] = ["one", "many"].map(|user| {
        let device = Device::new(user);
        transport.settle(&device);
        device.pull_request()
    });
    let name = database.name().to_owned();
    drop(transport);
    let quiet = [
        // Per work: name, fewer and more statements.
        ("pull-nothing", (20, 120), pull("one", &one)),
        ("pull-nothing-1000", (10, 40), pull("many", &many)),
        ("pull-first-page", (7, 10), pull("one", &first)),
    ];
    let insert = format!("INSERT INTO item VALUES (gen_random_uuid(), '{}', 'a title', 'and a body', 1, now())", owner(1));
    let bulk = format!(
        "INSERT INTO item SELECT gen_random_uuid(), owner_id, title, body, rank, updated_at FROM ({}) r",
        rows(BULK, 1, 50)
    );
    let writes = [("capture-insert", (50, 250), insert), ("capture-bulk", (1, 3), bulk)];
    session.run("CHECKPOINT");
    cluster.stop();
    let mut lines = String::new();
    let mut count = |work: &str, (fewer, more): (usize, usize), statement: &str| {
        let run = |n| cluster.instructions(&name, &statement.repeat(n));
        let each = run(more)?.saturating_sub(run(fewer)?) / (more - fewer) as u64;
        writeln!(lines, "{work}\t{}\t{each}", more - fewer).map_err(|e| e.to_string())
    };
    for (work, times, statement) in quiet {
        count(work, times, &statement)?;
    }
    cluster.launch();
    // One change, in one of the thousand buckets, behind what the device has seen.
    database.run("UPDATE item SET rank = rank + 1 WHERE id = md5('1000 77')::uuid");
    cluster.stop();
    count("pull-change-1000", (10, 40), &pull("many", &many))?;
    for (work, times, statement) in writes {
        count(work, times, &(statement + ";\n\n"))?;
    }
    print!("{lines}");
    Ok(())
}

/// A pull by a user, whose answer is not printed.
fn pull(user: &str, request: &[u8]) -> String {
    let bytes = request.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    // Only of this statement's transaction, and before the pull: a value that is computed first.
    format!(
        "SELECT length(sync.pull(CASE WHEN set_config('request.jwt.claims', '{{\"sub\": \"{user}\"}}', true) IS NOT NULL \
         THEN '\\x{bytes}'::bytea END));\n\n"
    )
}
