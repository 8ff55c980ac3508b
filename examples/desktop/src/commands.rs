//! What the application does. Each command is a function of the state; Tauri wants them with an attribute more (`window/src/main.rs`).

use crate::device::nothing_yet;
use crate::session::{Session, Status};
use crate::transport::Transport;
use crate::{locked, Answer, App, Problem};
use rusqlite::{Connection, Params, Row, Transaction, TransactionBehavior};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
pub struct Conversation {
    pub id: String,
    pub title: String,
    /// The names of those who take part.
    pub people: String,
    /// Whether this user may write there. The server decides it, too.
    pub may_write: bool,
    /// The latest message.
    pub last: Option<String>,
}

#[derive(Serialize)]
pub struct Message {
    pub id: String,
    /// The author's name in this conversation.
    pub author: String,
    pub mine: bool,
    pub body: String,
    /// UTC, ISO 8601.
    pub sent_at: String,
    /// Whether it has still to be sent.
    pub waiting: bool,
}

/// A message that the server did not take.
#[derive(Serialize)]
pub struct Refused {
    /// The batch's.
    pub id: i64,
    pub conversation: String,
    pub body: String,
    /// SQLSTATE, and why, in words.
    pub code: String,
    pub message: String,
}

/// Opens the user's file, makes it if there is none, and keeps it in step with the server from now on. Again with another token: that one
/// counts.
pub fn connect(app: &App, file: &Path, library: &Path, url: &str, token: &str, offline: bool) -> Answer<()> {
    let mut session = locked(&app.session);
    // The former one ends first.
    *session = None;
    *session = Some(Session::start(file, library, Transport::new(url, token), offline, app.tell.clone())?);
    Ok(())
}

/// The conversations that the user takes part in.
pub fn conversations(app: &App) -> Answer<Vec<Conversation>> {
    let sql = "
        SELECT c.id, c.title, (SELECT group_concat(name, ', ') FROM (SELECT name FROM participant WHERE conversation_id = c.id ORDER BY name)),
            coalesce((SELECT may_write FROM participant p JOIN sync_user u ON u.user = p.person WHERE p.conversation_id = c.id), 0),
            (SELECT body FROM message WHERE conversation_id = c.id ORDER BY sent_at DESC LIMIT 1)
        FROM conversation c ORDER BY c.title";
    let each = |row: &Row<'_>| {
        Ok(Conversation { id: row.get(0)?, title: row.get(1)?, people: row.get(2)?, may_write: row.get(3)?, last: row.get(4)? })
    };
    with(app, |session| all(&session.db(), sql, [], each))
}

/// A conversation's messages, the oldest first.
pub fn messages(app: &App, conversation: &str) -> Answer<Vec<Message>> {
    let sql = "
        SELECT m.id, coalesce(p.name, m.author), m.author IN (SELECT user FROM sync_user), m.body, m.sent_at,
            EXISTS (SELECT 1 FROM sync_pending w WHERE w.note = json_object('message', m.id) AND w.state = 'waiting')
        FROM message m LEFT JOIN participant p ON p.conversation_id = m.conversation_id AND p.person = m.author
        WHERE m.conversation_id = ? ORDER BY m.sent_at, m.id";
    let each = |row: &Row<'_>| {
        let (id, author, mine, body) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(Message { id, author, mine, body, sent_at: row.get(4)?, waiting: row.get(5)? })
    };
    with(app, |session| all(&session.db(), sql, [conversation], each))
}

/// Writes a message: into the file, and in the background it is sent. Answers its id.
pub fn send(app: &App, conversation: &str, body: &str) -> Answer<String> {
    with(app, |session| {
        let mut db = session.db();
        let work = begin(&mut db)?;
        let sql = "INSERT INTO message (conversation_id, author, body) SELECT ?, value, ? FROM sync_status WHERE name = 'user' RETURNING id";
        let id: String = work
            .query_row(sql, [conversation, body], |row| row.get(0))
            .map_err(|why| Problem(format!("nobody is signed in, so there is no author: {why}")))?;
        // What waits, and what was refused, is known by it.
        work.query_row("SELECT sync_note(json_object('message', ?))", [&id], |_| Ok(()))?;
        work.commit()?;
        drop(db);
        session.written(&["message"]);
        Ok(id)
    })
}

/// What the server did not take.
pub fn refused(app: &App) -> Answer<Vec<Refused>> {
    let sql = "
        SELECT id, coalesce(json_extract(batch, '$[0].new.conversation_id'), ''), coalesce(json_extract(batch, '$[0].new.body'), ''), code, message
        FROM sync_rejected ORDER BY id";
    let each = |row: &Row<'_>| {
        let (id, conversation, body) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Refused { id, conversation, body, code: row.get(3)?, message: row.get(4)? })
    };
    with(app, |session| all(&session.db(), sql, [], each))
}

/// Sends a refused message again, as `body`.
pub fn retry(app: &App, refused: i64, body: &str) -> Answer<()> {
    with(app, |session| {
        let mut db = session.db();
        let work = begin(&mut db)?;
        let gone = |_| Problem("this message is no longer among the refused ones".into());
        let note: Option<String> =
            work.query_row("SELECT note FROM sync_rejected WHERE id = ?", [refused], |row| row.get(0)).map_err(gone)?;
        let sql = "
            SELECT sync_retry(id, json_array(json_object('table', 'message', 'key', json_extract(batch, '$[0].key'), 'new', json_object('body', ?))))
            FROM sync_rejected WHERE id = ?";
        work.query_row(sql, (body, refused), |_| Ok(()))?;
        work.query_row("SELECT sync_note(?)", [note], |_| Ok(()))?;
        work.commit()?;
        drop(db);
        session.written(&["message"]);
        Ok(())
    })
}

/// Lets go of a refused message.
pub fn discard(app: &App, refused: i64) -> Answer<()> {
    with(app, |session| {
        session.db().query_row("SELECT sync_discard(?)", [refused], |_| Ok(()))?;
        session.written(&["message"]);
        Ok(())
    })
}

/// How it stands.
pub fn status(app: &App) -> Answer<Status> {
    with(app, |session| Ok(session.status()))
}

/// Asks nobody, as without a network, or goes on. Reads and writes go on in any case.
pub fn work_offline(app: &App, offline: bool) -> Answer<()> {
    with(app, |session| {
        session.pause(offline);
        Ok(())
    })
}

fn with<T>(app: &App, work: impl FnOnce(&Session) -> Answer<T>) -> Answer<T> {
    let session = locked(&app.session);
    work(session.as_ref().ok_or_else(|| Problem("no file is open: call connect first".into()))?)
}

/// A transaction that has its place in the queue of writers at once: one that reads first may be too late to write then.
fn begin(db: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    db.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn all<T>(
    db: &Connection,
    sql: &str,
    parameters: impl Params,
    each: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Answer<Vec<T>> {
    let rows = db.prepare(sql).and_then(|mut query| query.query_map(parameters, each)?.collect());
    Ok(rows.or_else(nothing_yet)?)
}
