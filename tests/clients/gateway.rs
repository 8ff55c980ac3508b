//! A small HTTP server for the clients: it takes the bytes of `POST /sync/pull` and `POST /sync/push` to the database as the
//! user of the request's token, and tells whoever listens to `GET /sync/events` when something was pushed.

use postgres::{Config, NoTls};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use sync_tests::cluster::describe;

/// It ends when this is dropped.
pub struct Gateway {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    database: Config,
    stopping: AtomicBool,
    /// How many pushes there were.
    pushes: Mutex<u64>,
    pushed: Condvar,
}

impl Gateway {
    pub fn start(database: Config) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let (stopping, pushes, pushed) = (AtomicBool::new(false), Mutex::new(0), Condvar::new());
        let shared = Arc::new(Shared { database, stopping, pushes, pushed });
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if of_thread.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let shared = of_thread.clone();
                // A client that goes away in the middle of something is its own affair.
                std::thread::spawn(move || drop(shared.serve(connection)));
            }
        });
        Gateway { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/sync", self.port)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.pushed.notify_all();
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn serve(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        let (mut first, mut length, mut token) = (String::new(), 0, String::new());
        reader.read_line(&mut first)?;
        for line in reader.by_ref().lines() {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "authorization" => token = value.trim_start_matches("Bearer ").to_owned(),
                "expect" => connection.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
                _ => {}
            }
        }
        let mut message = vec![0; length];
        reader.read_exact(&mut message)?;
        let outcome = match first.split(" HTTP").next().unwrap_or("") {
            "POST /sync/pull" => self.call("SELECT sync.pull($1)", true, &token, &message),
            "POST /sync/push" => self.call("SELECT sync.push($1)", false, &token, &message).inspect(|_| self.tell()),
            "GET /sync/events" => return self.events(connection),
            other => Err((404, format!("there is no {other}"))),
        };
        let (status, body) = outcome.map_or_else(|(status, why)| (status, why.into_bytes()), |body| (200, body));
        let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        connection.write_all(head.as_bytes())?;
        connection.write_all(&body)
    }

    fn call(&self, sql: &str, only_reads: bool, token: &str, message: &[u8]) -> Result<Vec<u8>, (u16, String)> {
        let failed = |e: postgres::Error| (500, describe(&e));
        let mut client = self.database.connect(NoTls).map_err(|e| (503, describe(&e)))?;
        let mut transaction = client.build_transaction().read_only(only_reads).start().map_err(failed)?;
        transaction.execute("SELECT sync.authenticate($1)", &[&token]).map_err(|e| (401, describe(&e)))?;
        let answer = transaction.query_one(sql, &[&message]).map_err(failed)?.get(0);
        transaction.commit().map_err(failed)?;
        Ok(answer)
    }

    fn tell(&self) {
        *self.pushes.lock().expect("nobody panics here") += 1;
        self.pushed.notify_all();
    }

    fn events(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let mut seen = *self.pushes.lock().expect("nobody panics here");
        connection.write_all(b"HTTP/1.1 200 -\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
        while !self.stopping.load(Ordering::SeqCst) {
            let pushes = self.pushes.lock().expect("nobody panics here");
            let waited = self.pushed.wait_timeout_while(pushes, Duration::from_secs(1), |pushes| *pushes == seen);
            let now = *waited.expect("nobody panics here").0;
            // A comment shows whether anybody still listens.
            connection.write_all(if now == seen { b":\n\n" } else { b"event: change\ndata: {}\n\n" })?;
            seen = now;
        }
        Ok(())
    }
}
