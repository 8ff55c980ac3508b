//! What a seed means: a world, some devices, and a list of steps. Each step has a seed of its own, so that leaving one out changes
//! nothing about the others: that is what shrinking needs.

use fastrand::Rng;

/// What a step does; the rest of it comes from the step's own seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    ServerWrite,
    LedgerMove,
    Membership,
    BeginSlow,
    EndSlow,
    Maintain,
    DeviceWrite,
    PlainWrite,
    SecondConnection,
    Restart,
    OldPush,
    OldReply,
    LatePage,
    SyncBadly,
    Sync,
    PushOnly,
    OnePage,
    CutLink,
    MendLink,
    ClockJump,
    ChangeRules,
    ChangeSchema,
    ShortLease,
    SaveDevice,
    RestoreDevice,
    CloneDevice,
    SaveServer,
    PutBackServer,
    Crash,
    CrashIn,
}

use Action::*;

impl Action {
    /// What it counts as, in the shares that a run tells.
    pub fn kind(self) -> &'static str {
        match self {
            ServerWrite | LedgerMove | BeginSlow | EndSlow => "writes on the server",
            DeviceWrite | PlainWrite | SecondConnection => "writes on devices",
            Membership => "membership",
            ChangeRules | ChangeSchema => "changes of rules and tables",
            Maintain | ShortLease => "maintenance",
            SyncBadly | Sync | PushOnly | OnePage => "syncs",
            OldPush | OldReply | LatePage => "messages late or again",
            CutLink | MendLink => "links cut and mended",
            ClockJump => "clocks set wrong",
            Restart => "restarts of devices",
            SaveDevice | SaveServer => "copies taken",
            RestoreDevice | CloneDevice | PutBackServer => "something restored or cloned",
            Crash | CrashIn => "the server cut off",
        }
    }
}

/// How often each happens. The last ones only where a script is of that kind.
const ALWAYS: &[(u32, Action)] = &[
    (170, ServerWrite),
    (60, LedgerMove),
    (70, Membership),
    (30, BeginSlow),
    (30, EndSlow),
    (20, Maintain),
    (250, DeviceWrite),
    (40, PlainWrite),
    (20, SecondConnection),
    (30, Restart),
    (30, OldPush),
    (20, OldReply),
    (25, LatePage),
    (130, SyncBadly),
    (40, Sync),
    (30, PushOnly),
    (25, OnePage),
    (8, CutLink),
    (12, MendLink),
    (10, ClockJump),
];
const RULES: &[(u32, Action)] = &[(50, ChangeRules), (65, ChangeSchema)];
const LEASE: &[(u32, Action)] = &[(25, ShortLease)];
const FILES: &[(u32, Action)] = &[(12, SaveDevice), (22, RestoreDevice), (8, CloneDevice)];
const CRASHES: &[(u32, Action)] = &[(8, Crash), (16, CrashIn)];
const PUT_BACK: &[(u32, Action)] = &[(15, SaveServer), (15, PutBackServer)];

/// Which rare things a script may contain: what it must never see depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kind {
    pub rules: bool,
    pub lease: bool,
    pub files: bool,
    pub crashes: bool,
    pub put_back: bool,
    pub policies: bool,
}

impl Kind {
    fn random(rng: &mut Rng, policies: bool) -> Kind {
        Kind {
            rules: rng.bool(),
            lease: rng.u8(..4) == 0,
            files: rng.bool(),
            crashes: rng.u8(..8) == 0,
            put_back: rng.u8(..10) == 0,
            policies,
        }
    }

    fn actions(self) -> Vec<(u32, Action)> {
        let more =
            [(self.rules, RULES), (self.lease, LEASE), (self.files, FILES), (self.crashes, CRASHES), (self.put_back, PUT_BACK)];
        let more = more.into_iter().filter(|(is, _)| *is).flat_map(|(_, actions)| actions);
        ALWAYS.iter().chain(more).copied().collect()
    }

    /// Nothing that could make a device fetch again what it has.
    pub fn is_calm(self) -> bool {
        !(self.rules || self.lease || self.files || self.crashes || self.put_back)
    }
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Its place in the whole script, also after shrinking.
    pub number: usize,
    /// Which device, if it is about one.
    pub peer: usize,
    pub action: Action,
    pub seed: u64,
}

/// A whole script.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of the tables and rules.
    pub world: u64,
    pub peers: usize,
    pub kind: Kind,
    pub steps: Vec<Step>,
}

/// The script of a seed.
pub fn of(seed: u64, policies: bool) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let kind = Kind::random(&mut rng, policies);
    let actions = kind.actions();
    let (world, peers) = (rng.u64(..), rng.usize(2..=5));
    let step =
        |number, rng: &mut Rng| Step { number, peer: rng.usize(..peers), action: choose(&actions, rng), seed: rng.u64(..) };
    let steps = (0..rng.usize(20..150)).map(|number| step(number, &mut rng)).collect();
    Plan { world, peers, kind, steps }
}

fn choose(actions: &[(u32, Action)], rng: &mut Rng) -> Action {
    let sum: u32 = actions.iter().map(|(weight, _)| weight).sum();
    let mut at = rng.u32(..sum);
    for (weight, action) in actions {
        if at < *weight {
            return *action;
        }
        at -= weight;
    }
    unreachable!("the weights add up")
}
