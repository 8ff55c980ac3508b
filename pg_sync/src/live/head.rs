//! A head: how far somebody has seen, as text that only this module reads.

use crate::snapshot::Snapshot;
use std::fmt;
use std::str::FromStr;

/// `xmin:xmax:running,...@timeline`, and behind a `#` what the tables that members read looked like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub snapshot: Snapshot,
    pub timeline: u32,
    /// None: not looked at.
    pub members: Option<i64>,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.snapshot.xmin, self.snapshot.xmax)?;
        for (at, xid) in self.snapshot.running.iter().enumerate() {
            write!(f, "{}{xid}", if at > 0 { "," } else { "" })?;
        }
        write!(f, "@{}", self.timeline)?;
        self.members.map_or(Ok(()), |members| write!(f, "#{members}"))
    }
}

impl FromStr for Head {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse::<u64>().map_err(drop);
        let (place, members) = match text.split_once('#') {
            Some((place, members)) => (place, Some(members.parse().map_err(drop)?)),
            None => (text, None),
        };
        let (snapshot, timeline) = place.split_once('@').ok_or(())?;
        let mut parts = snapshot.splitn(3, ':');
        let mut next = || parts.next().ok_or(());
        let (xmin, xmax, list) = (number(next()?)?, number(next()?)?, next()?);
        let mut running = list.split(',').filter(|xid| !xid.is_empty()).map(number).collect::<Result<Vec<_>, ()>>()?;
        running.sort_unstable();
        Ok(Head { snapshot: Snapshot { xmin, xmax, running }, timeline: timeline.parse().map_err(drop)?, members })
    }
}
