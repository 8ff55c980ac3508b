//! Random histories of rows whose keys SQLite chose: whatever moves, rows that belong together stay together, nothing collides on the
//! server, and no batch arrives before what it refers to.

mod common;
use common::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    /// Inserts an order without a key, below another one if there is one.
    Order(u8, bool),
    /// The same with a number that was asked for, if there is one.
    Asked(u8),
    Line(u8, u8),
    /// Moves a line to another order.
    Give(u8, u8),
    Below(u8, u8),
    Drop(u8),
    DropLine(u8),
    /// The server makes an order with the next number of the sequence.
    Server,
    /// Pushes until nothing goes; the server leases so many numbers when asked.
    Push(u8),
    Publish,
    Kill,
    Fork,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        6 => (any::<u8>(), any::<bool>()).prop_map(|(o, plain)| Step::Order(o, plain)),
        1 => any::<u8>().prop_map(Step::Asked),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(o, n)| Step::Line(o, n)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(l, o)| Step::Give(l, o)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(o, u)| Step::Below(o, u)),
        2 => any::<u8>().prop_map(Step::Drop),
        1 => any::<u8>().prop_map(Step::DropLine),
        1 => Just(Step::Server),
        3 => (0..6u8).prop_map(Step::Push),
        2 => Just(Step::Publish),
        1 => Just(Step::Kill),
        1 => Just(Step::Fork),
    ];
    prop::collection::vec(one, 1..30)
}

#[derive(Default)]
struct Server {
    /// title and the order above
    orders: BTreeMap<i64, (String, Option<i64>)>,
    lines: BTreeMap<(i64, i64), String>,
    sequence: i64,
    taken: BTreeSet<BatchRandom>,
    last: Option<BatchId>,
}

fn integer(value: &Value) -> i64 {
    if let Value::Integer(i) = value {
        *i
    } else {
        panic!("{value:?} is no number")
    }
}

impl Server {
    fn take(&mut self, batch: &Batch) {
        self.last = Some(batch.id);
        if !self.taken.insert(batch.id.random) {
            return;
        }
        let schema = shop(true);
        for change in &batch.changes {
            let table = schema.tables.iter().find(|t| t.tag == change.table).unwrap();
            let new = |name: &str| {
                let tag = table.columns.iter().find(|c| c.name == name).unwrap().tag;
                change.columns.iter().position(|t| *t == tag).and_then(|at| change.new.get(at))
            };
            let text = |v: &Value| if let Value::Text(t) = v { t.clone() } else { panic!("{v:?} is no text") };
            let key = integer(&change.key[0]);
            if table.name == "orders" {
                match change.kind {
                    ChangeKind::Insert => {
                        assert!(key <= self.sequence, "{key} was not leased");
                        let row = (text(new("title").unwrap()), new("up").map(integer));
                        assert_eq!(self.orders.insert(key, row), None, "order {key} is there already");
                    }
                    ChangeKind::Update => {
                        let up = new("up").unwrap();
                        self.orders.get_mut(&key).expect("the order is there").1 =
                            if *up == Value::Null { None } else { Some(integer(up)) };
                    }
                    ChangeKind::Delete => assert!(self.orders.remove(&key).is_some(), "order {key} is not there"),
                }
            } else {
                let key = (key, integer(&change.key[1]));
                match change.kind {
                    ChangeKind::Insert => assert_eq!(self.lines.insert(key, text(new("body").unwrap())), None),
                    ChangeKind::Update => *self.lines.get_mut(&key).expect("the line is there") = text(new("body").unwrap()),
                    ChangeKind::Delete => assert!(self.lines.remove(&key).is_some()),
                }
            }
        }
        let above = self.orders.values().filter_map(|(_, up)| *up);
        let broken: Vec<_> = above.chain(self.lines.keys().map(|k| k.0)).filter(|o| !self.orders.contains_key(o)).collect();
        assert!(broken.is_empty(), "orders {broken:?} are referred to and not there");
    }

    fn push(&mut self, device: &Device, generous: u8) {
        while let Some(request) = device.push_request() {
            request.batches.iter().for_each(|b| self.take(b));
            let mut answer = reply(&request.batches, Verdict::Accepted);
            if !request.wants.is_empty() && generous > 0 {
                let (first, count) = (self.sequence + 1, u32::from(generous));
                self.sequence += i64::from(count);
                answer.leases =
                    vec![KeyLease { table: shop(true).tables[0].tag, first, step: 1, count, proof: Default::default() }];
            }
            steady(device, || device.apply_message(&answer));
        }
    }

    fn publish(&self, device: &Device) {
        let schema = shop(true);
        let number = |i: &i64| Value::Integer(*i);
        let orders: Vec<_> = (self.orders.iter())
            .map(|(id, (title, up))| {
                let up = up.as_ref().map_or(Value::Null, number);
                values(&schema.tables[0], &[("id", number(id)), ("title", Value::Text(title.clone())), ("up", up)])
            })
            .collect();
        let lines: Vec<_> = (self.lines.iter())
            .map(|((order, n), body)| {
                values(&schema.tables[1], &[("order_id", number(order)), ("n", number(n)), ("body", Value::Text(body.clone()))])
            })
            .collect();
        let mut page =
            empty().rows_in(&schema.tables[0], 1, &orders).rows_in(&schema.tables[1], 2, &lines).starting_empty().publish();
        page.0.last_batch = self.last;
        device.apply(&page);
    }

    fn says(&self) -> BTreeSet<String> {
        let title = |id: &i64| self.orders[id].0.clone();
        let orders = self.orders.values().map(|(own, up)| format!("{own} below {}", up.as_ref().map(title).unwrap_or_default()));
        orders.chain(self.lines.iter().map(|((order, n), body)| format!("{n} {body} of {}", title(order)))).collect()
    }
}

/// What belongs to what, by titles: numbers do not matter.
fn says(device: &Device) -> BTreeSet<String> {
    let sql = "SELECT o.title || ' below ' || coalesce(u.title, '') FROM orders o LEFT JOIN orders u ON u.id = o.up \
               UNION ALL SELECT l.n || ' ' || l.body || ' of ' || o.title FROM lines l LEFT JOIN orders o ON o.id = l.order_id";
    let mut statement = device.db.prepare(sql).unwrap();
    let rows = statement.query_map([], |r| r.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Runs what must not change what belongs to what. An order of the server's whose number a row here had may appear.
fn steady<T>(device: &Device, run: impl FnOnce() -> T) -> T {
    let before = says(device);
    let out = run();
    let mut after = says(device);
    after.retain(|said| before.contains(said) || !said.starts_with('s'));
    assert_eq!(after, before);
    out
}

fn pick(device: &Device, sql: &str, which: u8) -> Option<i64> {
    let mut statement = device.db.prepare(sql).unwrap();
    let all: Vec<i64> = statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    all.get(usize::from(which) % all.len().max(1)).copied()
}

const ORDERS: &str = "SELECT id FROM orders ORDER BY title";
const LINES: &str = "SELECT n FROM lines ORDER BY n";

fn play(steps: &[Step]) {
    let mut device = Device::new();
    device.apply(&only(shop(true)));
    let mut server = Server { sequence: 2, ..Server::default() };
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Order(above, extension) => {
                let up = pick(&device, ORDERS, *above).map_or("NULL".into(), |id| id.to_string());
                let sql = format!("INSERT INTO orders(title, up) VALUES ('o{at}', {up})");
                if *extension {
                    device.run(&sql);
                } else {
                    device.plain().execute_batch(&sql).unwrap();
                }
            }
            Step::Asked(count) => {
                for n in 0..count % 3 {
                    let _ = device
                        .db
                        .execute_batch(&format!("INSERT INTO orders(id, title) SELECT sync_next_id('orders'), 'a{at}.{n}'"));
                }
            }
            Step::Line(order, more) => {
                if let Some(order) = pick(&device, ORDERS, *order) {
                    device.run(&format!("BEGIN; INSERT INTO lines VALUES ({order}, {at}, 'l{at}')"));
                    if more % 3 == 0 {
                        device.run(&format!("INSERT INTO orders(title, up) VALUES ('n{at}', {order}); INSERT INTO lines SELECT id, 1000 + {at}, title FROM orders WHERE title = 'n{at}'"));
                    }
                    device.run("COMMIT");
                }
            }
            Step::Give(line, order) => {
                if let (Some(line), Some(order)) = (pick(&device, LINES, *line), pick(&device, ORDERS, *order)) {
                    device.run(&format!("UPDATE lines SET order_id = {order} WHERE n = {line}"));
                }
            }
            Step::Below(order, above) => {
                if let (Some(order), Some(above)) = (pick(&device, ORDERS, *order), pick(&device, ORDERS, *above)) {
                    device.run(&format!(
                        "UPDATE orders SET up = {} WHERE id = {order}",
                        if at % 4 == 0 { "NULL".into() } else { above.to_string() }
                    ));
                }
            }
            Step::Drop(order) => {
                let free = "SELECT id FROM orders o WHERE NOT EXISTS (SELECT 1 FROM lines WHERE order_id = o.id) AND NOT EXISTS (SELECT 1 FROM orders WHERE up = o.id) ORDER BY title";
                if let Some(order) = pick(&device, free, *order) {
                    device.run(&format!("DELETE FROM orders WHERE id = {order}"));
                }
            }
            Step::DropLine(line) => {
                if let Some(line) = pick(&device, LINES, *line) {
                    device.run(&format!("DELETE FROM lines WHERE n = {line}"));
                }
            }
            Step::Server => {
                server.sequence += 1;
                server.orders.insert(server.sequence, (format!("s{at}"), None));
            }
            Step::Push(generous) => {
                device.request();
                server.push(&device, *generous);
            }
            Step::Publish => server.publish(&device),
            Step::Kill => {
                device.db = rusqlite::Connection::open(&device.path).unwrap();
                load(&device.db);
            }
            Step::Fork => {
                steady(&device, || device.apply_message(&state_reply(PushState::Fork, None)));
            }
        }
    }
    device.request();
    server.push(&device, 200);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending WHERE state <> 'answered'"), 0);
    server.publish(&device);
    assert_eq!(says(&device), server.says());
    assert_eq!(device.number("SELECT (SELECT count(*) FROM sync_shadow) + (SELECT count(*) FROM sync_pending)"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_that_belong_together_move_together(steps in steps()) {
        play(&steps);
    }
}
