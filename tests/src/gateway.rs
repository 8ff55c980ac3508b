//! The gateway as a process of its own, tokens for its users, and a client that speaks HTTP.

use crate::{build, Answer, Cluster, Database, Device};
use hmac::{Hmac, Mac};
use serde_json::{json, Value as Json};
use sha2::Sha256;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What tokens are signed with.
pub const SECRET: &str = "a secret of at least thirty-two bytes";

/// What the server needs to be served through a gateway: a key for tokens, a login for the gateway, a role for its users.
pub struct Served<'a> {
    /// The database.
    pub db: Database<'a>,
    /// The gateway's login, which is no member of `sync_transport`: only tokens count.
    pub relay: String,
    /// What users write as.
    pub person: String,
}

/// Lists with members, and tasks in them, as in the README.
pub fn served(cluster: &Cluster) -> Served<'_> {
    let db = cluster.database();
    let (relay, person) = (format!("relay_{}", db.name()), format!("person_{}", db.name()));
    db.run(&format!(
        "CREATE TABLE list (id int PRIMARY KEY, title text NOT NULL);
         CREATE TABLE member (list_id int REFERENCES list ON DELETE CASCADE, user_id text, PRIMARY KEY (list_id, user_id));
         CREATE INDEX ON member (user_id);
         CREATE TABLE task (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), list_id int NOT NULL, body text NOT NULL CHECK (body <> ''));
         CREATE INDEX ON task (list_id, id);
         CREATE ROLE {person} NOLOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON list, task TO {person};
         CREATE ROLE {relay} LOGIN; GRANT {person} TO {relay};
         GRANT EXECUTE ON FUNCTION sync.authenticate(text), sync.pull(bytea), sync.push(bytea), sync.head(),
             sync.changed_since(text, integer), sync.my_buckets(bytea) TO {relay};
         SELECT sync.add_auth_key('{SECRET}', 'HS256', issuer => 'https://issuer.example', audience => 'app');
         SELECT sync.create_bucket('list', members => 'SELECT list_id FROM member WHERE user_id = sync.user_id()');
         SELECT sync.add_table('list', 'list', key => 'id');
         SELECT sync.add_table('list', 'task', key => 'list_id')"
    ));
    db.run("SELECT sync.maintain()");
    Served { db, relay, person }
}

impl Served<'_> {
    /// A list for each of some users, `user1` and so on, who hold nothing else.
    pub fn lists(&self, users: usize) {
        self.db.run(&format!(
            "INSERT INTO list SELECT n, 'list ' || n FROM generate_series(1, {users}) n;
             INSERT INTO member SELECT n, 'user' || n FROM generate_series(1, {users}) n; ANALYZE"
        ));
    }

    /// Where the gateway finds the database.
    pub fn address(&self) -> String {
        let cluster = self.db.cluster();
        format!("host={} port={} user={} dbname={}", cluster.socket().display(), cluster.port(), self.relay, self.db.name())
    }

    /// A token that holds for an hour.
    pub fn token(&self, user: &str) -> String {
        self.token_until(user, 3600)
    }

    /// One that ends so many seconds from now.
    pub fn token_until(&self, user: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        let claims =
            json!({ "sub": user, "role": self.person, "iss": "https://issuer.example", "aud": "app", "exp": now + seconds });
        signed(&claims, SECRET)
    }

    /// The gateway, with further arguments.
    pub fn gateway(&self, arguments: &[&str]) -> Gateway {
        Gateway::start(&self.address(), arguments)
    }
}

/// A token with an HS256 signature.
pub fn signed(claims: &Json, secret: &str) -> String {
    let text = format!("{}.{}", base64url(br#"{"alg":"HS256","typ":"JWT"}"#), base64url(claims.to_string().as_bytes()));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key will do");
    mac.update(text.as_bytes());
    format!("{text}.{}", base64url(&mac.finalize().into_bytes()))
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(|i| char::from(LETTERS[(bits >> (18 - 6 * i)) as usize & 63])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// A running gateway, which ends with this value.
pub struct Gateway {
    process: Child,
    said: Arc<Mutex<String>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Gateway {
    /// Starts one on a port that is free, or on the one that the arguments name.
    pub fn start(database: &str, arguments: &[&str]) -> Gateway {
        Gateway::try_start(database, arguments).unwrap_or_else(|why| panic!("the gateway does not start: {why}"))
    }

    /// The same; an error is what it said.
    pub fn try_start(database: &str, arguments: &[&str]) -> Result<Gateway, String> {
        let mut command = Command::new(build::library("sync-gateway"));
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let kept = std::env::var_os("PG_SYNC_KEEP").is_some();
        if !arguments.contains(&"--pool") {
            command.args(["--pool", "4"]);
        }
        command.args(["--database", database]).args(arguments);
        command.stdout(Stdio::piped()).stderr(if kept { Stdio::inherit() } else { Stdio::piped() });
        let mut process = command.spawn().map_err(|e| e.to_string())?;
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        output.read_line(&mut line).map_err(|e| e.to_string())?;
        let address = line.trim().rsplit(' ').next().and_then(|a| a.parse().ok());
        let Some(address) = address else {
            let said = process.wait_with_output().map_err(|e| e.to_string())?;
            return Err(String::from_utf8_lossy(&said.stderr).into_owned());
        };
        let said = Arc::new(Mutex::new(String::new()));
        if let Some(errors) = process.stderr.take() {
            // Read, or it would stop at a full pipe.
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(errors).lines().map_while(Result::ok) {
                    said.lock().expect("nobody panics with it").push_str(&(line + "\n"));
                }
            });
        }
        Ok(Gateway { process, said, address })
    }

    /// Its log so far; nothing where `PG_SYNC_KEEP` shows it.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// KiB of memory that it has.
    pub fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// Ends it as a loss of power would.
    pub fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let told = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        assert!(told.is_ok_and(|s| s.success()), "it is told to end");
    }

    /// Waits for its end. Whether it ended well.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().expect("it can be waited for") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// A request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, token: &str, body: &[u8]) -> Result<Reply, String> {
        let mut stream = TcpStream::connect(self.address).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        ask(&mut stream, method, path, token, body)
    }

    /// The whole loop of a device. An error is what the gateway said instead; it goes on with the next call.
    pub fn sync(&self, device: &Device, token: &str) -> Result<(), String> {
        while let Some(batches) = device.pending_ops() {
            device.apply(&self.ask("POST", "/sync/push", token, &batches)?.content()?)?;
        }
        while self.pull(device, token)?.more() {}
        Ok(())
    }

    /// One pull.
    pub fn pull(&self, device: &Device, token: &str) -> Result<Answer, String> {
        device.apply(&self.ask("POST", "/sync/pull", token, &device.pull_request())?.content()?)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Reply {
    /// 200 and the like.
    pub status: u16,
    /// The lines above the body.
    pub head: String,
    /// What follows.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body of an answer that is one.
    pub fn content(self) -> Result<Vec<u8>, String> {
        if self.status == 200 {
            return Ok(self.body);
        }
        Err(format!("{} {}", self.status, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// A request on a connection that stays open.
pub fn ask(stream: &mut (impl Read + Write), method: &str, path: &str, token: &str, body: &[u8]) -> Result<Reply, String> {
    let mut request = head(method, path, token, body.len()).into_bytes();
    request.extend_from_slice(body);
    // One that is refused early is told so, and the rest is not read.
    let _written = stream.write_all(&request);
    read(stream)
}

/// The head of a request.
pub fn head(method: &str, path: &str, token: &str, length: usize) -> String {
    let bearer = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\n{bearer}Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n")
}

/// Reads an answer whose length is told.
pub fn read(stream: &mut impl Read) -> Result<Reply, String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    let mut wanted = None;
    while wanted.is_none_or(|(begin, length)| bytes.len() < begin + length) {
        let n = stream.read(&mut chunk).map_err(|e| e.to_string())?;
        if n == 0 {
            return Err("the connection was cut off".into());
        }
        bytes.extend_from_slice(&chunk[..n]);
        if let (None, Some(end)) = (wanted, bytes.windows(4).position(|w| w == b"\r\n\r\n")) {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
            wanted = Some((end + 4, length.unwrap_or(0)));
        }
    }
    let (begin, _) = wanted.expect("read to the end");
    let head = String::from_utf8_lossy(&bytes[..begin]).into_owned();
    // A request has none.
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok(Reply { status, head, body: bytes.split_off(begin) })
}

/// A stream of events on a thread of its own.
pub struct Events(std::sync::mpsc::Receiver<()>);

impl Events {
    /// Opens one, and waits for its first event.
    pub fn open(gateway: &Gateway, token: &str) -> Events {
        let mut stream = TcpStream::connect(gateway.address).expect("a connection");
        stream.write_all(head("GET", "/sync/events", token, 0).as_bytes()).expect("a request");
        let (told, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                // The body's end, after which another request may come.
                if line == "0" {
                    return;
                }
                if line == "event: changed" && told.send(()).is_err() {
                    return;
                }
            }
        });
        let events = Events(heard);
        assert!(events.next(Duration::from_secs(10)), "the first event comes at once");
        events
    }

    /// Whether an event comes in time.
    pub fn next(&self, limit: Duration) -> bool {
        self.0.recv_timeout(limit).is_ok()
    }

    /// Whether the stream ends in time.
    pub fn ends(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(e) => return e == std::sync::mpsc::RecvTimeoutError::Disconnected,
            }
        }
    }
}
