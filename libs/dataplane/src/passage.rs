//! A packet's whole way through this node, asked twin by twin: its sender's hook, and the gates it passes.
//! In: a [`Question`]. Out: what the hook's twin says, and what each host endpoint on the way does.
//! Invariant: twins are asked in the order in which the live programs see the packet; the first refusal is the last answer.
//! Never: asks a gate that has no host endpoint in force; writes.

use crate::{
    GateAnswer, Origin, Question, TwinAnswer, TwinError, frame, links::Links, network::KernelNetwork, programs::Hook,
    reconcile::Reconciler, tables::KernelStore, twin,
};
use abi::{Answer, Outcome, endpoint::GATEWAY_MAC, rules::HIT_NONE};
use model::{Direction, IfaceName, Ifindex, Mac};
use netlink::{Link, Socket};
use policy::{Decider, Hit, Verdict};

type Node = Reconciler<KernelNetwork, Links, KernelStore>;

/// Whoever sends a frame that comes in: nobody we know.
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0]);

/// Asks.
///
/// # Errors
/// The endpoint or interface is not there, or the kernel cannot run a twin.
pub fn explain(node: &Node, uplink: Option<&IfaceName>, question: &Question) -> Result<TwinAnswer, TwinError> {
    match &question.from {
        Origin::Pod(id) => {
            let slot = node.tables.names().endpoints.get(id);
            let entry = slot.and_then(|slot| node.tables.image().endpoints.get(slot));
            let entry = entry.ok_or_else(|| TwinError::NoEndpoint(id.clone()))?;
            let frame = frame::of(question, Mac(entry.mac), Mac(GATEWAY_MAC))?;
            let mut told = hook(node, Hook::FromWorkload, entry.ifindex, &frame)?;
            if let Outcome::ToInterface(out) = told.answer.outcome {
                told.gates.extend(gate(node, Direction::Egress, (entry.ifindex, out), &frame)?);
            }
            Ok(told)
        }
        Origin::Outside(by) => {
            let link = interface(by.as_ref(), uplink)?;
            let index = link.index.0;
            // What is not sent to the interface's own MAC is none of ours.
            let frame = frame::of(question, STRANGER, link.mac.unwrap_or(Mac([0; 6])))?;
            let first = gate(node, Direction::Ingress, (index, index), &frame)?;
            let is_refused = first.as_ref().is_some_and(|gate| matches!(gate.answer.outcome, Outcome::Drop(_)));
            let is_uplink = uplink == Some(&link.name);
            let mut told = match is_uplink && !is_refused {
                true => hook(node, Hook::FromUplink, index, &frame)?,
                false => unasked(node, Outcome::ToHost),
            };
            told.gates.extend(first);
            Ok(TwinAnswer { by_uplink: is_uplink, ..told })
        }
        Origin::Node(out) => {
            let link = interface(out.as_ref(), uplink)?;
            let frame = frame::of(question, link.mac.unwrap_or(Mac([0; 6])), STRANGER)?;
            let mut told = unasked(node, Outcome::ToInterface(link.index.0));
            told.gates.extend(gate(node, Direction::Egress, (0, link.index.0), &frame)?);
            Ok(told)
        }
    }
}

fn hook(node: &Node, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<TwinAnswer, TwinError> {
    let answer = twin::ask(node.guards.programs(), hook, (ifindex, ifindex), frame)?;
    let egress = meaning(node, answer.egress_hit, Direction::Egress);
    let ingress = meaning(node, answer.ingress_hit, Direction::Ingress);
    Ok(TwinAnswer { answer, egress, ingress, gates: Vec::new(), by_uplink: false })
}

/// What becomes of a packet that no hook of a pod sees.
fn unasked(node: &Node, outcome: Outcome) -> TwinAnswer {
    #[expect(clippy::cast_possible_truncation, reason = "an answer has the low 32 bits")]
    let generation = node.tables.image().generation as u32;
    let answer = Answer { outcome, egress_hit: None, ingress_hit: None, tracked: false, generation };
    TwinAnswer { answer, egress: None, ingress: None, gates: Vec::new(), by_uplink: false }
}

/// What the host endpoint of an interface says, if it has one in force: of a packet that came by `by` and is at `at`.
fn gate(
    node: &Node,
    direction: Direction,
    (by, at): (u32, u32),
    frame: &[u8],
) -> Result<Option<GateAnswer>, TwinError> {
    let slot_at = |index| node.tables.image().interfaces.get(&index);
    let mut served = node.tables.names().hosts.iter();
    let Some((interface, _)) = served.find(|(_, slot)| Some(*slot) == slot_at(at)) else { return Ok(None) };
    let (hook, by) = match direction {
        Direction::Ingress => (Hook::FromHostEndpoint, at),
        Direction::Egress => (Hook::ToHostEndpoint, by),
    };
    let answer = twin::ask(node.guards.programs(), hook, (by, at), frame)?;
    let hit = match direction {
        Direction::Ingress => answer.ingress_hit,
        Direction::Egress => answer.egress_hit,
    };
    let name = node.hosts.get(interface).map(|spec| spec.name.clone()).unwrap_or_default();
    let decider = meaning(node, hit, direction).map(|hit| hit.decider);
    Ok(Some(GateAnswer { interface: interface.clone(), name, direction, answer, decider }))
}

fn meaning(node: &Node, hit: Option<u32>, direction: Direction) -> Option<Hit> {
    match hit? {
        HIT_NONE => Some(Hit::new(Verdict::Allow, Decider::NoPolicy(direction))),
        hit => node.tables.names().hit(hit).cloned(),
    }
}

fn interface(named: Option<&IfaceName>, uplink: Option<&IfaceName>) -> Result<Link, TwinError> {
    let name = named.or(uplink).ok_or(TwinError::NoUplink)?;
    let link = Socket::open().and_then(|mut socket| socket.link(name)).ok().flatten();
    link.filter(|link| link.index != Ifindex(0)).ok_or_else(|| TwinError::NoInterface(name.clone()))
}
