//! Addresses for a wish: of the node's own blocks, of a new one, of an empty one of another node, of another node's (borrowed).
//! In: a ledger and a wish. Out: addresses, and the ledger as it is with them.
//! Invariant: the same owner always gets the same addresses; a wish for several families is met whole or not at all.
//! Never: gives out of a block that contradicts itself, or what is reserved to who does not name it.

use crate::{
    AssignError, Block, Kept, Ledger, Request, affinity::node_handle, audit::holdings, choose, hold::Back, migrate,
    pools::Want,
};
use model::{Cidr, Family, IpPool, NodeName, PodId};
use std::net::IpAddr;

impl Ledger {
    /// Decides addresses for `request`. On an error the ledger is as before.
    ///
    /// # Errors
    /// There is no pool, or no address left.
    pub fn assign(&mut self, request: &Request) -> Result<Vec<IpAddr>, AssignError> {
        self.begin();
        let assigned = self.assign_all(request);
        self.end(assigned.is_ok());
        assigned
    }

    fn assign_all(&mut self, request: &Request) -> Result<Vec<IpAddr>, AssignError> {
        let wants = self.wants(request)?;
        self.tidy_claims(&request.node, &request.node_labels);
        let give = |want| match want {
            Want::This(address, pool) => self.take(address, &pool, request),
            Want::Of(pools) => self.give(&pools, request),
        };
        wants.into_iter().map(give).collect()
    }

    /// Marks the wanted addresses that lie in a pool as the owner's: somebody else has given them out. On an error the
    /// ledger is as before.
    ///
    /// # Errors
    /// One of them is another owner's.
    pub fn claim_wanted(&mut self, request: &Request) -> Result<(), AssignError> {
        self.begin();
        let mut taken = Ok(());
        for address in &request.wanted {
            if let Some(pool) = self.pool_of(*address).cloned() {
                // Whatever the block believes: somebody has it.
                let kept = self.block_of(*address).map(|(cidr, _)| cidr).and_then(|cidr| self.blocks.get_mut(&cidr));
                kept.into_iter().for_each(|kept| kept.value.thaw_address(*address));
                taken = taken.and_then(|()| self.mark(*address, &pool, request));
            }
        }
        self.end(taken.is_ok());
        taken
    }

    /// Exactly this address.
    fn take(&mut self, address: IpAddr, pool: &IpPool, request: &Request) -> Result<IpAddr, AssignError> {
        self.is_alone(request, Cidr::host(address).family())?;
        if let Some((block, kept)) = self.block_of(address) {
            if let Some((_, since)) = kept.value.cooling_down().find(|(cooling, _)| *cooling == address) {
                let (since, seconds) = (since.to_owned(), self.config.cooldown);
                return Err(AssignError::Cooling { address, block, since, seconds });
            }
            let is_own = kept.value.belongs_to(&request.node);
            let holds = kept.value.check().is_ok() && kept.value.held_by(&request.owner).contains(&address);
            let why = "it is another node's, and strictAffinity of IPAMConfiguration is on";
            if self.config.strict_affinity && !is_own && !holds {
                return Err(AssignError::NotHere { address, block, why });
            }
        } else if !self.config.auto_allocate_blocks {
            let block = Cidr::new(address, pool.block_size).unwrap_or(Cidr::host(address));
            let why = "it is nobody's yet, and autoAllocateBlocks of IPAMConfiguration is off";
            return Err(AssignError::NotHere { address, block, why });
        }
        self.mark(address, pool, request)?;
        Ok(address)
    }

    /// Out of whosever block it lies in; out of a new one of this node where there is none.
    fn mark(&mut self, address: IpAddr, pool: &IpPool, request: &Request) -> Result<(), AssignError> {
        let known = self.block_of(address).map(|(cidr, _)| cidr);
        if known.is_none() && self.is_partial {
            self.is_short = true;
        }
        let cidr = known.unwrap_or_else(|| Cidr::new(address, pool.block_size).unwrap_or(Cidr::host(address)));
        if known.is_none() {
            self.make_block(cidr, request);
        }
        let all = self.blocks.get(&cidr).into_iter().flat_map(|kept| holdings(&kept.value));
        let own = all.filter(|held| held.address == address && self.is_for(held.attribute, request));
        let held = own.filter_map(|held| held.attribute.handle_id.clone()).next();
        let Some(kept) = self.blocks.get_mut(&cidr) else { return Err(AssignError::NotInPool { address }) };
        kept.value.check()?;
        let is_own = kept.value.belongs_to(&request.node);
        let taken = AssignError::Taken { address, block: cidr };
        if let Some(written) = written_for(request) {
            kept.value.release_address(address, &written, None);
        }
        if let Some(held) = held {
            kept.value.release_address(address, &held, None);
        }
        kept.value.take(address, &request.handle(), &request.beside()).ok_or(taken)?;
        if is_own {
            self.claim(cidr, &request.node);
        }
        Ok(())
    }

    fn give(&mut self, pools: &[IpPool], request: &Request) -> Result<IpAddr, AssignError> {
        let Some(family) = pools.first().map(|pool| pool.cidr.family()) else { return Err(AssignError::NoPool) };
        let own = self.own_blocks(&request.node, family);
        if let Some(held) = self.held_already(request, family) {
            return Ok(held);
        }
        // A machine that moves has two pods: the second has an address like any other.
        let alone = Request { sticky: None, ..request.clone() };
        let request = match self.give_back(pools, family, request)? {
            Back::Given(address) => return Ok(address),
            Back::Fresh => request,
            Back::Moving => &alone,
        };
        let mut damaged = None;
        for cidr in pools.iter().flat_map(|pool| own.iter().filter(|cidr| pool.cidr.covers(cidr))) {
            match self.blocks.get(cidr).map(|kept| kept.value.check()) {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    damaged = Some(error);
                    continue;
                }
                None => continue,
            }
            if let Some(address) = self.give_of(*cidr, request) {
                self.claim(*cidr, &request.node);
                return Ok(address);
            }
        }
        if let Some(error) = damaged {
            return Err(error.into());
        }
        let why = match self.claim_another(pools, &own, request)? {
            Ok(cidr) => {
                if let Some(address) = self.give_of(cidr, request) {
                    self.claim(cidr, &request.node);
                    return Ok(address);
                }
                "the block that was free has no address that may be given".to_owned()
            }
            Err(why) => why,
        };
        self.borrow(pools, request).map_err(|lending| {
            let cooling: usize = pools.iter().map(|pool| self.cooling_in(pool)).sum();
            let seconds = self.config.cooldown;
            let cooling = match cooling {
                0 => String::new(),
                _ => {
                    format!(", and {cooling} cool down for {seconds} s after they were given back (ipCooldownSeconds)")
                }
            };
            let pools: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
            AssignError::Full {
                pools: pools.join(", "),
                node: request.node.clone(),
                why: format!("{why}, and {lending}{cooling}"),
            }
        })
    }

    /// How many addresses of a pool's blocks cool down.
    fn cooling_in(&self, pool: &IpPool) -> usize {
        if self.config.cooldown == 0 {
            return 0;
        }
        self.blocks_in(pool.cidr).map(|(_, kept)| kept.value.cooling_down().count()).sum()
    }

    /// What the owner has: of its family it gets no second. Older versions, and Calico, counted it under a handle of its own.
    fn held_already(&self, request: &Request, family: Family) -> Option<IpAddr> {
        // It may not have been to outlive its pod when it was given.
        let handles = [&*request.handle(), &*node_handle(&request.node), &*request.owner];
        let places = self.places(&handles, Some(&request.node));
        let blocks = places.iter().filter(|cidr| cidr.family() == family).filter_map(|cidr| self.blocks.get(cidr));
        let mut sound = blocks.map(|kept| &kept.value).filter(|block| block.check().is_ok());
        sound.find_map(|block| block.held_by(&request.owner).first().copied())
    }

    /// The address of a block that has been free for longest and is not reserved.
    fn give_of(&mut self, cidr: Cidr, request: &Request) -> Option<IpAddr> {
        let block = &self.blocks.get(&cidr)?.value;
        let ordinal = self.first_of(block)?;
        let kept = self.blocks.get_mut(&cidr)?;
        Some(kept.value.assign_at(ordinal, &request.handle(), &request.beside()))
    }

    /// The place in the queue of what would be given next; `None`: the block gives nothing.
    pub(crate) fn first_of(&self, block: &Block) -> Option<usize> {
        if block.deleted || block.unallocated.is_empty() {
            return None;
        }
        if !self.reserved.iter().any(|reserved| reserved.covers(&block.cidr) || block.cidr.covers(reserved)) {
            return Some(0);
        }
        let is_reserved = |ordinal: &usize| self.is_reserved(block.address(*ordinal));
        block.unallocated.iter().position(|ordinal| !is_reserved(ordinal))
    }

    pub(crate) fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.iter().any(|reserved| reserved.contains(address))
    }

    /// An address of another node's block, or of nobody's (IPAM-3). Or why not.
    fn borrow(&mut self, pools: &[IpPool], request: &Request) -> Result<IpAddr, &'static str> {
        if self.config.strict_affinity {
            return Err("strictAffinity of IPAMConfiguration forbids to borrow of other nodes");
        }
        if self.is_partial {
            self.is_short = true;
            return Err("other nodes' blocks are not known");
        }
        let found = pools.iter().find_map(|pool| self.lender(pool, &request.node));
        let lent = found.and_then(|cidr| self.give_of(cidr, request));
        lent.ok_or("other nodes' blocks have none to lend")
    }

    /// A block that can lend, from where the node begins in the pool.
    fn lender(&self, pool: &IpPool, node: &NodeName) -> Option<Cidr> {
        let lends = |(cidr, kept): &(&Cidr, &Kept<Block>)| {
            let block = &kept.value;
            let is_nodes = block.affinity.as_deref().is_none_or(|affinity| affinity.starts_with("host:"));
            pool.cidr.covers(cidr)
                && is_nodes
                && !block.unallocated.is_empty()
                && block.check().is_ok()
                && self.first_of(block).is_some()
        };
        let start = choose::start(pool, &node.0);
        let last = Cidr::host(pool.cidr.last());
        let mut behind = self.blocks.range(start..=last).chain(self.blocks.range(pool.cidr..start));
        behind.find(lends).map(|(cidr, _)| *cidr)
    }

    /// The block that an address lies in.
    pub(crate) fn block_of(&self, address: IpAddr) -> Option<(Cidr, &Kept<Block>)> {
        Cidr::host(address).supernets().find_map(|cidr| self.blocks.get(&cidr).map(|kept| (cidr, kept)))
    }

    /// The blocks in a pool, in the order of networks.
    pub(crate) fn blocks_in(&self, pool: Cidr) -> impl Iterator<Item = (&Cidr, &Kept<Block>)> + Clone {
        self.blocks.range(pool..=Cidr::host(pool.last())).filter(move |(cidr, _)| pool.covers(cidr))
    }
}

/// Whose an address is that was written down for the pod before anybody knew of its attachment.
fn written_for(request: &Request) -> Option<String> {
    let said = |key: &str| request.secondary.get(key);
    Some(migrate::handle_of(&PodId::new(said("namespace")?, said("pod")?)))
}
