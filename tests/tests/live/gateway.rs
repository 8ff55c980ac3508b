//! Devices sync through the gateway.

use crate::{until, SOON};
use serde_json::json;
use std::time::Duration;
use sync_tests::gateway::{served, signed, Events};
use sync_tests::{Cluster, Device};

#[test]
fn devices_sync_through_the_gateway_both_ways() {
    let served = served(Cluster::shared());
    served.db.run("INSERT INTO list VALUES (1, 'Groceries'); INSERT INTO member VALUES (1, 'ann'), (1, 'bob')");
    let gateway = served.gateway(&[]);
    let (ann, bob) = (Device::new("ann"), Device::new("bob"));
    let (of_ann, of_bob) = (served.token("ann"), served.token("bob"));
    let (at_ann, at_bob) = (Events::open(&gateway, &of_ann), Events::open(&gateway, &of_bob));
    until(&gateway, &at_ann, &ann, &of_ann, "SELECT count(*) FROM list", "1");
    gateway.sync(&bob, &of_bob).expect("bob syncs");
    bob.run("INSERT INTO task (list_id, body) VALUES (1, 'Milk'); INSERT INTO task (list_id, body) VALUES (1, '')");
    gateway.sync(&bob, &of_bob).expect("bob sends");
    assert_eq!(bob.value("SELECT count(*) FROM sync_rejected"), "1");
    until(&gateway, &at_ann, &ann, &of_ann, "SELECT group_concat(body) FROM task", "Milk");
    ann.run("UPDATE task SET body = 'Oat milk'");
    gateway.sync(&ann, &of_ann).expect("ann sends");
    until(&gateway, &at_bob, &bob, &of_bob, "SELECT group_concat(body) FROM task", "Oat milk");
    served.db.run("DELETE FROM task");
    until(&gateway, &at_bob, &bob, &of_bob, "SELECT count(*) FROM task", "0");
}

#[test]
fn only_a_token_that_counts_says_who_asks() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&[]);
    let device = Device::new("user1");
    let request = device.pull_request();
    let forged = signed(
        &json!({ "sub": "user1", "iss": "https://issuer.example", "aud": "app", "exp": 4_000_000_000_u32 }),
        &"x".repeat(40),
    );
    let other = signed(
        &json!({ "sub": "user1", "iss": "https://issuer.example", "aud": "other", "exp": 4_000_000_000_u32 }),
        "a secret of at least thirty-two bytes",
    );
    for (token, why) in [
        ("", "is missing"),
        ("nonsense", "the token is refused"),
        (&*forged, "signature"),
        (&*other, "audience"),
        (&*served.token_until("user1", -3600), "expired"),
    ] {
        for (method, path) in [("POST", "/sync/pull"), ("POST", "/sync/push"), ("GET", "/sync/events")] {
            let body: &[u8] = if method == "GET" { b"" } else { &request };
            let reply = gateway.ask(method, path, token, body).expect("an answer");
            assert_eq!(reply.status, 401, "{path} {}", reply.text());
            assert!(reply.text().contains(why), "{path}: {} says nothing of \"{why}\"", reply.text());
            assert!(reply.head.to_lowercase().contains("www-authenticate: bearer"));
        }
    }
    // What else a client says of itself is nothing.
    let extra = format!("{}\r\nX-User: user1\r\nX-Forwarded-User: user1", served.token("nobody"));
    let stranger = Device::new("nobody");
    stranger
        .apply(&gateway.ask("POST", "/sync/pull", &extra, &stranger.pull_request()).expect("an answer").body)
        .expect("a delta");
    assert_eq!(stranger.value("SELECT count(*) FROM list"), "0");
    // A role that the gateway's login may not take.
    let claims =
        json!({ "sub": "user1", "role": "postgres", "iss": "https://issuer.example", "aud": "app", "exp": 4_000_000_000_u32 });
    gateway.sync(&device, &served.token("user1")).expect("a sync");
    device.run("INSERT INTO task (list_id, body) VALUES (1, 'x')");
    let batches = device.pending_ops().expect("something to send");
    let reply = gateway
        .ask("POST", "/sync/push", &signed(&claims, "a secret of at least thirty-two bytes"), &batches)
        .expect("an answer");
    assert_eq!((reply.status, &*reply.text()), (403, "this user may not do that"));
}

#[test]
fn a_stream_ends_with_its_token() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&["--heartbeat", "1"]);
    // Postgres takes a token for 60 seconds more: clocks differ.
    let events = Events::open(&gateway, &served.token_until("user1", -57));
    assert!(events.ends(SOON));
    let lasting = Events::open(&gateway, &served.token("user1"));
    assert!(!lasting.ends(Duration::from_millis(1500)), "a stream goes on while its token counts");
}

#[test]
fn what_is_asked_wrongly_is_told_so_in_plain_words() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&[]);
    let token = served.token("ann");
    let cases = [
        ("POST", "/sync/pull", &b"nonsense"[..], 400, "sync.pull: "),
        ("POST", "/sync/push", &[0; 100][..], 400, "not a push request: "),
        ("GET", "/sync/pull", b"", 405, ""),
        ("POST", "/elsewhere", b"", 404, "there is only /sync/pull"),
    ];
    for (method, path, body, status, text) in cases {
        let reply = gateway.ask(method, path, &token, body).expect("an answer");
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(reply.text().starts_with(text), "{}", reply.text());
    }
    // Nothing of the inside.
    served.db.run("ALTER FUNCTION sync.pull(bytea) RENAME TO pull_away");
    let reply = gateway.ask("POST", "/sync/pull", &token, b"x").expect("an answer");
    assert_eq!((reply.status, &*reply.text()), (500, "the server failed: its log says why"));
}

#[test]
fn operators_see_how_it_is() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&[]);
    let token = served.token("user1");
    let _events = Events::open(&gateway, &token);
    let device = Device::new("user1");
    gateway.sync(&device, &token).expect("a sync");
    assert_eq!(gateway.ask("GET", "/healthz", "", b"").expect("an answer").text(), "ok");
    let metrics = gateway.ask("GET", "/metrics", "", b"").expect("an answer").text();
    for line in [
        "sync_gateway_streams 1",
        "sync_gateway_requests_total{call=\"push\",status=\"2xx\"} 0",
        "sync_gateway_seconds_bucket{call=\"pull\",le=\"+Inf\"} ",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    // Each line is one that Prometheus reads.
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(value.parse::<f64>().is_ok() && name.starts_with("sync_gateway_"), "{line}");
    }
    // On an address of their own they are on no other.
    let apart = served.gateway(&["--metrics-listen", "127.0.0.1:0"]);
    assert_eq!(apart.ask("GET", "/metrics", "", b"").expect("an answer").status, 404);
    // A gateway whose database is away says so, and is there.
    let away = sync_tests::gateway::Gateway::start(
        "host=127.0.0.1 port=1 user=nobody dbname=none connect_timeout=1",
        &["--timeout", "1"],
    );
    let reply = away.ask("GET", "/healthz", "", b"").expect("an answer");
    assert_eq!(reply.status, 503);
    let reply = away.ask("POST", "/sync/pull", &token, b"x").expect("an answer");
    assert_eq!((reply.status, reply.text().contains("127.0.0.1")), (503, false));
    assert!(reply.head.to_lowercase().contains("retry-after: "));
}
