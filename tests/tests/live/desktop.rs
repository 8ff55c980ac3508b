//! The commands of the example for the desktop, in a process for each person: what a window would show.

use serde_json::{json, Value as Json};
use sync_tests::conversations::{conversations, Person, NEWS, SUMMER};
use sync_tests::gateway::Gateway;
use sync_tests::{Cluster, Device};

/// Somebody's process, with a file of its own in a folder that goes with the device.
fn person(name: &str) -> (Person, Device) {
    let device = Device::new(name);
    let file = device.path().with_file_name(format!("{name}.desktop.db"));
    (Person::start(file), device)
}

fn in_summer() -> Json {
    json!({ "conversation": SUMMER })
}

fn says(body: &str) -> Json {
    json!({ "conversation": SUMMER, "body": body })
}

/// Whether the last of some messages is this one, sent or waiting.
fn last(messages: &Json, author: &str, body: &str, waiting: bool) -> bool {
    let Some(last) = messages.as_array().and_then(|all| all.last()) else { return false };
    last["author"] == author && last["body"] == body && last["waiting"] == waiting
}

#[test]
fn desktop_what_one_person_writes_the_other_is_shown_at_once() {
    let served = conversations(Cluster::shared());
    let gateway = served.gateway(&[]);
    let ((mut ann, _a), (mut ben, _b)) = (person("ann"), person("ben"));
    assert_eq!(ann.call("conversations", json!({})), Err("no file is open: call connect first".into()));
    assert!(ann.call("dance", json!({})).is_err_and(|why| why.contains("unknown variant `dance`")));
    for (person, name) in [(&mut ann, "ann"), (&mut ben, "ben")] {
        person.connect(&gateway, &served.token(name), false).expect("it connects");
        person.until("status", &json!({}), |s| s["live"] == true && s["state"] == "idle" && s["user"] == name);
    }
    let held = ben.call("conversations", json!({})).expect("its conversations");
    let rows: Vec<_> = held.as_array().expect("a list").iter().map(|c| (&c["title"], &c["people"], &c["may_write"])).collect();
    assert_eq!(
        rows,
        [
            (&json!("News of the club"), &json!("Ann, Ben"), &json!(false)),
            (&json!("Summer in the Alps"), &json!("Ann, Ben"), &json!(true))
        ]
    );
    for (from_ann, body) in [(true, "Shall we hike?"), (false, "There is a lake."), (true, "Then we swim.")] {
        let (from, to, author) = if from_ann { (&mut ann, &mut ben, "Ann") } else { (&mut ben, &mut ann, "Ben") };
        from.call("send", says(body)).expect("it is written");
        to.until("messages", &in_summer(), |m| last(m, author, body, false));
    }
    let shown = ann.until("messages", &in_summer(), |m| last(m, "Ann", "Then we swim.", false));
    let mine: Vec<_> = shown.as_array().expect("a list").iter().map(|m| m["mine"] == true).collect();
    assert_eq!(mine, [true, false, true]);
}

#[test]
fn desktop_what_is_written_offline_waits_and_is_sent_later() {
    let served = conversations(Cluster::shared());
    let mut gateway = served.gateway(&[]);
    let address = gateway.address.to_string();
    let ((mut ann, _a), (mut ben, _b)) = (person("ann"), person("ben"));
    ann.connect(&gateway, &served.token("ann"), false).expect("it connects");
    ben.connect(&gateway, &served.token("ben"), false).expect("it connects");
    ben.until("conversations", &json!({}), |c| c.as_array().is_some_and(|c| c.len() == 2));
    ann.until("conversations", &json!({}), |c| c.as_array().is_some_and(|c| c.len() == 2));

    // By the user's own wish.
    ben.call("work_offline", json!({ "offline": true })).expect("it is switched");
    ben.until("status", &json!({}), |s| s["state"] == "paused" && s["live"] == false);
    ben.call("send", says("In the tunnel")).expect("it is written");
    ben.until("status", &json!({}), |s| s["waiting"] == 1);
    assert!(last(&ben.call("messages", in_summer()).expect("its messages"), "Ben", "In the tunnel", true));
    ann.call("send", says("Where are you?")).expect("it is written");
    ann.until("messages", &in_summer(), |m| last(m, "Ann", "Where are you?", false));
    assert_eq!(ann.call("messages", in_summer()).expect("its messages").as_array().map(Vec::len), Some(1));
    ben.call("work_offline", json!({ "offline": false })).expect("it is switched");
    ben.until("status", &json!({}), |s| s["state"] == "idle" && s["waiting"] == 0 && s["live"] == true);
    ann.until("messages", &in_summer(), |m| m.as_array().map(Vec::len) == Some(2));

    // Because there is no server.
    gateway.kill();
    ben.call("send", says("Is anybody there?")).expect("it is written");
    ben.until("status", &json!({}), |s| s["state"] == "offline" && s["waiting"] == 1 && s["live"] == false);
    assert!(last(&ben.call("messages", in_summer()).expect("its messages"), "Ben", "Is anybody there?", true));
    // The application ends meanwhile, and begins again with the same file.
    let file = ben.file.clone();
    drop(ben);
    let mut ben = Person::start(file);
    let again = Gateway::start(&served.address(), &["--listen", &address]);
    ben.connect(&again, &served.token("ben"), false).expect("it connects");
    ben.until("messages", &in_summer(), |m| last(m, "Ben", "Is anybody there?", false));
    ann.until("messages", &in_summer(), |m| last(m, "Ben", "Is anybody there?", false));
}

#[test]
fn desktop_what_the_server_refuses_is_shown_with_its_reason_and_may_be_sent_again() {
    let served = conversations(Cluster::shared());
    let gateway = served.gateway(&[]);
    let ((mut ann, _a), (mut ben, _b)) = (person("ann"), person("ben"));
    ann.connect(&gateway, &served.token("ann"), false).expect("it connects");
    // A token that has expired: it is said, and another one helps.
    ben.connect(&gateway, &served.token_until("ben", -60), false).expect("it connects");
    let status = ben.until("status", &json!({}), |s| s["state"] == "refused");
    assert!(status["error"].as_str().is_some_and(|e| e.starts_with("HTTP 401") && e.contains("expired")), "{status}");
    assert!(ben.call("send", says("Hello")).is_err_and(|why| why.contains("nobody is signed in")));
    ben.connect(&gateway, &served.token("ben"), false).expect("it connects");
    ben.until("conversations", &json!({}), |c| c.as_array().is_some_and(|c| c.len() == 2));

    ben.call("send", says("")).expect("it is written");
    ben.call("send", json!({ "conversation": NEWS, "body": "Read this" })).expect("it is written");
    let refused = ben.until("refused", &json!({}), |r| r.as_array().is_some_and(|r| r.len() == 2));
    assert_eq!(
        (&refused[0]["code"], &refused[0]["body"], &refused[0]["conversation"]),
        (&json!("23514"), &json!(""), &json!(SUMMER))
    );
    assert_eq!(
        (&refused[1]["code"], &refused[1]["body"], &refused[1]["conversation"]),
        (&json!("42501"), &json!("Read this"), &json!(NEWS))
    );
    assert!(
        refused.as_array().is_some_and(|all| all.iter().all(|r| r["message"].as_str().is_some_and(|m| m.len() > 10))),
        "{refused}"
    );
    assert_eq!(ben.call("messages", in_summer()).expect("its messages"), json!([]));

    ben.call("retry", json!({ "refused": refused[0]["id"], "body": "Hello" })).expect("it is written again");
    ben.call("discard", json!({ "refused": refused[1]["id"] })).expect("it goes");
    assert!(ben.call("retry", json!({ "refused": refused[1]["id"], "body": "x" })).is_err_and(|why| why.contains("no longer")));
    ann.until("messages", &in_summer(), |m| last(m, "Ben", "Hello", false));
    ben.until("status", &json!({}), |s| s["refused"] == 0 && s["waiting"] == 0);
    assert_eq!(ben.call("refused", json!({})), Ok(json!([])));
}
