//! Inputs that reached something new, kept in a folder from one run to the next.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of one target.
pub struct Corpus {
    folder: PathBuf,
    pub inputs: Vec<Vec<u8>>,
}

impl Corpus {
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut inputs = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("input-") {
                inputs.push(fs::read(entry.path())?);
            }
        }
        Ok(Corpus { folder: folder.to_owned(), inputs })
    }

    /// Keeps an input that reached something new.
    pub fn keep(&mut self, input: Vec<u8>) -> io::Result<()> {
        fs::write(self.folder.join(name("input", &input)), &input)?;
        self.inputs.push(input);
        Ok(())
    }

    /// Something to change there must be, also where no input reached anything new.
    pub fn begin_with(&mut self, input: &[u8]) {
        if self.inputs.is_empty() {
            self.inputs.push(input.to_vec());
        }
    }

    /// The input under way: left behind when the process dies of it.
    pub fn running(&self) -> PathBuf {
        self.folder.join("running")
    }

    /// Keeps an input that found a bug; answers where.
    pub fn fail(&self, input: &[u8]) -> io::Result<PathBuf> {
        let path = self.folder.join(name("failed", input));
        fs::write(&path, input)?;
        Ok(path)
    }

    /// Inputs tried in all runs so far.
    pub fn tried(&self) -> u64 {
        fs::read_to_string(self.folder.join("tried")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    pub fn set_tried(&self, tried: u64) -> io::Result<()> {
        fs::write(self.folder.join("tried"), tried.to_string())
    }
}

fn name(what: &str, input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    format!("{what}-{:016x}", hasher.finish())
}
