//! Bytes that nobody meant: a clear error, nothing changed, nobody crashed.

use crate::lists::Lists;
use fastrand::Rng;
use std::time::{Duration, Instant};
use sync_shared::envelope;
use sync_tests::cluster::describe;
use sync_tests::device::{server_pull, server_push};
use sync_tests::{mutate, Device};

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
    let delta = server_pull(&mut lists.server, &lists.ann.user, &request).expect("a delta");
    let [request, batches, delta] = [&request, &batches, &delta].map(|m| mutate::uncompressed(m).expect("a message"));
    // Half of them byte by byte, half of them field by field.
    let mutate = |rng: &mut Rng, m: &[u8]| if rng.bool() { mutate::bytes(rng, m) } else { mutate::fields(rng, m, m) };
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
            0 => lists.server.query_one(&pull, &[&mutate(&mut rng, &request)]).map(|_| ()).map_err(|e| describe(&e)),
            1 => {
                let result = lists.server.query_one(&push_and_undo, &[&mutate(&mut rng, &batches)]);
                let error = describe(&result.expect_err("even a push that works is undone"));
                if error.starts_with("P0001 undone") {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            _ => {
                let result = victim.apply(&mutate(&mut rng, &delta)).map(|_| ());
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
