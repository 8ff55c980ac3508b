//! Whatever texts a device sends, merging them is bounded work: counted, not timed. The server's own code, without a server.

#[path = "../../../pg_sync/src/push/policy/diff.rs"]
mod diff;
#[path = "../../../pg_sync/src/push/policy/text.rs"]
mod text;

use fastrand::Rng;
use text::{merge, Budget, OF_BATCH, OF_MERGE};

/// What the work may be here, for texts of some ten thousand bytes: enough for a small part of comparing everything with everything.
const WORK: u64 = 1_000_000;
/// What is done for each byte in any case.
const PER_BYTE: u64 = 10;

fn joined(tokens: impl Iterator<Item = String>, between: &str) -> String {
    tokens.collect::<Vec<_>>().join(between)
}

/// Three texts by what is hard about them.
fn hostile(between: &str) -> Vec<(&'static str, [String; 3])> {
    let mut random = Rng::with_seed(7);
    let mut of = |count: usize, words: usize| joined((0..count).map(|_| random.usize(..words).to_string()), between);
    let named = |name: &str| joined((0..10_000).map(|i| format!("{name}{i}")), between);
    let each = |n: usize| joined((0..20_000).map(|i| if i % n == 0 { "a" } else { "b" }.to_owned()), between);
    let pairs = |name: &str| joined((0..4_000).map(|i| format!("{i}{between}{name}{i} x y")), between);
    let (once, one) = (named("w"), "a".to_owned() + between);
    let backwards = joined(once.split(between).map(str::to_owned).collect::<Vec<_>>().into_iter().rev(), between);
    vec![
        ("all different", [named("a"), named("b"), named("c")]),
        ("backwards", [once.clone(), backwards, named("w").replace('w', "v")]),
        ("one repeated", [one.repeat(20_000), one.repeat(19_000) + "b", "c".to_owned() + &one.repeat(20_000)]),
        ("two at random", [of(20_000, 2), of(20_000, 2), of(20_000, 2)]),
        ("a few at random", [of(10_000, 70), of(10_000, 70), of(10_000, 70)]),
        ("many at random", [of(10_000, 5_000), of(10_000, 5_000), of(10_000, 5_000)]),
        ("periods", [each(2), "c".to_owned() + between + &each(3), "d".to_owned() + between + &each(5)]),
        ("a conflict at every second place", [pairs("a"), pairs("b"), pairs("c")]),
        ("signs", ["!".repeat(40_000), "!?".repeat(20_000), "?!!".repeat(14_000)]),
    ]
}

#[test]
fn merging_hostile_texts_is_bounded_work() {
    for between in [" ", "\n", " \n"] {
        for (what, [base, theirs, mine]) in hostile(between) {
            let mut budget = Budget::new(WORK);
            let merged = merge(&base, &theirs, &mine, true, &mut budget).expect("it is not too long");
            let bound = WORK + PER_BYTE * (base.len() + theirs.len() + mine.len()) as u64;
            assert!(budget.done <= bound, "{what} {between:?}: {} of {bound}", budget.done);
            // Less was merged than could be, and nothing was made up.
            let known: std::collections::HashSet<&str> =
                [&theirs, &mine].into_iter().flat_map(|t| t.split_whitespace()).collect();
            assert!(merged.overlaps || merged.text.split_whitespace().all(|word| known.contains(word)), "{what} {between:?}");
        }
    }
}

#[test]
fn the_texts_of_one_batch_share_what_their_merges_may_cost() {
    let [base, theirs, mine] = &hostile("\n").remove(3).1;
    let mut budget = Budget::new(OF_BATCH / OF_MERGE * WORK);
    let merges = (0..1_000).take_while(|_| merge(base, theirs, mine, true, &mut budget).is_some()).count();
    assert!((1..100).contains(&merges), "{merges}");
    let before = budget.done;
    assert!(merge(base, theirs, mine, true, &mut budget).is_none() && budget.done == before, "the rest costs nothing");
    // Small ones are still merged as before.
    let mut fresh = Budget::of_batch();
    let small = merge("a b", "a c", "d b", true, &mut fresh).expect("a short text");
    assert_eq!((small.text.as_str(), small.overlaps), ("d c", false));
}
