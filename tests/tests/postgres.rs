//! Runs the files of `tests/regress` and `tests/isolation`, and reports them as cargo's own test runner would.

use sync_tests::suite::{ISOLATION, REGRESS};
use sync_tests::Cluster;

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let files: Vec<_> = [&REGRESS, &ISOLATION]
        .into_iter()
        .flat_map(|suite| suite.names().into_iter().map(move |name| (suite, name)))
        .filter(|(suite, name)| name.contains(&filter) || suite.folder.contains(&filter))
        .collect();
    println!("\nrunning {} files", files.len());
    let (mut passed, mut failed) = (0, 0);
    if !files.is_empty() {
        let cluster = Cluster::start("");
        for (suite, name) in files {
            match suite.run(&cluster, &name) {
                Ok(()) => {
                    passed += 1;
                    println!("test {}::{name} ... ok", suite.folder);
                }
                Err(difference) => {
                    failed += 1;
                    println!("test {}::{name} ... FAILED\n{difference}", suite.folder);
                }
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n");
    if failed > 0 {
        std::process::exit(1);
    }
}
