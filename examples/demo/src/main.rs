//! `./dev demo`: real places to two devices that may hold different countries, then a conversation that both edit offline.
//!
//! # Layout
//! - [`places`]: the places, from a file or the small built-in sample
//! - [`talk`]: the conversation
//! - [`show`]: progress, times and tables on the terminal

mod places;
mod show;
mod talk;

use show::Clock;
use sync_tests::{Cluster, Device, User};

const ANN: &str = "a0000000-0000-4000-8000-00000000000a";
const BOB: &str = "b0000000-0000-4000-8000-00000000000b";
const EXAMPLE: &str = include_str!("../../../sql/examples/one.sql");

fn main() {
    let file = places_argument();
    let mut clock = Clock::start();

    println!("A throwaway Postgres with the extension");
    let cluster = Cluster::start("");
    let database = cluster.database();
    let mut server = database.connect();
    server.batch_execute(EXAMPLE).expect("the example's schema is installed");
    clock.lap("server started, sql/examples/one.sql installed");

    println!("\nPlaces, one bucket for each country");
    let count = places::install(&mut server, file.as_deref());
    clock.lap(&format!("{} places loaded and put into buckets", show::number(count)));

    let ann = Device::for_user(User::with_role(ANN, "app_user"));
    let bob = Device::for_user(User::with_role(BOB, "app_user"));
    for (name, device) in [("Ann", &ann), ("Bob", &bob)] {
        let fetched = show::sync_with_progress(name, device, &mut server);
        let rows = show::number(fetched.rows);
        clock.lap(&format!("{name}'s device holds {rows} rows, {} over the wire", show::bytes(fetched.bytes)));
    }

    places::change_entitlements(&mut server);
    for (name, device) in [("Ann", &ann), ("Bob", &bob)] {
        let fetched = show::sync_with_progress(name, device, &mut server);
        clock
            .lap(&format!("{name} after Japan was granted to Ann and Mexico taken: {} rows fetched", show::number(fetched.rows)));
    }

    println!("\nA conversation, edited by both while offline");
    talk::begin(&mut server);
    ann.sync(&mut server);
    bob.sync(&mut server);
    talk::edit_offline(&ann, &bob);
    clock.lap("edited on both devices, without a network");
    for device in [&ann, &bob, &ann] {
        device.sync(&mut server);
    }
    clock.lap("reconciled: Ann, Bob, Ann again");
    talk::print(&ann, &bob);

    server.batch_execute("SELECT sync.maintain()").expect("maintenance");
    clock.lap("the server has summed the places that were there before their rule (sync.maintain)");
    println!("\nWhat each device holds, and whether it is what the server has");
    let mut same = show::holdings("Ann", &ann, &mut server);
    same &= show::holdings("Bob", &bob, &mut server);
    same &=
        places::check(&ann, ANN, &mut server) && places::check(&bob, BOB, &mut server) && talk::check(&ann, &bob, &mut server);
    clock.lap("compared");
    println!("\n{} in {:.1} s", if same { "Everything agrees" } else { "SOMETHING DIFFERS" }, clock.total());
    if !same {
        std::process::exit(1);
    }
}

/// The file of places, unless none could be fetched.
fn places_argument() -> Option<String> {
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--places" {
            return arguments.next().filter(|file| !file.is_empty());
        }
    }
    None
}
