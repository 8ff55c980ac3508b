//! The runner of `tests/regress` and `tests/isolation`: Postgres's own programs against a throwaway server, each file in a
//! database of its own. With `PG_SYNC_ACCEPT=1` what came out becomes what is expected: read the difference before you commit.

use crate::{build, Cluster};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of the two kinds of files.
pub struct Suite {
    /// Folder under `tests/`.
    pub folder: &'static str,
    /// Folder of the files in it, and their extension.
    pub inputs: (&'static str, &'static str),
    /// The program, under `pgxs/src/test`.
    pub program: &'static str,
}

/// SQL files and what psql prints for them.
pub const REGRESS: Suite = Suite { folder: "regress", inputs: ("sql", "sql"), program: "regress/pg_regress" };
/// Interleavings of several sessions.
pub const ISOLATION: Suite = Suite { folder: "isolation", inputs: ("specs", "spec"), program: "isolation/pg_isolation_regress" };

impl Suite {
    /// Names of the files, without their extension.
    pub fn names(&self) -> Vec<String> {
        let folder = build::root().join("tests").join(self.folder).join(self.inputs.0);
        let mut names: Vec<_> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == self.inputs.1))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// Runs one file. An error is the difference between what came and what was expected.
    pub fn run(&self, cluster: &Cluster, name: &str) -> Result<(), String> {
        let database = cluster.database();
        let inputs = build::root().join("tests").join(self.folder);
        let outputs = std::env::temp_dir().join(format!("pg_sync_suite.{}.{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir_all(&outputs).map_err(|e| e.to_string())?;
        let output = Command::new(test_programs()?.join(self.program))
            .arg("--use-existing")
            .arg(format!("--dbname={}", database.name()))
            .arg(format!("--host={}", cluster.socket().display()))
            .arg(format!("--port={}", cluster.port()))
            .arg(format!("--bindir={}", pg_config("--bindir")?.display()))
            .arg(format!("--inputdir={}", inputs.display()))
            .arg(format!("--outputdir={}", outputs.display()))
            .args(["--user=postgres", name])
            .output()
            .map_err(|e| e.to_string())?;
        let result = if output.status.success() {
            Ok(())
        } else {
            let differences = fs::read_to_string(outputs.join("regression.diffs")).unwrap_or_default();
            let said = [&output.stdout[..], &output.stderr[..]].concat();
            Err(format!("{}{differences}", String::from_utf8_lossy(&said)))
        };
        let came = outputs.join("results").join(format!("{name}.out"));
        if result.is_err() && std::env::var_os("PG_SYNC_ACCEPT").is_some() && came.exists() {
            let expected = inputs.join("expected").join(format!("{name}.out"));
            fs::copy(came, expected).map_err(|e| e.to_string())?;
        }
        let _ = fs::remove_dir_all(outputs);
        result
    }
}

fn pg_config(what: &str) -> Result<PathBuf, String> {
    let program = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
    let output = Command::new(program).arg(what).output().map_err(|e| e.to_string())?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Where a server's development package keeps the programs that run such files.
fn test_programs() -> Result<PathBuf, String> {
    let makefile = pg_config("--pgxs")?;
    let sources = makefile.parent().and_then(Path::parent).ok_or("pg_config --pgxs names no file")?;
    Ok(sources.join("test"))
}
