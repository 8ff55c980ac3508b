//! Long fuzzing of everything that reads bytes: `./dev fuzz [TARGET] [--minutes N | --seconds N] [--replay FILE]`.
//!
//! Inputs are messages of a real sync, changed field by field or byte by byte; those that reach new branches (see `coverage.c`) are
//! kept and changed further. Each target runs in a process of its own, so that one input that kills it is found too.
//!
//! # Layout
//! - [`targets`]: what is given the input, and what must be true afterwards
//! - [`world`]: the real sync that the first inputs come from
//! - [`corpus`], [`coverage`]: which inputs are kept

mod corpus;
mod coverage;
mod targets;
mod world;

use corpus::Corpus;
use coverage::Coverage;
use fastrand::Rng;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use sync_tests::mutate;

/// After so many different failures the rest is not worth running.
const ENOUGH_FAILURES: usize = 20;
/// Larger inputs are left to the tests of limits: they take the time of thousands of small ones, and grow from one another.
const INPUT_BYTES: usize = 2 << 20;
/// Address space of a worker, and of each process of its server.
const MEMORY_KIB: u64 = 4 << 20;
/// How a worker ends that has seen failures.
const FAILED: i32 = 3;

struct Options {
    targets: Vec<String>,
    limit: Duration,
    replay: Option<PathBuf>,
    worker: bool,
    folder: PathBuf,
}

fn main() -> ExitCode {
    let options = options(std::env::args().skip(1)).unwrap_or_else(|e| {
        let names = targets::NAMES.join("|");
        eprintln!("fuzz: {e}\nusage: fuzz [{names}] [--minutes N | --seconds N] [--replay FILE] [--folder F]");
        std::process::exit(2)
    });
    if options.worker {
        // No more than a thread of an application may have.
        let small = std::thread::Builder::new().stack_size(2 << 20).spawn(move || work(&options));
        return small.expect("a thread starts").join().unwrap_or(ExitCode::FAILURE);
    }
    let (mut passed, mut failed) = (0, 0);
    for target in &options.targets {
        let (p, f) = supervise(target, &options);
        passed += p;
        failed += f;
    }
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0 || passed == 0))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let all = targets::NAMES.iter().map(|name| (*name).to_owned()).collect();
    let folder = std::env::temp_dir().join("pg_sync_fuzz");
    let mut options = Options { targets: all, limit: Duration::from_secs(240), replay: None, worker: false, folder };
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{name} wants a value"));
        let mut number = || value()?.parse::<u64>().map_err(|_| format!("{name} wants a number"));
        match name.as_str() {
            "--seconds" => options.limit = Duration::from_secs(number()?),
            "--minutes" => options.limit = Duration::from_secs(number()?.saturating_mul(60)),
            "--replay" => options.replay = Some(value()?.into()),
            "--folder" => options.folder = value()?.into(),
            "--worker" => options.worker = true,
            target if targets::NAMES.contains(&target) => options.targets = vec![name],
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(options)
}

/// Runs one target in processes of its own until the time is over. Answers how many inputs passed, and how many failed.
fn supervise(target: &str, options: &Options) -> (u64, u64) {
    let begin = Instant::now();
    let corpus = Corpus::open(&options.folder.join(target)).expect("the corpus can be read");
    let before = corpus.tried();
    // The server runs as another user.
    let coverage = std::env::temp_dir().join(format!("pg_sync_coverage.{}", std::process::id()));
    std::fs::write(&coverage, [0; coverage::SIZE]).expect("the coverage file can be made");
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&coverage, anybody).expect("the coverage file is ours");
    let mut failed = 0;
    loop {
        let left = options.limit.saturating_sub(begin.elapsed()).as_secs().max(1);
        // What asks for more memory than any message is worth dies, and so do servers that it starts.
        let mut worker = Command::new("sh");
        worker.args(["-c", &format!("ulimit -v {MEMORY_KIB} && exec \"$0\" \"$@\"")]);
        worker.arg(std::env::current_exe().expect("this program has a path"));
        worker.args([target, "--worker", "--seconds", &left.to_string(), "--folder"]).arg(&options.folder);
        worker.args(options.replay.iter().flat_map(|file| ["--replay".as_ref(), file.as_os_str()]));
        // What a server does must not be mixed with what this program does.
        worker.env(if targets::in_server(target) { "FUZZ_SERVER_COVERAGE" } else { "FUZZ_COVERAGE" }, &coverage);
        let status = worker.status().expect("this program starts again");
        match status.code() {
            Some(0) => break,
            Some(FAILED) => {
                failed += 1;
                break;
            }
            _ => failed += 1,
        }
        if let Ok(input) = std::fs::read(corpus.running()) {
            let path = corpus.fail(&input).expect("a failing input can be written");
            println!("{target}: the process died ({status})\n    ./dev fuzz {target} --replay {}", path.display());
        } else {
            println!("{target}: the process ended before its first input ({status})");
            break;
        }
        if options.replay.is_some() || begin.elapsed() > options.limit {
            break;
        }
    }
    let _ = std::fs::remove_file(coverage);
    let _ = std::fs::remove_file(corpus.running());
    let tried = corpus.tried() - before;
    println!("{target}: {tried} inputs in {} s, {} in all runs", begin.elapsed().as_secs(), corpus.tried());
    (if options.replay.is_some() { u64::from(failed == 0) } else { tried.saturating_sub(failed) }, failed)
}

fn work(options: &Options) -> ExitCode {
    let target = &options.targets[0];
    let coverage = std::env::var("FUZZ_COVERAGE").or_else(|_| std::env::var("FUZZ_SERVER_COVERAGE")).ok();
    if let (Some(path), true) = (&coverage, targets::in_server(target)) {
        std::env::set_var("FUZZ_COVERAGE", path);
    }
    let mut worker = Worker {
        target,
        runs: targets::Target::new(target),
        coverage: Coverage::new(coverage.as_deref()).expect("the coverage file can be opened"),
        corpus: Corpus::open(&options.folder.join(target)).expect("the corpus can be read"),
        failures: HashSet::new(),
        tried: 0,
    };
    // What panics under test is caught and told once.
    std::panic::set_hook(Box::new(|_| ()));
    match &options.replay {
        Some(file) => worker.replay(&std::fs::read(file).expect("the file to be replayed can be read")),
        None => worker.search(options.limit),
    }
    ExitCode::from(if worker.failures.is_empty() { 0 } else { FAILED as u8 })
}

struct Worker<'a> {
    target: &'a str,
    runs: targets::Target,
    coverage: Coverage,
    corpus: Corpus,
    failures: HashSet<String>,
    tried: u64,
}

impl Worker<'_> {
    fn replay(&mut self, input: &[u8]) {
        match self.runs.run(input) {
            Ok(outcome) => println!("{}: {outcome}", self.target),
            Err(why) => {
                println!("{}: {why}", self.target);
                self.failures.insert(why);
            }
        }
    }

    fn search(&mut self, limit: Duration) {
        let (begin, before) = (Instant::now(), self.corpus.tried());
        let mut rng = Rng::new();
        let mut told = Instant::now();
        let known = std::mem::take(&mut self.corpus.inputs);
        for input in known.into_iter().chain(self.runs.seeds()) {
            let fresh = mutate::uncompressed(&input).unwrap_or(input);
            self.corpus.begin_with(&fresh);
            self.attempt(fresh);
        }
        while begin.elapsed() < limit && self.failures.len() < ENOUGH_FAILURES {
            let inputs = &self.corpus.inputs;
            // What was found last leads on more often.
            let recent = inputs.len().saturating_sub(if rng.bool() { 50 } else { usize::MAX });
            let (one, other) = (&inputs[rng.usize(recent..inputs.len())], &inputs[rng.usize(..inputs.len())]);
            let input = if rng.u8(..4) == 0 { mutate::bytes(&mut rng, one) } else { mutate::fields(&mut rng, one, other) };
            if input.len() <= INPUT_BYTES {
                self.attempt(input);
            }
            if self.tried.is_multiple_of(256) {
                self.corpus.set_tried(before + self.tried).expect("the corpus can be written");
            }
            if told.elapsed() > Duration::from_secs(20) {
                told = Instant::now();
                self.tell(begin);
            }
        }
        self.tell(begin);
        self.corpus.set_tried(before + self.tried).expect("the corpus can be written");
    }

    fn tell(&self, begin: Instant) {
        let (kept, branches) = (self.corpus.inputs.len(), self.coverage.branches());
        println!("{}: {} inputs, {kept} kept, {branches} branches, {} s", self.target, self.tried, begin.elapsed().as_secs());
    }

    fn attempt(&mut self, input: Vec<u8>) {
        write(&self.corpus.running(), &input);
        self.coverage.begin();
        self.tried += 1;
        match self.runs.run(&input) {
            Ok(outcome) => {
                if self.coverage.is_new(&shape(&outcome)) {
                    self.corpus.keep(input).expect("the corpus can be written");
                }
            }
            Err(why) => {
                if self.failures.insert(shape(&why)) {
                    let path = self.corpus.fail(&input).expect("a failing input can be written");
                    println!("{}: {why}\n    ./dev fuzz {} --replay {}", self.target, self.target, path.display());
                }
                self.runs = targets::Target::new(self.target);
            }
        }
    }
}

fn write(path: &Path, input: &[u8]) {
    std::fs::write(path, input).expect("the input under way can be written");
}

/// A message without what differs from one input to the next: numbers, and what is quoted.
fn shape(message: &str) -> String {
    let mut quoted = false;
    let kept = message.chars().filter(|c| {
        quoted ^= *c == '"';
        !quoted && !c.is_ascii_digit()
    });
    kept.take(120).collect()
}
