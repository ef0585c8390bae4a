//! Random host endpoints.
//! In: dice. Out: host endpoints of this node and of another, at addresses of nodes and of strangers.
//! Invariant: labels, ports and profiles are of the same few names as pods', so that rules meet them.
//! Never: an address of a pod.

use super::{ACCOUNTS, Dice, HOST_V4, HOST_V6, NAMESPACES, PORTS, strangers};
use crate::{DEFAULT_ALLOW, Failsafes};
use model::{Failsafe, HostEndpoint, HostInterface, IfaceName, NamespaceName, Profile, Protocol};
use std::net::IpAddr;

/// The interfaces of this node.
pub const INTERFACES: [&str; 2] = ["eth0", "eth1"];

impl Dice {
    /// Every other world has some.
    pub(super) fn host_endpoints(&mut self) -> Vec<HostEndpoint> {
        if self.once_in(2) {
            return Vec::new();
        }
        (0..1 + self.below(3)).map(|number| self.host_endpoint(number)).collect()
    }

    fn host_endpoint(&mut self, number: usize) -> HostEndpoint {
        let named = |name: &str| Some(HostInterface::Named(IfaceName(name.into())));
        let interface = match self.below(5) {
            0 => Some(HostInterface::Any),
            1 => None,
            2 => named("eth9"),
            _ => named(self.pick(&INTERFACES)),
        };
        let mut profiles: Vec<_> = (0..self.below(3)).map(|_| self.endpoint_profile()).collect();
        profiles.dedup();
        let fewest = usize::from(interface.is_none());
        HostEndpoint {
            name: format!("host-{number}"),
            node: self.pick(&["here", "here", "here", "there"]).into(),
            interface,
            expected_ips: (0..fewest + self.below(3)).map(|_| self.expected()).collect(),
            labels: self.labels(),
            profiles,
            ports: (0..self.below(3)).map(|_| self.named_port()).collect(),
        }
    }

    /// Few, and at ports that rules name too.
    pub(super) fn failsafes(&mut self) -> Failsafes {
        if self.once_in(3) {
            return Failsafes::default();
        }
        let mut some = || (0..self.below(3)).map(|_| self.failsafe()).collect();
        Failsafes { inbound: some(), outbound: some() }
    }

    fn failsafe(&mut self) -> Failsafe {
        let net = self.maybe(2, Self::net);
        Failsafe { protocol: self.pick(&Protocol::WITH_PORTS[..2]), port: self.pick(&PORTS), net }
    }

    fn expected(&mut self) -> IpAddr {
        let v4 = self.once_in(2);
        let own = if v4 { HOST_V4.into() } else { HOST_V6.into() };
        let [inside, near, far] = strangers(v4);
        self.pick(&[own, own, inside, near, far])
    }

    pub(super) fn endpoint_profile(&mut self) -> String {
        let of_namespace = Profile::of_namespace(&NamespaceName::from(self.pick(&NAMESPACES)));
        match self.below(5) {
            0 => DEFAULT_ALLOW.to_owned(),
            1 => "nobodys".to_owned(),
            2 => Profile::of_account(&NamespaceName::from(self.pick(&NAMESPACES)), self.pick(&ACCOUNTS)),
            _ => of_namespace,
        }
    }
}
