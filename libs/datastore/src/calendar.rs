//! Points in time as Kubernetes and Calico write them.
//! In: time since 1970. Out: text, in UTC.
//! Invariant: the Gregorian calendar, leap days included.
//! Never: reads a clock.

use std::time::Duration;

/// A `Time` of Kubernetes: `2026-11-26T05:54:25Z`.
#[must_use]
pub fn rfc3339(since_1970: Duration) -> String {
    let [year, month, day, hour, minute, second] = fields(since_1970.as_secs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A `MicroTime` of Kubernetes: `2026-11-26T05:54:25.000001Z`.
#[must_use]
pub fn micro_time(since_1970: Duration) -> String {
    let [year, month, day, hour, minute, second] = fields(since_1970.as_secs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since_1970.subsec_micros())
}

/// Go's default form of a UTC time, which Calico's collector of leaked addresses parses (IPAM-23).
#[must_use]
pub fn go_time(since_1970: Duration) -> String {
    let [year, month, day, hour, minute, second] = fields(since_1970.as_secs());
    let nanos = since_1970.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{nanos:09} +0000 UTC")
}

fn fields(seconds: u64) -> [u64; 6] {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    [year, month, day, rest / 3600, rest / 60 % 60, rest % 60]
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar: years begin in March here, so that
/// the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipam_23_the_timestamp_is_in_the_form_that_calicos_collector_parses() {
        assert_eq!(go_time(Duration::from_nanos(1)), "1970-01-01 00:00:00.000000001 +0000 UTC");
        assert_eq!(go_time(Duration::from_secs(1_709_210_096)), "2024-02-29 12:34:56.000000000 +0000 UTC");
    }

    #[test]
    fn a_micro_time_is_as_kubernetes_writes_it() {
        assert_eq!(micro_time(Duration::from_micros(1_709_210_096_000_007)), "2024-02-29T12:34:56.000007Z");
        assert_eq!(rfc3339(Duration::from_secs(1_709_210_096)), "2024-02-29T12:34:56Z");
    }
}
