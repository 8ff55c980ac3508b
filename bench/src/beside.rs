//! The plot that shows us beside peers, and beside what the databases do without any syncing.

use crate::plot::{bars, Bar, Bars, Kind};
use crate::results::{list, text};
use serde_json::Value;

/// A figure's median.
fn median(results: &Value, section: &str, what: &str) -> Option<f64> {
    let section = list(results, "sections").iter().find(|s| text(s, "name") == section)?;
    list(section, "figures").iter().find(|line| text(line, "what") == what)?["median"].as_f64()
}

/// A panel of figures that results.json has; what is not there is left out.
struct Panel<'r> {
    results: &'r Value,
    section: &'static str,
    bars: Vec<Bar>,
}

impl Panel<'_> {
    fn add(&mut self, name: &str, kind: Kind, value: Option<f64>) {
        self.bars.extend(value.map(|value| Bar { name: name.to_owned(), value, kind }));
    }

    fn figure(&mut self, name: &str, kind: Kind, what: &str) {
        let value = median(self.results, self.section, what);
        self.add(name, kind, value);
    }

    /// From a rate without syncing and how many times as long it takes with.
    fn slower(&mut self, name: &str, kind: Kind, plain: &str, times: &str) {
        let rate = median(self.results, self.section, plain);
        let value = rate.zip(median(self.results, self.section, times)).map(|(rate, times)| rate / times);
        self.add(name, kind, value);
    }

    /// From a rate without syncing and the part of it that is left with.
    fn part(&mut self, name: &str, kind: Kind, plain: &str, part: &str) {
        let rate = median(self.results, self.section, plain);
        let value = rate.zip(median(self.results, self.section, part)).map(|(rate, part)| rate * part);
        self.add(name, kind, value);
    }
}

/// What has taken the writes of bulk statements on the server, beside ours: the end of the figures' names.
const CAPTURES: [(&str, &str, Kind); 4] = [
    ("pg_sync", "pg_sync over plain", Kind::Ours),
    ("a logical slot, read by pgoutput", "a logical slot, written and read, over plain", Kind::Peer),
    ("PL/pgSQL statement triggers", "PL/pgSQL over plain", Kind::Peer),
    ("PL/pgSQL row triggers", "PL/pgSQL by row over plain", Kind::Peer),
];
/// Peers on the device: their name in results.json, without plain and ours.
const PEERS: [&str; 4] = ["session extension", "PowerSync, a transaction a line", "PowerSync, one transaction", "sqlite-sync"];

/// The plot, from results.json.
pub fn svg(results: &Value) -> String {
    let mut panels = Vec::new();
    let mut panel = |title: &str, unit, section, fill: &dyn Fn(&mut Panel<'_>)| {
        let mut panel = Panel { results, section, bars: Vec::new() };
        fill(&mut panel);
        if panel.bars.len() > 1 {
            panels.push(Bars { title: title.to_owned(), unit, bars: panel.bars });
        }
    };
    for kind in ["insert", "update", "delete"] {
        panel(&format!("The server captures a bulk {kind} of 100,000 rows"), "rows/s", "capture", &|p| {
            let plain = format!("{kind}, plain");
            p.figure("no capture at all", Kind::Limit, &plain);
            for (name, figure, of) in CAPTURES {
                p.slower(name, of, &plain, &format!("{kind}, {figure}"));
            }
        });
    }
    let single = "4 clients, synchronous_commit on";
    panel("Transactions of one row, 4 clients, commits that wait for the disk", "tps", "single", &|p| {
        let plain = format!("{single}, plain");
        p.figure("no capture at all", Kind::Limit, &plain);
        p.part("pg_sync", Kind::Ours, &plain, &format!("{single}, pg_sync over plain"));
        p.part("PL/pgSQL statement triggers", Kind::Peer, &plain, &format!("{single}, PL/pgSQL over plain"));
    });
    panel("The server answers a first sync, one core", "rows/s", "first-sync", &|p| {
        p.figure("COPY, binary", Kind::Limit, "1000000 rows, COPY binary, one core");
        p.figure("sync.pull", Kind::Ours, "1000000 rows, sync.pull, one core");
    });
    panel("A device applies 100,000 rows", "rows/s", "peers", &|p| {
        p.figure("a plain table", Kind::Limit, "apply, plain");
        p.figure("sqlite_sync", Kind::Ours, "apply, pg_sync");
        PEERS.iter().for_each(|name| p.figure(name, Kind::Peer, &format!("apply, {name}")));
    });
    panel("The device's file, in plain ones", "times", "peers", &|p| {
        p.add("a plain table", Kind::Limit, Some(1.0));
        p.figure("sqlite_sync", Kind::Ours, "file, pg_sync");
        PEERS.iter().for_each(|name| p.figure(name, Kind::Peer, &format!("file, {name}")));
    });
    panel("Time of local writes in bulk on the device, in plain ones", "times", "peers", &|p| {
        p.add("a plain table", Kind::Limit, Some(1.0));
        p.figure("sqlite_sync", Kind::Ours, "local bulk insert, time, pg_sync");
        PEERS.iter().for_each(|name| p.figure(name, Kind::Peer, &format!("local bulk insert, time, {name}")));
    });
    bars(&panels)
}
