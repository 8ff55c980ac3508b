//! A throwaway Postgres server: its own copy of the installation with the extension in it, a data folder, a socket, no
//! port. Nothing of the machine's own Postgres is touched, and all of it disappears with the process, however that ends.

use crate::build;
use postgres::{Client, Config, NoTls};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{chown, symlink, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

const PORT: u16 = 5432;
const TEMPLATE: &str = "with_extension";
const SETTINGS: &str = "
listen_addresses = ''
max_connections = 60
shared_buffers = 128MB
fsync = off
max_wal_size = 4GB
log_min_messages = warning
log_line_prefix = '%m [%p] %d '
timezone = 'UTC'
";

/// A running server.
pub struct Cluster {
    pub(crate) folder: PathBuf,
    pub(crate) programs: PathBuf,
    owner: Option<(u32, u32)>,
    server: Mutex<Option<Child>>,
    made: AtomicU32,
    /// Its end, which the process's end closes, tells the guard to stop the server and to remove the folder.
    guard: Option<(Child, ChildStdin)>,
}

impl Cluster {
    /// The server that all tests of this process share.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Cluster::start(""))
    }

    /// A server of its own, with more lines for its `postgresql.conf`.
    pub fn start(settings: &str) -> Cluster {
        Cluster::try_start(settings).unwrap_or_else(|e| panic!("a throwaway Postgres could not be started: {e}"))
    }

    fn try_start(settings: &str) -> io::Result<Cluster> {
        let cluster = Cluster::prepare()?;
        cluster.init("data")?;
        cluster.configure(settings)?;
        cluster.launch();
        let mut client = cluster.connect("postgres", "postgres");
        client.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).map_err(io::Error::other)?;
        let mut client = cluster.connect(TEMPLATE, "postgres");
        client.batch_execute("CREATE EXTENSION pg_sync").map_err(|e| io::Error::other(describe(&e)))?;
        Ok(cluster)
    }

    /// An installation with a folder for its socket, and no data yet.
    pub(crate) fn prepare() -> io::Result<Cluster> {
        let folder = std::env::temp_dir().join(format!("pg_sync.{}.{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let guard = spawn_guard(&folder)?;
        let programs = copy_installation(&folder)?;
        let owner = unprivileged_owner()?;
        let cluster = Cluster { folder, programs, owner, server: Mutex::new(None), made: AtomicU32::new(0), guard: Some(guard) };
        cluster.make_folder("socket")?;
        Ok(cluster)
    }

    /// Adds lines to `postgresql.conf`; the last one counts.
    pub(crate) fn configure(&self, settings: &str) -> io::Result<()> {
        let file = self.data().join("postgresql.conf");
        let conf = fs::read_to_string(&file)? + SETTINGS + settings;
        fs::write(&file, conf + &format!("\nunix_socket_directories = '{}'\n", self.socket().display()))
    }

    /// Makes a data folder of that name.
    pub(crate) fn init(&self, name: &str) -> io::Result<()> {
        self.make_folder(name)?;
        let mut initdb = self.command("initdb");
        initdb.args(["--no-sync", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--pgdata"]);
        let output = initdb.arg(self.folder.join(name)).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Makes a folder that the server can write to.
    pub(crate) fn make_folder(&self, name: &str) -> io::Result<()> {
        fs::create_dir(self.folder.join(name))?;
        // Of a folder of data nobody else may read anything.
        fs::set_permissions(self.folder.join(name), fs::Permissions::from_mode(0o700))?;
        self.owner.map_or(Ok(()), |(uid, gid)| chown(self.folder.join(name), Some(uid), Some(gid)))
    }

    /// A new database without the extension.
    pub fn empty_database(&self) -> Database<'_> {
        let name = format!("db{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.connect("postgres", "postgres").batch_execute(&format!("CREATE DATABASE {name}")).expect("a database is created");
        Database { cluster: self, name }
    }

    /// A new database with the extension in it.
    pub fn database(&self) -> Database<'_> {
        self.new_database("")
    }

    /// The same, made by a checkpoint and copies of files: what was before it leaves nothing in the log.
    pub fn database_at_checkpoint(&self) -> Database<'_> {
        self.new_database("STRATEGY file_copy")
    }

    fn new_database(&self, how: &str) -> Database<'_> {
        let name = format!("db{}", self.made.fetch_add(1, Ordering::Relaxed));
        let mut client = self.connect("postgres", "postgres");
        client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} {how}")).expect("a database is created");
        Database { cluster: self, name }
    }

    /// A connection. Everybody is trusted.
    pub fn connect(&self, database: &str, user: &str) -> Client {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.config(database, user).connect(NoTls) {
                Ok(client) => return client,
                Err(e) if starting(&e) && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(e) => panic!("no connection to {database} as {user}: {}\n{}", describe(&e), self.log()),
            }
        }
    }

    fn config(&self, database: &str, user: &str) -> Config {
        let mut config = Config::new();
        config.host_path(self.socket()).port(PORT).user(user).dbname(database);
        config
    }

    /// The folder of the socket: what `PGHOST` wants.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// The port in the socket's name: what `PGPORT` wants.
    pub fn port(&self) -> u16 {
        PORT
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Cuts the server off as a loss of power would, except that what it had handed to the kernel stays. It does not start
    /// again by itself.
    pub fn crash(&self) {
        self.signal("-QUIT");
    }

    /// Stops the server in good order.
    pub fn stop(&self) {
        self.signal("-INT");
    }

    /// Kills the postmaster and all its children with SIGKILL, and waits until nothing of them is left.
    pub fn kill(&self) {
        let mut server = self.server.lock().expect("no test panics while it kills a server").take().expect("the server runs");
        let pids = stop_making_children(server.id());
        pids.iter().for_each(|pid| send("-KILL", *pid));
        server.wait().expect("the server ends");
        let deadline = Instant::now() + Duration::from_secs(30);
        while pids.iter().any(|pid| is_alive(*pid)) {
            assert!(Instant::now() < deadline, "a killed server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Killed between making a lock file and writing it, a server does not start again before somebody removes it.
        for lock in [self.socket().join(format!(".s.PGSQL.{PORT}.lock")), self.data().join("postmaster.pid")] {
            if fs::metadata(&lock).is_ok_and(|m| m.len() == 0) {
                fs::remove_file(lock).expect("an empty lock file can be removed");
            }
        }
    }

    /// Kills one backend of some database with SIGKILL: the postmaster then cuts off all others and recovers. False if there is none.
    pub fn kill_backend(&self, choose: usize) -> bool {
        let server = self.server.lock().expect("no test panics while it kills a backend");
        let postmaster = server.as_ref().expect("the server runs").id();
        let title = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // "postgres: postgres db0 [local] SELECT"
        let backends: Vec<u32> = children(postmaster).into_iter().filter(|pid| title(pid).contains(" [local] ")).collect();
        let Some(pid) = backends.get(choose % backends.len().max(1)) else { return false };
        Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }

    /// The server's processes, the postmaster first.
    pub fn processes(&self) -> Vec<u32> {
        let server = self.server.lock().expect("no test panics while it looks at a server");
        let postmaster = server.as_ref().expect("the server runs").id();
        std::iter::once(postmaster).chain(children(postmaster)).collect()
    }

    /// Starts the server again after [`Cluster::crash`] or [`Cluster::stop`].
    pub fn launch(&self) {
        let log = fs::File::options().append(true).create(true).open(self.folder.join("log")).expect("the log can be written");
        let mut server = self.command("postgres");
        server.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        *self.server.lock().expect("no test panics while it starts a server") = Some(server.spawn().expect("postgres starts"));
    }

    /// Instructions of a stopped server's backend that runs statements by itself, under valgrind's callgrind. Each ends with a semicolon
    /// and an empty line.
    pub fn instructions(&self, database: &str, statements: &str) -> Result<u64, String> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(self.programs.join("postgres"));
        command.args(["--single", "-j", "-D"]).arg(self.data()).arg(database);
        self.as_owner(&mut command).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut backend = command.spawn().map_err(|e| format!("valgrind cannot be run: {e}"))?;
        let mut input = backend.stdin.take().ok_or("no pipe")?;
        input.write_all(statements.as_bytes()).map_err(|e| e.to_string())?;
        drop(input);
        let output = backend.wait_with_output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let counted = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
        counted.filter(|_| output.status.success() && !said.contains("ERROR:")).ok_or_else(|| said.into_owned())
    }

    /// Copies the data folder of a stopped server aside, as a disk snapshot would.
    pub fn save(&self, name: &str) {
        self.copy_data("data", name);
    }

    /// Copies the data folder of a running server aside at one moment, as a snapshot of its disk would.
    pub fn snapshot(&self, name: &str) {
        let server = self.server.lock().expect("no test panics while it stops a server");
        let pids = stop_making_children(server.as_ref().expect("the server runs").id());
        pids.iter().for_each(|pid| stop(*pid));
        self.copy_data("data", name);
        pids.iter().for_each(|pid| send("-CONT", *pid));
    }

    /// Puts a saved data folder back into a stopped server's place.
    pub fn put_back(&self, name: &str) {
        fs::remove_dir_all(self.data()).expect("the data folder can be removed");
        self.copy_data(name, "data");
    }

    fn copy_data(&self, from: &str, to: &str) {
        // An older copy gives way.
        let _none_there = fs::remove_dir_all(self.folder.join(to));
        let status = Command::new("cp").arg("-a").arg(self.folder.join(from)).arg(self.folder.join(to)).status();
        assert!(status.is_ok_and(|s| s.success()), "the data folder can be copied");
    }

    /// A connection, or why there is none.
    pub fn try_connect(&self, database: &str, user: &str) -> Result<Client, String> {
        self.config(database, user).connect(NoTls).map_err(|e| describe(&e))
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn signal(&self, signal: &str) {
        let server = self.server.lock().expect("no test panics while it stops a server").take();
        let mut server = server.expect("the server runs");
        let status = Command::new("kill").arg(signal).arg(server.id().to_string()).status();
        assert!(status.is_ok_and(|s| s.success()), "the server takes a signal");
        server.wait().expect("the server ends");
    }

    /// Puts a script beside the extension's own, as another version would bring it.
    pub fn add_script(&self, name: &str, sql: &str) {
        let copy = self.folder.join("postgres");
        let control = find(&copy, "pg_sync.control").expect("the extension is installed");
        fs::write(control.with_file_name(name), sql).expect("a script is written");
    }

    /// A program of the private copy, run as the owner of the data folder. `RUST_BACKTRACE` would add backtraces to errors.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        self.as_owner(&mut command);
        command
    }

    fn as_owner<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.current_dir(&self.folder).env_remove("RUST_BACKTRACE").env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some((mut guard, pipe)) = self.guard.take() {
            drop(pipe);
            let _ = guard.wait();
        }
        if let Ok(Some(mut server)) = self.server.lock().map(|mut s| s.take()) {
            let _ = server.wait();
        }
    }
}

/// One database of a cluster.
pub struct Database<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Database<'a> {
    /// A database that is there already.
    pub(crate) fn named(cluster: &'a Cluster, name: &str) -> Database<'a> {
        Database { cluster, name: name.to_owned() }
    }
}

impl Database<'_> {
    /// A connection as superuser.
    pub fn connect(&self) -> Client {
        self.cluster.connect(&self.name, "postgres")
    }

    /// A connection as somebody else.
    pub fn connect_as(&self, user: &str) -> Client {
        self.cluster.connect(&self.name, user)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its server.
    pub fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// Runs statements as superuser.
    pub fn run(&self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|e| panic!("{e}\nin: {:.400}", sql));
    }

    /// Runs statements as superuser; an error comes back as `SQLSTATE message`.
    pub fn try_run(&self, sql: &str) -> Result<(), String> {
        self.connect().batch_execute(sql).map_err(|e| describe(&e))
    }
}

/// An error with everything that the server said.
pub fn describe(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let more = [("detail", db.detail()), ("hint", db.hint()), ("where", db.where_())];
            let more: String = more.iter().filter_map(|(n, text)| Some(format!("\n{n}: {}", (*text)?))).collect();
            format!("{} {}{more}", db.code().code(), db.message())
        }
        None => error.to_string(),
    }
}

/// Sends a signal. A process that has ended by itself is as good.
fn send(signal: &str, pid: u32) {
    drop(Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status());
}

/// Stops a process where it is, and waits until it stands.
fn stop(pid: u32) {
    send("-STOP", pid);
    while stat(pid).is_some_and(|stat| !["T", "Z"].contains(&stat[0].as_str())) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Stops a server's first process, so that it makes no more of them; one that it is just making comes before it stops. All of them, it last.
fn stop_making_children(postmaster: u32) -> Vec<u32> {
    stop(postmaster);
    let mut pids = children(postmaster);
    pids.push(postmaster);
    pids
}

/// The processes that one has started and that still run.
fn children(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    let pids = fs::read_dir("/proc").into_iter().flatten().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.get(1) == Some(&parent))).collect()
}

/// Seconds of processor time that processes have taken so far.
pub fn processor_time(pids: &[u32]) -> f64 {
    // Ticks are of 10 ms on every Linux: user's and system's, fields 14 and 15 of proc(5).
    let ticks = |pid: &u32| stat(*pid).map_or(0.0, |s| [11, 12].iter().filter_map(|at| s.get(*at)?.parse::<f64>().ok()).sum());
    pids.iter().map(ticks).sum::<f64>() / 100.0
}

fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.first().is_some_and(|state| state != "Z"))
}

/// Of `/proc/PID/stat` what follows the name: state, parent, and more.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// Whether a connection failed because the server is not up yet.
fn starting(error: &postgres::Error) -> bool {
    error.as_db_error().is_none_or(|db| db.code().code() == "57P03")
}

/// Watches this process from outside it: when the pipe closes, the server is stopped and the folder removed.
fn spawn_guard(folder: &Path) -> io::Result<(Child, ChildStdin)> {
    const SCRIPT: &str = r#"
        cat >/dev/null
        pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
        [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null
        tries=0
        while [ -n "$pid" ] && [ -e "$1/data/postmaster.pid" ] && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.05; done
        if [ -n "$PG_SYNC_KEEP" ]; then echo "kept: $1" >&2; else rm -rf "$1"; fi
    "#;
    let mut guard = Command::new("sh");
    guard.args(["-c", SCRIPT, "guard"]).arg(folder).stdin(Stdio::piped()).process_group(0);
    let mut guard = guard.spawn()?;
    let pipe = guard.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
    Ok((guard, pipe))
}

/// Postgres refuses to run as root: the owner of its files is then the user `postgres`, as uid and gid.
fn unprivileged_owner() -> io::Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == "postgres");
    let ids = fields.and_then(|f| Some((f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?)));
    ids.map(Some).ok_or_else(|| io::Error::other("as root, a user named postgres is needed: run ./dev setup"))
}

pub(crate) fn pg_config(what: &str) -> io::Result<PathBuf> {
    let program = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
    let output = Command::new(&program).arg(what).output()?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Makes an installation of Postgres that has the extension, without writing to the machine's own: the programs are copies
/// (Postgres finds its folders from where its program really is), everything else links to the originals. Returns the
/// folder of the programs.
fn copy_installation(folder: &Path) -> io::Result<PathBuf> {
    let (programs, libraries, shared) = (pg_config("--bindir")?, pg_config("--pkglibdir")?, pg_config("--sharedir")?);
    let prefix = common_prefix(&common_prefix(&programs, &libraries), &shared);
    let copy_of = |path: &Path| folder.join("postgres").join(path.strip_prefix(&prefix).expect("a prefix"));
    for path in [&programs, &libraries, &shared.join("extension")] {
        fs::create_dir_all(copy_of(path))?;
    }
    for name in ["postgres", "initdb"] {
        fs::copy(programs.join(name), copy_of(&programs).join(name))?;
    }
    for from in [libraries.clone(), shared.clone(), shared.join("extension")] {
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let ours = entry.file_name().to_string_lossy().starts_with("pg_sync");
            let place = copy_of(&from).join(entry.file_name());
            if !ours && !place.exists() {
                symlink(entry.path(), place)?;
            }
        }
    }
    let extension = copy_of(&shared).join("extension");
    fs::copy(build::library("libpg_sync.so"), copy_of(&libraries).join("pg_sync.so"))?;
    fs::copy(build::root().join("pg_sync/pg_sync.control"), extension.join("pg_sync.control"))?;
    for script in build::scripts("released").into_iter().chain(build::scripts("upgrade")) {
        fs::copy(&script, extension.join(script.file_name().expect("a file's name")))?;
    }
    fs::write(extension.join(format!("pg_sync--{}.sql", build::version())), build::install_script())?;
    Ok(copy_of(&programs))
}

/// A file of that name in a folder or below, past links.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
    entries
        .iter()
        .find(|e| e.file_name() == name)
        .map(fs::DirEntry::path)
        .or_else(|| entries.iter().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).find_map(|e| find(&e.path(), name)))
}

fn common_prefix(a: &Path, b: &Path) -> PathBuf {
    a.components().zip(b.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}
