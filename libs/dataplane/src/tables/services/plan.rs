//! Plans the services' next revision: service port by service port, those alone of which something changed.
//! In: what is in force, and what is wanted. Out: the step.
//! Invariant: a backend of a service port keeps its slot as long as it is listed; equal lists of one service port are one.
//! Never: writes; looks into a service whose balance lies where it lay.

use super::{
    Services, bounds,
    image::{Held, Image, List, Stand},
    step::{Changes, Step},
};
use crate::tables::{affected::revision, numbers::lowest, prefix};
use abi::{
    Address, Balancer, ServiceKey,
    service::{
        BACKEND_CHOSEN, BACKEND_LISTED, BALANCER_BOUNDS_AT, BALANCER_BY_HOST, BALANCER_HASHED, BALANCER_NONE,
        BALANCER_SILENT,
    },
};
use model::ServicePortId;
use service::{Backend, Backends, Balance, Frontend, maglev, places};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Balancers of a frontend, inside and outside.
type Words = (u32, u32);

/// What is wanted, and of which frontends alone it may be another than before; `None`: of any.
pub type Wanted<'a> = (&'a BTreeMap<Frontend, Arc<Balance>>, Option<&'a BTreeSet<Frontend>>);

pub fn plan(services: &Services, (desired, touched): Wanted<'_>, generation: u64) -> Step {
    let wanted = match touched {
        Some(touched) => differences(&services.wanted, desired, touched.iter()),
        None => differences(&services.wanted, desired, services.wanted.keys().chain(desired.keys())),
    };
    let image = &services.image;
    let mut touched: BTreeSet<u64> =
        wanted.values().flat_map(|(was, is)| was.iter().chain(is)).map(|balance| number(&balance.of)).collect();
    if services.is_adopted {
        touched.extend(image.ports.keys());
    }
    let frontends = frontends_of(&touched, &services.ports, desired, &wanted);
    let step = Step { wanted, numbers: services.numbers.clone(), ..Step::default() };
    let mut draft = Draft { image, generation, words: BTreeMap::new(), step };
    for (of, frontends) in &frontends {
        draft.port(*of, frontends);
    }
    draft.frontends(&touched);
    draft.step
}

/// The frontends that each touched service port will have: those that it keeps, and those that come to it.
fn frontends_of<'a>(
    touched: &BTreeSet<u64>,
    held: &BTreeMap<u64, BTreeSet<Frontend>>,
    desired: &'a BTreeMap<Frontend, Arc<Balance>>,
    wanted: &Changes<Frontend, Arc<Balance>>,
) -> BTreeMap<u64, BTreeMap<Frontend, &'a Arc<Balance>>> {
    let mut found: BTreeMap<u64, BTreeMap<Frontend, &Arc<Balance>>> =
        touched.iter().map(|of| (*of, BTreeMap::new())).collect();
    for (of, frontends) in &mut found {
        let kept = held.get(of).into_iter().flatten().filter(|frontend| !wanted.contains_key(frontend));
        frontends.extend(kept.filter_map(|frontend| Some((*frontend, desired.get(frontend)?))));
    }
    for frontend in wanted.keys() {
        if let Some(balance) = desired.get(frontend) {
            found.entry(number(&balance.of)).or_default().insert(*frontend, balance);
        }
    }
    found
}

/// The number of a service port: the same in every agent, so that a restart knows its backends again (FNV-1a).
pub fn number(of: &ServicePortId) -> u64 {
    of.to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A frontend's key; `None` for an address that no packet has.
pub fn key_of(frontend: &Frontend) -> Option<ServiceKey> {
    let address = prefix::address_key(frontend.address)?;
    Some(ServiceKey { address, port: frontend.port.to_be_bytes(), protocol: frontend.protocol.0, pad: [0; 5] })
}

/// What differs; what lies in one place is one.
fn differences<'a>(
    old: &BTreeMap<Frontend, Arc<Balance>>,
    new: &BTreeMap<Frontend, Arc<Balance>>,
    of: impl Iterator<Item = &'a Frontend>,
) -> Changes<Frontend, Arc<Balance>> {
    let pairs = of.map(|frontend| (frontend, (old.get(frontend), new.get(frontend))));
    let differing = pairs.filter(|(_, (was, is))| was != is);
    differing.map(|(frontend, (was, is))| (*frontend, (was.cloned(), is.cloned()))).collect()
}

struct Draft<'a> {
    image: &'a Image,
    generation: u64,
    /// What each frontend of the touched service ports will have.
    words: BTreeMap<ServiceKey, Words>,
    step: Step,
}

impl Draft<'_> {
    fn port(&mut self, of: u64, frontends: &BTreeMap<Frontend, &Arc<Balance>>) {
        let slots = self.backends(of, frontends.values().copied());
        let mut lists: BTreeMap<u32, List> = BTreeMap::new();
        for (frontend, balance) in frontends {
            let Some(key) = key_of(frontend) else { continue };
            let mut list = |backends: &Backends, flags: u32| {
                let elsewhere = if backends.elsewhere { BALANCER_SILENT } else { 0 };
                self.list((of, flags | elsewhere), (balance, backends), &slots, &mut lists)
            };
            let inside = list(&balance.inside, if balance.by_host { BALANCER_BY_HOST } else { 0 });
            let hashed = if balance.is_of_several_nodes() { BALANCER_HASHED } else { 0 };
            let outside = balance.outside.as_ref().map_or(BALANCER_NONE, |outside| list(outside, hashed));
            self.words.insert(key, (inside, outside));
        }
        for id in self.image.ports.get(&of).into_iter().flat_map(|held| &held.lists) {
            if let Some(was) = self.image.lists.get(id).filter(|_| !lists.contains_key(id)) {
                self.step.lists.insert(*id, (Some(was.clone()), None));
            }
        }
    }

    /// Slots of a service port's backends, and what is different about them.
    fn backends<'b>(
        &mut self,
        of: u64,
        balances: impl Iterator<Item = &'b Arc<Balance>>,
    ) -> BTreeMap<(Address, [u8; 2]), u32> {
        let mut standings: BTreeMap<(Address, [u8; 2]), u32> = BTreeMap::new();
        for balance in balances {
            for backends in [Some(&balance.inside), balance.outside.as_ref()].into_iter().flatten() {
                for (list, standing) in
                    [(&backends.listed, BACKEND_LISTED), (&backends.chosen, BACKEND_LISTED | BACKEND_CHOSEN)]
                {
                    for place in list.iter().filter_map(place_of) {
                        *standings.entry(place).or_default() |= standing;
                    }
                }
            }
        }
        let mut slots = BTreeMap::new();
        for slot in self.image.ports.get(&of).into_iter().flat_map(|held| &held.backends) {
            let Some(was) = self.image.backends.get(slot) else { continue };
            // Two that are the same: only damage makes them.
            let standing = if slots.contains_key(&was.at) { None } else { standings.get(&was.at) };
            if let Some(standing) = standing {
                slots.insert(was.at, *slot);
                if *standing != was.standing {
                    let is = Stand { standing: *standing, ..*was };
                    self.step.backends.insert(*slot, (Some(*was), Some(is)));
                }
            } else {
                self.step.backends.insert(*slot, (Some(*was), None));
            }
        }
        for (at, standing) in standings {
            slots.entry(at).or_insert_with(|| {
                let slot = lowest(&mut self.step.numbers.backends);
                let is = Stand { of, at, born: revision(self.generation), standing };
                self.step.backends.insert(slot, (None, Some(is)));
                slot
            });
        }
        slots
    }

    /// The balancer of one side: one that is there, or a fresh one.
    fn list(
        &mut self,
        (of, flags): (u64, u32),
        (balance, backends): (&Balance, &Backends),
        slots: &BTreeMap<(Address, [u8; 2]), u32>,
        lists: &mut BTreeMap<u32, List>,
    ) -> u32 {
        let slot = |backend: &Backend| slots.get(&place_of(backend)?).copied();
        let flags = if backends.chosen.len() > 1 { flags } else { flags & !BALANCER_HASHED };
        let mut members: Vec<u32> = if flags & BALANCER_HASHED != 0 {
            let backend = |place: u32| backends.chosen.get(usize::try_from(place).ok()?);
            let table = maglev(&backends.chosen, places(backends.chosen.len()));
            table.into_iter().filter_map(|place| slot(backend(place)?)).collect()
        } else {
            backends.chosen.iter().filter_map(slot).collect::<BTreeSet<u32>>().into_iter().collect()
        };
        let len = u32::try_from(members.len()).unwrap_or(u32::MAX);
        // Where nobody is, everybody hears so.
        let sources = balance.sources.as_ref().filter(|_| len > 0);
        let bounds = sources.map_or_else(Vec::new, |sources| bounds::bounds(sources));
        members.extend(bounds.iter().flat_map(bounds::words));
        let members: Arc<[u32]> = members.into();
        let flags = flags | u32::try_from(bounds.len()).unwrap_or(u32::MAX) << BALANCER_BOUNDS_AT;
        let entry = Balancer { of, offset: 0, len, affinity_s: balance.affinity_s.unwrap_or(0), flags };
        let is_it = |list: &List| Balancer { offset: 0, ..list.entry } == entry && list.members == members;
        let held = self.image.ports.get(&of).into_iter().flat_map(|held| &held.lists);
        let held = held.filter_map(|id| Some((*id, self.image.lists.get(id)?)));
        let known = lists.iter().map(|(id, list)| (*id, list)).chain(held).find(|(_, list)| is_it(list));
        if let Some((id, list)) = known {
            let list = list.clone();
            lists.insert(id, list);
            return id;
        }
        let id = lowest(&mut self.step.numbers.lists);
        // An empty list lies nowhere; one that 32 bits do not number is refused for its size.
        let offset = if len == 0 { None } else { self.step.numbers.members.take(entry.entries()) };
        let list = List { entry: Balancer { offset: offset.unwrap_or_default(), ..entry }, members };
        self.step.lists.insert(id, (None, Some(list.clone())));
        lists.insert(id, list);
        id
    }

    /// What the frontends of the touched service ports have, and had.
    fn frontends(&mut self, touched: &BTreeSet<u64>) {
        let held = touched.iter().filter_map(|of| self.image.ports.get(of)).flat_map(|held| &held.frontends);
        let keys: BTreeSet<ServiceKey> = held.chain(self.words.keys()).copied().collect();
        for key in keys {
            let was = self.image.frontends.get(&key).copied();
            let words = self.words.get(&key);
            let is = words.map(|(inside, outside)| {
                let slot = was.map_or_else(|| lowest(&mut self.step.numbers.frontends), |was| was.slot);
                Held { slot, inside: *inside, outside: *outside }
            });
            if was != is {
                self.step.frontends.insert(key, (was, is));
            }
        }
        let was = self.image.any();
        self.step.any = (was, self.step.count(self.image.count).any());
    }
}

/// Where a backend is; `None` for an address that no packet has.
fn place_of(backend: &Backend) -> Option<(Address, [u8; 2])> {
    Some((prefix::address_key(backend.address)?, backend.port.to_be_bytes()))
}
