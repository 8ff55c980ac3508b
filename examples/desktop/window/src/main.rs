//! The commands in a window: each is the function of `sync_desktop` with Tauri's attribute, and events go to the page.
//!
//!     SYNC_URL=... SYNC_TOKEN=... SYNC_LIBRARY=... SYNC_FILE=ann.db sync-desktop-window

use std::env::var;
use sync_desktop::commands::{self, Conversation, Message, Refused};
use sync_desktop::session::Status;
use sync_desktop::{Answer, App, Problem};
use tauri::{AppHandle, Emitter, Manager, State, WebviewUrl, WebviewWindowBuilder};

#[tauri::command(async)]
fn conversations(app: State<'_, App>) -> Answer<Vec<Conversation>> {
    commands::conversations(&app)
}

#[tauri::command(async)]
fn messages(app: State<'_, App>, conversation: &str) -> Answer<Vec<Message>> {
    commands::messages(&app, conversation)
}

#[tauri::command(async)]
fn send(app: State<'_, App>, conversation: &str, body: &str) -> Answer<String> {
    commands::send(&app, conversation, body)
}

#[tauri::command(async)]
fn refused(app: State<'_, App>) -> Answer<Vec<Refused>> {
    commands::refused(&app)
}

#[tauri::command(async)]
fn retry(app: State<'_, App>, refused: i64, body: &str) -> Answer<()> {
    commands::retry(&app, refused, body)
}

#[tauri::command(async)]
fn discard(app: State<'_, App>, refused: i64) -> Answer<()> {
    commands::discard(&app, refused)
}

#[tauri::command(async)]
fn status(app: State<'_, App>) -> Answer<Status> {
    commands::status(&app)
}

#[tauri::command(async)]
fn work_offline(app: State<'_, App>, offline: bool) -> Answer<()> {
    commands::work_offline(&app, offline)
}

/// The page tells what it shows last: a line of output, for whoever waits for it.
#[tauri::command]
fn shown(last: &str) {
    println!("{last}");
}

/// Who signs in, and where the file is, an application would ask its user and the system.
fn connect(app: &App) -> Answer<()> {
    let needed = |name: &str| var(name).map_err(|_| Problem(format!("{name} is not set")));
    let (file, library) = (needed("SYNC_FILE")?, needed("SYNC_LIBRARY")?);
    let offline = var("SYNC_OFFLINE").is_ok();
    commands::connect(app, file.as_ref(), library.as_ref(), &needed("SYNC_URL")?, &needed("SYNC_TOKEN")?, offline)
}

/// Where the window is and how large, `x,y,width,height`.
fn place() -> [f64; 4] {
    let place = var("SYNC_PLACE").unwrap_or_default();
    let numbers: Vec<f64> = place.split(',').filter_map(|number| number.parse().ok()).collect();
    numbers.try_into().unwrap_or([60.0, 60.0, 760.0, 560.0])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let setup = |tauri: &mut tauri::App| {
        let window: AppHandle = tauri.handle().clone();
        let app = App::new(move |event| {
            // A window that is closing is told nothing any longer.
            let _gone = window.emit("sync", event);
        });
        connect(&app).map_err(|Problem(why)| why)?;
        tauri.manage(app);
        let [x, y, width, height] = place();
        let window = WebviewWindowBuilder::new(tauri, "main", WebviewUrl::default()).title("Conversations");
        window.position(x, y).inner_size(width, height).build()?;
        Ok(())
    };
    let builder = tauri::Builder::default().setup(setup);
    let builder = builder.invoke_handler(tauri::generate_handler![
        conversations,
        messages,
        send,
        refused,
        retry,
        discard,
        status,
        work_offline,
        shown
    ]);
    builder.run(tauri::generate_context!())?;
    Ok(())
}
