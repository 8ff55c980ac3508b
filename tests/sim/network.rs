//! What a bad network does to a message.

use fastrand::Rng;

/// Which way a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    No,
    /// Nothing reaches the server.
    Up,
    /// Nothing reaches the device: what it sends is done all the same.
    Down,
    Both,
}

impl Cut {
    pub fn random(rng: &mut Rng) -> Cut {
        [Cut::Up, Cut::Down, Cut::Both][rng.usize(..3)]
    }

    /// Whether what the device sends is lost.
    pub fn is_up(self) -> bool {
        matches!(self, Cut::Up | Cut::Both)
    }
}

/// What becomes of one message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    Lost,
    Twice,
    /// Damaged, and lost.
    Damaged,
    /// Damaged, and then once more as it was.
    DamagedFirst,
}

impl Fate {
    /// A good network only delivers.
    pub fn random(rng: &mut Rng, lossy: bool) -> Fate {
        match if lossy { rng.u8(..20) } else { 19 } {
            0..3 => Fate::Lost,
            3 => Fate::Twice,
            4 => Fate::Damaged,
            5 => Fate::DamagedFirst,
            _ => Fate::Arrives,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Fate::Arrives => "arrive",
            Fate::Lost => "lost",
            Fate::Twice => "twice",
            Fate::Damaged => "damaged",
            Fate::DamagedFirst => "damaged and sent again",
        }
    }

    pub fn is_damaged(self) -> bool {
        matches!(self, Fate::Damaged | Fate::DamagedFirst)
    }

    /// How often it arrives as it was.
    pub fn times(self) -> usize {
        match self {
            Fate::Lost | Fate::Damaged => 0,
            Fate::Arrives | Fate::DamagedFirst => 1,
            Fate::Twice => 2,
        }
    }
}

/// Cut short, or with a bit or a byte changed.
pub fn damaged(message: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = message.to_vec();
    let at = rng.usize(..out.len());
    match rng.u8(..3) {
        0 => out.truncate(at),
        1 => out[at] ^= 1 << rng.u8(..8),
        _ => out[at] = out[at].wrapping_add(rng.u8(1..)),
    }
    out
}
