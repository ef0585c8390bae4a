//! Ports as rules of every kind write them.
//! In: numbers, ranges, names. Out: [`PortMatch`].
//! Invariant: a number is 1 to 65535; a range is not turned round.
//! Never: takes a misspelt range for a name.

use super::field::InvalidField;
use model::{PortMatch, PortName, PortRange};
use serde::Deserialize;
use serde_json::Value;
use std::num::NonZeroU16;

const NUMBER: &str = "a number from 1 to 65535";

/// A port number.
pub(super) fn number(path: &str, value: &Value) -> Result<u16, InvalidField> {
    let number =
        NonZeroU16::deserialize(value).map_err(|_| InvalidField::new(path, format!("{value} is not {NUMBER}")))?;
    Ok(number.get())
}

/// RFC 6335 §5.1, as the API server asks of port names.
pub(super) fn name(path: &str, name: &str) -> Result<PortName, InvalidField> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let shape = !name.starts_with('-') && !name.ends_with('-') && !name.contains("--");
    let lettered = name.chars().any(|c| c.is_ascii_lowercase());
    if lettered && shape && name.len() <= 15 && name.chars().all(allowed) {
        return Ok(name.into());
    }
    let reason = format!("{name:?} is not a port name: at most 15 of a-z, 0-9 and '-', with a letter");
    Err(InvalidField::new(path, reason))
}

/// As Calico writes them (api/pkg/lib/numorstring/port.go): `80`, `"80"`, `"8000:8080"`, `"http"`.
pub(super) fn calico(path: &str, value: &Value) -> Result<PortMatch, InvalidField> {
    let Value::String(text) = value else { return Ok(PortMatch::Range(PortRange::single(number(path, value)?))) };
    let bound = |text: &str| text.parse::<NonZeroU16>().map(NonZeroU16::get).map_err(|_| wrong(path, value));
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    match text.split_once(':') {
        Some((first, last)) if is_number(first) && is_number(last) => {
            let range = PortRange::new(bound(first)?, bound(last)?);
            range.map(PortMatch::Range).map_err(|error| InvalidField::new(path, error))
        }
        None if is_number(text) => Ok(PortMatch::Range(PortRange::single(bound(text)?))),
        Some(_) => Err(wrong(path, value)),
        None => name(path, text).map(PortMatch::Named),
    }
}

fn wrong(path: &str, value: &Value) -> InvalidField {
    InvalidField::new(path, format!("{value} is not {NUMBER}, a range such as \"8000:8080\", or a name"))
}
