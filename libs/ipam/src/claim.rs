//! Blocks of a node: which it has, how it gets another, how it gives one up (libcalico-go/lib/ipam/ipam_block_reader_writer.go).
//! In: a ledger, a node. Out: the ledger with a claim more, or one less.
//! Invariant: a block changes its owner only empty, and by one write; a claim counts for as much as its block says.
//! Never: gives up what is not empty, or takes what was claimed a moment ago.

use crate::{
    AffinityState, AssignError, Block, BlockAffinity, InvalidBlock, Kept, Ledger, Request, affinity::cidr_name,
    choose::first_free,
};
use model::{Cidr, Family, IpPool, Labels, NodeName, Truth};

/// Blocks of a family that a node may have where nobody limits it (libcalico-go/lib/ipam/ipam.go).
const MOST_BLOCKS: u32 = 20;
/// What an affinity to a node begins with.
const HOST: &str = "host:";

impl Ledger {
    /// The blocks that `node` claims and that say that they are its, in the order of networks.
    pub(crate) fn own_blocks(&self, node: &NodeName, family: Family) -> Vec<Cidr> {
        let is_own = |cidr: &Cidr| self.blocks.get(cidr).is_some_and(|kept| kept.value.belongs_to(node));
        let claimed = self.claims(node).map(|claim| claim.cidr).filter(|cidr| cidr.family() == family);
        let mut own: Vec<_> = claimed.filter(is_own).collect();
        own.sort();
        own
    }

    /// What `node` claims.
    pub(crate) fn claims(&self, node: &NodeName) -> impl Iterator<Item = &BlockAffinity> {
        let first = format!("{node}-");
        let named = self.affinities.range(first.clone()..).take_while(move |(name, _)| name.starts_with(&first));
        named.map(|(_, kept)| &kept.value).filter(|claim| claim.node == *node && claim.affinity_type == "host")
    }

    /// One more block with an address to give, or why there is none.
    pub(crate) fn claim_another(
        &mut self,
        pools: &[IpPool],
        own: &[Cidr],
        request: &Request,
    ) -> Result<Result<Cidr, String>, AssignError> {
        if !self.config.auto_allocate_blocks {
            return Ok(Err("autoAllocateBlocks of IPAMConfiguration is off".to_owned()));
        }
        let most = self.config.max_blocks.unwrap_or(MOST_BLOCKS);
        if u32::try_from(own.len()).unwrap_or(u32::MAX) >= most {
            return Ok(Err(format!("it has {} blocks, and may have {most} (maxBlocksPerHost)", own.len())));
        }
        if self.is_partial {
            self.is_short = true;
            return Ok(Err("not all blocks are known".to_owned()));
        }
        let promised = |ledger: &Self, pool: &IpPool| {
            let mut claims = ledger.claims(&request.node).map(|claim| claim.cidr);
            claims.find(|cidr| {
                cidr.prefix_len() == pool.block_size && pool.cidr.covers(cidr) && ledger.is_free(*cidr, pool)
            })
        };
        let free =
            pools.iter().find_map(|pool| promised(self, pool).or_else(|| self.free_block(pool, &request.node.0)));
        if let Some(cidr) = free {
            self.make_block(cidr, request);
            return Ok(Ok(cidr));
        }
        let mut reclaimed = None;
        for pool in pools {
            // One walk for both: a pool has thousands of blocks.
            for (cidr, kept) in self.blocks_in(pool.cidr) {
                if let Some(found) = self.unclaimed(&kept.value, &request.node) {
                    return Ok(Ok(found?));
                }
                if reclaimed.is_none() && self.is_reclaimable(&kept.value, pool, request) {
                    reclaimed = Some(*cidr);
                }
            }
        }
        let Some(cidr) = reclaimed else { return Ok(Err("every block is some node's".to_owned())) };
        self.reclaim(cidr, request);
        Ok(Ok(cidr))
    }

    /// A block that says that it is the node's and that no claim names.
    fn unclaimed(&self, block: &Block, node: &NodeName) -> Option<Result<Cidr, InvalidBlock>> {
        if !block.belongs_to(node) || block.deleted {
            return None;
        }
        match block.check() {
            Ok(()) => self.first_of(block).map(|_| Ok(block.cidr)),
            Err(error) => Some(Err(error)),
        }
    }

    /// A block of the pool that is not there yet and has an address to give.
    pub(crate) fn free_block(&self, pool: &IpPool, name: &str) -> Option<Cidr> {
        if pool.cidr.supernets().any(|over| self.blocks.contains_key(&over)) {
            return None;
        }
        let taken: Vec<Cidr> = self.blocks_in(pool.cidr).map(|(cidr, _)| *cidr).collect();
        let blocks = 1_usize.checked_shl(u32::from(pool.block_size.saturating_sub(pool.cidr.prefix_len())));
        let are_whole = || taken.iter().all(|cidr| cidr.prefix_len() == pool.block_size);
        if blocks.is_some_and(|blocks| taken.len() >= blocks) && are_whole() {
            return None;
        }
        let taken = taken.iter().copied();
        first_free(pool, name, taken, |cidr| self.has_unreserved(cidr))
    }

    /// Whether nothing in it is a block, and it is in none.
    fn is_free(&self, cidr: Cidr, pool: &IpPool) -> bool {
        let is_over = |over: Cidr| self.blocks.contains_key(&over);
        !cidr.supernets().any(is_over)
            && self.blocks_in(cidr).next().is_none()
            && self.has_unreserved(cidr)
            && pool.cidr.covers(&cidr)
    }

    fn has_unreserved(&self, cidr: Cidr) -> bool {
        if !self.reserved.iter().any(|reserved| reserved.covers(&cidr) || cidr.covers(reserved)) {
            return true;
        }
        self.first_of(&Block::of(cidr, String::new(), 0)).is_some()
    }

    /// A block of the node that is not stored yet.
    pub(crate) fn make_block(&mut self, cidr: Cidr, request: &Request) {
        let mut value = Block::new(cidr, &request.node, request.sequence);
        value.affinity_claim_time = Some(request.now.clone()).filter(|now| !now.is_empty());
        self.blocks.insert(cidr, Kept { revision: None, value });
    }

    /// An empty block of another node, or of nobody, that was not claimed a moment ago.
    fn is_reclaimable(&self, block: &Block, pool: &IpPool, request: &Request) -> bool {
        let is_old = || match &block.affinity_claim_time {
            // Both are of one form, in UTC: what is earlier sorts first.
            Some(claimed) => claimed.len() == request.reclaimable.len() && *claimed <= request.reclaimable,
            None => true,
        };
        let is_nodes = || block.affinity.as_deref().is_none_or(|affinity| affinity.starts_with(HOST));
        block.cidr.prefix_len() >= pool.block_size
            && block.is_empty()
            && is_nodes()
            && block.check().is_ok()
            && is_old()
            && self.first_of(block).is_some()
    }

    /// By one write from one owner to the next: there is no moment at which it is nobody's, and whoever had it loses that race or wins it.
    fn reclaim(&mut self, cidr: Cidr, request: &Request) {
        let Some(kept) = self.blocks.get_mut(&cidr) else { return };
        let owner = kept.value.affinity.replace(format!("{HOST}{}", request.node));
        kept.value.affinity_claim_time = Some(request.now.clone()).filter(|now| !now.is_empty());
        if let Some(owner) = owner.as_deref().and_then(|owner| owner.strip_prefix(HOST)) {
            self.affinities.remove(&format!("{owner}-{}", cidr_name(cidr)));
        }
    }

    /// The node's claim on a block that is its own.
    pub(crate) fn claim(&mut self, cidr: Cidr, node: &NodeName) {
        let affinity = BlockAffinity::new(node, cidr, AffinityState::Confirmed);
        let known = self.affinities.get(&affinity.name());
        if known.is_none_or(|known| known.value.state != AffinityState::Confirmed || known.value.deleted == "true") {
            let revision = known.and_then(|kept| kept.revision.clone());
            self.affinities.insert(affinity.name(), Kept { revision, value: affinity });
        }
    }

    /// Claims on blocks that turned out to be another's are dropped; empty blocks of pools that select the node no more are given up
    /// (IPAM-12).
    pub(crate) fn tidy_claims(&mut self, node: &NodeName, labels: &Labels) {
        let claims: Vec<_> = self.claims(node).map(|claim| (claim.name(), claim.cidr)).collect();
        for (name, cidr) in claims {
            let Some(kept) = self.blocks.get(&cidr) else { continue };
            let is_lost = !kept.value.belongs_to(node);
            let is_left =
                !is_lost && !self.selects(cidr, labels) && kept.value.check().is_ok() && kept.value.is_empty();
            if (is_lost || is_left) && self.is_partial {
                // What is known of a claim may be old.
                return self.is_short = true;
            }
            if is_lost {
                self.affinities.remove(&name);
            } else if is_left {
                self.give_up(cidr);
            }
        }
    }

    /// Whether the pool of a block selects a node with these labels; a pool that is gone or disabled has no say.
    pub(crate) fn selects(&self, cidr: Cidr, labels: &Labels) -> bool {
        let pool = self.pools.values().find(|pool| !pool.disabled && pool.cidr.covers(&cidr));
        pool.is_none_or(|pool| pool.nodes.matches(labels) == Truth::Yes)
    }

    /// Takes a block from its owner: an empty one is removed, another is nobody's from now on. False if it is not there.
    pub fn give_up(&mut self, cidr: Cidr) -> bool {
        let Some(kept) = self.blocks.get(&cidr) else { return false };
        let (affinity, is_empty) = (kept.value.affinity.clone(), kept.value.is_empty());
        if is_empty {
            self.blocks.remove(&cidr);
        } else if let Some(kept) = self.blocks.get_mut(&cidr) {
            kept.value.affinity = None;
            kept.value.affinity_claim_time = None;
        }
        let owner = affinity.as_deref().and_then(|affinity| affinity.split_once(':')).map(|(_, owner)| owner);
        if let Some(owner) = owner {
            self.affinities.remove(&format!("{owner}-{}", cidr_name(cidr)));
        }
        true
    }
}
