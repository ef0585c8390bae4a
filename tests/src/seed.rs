//! Seeds of random tests.
//! In: `TORTIE_SEED`, else the clock. Out: a number, which is printed with how to repeat it.
//! Invariant: what is random in a test comes from its seed.
//! Never: hides it.

use anyhow::{Context as _, Result};
use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// Of what is random in `what`.
///
/// # Errors
/// `TORTIE_SEED` is no number, or the clock stands before 1970.
pub fn of(what: &str) -> Result<u64> {
    let seed = match env::var("TORTIE_SEED") {
        Ok(text) => text.parse().context("TORTIE_SEED is a number")?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into(),
    };
    println!("seed {seed} of {what}: TORTIE_SEED={seed} repeats it");
    Ok(seed)
}
