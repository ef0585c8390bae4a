//! Host ports: may a pod have those that it asks for, and has it got them?
//! In: what is asked, what others have. Out: a sentence that names the port and who has it.
//! Invariant: who has a host port keeps it until its DEL; a node port that a service has is not taken away.
//! Never: looks for processes of this node that listen there.

use super::prepare::interface_of;
use crate::{kernel::Kernel, owner::Agent};
use cni::protocol::Prepare;
use model::{AttachmentId, HostPort, PodId};
use service::{Balance, Frontend, Kind};

/// Why an attachment cannot have its host ports: another has one, or is about to.
pub fn taken<'a, K: Kernel>(
    agent: &mut Agent<K>,
    wish: &Prepare,
    others: impl Iterator<Item = &'a Prepare>,
) -> Option<String> {
    if wish.host_ports.is_empty() {
        return None;
    }
    let place = interface_of(wish);
    // Whose place it takes may still have them.
    let known = agent.journal.all().filter(|known| known.id != wish.id && known.host_interface != place);
    let known = known.map(|known| (&known.pod, &known.host_ports));
    let asked = others.filter(|other| other.id != wish.id && interface_of(other) != place);
    let asked = asked.map(|other| (&other.pod, &other.host_ports));
    let clash = |(pod, ports): (&PodId, &Vec<HostPort>)| {
        let theirs = |own: &HostPort| ports.iter().find(|port| port.meets(own));
        let (port, theirs) = wish.host_ports.iter().find_map(|own| Some((own, theirs(own)?)))?;
        Some(format!("host port {port} of pod {} is pod {pod}'s ({theirs}) as long as that is attached", wish.pod))
    };
    if let Some(text) = known.chain(asked).find_map(clash) {
        return Some(text);
    }
    let services = &agent.world.desired()?.services;
    let mut node_ports = services.iter().filter(|(_, balance)| balance.kind == Kind::NodePort);
    let is_own = |frontend: &Frontend, port: &HostPort| {
        (port.protocol, port.port) == (frontend.protocol, frontend.port) && port.is_at(frontend.address)
    };
    let (port, balance) = node_ports
        .find_map(|(frontend, balance)| Some((wish.host_ports.iter().find(|port| is_own(frontend, port))?, balance)))?;
    Some(format!("host port {port} of pod {} is a node port of the service {}", wish.pod, balance.of.service))
}

/// What of an attachment's host ports is not as it should be. `asked`: those that it should have.
pub fn missing<K: Kernel>(agent: &mut Agent<K>, id: &AttachmentId, asked: &[HostPort]) -> Option<String> {
    let known = agent.journal.get(id)?;
    if let Some(port) = asked.iter().find(|port| !known.host_ports.contains(port)) {
        return Some(format!("ADD was not asked for the host port {port}"));
    }
    if known.host_ports.is_empty() {
        return None;
    }
    let is_own = |balance: &Balance| {
        let mut to = balance.inside.chosen.iter();
        balance.kind == Kind::HostPort && to.any(|backend| known.addresses.contains(&backend.address))
    };
    let services = &agent.world.desired()?.services;
    let mut own = services.iter().filter(|(_, balance)| is_own(balance)).map(|(frontend, _)| frontend);
    let gone = own.find(|frontend| !agent.kernel.leads(frontend))?;
    Some(format!("{gone} does not lead to pod {}", known.pod))
}
