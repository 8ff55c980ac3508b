//! Carries a plan out, step by step, and checks after each what must always be true.

use crate::counts::Counts;
use crate::crashes::{self, Point};
use crate::history::History;
use crate::network::Cut;
use crate::peer::{stopped, Link, Peer};
use crate::plan::{Action, Kind, Plan, Step};
use crate::policies;
use crate::promises::Promises;
use crate::records;
use crate::server::Server;
use crate::world::{self, Facts, USERS};
use crate::{changes, statements};
use fastrand::Rng;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use sync_tests::device::load;
use sync_tests::{build, Cluster};

/// Devices at most, with clones.
const MOST_PEERS: usize = 7;

/// What was done and what came of it, a line each; told at once where somebody watches.
pub struct Log {
    lines: RefCell<Vec<String>>,
    tells: bool,
    pub counts: Counts,
}

impl Log {
    pub fn new(tells: bool) -> Log {
        Log { lines: RefCell::default(), tells, counts: Counts::default() }
    }

    fn say(&self, line: String) {
        if self.tells {
            println!("{line}");
        }
        self.lines.borrow_mut().push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }
}

struct Script<'a> {
    /// Of the step under way.
    rng: Rng,
    server: Server<'a>,
    facts: Facts,
    peers: Vec<Peer>,
    history: History,
    promises: Promises,
    kind: Kind,
    /// A device may be told to start over.
    resync: bool,
    /// The step under way did something.
    told: bool,
    log: &'a Log,
}

/// Runs a plan; an error is what went wrong.
pub fn run(cluster: &Cluster, plan: &Plan, log: &Log) -> Result<(), String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut script = Script::begin(cluster, plan, log);
        for step in &plan.steps {
            script.rng = Rng::with_seed(step.seed);
            script.step(step);
        }
        script.rng = Rng::with_seed(plan.world);
        script.finish();
        let Script { server, peers, .. } = script;
        drop(peers);
        server.end();
    }));
    outcome.map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
        text.unwrap_or("?").to_owned()
    })
}

impl<'a> Script<'a> {
    fn begin(cluster: &'a Cluster, plan: &Plan, log: &'a Log) -> Script<'a> {
        let mut rng = Rng::with_seed(plan.world);
        let mut server = Server::new(cluster);
        world::install(&mut server, &mut rng);
        if plan.kind.policies {
            policies::declare(&mut server, &mut rng);
        }
        let mut peers: Vec<Peer> = (0..plan.peers).map(|i| Peer::new(USERS[i % USERS.len()], &mut rng)).collect();
        let facts = Facts::read(&mut server);
        // Half of them are in use already.
        for peer in peers.iter_mut().step_by(2) {
            peer.sync(&mut Link {
                server: &mut server,
                rng: &mut rng,
                lossy: false,
                resync: false,
                calm: true,
                counts: &log.counts,
            });
        }
        Script {
            rng,
            server,
            facts,
            peers,
            history: History::default(),
            promises: Promises::default(),
            kind: plan.kind,
            resync: false,
            told: false,
            log,
        }
    }

    fn step(&mut self, step: &Step) {
        let peer = step.peer % self.peers.len();
        self.told = false;
        match step.action {
            Action::ServerWrite => {
                let sql = statements::server_transaction(&mut self.rng, &self.facts);
                self.on_server(step, &sql);
            }
            Action::LedgerMove => {
                let sql = match self.kind.policies && self.rng.bool() {
                    true => self.promises.on_server(&mut self.rng, &mut self.server, &format!("s{}", step.number)),
                    false => statements::ledger_transaction(&mut self.rng),
                };
                self.on_server(step, &sql);
            }
            Action::Membership => {
                let sql = statements::membership(&mut self.rng);
                self.on_server(step, &sql);
            }
            Action::BeginSlow => {
                let sql = format!("BEGIN; {}", statements::server_statements(&mut self.rng, &self.facts).join("; "));
                let result = self.server.begin_slow(&sql);
                self.tell(step, "slow transaction", &sql, result);
            }
            Action::EndSlow => self.end_slow(step),
            Action::Maintain => self.on_server(step, "SELECT sync.maintain()"),
            Action::ShortLease => self.short_lease(step),
            Action::ChangeRules | Action::ChangeSchema => self.change(step),
            Action::DeviceWrite | Action::PlainWrite | Action::SecondConnection => self.write(step, peer),
            Action::SaveServer => {
                self.server.save();
                self.tell(step, "server", "its disk is copied", Ok(()));
            }
            Action::PutBackServer => {
                if self.server.put_back() {
                    self.history.went_back();
                    self.resync = true;
                    self.facts = Facts::read(&mut self.server);
                    self.tell(step, "server", "the copy of its disk is put back", Ok(()));
                }
            }
            Action::Crash => {
                self.server.crash();
                self.history.crashed();
                self.facts = Facts::read(&mut self.server);
                self.tell(step, "server", "crash", Ok(()));
            }
            Action::CrashIn => {
                let at = Point::random(&mut self.rng);
                crashes::crash(at, &mut self.server, &mut self.peers[peer], &self.facts, &mut self.rng);
                self.log.counts.add("crashes at a point", format!("{at:?}"));
                // What the device was told before it.
                self.history.look(&self.peers[peer].device);
                self.history.crashed();
                self.facts = Facts::read(&mut self.server);
                self.tell(step, "server", &format!("crash, {at:?} of device {peer}"), Ok(()));
            }
            Action::CloneDevice => {
                if self.peers.len() < MOST_PEERS {
                    self.peers.push(self.peers[peer].cloned());
                    self.tell(step, &format!("device {peer}"), &format!("cloned: device {}", self.peers.len() - 1), Ok(()));
                }
            }
            _ => self.on_device(step, peer),
        }
        let kind = if self.told { step.action.kind() } else { "nothing to do" };
        self.log.counts.add("steps", kind);
        let device = &self.peers[peer].device;
        world::check_snapshot(device);
        self.history.look(device);
    }

    /// What only one device does.
    fn on_device(&mut self, step: &Step, peer: usize) {
        let Script { rng, server, peers, history, kind, resync, log, .. } = self;
        let lossy = step.action != Action::Sync;
        let calm = kind.is_calm() && !*resync;
        let mut link = Link { server, rng, lossy, resync: *resync, calm, counts: &log.counts };
        let at = &mut peers[peer];
        match step.action {
            Action::Restart => at.device.restart(),
            Action::OldPush => at.repeat_push(&mut link),
            Action::OldReply => {
                if let Some(losses) = at.repeat_reply(link.rng) {
                    history.look_back(&at.device, losses);
                }
            }
            Action::LatePage => at.late_page(link.rng),
            Action::SyncBadly | Action::Sync => at.sync(&mut link),
            Action::PushOnly => drop(at.push_once(&mut link)),
            Action::OnePage => drop(at.pull_once(&mut link)),
            Action::CutLink => at.cut = Cut::random(link.rng),
            Action::MendLink => at.cut = Cut::No,
            Action::ClockJump => at.clock = link.rng.i64(-3..=3) * 3_600_000_000,
            Action::SaveDevice => at.save(),
            Action::RestoreDevice => {
                at.restore();
                history.replaced(peer);
            }
            other => unreachable!("{other:?} is not about one device"),
        }
        let device = &self.peers[peer].device;
        let known = !device.rows("SELECT 1 FROM sqlite_schema WHERE name = 'sync_status'").is_empty();
        let state = if known {
            device.rows("SELECT name, value FROM sync_status WHERE name IN ('waiting', 'answered', 'rejected', 'rows')")
        } else {
            Vec::new()
        };
        self.tell(step, &format!("device {peer}"), &format!("{:?}: {:?}", step.action, state.concat()), Ok(()));
    }

    /// A local transaction, on one of three kinds of connections.
    fn write(&mut self, step: &Step, peer: usize) {
        let trace = format!("w{}.{peer}", step.number);
        let device = &self.peers[peer].device;
        let more = self.kind.policies && self.rng.bool();
        let more = if more { self.promises.on_device(&mut self.rng, device, &trace) } else { None };
        let (sql, commits) = statements::device_transaction(&mut self.rng, device, &trace, more);
        let (who, result) = match step.action {
            Action::DeviceWrite => {
                let mut result = Ok(());
                let stops = self.rng.u8(..16) == 0;
                match stops {
                    true => stopped(device, &mut self.rng, |device| result = device.try_run(&sql)),
                    false => result = device.try_run(&sql),
                }
                if !device.connection().is_autocommit() {
                    device.run("ROLLBACK");
                }
                if stops && result.is_err() {
                    self.log.counts.add("stops of devices", "writing");
                }
                ("", result)
            }
            other => {
                let connection = device.plain_connection();
                if other == Action::SecondConnection {
                    load(&connection, &build::library("libsqlite_sync.so"));
                }
                let who = if other == Action::PlainWrite { " without the extension" } else { " on a second connection" };
                (who, connection.execute_batch(&sql).map_err(|e| e.to_string()))
            }
        };
        if result.is_ok() && commits {
            self.history.wrote(peer, &trace);
        }
        self.tell(step, &format!("device {peer}{who}"), &sql, result);
    }

    /// Rules wait for writers, so those that this script would keep waiting end first.
    fn change(&mut self, step: &Step) {
        while !self.server.slow.is_empty() {
            self.end_slow(step);
        }
        let sql = match step.action {
            Action::ChangeRules => changes::of_rules(&mut self.rng, &self.facts),
            _ => changes::of_schema(&mut self.rng, &self.facts),
        };
        self.log.counts.add("changes of rules and tables", changes::kind(&sql));
        self.on_server(step, &sql);
        self.facts = Facts::read(&mut self.server);
    }

    /// Maintenance with a lease that has passed for everybody: whoever asks with an older cursor is behind the log.
    fn short_lease(&mut self, step: &Step) {
        self.resync = true;
        self.on_server(step, "SET sync.lease = '0 seconds'");
        for _ in 0..2 {
            self.on_server(step, "SELECT sync.maintain()");
        }
        self.on_server(step, "RESET sync.lease");
    }

    fn end_slow(&mut self, step: &Step) {
        if self.server.slow.is_empty() {
            return;
        }
        let mut client = self.server.slow.swap_remove(self.rng.usize(..self.server.slow.len()));
        let end = if self.rng.u8(..5) == 0 { "ROLLBACK" } else { "COMMIT" };
        client.batch_execute(end).expect("an end");
        self.tell(step, "slow transaction", end, Ok(()));
    }

    fn on_server(&mut self, step: &Step, sql: &str) {
        let result = self.server.run(sql);
        self.tell(step, "server", sql, result);
    }

    fn tell(&mut self, step: &Step, who: &str, what: &str, result: Result<(), String>) {
        self.told = true;
        self.log.say(format!("{:>4} {who}: {what}", step.number));
        if let Err(error) = result {
            self.log.say(format!("        failed: {error}"));
        }
    }

    /// Ends what is open, brings everybody up to date, and compares.
    fn finish(&mut self) {
        let last = Step { number: 0, peer: 0, action: Action::EndSlow, seed: 0 };
        while !self.server.slow.is_empty() {
            self.end_slow(&last);
        }
        self.facts = Facts::read(&mut self.server);
        // A batch that was answered `later` waits for the next round, one that the server lost is sent again after some; when nobody
        // waits any more, the last round brings the rest.
        let mut last = false;
        for round in 0.. {
            assert!(round < 10, "batches still wait after {round} rounds with a good network");
            for peer in &mut self.peers {
                peer.cut = Cut::No;
                let calm = self.kind.is_calm() && !self.resync;
                let Script { rng, server, resync, log, .. } = self;
                peer.sync(&mut Link { server, rng, lossy: false, resync: *resync, calm, counts: &log.counts });
                self.history.look(&peer.device);
            }
            if last {
                break;
            }
            last = self.peers.iter().all(|peer| !peer.waits());
        }
        for (i, peer) in self.peers.iter().enumerate() {
            self.log.say(format!("     device {i}: check"));
            world::check(&peer.device, &mut self.server, &self.facts);
        }
        let applied = self.history.check(&mut self.server, &self.peers);
        let exact = !self.history.lost();
        if self.kind.policies {
            self.promises.check(&mut self.server, &applied, exact);
        }
        records::check(&mut self.server);
        if exact && !self.resync && !self.kind.files {
            self.peers.iter().for_each(|peer| records::check_both_sides(&mut self.server, peer));
        }
        records::count(&mut self.server, |group, kind, n| self.log.counts.more(group, kind, n));
    }
}
