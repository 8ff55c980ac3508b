//! A whole client in Rust: rusqlite on the device, postgres as the transport.

use postgres::NoTls;
use rusqlite::{Connection, OptionalExtension, Params};
use std::env::var;
use std::error::Error;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What an HTTP server would do for a request whose token it has checked.
struct Server {
    client: postgres::Client,
    claims: String,
}

impl Server {
    fn connect() -> Outcome<Server> {
        let mut config = postgres::Config::new();
        config.host(&var("PGHOST")?).port(var("PGPORT")?.parse()?).user(&var("PGUSER")?).dbname(&var("PGDATABASE")?);
        let claims = serde_json::json!({ "sub": var("SYNC_USER")?, "role": "todo_user" }).to_string();
        Ok(Server { client: config.connect(NoTls)?, claims })
    }

    /// Calls sync.pull or sync.push as the user.
    fn call(&mut self, sql: &str, only_reads: bool, message: &[u8]) -> Outcome<Vec<u8>> {
        let mut transaction = self.client.build_transaction().read_only(only_reads).start()?;
        transaction.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&self.claims])?;
        let answer = transaction.query_one(sql, &[&message])?.try_get(0)?;
        transaction.commit()?;
        Ok(answer)
    }
}

fn open() -> Outcome<Connection> {
    let db = Connection::open(var("SYNC_DATABASE")?)?;
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
    while let Some(batches) = value::<Vec<u8>>(db, "SELECT pending_ops()", [])? {
        let answer = server.call("SELECT sync.push($1)", false, &batches)?;
        value::<String>(db, "SELECT apply_delta(?)", [answer])?;
    }
    loop {
        let request = value::<Vec<u8>>(db, "SELECT pull_request()", [])?.unwrap_or_default();
        let delta = server.call("SELECT sync.pull($1)", true, &request)?;
        let answer = value::<String>(db, "SELECT apply_delta(?)", [delta])?.unwrap_or_default();
        if serde_json::from_str::<serde_json::Value>(&answer)?["more"] != true {
            return Ok(());
        }
    }
}

fn main() -> Outcome<()> {
    let (db, mut server) = (open()?, Server::connect()?);
    sync(&db, &mut server)?;
    db.execute_batch(
        "INSERT INTO task (list_id, body) SELECT id, 'from rust' FROM list;
         UPDATE task SET done = 1 WHERE body = 'Milk';
         INSERT INTO task (list_id, body) SELECT id, '' FROM list;",
    )?;
    sync(&db, &mut server)?;
    let lines = "SELECT iif(done, '[x] ', '[ ] ') || body FROM task UNION ALL SELECT 'refused: ' || code || ' ' || message FROM sync_rejected";
    for line in db.prepare(lines)?.query_map([], |row| row.get::<_, String>(0))? {
        println!("{}", line?);
    }
    Ok(())
}
