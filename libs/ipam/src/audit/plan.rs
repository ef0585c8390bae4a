//! What may be taken back of a ledger, and what has to be watched for longer.
//! In: ledger and census, what earlier looks suspected, graces, the time. Out: a [`Plan`].
//! Invariant: what is in a plan was seen the same at two looks at least, a grace apart; an owner's addresses are in it all or none.
//! Never: gives up the last block of a node that is there, or a block that is not empty.

use super::{Census, Holding, Verdict, Why, by_handle, by_owner, holdings, is_empty, owner};
use crate::{
    Ledger,
    affinity::{BlockAffinity, is_node_handle},
    hold::is_sticky_handle,
};
use model::{Cidr, NodeName, PodId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// How long what seems to be gone is watched before it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graces {
    /// An address whose pod is gone, a handle without addresses, an empty block; `None`: they stay for ever.
    pub leak: Option<Duration>,
    /// A node.
    pub node: Duration,
}

/// What seemed to be gone at earlier looks, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspicions {
    nodes: BTreeMap<NodeName, Duration>,
    /// By owner, and each address of it as it was given out.
    owners: BTreeMap<(String, Vec<Given>), Duration>,
    /// By network, and how often they were written.
    blocks: BTreeMap<(Cidr, u64), Duration>,
    /// Handles that no block knows, by name and revision.
    pointless: BTreeMap<(String, Option<String>), Duration>,
    /// Handles that are shared and count otherwise than blocks, by name and revision.
    miscounted: BTreeMap<(String, Option<String>), Duration>,
}

/// An address as it was given out once: block, address, and the block's count then.
pub type Given = (Cidr, IpAddr, u64);

/// Addresses that nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Whose they were.
    pub owner: String,
    /// The handles under which they are counted.
    pub handles: BTreeSet<String>,
    /// They, all of the owner.
    pub given: Vec<Given>,
    /// Who is to be asked again.
    pub pods: BTreeSet<PodId>,
    /// Nodes that must still be away, where that is why.
    pub nodes: BTreeSet<NodeName>,
    /// Why.
    pub why: Why,
}

/// A block of which nothing is given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// It.
    pub cidr: Cidr,
    /// How often it had been written when it was seen.
    pub sequence: u64,
    /// Its node, where that is gone.
    pub node: Option<NodeName>,
}

/// What may be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Addresses to take back.
    pub releases: Vec<Release>,
    /// Empty blocks to give up.
    pub blocks: Vec<Idle>,
    /// Claims of nodes that are gone on blocks that are not theirs: by name.
    pub claims: Vec<(String, NodeName)>,
    /// Handles that no block knows, with the revision at which they were seen.
    pub handles: Vec<(String, Option<String>)>,
    /// Handles that are shared, and the blocks of which they count otherwise than those say.
    pub miscounted: Vec<(String, BTreeSet<Cidr>)>,
    /// When there may be more to do.
    pub next: Option<Duration>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { releases, blocks, claims, handles, miscounted, next: _ } = self;
        releases.is_empty() && blocks.is_empty() && claims.is_empty() && handles.is_empty() && miscounted.is_empty()
    }
}

impl Suspicions {
    /// Looks at everything at the time `now`. Whose handles are not in the ledger, none is looked at for its own sake.
    pub fn look(&mut self, ledger: &Ledger, census: &Census, graces: Graces, now: Duration) -> Plan {
        let mut look = Look { census, graces, now, earlier: std::mem::take(self), kept: Self::default(), next: None };
        let gone = look.gone_nodes(ledger);
        let held = by_owner(ledger);
        let mut plan = Plan { releases: look.releases(&held, &gone), ..Plan::default() };
        let used = look.used_nodes(&held);
        let is_free = |node: &NodeName| gone.contains(node) && !used.contains(node);
        plan.blocks = look.blocks(ledger, is_free);
        plan.claims = claims(ledger, is_free);
        let counted = by_handle(ledger);
        plan.handles = look.pointless(ledger, &counted);
        plan.miscounted = look.miscounted(ledger, &counted);
        plan.next = look.next;
        *self = look.kept;
        plan
    }
}

/// One look.
struct Look<'a> {
    census: &'a Census,
    graces: Graces,
    now: Duration,
    earlier: Suspicions,
    kept: Suspicions,
    next: Option<Duration>,
}

impl Look<'_> {
    /// Whether it has been so for long enough; when it may be is noted.
    fn is_over(&mut self, since: Duration, grace: Duration) -> bool {
        let at = since.saturating_add(grace);
        // What is suspected for the first time was seen once.
        let is_over = since < self.now && at <= self.now;
        if !is_over {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
        is_over
    }

    /// Nodes that hold something and have been away for long enough.
    fn gone_nodes(&mut self, ledger: &Ledger) -> BTreeSet<NodeName> {
        let of_blocks = ledger.blocks.values().filter_map(|kept| owner(&kept.value));
        let of_claims = ledger.affinities.values().map(|kept| &kept.value).filter(|claim| is_nodes(claim));
        let of_addresses = ledger.blocks.values().flat_map(|kept| holdings(&kept.value)).filter_map(|held| held.node());
        let named: BTreeSet<NodeName> =
            of_blocks.chain(of_claims.map(|claim| claim.node.clone())).chain(of_addresses).collect();
        let gone = |node: &NodeName| self.census.is_gone(node);
        let away: Vec<_> = named.into_iter().filter(gone).collect();
        let mut over = BTreeSet::new();
        for node in away {
            let since = self.earlier.nodes.get(&node).copied().unwrap_or(self.now);
            self.kept.nodes.insert(node.clone(), since);
            if self.is_over(since, self.graces.node) {
                over.insert(node);
            }
        }
        over
    }

    fn releases(&mut self, held: &BTreeMap<&str, Vec<Holding<'_>>>, gone: &BTreeSet<NodeName>) -> Vec<Release> {
        let mut releases = Vec::new();
        let busy = self.busy_nodes(held);
        for (owner, holdings) in held {
            let verdicts = holdings.iter().map(|holding| match self.census.judge(holding) {
                // A tunnel's address goes last of all that its node has.
                Verdict::Leaked(Why::NodeGone) if holding.node().is_some_and(|node| busy.contains(&node)) => None,
                Verdict::Leaked(why) => Some(why),
                Verdict::InUse | Verdict::Unknown => None,
            });
            let Some(why) = verdicts.collect::<Option<Vec<_>>>().and_then(|whys| whys.first().copied()) else {
                continue;
            };
            let given: Vec<_> = holdings.iter().map(given).collect();
            let nodes: BTreeSet<_> = holdings.iter().filter_map(Holding::node).collect();
            let key = ((*owner).to_owned(), given);
            let since = self.earlier.owners.get(&key).copied().unwrap_or(self.now);
            self.kept.owners.insert(key, since);
            let is_seen_twice = since < self.now;
            let by_node = !nodes.is_empty() && nodes.iter().all(|node| gone.contains(node));
            let is_over = if by_node {
                is_seen_twice || self.is_over(since, Duration::ZERO)
            } else {
                why != Why::NodeGone && self.graces.leak.is_some_and(|grace| self.is_over(since, grace))
            };
            if is_over {
                let nodes = if by_node { nodes } else { BTreeSet::new() };
                releases.push(Release::of(owner, holdings, nodes, why));
            }
        }
        releases
    }

    /// Nodes some of whose addresses may be somebody's: tunnels apart.
    fn busy_nodes(&self, held: &BTreeMap<&str, Vec<Holding<'_>>>) -> BTreeSet<NodeName> {
        let is_busy = |holding: &&Holding<'_>| !matches!(self.census.judge(holding), Verdict::Leaked(_));
        held.values().flatten().filter(is_busy).filter_map(Holding::node).collect()
    }

    /// Nodes that have any address.
    fn used_nodes(&self, held: &BTreeMap<&str, Vec<Holding<'_>>>) -> BTreeSet<NodeName> {
        held.values().flatten().filter_map(Holding::node).collect()
    }

    /// Empty blocks: of nodes that are gone, all; of one that is there, all but one a family.
    fn blocks(&mut self, ledger: &Ledger, is_free: impl Fn(&NodeName) -> bool) -> Vec<Idle> {
        let mut left: BTreeMap<(Option<NodeName>, bool), usize> = BTreeMap::new();
        for block in ledger.blocks.values().map(|kept| &kept.value) {
            *left.entry((owner(block), block.cidr.is_v4())).or_default() += 1;
        }
        let mut given_up = Vec::new();
        for block in ledger.blocks.values().map(|kept| &kept.value).filter(|block| is_empty(block)) {
            let node = owner(block);
            if node.is_none() && block.affinity.is_some() {
                continue;
            }
            let (cidr, sequence) = (block.cidr, block.sequence_number);
            let key = (cidr, sequence);
            let since = self.earlier.blocks.get(&key).copied().unwrap_or(self.now);
            self.kept.blocks.insert(key, since);
            let count = left.entry((node.clone(), block.cidr.is_v4())).or_default();
            if let Some(node) = node.as_ref().filter(|node| is_free(node)) {
                if since < self.now || self.is_over(since, Duration::ZERO) {
                    given_up.push(Idle { cidr, sequence, node: Some(node.clone()) });
                }
            } else if (node.is_none() || *count > 1)
                && let Some(grace) = self.graces.leak
                && self.is_over(since, grace)
            {
                *count -= 1;
                given_up.push(Idle { cidr, sequence, node: None });
            }
        }
        given_up
    }

    /// Handles that no block knows. Where a block cannot be read nobody knows what it knows.
    fn pointless(&mut self, ledger: &Ledger, held: &BTreeMap<&str, Vec<Holding<'_>>>) -> Vec<(String, Option<String>)> {
        let Some(grace) = self.graces.leak.filter(|_| is_sound(ledger)) else { return Vec::new() };
        let known: BTreeSet<String> = held.keys().map(|handle| handle.to_lowercase()).collect();
        let mut pointless = Vec::new();
        for (name, kept) in &ledger.handles {
            let name = name.to_lowercase();
            if known.contains(&name) || self.census.held.contains(&name) {
                continue;
            }
            let key = (name, kept.revision.clone());
            let since = self.earlier.pointless.get(&key).copied().unwrap_or(self.now);
            self.kept.pointless.insert(key.clone(), since);
            if self.is_over(since, grace) {
                pointless.push(key);
            }
        }
        pointless
    }

    /// Handles of nodes, and of names that keep addresses, that count otherwise than blocks: whoever took an address back may have died
    /// before it was counted. Other handles go with what they count.
    fn miscounted(
        &mut self,
        ledger: &Ledger,
        held: &BTreeMap<&str, Vec<Holding<'_>>>,
    ) -> Vec<(String, BTreeSet<Cidr>)> {
        let Some(grace) = self.graces.leak.filter(|_| is_sound(ledger)) else { return Vec::new() };
        let mut miscounted = Vec::new();
        let is_shared = |handle: &str| is_node_handle(handle) || is_sticky_handle(handle);
        for kept in ledger.handles.values().filter(|kept| is_shared(&kept.value.handle_id)) {
            let handle = &kept.value.handle_id;
            let Some(holdings) = held.get(&**handle) else { continue };
            let mut counts: BTreeMap<Cidr, i64> = BTreeMap::new();
            kept.value.block.iter().for_each(|(cidr, count)| *counts.entry(*cidr).or_default() += i64::from(*count));
            holdings.iter().for_each(|holding| *counts.entry(holding.block.cidr).or_default() -= 1);
            let wrong = counts.iter().filter(|(cidr, count)| **count != 0 && ledger.blocks.contains_key(cidr));
            let wrong: BTreeSet<Cidr> = wrong.map(|(cidr, _)| *cidr).collect();
            if wrong.is_empty() {
                continue;
            }
            let key = (handle.clone(), kept.revision.clone());
            let since = self.earlier.miscounted.get(&key).copied().unwrap_or(self.now);
            self.kept.miscounted.insert(key, since);
            if self.is_over(since, grace) {
                miscounted.push((handle.clone(), wrong));
            }
        }
        miscounted
    }
}

/// Whether every block can be believed.
fn is_sound(ledger: &Ledger) -> bool {
    ledger.blocks.values().all(|kept| kept.value.check().is_ok())
}

/// What nodes that are gone claim, and do not have: a block that they have goes with its claim.
fn claims(ledger: &Ledger, is_free: impl Fn(&NodeName) -> bool) -> Vec<(String, NodeName)> {
    let is_lost = |claim: &BlockAffinity| {
        let block = ledger.blocks.get(&claim.cidr).map(|kept| &kept.value);
        is_nodes(claim) && is_free(&claim.node) && block.is_none_or(|block| !block.belongs_to(&claim.node))
    };
    let lost = ledger.affinities.iter().filter(|(_, kept)| is_lost(&kept.value));
    lost.map(|(name, kept)| (name.clone(), kept.value.node.clone())).collect()
}

fn is_nodes(claim: &BlockAffinity) -> bool {
    claim.affinity_type == "host"
}

fn given(holding: &Holding<'_>) -> Given {
    (holding.block.cidr, holding.address, holding.sequence)
}

impl Release {
    /// Of all that an owner has; `nodes`: they must still be away.
    pub(super) fn of(owner: &str, holdings: &[Holding<'_>], nodes: BTreeSet<NodeName>, why: Why) -> Self {
        let given = holdings.iter().map(given).collect();
        let pods = holdings.iter().filter_map(Holding::pod).collect();
        let handles = holdings.iter().filter_map(|holding| holding.attribute.handle_id.clone()).collect();
        Self { owner: owner.to_owned(), handles, given, pods, nodes, why }
    }

    /// Whether it may still be done, by a ledger and a census that are newer than the plan.
    #[must_use]
    pub fn holds(&self, ledger: &Ledger, census: &Census) -> bool {
        let all = ledger.blocks.values().flat_map(|kept| holdings(&kept.value));
        let own: Vec<_> = all.filter(|holding| holding.attribute.owner() == Some(&self.owner)).collect();
        let is_leaked = |holding: &Holding<'_>| matches!(census.judge(holding), Verdict::Leaked(_));
        own.iter().map(given).eq(self.given.iter().copied())
            && own.iter().all(is_leaked)
            && self.nodes.iter().all(|node| census.is_gone(node))
    }
}
