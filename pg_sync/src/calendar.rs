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

fn put_number(out: &mut String, number: i64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    while rest > 0 || digits.len() - at < width {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend(digits[at..].iter().map(|&d| d as char));
}

fn put_date(out: &mut String, day: i64) -> bool {
    let (year, month, day) = civil(day);
    put_number(out, if year > 0 { year } else { 1 - year }, 4);
    out.push('-');
    put_number(out, month, 2);
    out.push('-');
    put_number(out, day, 2);
    year <= 0
}

fn put_time(out: &mut String, micros: i64) {
    for (i, unit) in [3_600_000_000, 60_000_000, 1_000_000].into_iter().enumerate() {
        if i > 0 {
            out.push(':');
        }
        put_number(out, if i == 0 { micros / unit } else { micros / unit % 60 }, 2);
    }
    out.push('.');
    put_number(out, micros % 1_000_000, 6);
}

/// A `date`: days since 2000-01-01.
pub fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".into(),
        i32::MIN => "-infinity".into(),
        _ => {
            let mut out = String::with_capacity(16);
            if put_date(&mut out, days.into()) {
                out.push_str(" BC");
            }
            out
        }
    }
}

/// A `time`: microseconds since midnight, 24:00:00 included.
pub fn time(micros: i64) -> String {
    let mut out = String::with_capacity(16);
    put_time(&mut out, micros);
    out
}

/// A `timestamp` or `timestamptz`: microseconds since 2000-01-01, in UTC with `Z` for the latter.
pub fn timestamp(micros: i64, zoned: bool) -> String {
    match micros {
        i64::MAX => "infinity".into(),
        i64::MIN => "-infinity".into(),
        _ => {
            let mut out = String::with_capacity(32);
            let before_christ = put_date(&mut out, micros.div_euclid(DAY_MICROS));
            out.push('T');
            put_time(&mut out, micros.rem_euclid(DAY_MICROS));
            if zoned {
                out.push('Z');
            }
            if before_christ {
                out.push_str(" BC");
            }
            out
        }
    }
}
