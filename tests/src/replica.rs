//! Servers made from another one's base backup: standbys that stream from it, and restores to a point in time.

use crate::tools::done;
use crate::{Cluster, Database};
use std::fs;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

impl Cluster {
    /// A hot standby that streams from this server.
    pub fn standby(&self, settings: &str) -> Cluster {
        let standby = self.backup(&["--write-recovery-conf"]);
        standby.configure(settings).expect("a standby is configured");
        standby.launch();
        standby
    }

    /// A base backup as a server of its own that was not started yet.
    pub fn backup(&self, arguments: &[&str]) -> Cluster {
        let cluster = self.try_backup(arguments).unwrap_or_else(|e| panic!("a base backup could not be made: {e}"));
        cluster.configure("").expect("a backup is configured");
        cluster
    }

    fn try_backup(&self, arguments: &[&str]) -> io::Result<Cluster> {
        let cluster = Cluster::prepare()?;
        cluster.make_folder("data")?;
        let mut program = self.tool("pg_basebackup");
        program
            .arg("--pgdata")
            .arg(cluster.data())
            .args(["--checkpoint=fast", "--no-sync", "--wal-method=stream"])
            .args(arguments);
        program.arg("--host").arg(self.socket()).args(["--port", &self.port().to_string(), "--username=postgres"]);
        done(&mut program);
        Ok(cluster)
    }

    /// Puts a base backup's files back into the place of this stopped server's, and recovers from the archive up to a target:
    /// `recovery_target_name = '...'` and the like.
    pub fn recover(&self, backup: &str, target: &str) {
        self.put_back(backup);
        let archive = self.archive().display().to_string();
        let settings = format!(
            "\nrestore_command = 'cp {archive}/%f %p'\n{target}\nrecovery_target_action = 'promote'\nrecovery_target_timeline = 'latest'\n"
        );
        self.configure(&settings).expect("the recovery is configured");
        fs::write(self.data().join("recovery.signal"), "").expect("a recovery is asked for");
        self.launch();
        self.wait_until_writable();
    }

    /// Saves a base backup of the running server aside, for [`Cluster::recover`].
    pub fn save_backup(&self, name: &str) {
        let mut program = self.tool("pg_basebackup");
        self.make_folder(name).expect("a folder is made");
        program.arg("--pgdata").arg(self.folder.join(name)).args(["--checkpoint=fast", "--no-sync", "--wal-method=none"]);
        done(program.arg("--host").arg(self.socket()).args(["--port", &self.port().to_string(), "--username=postgres"]));
    }

    /// Where finished segments of the log go; made by [`Cluster::start_archiving`].
    fn archive(&self) -> std::path::PathBuf {
        self.folder.join("archive")
    }

    /// A server that archives its log.
    pub fn start_archiving(settings: &str) -> Cluster {
        let cluster = Cluster::start(&format!("{settings}\narchive_mode = on\narchive_command = 'false'\n"));
        cluster.make_folder("archive").expect("a folder for the archive is made");
        let command = format!("test ! -f {0}/%f && cp %p {0}/%f", cluster.archive().display());
        let mut client = cluster.connect("postgres", "postgres");
        client.batch_execute(&format!("ALTER SYSTEM SET archive_command = '{command}'")).expect("a setting");
        client.batch_execute("SELECT pg_reload_conf()").expect("the settings are read");
        cluster
    }

    /// Waits until everything logged so far has been archived.
    pub fn archive_all(&self) {
        let mut client = self.connect("postgres", "postgres");
        let segment: String = client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).expect("a segment ends").get(0);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.archive().join(&segment).exists() {
            assert!(Instant::now() < deadline, "{segment} is not archived\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        let promoted = self.connect("postgres", "postgres").batch_execute("SELECT pg_promote()");
        promoted.expect("the standby is promoted");
        self.wait_until_writable();
    }

    /// Lets a standby follow this server.
    pub fn lead(&self, standby: &Cluster) {
        let mut client = standby.connect("postgres", "postgres");
        let conninfo = format!("user=postgres port={} host={}", self.port(), self.socket().display());
        client.batch_execute(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).expect("a setting");
        client.batch_execute("SELECT pg_reload_conf()").expect("the settings are read");
    }

    /// Waits until a standby shows everything that was committed here.
    pub fn wait_for(&self, standby: &Cluster) {
        let here = "SELECT pg_current_wal_flush_lsn()::text";
        let lsn: String = self.connect("postgres", "postgres").query_one(here, &[]).expect("a position").get(0);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut client = standby.connect("postgres", "postgres");
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        while !client.query_one(&there, &[]).expect("an answer").get::<_, bool>(0) {
            assert!(Instant::now() < deadline, "the standby does not catch up\n{}", standby.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_until_writable(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut client = self.connect("postgres", "postgres");
        while client.query_one("SELECT pg_is_in_recovery()", &[]).expect("an answer").get(0) {
            assert!(Instant::now() < deadline, "the server does not become a primary\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sets the next transaction id of the stopped server, as pg_upgrade does with a new cluster.
    pub fn set_next_xid(&self, epoch: u32, xid: u32) {
        // Its part of the commit log has to be there.
        let segment = self.data().join("pg_xact").join(format!("{:04X}", xid / (1 << 20)));
        if !segment.exists() {
            let made = Command::new("cp").arg("-p").arg(self.data().join("pg_xact/0000")).arg(&segment).status();
            assert!(made.is_ok_and(|s| s.success()), "a segment of the commit log is made");
            fs::write(&segment, vec![0; 256 << 10]).expect("a segment of the commit log is written");
        }
        let mut program = self.tool("pg_resetwal");
        done(
            program.args(["--epoch", &epoch.to_string(), "--next-transaction-id", &xid.to_string(), "--pgdata"]).arg(self.data()),
        );
    }

    /// The same database on this server, which came from another one's backup.
    pub fn same(&self, database: &Database<'_>) -> Database<'_> {
        Database::named(self, database.name())
    }
}
