//! Names that nobody else has.
//! In: nothing. Out: a UUID, as the kernel makes it up.
//! Invariant: no two are the same.
//! Never: made of a clock, or of what it names.

use std::fs;

const KERNELS: &str = "/proc/sys/kernel/random/uuid";

/// Such as `2f1c2c0e-5a3b-4c58-9d5e-0a8f3f7e7c11`.
///
/// # Errors
/// In words: the kernel gives none.
pub(crate) fn uuid() -> Result<String, String> {
    let text = fs::read_to_string(KERNELS).map_err(|error| format!("{KERNELS}: {error}"))?;
    Ok(text.trim().to_owned())
}
