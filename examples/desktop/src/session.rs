//! A file that is kept in step with the server in the background: one thread syncs, one listens for the server's events.

use crate::device::{open, value};
use crate::transport::{Failed, Transport};
use crate::{locked, Answer, Event, Problem, Tell};
use rusqlite::Connection;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Between syncs where no events come.
const INTERVAL: Duration = Duration::from_secs(60);
/// Waits after failures double up to here; each is a random part of that, so that devices do not come back all at once.
const LONGEST: Duration = Duration::from_secs(30);

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    pub state: State,
    /// What went wrong last, until a sync succeeds.
    pub error: Option<String>,
    /// Whether the server tells of changes as they happen.
    pub live: bool,
    /// Transactions that wait to be sent.
    pub waiting: i64,
    /// Transactions that the server refused, and that nobody has dealt with.
    pub refused: i64,
    /// Who is signed in, once the server has said so.
    pub user: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Syncing,
    /// Everything is sent and received.
    Idle,
    /// The server cannot be reached.
    Offline,
    /// The server answered with an error; with HTTP's 401 a new token is needed: `connect` again.
    Refused,
    /// Nobody is asked, because the user said so.
    Paused,
}

/// Why to sync.
enum Wake {
    Written,
    /// The server can be reached, so no failure counts any longer.
    Heard,
    Switched,
}

/// An open file. Its threads end after it, when the request that is under way does.
pub struct Session {
    db: Mutex<Connection>,
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    status: Mutex<Status>,
    tell: Tell,
    wake: Mutex<Sender<Wake>>,
    paused: AtomicBool,
    ended: AtomicBool,
}

impl Session {
    pub fn start(file: &Path, library: &Path, transport: Transport, paused: bool, tell: Tell) -> Answer<Session> {
        let (db, in_background) = (open(file, library)?, open(file, library)?);
        // Makes the extension's tables.
        value::<Vec<u8>>(&db, "SELECT pull_request()", [])?;
        let (wake, woken) = channel();
        let (wake, paused, ended) = (Mutex::new(wake), AtomicBool::new(paused), AtomicBool::new(false));
        let shared = Arc::new(Shared { transport, status: Mutex::default(), tell, wake, paused, ended });
        let (syncs, listens) = (Arc::clone(&shared), Arc::clone(&shared));
        std::thread::spawn(move || syncs.sync(&in_background, &woken));
        std::thread::spawn(move || listens.listen());
        shared.wake(Wake::Written);
        Ok(Session { db: Mutex::new(db), shared })
    }

    /// The application's connection.
    pub fn db(&self) -> MutexGuard<'_, Connection> {
        locked(&self.db)
    }

    /// These tables were written to: it is told, and sent.
    pub fn written(&self, tables: &[&str]) {
        (self.shared.tell)(Event::Changed(tables.iter().map(|&table| table.to_owned()).collect()));
        self.shared.wake(Wake::Written);
    }

    pub fn status(&self) -> Status {
        locked(&self.shared.status).clone()
    }

    /// Asks nobody, or goes on at once.
    pub fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, SeqCst);
        self.shared.wake(Wake::Switched);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        self.shared.wake(Wake::Switched);
    }
}

impl Shared {
    fn wake(&self, why: Wake) {
        // Its thread ends with the session only.
        let _gone = locked(&self.wake).send(why);
    }

    fn ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    fn paused(&self) -> bool {
        self.paused.load(SeqCst)
    }

    /// Changes the status; says so where it is another one then.
    fn stands(&self, change: impl FnOnce(&mut Status)) {
        let mut status = locked(&self.status);
        let before = status.clone();
        change(&mut status);
        if *status != before && !self.ended() {
            // Told while it is held, so that what is told last is what is so last.
            (self.tell)(Event::Status(status.clone()));
        }
    }

    fn sync(&self, db: &Connection, woken: &Receiver<Wake>) {
        let (mut failures, mut again) = (0, Instant::now());
        loop {
            let wait = if self.paused() { INTERVAL } else { again.saturating_duration_since(Instant::now()) };
            let first = match woken.recv_timeout(wait) {
                Err(RecvTimeoutError::Disconnected) => return,
                why => why.ok(),
            };
            for why in first.into_iter().chain(woken.try_iter()) {
                match why {
                    Wake::Written if failures > 0 => {}
                    Wake::Written => again = Instant::now(),
                    Wake::Heard | Wake::Switched => (failures, again) = (0, Instant::now()),
                }
            }
            if self.ended() {
                return;
            }
            let outcome = if self.paused() {
                // Nothing is sent; but what was written becomes batches, which can be counted.
                value::<Vec<u8>>(db, "SELECT pending_ops()", []).map(|_| State::Paused).map_err(Problem::from)
            } else if Instant::now() < again {
                value::<Vec<u8>>(db, "SELECT pending_ops()", []).map(|_| locked(&self.status).state).map_err(Problem::from)
            } else {
                self.stands(|status| status.state = State::Syncing);
                let outcome = self.exchange(db);
                failures = if matches!(outcome, Ok(State::Idle)) { 0 } else { failures + 1 };
                again = Instant::now() + if failures == 0 { INTERVAL } else { backoff(failures) };
                outcome
            };
            let told = outcome.and_then(|state| self.count(db, state));
            if let Err(Problem(why)) = told {
                self.stands(|status| (status.state, status.error) = (State::Refused, Some(why)));
            }
        }
    }

    /// The whole loop. An error is one of the file; what the server said is in the status.
    fn exchange(&self, db: &Connection) -> Answer<State> {
        let (state, error) = match self.exchange_all(db)? {
            Ok(()) => (State::Idle, None),
            Err(Failed::Unreachable(why)) => (State::Offline, Some(why)),
            Err(Failed::Refused(status, why)) => (State::Refused, Some(format!("HTTP {status}: {why}"))),
        };
        self.stands(|status| status.error = error);
        Ok(state)
    }

    fn exchange_all(&self, db: &Connection) -> Answer<Result<(), Failed>> {
        let mut more = true;
        while more && !self.paused() && !self.ended() {
            let batches = value::<Vec<u8>>(db, "SELECT pending_ops()", [])?;
            let answer = match &batches {
                Some(batches) => self.transport.exchange("push", batches),
                None => {
                    let request = value::<Vec<u8>>(db, "SELECT pull_request()", [])?.unwrap_or_default();
                    self.transport.exchange("pull", &request)
                }
            };
            match answer {
                Ok(answer) => more = self.apply(db, &answer)? || batches.is_some(),
                Err(failed) => return Ok(Err(failed)),
            }
        }
        Ok(Ok(()))
    }

    /// Applies what the server answered. Whether there is more.
    fn apply(&self, db: &Connection, answer: &[u8]) -> Answer<bool> {
        let said: Option<String> = value(db, "SELECT apply_delta(?)", [answer])?;
        let said: serde_json::Value = serde_json::from_str(&said.unwrap_or_default()).map_err(|e| Problem(e.to_string()))?;
        let tables: Vec<String> = serde_json::from_value(said["tables"].clone()).unwrap_or_default();
        if !tables.is_empty() && !self.ended() {
            (self.tell)(Event::Changed(tables));
        }
        Ok(said["more"] == true)
    }

    fn count(&self, db: &Connection, state: State) -> Answer<()> {
        let sql = "SELECT CAST(value AS integer) FROM sync_status WHERE name = ?";
        let waiting = value(db, sql, ["waiting"])?.unwrap_or(0);
        let refused = value(db, sql, ["rejected"])?.unwrap_or(0);
        let user = value(db, "SELECT value FROM sync_status WHERE name = 'user'", [])?;
        self.stands(|status| {
            (status.state, status.waiting, status.refused, status.user) = (state, waiting, refused, user);
            status.live &= state != State::Paused;
        });
        Ok(())
    }

    fn listen(&self) {
        let mut failures = 0;
        while !self.ended() {
            let began = Instant::now();
            let outcome = if self.paused() { Ok(()) } else { self.transport.events(|| self.heard()) };
            match outcome {
                // Its time is over: another is opened at once. One that ends sooner is a failure, as one that does not begin is.
                Ok(()) if began.elapsed() > Duration::from_secs(5) => failures = 0,
                Ok(()) if self.paused() || self.ended() => {
                    failures = 0;
                    std::thread::sleep(Duration::from_millis(200));
                }
                _ => {
                    failures += 1;
                    self.stands(|status| status.live = false);
                    std::thread::sleep(backoff(failures));
                }
            }
        }
    }

    /// The server has said that there may be something. Whether to listen on.
    fn heard(&self) -> bool {
        let on = !self.paused() && !self.ended();
        if on {
            self.stands(|status| status.live = true);
            self.wake(Wake::Heard);
        }
        on
    }
}

fn backoff(failures: u32) -> Duration {
    let longest = LONGEST.min(Duration::from_millis(500) * 2u32.saturating_pow(failures.clamp(1, 16) - 1));
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}
