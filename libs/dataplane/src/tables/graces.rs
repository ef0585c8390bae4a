//! Graces: waits until every program that ran has ended, on a thread of their own.
//! In: who asks for one. Out: its number, and which are over.
//! Invariant: a grace begins after it was asked for, and covers everything asked before it began.
//! Never: makes its asker wait, unless he says so.

use super::write::StoreError;
use abi::maps;
use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// The thread, and what it was asked.
#[derive(Debug)]
pub struct Graces(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: u64,
    over: u64,
    /// The kernel's word: without graces nothing is freed.
    failed: Option<i32>,
    ends: bool,
}

impl Graces {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn start() -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("graces".into());
        thread.spawn(move || own.serve()).map_err(|error| failed(&error))?;
        Ok(Self(shared))
    }

    /// Asks for one; its number.
    pub fn ask(&self) -> u64 {
        let mut state = self.0.state();
        state.asked += 1;
        self.0.moved.notify_all();
        state.asked
    }

    /// The last that is over: every program that ran when it was asked for has ended.
    ///
    /// # Errors
    /// The kernel refuses graces.
    pub fn over(&self) -> Result<u64, StoreError> {
        self.0.state().outcome()
    }

    /// Waits for one.
    ///
    /// # Errors
    /// The kernel refuses graces.
    pub fn wait(&self, grace: u64) -> Result<(), StoreError> {
        let mut state = self.0.state();
        while state.outcome()? < grace {
            state = self.0.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

impl State {
    fn outcome(&self) -> Result<u64, StoreError> {
        self.failed.map_or(Ok(self.over), |errno| Err(failed(&io::Error::from_raw_os_error(errno))))
    }
}

impl Drop for Graces {
    /// The thread is not waited for: it ends with its last grace.
    fn drop(&mut self) {
        self.0.state().ends = true;
        self.0.moved.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        loop {
            let mut state = self.state();
            while state.asked == state.over && !state.ends {
                state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ends {
                return;
            }
            // Whoever asks from here on gets the next.
            let covered = state.asked;
            drop(state);
            let done = membarrier();
            let mut state = self.state();
            match done {
                Ok(()) => state.over = covered,
                Err(error) => state.failed = Some(error.raw_os_error().unwrap_or_default()),
            }
            self.moved.notify_all();
            if state.failed.is_some() {
                return;
            }
        }
    }
}

/// Waits until every program that runs now has ended.
///
/// # Errors
/// The kernel refuses.
pub fn grace() -> Result<(), StoreError> {
    membarrier().map_err(|error| failed(&error))
}

/// Programs run as readers of RCU, and this command waits for those.
fn membarrier() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: membarrier(2) takes three integers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn failed(error: &io::Error) -> StoreError {
    StoreError { map: maps::GENERATION.name, reason: format!("waiting for packets under way: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_that_was_asked_for_comes_to_an_end_and_those_before_it_with_it() {
        let graces = Graces::start().expect("a thread");
        let (first, second) = (graces.ask(), graces.ask());
        assert!(first < second);
        graces.wait(second).expect("the kernel gives graces");
        assert!(graces.over().is_ok_and(|over| over >= first));
        let third = graces.ask();
        graces.wait(third).expect("another");
    }
}
