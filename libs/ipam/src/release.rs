//! Addresses are taken back: all of a handle, or one as it was given out.
//! In: a handle; or an address with its handle and the count at which it was given. Out: what is free again.
//! Invariant: an old release never frees a new owner's address: a handle is one container's, a count one giving (IPAM-9, IPAM-10).
//! Never: keeps an empty block that is nobody's, or that is this node's in a pool that selects it no more (IPAM-11, IPAM-12).

use crate::Ledger;
use model::Cidr;
use std::net::IpAddr;

impl Ledger {
    /// Takes back everything `handle` holds; a handle that holds nothing is no error.
    pub fn release(&mut self, handle: &str) -> Vec<IpAddr> {
        let named = self.handles.get(handle).map(|kept| kept.value.block.keys().copied().collect::<Vec<_>>());
        if named.is_none() && self.is_partial {
            self.is_short = true;
        }
        // What no handle names anybody may have written: all blocks are asked.
        let places = named.unwrap_or_else(|| self.blocks.keys().copied().collect());
        let mut released = Vec::new();
        for cidr in places {
            let holds = self
                .blocks
                .get(&cidr)
                .is_some_and(|kept| kept.value.check().is_ok() && !kept.value.held_by(handle).is_empty());
            if let Some(kept) = self.blocks.get_mut(&cidr).filter(|_| holds) {
                released.extend(kept.value.release(handle));
                self.leave(cidr);
            }
        }
        self.recount(handle);
        released
    }

    /// Takes back one address, if it is still given out as somebody saw it. `Ok(false)`: it is free already.
    ///
    /// # Errors
    /// It was given anew since; the handle that has it.
    pub fn release_seen(&mut self, address: IpAddr, handle: &str, sequence: u64) -> Result<bool, String> {
        let Some((cidr, kept)) = self.block_of(address) else { return Ok(false) };
        if let Err(invalid) = kept.value.check() {
            return Err(invalid.to_string());
        }
        let Some(kept) = self.blocks.get_mut(&cidr) else { return Ok(false) };
        let released = kept.value.release_given(address, handle, sequence)?;
        if released {
            self.leave(cidr);
            self.recount(handle);
        }
        Ok(released)
    }

    /// What becomes of a block that may be empty now.
    fn leave(&mut self, cidr: Cidr) {
        let Some(block) = self.blocks.get(&cidr).map(|kept| &kept.value).filter(|block| block.is_empty()) else {
            return;
        };
        let is_left = match (&block.affinity, &self.here) {
            (None, _) => true,
            (Some(_), Some((node, labels))) => block.belongs_to(node) && !self.selects(cidr, labels),
            (Some(_), None) => false,
        };
        if is_left {
            self.give_up(cidr);
        }
    }
}
