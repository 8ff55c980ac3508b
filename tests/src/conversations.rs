//! The example for the desktop: its server, and its commands in a process of their own.

use crate::gateway::{Gateway, Served, SECRET};
use crate::{build, Cluster};
use serde_json::{json, Value as Json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

/// The conversation that Ann and Ben have.
pub const SUMMER: &str = "c0000000-0000-4000-8000-000000000001";
/// The one in which Ben only reads.
pub const NEWS: &str = "c0000000-0000-4000-8000-000000000002";

/// `examples/desktop/server.sql`, what the gateway needs, and two people who take part in two conversations.
pub fn conversations(cluster: &Cluster) -> Served<'_> {
    let db = cluster.database();
    let relay = format!("relay_{}", db.name());
    db.run(&std::fs::read_to_string(build::root().join("examples/desktop/server.sql")).expect("server.sql can be read"));
    db.run(&format!(
        "CREATE ROLE {relay} LOGIN; GRANT desktop_user TO {relay};
         GRANT EXECUTE ON FUNCTION sync.authenticate(text), sync.pull(bytea), sync.push(bytea), sync.head(),
             sync.changed_since(text, integer), sync.my_buckets(bytea) TO {relay};
         SELECT sync.add_auth_key('{SECRET}', 'HS256', issuer => 'https://issuer.example', audience => 'app');
         INSERT INTO conversation VALUES ('{SUMMER}', 'Summer in the Alps'), ('{NEWS}', 'News of the club');
         INSERT INTO participant VALUES ('{SUMMER}', 'ann', 'Ann'), ('{SUMMER}', 'ben', 'Ben'), ('{NEWS}', 'ann', 'Ann');
         INSERT INTO participant VALUES ('{NEWS}', 'ben', 'Ben', false)"
    ));
    db.run("SELECT sync.maintain()");
    Served { db, relay, person: "desktop_user".into() }
}

/// One person's application: the commands without a window, each call and answer a line.
pub struct Person {
    process: Child,
    input: ChildStdin,
    said: Receiver<Json>,
    events: VecDeque<Json>,
    /// The file on this person's device.
    pub file: PathBuf,
}

impl Person {
    /// Starts one. The file goes with the folder that it is in.
    pub fn start(file: PathBuf) -> Person {
        let mut command = Command::new(build::library("sync-desktop"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sync-desktop starts");
        let (input, output) = (process.stdin.take().expect("its input"), process.stdout.take().expect("its output"));
        let (say, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line} is no JSON: {e}"));
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        Person { process, input, said, events: VecDeque::new(), file }
    }

    /// Calls a command. An error is the problem that it told of.
    pub fn call(&mut self, command: &str, mut arguments: Json) -> Result<Json, String> {
        arguments["command"] = command.into();
        writeln!(self.input, "{arguments}").expect("it reads");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut line = self.hear(deadline).unwrap_or_else(|| panic!("{command} is not answered"));
            if let Some(problem) = line.get("problem") {
                return Err(problem.as_str().expect("a problem is a sentence").to_owned());
            }
            match line.get_mut("answer") {
                Some(answer) => return Ok(answer.take()),
                None => self.events.push_back(line["event"].take()),
            }
        }
    }

    /// Opens its file, and syncs with the gateway.
    pub fn connect(&mut self, gateway: &Gateway, token: &str, offline: bool) -> Result<Json, String> {
        let arguments = json!({
            "file": self.file, "library": build::library("libsqlite_sync.so"), "url": format!("http://{}/sync", gateway.address),
            "token": token, "offline": offline
        });
        self.call("connect", arguments)
    }

    /// Waits until a command answers what is wanted: it is called again with each event, and only then.
    pub fn until(&mut self, command: &str, arguments: &Json, wanted: impl Fn(&Json) -> bool) -> Json {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.call(command, arguments.clone()).unwrap_or_else(|why| panic!("{command}: {why}"));
            if wanted(&answer) {
                return answer;
            }
            if self.events.pop_front().is_none() {
                let mut line = self.hear(deadline).unwrap_or_else(|| panic!("no event changed what {command} answers: {answer}"));
                line["event"].take();
            }
            self.events.clear();
        }
    }

    fn hear(&self, deadline: Instant) -> Option<Json> {
        self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}
