//! Bytes that nobody meant: a clear error, nothing changed, nobody crashed.

use crate::lists::Lists;
use fastrand::Rng;
use std::time::{Duration, Instant};
use sync_shared::envelope::{self, Kind};
use sync_shared::message::Delta;
use sync_tests::cluster::describe;
use sync_tests::device::{server_pull, server_push};
use sync_tests::Device;

/// Cuts, flips, fills, repeats and swaps bytes. The header stays whole most of the time, so that what is behind it is reached.
fn mutate(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        let from = if rng.u8(..) < 240 { 9.min(out.len()) } else { 0 };
        if out.len() <= from {
            out.push(rng.u8(..));
            continue;
        }
        let at = rng.usize(from..out.len());
        match rng.u8(..8) {
            0 => out.truncate(at),
            1 => out[at] = rng.u8(..),
            2 => out[at] ^= 1 << rng.u8(..8),
            3 => out[at] = [0xc0, 0xc6, 0xdb, 0xdd, 0xdf, 0xcf, 0xd3, 0x90, 0xff][rng.usize(..9)],
            4 => {
                let end = (at + rng.usize(1..20)).min(out.len());
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
            5 => {
                let other = rng.usize(from..out.len());
                out.swap(at, other);
            }
            6 => {
                let end = (at + rng.usize(1..20)).min(out.len());
                out.drain(at..end);
            }
            _ => {
                let end = (at + 4).min(out.len());
                out[at..end].fill(0xff);
            }
        }
    }
    out
}

/// The same message with its body uncompressed, so that mutations reach the values and not only the compression.
fn uncompressed(message: &[u8]) -> Vec<u8> {
    let body = match envelope::kind(message).expect("a message") {
        // Of no turn, or only the first would be looked at.
        Kind::Delta => {
            let delta = envelope::decode::<Delta>(message).expect("a message");
            rmp_serde::to_vec(&Delta { turn: 0, ..delta }).expect("a body")
        }
        _ => return message.to_vec(),
    };
    let mut out = message[..4].to_vec();
    out.push(0);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&body);
    with_length(out)
}

/// Sets the declared length and the checksum right, so that they are not what every mutation is refused for.
fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    if message.len() >= 13 && message[4] == 0 {
        let length = (message.len() - 13) as u32;
        message[5..9].copy_from_slice(&length.to_be_bytes());
    }
    envelope::seal(&mut message);
    message
}

/// Mutations in all: about a third for each function that takes bytes. On a slow machine as many as fit; how many is printed.
const MUTATIONS: usize = 100_000;
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_hundred_thousand_mutations_of_messages() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut lists = Lists::new();
    lists.run("INSERT INTO item SELECT i, i % 3 + 1, 'some text ' || i FROM generate_series(100, 120) i; UPDATE item SET list = 3 WHERE id = 3");
    lists.ann.run("INSERT INTO item VALUES (500, 1, 'pending', 0); UPDATE item SET body = 'changed' WHERE id = 6");
    let request = lists.ann.pull_request();
    let batches = lists.ann.pending_ops().expect("something waits");
    let delta = uncompressed(&server_pull(&mut lists.server, &lists.ann.user, &request).expect("a delta"));
    lists.run(r#"SELECT set_config('request.jwt.claims', '{"sub": "ann"}', false)"#);
    lists.run("CREATE FUNCTION undo(bytea) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'undone'; END $$");
    let pull = lists.server.prepare("SELECT sync.pull($1)").expect("a statement");
    let push_and_undo = lists.server.prepare("SELECT undo(sync.push($1))").expect("a statement");
    // Takes whatever a mutated delta that can still be read does to it.
    let victim = lists.ann.copy();
    let mut content = victim_rows(&victim);
    let begin = Instant::now();
    let on_server = "SELECT id, list, body, hidden FROM item ORDER BY id";
    let before = sync_tests::compare::server_rows(&mut lists.server, on_server);
    let (mut refused, mut done) = (0, 0);
    for i in 0..MUTATIONS {
        if begin.elapsed() > LIMIT {
            break;
        }
        done += 1;
        let ok = match i % 3 {
            0 => lists.server.query_one(&pull, &[&with_length(mutate(&mut rng, &request))]).map(|_| ()).map_err(|e| describe(&e)),
            1 => {
                let result = lists.server.query_one(&push_and_undo, &[&with_length(mutate(&mut rng, &batches))]);
                let error = describe(&result.expect_err("even a push that works is undone"));
                if error.starts_with("P0001 undone") {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            _ => {
                let result = victim.apply(&with_length(mutate(&mut rng, &delta))).map(|_| ());
                let now = victim_rows(&victim);
                assert!(result.is_ok() || now == content, "a refused message changed something (SEED={seed})");
                content = now;
                result
            }
        };
        if let Err(e) = ok {
            refused += 1;
            assert!(!e.contains("panick") && !e.starts_with("XX"), "{e} (SEED={seed})");
        }
    }
    println!("{done} mutations, {refused} refused, in {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(sync_tests::compare::server_rows(&mut lists.server, on_server), before);
    assert!(refused > done / 2, "most mutations must be refused: {refused} of {done}");
    lists.check();
}

fn victim_rows(device: &Device) -> Vec<Vec<String>> {
    device.rows("SELECT * FROM item ORDER BY id")
}

#[test]
fn messages_that_are_not_messages_are_refused_in_plain_words() {
    let mut lists = Lists::new();
    let request = lists.ann.pull_request();
    let mut deep = [b"SY\x01\x03\x00".as_slice(), &2000u32.to_be_bytes(), &[0; 4], &[0x91; 2000]].concat();
    envelope::seal(&mut deep);
    let bomb = {
        let mut bomb = b"SY\x01\x03\x01\xff\xff\xff\xff\0\0\0\0".to_vec();
        bomb.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        envelope::seal(&mut bomb);
        bomb
    };
    for bytes in [&b""[..], b"S", b"hello, this is no message", &request[..5], &deep, &bomb] {
        for result in [
            lists.ann.apply(bytes).map(|_| ()),
            server_pull(&mut lists.server, &lists.ann.user, bytes).map(|_| ()),
            server_push(&mut lists.server, &lists.ann.user, bytes).map(|_| ()),
        ] {
            let message = result.expect_err("refused");
            assert!(message.contains("message"), "{message}");
        }
    }
    // A message for one function given to another.
    assert!(lists.ann.apply(&request).is_err());
    assert!(server_push(&mut lists.server, &lists.ann.user, &request).is_err());
    lists.check();
}
