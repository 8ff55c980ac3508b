//! Postgres's own programs against a throwaway server: pg_dump, psql, pg_restore, pg_upgrade.

use crate::cluster::pg_config;
use crate::{Cluster, Database};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// What pg_upgrade starts.
const UPGRADE: [&str; 9] =
    ["pg_upgrade", "pg_ctl", "pg_dump", "pg_dumpall", "pg_restore", "psql", "vacuumdb", "pg_resetwal", "pg_controldata"];

impl Database<'_> {
    /// What pg_dump makes of the database, in a file.
    pub fn dump(&self, arguments: &[&str]) -> PathBuf {
        let file = self.cluster().folder.join(format!("dump.{:08x}", fastrand::u32(..)));
        let mut dump = self.program("pg_dump");
        done(dump.args(arguments).arg(self.name()).arg("--file").arg(&file));
        file
    }

    /// Feeds a plain dump to psql, which stops at the first error.
    pub fn load(&self, file: &PathBuf) {
        done(self.program("psql").args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", self.name(), "--file"]).arg(file));
    }

    /// Feeds a dump in a format of its own to pg_restore.
    pub fn restore(&self, file: &PathBuf, arguments: &[&str]) {
        done(self.program("pg_restore").args(arguments).args(["--exit-on-error", "--dbname", self.name()]).arg(file));
    }

    fn program(&self, name: &str) -> Command {
        let mut program = Command::new(pg_config("--bindir").expect("pg_config answers").join(name));
        program.env("PGHOST", self.cluster().socket()).env("PGPORT", self.cluster().port().to_string()).env("PGUSER", "postgres");
        program
    }
}

impl Cluster {
    /// A program that the private copy gets when it is first used.
    pub(crate) fn tool(&self, name: &str) -> Command {
        let copy = self.programs.join(name);
        if !copy.exists() {
            fs::copy(pg_config("--bindir").expect("pg_config answers").join(name), copy).expect("a program is copied");
        }
        self.command(name)
    }

    /// False where psql is of another version than the server: pg_upgrade refuses that.
    pub fn can_upgrade(&self) -> bool {
        let version = |program: &mut Command| {
            let said = String::from_utf8_lossy(&done(program.arg("--version")).stdout).into_owned();
            // "psql (PostgreSQL) 15.14 (Debian ...)"
            said.split_whitespace().nth(2).map(str::to_owned)
        };
        version(&mut self.tool("psql")) == version(&mut self.tool("postgres"))
    }

    /// Moves everything into a new cluster with pg_upgrade, as a new major version would, and starts it in place of the old one.
    pub fn upgrade(&self) {
        UPGRADE.iter().for_each(|name| drop(self.tool(name)));
        self.stop();
        self.init("upgraded").expect("a new cluster is made");
        let mut upgrade = self.tool("pg_upgrade");
        upgrade.current_dir(self.socket()).args(["--username=postgres", "--old-bindir"]).arg(&self.programs);
        upgrade.arg("--new-bindir").arg(&self.programs).arg("--old-datadir").arg(self.data()).arg("--new-datadir");
        done(upgrade.arg(self.folder.join("upgraded")).arg("--socketdir").arg(self.socket()));
        let settings = "postgresql.conf";
        fs::copy(self.data().join(settings), self.folder.join("upgraded").join(settings)).expect("the settings are kept");
        self.put_back("upgraded");
        self.launch();
    }
}

pub(crate) fn done(program: &mut Command) -> Output {
    let output = program.output().unwrap_or_else(|e| panic!("{program:?}: {e}"));
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{program:?}\n{}", String::from_utf8_lossy(&said));
    output
}
