//! The example for the desktop in windows, against a throwaway server and gateway: `./dev desktop`.
//!
//!     desktop PROGRAM                   two people's windows, to try it; ends when they are closed
//!     desktop PROGRAM --screenshot PNG  what is in docs/desktop.png: Ann's window follows, Ben's is offline with a message that waits

use serde_json::{json, Value as Json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};
use sync_tests::build::library;
use sync_tests::conversations::{conversations, Person, NEWS, SUMMER};
use sync_tests::gateway::{Gateway, Served};
use sync_tests::Cluster;

const LONG: Duration = Duration::from_secs(60);
const LATEST: &str = "The weather holds until Sunday. I have booked three beds at the hut.";
const WAITING: &str = "In the tunnel, no network. I bring the rope!";

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let picture = match arguments.as_slice() {
        [_] => None,
        [_, flag, picture] if flag.as_os_str() == "--screenshot" => Some(picture),
        _ => {
            eprintln!("usage: desktop PROGRAM [--screenshot PNG]");
            return ExitCode::from(2);
        }
    };
    let cluster = Cluster::start("");
    let served = conversations(&cluster);
    let gateway = served.gateway(&[]);
    let folder = std::env::temp_dir().join(format!("pg_sync_desktop.{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder for the files");
    let mut cleo = talk(&served, &gateway, &folder);
    let window =
        |name: &str, place: &str, offline: bool| Window::open(&arguments[0], &served, &gateway, &folder, name, place, offline);
    let outcome = match picture {
        None => {
            let windows = [window("ann", "40,60,760,600", false), window("ben", "830,60,760,600", false)];
            windows.into_iter().try_for_each(Window::wait)
        }
        Some(picture) => {
            let (ann, ben) = (window("ann", "0,0,770,500", false), window("ben", "790,0,770,500", true));
            // What is written while the windows are open is shown in the one that listens, and not in the other.
            ben.shows(WAITING).and_then(|()| ann.shows("I have maps.")).and_then(|()| {
                cleo.call("send", json!({ "conversation": SUMMER, "body": LATEST }))?;
                ann.shows(LATEST)?;
                // Shown is what the page has; to be painted takes it a moment more.
                std::thread::sleep(Duration::from_secs(2));
                let taken =
                    Command::new("import").args(["-window", "root", "+dither", "-colors", "255", "-strip"]).arg(picture).status();
                taken.map_err(|e| e.to_string())?.success().then_some(()).ok_or("import could not take the picture".into())
            })
        }
    };
    let _gone = std::fs::remove_dir_all(&folder);
    outcome.map_or_else(
        |why| {
            eprintln!("desktop: {why}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// What was said before the windows open. Answers Cleo, who goes on.
fn talk(served: &Served<'_>, gateway: &Gateway, folder: &Path) -> Person {
    served.db.run(&format!("INSERT INTO participant VALUES ('{SUMMER}', 'cleo', 'Cleo'), ('{NEWS}', 'cleo', 'Cleo')"));
    let mut people = ["ann", "ben", "cleo"].map(|name| {
        let mut person = Person::start(folder.join(format!("{name}.db")));
        person.connect(gateway, &served.token(name), false).expect("it connects");
        person.until("conversations", &json!({}), |c| c.as_array().is_some_and(|c| c.len() == 2));
        person
    });
    let said = [
        (0, NEWS, "The hut is open again from the first of June."),
        (0, SUMMER, "Shall we walk from hut to hut this year?"),
        (1, SUMMER, "Yes! Four days, and a lake on the way."),
        (0, SUMMER, "Then we swim. I have maps."),
    ];
    for (who, conversation, body) in said {
        people[who].call("send", json!({ "conversation": conversation, "body": body })).expect("it is written");
        for person in &mut people {
            person.until("messages", &json!({ "conversation": conversation }), |m| is_last(m, body));
        }
    }
    let [_, mut ben, cleo] = people;
    ben.call("work_offline", json!({ "offline": true })).expect("it is switched");
    ben.call("send", json!({ "conversation": SUMMER, "body": WAITING })).expect("it is written");
    ben.until("status", &json!({}), |s| s["state"] == "paused" && s["waiting"] == 1);
    cleo
}

fn is_last(messages: &Json, body: &str) -> bool {
    messages.as_array().and_then(|all| all.last()).is_some_and(|m| m["body"] == body && m["waiting"] == false)
}

/// One person's window.
struct Window {
    process: Child,
    shown: Receiver<String>,
}

impl Window {
    fn open(
        program: &Path,
        served: &Served<'_>,
        gateway: &Gateway,
        folder: &Path,
        name: &str,
        place: &str,
        offline: bool,
    ) -> Window {
        let mut command = Command::new(program);
        command.env("SYNC_FILE", folder.join(format!("{name}.db"))).env("SYNC_LIBRARY", library("libsqlite_sync.so"));
        command
            .env("SYNC_URL", format!("http://{}/sync", gateway.address))
            .env("SYNC_TOKEN", served.token(name))
            .env("SYNC_PLACE", place);
        if offline {
            command.env("SYNC_OFFLINE", "1");
        }
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the window's program starts");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let (show, shown) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| show.send(line)));
        Window { process, shown }
    }

    /// Waits until the latest message that the page shows ends so.
    fn shows(&self, wanted: &str) -> Result<(), String> {
        let deadline = Instant::now() + LONG;
        loop {
            let line = self.shown.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            if line.map_err(|_| format!("the window did not show: {wanted}"))?.ends_with(wanted) {
                return Ok(());
            }
        }
    }

    fn wait(mut self) -> Result<(), String> {
        self.process.wait().map(drop).map_err(|e| e.to_string())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}
