//! What reads bytes, and what must be true whatever the bytes are.

use crate::world::World;
use sync_shared::envelope::{self, Kind, Message};
use sync_shared::message::{Delta, Notice, PullRequest, PushReply, PushRequest};
use sync_shared::signed;
use sync_tests::cluster::describe;
use sync_tests::{Cluster, Device};

/// The targets, by name.
pub const NAMES: [&str; 4] = ["decode", "apply", "pull", "push"];

/// Whether the code under test runs in the server.
pub fn in_server(name: &str) -> bool {
    ["pull", "push"].contains(&name)
}

/// One of [`NAMES`].
pub struct Target {
    world: World,
    kind: Runs,
    runs: u64,
}

enum Runs {
    Decode,
    Apply(Box<Victim>),
    Pull,
    Push,
}

/// A device that takes everything, and a connection that sees whether it wrote.
struct Victim {
    device: Device,
    watch: rusqlite::Connection,
    taken: u32,
}

impl Target {
    pub fn new(name: &str) -> Target {
        let world = World::new(Cluster::shared());
        let kind = match name {
            "decode" => Runs::Decode,
            "apply" => Runs::Apply(Box::new(Victim::new(&world.device))),
            "pull" => Runs::Pull,
            _ => Runs::Push,
        };
        Target { world, kind, runs: 0 }
    }

    /// What was said in a real sync.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        let World { requests, pushes, answers, .. } = &self.world;
        match self.kind {
            Runs::Decode => [requests.as_slice(), pushes, answers].concat(),
            Runs::Apply(_) => answers.clone(),
            Runs::Pull => requests.clone(),
            Runs::Push => pushes.clone(),
        }
    }

    /// Ok: how it ended, accepted or refused in plain words. Err: what must not have happened.
    pub fn run(&mut self, input: &[u8]) -> Result<String, String> {
        self.runs += 1;
        match &mut self.kind {
            Runs::Decode => decode(input),
            Runs::Apply(victim) => {
                let outcome = victim.run(input)?;
                if victim.taken >= 20 {
                    **victim = Victim::new(&self.world.device);
                }
                Ok(outcome)
            }
            Runs::Pull => match self.world.server.query_one("SELECT sync.pull($1)", &[&input]) {
                Ok(row) => answered(row.get(0)),
                Err(e) => refused(&e),
            },
            Runs::Push => {
                match self.world.server.query("SELECT push_and_undo($1, $2)", &[&input, &self.runs.is_multiple_of(8)]) {
                    Ok(_) => Err("a push was not undone".into()),
                    Err(e) => match e.as_db_error().filter(|e| e.message() == "undone").and_then(|e| e.detail()) {
                        Some(reply) => answered(&unhex(reply)?),
                        None => refused(&e),
                    },
                }
            }
        }
    }
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits = |i| text.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(|i| digits(i).ok_or("not hexadecimal".into())).collect()
}

/// What can be read must be written again as a message that reads the same.
fn decode(input: &[u8]) -> Result<String, String> {
    let input = match std::panic::catch_unwind(|| signed::split(input)) {
        Ok(Ok(found)) => found.map_or(input, |signed| signed.message),
        Ok(Err(e)) => return Ok(e.to_string()),
        Err(_) => return Err("taking signatures off panicked".into()),
    };
    let read = std::panic::catch_unwind(|| match envelope::kind(input) {
        Ok(Kind::PullRequest) => again::<PullRequest>(input),
        Ok(Kind::PushRequest) => again::<PushRequest>(input),
        Ok(Kind::Delta) => again::<Delta>(input),
        Ok(Kind::PushReply) => again::<PushReply>(input),
        Ok(Kind::Notice) => again::<Notice>(input),
        Err(e) => Ok(e.to_string()),
    });
    read.unwrap_or_else(|_| Err("decoding panicked".into()))
}

fn again<M: Message>(input: &[u8]) -> Result<String, String> {
    let message: M = match envelope::decode(input) {
        Ok(message) => message,
        Err(e) => return Ok(e.to_string()),
    };
    let written = envelope::encode(&message).map_err(|e| format!("what was read cannot be written: {e}"))?;
    let read: M = envelope::decode(&written).map_err(|e| format!("what was written cannot be read: {e}"))?;
    let rewritten = envelope::encode(&read).map_err(|e| format!("what was read again cannot be written: {e}"))?;
    // Bytes, since a NaN does not equal itself.
    if written == rewritten {
        Ok("read".into())
    } else {
        Err("a message changed when it was written and read again".into())
    }
}

/// What the server answers must be a message.
fn answered(reply: &[u8]) -> Result<String, String> {
    // The server of this world signs.
    let signed = signed::split(reply).map_err(|e| format!("the answer's signatures cannot be read: {e}"))?;
    let reply = signed.ok_or("the answer is not signed")?.message;
    let kind = envelope::kind(reply).map_err(|e| format!("the answer is no message: {e}"))?;
    let outcome = match kind {
        Kind::Delta => {
            envelope::decode::<Delta>(reply).map(|d| format!("delta {:?} {}", d.publish.is_some(), d.changes.is_empty()))
        }
        Kind::Notice => envelope::decode::<Notice>(reply).map(|n| format!("notice {:?}", n.kind)),
        Kind::PushReply => envelope::decode::<PushReply>(reply).map(|r| {
            let results = r.results.iter().map(|r| format!(" {:?} {} {}", r.verdict, r.code, r.conflicts.len()));
            format!("{:?}{}", r.state, results.collect::<String>())
        }),
        other => return Err(format!("the answer is a {}", other.name())),
    };
    outcome.map_err(|e| format!("the answer cannot be read: {e}"))
}

/// An error is well as long as it is the message's fault, and the server is there.
fn refused(error: &postgres::Error) -> Result<String, String> {
    let text = describe(error);
    let internal = text.starts_with("XX") || text.starts_with("57014") || text.contains("panick");
    if error.as_db_error().is_none() || internal {
        return Err(text);
    }
    Ok(text)
}

impl Victim {
    fn new(device: &Device) -> Victim {
        let copy = device.copy();
        crate::world::set_key(&copy);
        copy.run("PRAGMA synchronous = OFF");
        let watch = copy.plain_connection();
        Victim { device: copy, watch, taken: 0 }
    }

    /// Changes whenever another connection commits.
    fn version(&self) -> i64 {
        self.watch.query_row("PRAGMA data_version", [], |row| row.get(0)).expect("the file can be read")
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let before = self.version();
        match self.device.apply(input) {
            Ok(answer) => {
                self.taken += 1;
                let whole: String = self.device.value("PRAGMA quick_check");
                if whole != "ok" {
                    return Err(format!("the file is damaged: {whole}"));
                }
                self.device
                    .connection()
                    .query_row("SELECT pull_request()", [], |_| Ok(()))
                    .map_err(|e| format!("pull_request: {e}"))?;
                Ok(format!("applied {} {}", answer.kind(), answer.more()))
            }
            Err(e) if e.contains("met a bug") => Err(e),
            Err(_) if self.version() != before => Err("a refused message changed something".into()),
            Err(e) => Ok(e),
        }
    }
}
