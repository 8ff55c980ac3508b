//! A hybrid logical clock in one integer: microseconds since 1970 that never stand still and never go back.

/// The time of an edit, in microseconds since 1970-01-01 UTC, made strictly increasing on each device.
pub type EditTime = i64;

/// The next edit time of a device whose wall clock shows `now` and whose last edit time was `last`.
///
/// A clock that was set back continues from `last`: order on one device always holds.
pub fn next(now: EditTime, last: EditTime) -> EditTime {
    now.max(last.saturating_add(1))
}

/// The edit time the server uses: a device whose clock runs ahead cannot win for longer than the allowed skew.
pub fn bounded(edit: EditTime, server_now: EditTime) -> EditTime {
    edit.min(server_now.saturating_add(crate::limits::CLOCK_SKEW_MICROS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_still_advances() {
        assert_eq!(next(100, 50), 100);
        assert_eq!(next(100, 100), 101);
        assert_eq!(next(10, 100), 101);
    }

    #[test]
    fn a_clock_that_runs_ahead_is_held_at_the_skew() {
        let limit = crate::limits::CLOCK_SKEW_MICROS;
        assert_eq!(bounded(5, 10), 5);
        assert_eq!(bounded(i64::MAX, 10), 10 + limit);
    }
}
