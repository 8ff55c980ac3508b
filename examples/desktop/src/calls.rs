//! A command and its arguments as JSON, as a window's page sends them: `{"command": "send", "conversation": "...", "body": "..."}`.

use crate::{commands, Answer, App, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Call {
    Connect { file: PathBuf, library: PathBuf, url: String, token: String, offline: bool },
    Conversations,
    Messages { conversation: String },
    Send { conversation: String, body: String },
    Refused,
    Retry { refused: i64, body: String },
    Discard { refused: i64 },
    Status,
    WorkOffline { offline: bool },
}

/// Calls a command.
pub fn call(app: &App, line: &str) -> Answer<Json> {
    match serde_json::from_str(line).map_err(|why| Problem(format!("not a command: {why}")))? {
        Call::Connect { file, library, url, token, offline } => {
            json(commands::connect(app, &file, &library, &url, &token, offline)?)
        }
        Call::Conversations => json(commands::conversations(app)?),
        Call::Messages { conversation } => json(commands::messages(app, &conversation)?),
        Call::Send { conversation, body } => json(commands::send(app, &conversation, &body)?),
        Call::Refused => json(commands::refused(app)?),
        Call::Retry { refused, body } => json(commands::retry(app, refused, &body)?),
        Call::Discard { refused } => json(commands::discard(app, refused)?),
        Call::Status => json(commands::status(app)?),
        Call::WorkOffline { offline } => json(commands::work_offline(app, offline)?),
    }
}

fn json(answer: impl Serialize) -> Answer<Json> {
    serde_json::to_value(answer).map_err(|why| Problem(why.to_string()))
}
