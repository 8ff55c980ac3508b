//! The languages: how to make each one's command, or why it cannot run here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use sync_tests::build::{library, root, version};

/// A program to run: its name, what is expected of it, and how to make its command in a folder for what is compiled.
pub struct Client {
    pub name: &'static str,
    pub expected: Expected,
    pub command: fn(&Path) -> Result<Command, Cannot>,
}

/// Why a client cannot be run.
pub enum Cannot {
    /// What it needs is not installed here.
    Skip(String),
    /// It is broken: what is compiled does not compile.
    Fail(String),
}

impl From<String> for Cannot {
    fn from(missing: String) -> Self {
        Cannot::Skip(missing)
    }
}

impl From<&str> for Cannot {
    fn from(missing: &str) -> Self {
        Cannot::Skip(missing.to_owned())
    }
}

pub enum Expected {
    /// An example client, with the file that has the part that is sync: it does what `check` in main.rs looks for.
    Tour(&'static str),
    /// Tests of its own: it ends well.
    Tests,
}

const fn client(name: &'static str, source: &'static str, command: fn(&Path) -> Result<Command, Cannot>) -> Client {
    Client { name, expected: Expected::Tour(source), command }
}

const fn tests(name: &'static str, command: fn(&Path) -> Result<Command, Cannot>) -> Client {
    Client { name, expected: Expected::Tests, command }
}

pub const CLIENTS: [Client; 15] = [
    client("shell", "shell/client.sh", shell),
    client("python", "python/client.py", python),
    client("apsw", "python/client.py", apsw),
    client("node", "node/client.mjs", node),
    client("go", "go/client.go", go),
    client("java", "java/Client.java", java),
    client("php", "php/client.php", php),
    client("ruby", "ruby/client.rb", ruby),
    client("rust", "rust/src/main.rs", rust),
    client("c", "c/client.c", c),
    client("c-linked", "c/client.c", c_linked),
    tests("python-package", python_package),
    tests("node-package", node_package),
    tests("node-types", node_types),
    tests("live", live),
];

/// A file of the examples.
pub fn file(path: &str) -> PathBuf {
    root().join("examples/clients").join(path)
}

/// What a program said, or how it ended.
pub fn text(output: std::io::Result<Output>, name: &str) -> Result<String, String> {
    let output = output.map_err(|e| format!("{name} could not be run: {e}"))?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(out.into_owned());
    }
    Err(format!("{name} ended with {}\n{out}{errors}", output.status))
}

/// The same of a step without which there is nothing to run.
fn built(output: std::io::Result<Output>, name: &str) -> Result<String, Cannot> {
    text(output, name).map_err(Cannot::Fail)
}

/// Whether a program is there and answers.
fn needs(program: &str, arguments: &[&str], otherwise: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    if output.is_ok_and(|o| o.status.success()) {
        return Ok(());
    }
    Err(otherwise.to_owned())
}

fn shell(_: &Path) -> Result<Command, Cannot> {
    needs("sqlite3", &["--version"], "the program sqlite3 is not installed")?;
    needs("curl", &["--version"], "the program curl is not installed")?;
    let mut command = Command::new("sh");
    command.arg(file("shell/client.sh"));
    Ok(command)
}

/// The first python on PATH may have been built without loadable extensions; Debian's was not.
fn able_python() -> Result<Command, Cannot> {
    let able = ["-c", "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)"];
    let python = ["python3", "/usr/bin/python3"].into_iter().find(|python| needs(python, &able, "").is_ok());
    Ok(Command::new(python.ok_or("no python3 whose sqlite3 can load extensions is installed")?))
}

/// The standard library's sqlite3.
fn python(_: &Path) -> Result<Command, Cannot> {
    let mut command = able_python()?;
    command.arg(file("python/client.py"));
    Ok(command)
}

fn python_package(_: &Path) -> Result<Command, Cannot> {
    let mut command = able_python()?;
    // Nothing is to be left in the tree.
    command.arg("-B").arg(root().join("packages/python/tests/test_client.py"));
    Ok(command)
}

/// The same with apsw, which brings a SQLite of its own, newer than Debian's.
fn apsw(_: &Path) -> Result<Command, Cannot> {
    let python = packages("python")?.join("bin/python");
    needs(&python.to_string_lossy(), &["-c", "import apsw"], "apsw could not be installed")?;
    let mut command = Command::new(python);
    command.arg(file("python/client.py"));
    Ok(command)
}

/// The folder that `./dev clients` installs packages of a language's own registry to.
fn packages(language: &str) -> Result<PathBuf, String> {
    let folder = std::env::var_os("SYNC_CLIENT_PACKAGES").ok_or("its packages are not installed")?;
    Ok(PathBuf::from(folder).join(language))
}

/// Node looks for packages beside the file that asks for them, so the files are copied to the packages.
fn node_with(files: &[(PathBuf, &str)]) -> Result<Command, String> {
    needs("node", &["--version"], "node is not installed")?;
    let packages = packages("node")?;
    let sqlite = "if (Number(process.versions.node.split('.')[0]) < 22) require('better-sqlite3')";
    let found = Command::new("node").current_dir(&packages).args(["-e", sqlite]).output();
    if !found.is_ok_and(|o| o.status.success()) {
        return Err("better-sqlite3, for Node before 22.13, could not be installed".into());
    }
    for (from, to) in files {
        text(Command::new("cp").arg("-rT").arg(from).arg(packages.join(to)).output(), "cp")?;
    }
    let mut command = Command::new("node");
    command.current_dir(packages);
    Ok(command)
}

fn node(_: &Path) -> Result<Command, Cannot> {
    let mut command = node_with(&[(file("node/client.mjs"), "client.mjs")])?;
    command.arg("client.mjs");
    Ok(command)
}

/// Where Node finds our package under its name.
fn ours() -> (PathBuf, &'static str) {
    let scope = packages("node").map(|folder| folder.join("node_modules/@pg-sync"));
    // What cannot be made is missed by the copy.
    let _made = scope.map(std::fs::create_dir_all);
    (root().join("packages/node"), "node_modules/@pg-sync/client")
}

fn node_package(_: &Path) -> Result<Command, Cannot> {
    let mut command = node_with(&[ours()])?;
    command.args(["--test", "--test-reporter=spec", "node_modules/@pg-sync/client/test/client.test.mjs"]);
    Ok(command)
}

/// A program with types: the compiler says whether it may be run.
fn node_types(_: &Path) -> Result<Command, Cannot> {
    let node = node_with(&[ours()])?;
    let types = packages("types")?.join("node_modules");
    let compiler = types.join(".bin/tsc");
    needs(&compiler.to_string_lossy(), &["--version"], "TypeScript could not be installed")?;
    let mut command = Command::new("sh");
    command.current_dir(node.get_current_dir().ok_or("no folder")?.join("node_modules/@pg-sync/client"));
    command.args(["-c", "\"$0\" --project . --typeRoots \"$1\" && node typed/typed.mjs"]).arg(compiler).arg(types.join("@types"));
    Ok(command)
}

/// Two processes in a conversation.
fn live(_: &Path) -> Result<Command, Cannot> {
    let mut command = node_with(&[ours(), (root().join("examples/live"), "live")])?;
    command.arg("live/demo.mjs");
    Ok(command)
}

/// With Debian's packages of Go, which are sources in a GOPATH.
fn go(made: &Path) -> Result<Command, Cannot> {
    needs("go", &["version"], "golang-go is not installed")?;
    let path = "/usr/share/gocode";
    if !Path::new(path).join("src/github.com/mattn/go-sqlite3").exists() {
        return Err("golang-github-mattn-go-sqlite3-dev is not installed".into());
    }
    let program = made.join("client-go");
    let mut compiler = Command::new("go");
    compiler.env("GO111MODULE", "off").env("GOPATH", path).env("GOFLAGS", "-tags=libsqlite3");
    compiler.args(["build", "-o"]).arg(&program).arg(file("go/client.go"));
    built(compiler.output(), "go build")?;
    Ok(Command::new(program))
}

fn java(_: &Path) -> Result<Command, Cannot> {
    needs("javac", &["-version"], "default-jdk-headless is not installed")?;
    let driver = "/usr/share/java/sqlite-jdbc.jar";
    if !Path::new(driver).exists() {
        return Err("libxerial-sqlite-jdbc-java is not installed".into());
    }
    let mut command = Command::new("java");
    // Optimising what runs for a second takes longer than it saves.
    command.args(["-XX:TieredStopAtLevel=1", "-cp", driver]).arg(file("java/Client.java"));
    Ok(command)
}

fn php(_: &Path) -> Result<Command, Cannot> {
    needs("php", &["-r", "new SQLite3(':memory:');"], "php-cli or php-sqlite3 is not installed")?;
    let mut folder = library("libsqlite_sync.so");
    folder.pop();
    let mut command = Command::new("php");
    command.arg("-d").arg(format!("sqlite3.extension_dir={}", folder.display())).arg(file("php/client.php"));
    Ok(command)
}

fn ruby(_: &Path) -> Result<Command, Cannot> {
    needs("ruby", &["-e", "require 'sqlite3'"], "ruby or ruby-sqlite3 is not installed")?;
    let mut command = Command::new("ruby");
    command.arg(file("ruby/client.rb"));
    Ok(command)
}

fn rust(_: &Path) -> Result<Command, Cannot> {
    let program = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("sync-client")));
    let program = program.filter(|path| path.exists()).ok_or("sync-client is not built")?;
    Ok(Command::new(program))
}

fn c(made: &Path) -> Result<Command, Cannot> {
    let program = made.join("client-c");
    built(c_compiler(&program)?.arg("-lsqlite3").output(), "cc")?;
    Ok(Command::new(program))
}

fn c_compiler(program: &Path) -> Result<Command, Cannot> {
    needs("cc", &["--version"], "no C compiler is installed")?;
    let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    let of = |what: &str| text(Command::new(&pg_config).arg(what).output(), "pg_config").map(|path| path.trim().to_owned());
    let (headers, libraries) = (of("--includedir")?, of("--libdir")?);
    if !Path::new(&headers).join("libpq-fe.h").exists() {
        return Err("the headers of libpq are not installed".into());
    }
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(program).arg(file("c/client.c"));
    compiler.args([format!("-I{headers}"), format!("-L{libraries}"), format!("-Wl,-rpath,{libraries}"), "-lpq".into()]);
    Ok(compiler)
}

/// The same with the extension linked in, and with a SQLite that cannot load any.
fn c_linked(made: &Path) -> Result<Command, Cannot> {
    let archive = library("static/libsqlite_sync.a");
    let folder = std::env::var_os("SYNC_CLIENT_PACKAGES").map(|packages| PathBuf::from(packages).join("sqlite"));
    let sqlite = folder.filter(|folder| folder.join("sqlite3.o").exists()).ok_or("SQLite's sources are not there")?;
    let shim = root().join("sqlite_sync/static");
    let finish = |compiler: &mut Command, sqlite: &[PathBuf], program: &Path| {
        compiler.arg("-DSYNC_LINKED").arg("-I").arg(&shim).arg(shim.join("sqlite_sync.c")).arg(&archive).args(sqlite);
        built(compiler.args(["-lm", "-lpthread", "-o"]).arg(program).output(), "cc")
    };
    let without = [sqlite.join("sqlite3.o"), format!("-I{}", sqlite.display()).into()];
    for (loads, sqlite) in [("0", &without[..]), ("1", &["-lsqlite3".into()])] {
        let program = made.join(format!("linked-{loads}"));
        let mut compiler = Command::new("cc");
        compiler.args(["-Wall", "-Wextra", "-Werror"]).arg(root().join("tests/clients/linked.c"));
        finish(&mut compiler, sqlite, &program)?;
        let said = built(Command::new(&program).args([&version(), loads]).output(), "linked")?;
        println!("    {}", said.trim());
    }
    let program = made.join("client-linked");
    finish(&mut c_compiler(&program)?, &without, &program)?;
    Ok(Command::new(program))
}
