//! Rounds in which contenders take turns, and what is reported of them.

use std::time::Instant;

/// What one contender did in one round: figures by name, in the order they were measured.
#[derive(Debug, Clone, Default)]
pub struct Sample(pub Vec<(&'static str, f64)>);

impl Sample {
    /// Adds a figure.
    pub fn put(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

/// All rounds of all contenders.
pub struct Rounds {
    contenders: Vec<(&'static str, Vec<Sample>)>,
}

/// What measures one contender once.
pub type Run<'a> = Box<dyn FnMut() -> Sample + 'a>;

/// Lets the contenders take turns: A B C, B C A, C A B and so on, so that drift and order strike all alike.
pub fn interleave(rounds: usize, mut contenders: Vec<(&'static str, Run<'_>)>) -> Rounds {
    let mut samples: Vec<(&'static str, Vec<Sample>)> = contenders.iter().map(|(name, _)| (*name, Vec::new())).collect();
    let count = contenders.len();
    for round in 0..rounds {
        for turn in 0..count {
            let at = (round + turn) % count;
            samples[at].1.push(contenders[at].1());
        }
    }
    Rounds { contenders: samples }
}

impl Rounds {
    /// A contender's figure, one for each round.
    pub fn values(&self, contender: &str, figure: &str) -> Spread {
        let (_, samples) = self
            .contenders
            .iter()
            .find(|(name, _)| *name == contender)
            .unwrap_or_else(|| panic!("there is no contender {contender}"));
        let values = samples.iter().map(|s| s.get(figure).unwrap_or_else(|| panic!("{contender} did not measure {figure}")));
        Spread(values.collect())
    }

    /// One contender's figure over another's, round by round.
    pub fn ratio(&self, above: &str, below: &str, figure: &str) -> Spread {
        self.values(above, figure).over(&self.values(below, figure))
    }
}

/// Values of one figure.
#[derive(Debug, Clone)]
pub struct Spread(pub Vec<f64>);

impl Spread {
    /// Value by value over another's.
    pub fn over(&self, other: &Spread) -> Spread {
        Spread(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    /// The value that a part of all values does not exceed; 0.5 is the median.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = part * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The least.
    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

/// Processor time that a thread has used, in seconds; None where the kernel does not tell.
pub fn processor(schedstat: &str) -> Option<f64> {
    let text = std::fs::read_to_string(schedstat).ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

/// Wall and processor time of a piece of work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    /// Seconds by the clock.
    pub wall: f64,
    /// Seconds of processor time; the wall time where the kernel does not tell.
    pub cpu: f64,
}

impl Took {
    /// Measures work done by the thread whose `schedstat` is given.
    pub fn of<T>(schedstat: &str, work: impl FnOnce() -> T) -> (Took, T) {
        let before = processor(schedstat);
        let start = Instant::now();
        let out = work();
        let wall = start.elapsed().as_secs_f64();
        let cpu = before.zip(processor(schedstat)).map_or(wall, |(before, after)| after - before);
        (Took { wall, cpu }, out)
    }

    /// Measures work done by this thread.
    pub fn here<T>(work: impl FnOnce() -> T) -> (Took, T) {
        Took::of("/proc/thread-self/schedstat", work)
    }

    /// Adds another piece.
    pub fn add(&mut self, other: Took) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_between_the_middle_values() {
        let spread = Spread(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.min(), spread.median(), spread.max()), (1.0, 2.5, 4.0));
    }

    #[test]
    fn every_contender_has_every_turn() {
        let order = std::cell::RefCell::new(String::new());
        let run = |name: &'static str| -> (&'static str, Run<'_>) {
            let order = &order;
            (
                name,
                Box::new(move || {
                    order.borrow_mut().push_str(name);
                    Sample(vec![("figure", 2.0)])
                }),
            )
        };
        let rounds = interleave(3, vec![run("a"), run("b")]);
        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!(rounds.ratio("a", "b", "figure").0, [1.0, 1.0, 1.0]);
    }
}
