//! Setbacks: what does not fit is put off, and the newest objects go back to what they were, so that everything else goes on.
//! In: changes of what policies are made of, and what became of each commit. Out: changes that take them back, and later such
//! that try them again.
//! Invariant: an object that is put off is in force as it was when a revision last was; its next revision is tried at once.
//! Never: takes back what was not in force together with the rest; before a first revision is, nothing is put off.

use calc::World;
use model::{Resource, ResourceKey, Update};
use std::collections::BTreeMap;

/// Longest wait between two tries of one object, in ticks.
const PATIENCE_MAX: u32 = 64;

/// What is put off, and what would be next.
#[derive(Debug, Default)]
pub struct Setbacks {
    /// What changed since a revision last came into force, and what it was then.
    since: BTreeMap<ResourceKey, Option<Resource>>,
    held: BTreeMap<ResourceKey, Held>,
    /// The one that is being tried again, and how long it waited for that.
    trying: Option<(ResourceKey, u32)>,
    /// What is in force is all that was wanted.
    is_whole: bool,
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
            Update::InSync => return,
        };
        if !is_of_policies(&key) {
            return;
        }
        self.held.remove(&key);
        if matches!(update, Update::Gone(_)) {
            // There may be room now.
            self.held.values_mut().for_each(|held| (held.wait, held.patience) = (0, 1));
        }
        if self.is_whole {
            self.since.entry(key).or_insert_with_key(|key| world.resource(key));
        }
    }

    /// What is wanted is in force.
    pub fn in_force(&mut self) {
        self.since.clear();
        self.trying = None;
        self.is_whole = true;
    }

    /// What is wanted does not fit. Gives what takes the newest objects back to what they were; nothing, if they are not why.
    pub fn refused(&mut self, world: &World, reason: &str) -> Vec<Update> {
        let tried = self.trying.take();
        if !std::mem::take(&mut self.is_whole) {
            return Vec::new();
        }
        let mut back = Vec::new();
        for (key, before) in std::mem::take(&mut self.since) {
            let or_gone = |resource: Option<Resource>| resource.map_or_else(|| Update::Gone(key.clone()), Update::Set);
            let newest = or_gone(world.resource(&key));
            back.push(or_gone(before));
            let patience = tried.as_ref().filter(|(tried, _)| *tried == key).map_or(1, |(_, waited)| 2 * waited);
            let patience = patience.min(PATIENCE_MAX);
            self.held.insert(key, Held { newest, reason: reason.to_owned(), wait: patience, patience });
        }
        back
    }

    /// Another tick has gone by.
    pub fn tick(&mut self) {
        self.held.values_mut().for_each(|held| held.wait = held.wait.saturating_sub(1));
    }

    /// What to try again now, as if it were said anew.
    pub fn due(&mut self) -> Option<Update> {
        let (key, _) = self.held.iter().filter(|_| self.is_whole).find(|(_, held)| held.wait == 0)?;
        let key = key.clone();
        let held = self.held.remove(&key)?;
        self.trying = Some((key, held.patience));
        Some(held.newest)
    }

    /// Whether what is wanted now was put off before.
    pub fn is_trying(&self) -> bool {
        self.trying.is_some()
    }

    /// What is put off, and why.
    pub fn held(&self) -> impl Iterator<Item = (String, &str)> {
        self.held.iter().map(|(key, held)| (key.to_string(), held.reason.as_str()))
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
        | ResourceKey::IpPool(_)
        | ResourceKey::WorkloadAddress(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Order, Tier, TierEnd};

    fn tier(name: &str, order: f64) -> Update {
        Update::Set(Resource::Tier(Tier { name: name.into(), order: Order::At(order), end: TierEnd::Deny }))
    }

    fn gone(name: &str) -> Update {
        Update::Gone(ResourceKey::Tier(name.into()))
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
        assert_eq!(setbacks.held().count(), 0);
    }

    #[test]
    fn what_does_not_fit_goes_back_to_what_it_was_when_it_last_did() {
        let (mut setbacks, mut world) = started();
        for update in [tier("a", 2.0), tier("a", 3.0), tier("b", 1.0)] {
            learn(&mut setbacks, &mut world, update);
        }
        assert_eq!(setbacks.refused(&world, "full"), [tier("a", 1.0), gone("b")]);
        let held: Vec<_> = setbacks.held().collect();
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
            for back in setbacks.refused(&world, "full") {
                world.apply(back);
            }
            setbacks.in_force();
            let mut ticks = 0;
            let again = loop {
                ticks += 1;
                setbacks.tick();
                if let Some(again) = setbacks.due() {
                    break again;
                }
            };
            waits.push(ticks);
            assert_eq!(again, tier("b", 1.0));
            learn(&mut setbacks, &mut world, again);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        for back in setbacks.refused(&world, "full") {
            world.apply(back);
        }
        setbacks.in_force();
        learn(&mut setbacks, &mut world, gone("a"));
        assert_eq!(setbacks.due(), Some(tier("b", 1.0)));
    }

    #[test]
    fn a_newer_revision_takes_the_place_of_the_one_that_is_put_off() {
        let (mut setbacks, mut world) = started();
        learn(&mut setbacks, &mut world, tier("a", 9.0));
        for back in setbacks.refused(&world, "full") {
            world.apply(back);
        }
        setbacks.in_force();
        learn(&mut setbacks, &mut world, tier("a", 2.0));
        assert_eq!(setbacks.held().count(), 0);
        assert_eq!(setbacks.refused(&world, "full"), [tier("a", 1.0)]);
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
        assert_eq!(setbacks.due(), None);
    }
}
