//! The commands without a window: each line of input is a call, each line of output an answer or an event, all of them JSON.
//!
//!     echo '{"command": "status"}' | sync-desktop

use serde_json::json;
use std::io::{stdin, stdout, Write};
use sync_desktop::{calls::call, App};

fn main() -> std::io::Result<()> {
    let app = App::new(|event| {
        // Whoever listened may have gone.
        let _gone = writeln!(stdout(), "{}", json!({ "event": event }));
    });
    for line in stdin().lines() {
        let said = match call(&app, &line?) {
            Ok(answer) => json!({ "answer": answer }),
            Err(problem) => json!({ "problem": problem }),
        };
        writeln!(stdout(), "{said}")?;
    }
    Ok(())
}
