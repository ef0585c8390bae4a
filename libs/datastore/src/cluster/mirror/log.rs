//! What stands in the mirror, checked: a list is whole, and every change after it is its writer's.
//! In: what etcd says of the mirror's keys. Out: records that count, and whether the mirror lives.
//! Invariant: a change counts with the writer's next word, which says how many there were; what somebody else changed is found then.
//! Never: takes a record away because its key is gone and nobody says so.

use super::{RECORDS, STATE};
use crate::etcd::Said;
use serde::{Deserialize, Serialize};

/// What the writer says of the whole, with every write and from time to time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    /// Of which writer this is: each begins another.
    pub(super) epoch: u64,
    /// Its name, for people.
    pub(super) leader: String,
    /// Calico's objects are those of `projectcalico.org/v3`.
    pub(super) is_native: bool,
    /// Records that there are now.
    pub(super) records: u64,
    /// Records that were written or taken away, ever.
    pub(super) writes: u64,
    /// The writer has not yet written all that the API server has.
    pub(super) is_behind: bool,
}

/// What counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A list begins.
    Listing,
    /// A record is so now; `None`: it is gone.
    Record(String, Option<Vec<u8>>),
    /// The list is over, it was whole, and its writer lives.
    Listed,
    /// The writer lives, and all up to here is what the API server has.
    Beat(State),
    /// It cannot be heard; `None`: it can.
    Trouble(Option<String>),
}

/// How far it was heard.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Records of the list that goes on; `None`: none does.
    listing: Option<u64>,
    /// What the writer said last.
    state: Option<State>,
    /// It was told that the list is over.
    is_listed: bool,
    /// Changes since the writer's last word.
    staged: Vec<(String, Option<Vec<u8>>)>,
}

impl Log {
    /// What follows from it; an error: what stands there is not what a writer wrote, and has to be listed anew.
    pub(super) fn hear(&mut self, said: Said, tell: &mut Vec<Told>) -> Result<(), String> {
        match said {
            Said::Listing => {
                *self = Self { listing: Some(0), ..Self::default() };
                tell.push(Told::Listing);
            }
            Said::Listed => {
                let count = self.listing.take();
                let records = self.state.as_ref().map(|state| state.records);
                if records.is_some() && records != count {
                    return Err(format!("{} records are there, and its writer says {}", of(count), of(records)));
                }
            }
            Said::Is(key, value, _) if key == STATE => {
                let state = serde_json::from_slice(&value).map_err(|error| format!("{STATE}: {error}"))?;
                self.stated(state, tell)?;
            }
            Said::Is(key, value, _) if key.starts_with(RECORDS) => self.changed(key, Some(value), tell),
            Said::Gone(key, _) if key.starts_with(RECORDS) => self.changed(key, None, tell),
            // That the writer's word is gone it will notice itself, or be silent.
            Said::Is(..) | Said::Gone(..) | Said::Again => {}
            Said::Trouble(trouble) => {
                if trouble.is_some() {
                    // What came after the writer's last word comes again.
                    self.staged.clear();
                }
                tell.push(Told::Trouble(trouble));
            }
        }
        Ok(())
    }

    fn changed(&mut self, key: String, value: Option<Vec<u8>>, tell: &mut Vec<Told>) {
        match &mut self.listing {
            Some(count) => {
                *count += 1;
                tell.push(Told::Record(key, value));
            }
            None => self.staged.push((key, value)),
        }
    }

    fn stated(&mut self, state: State, tell: &mut Vec<Told>) -> Result<(), String> {
        if self.listing.is_none() {
            let changes = self.staged.len() as u64;
            let writes = self.state.as_ref().map(|state| state.writes + changes);
            if writes != Some(state.writes) {
                return Err(format!("{} changes came, and its writer says {}", of(writes), state.writes));
            }
            tell.extend(self.staged.drain(..).map(|(key, value)| Told::Record(key, value)));
            if !state.is_behind {
                if !self.is_listed {
                    tell.push(Told::Listed);
                    self.is_listed = true;
                }
                tell.push(Told::Beat(state.clone()));
            }
        }
        self.state = Some(state);
        Ok(())
    }
}

fn of(count: Option<u64>) -> String {
    count.map_or_else(|| "no".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Revisions;

    const AT: Revisions = Revisions { made: 1, at: 1 };

    fn record(name: &str) -> Said {
        Said::Is(format!("{RECORDS}pods/x/{name}"), b"{}".to_vec(), AT)
    }

    fn gone(name: &str) -> Said {
        Said::Gone(format!("{RECORDS}pods/x/{name}"), 1)
    }

    fn state(records: u64, writes: u64, is_behind: bool) -> Said {
        let state = State { records, writes, is_behind, ..State::default() };
        Said::Is(STATE.to_owned(), serde_json::to_vec(&state).expect("JSON"), AT)
    }

    /// What a log tells of this, in short.
    fn told(log: &mut Log, all: Vec<Said>) -> Result<String, String> {
        let mut tell = Vec::new();
        for said in all {
            log.hear(said, &mut tell)?;
        }
        let short = |told: &Told| match told {
            Told::Listing => "[".to_owned(),
            Told::Record(key, value) => {
                format!("{}{}", if value.is_some() { "+" } else { "-" }, key.rsplit('/').next().expect("a name"))
            }
            Told::Listed => "]".to_owned(),
            Told::Beat(_) => "!".to_owned(),
            Told::Trouble(_) => "?".to_owned(),
        };
        Ok(tell.iter().map(short).collect::<Vec<_>>().join(" "))
    }

    fn listed() -> Log {
        let mut log = Log::default();
        let list = vec![Said::Listing, record("a"), record("b"), state(2, 7, false), Said::Listed, state(2, 7, false)];
        assert_eq!(told(&mut log, list), Ok("[ +a +b ] !".to_owned()));
        log
    }

    #[test]
    fn a_list_is_over_once_its_writer_is_known_to_live() {
        let mut log = Log::default();
        let list = vec![Said::Listing, record("a"), state(1, 7, false), Said::Listed];
        assert_eq!(told(&mut log, list), Ok("[ +a".to_owned()));
        assert_eq!(told(&mut log, vec![state(1, 7, false)]), Ok("] !".to_owned()));
        assert_eq!(told(&mut log, vec![state(1, 7, false)]), Ok("!".to_owned()), "once");
    }

    #[test]
    fn a_list_is_not_over_before_its_writer_has_written_everything() {
        let mut log = Log::default();
        let list = vec![Said::Listing, record("a"), state(1, 7, true), Said::Listed, record("b"), state(2, 8, true)];
        assert_eq!(told(&mut log, list), Ok("[ +a +b".to_owned()));
        assert_eq!(told(&mut log, vec![state(2, 8, false)]), Ok("] !".to_owned()));
    }

    #[test]
    fn a_change_counts_with_its_writers_word() {
        let mut log = listed();
        assert_eq!(told(&mut log, vec![record("c"), gone("a")]), Ok(String::new()));
        assert_eq!(told(&mut log, vec![state(2, 9, false)]), Ok("+c -a !".to_owned()));
    }

    #[test]
    fn what_nobody_says_is_gone_takes_nothing_away() {
        let mut log = listed();
        assert_eq!(told(&mut log, vec![gone("a"), gone("b"), Said::Gone(STATE.to_owned(), 1)]), Ok(String::new()));
        // Its writer goes on, or writes everything anew.
        for next in [state(2, 7, false), state(2, 2, true)] {
            let mut log = listed();
            let all = vec![gone("a"), gone("b"), Said::Gone(STATE.to_owned(), 1), next];
            assert!(told(&mut log, all).is_err_and(|why| why.contains("changes came")));
        }
    }

    #[test]
    fn a_list_with_a_hole_is_none() {
        let mut log = Log::default();
        let list = vec![Said::Listing, record("a"), state(2, 7, false), Said::Listed];
        assert!(told(&mut log, list).is_err_and(|why| why.contains("1 records are there")));
        let mut log = Log::default();
        let empty = vec![Said::Listing, Said::Listed, state(1, 9, false)];
        assert!(told(&mut log, empty).is_err(), "an etcd that is filled after it was listed");
    }

    #[test]
    fn what_comes_twice_after_a_watch_was_lost_counts_once() {
        let mut log = listed();
        let all = vec![record("c"), Said::Trouble(Some("lost".into())), record("c"), gone("a"), state(2, 9, false)];
        assert_eq!(told(&mut log, all), Ok("? +c -a !".to_owned()));
    }
}
