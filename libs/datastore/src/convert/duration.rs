//! Durations as Go writes them.
//! In: text like `120s`, `1m30s`, `1.5h`. Out: a duration.
//! Invariant: what Go's time.ParseDuration takes without a sign, and nothing else.
//! Never: a number without a unit, but for 0.

use super::field::InvalidField;
use serde_json::Value;
use std::time::Duration;

/// In nanoseconds; of two that begin alike the longer first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

pub(crate) fn duration(path: &str, value: &Value) -> Result<Duration, InvalidField> {
    let read = value.as_str().and_then(parse);
    read.ok_or_else(|| InvalidField::new(path, format!("{value} is not a duration like \"120s\"")))
}

fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, None);
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at(end);
        let (name, unit) = UNITS.iter().find(|(name, _)| after.starts_with(name))?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        let mut nanos = whole.checked_mul(*unit)?;
        let mut scale = *unit;
        for digit in part.chars() {
            scale /= 10;
            nanos = nanos.checked_add(u64::from(digit.to_digit(10)?) * scale)?;
        }
        sum = Some(sum.unwrap_or(0_u64).checked_add(nanos)?);
        rest = &after[name.len()..];
    }
    sum.map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_takes_is_taken() {
        let read = |text: &str| parse(text).map(|duration| duration.as_millis());
        let some = [("0", 0), ("120s", 120_000), ("1m30s", 90_000), ("1.5h", 5_400_000), (".5s", 500), ("7ms", 7)];
        for (text, millis) in some {
            assert_eq!(read(text), Some(millis), "{text}");
        }
        for text in ["", "120", "s", "-1s", "1 s", "1.s.", "1d", ".s", "99999999999999999999s", "9999999h"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(parse("1µs"), Some(Duration::from_micros(1)));
    }
}
