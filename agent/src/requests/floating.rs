//! Floating addresses: may a pod be attached that asks for some (`cni.projectcalico.org/floatingIPs`)?
//! In: what the pod's manifest says, what the network's configuration allows. Out: a sentence that names what is wrong.
//! Invariant: as Calico's plugin, an ADD fails rather than leave out what its pod asks for.
//! Never: refuses a pod because another has the address: that one may be about to go (`calc` says who has it).

use calc::World;
use cni::protocol::Prepare;
use model::PodId;
use std::net::IpAddr;

const ANNOTATION: &str = "the annotation cni.projectcalico.org/floatingIPs";

/// Why it cannot be prepared.
pub fn refused(world: &World, wish: &Prepare) -> Option<String> {
    let asked = world.floating_of(&wish.pod)?;
    if !wish.floating_ips {
        return Some(format!(
            "requested feature is not enabled: floating_ips; pod {} has {ANNOTATION}: say \
             \"feature_control\": {{\"floating_ips\": true}} in the CNI configuration, or take it away",
            wish.pod
        ));
    }
    let unread = asked.unread.as_ref()?;
    Some(format!("{ANNOTATION} of pod {}: {unread}", wish.pod))
}

/// Why it cannot have these addresses: one that shall float is of another family.
pub fn unmet(world: &World, pod: &PodId, own: &[IpAddr]) -> Option<String> {
    let asked = world.floating_of(pod)?;
    let is_met = |address: &&IpAddr| own.iter().any(|own| own.is_ipv4() == address.is_ipv4());
    let lost = asked.addresses.iter().find(|address| !is_met(address))?;
    let family = if lost.is_ipv4() { "IPv4" } else { "IPv6" };
    Some(format!("{ANNOTATION} of pod {pod}: {lost} cannot float to it, for it has no {family} address"))
}
