//! Claims what this node's pods have once more: where an agent begins, and where the datastore was listed anew or was away. One that was
//! restored from a backup does not know what was given since.
//! In: the journal. Out: blocks that hold all of it; addresses that somebody else holds, for people.
//! Invariant: nobody gets an address here before all that pods of this node have is held, nor, after a list, or where something was not held
//! any more, before other agents have had time for the same.
//! Never: takes an address from who holds it.

use crate::{
    allocate::{Claimed, Wish},
    kernel::Kernel,
    owner::Agent,
};
use model::Attachment;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// So long after a list nobody gets an address: other agents hear of it within the longest pause between their tries (5 s), and list.
const OTHERS: Duration = Duration::from_secs(10);

/// What is still to be claimed.
#[derive(Debug, Default)]
pub struct Claims {
    is_due: bool,
    /// There was a break.
    is_after_break: bool,
    /// Until when others are waited for.
    pub(crate) until: Option<Instant>,
    /// What somebody else holds.
    lost: Vec<String>,
}

impl Claims {
    /// Why nobody gets an address now.
    pub fn reason_to_wait(&self) -> Option<&'static str> {
        if self.is_due {
            return Some("what this node's pods have is not claimed yet, and might be given twice; try again");
        }
        let until = self.until.filter(|until| Instant::now() < *until);
        until.map(|_| "the datastore was listed anew, and other nodes claim what their pods have; try again")
    }

    /// What somebody else holds.
    pub fn lost(&self) -> impl Iterator<Item = &String> {
        self.lost.iter()
    }
}

impl<K: Kernel> Agent<K> {
    /// The datastore has said everything. `anew`: after a break, and whether it was listed then.
    pub(crate) fn claim_all(&mut self, anew: Option<bool>) {
        self.claims.is_due = true;
        self.claims.is_after_break = anew.is_some();
        if anew == Some(true) {
            self.wait_for_others("the datastore was listed anew");
        }
        self.claim_what_is_due();
    }

    fn wait_for_others(&mut self, why: &str) {
        info!("{why}: nobody gets an address until other nodes have claimed what their pods have");
        self.claims.until = Some(Instant::now() + OTHERS);
        self.publish_again();
    }

    /// Until it is done.
    pub(crate) fn claim_what_is_due(&mut self) {
        if !self.claims.is_due {
            return;
        }
        let has = self.journal.all().filter(|known| !known.addresses.is_empty());
        match self.allocator.claim_all(&has.map(|known| self.wish(known)).collect::<Vec<_>>()) {
            Ok(Claimed { lacking, refused }) => {
                let said = |(pod, error)| {
                    format!(
                        "pod {pod}: {error}; two pods may have one address since the datastore was restored: delete one of them"
                    )
                };
                self.claims.lost = refused.into_iter().map(said).collect();
                self.claims.lost.iter().for_each(|lost| warn!("{lost}"));
                self.claims.is_due = false;
                if lacking > 0 && std::mem::take(&mut self.claims.is_after_break) {
                    self.wait_for_others("the datastore did not know any more what pods of this node have");
                }
            }
            Err(error) => warn!("what pods of this node have is not claimed yet: {error}"),
        }
    }

    /// As it was asked for: what is to outlive its pod is written down so.
    fn wish(&self, known: &Attachment) -> Wish {
        let keeps = self.world.asks_of(&known.pod).keeps;
        Wish { wanted: known.addresses.clone(), keeps, ..Wish::any(known.id.clone(), known.pod.clone()) }
    }
}
