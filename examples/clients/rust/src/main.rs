//! A whole client in Rust: rusqlite on the device, and no gateway: Postgres itself is asked.
//!
//!     cargo run -p sync-client -- phone.db laptop.db

use postgres::NoTls;
use rusqlite::{Connection, OptionalExtension, Params};
use std::env::{args, var};
use std::error::Error;
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error>>;

// sync: begin

struct Server {
    client: postgres::Client,
    token: String,
}

impl Server {
    fn connect() -> Outcome<Server> {
        let mut config = postgres::Config::new();
        config.host(&var("PGHOST")?).port(var("PGPORT")?.parse()?).user(&var("PGUSER")?).dbname(&var("PGDATABASE")?);
        Ok(Server { client: config.connect(NoTls)?, token: var("SYNC_TOKEN")? })
    }

    /// Calls sync.pull or sync.push as the token's user, for this transaction only.
    fn call(&mut self, sql: &str, only_reads: bool, message: &[u8]) -> Outcome<Vec<u8>> {
        let mut transaction = self.client.build_transaction().read_only(only_reads).start()?;
        transaction.execute("SELECT sync.authenticate($1)", &[&self.token])?;
        let answer = transaction.query_one(sql, &[&message])?.try_get(0)?;
        transaction.commit()?;
        Ok(answer)
    }
}

fn open(path: &str) -> Outcome<Connection> {
    let db = Connection::open(path)?;
    // SAFETY: the library is this project's; nothing else was loaded or prepared on the connection before.
    unsafe {
        db.load_extension_enable()?;
        db.load_extension(var("SYNC_LIBRARY")?, None::<&str>)?;
    }
    db.load_extension_disable()?;
    Ok(db)
}

fn value<T: rusqlite::types::FromSql>(db: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<Option<T>> {
    db.query_row(sql, parameters, |row| row.get(0)).optional().map(Option::flatten)
}

fn sync(db: &Connection, server: &mut Server) -> Outcome<()> {
    let apply = "SELECT apply_delta(?) ->> 'more'";
    while let Some(batches) = value::<Vec<u8>>(db, "SELECT pending_ops()", [])? {
        value::<bool>(db, apply, [server.call("SELECT sync.push($1)", false, &batches)?])?;
    }
    let mut more = true;
    while more {
        let request = value::<Vec<u8>>(db, "SELECT pull_request()", [])?.unwrap_or_default();
        more = value(db, apply, [server.call("SELECT sync.pull($1)", true, &request)?])?.unwrap_or(false);
    }
    Ok(())
}

// sync: end

const SHOW: &str = "
    SELECT iif(done, '[x] ', '[ ] ') || body FROM task
    UNION ALL SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts
    UNION ALL SELECT format('refused: %s %s', code, message) FROM sync_rejected";

fn show(title: &str, db: &Connection) -> Outcome<()> {
    println!("{title}");
    for line in db.prepare(SHOW)?.query_map([], |row| row.get::<_, String>(0))? {
        println!("  {}", line?);
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let files: Vec<String> = args().skip(1).collect();
    let [phone, laptop] = files.as_slice() else { return Err("usage: sync-client phone.db laptop.db".into()) };
    let (phone, laptop, mut server) = (open(phone)?, open(laptop)?, Server::connect()?);
    sync(&phone, &mut server)?;
    sync(&laptop, &mut server)?;
    show("after the first sync", &phone)?;

    // Nobody is asked: these are ordinary tables in a file. The server will refuse the last one.
    phone.execute("INSERT INTO task (list_id, body) SELECT id, 'from rust' FROM list", [])?;
    phone.execute("UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'", [])?;
    phone.execute("INSERT INTO task (list_id, body) SELECT id, '' FROM list", [])?;
    show("offline", &phone)?;

    // A moment later the same row changes elsewhere, and the later edit counts.
    std::thread::sleep(Duration::from_millis(10));
    laptop.execute("UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'", [])?;
    sync(&laptop, &mut server)?;
    sync(&phone, &mut server)?;
    show("online again", &phone)?;

    // Without a gateway that tells of changes the phone asks from time to time.
    laptop.execute("INSERT INTO task (list_id, body) SELECT id, 'live from rust' FROM list", [])?;
    sync(&laptop, &mut server)?;
    while value::<String>(&phone, "SELECT id FROM task WHERE body LIKE 'live %'", [])?.is_none() {
        std::thread::sleep(Duration::from_millis(100));
        sync(&phone, &mut server)?;
    }
    show("live", &phone)
}
