//! The examples of docs/conflicts.md, on two real devices.

use postgres::Client;
use sync_tests::build::root;
use sync_tests::cluster::describe;
use sync_tests::compare::assert_same;
use sync_tests::{Cluster, Device};

/// The parts of each SQL block: who, and what.
fn blocks(document: &str) -> Vec<Vec<(String, String)>> {
    let text = std::fs::read_to_string(root().join(document)).expect("the document");
    let fenced = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sql\n"));
    fenced.map(parts).collect()
}

fn parts(block: &str) -> Vec<(String, String)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("-- ") {
            Some(who) => parts.push((who.to_owned(), String::new())),
            None => parts.last_mut().expect("a block begins with whose SQL it is").1 += &format!("{line}\n"),
        }
    }
    parts
}

/// Each query with what its line says that it gives.
fn queries(sql: &str) -> Vec<(String, String)> {
    let query = |line: &str| {
        let (query, expected) = line.split_once("  -- ").unwrap_or_else(|| panic!("what does it give? {line}"));
        (query.trim().trim_end_matches(';').to_owned(), expected.trim().to_owned())
    };
    sql.lines().filter(|line| !line.trim().is_empty()).map(query).collect()
}

fn sync(ann: &Device, bob: &Device, server: &mut Client) {
    for device in [ann, bob, ann] {
        device.sync(server);
    }
}

#[test]
fn every_example_in_the_document_gives_what_it_says() {
    let database = Cluster::shared().database();
    database.run("DROP EXTENSION pg_sync");
    let mut server = database.connect();
    let (ann, bob) = (Device::new("ann"), Device::new("bob"));
    let mut examples = 0;
    for block in blocks("docs/conflicts.md") {
        for (who, sql) in block {
            match who.as_str() {
                "Postgres" => {
                    server.batch_execute(&sql).unwrap_or_else(|e| panic!("{}\nin {sql}", describe(&e)));
                    sync(&ann, &bob, &mut server);
                }
                "Both" => {
                    examples += 1;
                    sync(&ann, &bob, &mut server);
                    for (query, expected) in queries(&sql) {
                        assert_eq!([ann.value(&query), bob.value(&query)], [expected.as_str(); 2], "{query}");
                    }
                    for device in [&ann, &bob] {
                        assert_same(device, &mut server, "SELECT * FROM post");
                    }
                }
                "Bob" if sql.starts_with("SELECT") => {
                    for (query, expected) in queries(&sql) {
                        assert_eq!(bob.value(&query), expected, "{query}");
                    }
                }
                "Ann" | "Bob" => {
                    let device = if who == "Ann" { &ann } else { &bob };
                    // Clocks are read to the millisecond.
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    device.run(&sql);
                }
                other => panic!("whose SQL is this? {other}"),
            }
        }
    }
    assert_eq!(examples, 15);
}
