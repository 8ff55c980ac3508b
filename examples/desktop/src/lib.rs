//! The commands of an application for the desktop, in the shape that Tauri wants: functions of a state, with answers and errors that become
//! JSON, and events. Nothing here knows of windows: `window/` calls it from Tauri, `main.rs` for each line of its input.
//!
//! # Layout
//! - [`commands`]: what the application does: reading and writing rows, in plain SQL
//! - [`calls`]: a command and its arguments as JSON
//! - [`session`]: a file that is kept in step with the server in the background
//! - [`transport`]: the requests; [`device`]: connections with the extension loaded

pub mod calls;
pub mod commands;
pub mod device;
pub mod session;
pub mod transport;

use serde::{Serialize, Serializer};
use session::{Session, Status};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The application's state: nobody is connected at first. To be given to `tauri::Builder::manage`.
pub struct App {
    session: Mutex<Option<Session>>,
    tell: Tell,
}

/// Where events go.
pub type Tell = Arc<dyn Fn(Event) + Send + Sync>;

/// What happened without being asked for. As JSON: `{"changed": ["message"]}`, `{"status": {...}}`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Rows of these tables changed, here or on the server.
    Changed(Vec<String>),
    /// It stands otherwise than before.
    Status(Status),
}

/// Why a command failed, in a sentence. Its JSON is that sentence.
#[derive(Debug)]
pub struct Problem(pub String);

/// What a command answers.
pub type Answer<T> = Result<T, Problem>;

impl App {
    /// One whose events go to `tell`, which is called from other threads.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> App {
        App { session: Mutex::new(None), tell: Arc::new(tell) }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Problem {
        Problem(error.to_string())
    }
}

/// What a mutex holds. A thread that panicked has left nothing half-done in any of ours.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
