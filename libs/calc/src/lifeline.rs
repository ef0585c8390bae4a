//! Lifeline: the API server's own service keeps the backends that it had last, when it is told that it has none.
//! In: updates, in the order in which they are told. Out: those that are taken in now.
//! Invariant: what is held back is taken in once it leaves somebody usable, or the service is gone.
//! Never: holds for another service than default/kubernetes, by which the agent itself may have to hear that it was wrong.

use crate::World;
use model::{EndpointSlice, EndpointSliceId, Family, Resource, ResourceKey, ServiceId, Update};
use service::{About, Remark};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What is held back: slices as they were told last; `None`: gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifeline(BTreeMap<EndpointSliceId, Option<Arc<EndpointSlice>>>);

fn api_server() -> ServiceId {
    ServiceId { namespace: "default".into(), name: "kubernetes".to_owned() }
}

fn is_of_api_server(slice: &EndpointSlice) -> bool {
    slice.service.as_ref().is_some_and(|id| id.name == "kubernetes" && *id.namespace.0 == *"default")
}

/// Families in which a slice has somebody to send to.
fn usable(slice: &EndpointSlice) -> impl Iterator<Item = Family> {
    let is_proxied = !slice.unproxied;
    let usable = slice.endpoints.iter().filter(move |end| is_proxied && (end.ready || end.serving));
    usable.map(|end| Family::of(end.address))
}

impl World {
    /// What the writers of its slices should know.
    pub(crate) fn lifeline_remark(&self) -> Option<(&ServiceId, Remark)> {
        let (id, _) = self.services.get_key_value(&api_server()).filter(|_| !self.lifeline.0.is_empty())?;
        let said = "its EndpointSlices leave it without a usable endpoint; it keeps those that it had last";
        Some((id, Remark::new(About::HeldBack, said)))
    }

    /// What is taken in now, on hearing this.
    pub(crate) fn admit(&mut self, update: Update) -> Vec<Update> {
        let told = match &update {
            Update::Set(Resource::EndpointSlice(slice)) => Some((slice.id.clone(), Some(Arc::clone(slice)))),
            Update::Gone(ResourceKey::EndpointSlice(id)) => Some((id.clone(), None)),
            Update::Gone(ResourceKey::Service(id)) if *id == api_server() => {
                let held = std::mem::take(&mut self.lifeline.0).into_iter().map(as_update);
                return held.chain([update]).collect();
            }
            _ => None,
        };
        let Some((id, told)) = told else { return vec![update] };
        let known = self.slices.get(&id);
        if !known.into_iter().chain(&told).any(|slice| is_of_api_server(slice)) {
            return vec![update];
        }
        self.lifeline.0.insert(id, told);
        self.release()
    }

    /// What can be taken in of all that is held: one that leaves each family that had somebody with somebody. A family that
    /// has to wait holds no other up.
    fn release(&mut self) -> Vec<Update> {
        let now: BTreeSet<Family> =
            self.slices.values().filter(|slice| is_of_api_server(slice)).flat_map(|slice| usable(slice)).collect();
        let then: BTreeSet<Family> = self.as_told().flat_map(usable).collect();
        let lost: BTreeSet<Family> = now.difference(&then).copied().collect();
        let waits = |id: &EndpointSliceId| {
            self.slices.get(id).is_some_and(|slice| usable(slice).any(|family| lost.contains(&family)))
        };
        let (held, free) = std::mem::take(&mut self.lifeline.0).into_iter().partition(|(id, _)| waits(id));
        self.lifeline.0 = held;
        free.into_iter().map(as_update).collect()
    }

    /// Its slices, if everything were taken in.
    fn as_told(&self) -> impl Iterator<Item = &EndpointSlice> {
        let held = &self.lifeline.0;
        let others = self.slices.values().filter(|slice| !held.contains_key(&slice.id));
        others.chain(held.values().flatten()).map(|slice| &**slice).filter(|slice| is_of_api_server(slice))
    }
}

fn as_update((id, told): (EndpointSliceId, Option<Arc<EndpointSlice>>)) -> Update {
    match told {
        Some(slice) => Update::Set(Resource::EndpointSlice(slice)),
        None => Update::Gone(ResourceKey::EndpointSlice(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Live;
    use model::{Service, ServiceKind, SliceEndpoint};

    fn slice(name: &str, service: &str, endpoints: &[(&str, bool)]) -> Update {
        let id = EndpointSliceId { namespace: "default".into(), name: name.to_owned() };
        let endpoint = |(address, ready): &(&str, bool)| SliceEndpoint {
            ready: *ready,
            serving: *ready,
            ..SliceEndpoint::ready_at(address.parse().expect("an address"))
        };
        let service = Some(ServiceId { namespace: "default".into(), name: service.to_owned() });
        let endpoints = endpoints.iter().map(endpoint).collect();
        Update::Set(Resource::EndpointSlice(
            EndpointSlice { id, service, endpoints, ports: [].into(), unproxied: false }.into(),
        ))
    }

    fn gone(name: &str) -> Update {
        Update::Gone(ResourceKey::EndpointSlice(EndpointSliceId { namespace: "default".into(), name: name.to_owned() }))
    }

    /// Addresses that are ready, and whether something is held back.
    fn left(world: &World) -> (Vec<String>, bool) {
        let ends = world.slices.values().flat_map(|slice| slice.endpoints.iter().filter(|end| end.ready));
        (ends.map(|end| end.address.to_string()).collect(), !world.lifeline.0.is_empty())
    }

    const API: &str = "kubernetes";

    fn api() -> Service {
        Service { cluster_ips: vec![[10, 96, 0, 1].into()], ..Service::bare(api_server(), ServiceKind::ClusterIp) }
    }

    #[test]
    fn the_api_servers_service_never_loses_its_last_backend() {
        let a = || slice("a", API, &[("10.0.0.1", true)]);
        let rows: [(&str, Vec<Update>, &[&str], bool); 12] = [
            ("told of nobody from the beginning", vec![slice("a", API, &[])], &[], false),
            ("nobody any more", vec![a(), slice("a", API, &[])], &["10.0.0.1"], true),
            ("gone", vec![a(), gone("a")], &["10.0.0.1"], true),
            ("not ready", vec![a(), slice("a", API, &[("10.0.0.1", false)])], &["10.0.0.1"], true),
            ("of another service", vec![a(), slice("a", "other", &[("10.0.0.2", true)])], &["10.0.0.1"], true),
            ("another", vec![a(), slice("a", API, &[("10.0.0.2", true)])], &["10.0.0.2"], false),
            (
                "nobody, then another",
                vec![a(), gone("a"), slice("a", API, &[("10.0.0.2", true)])],
                &["10.0.0.2"],
                false,
            ),
            (
                "another slice has somebody",
                vec![a(), slice("b", API, &[("10.0.0.2", true)]), gone("a")],
                &["10.0.0.2"],
                false,
            ),
            (
                "another slice comes later",
                vec![a(), gone("a"), slice("b", API, &[("10.0.0.2", true)])],
                &["10.0.0.2"],
                false,
            ),
            (
                "the other family waits for nobody",
                vec![a(), slice("b", API, &[("fd00::1", true)]), gone("a"), slice("b", API, &[("fd00::2", true)])],
                &["10.0.0.1", "fd00::2"],
                true,
            ),
            (
                "the other family is no comfort",
                vec![a(), slice("b", API, &[("fd00::1", true)]), gone("a")],
                &["10.0.0.1", "fd00::1"],
                true,
            ),
            ("another service loses all", vec![slice("a", "other", &[("10.0.0.1", true)]), gone("a")], &[], false),
        ];
        for (what, told, backends, held) in rows {
            let mut world = World::new("n".into(), false);
            let mut live = Live::new("n".into(), false);
            for update in told {
                live.apply(update.clone());
                world.apply(update);
            }
            let wanted = (backends.iter().map(|text| (*text).to_owned()).collect(), held);
            assert_eq!(left(&world), wanted, "{what}");
            assert_eq!(left(&live), wanted, "{what}, kept");
        }
    }

    #[test]
    fn who_writes_its_slices_is_told() {
        let mut live = Live::new("n".into(), false);
        live.apply(Update::Set(Resource::Service(api().into())));
        for update in [slice("a", API, &[("10.0.0.1", true)]), gone("a")] {
            live.apply(update);
        }
        live.apply(Update::InSync);
        live.desired();
        let said: Vec<_> = live.service_remarks().into_values().flatten().collect();
        assert!(said.iter().any(|said| said.text.contains("keeps those that it had last")), "{said:?}");
        assert_eq!(World::service_remarks(&live).into_values().flatten().collect::<Vec<_>>(), said);
    }

    #[test]
    fn with_the_service_goes_what_was_held_for_it() {
        let mut world = World::new("n".into(), false);
        world.apply(slice("a", API, &[("10.0.0.1", true)]));
        world.apply(gone("a"));
        world.apply(Update::Gone(ResourceKey::Service(api_server())));
        assert_eq!(left(&world), (Vec::new(), false));
    }
}
