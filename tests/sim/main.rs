//! The simulator: one server, two to five devices, a random script of what can happen to them, and at the end every device
//! equals what the server's tables say it may hold. `./dev sim --seed S` replays a script and tells each step.
//!
//! # Layout
//! - [`world`]: the tables, the rules, and what each device must hold at the end
//! - [`script`]: one random script, step by step
//! - [`peer`]: a device with a bad network

mod peer;
mod script;
mod world;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use sync_tests::Cluster;

/// After so many failures the rest is not worth running.
const ENOUGH_FAILURES: usize = 10;

struct Options {
    first: u64,
    count: u64,
    limit: Duration,
    verbose: bool,
}

fn main() {
    let options = options(std::env::args().skip(1)).unwrap_or_else(|e| {
        eprintln!("sim: {e}\nusage: sim [--seeds N] [--first S] [--seconds T] | --seed S");
        std::process::exit(2)
    });
    let begin = Instant::now();
    let cluster = Cluster::start("autovacuum = off\n");
    let (next, passed, failed) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let messages = Mutex::new(());
    std::panic::set_hook(Box::new(|_| ()));
    let work = || loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= options.count || begin.elapsed() > options.limit || failed.load(Ordering::Relaxed) >= ENOUGH_FAILURES {
            return;
        }
        let seed = options.first + n;
        match catch_unwind(AssertUnwindSafe(|| script::run(&cluster, seed, options.verbose))) {
            Ok(()) => drop(passed.fetch_add(1, Ordering::Relaxed)),
            Err(cause) => {
                failed.fetch_add(1, Ordering::Relaxed);
                let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
                let _one_at_a_time = messages.lock();
                println!("seed {seed} failed: {}\n    ./dev sim --seed {seed}", text.unwrap_or("?"));
            }
        }
    };
    let workers = if options.count == 1 { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let (passed, failed) = (passed.into_inner(), failed.into_inner());
    println!("{} scripts from seed {} in {:.1} s", passed + failed, options.first, begin.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    drop(cluster);
    if failed > 0 || passed == 0 {
        std::process::exit(1);
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs() % 1_000_000 * 1000);
    let mut options = Options { first, count: 50, limit: Duration::from_secs(36_000), verbose: false };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} wants a number"))?;
        let value: u64 = value.parse().map_err(|_| format!("{value} is not a number"))?;
        match name.as_str() {
            "--seeds" => options.count = value,
            "--first" => options.first = value,
            "--seconds" => options.limit = Duration::from_secs(value),
            "--seed" => options = Options { first: value, count: 1, verbose: true, ..options },
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(options)
}
