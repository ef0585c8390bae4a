//! Setbacks: what does not fit is put off, and the newest objects go back to what they were, so that everything else goes on.
//! In: changes of what policies and services are made of, and what became of each commit. Out: what takes them back, and later
//! such that try them again.
//! Invariant: an object that is put off is in force as it was when a revision last was; its next revision is tried at once.
//! Never: takes back what was not in force together with the rest; before a first revision is, only services are put off (`fewer`).

use calc::World;
use model::{Created, Resource, ResourceKey, ServiceId, Update};
use std::collections::BTreeMap;

/// Longest wait between two tries of one object, in ticks.
const PATIENCE_MAX: u32 = 64;

/// What is put off, and what would be next.
#[derive(Debug, Default)]
pub struct Setbacks {
    /// What changed since a revision last came into force, and what it was then.
    since: BTreeMap<ResourceKey, Option<Resource>>,
    held: BTreeMap<ResourceKey, Held>,
    /// Those that are being tried again, and how long they waited for that.
    trying: BTreeMap<ResourceKey, u32>,
    /// What is in force is all that was wanted.
    is_whole: bool,
}

/// What takes an object back to what it was.
#[derive(Clone, Debug, PartialEq)]
pub enum Back {
    /// It was this.
    To(Resource),
    /// It was not there.
    Gone(ResourceKey),
    /// A service that was not served: it stays known, so that nobody takes it for gone.
    Unserved(ServiceId),
}

impl Back {
    /// Whose it is.
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::To(before) => before.key(),
            Self::Gone(key) => key.clone(),
            Self::Unserved(id) => ResourceKey::Service(id.clone()),
        }
    }
}

/// The newest revision of an object, which does not fit.
#[derive(Debug)]
struct Held {
    newest: Update,
    reason: String,
    /// Ticks until it is tried again, of so many.
    wait: u32,
    patience: u32,
}

impl Setbacks {
    /// Before the World takes in a change.
    pub fn note(&mut self, world: &World, update: &Update) {
        let key = match update {
            Update::Set(resource) => resource.key(),
            Update::Gone(key) => key.clone(),
            Update::InSync | Update::Anew { .. } => return,
        };
        if !is_of_policies(&key) {
            return;
        }
        self.held.remove(&key);
        if makes_room(world, update) {
            self.held.values_mut().for_each(|held| (held.wait, held.patience) = (0, 1));
        }
        if self.is_whole {
            self.since.entry(key).or_insert_with_key(|key| world.resource(key).filter(|_| !is_unserved(world, key)));
        }
    }

    /// What is wanted is in force.
    pub fn in_force(&mut self) {
        self.since.clear();
        self.trying.clear();
        self.is_whole = true;
    }

    /// What is wanted does not fit. Gives what takes the newest objects back to what they were; nothing, if they are not why.
    pub fn refused(&mut self, world: &World, reason: &str) -> Vec<Back> {
        let tried = std::mem::take(&mut self.trying);
        if !std::mem::take(&mut self.is_whole) {
            return Vec::new();
        }
        let mut back = Vec::new();
        for (key, before) in std::mem::take(&mut self.since) {
            let newest = world.resource(&key).map_or_else(|| Update::Gone(key.clone()), Update::Set);
            back.push(match (before, &newest, &key) {
                (Some(before), _, _) => Back::To(before),
                (None, Update::Set(_), ResourceKey::Service(id)) => Back::Unserved(id.clone()),
                (None, _, _) => Back::Gone(key.clone()),
            });
            let patience = tried.get(&key).map_or(1, |waited| 2 * waited).min(PATIENCE_MAX);
            self.held.insert(key, Held { newest, reason: reason.to_owned(), wait: patience, patience });
        }
        back
    }

    /// These services were not in force, and are not served from now on.
    pub fn put_off(&mut self, world: &World, services: &[ServiceId], reason: &str) {
        for id in services {
            let key = ResourceKey::Service(id.clone());
            let Some(newest) = world.resource(&key).map(Update::Set) else { continue };
            self.held.insert(key, Held { newest, reason: reason.to_owned(), wait: 1, patience: 1 });
        }
    }

    /// Services of which something is put off, and why.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceId, &str)> {
        self.held.iter().filter_map(|(key, held)| {
            let id = match (key, &held.newest) {
                (ResourceKey::Service(id) | ResourceKey::ServiceAddresses(id), _) => id,
                (_, Update::Set(Resource::EndpointSlice(slice))) => slice.service.as_ref()?,
                _ => return None,
            };
            Some((id, held.reason.as_str()))
        })
    }

    /// Another tick has gone by.
    pub fn tick(&mut self) {
        self.held.values_mut().for_each(|held| held.wait = held.wait.saturating_sub(1));
    }

    /// What to try again now, as if it were said anew: one object, or so many services, the oldest first.
    pub fn due(&mut self, services_max: usize) -> Vec<Update> {
        let due = self.held.iter().filter(|(_, held)| self.is_whole && held.wait == 0);
        let mut due: Vec<_> = due.map(|(key, held)| (age(&held.newest), key.clone())).collect();
        due.sort();
        let count = if due.first().is_some_and(|(age, _)| age.is_some()) { services_max } else { 1 };
        due.truncate(count);
        let taken = due.into_iter().filter_map(|(_, key)| {
            let held = self.held.remove(&key)?;
            self.trying.insert(key, held.patience);
            Some(held.newest)
        });
        taken.collect()
    }

    /// Whether what is wanted now was put off before.
    pub fn is_trying(&self) -> bool {
        !self.trying.is_empty()
    }

    /// What is put off, and why.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (&ResourceKey, &str)> {
        self.held.iter().map(|(key, held)| (key, held.reason.as_str()))
    }
}

/// Of services: when they were made.
fn age(newest: &Update) -> Option<Created> {
    match newest {
        Update::Set(Resource::Service(service)) => Some(service.created),
        _ => None,
    }
}

fn is_unserved(world: &World, key: &ResourceKey) -> bool {
    matches!(key, ResourceKey::Service(id) if world.is_put_off(id))
}

/// Whether there may be room once this is so.
fn makes_room(world: &World, update: &Update) -> bool {
    match update {
        Update::Gone(_) => true,
        Update::Set(Resource::EndpointSlice(slice)) => {
            let before = world.resource(&ResourceKey::EndpointSlice(slice.id.clone()));
            matches!(before, Some(Resource::EndpointSlice(before)) if before.endpoints.len() > slice.endpoints.len())
        }
        _ => false,
    }
}

/// What rule sets, classes and services are made of beside pods, namespaces and nodes, which are what they are.
fn is_of_policies(key: &ResourceKey) -> bool {
    match key {
        ResourceKey::Policy(_)
        | ResourceKey::Tier(_)
        | ResourceKey::NetworkSet(_)
        | ResourceKey::Service(_)
        | ResourceKey::ServiceAddresses(_)
        | ResourceKey::EndpointSlice(_)
        | ResourceKey::Profile(_) => true,
        ResourceKey::Pod(_)
        | ResourceKey::Namespace(_)
        | ResourceKey::Node(_)
        | ResourceKey::ServiceAccount(..)
        | ResourceKey::HostEndpoint(_)
        | ResourceKey::FelixConfiguration(_)
        | ResourceKey::BgpConfiguration(_)
        | ResourceKey::BgpPeer(_)
        | ResourceKey::BgpFilter(_)
        | ResourceKey::IpPool(_)
        | ResourceKey::IpReservation(_)
        | ResourceKey::IpamConfig(_)
        | ResourceKey::BlockClaim(_)
        | ResourceKey::NodeVteps(_)
        | ResourceKey::NodeAddresses(_)
        | ResourceKey::WorkloadAddress(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Order, Tier, TierEnd};
    use std::path::Path;

    fn tier(name: &str, order: f64) -> Update {
        Update::Set(Resource::Tier(Tier { name: name.into(), order: Order::At(order), end: TierEnd::Deny }))
    }

    fn to(name: &str, order: f64) -> Back {
        match tier(name, order) {
            Update::Set(before) => Back::To(before),
            other => panic!("{other:?}"),
        }
    }

    fn gone(name: &str) -> Update {
        Update::Gone(ResourceKey::Tier(name.into()))
    }

    /// Takes in what takes back.
    fn back(world: &mut World, back: Vec<Back>) {
        for back in back {
            match back {
                Back::To(before) => world.apply(Update::Set(before)),
                Back::Gone(key) => world.apply(Update::Gone(key)),
                Back::Unserved(id) => world.set_served(&id, false),
            };
        }
    }

    fn learn(setbacks: &mut Setbacks, world: &mut World, update: Update) {
        setbacks.note(world, &update);
        world.apply(update);
    }

    /// A World in which tier a is in force.
    fn started() -> (Setbacks, World) {
        let (mut setbacks, mut world) = (Setbacks::default(), World::new("here".into(), false));
        learn(&mut setbacks, &mut world, tier("a", 1.0));
        setbacks.in_force();
        (setbacks, world)
    }

    #[test]
    fn before_a_first_revision_is_in_force_nothing_is_taken_back() {
        let (mut setbacks, mut world) = (Setbacks::default(), World::new("here".into(), false));
        learn(&mut setbacks, &mut world, tier("a", 1.0));
        assert_eq!(setbacks.refused(&world, "full"), []);
        assert_eq!(setbacks.held().len(), 0);
    }

    #[test]
    fn what_does_not_fit_goes_back_to_what_it_was_when_it_last_did() {
        let (mut setbacks, mut world) = started();
        for update in [tier("a", 2.0), tier("a", 3.0), tier("b", 1.0)] {
            learn(&mut setbacks, &mut world, update);
        }
        assert_eq!(setbacks.refused(&world, "full"), [to("a", 1.0), Back::Gone(ResourceKey::Tier("b".into()))]);
        let held: Vec<_> = setbacks.held().map(|(key, why)| (key.to_string(), why)).collect();
        assert_eq!(held, [("Tier a".to_owned(), "full"), ("Tier b".to_owned(), "full")]);
        // Refused again: they were not why.
        assert_eq!(setbacks.refused(&world, "full"), []);
    }

    #[test]
    fn it_is_tried_again_less_and_less_often_and_at_once_when_something_goes() {
        let (mut setbacks, mut world) = started();
        learn(&mut setbacks, &mut world, tier("b", 1.0));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let backwards = setbacks.refused(&world, "full");
            back(&mut world, backwards);
            setbacks.in_force();
            let mut ticks = 0;
            let again = loop {
                ticks += 1;
                setbacks.tick();
                if let [again] = &setbacks.due(8)[..] {
                    break again.clone();
                }
            };
            waits.push(ticks);
            assert_eq!(again, tier("b", 1.0));
            learn(&mut setbacks, &mut world, again);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        let backwards = setbacks.refused(&world, "full");
        back(&mut world, backwards);
        setbacks.in_force();
        learn(&mut setbacks, &mut world, gone("a"));
        assert_eq!(setbacks.due(1), [tier("b", 1.0)]);
    }

    #[test]
    fn a_newer_revision_takes_the_place_of_the_one_that_is_put_off() {
        let (mut setbacks, mut world) = started();
        learn(&mut setbacks, &mut world, tier("a", 9.0));
        let backwards = setbacks.refused(&world, "full");
        back(&mut world, backwards);
        setbacks.in_force();
        learn(&mut setbacks, &mut world, tier("a", 2.0));
        assert_eq!(setbacks.held().len(), 0);
        assert_eq!(setbacks.refused(&world, "full"), [to("a", 1.0)]);
    }

    fn service(name: &str, year: u32) -> (ServiceId, Update) {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{namespace: x, name: {name}, creationTimestamp: \
             '{year}-01-01T00:00:00Z'}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
        );
        let told = datastore::snapshot::file(Path::new("s.yaml"), &text).expect("a service").remove(0);
        (ServiceId { namespace: "x".into(), name: name.into() }, Update::Set(told))
    }

    fn slice(endpoints: usize) -> Update {
        let ends: String = (0..endpoints).map(|end| format!("{{addresses: ['10.0.0.{end}']}}, ")).collect();
        let text = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{namespace: x, name: s, labels: \
             {{kubernetes.io/service-name: b}}}}, addressType: IPv4, endpoints: [{ends}], ports: [{{port: 80}}]}}"
        );
        Update::Set(datastore::snapshot::file(Path::new("s.yaml"), &text).expect("a slice").remove(0))
    }

    #[test]
    fn a_service_that_never_fitted_stays_known_and_waits_and_the_oldest_comes_first() {
        let (mut setbacks, mut world) = started();
        let ((a, young), (b, old)) = (service("a", 2009), service("b", 2001));
        learn(&mut setbacks, &mut world, young.clone());
        learn(&mut setbacks, &mut world, old.clone());
        let backwards = setbacks.refused(&world, "full");
        assert_eq!(backwards, [Back::Unserved(a.clone()), Back::Unserved(b.clone())]);
        back(&mut world, backwards);
        setbacks.in_force();
        assert!(world.service(&a).is_some() && world.is_put_off(&a));
        assert_eq!(setbacks.services().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [a.clone(), b.clone()]);
        setbacks.tick();
        assert_eq!(setbacks.due(1), vec![old.clone()]);
        world.set_served(&b, true);
        learn(&mut setbacks, &mut world, old);
        setbacks.in_force();
        // Told anew it is what never fitted, whatever it was then.
        learn(&mut setbacks, &mut world, service("a", 2008).1);
        assert_eq!(setbacks.refused(&world, "full"), [Back::Unserved(a)]);
    }

    #[test]
    fn a_slice_of_less_endpoints_makes_room_and_one_of_more_does_not() {
        let (mut setbacks, mut world) = started();
        let (a, _) = service("a", 2009);
        learn(&mut setbacks, &mut world, service("a", 2009).1);
        learn(&mut setbacks, &mut world, slice(2));
        setbacks.in_force();
        setbacks.put_off(&world, &[a], "full");
        for (endpoints, due) in [(3, 0), (3, 0), (2, 1)] {
            learn(&mut setbacks, &mut world, slice(endpoints));
            setbacks.in_force();
            assert_eq!(setbacks.due(1).len(), due, "{endpoints}");
        }
    }

    #[test]
    fn while_something_else_does_not_fit_nothing_is_taken_back_or_tried() {
        let (mut setbacks, mut world) = started();
        learn(&mut setbacks, &mut world, tier("b", 1.0));
        assert_eq!(setbacks.refused(&world, "full").len(), 1);
        // Pods have come meanwhile, and now not even the former objects fit.
        assert_eq!(setbacks.refused(&world, "full"), []);
        learn(&mut setbacks, &mut world, tier("a", 5.0));
        assert_eq!(setbacks.refused(&world, "full"), [], "it may be the one that makes room");
        setbacks.tick();
        assert_eq!(setbacks.due(1), []);
    }
}
