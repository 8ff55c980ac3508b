//! Where the built extensions are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the repository").to_path_buf()
}

/// A library that `./dev build` left in `target/release`, or in the folder that `PG_SYNC_LIBRARIES` names.
pub fn library(name: &str) -> PathBuf {
    let folder = std::env::var_os("PG_SYNC_LIBRARIES").map_or_else(|| root().join("target/release"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is not there: run ./dev build", path.display());
    path
}

/// The script that `CREATE EXTENSION` runs: the files of `sql/` in the order of their names.
pub fn install_script() -> String {
    scripts(".").iter().map(|path| std::fs::read_to_string(path).expect("an install script can be read") + "\n").collect()
}

/// SQL files in a folder of `sql/`, by name; none where there is no such folder.
pub fn scripts(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("sql").join(folder)).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "sql")).collect();
    files.sort();
    files
}

/// The extension's version, from its control file.
pub fn version() -> String {
    let control = std::fs::read_to_string(root().join("pg_sync/pg_sync.control")).expect("pg_sync.control can be read");
    let line = control.lines().find(|line| line.starts_with("default_version")).expect("pg_sync.control names a default_version");
    line.split('\'').nth(1).expect("default_version is quoted").to_owned()
}

/// A file in `target` to which long runs append what they did, in a folder that is there.
pub fn record(name: &str) -> PathBuf {
    let folder = root().join("target");
    std::fs::create_dir_all(&folder).expect("the folder is made");
    folder.join(name)
}

/// The commit that runs, with a + where files differ from it.
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root()).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default() + if changed { "+" } else { "" }
}
