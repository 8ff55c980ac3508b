//! Which branches the code under test took: read from the file that `coverage.c` counts in.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Counters; must equal `SIZE` in coverage.c.
pub const SIZE: usize = 65_536;

/// What all inputs so far have reached.
pub struct Coverage {
    file: Option<File>,
    now: Vec<u8>,
    /// For each branch, one bit per order of magnitude of how often an input took it.
    seen: Vec<u8>,
    outcomes: HashSet<String>,
}

impl Coverage {
    /// Without a file, or as long as nothing counts in it (libraries that were built without counters), outcomes tell inputs apart.
    pub fn new(path: Option<&str>) -> io::Result<Self> {
        let file = path.map(|path| File::options().read(true).write(true).open(path)).transpose()?;
        Ok(Coverage { file, now: vec![0; SIZE], seen: vec![0; SIZE], outcomes: HashSet::new() })
    }

    /// Before an input runs.
    pub fn begin(&mut self) {
        if let Some(file) = &self.file {
            file.write_all_at(&[0; SIZE], 0).expect("the coverage file can be written");
        }
    }

    /// Whether the input took a branch that none took before, or none so often; without counters, whether it ended as none did.
    pub fn is_new(&mut self, outcome: &str) -> bool {
        let another = self.outcomes.insert(outcome.to_owned());
        let mut new = false;
        let mut counted = false;
        if let Some(file) = &self.file {
            file.read_exact_at(&mut self.now, 0).expect("the coverage file can be read");
            counted = self.now.iter().any(|&count| count > 0);
            for (&count, seen) in self.now.iter().zip(&mut self.seen).filter(|(&count, _)| count > 0) {
                let bit = match count {
                    1..=3 => 1 << (count - 1),
                    4..=7 => 8,
                    8..=15 => 16,
                    16..=31 => 32,
                    32..=127 => 64,
                    _ => 128,
                };
                new |= *seen & bit == 0;
                *seen |= bit;
            }
        }
        if counted {
            new
        } else {
            another
        }
    }

    /// Branches reached so far.
    pub fn branches(&self) -> usize {
        self.seen.iter().filter(|&&bits| bits != 0).count()
    }
}
