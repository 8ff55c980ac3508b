//! Dates and times in ISO 8601, independent of any setting; years before 1 end in ` BC`, as Postgres reads them.

/// Days from 1970-01-01 to 2000-01-01, Postgres's day 0.
const EPOCH_DAYS: i64 = 10_957;
const DAY_MICROS: i64 = 86_400_000_000;

/// Year (0 is 1 BC), month and day of a day counted from 2000-01-01, in the proleptic Gregorian calendar.
fn civil(day: i64) -> (i64, i64, i64) {
    // Eras of 400 years that begin on March 1, so that the leap day is a year's last.
    let days = day + EPOCH_DAYS + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// The two digits of the numbers below a hundred.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};

/// A short text on the stack: each row of a page has some.
pub struct Text {
    bytes: [u8; 40],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Text { bytes: [0; 40], length: 0 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn put(&mut self, text: &[u8]) {
        self.bytes[self.length..self.length + text.len()].copy_from_slice(text);
        self.length += text.len();
    }

    /// A number with exactly so many digits.
    fn put_digits<const WIDTH: usize>(&mut self, number: u32) {
        let mut digits = [b'0'; WIDTH];
        let mut rest = number;
        for pair in digits.rchunks_exact_mut(2) {
            pair.copy_from_slice(&PAIRS[(rest % 100) as usize]);
            rest /= 100;
        }
        if WIDTH % 2 == 1 {
            digits[0] += (rest % 10) as u8;
        }
        self.put(&digits);
    }

    /// True for years before 1, which the text has to say at its end.
    fn put_date(&mut self, day: i64) -> bool {
        let (year, month, day) = civil(day);
        let shown = if year > 0 { year } else { 1 - year } as u32;
        match shown {
            0..=9_999 => self.put_digits::<4>(shown),
            10_000..=99_999 => self.put_digits::<5>(shown),
            100_000..=999_999 => self.put_digits::<6>(shown),
            _ => self.put_digits::<7>(shown),
        }
        self.put(b"-");
        self.put_digits::<2>(month as u32);
        self.put(b"-");
        self.put_digits::<2>(day as u32);
        year <= 0
    }

    fn put_time(&mut self, micros: i64) {
        let seconds = (micros / 1_000_000) as u32;
        self.put_digits::<2>(seconds / 3_600);
        self.put(b":");
        self.put_digits::<2>(seconds / 60 % 60);
        self.put(b":");
        self.put_digits::<2>(seconds % 60);
        self.put(b".");
        self.put_digits::<6>((micros % 1_000_000) as u32);
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut out = Text::new();
        out.put(text.as_bytes());
        out
    }
}

/// A `date`: days since 2000-01-01.
pub fn date(days: i32) -> Text {
    match days {
        i32::MAX => "infinity".into(),
        i32::MIN => "-infinity".into(),
        _ => {
            let mut out = Text::new();
            if out.put_date(days.into()) {
                out.put(b" BC");
            }
            out
        }
    }
}

/// A `time`: microseconds since midnight, 24:00:00 included.
pub fn time(micros: i64) -> Text {
    let mut out = Text::new();
    out.put_time(micros);
    out
}

/// A `timestamp` or `timestamptz`: microseconds since 2000-01-01, in UTC with `Z` for the latter.
pub fn timestamp(micros: i64, zoned: bool) -> Text {
    match micros {
        i64::MAX => "infinity".into(),
        i64::MIN => "-infinity".into(),
        _ => {
            let mut out = Text::new();
            let before_christ = out.put_date(micros.div_euclid(DAY_MICROS));
            out.put(b"T");
            out.put_time(micros.rem_euclid(DAY_MICROS));
            if zoned {
                out.put(b"Z");
            }
            if before_christ {
                out.put(b" BC");
            }
            out
        }
    }
}
