//! A conversation of two people, edited by both while offline: merged, decided or refused, and nothing lost in silence.

use postgres::Client;
use sync_tests::compare::server_rows;
use sync_tests::Device;

const CONVERSATION: &str = "c0000000-0000-4000-8000-000000000001";
/// A conversation that Bob does not take part in.
const PRIVATE: &str = "c0000000-0000-4000-8000-000000000002";
const MESSAGE: &str = "d0000000-0000-4000-8000-000000000001";

/// What is there before the network goes away.
pub fn begin(server: &mut Client) {
    let (ann, bob) = (crate::ANN, crate::BOB);
    let sql = format!(
        "INSERT INTO profiles (id, handle, name) VALUES ('{ann}', 'ann', 'Ann'), ('{bob}', 'bob', 'Bob');
         INSERT INTO conversations (id, title, created_by) VALUES ('{CONVERSATION}', 'Summer', '{ann}'), ('{PRIVATE}', 'Diary', '{ann}');
         INSERT INTO participants VALUES ('{CONVERSATION}', '{ann}', 'owner'), ('{CONVERSATION}', '{bob}', 'writer'),
             ('{PRIVATE}', '{ann}', 'owner');
         INSERT INTO messages (id, conversation_id, author_id, body) VALUES
             ('{MESSAGE}', '{CONVERSATION}', '{ann}', 'Where shall we go?');
         INSERT INTO agent_state (conversation_id, agent, state) VALUES ('{CONVERSATION}', 'planner', '{{\"step\": 1}}')"
    );
    server.batch_execute(&sql).expect("the conversation begins");
}

/// Both devices write; neither has a network.
pub fn edit_offline(ann: &Device, bob: &Device) {
    let (ann_id, bob_id) = (crate::ANN, crate::BOB);
    ann.run(&format!(
        "UPDATE conversations SET title = 'Summer in the Alps' WHERE id = '{CONVERSATION}';
         UPDATE messages SET body = 'Where shall we hike?' WHERE id = '{MESSAGE}';
         INSERT INTO messages (conversation_id, author_id, body) VALUES ('{CONVERSATION}', '{ann_id}', 'I vote for Bern.');"
    ));
    // The later edit of the same text wins, so one of them is later.
    std::thread::sleep(std::time::Duration::from_millis(20));
    bob.run(&format!(
        "UPDATE conversations SET topic = 'travel' WHERE id = '{CONVERSATION}';
         UPDATE messages SET body = 'Where shall we swim?' WHERE id = '{MESSAGE}';
         INSERT INTO messages (conversation_id, author_id, body) VALUES ('{PRIVATE}', '{bob_id}', 'Let me in!');
         INSERT INTO messages (conversation_id, author_id, body) VALUES ('{CONVERSATION}', '{bob_id}', 'There is a lake.');"
    ));
}

/// What each of them sees now, and what became of their writes.
pub fn print(ann: &Device, bob: &Device) {
    for (name, device) in [("Ann", ann), ("Bob", bob)] {
        for row in device.rows(&format!("SELECT title, coalesce(topic, '') FROM conversations WHERE id = '{CONVERSATION}'")) {
            println!("  {name} sees '{}', topic '{}'", row[0], row[1]);
        }
        for row in device.rows(&format!(
            "SELECT CASE author_id WHEN '{}' THEN 'Ann' ELSE 'Bob' END, body FROM messages
             WHERE conversation_id = '{CONVERSATION}' ORDER BY id <> '{MESSAGE}', author_id",
            crate::ANN
        )) {
            println!("      {}: {}", row[0], row[1]);
        }
        for row in device.rows("SELECT code, message FROM sync_rejected") {
            println!("      refused: {} {}", row[0], row[1]);
        }
    }
}

/// Whether both devices show the server's conversation.
pub fn check(ann: &Device, bob: &Device, server: &mut Client) -> bool {
    let queries = [
        format!("SELECT id, title, topic FROM conversations WHERE id = '{CONVERSATION}'"),
        format!("SELECT id, author_id, body FROM messages WHERE conversation_id = '{CONVERSATION}' ORDER BY id"),
    ];
    queries.iter().all(|query| {
        let want = server_rows(server, query);
        ann.rows(query) == want && bob.rows(query) == want
    })
}
