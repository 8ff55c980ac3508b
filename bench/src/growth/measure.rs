//! What is measured at each size.

use super::{Figures, Scale, Series};
use crate::server::Session;
use crate::stats::Spread;
use crate::transport::{world, Synced, Transport};
use sync_shared::envelope;
use sync_shared::message::PushRequest;
use sync_tests::{Cluster, Database, Device};
use uuid::Uuid;

pub const ALL: &[Series] = &[
    Series {
        name: "rows",
        title: "Rows in one bucket",
        across: "rows",
        text: "A first sync of all of it, then 100 changes of random rows and a call that finds nothing, each once more after another. Server: \
               processor time of `sync.pull`; device: `pull_request` and `apply_delta` by the clock.",
        powers: [3, 7, 5],
        goals: &[("first sync, server", 12.0), ("first sync, device", 12.0), ("100 changes, server", 2.0)],
        measure: rows,
    },
    Series {
        name: "buckets",
        title: "Buckets that one device holds",
        across: "buckets",
        text: "One million rows, spread over the buckets. Another device holds ten of them: \"of 10\". `UPDATE`: 10,000 rows of as many buckets as \
               there are, in one statement.",
        powers: [0, 6, 4],
        goals: &[("first sync, server", 12.0), ("nothing changed, server", 12.0), ("nothing changed, server, of 10", 2.0)],
        measure: buckets,
    },
    Series {
        name: "devices",
        title: "Devices that are registered",
        across: "devices",
        text: "Each registers with a push of its own. Then one of them, with one bucket of 1,000 rows, pulls and pushes.",
        powers: [0, 5, 3],
        goals: &[("nothing changed, server", 2.0), ("1 change, server", 2.0), ("push of 1 change, server", 2.0)],
        measure: devices,
    },
    Series {
        name: "changes",
        title: "Changes that one pull brings",
        across: "changed rows",
        text: "So many rows of a bucket with a million change in one transaction, then a device that holds it pulls.",
        powers: [0, 6, 4],
        goals: &[("pull, server", 12.0), ("pull, device", 12.0)],
        measure: changes,
    },
];

/// The database of one size, dropped with its rows when it has been measured.
struct Place<'a> {
    cluster: &'a Cluster,
    database: Database<'a>,
    session: Session,
    transport: Transport,
}

impl<'a> Place<'a> {
    fn new(cluster: &'a Cluster, holdings: &[(&str, usize, usize, usize)]) -> Place<'a> {
        let (database, session) = world(cluster, holdings, true);
        let transport = Transport::new(&database);
        Place { cluster, database, session, transport }
    }

    fn close(self) {
        let name = self.database.name().to_owned();
        drop((self.session, self.transport));
        let mut client = self.cluster.connect("postgres", "postgres");
        client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).expect("a database is dropped");
        client.batch_execute("CHECKPOINT").expect("a checkpoint is made");
    }
}

/// The medians of what several calls took, in milliseconds: on the server, on the device.
fn medians(all: &[Synced]) -> (f64, f64) {
    let of = |figure: fn(&Synced) -> f64| Spread(all.iter().map(figure).collect()).median() * 1000.0;
    (of(|s| s.server.cpu), of(|s| s.device.wall))
}

fn idle(place: &mut Place<'_>, device: &Device, repeats: usize) -> (f64, f64) {
    place.transport.settle(device);
    medians(&(0..repeats).map(|_| place.transport.sync(device)).collect::<Vec<_>>())
}

/// Changes of random rows out of `of`, each followed by a pull.
fn changed(place: &mut Place<'_>, device: &Device, first: usize, rows: usize, of: usize, repeats: usize) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(11);
    let mut step = || {
        let keys: Vec<_> = (0..rows).map(|_| format!("md5('{first} {}')::uuid", random.usize(1..=of))).collect();
        place.session.run(&format!("UPDATE item SET rank = rank + 1 WHERE id IN ({})", keys.join(", ")));
        place.transport.sync(device)
    };
    medians(&(0..repeats).map(|_| step()).collect::<Vec<_>>())
}

fn rows(cluster: &Cluster, x: usize, scale: &Scale) -> Figures {
    let mut place = Place::new(cluster, &[("all", 2, 1, x)]);
    let device = Device::new("all");
    let first = place.transport.sync(&device);
    assert_eq!(device.value("SELECT count(*) FROM item"), x.to_string(), "the device holds the bucket");
    let (server, apply) = changed(&mut place, &device, 2, 100, x, scale.repeats / 5);
    let (quiet, quiet_device) = idle(&mut place, &device, scale.repeats);
    let file = crate::plain::file_size(device.connection());
    place.close();
    vec![
        ("first sync, server", first.server.cpu * 1000.0),
        ("first sync, device", first.device.wall * 1000.0),
        ("100 changes, server", server),
        ("100 changes, device", apply),
        ("nothing changed, server", quiet),
        ("nothing changed, device", quiet_device),
        ("wire, bytes per row", first.received as f64 / x as f64),
        ("file, bytes per row", file / x as f64),
    ]
}

fn buckets(cluster: &Cluster, x: usize, scale: &Scale) -> Figures {
    let mut place = Place::new(cluster, &[("all", 1, x, scale.rows.max(x))]);
    let some = x.min(10);
    place.session.run(&format!(
        "INSERT INTO holder SELECT 'few', ('00000000-0000-4000-8000-' || lpad(to_hex(1 + n), 12, '0'))::uuid
         FROM generate_series(0, {some} - 1) n;
         ANALYZE holder"
    ));
    let device = Device::new("all");
    let first = place.transport.sync(&device);
    let mut repeats = (scale.repeats * 1000 / x).clamp(5, scale.repeats);
    let quiet = idle(&mut place, &device, repeats);
    let one = changed(&mut place, &device, 1, 1, scale.rows.max(x), repeats);
    drop(device);
    let mut figures = vec![
        ("first sync, server", first.server.cpu * 1000.0),
        ("first sync, device", first.device.wall * 1000.0),
        ("nothing changed, server", quiet.0),
        ("nothing changed, device", quiet.1),
        ("1 change, server", one.0),
        ("1 change, device", one.1),
    ];
    if x > some {
        repeats = scale.repeats;
        let device = Device::new("few");
        figures.push(("nothing changed, server, of 10", idle(&mut place, &device, repeats).0));
    }
    let update = "UPDATE item SET rank = rank + 1 WHERE id IN
        (SELECT md5('1 ' || n)::uuid FROM generate_series(1, 10000) n)";
    let times: Vec<f64> = (0..5).map(|_| place.session.time(update).cpu * 1000.0).collect();
    figures.push(("UPDATE of 10,000 rows", Spread(times).median()));
    place.close();
    figures
}

fn devices(cluster: &Cluster, x: usize, scale: &Scale) -> Figures {
    const ROWS: usize = 1000;
    let mut place = Place::new(cluster, &[("one", 1, 1, ROWS)]);
    let device = Device::new("one");
    place.transport.settle(&device);
    let mut random = fastrand::Rng::with_seed(3);
    let registered = (1..x).map(|_| {
        let name = Uuid::from_u128(random.u128(..));
        let request = PushRequest { device: name, batches: Vec::new(), wants: Vec::new(), held: Vec::new(), differ: None };
        place.transport.push("one", &envelope::encode(&request).expect("a request is written")).0.cpu * 1000.0
    });
    let registered: Vec<f64> = registered.collect();
    place.session.run("VACUUM ANALYZE");
    let quiet = idle(&mut place, &device, scale.repeats);
    let one = changed(&mut place, &device, 1, 1, ROWS, scale.repeats);
    let pushes = (0..scale.repeats).map(|n| {
        device.run(&format!("UPDATE item SET rank = -{n} - 1 WHERE id = (SELECT id FROM item LIMIT 1 OFFSET {})", n % ROWS));
        let mut took = 0.0;
        while let Some(batches) = device.pending_ops() {
            let (push, reply) = place.transport.push("one", &batches);
            took += push.cpu * 1000.0;
            device.apply(&reply).expect("a reply is applied");
        }
        took
    });
    let pushes = Spread(pushes.collect()).median();
    let held = place.session.number("SELECT count(*) FROM sync.device");
    assert_eq!(held, x as f64, "each push registers a device");
    let mut figures = vec![
        ("nothing changed, server", quiet.0),
        ("1 change, server", one.0),
        ("push of 1 change, server", pushes),
        ("sync.maintain(), server", place.session.time("SELECT sync.maintain()").cpu * 1000.0),
        ("devices, bytes each", place.session.number("SELECT pg_total_relation_size('sync.device')") / held),
    ];
    if !registered.is_empty() {
        figures.push(("registering a device, server", Spread(registered).median()));
    }
    place.close();
    figures
}

fn changes(cluster: &Cluster, x: usize, scale: &Scale) -> Figures {
    let rows = scale.rows.max(x);
    let mut place = Place::new(cluster, &[("all", 2, 1, rows)]);
    let device = Device::new("all");
    place.transport.settle(&device);
    let repeats = (scale.repeats * 100 / x).clamp(1, scale.repeats / 5);
    let mut all = Vec::new();
    for n in 0..repeats {
        // Every row that often, none twice.
        place.session.run(&format!(
            "UPDATE item SET rank = rank + 1 WHERE id IN
             (SELECT md5('2 ' || (({n} + k * {}) % {rows} + 1))::uuid FROM generate_series(1, {x}) k)",
            rows / x
        ));
        all.push(place.transport.sync(&device));
    }
    let (server, apply) = medians(&all);
    let bytes = Spread(all.iter().map(|s| s.received as f64).collect()).median();
    place.close();
    vec![("pull, server", server), ("pull, device", apply), ("wire, bytes per change", bytes / x as f64)]
}
