//! The flows of a node in memory, as a test looks at them.
//! In: what packets left in the tables. Out: entries; a round of the cursor.
//! Invariant: what is gone is not shown.
//! Never: part of a program.

use std::vec::Vec;

use abi::FlowKey;

use crate::entry::Flow;
use crate::expiry::Round;
use crate::fake::Node;

impl Node {
    /// The only flow there is.
    ///
    /// # Panics
    /// There is none, or more than one.
    pub fn flow_now(&self) -> &Flow {
        let flows = self.tracked.live();
        assert_eq!(flows.len(), 1);
        flows[0].1
    }

    /// All flows that are not gone, by key.
    pub fn flows(&self) -> Vec<(FlowKey, &Flow)> {
        self.tracked.live()
    }

    /// One look of the cursor at every ticket there is.
    pub fn cursor_goes_round(&self) {
        let mut round = Round { now_s: self.now_s.get(), left: u32::MAX, dead: 0 };
        for _ in self.tracked.tickets() {
            let Some(ticket) = self.tracked.next_ticket() else { return };
            round.look(self, &ticket);
        }
    }
}
