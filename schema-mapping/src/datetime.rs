//! Dates and times as text: ISO 8601 as SQLite's own functions read it, from Postgres's day and microsecond
//! counts.
//!
//! Years outside 0001 .. 9999 keep the form that Postgres reads back: more digits, and ` BC` behind.

use alloc::format;
use alloc::string::String;

/// Days from 0000-03-01 to 2000-01-01 in the Gregorian calendar.
const DAYS_TO_2000: i64 = 730_425;
const MICROS_PER_DAY: i64 = 86_400_000_000;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Which end of a calendar day's text the era goes to: behind the time, if there is one.
struct Day {
    text: String,
    before_christ: bool,
}

/// Text of a date: `2026-11-22`, `infinity`, `-infinity`.
pub(crate) fn date_text(days: i32) -> String {
    match days {
        i32::MIN => "-infinity".into(),
        i32::MAX => "infinity".into(),
        days => with_era(day(i64::from(days)), ""),
    }
}

/// Text of an instant in UTC: `2026-11-22T12:34:56.000000Z`.
pub(crate) fn timestamptz_text(micros: i64) -> String {
    instant_text(micros, "Z")
}

/// Text of a timestamp without a time zone: `2026-11-22T12:34:56.000000`.
pub(crate) fn timestamp_text(micros: i64) -> String {
    instant_text(micros, "")
}

/// Text of a time of day: `12:34:56.000000`. 24:00:00 is a time of day in Postgres.
pub(crate) fn time_text(micros: i64) -> String {
    let seconds = micros.div_euclid(MICROS_PER_SECOND);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, micros.rem_euclid(MICROS_PER_SECOND))
}

fn instant_text(micros: i64, zone: &str) -> String {
    match micros {
        i64::MIN => "-infinity".into(),
        i64::MAX => "infinity".into(),
        micros => {
            let time = time_text(micros.rem_euclid(MICROS_PER_DAY));
            with_era(day(micros.div_euclid(MICROS_PER_DAY)), &format!("T{time}{zone}"))
        }
    }
}

fn with_era(day: Day, time: &str) -> String {
    let era = if day.before_christ { " BC" } else { "" };
    format!("{}{time}{era}", day.text)
}

/// The civil day of a day count from 2000-01-01: years of 365.2425 days, months counted from March, so that
/// the leap day is the last of its year.
fn day(days: i64) -> Day {
    let days = days + DAYS_TO_2000;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let before_christ = year <= 0;
    let year = if before_christ { 1 - year } else { year };
    Day { text: format!("{year:04}-{month:02}-{day:02}"), before_christ }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_people_write_them() {
        let check = |days, expected: &str| assert_eq!(date_text(days), expected);
        check(0, "2000-01-01");
        check(-1, "1999-12-31");
        check(59, "2000-02-29");
        check(9_822, "2026-11-22");
        check(-730_119, "0001-01-01");
        check(-730_120, "0001-12-31 BC");
        check(2_921_939, "9999-12-31");
        check(2_921_940, "10000-01-01");
        check(i32::MAX, "infinity");
        check(i32::MIN, "-infinity");
    }

    #[test]
    fn instants_read_as_iso_8601_in_utc() {
        let check = |micros, expected: &str| assert_eq!(timestamptz_text(micros), expected);
        check(0, "2000-01-01T00:00:00.000000Z");
        check(-1, "1999-12-31T23:59:59.999999Z");
        check(9_822 * MICROS_PER_DAY + 45_296_000_007, "2026-11-22T12:34:56.000007Z");
        check(-730_120 * MICROS_PER_DAY, "0001-12-31T00:00:00.000000Z BC");
        check(i64::MAX, "infinity");
        check(i64::MIN, "-infinity");
        assert_eq!(timestamp_text(1), "2000-01-01T00:00:00.000001");
    }

    #[test]
    fn times_read_as_clocks_show_them() {
        assert_eq!(time_text(0), "00:00:00.000000");
        assert_eq!(time_text(MICROS_PER_DAY), "24:00:00.000000");
        assert_eq!(time_text(45_296_000_007), "12:34:56.000007");
    }
}
