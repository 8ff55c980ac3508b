//! The simulator: one server, a few devices, a random script of what can happen to them, and a checker of what was promised.
//!
//! `./dev sim --seeds N` runs N scripts; `--seed S` replays one and tells each step, `--shrink` leaves out what does not matter.
//!
//! # Layout
//! - [`plan`]: what a seed means, as a list of steps; [`script`]: carries it out
//! - [`statements`], [`changes`]: random SQL, random changes of rules and tables
//! - [`server`]: a server that crashes and is put back; [`crashes`]: at which points; [`peer`]: a device; [`network`]: what is between them
//! - [`policies`]: conflict policies; [`promises`], [`records`]: what they promise about rows, and what is kept
//! - [`world`]: the tables, and what each device must hold; [`history`]: what became of every write; [`traffic`]: what was sent
//! - [`shrink`]: the shortest script that still fails; [`record`]: results of long runs; [`counts`]: what a run was made of

mod changes;
mod counts;
mod crashes;
mod history;
mod network;
mod peer;
mod plan;
mod policies;
mod promises;
mod record;
mod records;
mod script;
mod server;
mod shrink;
mod statements;
mod traffic;
mod world;

use counts::Counts;
use script::Log;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use sync_tests::Cluster;

/// After so many failures the rest is not worth running.
const ENOUGH_FAILURES: usize = 10;
/// Seeds between two lines of progress.
const CHUNK: u64 = 50;
const USAGE: &str = "usage: sim [--seeds N] [--first S] [--seconds T] [--policies] [--twice] [--resume] | --seed S [--shrink]
  --policies   tables and columns have random conflict policies
  --twice      runs each script twice: both must do the same
  --resume     goes on where the recorded runs from the same first seed ended, and records this one";

struct Options {
    first: u64,
    count: u64,
    limit: Duration,
    policies: bool,
    twice: bool,
    resume: bool,
    single: bool,
    shrink: bool,
}

fn main() {
    let options = options(std::env::args().skip(1)).unwrap_or_else(|e| {
        eprintln!("sim: {e}\n{USAGE}");
        std::process::exit(2)
    });
    std::panic::set_hook(Box::new(|_| ()));
    let (passed, failed) = if options.single { replay(&options) } else { run(&options) };
    println!("{passed} passed, {failed} failed");
    if failed > 0 || passed == 0 {
        std::process::exit(1);
    }
}

/// One script, told step by step.
fn replay(options: &Options) -> (usize, usize) {
    let plan = plan::of(options.first, options.policies);
    println!("{:?}, {} devices, {} steps", plan.kind, plan.peers, plan.steps.len());
    let cluster = Cluster::start(server::SETTINGS);
    let log = Log::new(true);
    let outcome = script::run(&cluster, &plan, &log);
    print!("{}", log.counts);
    let Err(failure) = outcome else { return (1, 0) };
    println!("failed: {failure}");
    if options.shrink {
        let kind = shrink::kind_of(&failure);
        let fails = |plan: &plan::Plan| {
            let same = script::run(&cluster, plan, &Log::new(false)).is_err_and(|e| shrink::kind_of(&e) == kind);
            println!("{} steps {}", plan.steps.len(), if same { "fail" } else { "pass" });
            same
        };
        let shortest = shrink::shortest(&plan, fails);
        println!("\nthe shortest script that fails so:");
        if let Err(failure) = script::run(&cluster, &shortest, &Log::new(true)) {
            println!("failed: {failure}");
        }
    }
    (0, 1)
}

fn run(options: &Options) -> (usize, usize) {
    let mode = if options.policies { "policies" } else { "plain" };
    let begin = Instant::now();
    let end = options.first.saturating_add(options.count);
    let mut first = if options.resume { record::next(mode, options.first) } else { options.first };
    let (mut passed, mut failed) = (0, 0);
    let counts = Mutex::new(Counts::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut clusters: Vec<Option<Cluster>> = (0..workers).map(|_| None).collect();
    while first < end && begin.elapsed() < options.limit && failed < ENOUGH_FAILURES {
        let since = Instant::now();
        let count = CHUNK.min(end - first);
        let (done, good) = chunk(options, first, count, begin, &counts, &mut clusters);
        passed += good;
        failed += done - good;
        let last = first + done as u64;
        let range = record::Range {
            mode,
            first,
            last: last.saturating_sub(1),
            passed: good,
            failed: done - good,
            seconds: since.elapsed().as_secs_f64(),
        };
        println!("{done} scripts from seed {first}: {good} passed, {} failed, {:.1} s", done - good, range.seconds);
        if options.resume && done > 0 {
            record::append(&range).unwrap_or_else(|e| println!("the results could not be recorded: {e}"));
        }
        first = last.max(first + 1);
    }
    println!("{} scripts in {:.1} s", passed + failed, begin.elapsed().as_secs_f64());
    print!("{}", counts.into_inner().unwrap_or_default());
    (passed, failed)
}

/// Runs some seeds on all processors, each with a server that nobody else uses. Returns how many were run, and passed.
fn chunk(
    options: &Options,
    first: u64,
    count: u64,
    begin: Instant,
    counts: &Mutex<Counts>,
    clusters: &mut [Option<Cluster>],
) -> (usize, usize) {
    let (next, done, good) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let messages = Mutex::new(());
    let work = |cluster: &mut Option<Cluster>| {
        loop {
            let failed = done.load(Ordering::Relaxed) - good.load(Ordering::Relaxed);
            if begin.elapsed() > options.limit || failed >= ENOUGH_FAILURES {
                return;
            }
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return;
            }
            let seed = first + n;
            let on = cluster.get_or_insert_with(|| Cluster::start(server::SETTINGS));
            match one(on, seed, options, counts) {
                Ok(()) => drop((good.fetch_add(1, Ordering::Relaxed), done.fetch_add(1, Ordering::Relaxed))),
                Err(failure) => {
                    done.fetch_add(1, Ordering::Relaxed);
                    // It may be left in any state.
                    *cluster = None;
                    let _one_at_a_time = messages.lock();
                    println!(
                        "seed {seed} failed: {failure}\n    ./dev sim --seed {seed}{}",
                        if options.policies { " --policies" } else { "" }
                    );
                }
            }
        }
    };
    std::thread::scope(|scope| clusters.iter_mut().for_each(|cluster| drop(scope.spawn(|| work(cluster)))));
    (done.into_inner(), good.into_inner())
}

fn one(cluster: &Cluster, seed: u64, options: &Options, counts: &Mutex<Counts>) -> Result<(), String> {
    let plan = plan::of(seed, options.policies);
    let log = Log::new(false);
    let outcome = script::run(cluster, &plan, &log);
    if let Ok(all) = counts.lock() {
        all.join(&log.counts);
    }
    outcome?;
    if options.twice {
        let again = Log::new(false);
        script::run(cluster, &plan, &again)?;
        let (one, two) = (log.lines(), again.lines());
        if let Some(at) = (0..one.len().max(two.len())).find(|&i| one.get(i) != two.get(i)) {
            return Err(format!("two runs differ\n  {:?}\n  {:?}", one.get(at), two.get(at)));
        }
    }
    Ok(())
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs() % 1_000_000 * 1000);
    let mut options = Options {
        first: now,
        count: 50,
        limit: Duration::from_secs(360_000),
        policies: false,
        twice: false,
        resume: false,
        single: false,
        shrink: false,
    };
    let mut first = None;
    while let Some(name) = arguments.next() {
        let mut number = || {
            let value = arguments.next().ok_or(format!("{name} wants a number"))?;
            value.parse::<u64>().map_err(|_| format!("{value} is not a number"))
        };
        match name.as_str() {
            "--seeds" => options.count = number()?,
            "--first" => first = Some(number()?),
            "--seconds" => options.limit = Duration::from_secs(number()?),
            "--seed" => (first, options.single) = (Some(number()?), true),
            "--policies" => options.policies = true,
            "--twice" => options.twice = true,
            "--resume" => options.resume = true,
            "--shrink" => options.shrink = true,
            _ => return Err(format!("{name} is unknown")),
        }
    }
    // Long runs cover the seeds from 1; short ones are others each time.
    options.first = first.unwrap_or(if options.resume { 1 } else { options.first });
    Ok(options)
}
