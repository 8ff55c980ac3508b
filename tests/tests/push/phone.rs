//! A device made of messages only.

use postgres::Client;
use sync_shared::hash::tag;
use sync_shared::message::{
    Batch, BatchId, BatchRandom, BatchResult, Change, ChangeKind, KeyWant, PushReply, PushRequest, PushState, Verdict,
};
use sync_shared::{envelope, Value};
use sync_tests::device::server_push;
use sync_tests::User;
use uuid::Uuid;

/// Now, in microseconds since 1970.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970").as_micros() as i64
}

pub const SECOND: i64 = 1_000_000;

pub fn int(i: i64) -> Value {
    Value::Integer(i)
}

pub fn text(t: &str) -> Value {
    Value::Text(t.into())
}

pub fn insert(table: &str, id: i64, columns: &[(&str, Value)]) -> Change {
    Change {
        table: tag(&format!("public.{table}")),
        kind: ChangeKind::Insert,
        key: vec![int(id)],
        columns: columns.iter().map(|(name, _)| tag(name)).collect(),
        old: vec![],
        new: columns.iter().map(|(_, value)| value.clone()).collect(),
        rest: None,
        below: vec![],
    }
}

pub fn update(table: &str, id: i64, columns: &[(&str, Value, Value)]) -> Change {
    Change {
        table: tag(&format!("public.{table}")),
        kind: ChangeKind::Update,
        key: vec![int(id)],
        columns: columns.iter().map(|(name, ..)| tag(name)).collect(),
        old: columns.iter().map(|(_, old, _)| old.clone()).collect(),
        new: columns.iter().map(|(.., new)| new.clone()).collect(),
        rest: None,
        below: vec![],
    }
}

pub fn delete(table: &str, id: i64, columns: &[(&str, Value)]) -> Change {
    Change {
        table: tag(&format!("public.{table}")),
        kind: ChangeKind::Delete,
        key: vec![int(id)],
        columns: columns.iter().map(|(name, _)| tag(name)).collect(),
        old: columns.iter().map(|(_, value)| value.clone()).collect(),
        new: vec![],
        rest: None,
        below: vec![],
    }
}

pub struct Phone {
    pub device: Uuid,
    pub user: User,
    pub number: i64,
    /// When its edits are made; None: now.
    pub clock: Option<i64>,
}

impl Phone {
    pub fn new(user: &str) -> Phone {
        Phone::of(User::new(user))
    }

    pub fn of(user: User) -> Phone {
        Phone { device: Uuid::new_v4(), user, number: 0, clock: None }
    }

    /// The next batch.
    pub fn batch(&mut self, changes: Vec<Change>) -> Batch {
        self.number += 1;
        let id = BatchId { number: self.number, random: BatchRandom::new(Uuid::new_v4().into_bytes()) };
        Batch {
            id,
            edited: self.clock.unwrap_or_else(now),
            user: self.user.id.clone(),
            changes,
            note: String::new(),
            whole: false,
        }
    }

    pub fn push(&self, server: &mut Client, batches: Vec<Batch>) -> PushReply {
        self.push_and_want(server, batches, &[])
    }

    /// Also asks for numbers for the keys of tables.
    pub fn push_and_want(&self, server: &mut Client, batches: Vec<Batch>, wants: &[(&str, u32)]) -> PushReply {
        let want = |&(table, count): &(&str, u32)| KeyWant { table: tag(&format!("public.{table}")), count };
        let wants = wants.iter().map(want).collect();
        let request = envelope::encode(&PushRequest { device: self.device, batches, wants, held: vec![], differ: None })
            .expect("a request");
        let reply = server_push(server, &self.user, &request).expect("sync.push answers");
        envelope::decode(&reply).expect("a reply")
    }

    /// Sends each list of changes as a batch of one push.
    pub fn send(&mut self, server: &mut Client, batches: Vec<Vec<Change>>) -> Vec<BatchResult> {
        let batches = batches.into_iter().map(|changes| self.batch(changes)).collect();
        let reply = self.push(server, batches);
        assert_eq!(reply.state, PushState::Taken, "{}", reply.message);
        reply.results
    }

    /// Sends one change that must be taken as it is.
    pub fn accepted(&mut self, server: &mut Client, change: Change) {
        let result = self.one(server, change);
        assert_eq!(result.verdict, Verdict::Accepted, "{result:?}");
    }

    /// Sends one change.
    pub fn one(&mut self, server: &mut Client, change: Change) -> BatchResult {
        self.send(server, vec![vec![change]]).remove(0)
    }
}

/// Each verdict's first letter, each code.
pub fn short(results: &[BatchResult]) -> Vec<String> {
    results
        .iter()
        .map(|r| match r.verdict {
            Verdict::Accepted => "accepted".into(),
            Verdict::Merged => "merged".into(),
            other => format!("{other:?} {}", r.code).to_lowercase(),
        })
        .collect()
}
