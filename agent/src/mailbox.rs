//! Mailbox: what the owner says to a thread beside it, and hears of it.
//! In: changes of a value that both see. Out: a waiting thread that wakes when something of it is new.
//! Invariant: news is never lost: what was said while nobody waited ends the next wait at once.
//! Never: makes who speaks wait for more than the other's look.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The value, and the bell.
#[derive(Debug, Default)]
pub struct Mailbox<T> {
    said: Mutex<Said<T>>,
    bell: Condvar,
}

/// What was said, and whether anybody has heard it.
#[derive(Debug, Default)]
pub struct Said<T> {
    /// The value.
    pub value: T,
    is_news: bool,
}

impl<T> Mailbox<T> {
    /// Looks at it, or changes what the other thread need not know.
    pub fn look(&self) -> MutexGuard<'_, Said<T>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it; the other thread wakes where the change says that it was one.
    pub fn tell(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut said = self.look();
        if change(&mut said.value) {
            said.is_news = true;
            self.bell.notify_one();
        }
    }

    /// Waits for news, or until it has rested for so long.
    pub fn hear(&self, rest: Option<Duration>) -> MutexGuard<'_, Said<T>> {
        let said = self.look();
        let nothing = |said: &mut Said<T>| !said.is_news;
        let mut said = match rest {
            Some(rest) => self.bell.wait_timeout_while(said, rest, nothing).unwrap_or_else(PoisonError::into_inner).0,
            None => self.bell.wait_while(said, nothing).unwrap_or_else(PoisonError::into_inner),
        };
        said.is_news = false;
        said
    }
}

/// Puts another value in the place of one; whether it was another.
pub fn put<T: PartialEq>(place: &mut T, value: T) -> bool {
    let is_other = *place != value;
    *place = value;
    is_other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_anybody_waited_is_heard_once_and_what_is_no_change_is_not() {
        let mailbox = Mailbox::<u32>::default();
        mailbox.tell(|value| put(value, 7));
        assert_eq!(mailbox.hear(None).value, 7);
        mailbox.tell(|value| put(value, 7));
        let waited = mailbox.hear(Some(Duration::ZERO));
        assert!(waited.value == 7 && !waited.is_news);
    }
}
