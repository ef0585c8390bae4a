//! Addresses that outlive their pod: held for its name for a time, and given back to that name on whichever node asks first.
//! In: what stands beside an address, a wish of a name that has held ones, the time. Out: holds, addresses given back, holds that are over.
//! Invariant: of one name at most one sandbox has an address that is held for it; who takes it does so by one write of its block.
//! Never: gives a held address to another name, or one that a sandbox of the name still has.

use crate::{AllocationAttribute, AssignError, Block, Ledger, Request, affinity, pools};
use model::{Cidr, Family, IpPool, PodId};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

/// Before the name for which addresses are held: pod, or virtual machine of KubeVirt.
const HANDLES: [&str; 2] = ["sticky.", "sticky-vm."];
/// Beside an address: for how many seconds it is held once its sandbox is gone.
pub const STICKY_FOR: &str = "tortie.dev/sticky-for";
/// Beside one that is held: until when, in seconds since 1970. Without `pod` beside it Calico's collector leaves it alone.
pub const HELD_UNTIL: &str = "tortie.dev/held-until";
/// Beside either: for whom, `NAMESPACE/NAME`.
pub const HELD_FOR: &str = "tortie.dev/held-for";

/// The name that keeps its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Its namespace, and the pod or machine.
    pub name: PodId,
    /// It is a virtual machine, whose pods have other names each time, and may be two while it moves.
    pub is_machine: bool,
    /// For how long addresses are held.
    pub held: Duration,
}

impl Sticky {
    /// The handle under which its addresses are counted, given out or held.
    #[must_use]
    pub fn handle(&self) -> String {
        let PodId { namespace, name } = &self.name;
        affinity::handle_of(HANDLES[usize::from(self.is_machine)], &format!("{namespace}.{name}"))
    }

    /// Of the pod itself, for no time.
    fn of(pod: PodId) -> Self {
        Self { name: pod, is_machine: false, held: Duration::ZERO }
    }

    /// What stands beside them.
    pub(crate) fn beside(&self) -> [(String, String); 2] {
        [(STICKY_FOR.to_owned(), self.held.as_secs().to_string()), (HELD_FOR.to_owned(), self.name.to_string())]
    }
}

/// Whether a handle is that of a name which keeps its addresses.
#[must_use]
pub fn is_sticky_handle(handle: &str) -> bool {
    HANDLES.iter().any(|kind| handle.starts_with(kind))
}

/// A hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The address.
    pub address: IpAddr,
    /// Its handle.
    pub handle: String,
    /// When it began, as its block counts.
    pub sequence: u64,
    /// For whom.
    pub name: PodId,
    /// Until when, since 1970.
    pub until: Duration,
}

/// Until when an address is held; `None`: it is not, somebody has it.
#[must_use]
pub fn held_until(attribute: &AllocationAttribute) -> Option<Duration> {
    attribute.secondary.get(HELD_UNTIL)?.parse().ok().map(Duration::from_secs)
}

/// For whom an address is held, or would be.
#[must_use]
pub fn held_for(attribute: &AllocationAttribute) -> Option<PodId> {
    let (namespace, name) = attribute.secondary.get(HELD_FOR)?.split_once('/')?;
    Some(PodId::new(namespace, name))
}

impl Block {
    /// Takes from `owner` what it has: what is to outlive it is held from now on, the rest is free.
    pub(crate) fn part_with(&mut self, owner: &str, now: Duration, may_be_held: bool, at: Option<&str>) -> Vec<IpAddr> {
        let parted = self.held_by(owner);
        for address in parted.iter().filter(|_| may_be_held) {
            self.hold(*address, now);
        }
        self.release(owner, at);
        parted
    }

    /// Has an address outlive its sandbox, if it is to. False: it is not, or is held already.
    fn hold(&mut self, address: IpAddr, now: Duration) -> bool {
        let attribute = self.ordinal_of(address).and_then(|ordinal| self.attributes.get(self.allocations[ordinal]?));
        let Some(attribute) = attribute.filter(|attribute| held_until(attribute).is_none()) else { return false };
        let seconds = attribute.secondary.get(STICKY_FOR).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        if seconds == 0 {
            return false;
        }
        let mut held = attribute.clone();
        held.secondary.retain(|key, _| key == HELD_FOR);
        held.secondary.insert(HELD_UNTIL.to_owned(), now.as_secs().saturating_add(seconds).to_string());
        self.regive(address, held);
        true
    }

    /// Gives an address that somebody has to another, or what stands beside it: it was free at no moment.
    fn regive(&mut self, address: IpAddr, attribute: AllocationAttribute) {
        let Some(ordinal) = self.ordinal_of(address) else { return };
        self.attributes.push(attribute);
        self.allocations[ordinal] = Some(self.attributes.len() - 1);
        self.sequence_number_for_allocation.insert(ordinal.to_string(), self.sequence_number);
        self.drop_unused_attributes();
    }

    /// Whether something that `owner` has outlives it.
    pub(crate) fn keeps(&self, owner: &str) -> bool {
        let is_its = |attribute: &&AllocationAttribute| attribute.owner() == Some(owner);
        self.attributes.iter().filter(is_its).any(|attribute| attribute.secondary.contains_key(STICKY_FOR))
    }

    fn ordinal_of(&self, address: IpAddr) -> Option<usize> {
        (0..self.allocations.len()).find(|ordinal| self.address(*ordinal) == address)
    }
}

/// What becomes of a wish whose name may have kept an address.
pub(crate) enum Back {
    /// It has it again.
    Given(IpAddr),
    /// It kept none, or its pools serve it no more: it gets one that it keeps.
    Fresh,
    /// Another sandbox of the machine has it: it gets one that it does not keep.
    Moving,
}

/// What came of taking an address from an owner that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parted {
    /// It is free, or cools down.
    Free,
    /// It outlives its sandbox.
    Held,
    /// It was taken back before.
    Before,
}

/// What a name has of a family.
enum Has {
    /// A sandbox has it.
    Alive { address: IpAddr, owner: String },
    /// It is held, in this block.
    Held(IpAddr, Cidr),
}

impl Has {
    /// Another sandbox of the wish's name lives.
    fn another(&self, sticky: &Sticky, request: &Request) -> Option<AssignError> {
        match self {
            Self::Alive { address, owner } if *owner != request.owner => {
                Some(AssignError::Alive { pod: sticky.name.clone(), address: *address, owner: owner.clone() })
            }
            Self::Alive { .. } | Self::Held(..) => None,
        }
    }
}

impl Ledger {
    /// The address that the wish's name kept, if it may have it.
    ///
    /// # Errors
    /// A sandbox of the name still has it.
    pub(crate) fn give_back(
        &mut self,
        pools: &[IpPool],
        family: Family,
        request: &Request,
    ) -> Result<Back, AssignError> {
        let Some(sticky) = request.sticky.clone() else { return Ok(Back::Fresh) };
        let may_have = |address: IpAddr, block: &Block| {
            pools.iter().any(|pool| pool.cidr.contains(address))
                && !self.is_reserved(address)
                && (block.belongs_to(&request.node) || !self.config.strict_affinity)
        };
        let Some(has) = self.kept(&sticky, family, may_have) else { return Ok(Back::Fresh) };
        if let Some(alive) = has.another(&sticky, request) {
            return if sticky.is_machine { Ok(Back::Moving) } else { Err(alive) };
        }
        let (address, cidr) = match has {
            Has::Alive { address, .. } => return Ok(Back::Given(address)),
            Has::Held(address, cidr) => (address, cidr),
        };
        // What it may not have stays held until its time is over: were it freed here, its handle would count too little at times.
        let attribute = AllocationAttribute::new(&request.handle(), &request.beside());
        if let Some(kept) = self.blocks.get_mut(&cidr) {
            kept.value.regive(address, attribute);
        }
        Ok(Back::Given(address))
    }

    fn kept(&self, sticky: &Sticky, family: Family, may_have: impl Fn(IpAddr, &Block) -> bool) -> Option<Has> {
        let handle = sticky.handle();
        let named = self.handles.get(&handle).into_iter().flat_map(|kept| kept.value.block.keys());
        let all: BTreeSet<&Cidr> =
            named.chain(self.blocks.all_touched()).filter(|cidr| cidr.family() == family).collect();
        let blocks = all.into_iter().filter_map(|cidr| self.blocks.get(cidr)).map(|kept| &kept.value);
        let mut held = None;
        for block in blocks.filter(|block| block.check().is_ok()) {
            let own =
                crate::audit::holdings(block).filter(|holding| holding.attribute.handle_id.as_ref() == Some(&handle));
            for holding in own {
                match held_until(holding.attribute) {
                    None => {
                        let owner = holding.attribute.owner().unwrap_or_default().to_owned();
                        return Some(Has::Alive { address: holding.address, owner });
                    }
                    Some(_) if may_have(holding.address, block) => {
                        held = held.or(Some(Has::Held(holding.address, block.cidr)));
                    }
                    Some(_) => {}
                }
            }
        }
        held
    }

    /// Whether an address may be held: its pool is there, and gives.
    pub(crate) fn may_be_held(&self, cidr: Cidr) -> bool {
        self.pools.values().any(|pool| pool.cidr.covers(&cidr) && pools::is_of_pods(pool))
    }

    /// All holds.
    pub fn holds(&self) -> impl Iterator<Item = Hold> {
        let all = self.blocks.values().flat_map(|kept| crate::audit::holdings(&kept.value));
        all.filter_map(|holding| {
            Some(Hold {
                address: holding.address,
                handle: holding.attribute.handle_id.clone()?,
                sequence: holding.sequence,
                name: held_for(holding.attribute)?,
                until: held_until(holding.attribute)?,
            })
        })
    }

    /// Holds that are over: their time is, or their pool gives nothing more, or nobody of their name can come again.
    pub fn holds_over(&self, now: Duration, can_come: impl Fn(&PodId) -> bool) -> Vec<Hold> {
        let is_over =
            |hold: &Hold| hold.until <= now || !self.may_be_held(Cidr::host(hold.address)) || !can_come(&hold.name);
        self.holds().filter(is_over).collect()
    }

    /// Ends these holds, as far as they are as they were.
    pub fn end_holds(&mut self, holds: &[Hold]) -> Vec<IpAddr> {
        let mut ended = Vec::new();
        for Hold { address, handle, sequence, .. } in holds {
            if self.release_seen(*address, handle, *sequence) == Ok(true) {
                ended.push(*address);
            }
        }
        ended
    }

    /// Takes an address from an owner that is gone, if it is still given out as somebody saw it: what is to outlive its sandbox is held.
    ///
    /// # Errors
    /// As [`Ledger::release_seen`].
    pub fn part_seen(&mut self, address: IpAddr, owner: &str, sequence: u64) -> Result<Parted, String> {
        let now = self.clock.at;
        let may_be_held = self.may_be_held(Cidr::host(address));
        let Some(cidr) = self.block_of(address).map(|(cidr, _)| cidr) else { return Ok(Parted::Before) };
        let seen = self.blocks.get(&cidr).into_iter().flat_map(|kept| crate::audit::holdings(&kept.value));
        let is_seen = seen
            .filter(|holding| holding.address == address && holding.sequence == sequence)
            .any(|holding| holding.attribute.owner() == Some(owner));
        if is_seen && may_be_held && self.blocks.get_mut(&cidr).is_some_and(|kept| kept.value.hold(address, now)) {
            return Ok(Parted::Held);
        }
        let is_free = self.release_seen(address, owner, sequence)?;
        Ok(if is_free { Parted::Free } else { Parted::Before })
    }

    /// Whether an address is held for the wish's name; of a wish that keeps nothing itself, for its pod's.
    pub(crate) fn is_for(&self, attribute: &AllocationAttribute, request: &Request) -> bool {
        let said = |key: &str| request.secondary.get(key);
        let pod = || Some(Sticky::of(PodId::new(said("namespace")?, said("pod")?)));
        let name = request.sticky.clone().or_else(pod);
        held_until(attribute).is_some() && name.is_some_and(|name| attribute.handle_id == Some(name.handle()))
    }

    /// Nobody else of the wish's name has an address of the family: a machine that moves has two sandboxes.
    ///
    /// # Errors
    /// Who has one.
    pub(crate) fn is_alone(&self, request: &Request, family: Family) -> Result<(), AssignError> {
        let Some(sticky) = request.sticky.as_ref().filter(|sticky| !sticky.is_machine) else { return Ok(()) };
        let has = self.kept(sticky, family, |_, _| true);
        has.and_then(|has| has.another(sticky, request)).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;
    use model::IpPool;

    const NOW: Duration = Duration::from_secs(1_000);
    const HELD: Duration = Duration::from_secs(60);

    fn ledger() -> Ledger {
        let mut ledger = Ledger { clock: Clock { at: NOW, ..Clock::default() }, ..Ledger::default() };
        for (name, cidr, size) in [("v4", "10.65.0.0/24", 26), ("v6", "fd00::/120", 122)] {
            let cidr = cidr.parse().expect("a network");
            ledger.pools.insert(name.into(), IpPool::of_pods(name, cidr, size));
        }
        ledger
    }

    fn wish(node: &str, sandbox: &str) -> Request {
        let of = [("pod", "web-0"), ("namespace", "x"), ("node", node)];
        let sticky = Sticky { name: PodId::new("x", "web-0"), is_machine: false, held: HELD };
        Request {
            node: node.into(),
            owner: format!("net.{sandbox}"),
            secondary: of.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            sticky: Some(sticky),
            ..Request::default()
        }
    }

    fn others(ledger: &mut Ledger, count: usize) -> Vec<IpAddr> {
        let other = |number: usize| Request { sticky: None, ..wish("n1", &format!("other{number}")) };
        (0..count).flat_map(|number| ledger.assign(&other(number)).expect("an address")).collect()
    }

    #[test]
    fn what_a_pod_had_is_held_for_its_name_and_given_back_to_it_on_any_node_and_to_nobody_else() {
        let mut ledger = ledger();
        let had = ledger.assign(&wish("n1", "a")).expect("addresses");
        assert_eq!(ledger.assign(&wish("n1", "a")), Ok(had.clone()), "asked again");
        assert_eq!(ledger.release("net.a"), had);
        let held: Vec<_> = ledger.holds().map(|hold| (hold.address, hold.name.to_string(), hold.until)).collect();
        assert_eq!(held, had.iter().map(|address| (*address, "x/web-0".to_owned(), NOW + HELD)).collect::<Vec<_>>());
        assert_eq!(ledger.release("net.a").len(), 0, "twice is no error");
        assert!(others(&mut ledger, 63).iter().all(|address| !had.contains(address)));
        assert_eq!(ledger.assign(&wish("n2", "b")), Ok(had.clone()), "borrowed of n1");
        assert_eq!(ledger.holds().count(), 0);
        assert_eq!(ledger.release("net.a").len(), 0, "a late release of the old sandbox frees nothing");
        assert_eq!(ledger.held_by("net.b"), had);
    }

    #[test]
    fn an_address_asked_for_by_number_is_given_of_what_is_held_for_the_name_and_not_beside_another_sandbox() {
        let by_number = |mut wish: Request, had: &[IpAddr]| {
            wish.wanted = had.to_vec();
            wish
        };
        for is_machine in [false, true] {
            let of = |node: &str, sandbox: &str| {
                let mut wish = wish(node, sandbox);
                let sticky = Sticky { name: PodId::new("x", "db"), is_machine, held: HELD };
                wish.sticky = Some(sticky);
                wish
            };
            let mut ledger = ledger();
            let had = ledger.assign(&of("n1", "a")).expect("addresses");
            ledger.release("net.a");
            let stranger = ledger.assign(&by_number(wish("n2", "s"), &had));
            assert!(matches!(stranger, Err(AssignError::Taken { .. })), "it is another name's: {stranger:?}");
            assert_eq!(ledger.assign(&by_number(of("n2", "b"), &had)), Ok(had.clone()));
            let free = ["10.65.0.40".parse().expect("an address")];
            let beside = ledger.assign(&by_number(of("n2", "c"), &free));
            assert_eq!(beside.is_ok(), is_machine, "two of a pod's name are one too many: {beside:?}");
        }
    }

    #[test]
    fn who_is_asked_again_after_it_was_said_that_its_addresses_stay_gets_no_second() {
        let mut ledger = ledger();
        let had = ledger.assign(&Request { sticky: None, ..wish("n1", "a") }).expect("addresses");
        assert_eq!(ledger.assign(&wish("n1", "a")), Ok(had));
    }

    #[test]
    fn ipam_20_while_a_sandbox_of_its_name_has_it_another_is_refused_on_any_node_and_a_machine_that_moves_gets_another()
    {
        let mut ledger = ledger();
        let had = ledger.assign(&wish("n1", "a")).expect("addresses");
        for node in ["n1", "n2"] {
            let refused = ledger.assign(&wish(node, "b")).expect_err("a has it");
            assert!(matches!(&refused, AssignError::Alive { owner, .. } if owner == "net.a"), "{refused}");
        }
        let machine = |node: &str, sandbox: &str| {
            let mut wish = wish(node, sandbox);
            wish.sticky = wish.sticky.map(|sticky| Sticky { is_machine: true, ..sticky });
            wish
        };
        let first = ledger.assign(&machine("n1", "m1")).expect("its own name");
        let target = ledger.assign(&machine("n2", "m2")).expect("one of its own");
        assert!(target.iter().all(|address| !first.contains(address) && !had.contains(address)));
        ledger.release("net.m1");
        ledger.release("net.m2");
        assert_eq!(ledger.holds().count(), 2, "the target's is not held");
        assert_eq!(ledger.assign(&machine("n2", "m3")), Ok(first));
    }

    #[test]
    fn a_hold_ends_with_its_time_its_pool_or_its_name_and_what_lives_is_no_hold() {
        let over = |ledger: &Ledger, at: Duration| ledger.holds_over(at, |_| true).len();
        let mut ledger = ledger();
        let had = ledger.assign(&wish("n1", "a")).expect("addresses");
        assert_eq!(over(&ledger, NOW + HELD * 9), 0, "it lives");
        ledger.release("net.a");
        assert_eq!((over(&ledger, NOW), over(&ledger, NOW + HELD)), (0, 2));
        assert_eq!(ledger.holds_over(NOW, |name| &*name.name != "web-0").len(), 2, "its owner is gone");
        ledger.pools.get_mut("v6").expect("there").disabled = true;
        assert_eq!(over(&ledger, NOW), 1);
        // Taken meanwhile, it is not ended.
        let seen = ledger.holds_over(NOW + HELD, |_| true);
        let given = ledger.assign(&wish("n2", "b")).expect("of one family");
        assert_eq!(given, [had[0]]);
        assert_eq!(ledger.end_holds(&seen), [had[1]]);
        assert_eq!(ledger.held_by("net.b"), [had[0]]);
        // What is given out of no pool any more is free at once.
        ledger.pools.clear();
        ledger.release("net.b");
        assert_eq!(ledger.holds().count(), 0);
    }

    #[test]
    fn what_cannot_be_had_there_stays_held_until_its_time_is_over_and_another_address_is_given() {
        for change in [
            |ledger: &mut Ledger| ledger.config.strict_affinity = true,
            |ledger: &mut Ledger| {
                ledger.pools.values_mut().for_each(|pool| pool.nodes = "name == 'n2'".parse().expect("one"))
            },
            |ledger: &mut Ledger| ledger.reserved.push("10.65.0.0/16".parse().expect("one")),
        ] {
            let mut ledger = ledger();
            ledger.pools.remove("v6");
            let had = ledger.assign(&wish("n1", "a")).expect("addresses");
            ledger.release("net.a");
            change(&mut ledger);
            let now = ledger.assign(&Request { node_labels: model::Labels::from([("name", "n3")]), ..wish("n2", "b") });
            assert_ne!(now, Ok(had.clone()));
            assert_eq!(ledger.holds().map(|hold| hold.address).collect::<Vec<_>>(), had, "until its time is over");
        }
    }

    #[test]
    fn of_a_sandbox_whose_node_is_gone_what_was_its_is_held_and_an_old_look_takes_nothing() {
        let mut ledger = ledger();
        let had = ledger.assign(&wish("n1", "a")).expect("addresses");
        let seen: Vec<_> = ledger
            .blocks
            .values()
            .flat_map(|kept| crate::audit::holdings(&kept.value))
            .map(|held| (held.address, held.sequence))
            .collect();
        assert!(ledger.part_seen(had[0], "net.b", seen[0].1).is_err());
        for (address, sequence) in &seen {
            assert_eq!(ledger.part_seen(*address, "net.a", *sequence), Ok(Parted::Held));
        }
        assert_eq!(ledger.holds().count(), 2);
        let census = crate::audit::Census::default();
        let all = ledger.blocks.values().flat_map(|kept| crate::audit::holdings(&kept.value));
        assert!(all.map(|held| census.judge(&held)).all(|verdict| verdict == crate::audit::Verdict::InUse), "no leak");
        // As Calico's collector reads it: of no pod.
        assert!(
            ledger
                .blocks
                .values()
                .flat_map(|kept| &kept.value.attributes)
                .all(|held| !held.secondary.contains_key("pod"))
        );
        assert_eq!(ledger.assign(&wish("n2", "b")), Ok(had));
    }
}
