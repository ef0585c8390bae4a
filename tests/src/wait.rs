//! Waiting for what must come about: by looking again, never by sleeping for luck.
//! In: a question and how long to ask it. Out: the answer, or an error that says what never came.
//! Invariant: asks at least once after the deadline's last sleep, so a slow machine is not a failure by itself.
//! Never: waits on after an interrupt.

use anyhow::{Result, bail};
use std::{
    env,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long anything may take to come about, on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// `TORTIE_SLOW`: so many times longer everything may take, on a machine that is emulated.
static SLOW: LazyLock<u32> =
    LazyLock::new(|| env::var("TORTIE_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1));

/// Set by an interrupt; every wait then ends.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks until the answer is `Ok(Some(_))`.
///
/// # Errors
/// None came in time, with the last error seen; or the run was interrupted.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let patience = patience * *SLOW;
    let end = Instant::now() + patience;
    loop {
        let last = Instant::now() >= end;
        check_interrupt()?;
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if last => bail!("waited {patience:?} in vain: {what}"),
            Err(error) if last => return Err(error.context(format!("waited {patience:?} in vain: {what}"))),
            Ok(None) | Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Asks until the answer is yes.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, patience: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, patience, || Ok(look()?.then_some(())))
}

/// # Errors
/// The run was interrupted.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
