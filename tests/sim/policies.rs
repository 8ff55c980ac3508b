//! Random conflict policies. What each of them promises is in [`crate::promises`], as far as the rows tell, and in
//! [`crate::records`].

use crate::server::Server;
use fastrand::Rng;

/// Rows of `tally`, each column of which has a policy of its own.
pub const TALLIES: i64 = 4;
/// What `tally` holds at first.
pub const TEXT: &str = "one two three\nfour five six\nseven eight nine";
/// The handler says which action it took, so that the record can be held against it.
const HANDLER: &str = "CREATE FUNCTION decide(conflict jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('action', a, 'reason', 'the handler says ' || a)
    FROM (SELECT (ARRAY['mine', 'theirs', 'merge', 'reject'])[length((conflict -> 'columns')::text) % 4 + 1]) AS x (a) $$";

/// Declares a policy for everything that may have one.
pub fn declare(server: &mut Server<'_>, rng: &mut Rng) {
    let mut run = |sql: &str| server.run(sql).unwrap_or_else(|e| panic!("{e}\nin: {sql:.400}"));
    run(&format!("INSERT INTO tally (id, body) SELECT i, '{TEXT}' FROM generate_series(1, {TALLIES}) i; {HANDLER}"));
    for (column, policy) in
        [("hits", "counter"), ("tags", "set"), ("best", "max"), ("least", "min"), ("body", "text"), ("strict", "reject")]
    {
        run(&format!("SELECT sync.set_policy('tally', '{policy}', '{column}')"));
    }
    let how = if rng.bool() { r#"{"as": "row", "link": "copy_of"}"# } else { r#"{"as": "record"}"# };
    run(&format!(
        "INSERT INTO note (body) VALUES ('first'), ('second'), ('third');
         SELECT sync.set_policy('note', 'keep_both', options => '{how}')"
    ));
    for table in ["task", "label", "news", "seat"] {
        let policy = ["merge", "server_wins", "client_wins", "last_writer", "reject", "custom", "keep_both"][rng.usize(..7)];
        run(&match policy {
            "custom" => format!("SELECT sync.set_policy('{table}', 'custom', handler => 'decide(jsonb)')"),
            "keep_both" => format!("SELECT sync.set_policy('{table}', 'keep_both', options => '{{\"as\": \"record\"}}')"),
            _ => format!("SELECT sync.set_policy('{table}', '{policy}')"),
        });
        let delete = ["keep_update", "delete_wins", "last_writer", "reject"][rng.usize(..4)];
        run(&format!("SELECT sync.set_delete_policy('{table}', '{delete}')"));
    }
    let body = ["text", "server_wins", "client_wins", "last_writer", "reject"][rng.usize(..5)];
    let n = ["counter", "max", "min", "server_wins"][rng.usize(..4)];
    run(&format!("SELECT sync.set_policy('task', '{body}', 'body'); SELECT sync.set_policy('task', '{n}', 'n')"));
}
