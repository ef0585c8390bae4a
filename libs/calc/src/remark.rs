//! Remarks: policies, host endpoints and pods' profiles that can be read and do not do what their writer may think.
//! In: [`World`]. Out: one line each, for the status.
//! Invariant: what is remarked on is enforced all the same, in its restrictive reading.
//! Never: a remark on what the datastore has already refused or found unreadable.

use crate::{
    World, host,
    workload::{Workload, workload},
};
use model::{HostEndpoint, HostInterface, Layer, Policy, Profile, Tier};
use policy::EndpointProfile;
use std::collections::BTreeSet;

impl World {
    /// What the writers of policies should know, asked of every policy; [`crate::Live`] keeps it.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        self.policies.values().flat_map(|policy| self.remarks_on(policy)).collect()
    }

    /// What the writer of this policy should know.
    pub(crate) fn remarks_on(&self, policy: &Policy) -> Vec<String> {
        let Policy { id, tier, .. } = policy;
        let is_made = self.tiers.contains_key(tier) || Tier::built_in().iter().any(|made| made.name == *tier);
        let lost = || {
            format!(
                "{id}: there is no tier {tier}; until there is, it is asked after all others, and what no rule matches is denied"
            )
        };
        (!is_made).then(lost).into_iter().collect()
    }
}

impl World {
    /// What the writers of this node's host endpoints should know, worked out whenever it is asked.
    #[must_use]
    pub fn host_remarks(&self) -> Vec<String> {
        let own = host::own(self);
        let governors = host::governed(self, &own).into_values().map(|host| &host.name).collect();
        own.into_iter().flat_map(|host| self.remarks_on_host(host, &governors)).collect()
    }

    fn remarks_on_host(&self, host: &HostEndpoint, governors: &BTreeSet<&String>) -> Vec<String> {
        let said = |what: String| format!("HostEndpoint {}: {what}", host.name);
        let missing = host.profiles.iter().find(|name| host::profile(self, name).is_none());
        let missing = missing.map(|name| format!("there is no profile {name}, and what comes to it is denied"));
        let idle = if governors.contains(&host.name) { None } else { Some(self.guards_nothing(host)) };
        [idle, missing].into_iter().flatten().chain(self.left_out(host)).map(said).collect()
    }

    fn guards_nothing(&self, host: &HostEndpoint) -> String {
        let meant: Vec<_> = self.interfaces.iter().filter(|(name, own)| host::means(host, name, own)).collect();
        match (&host.interface, &meant[..]) {
            (Some(HostInterface::Any), _) => "others guard all interfaces of this node".to_owned(),
            (Some(HostInterface::Named(name)), []) => format!("this node has no interface {name}; it guards nothing"),
            (None, []) => "no interface of this node has an address that it expects; it guards nothing".to_owned(),
            (_, [(name, _), ..]) => format!("another one, whose name comes first, guards {name}"),
        }
    }

    /// Policies that are not asked at a host endpoint of all interfaces.
    fn left_out(&self, host: &HostEndpoint) -> Vec<String> {
        if !host::is_of_all(host) {
            return Vec::new();
        }
        let raw = self.policies().filter(|policy| policy.layer == Layer::Untracked && policy.stage.is_none());
        let raw = raw.filter(|policy| policy.subject.matches(&host::labels(host)).possibly());
        let why = "is not asked, as doNotTrack policies are at named interfaces alone";
        raw.map(|policy| format!("{} {why}", policy.id)).collect()
    }
}

impl World {
    /// What the writers of pods that are attached here should know of their profiles, worked out whenever it is asked.
    #[must_use]
    pub fn profile_remarks(&self) -> Vec<String> {
        let own = self.attached.keys().filter_map(|id| workload(self, id)).filter(|own| !own.attachments.is_empty());
        own.filter_map(|own| self.lacking(&own)).collect()
    }

    /// The first of its profiles that is not there, unless one before it lets everything through.
    fn lacking(&self, pod: &Workload<'_>) -> Option<String> {
        let denied = "what no policy allows is denied";
        let mut named = pod.named?.iter().peekable();
        if named.peek().is_none() {
            let own = Profile::of_namespace(&pod.id.namespace);
            let lack = if host::profile(self, &own).is_none() {
                format!("there is no profile {own}")
            } else {
                "it names no profile".to_owned()
            };
            return Some(format!("Pod {}: {lack}, and {denied}", pod.id));
        }
        for name in named {
            match host::profile(self, name) {
                Some(EndpointProfile::AllowsAll(_)) => return None,
                Some(_) => {}
                None => return Some(format!("Pod {}: there is no profile {name}, and {denied}", pod.id)),
            }
        }
        None
    }
}
