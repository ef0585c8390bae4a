//! Prepare: addresses and names for pods that are about to be wired.
//! In: all prepares of a batch. Out: how to wire each, or why not.
//! Invariant: recorded before it is written, written before it is answered; repeating it gives the same answer.
//! Never: puts anything in force.

use super::{INVALID_CONFIG, TRY_AGAIN, Waiting, answer, fault, floating, named, ports};
use crate::{
    allocate::{AllocateError, Wish},
    kernel::Kernel,
    owner::Agent,
};
use cni::protocol::{Answer, Fault, Prepare, Prepared, Reply};
use datastore::{Described, ObjectError};
use ipam::AssignError;
use model::{Attachment, AttachmentId, Cidr, Family, IfaceName, Mac, PodAsks, PodId};
use std::{
    net::IpAddr,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

/// After the asker's deadline, before its prepare counts as abandoned: time to abort by itself.
const GRACE: Duration = Duration::from_secs(60);

/// One prepare and its way back.
pub struct Ask {
    /// What is wanted.
    pub prepare: Prepare,
    /// What its pod asks of its addresses.
    pub asks: PodAsks,
    /// When the asker gives up.
    pub deadline: Instant,
    /// To whom.
    pub reply: SyncSender<Reply>,
}

/// Serves all prepares by one decision about addresses. What a new container displaced is finished after the apply.
pub fn all<K: Kernel>(agent: &mut Agent<K>, asks: Vec<Ask>) -> Vec<Waiting> {
    let mut displaced = Vec::new();
    let mut open = Vec::new();
    for mut ask in described(agent, asks) {
        // What the runtime says by itself comes first, what its configuration says last.
        ask.prepare.mac = ask.prepare.mac.or(ask.asks.mac);
        ask.asks = with_configuration(ask.asks, &ask.prepare);
        match admit(agent, &ask, &open) {
            Ok(Admitted::Known(prepared)) => {
                // Who asks again has it anew.
                if let Some(end) = agent.abandoned.get_mut(&ask.prepare.id) {
                    *end = ask.deadline + GRACE;
                }
                answer(&ask.reply, Ok(Answer::Prepared(prepared)));
            }
            Ok(Admitted::New(networks)) => {
                displaced.extend(displace(agent, &ask.prepare.id, &interface_of(&ask.prepare)));
                agent.abandoned.insert(ask.prepare.id.clone(), ask.deadline + GRACE);
                if ask.prepare.delegated {
                    answer(&ask.reply, expect(agent, &ask.prepare, networks));
                } else if named::are_had(&ask.prepare, &ask.asks) {
                    let taken = named::take(agent, &ask.prepare, &ask.asks.named);
                    answer(&ask.reply, conclude(agent, &ask.prepare, taken));
                } else {
                    open.push(ask);
                }
            }
            Err(fault) => answer(&ask.reply, Err(fault)),
        }
    }
    if !open.is_empty() {
        assign(agent, open);
    }
    displaced
}

/// With what is known of their pods, where somebody can be asked, and with what those ask of their addresses. Those that could not be
/// asked for are answered.
fn described<K: Kernel>(agent: &Agent<K>, asks: Vec<Ask>) -> Vec<Ask> {
    let pods: Vec<_> = asks.iter().map(|ask| (ask.prepare.pod.clone(), is_heard(agent, &ask.prepare.pod))).collect();
    let described = agent.allocator.objects().described(&pods);
    let with = |(mut ask, described): (Ask, Result<Described, ObjectError>)| match described {
        Ok(Described { labels, asks }) => {
            let pod = &ask.prepare.pod;
            ask.prepare.labels = labels.unwrap_or(ask.prepare.labels);
            ask.asks = match asks {
                Some(own) => agent.world.with_namespace(own, &pod.namespace),
                None => agent.world.asks_of(pod),
            };
            Some(ask)
        }
        Err(error) => {
            answer(&ask.reply, Err(fault(TRY_AGAIN, error)));
            None
        }
    };
    asks.into_iter().zip(described).filter_map(with).collect()
}

/// Whether what was heard of a pod is of this very one: a former of its name had addresses, or has ended.
pub fn is_heard<K: Kernel>(agent: &Agent<K>, pod: &PodId) -> bool {
    let known = agent.world.pod(pod);
    known.is_some_and(|pod| pod.addresses.is_empty() && !pod.finished && pod.node.as_ref() == Some(&agent.node.name))
}

/// Whoever asked for this prepare, and nobody since, is dead: no commit follows.
pub fn abandon<K: Kernel>(agent: &mut Agent<K>, id: &AttachmentId, deadline: Instant) {
    if let Some(end) = agent.abandoned.get_mut(id).filter(|end| **end == deadline + GRACE) {
        *end = Instant::now();
    }
}

pub fn interface_of(prepare: &Prepare) -> IfaceName {
    cni::name::host_interface_name(&prepare.pod, &prepare.id.interface)
}

/// How an ask can be answered.
enum Admitted {
    /// As it was before.
    Known(Prepared),
    /// Anew; with the node's own networks, where another IPAM plugin is to give addresses of them.
    New(Vec<Cidr>),
}

/// The answer that was given before, or whether one can be given at all.
fn admit<K: Kernel>(agent: &mut Agent<K>, ask: &Ask, others: &[Ask]) -> Result<Admitted, Fault> {
    let Ask { prepare, asks, .. } = ask;
    let id = &prepare.id;
    if let Some(text) = [&id.network, &id.container, &id.interface].into_iter().find(|text| !is_plain(text)) {
        let message =
            format!("{text:?} cannot name a network, container or interface: use letters, digits, '_', '.' and '-'");
        return Err(fault(INVALID_CONFIG, message));
    }
    // One handle, one holder.
    match agent.journal.of_owner(id) {
        Some(known) if is_it(known, prepare) => {
            let pod_cidrs = networks(agent, prepare)?;
            return Ok(Admitted::Known(Prepared { pod_cidrs, ..prepared(known) }));
        }
        Some(known) => {
            let message =
                format!("{} of pod {} is attached already, and otherwise; DEL comes first", known.id, known.pod);
            return Err(fault(INVALID_CONFIG, message));
        }
        None => {}
    }
    if let Some(text) = &asks.refused {
        return Err(fault(INVALID_CONFIG, format!("pod {}: {text}", prepare.pod)));
    }
    if prepare.delegated && (!asks.addresses.is_empty() || !asks.families.is_empty()) {
        let text = "its annotations ask for addresses, which are another IPAM plugin's to give here";
        return Err(fault(INVALID_CONFIG, format!("pod {}: {text}", prepare.pod)));
    }
    let networks = networks(agent, prepare)?;
    if let Some(text) = named::refused(prepare, asks) {
        return Err(fault(INVALID_CONFIG, format!("pod {}: {text}", prepare.pod)));
    }
    if let Some(text) = floating::refused(&agent.world, prepare) {
        return Err(fault(INVALID_CONFIG, text));
    }
    let taken = ports::taken(agent, prepare, others.iter().map(|ask| &ask.prepare));
    taken.map_or(Ok(Admitted::New(networks)), |text| Err(fault(TRY_AGAIN, text)))
}

fn is_it(known: &Attachment, wish: &Prepare) -> bool {
    let Prepare { id, pod, delegated, host_ports, floating_ips, .. } = wish;
    (&known.id, &known.pod, &known.delegated) == (id, pod, delegated)
        && (&known.host_ports, &known.floating_ips) == (host_ports, floating_ips)
}

/// The three become part of an object's name.
fn is_plain(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty()
        && text.len() <= 100
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(allowed)
}

/// An interface of a pod has one host side: its new container takes the place of the old one, whose DEL may still be to come.
fn displace<K: Kernel>(agent: &mut Agent<K>, id: &AttachmentId, interface: &IfaceName) -> Option<Waiting> {
    let old = agent.journal.at(interface).filter(|known| known.id != *id)?.id.clone();
    tracing::info!(%id, %old, %interface, "a new container takes the place of an old one");
    agent.world.detach(&old);
    agent.changed = true;
    Some(Waiting::Remove { ids: vec![old], reply: None })
}

/// Addresses come later, from elsewhere.
fn expect<K: Kernel>(agent: &mut Agent<K>, prepare: &Prepare, networks: Vec<Cidr>) -> Reply {
    let attachment = attachment(prepare, &[], agent.pod_mtu());
    let answer = Prepared { pod_cidrs: networks, ..prepared(&attachment) };
    agent.journal.record(attachment).map_err(|error| fault(TRY_AGAIN, error))?;
    Ok(Answer::Prepared(answer))
}

fn assign<K: Kernel>(agent: &mut Agent<K>, open: Vec<Ask>) {
    let wish = |ask: &Ask| {
        let Prepare { id, pod, ips, .. } = &ask.prepare;
        let namespace_labels = agent.world.namespace(&pod.namespace).cloned().unwrap_or_default();
        let PodAsks { addresses, pools, families, keeps, .. } = ask.asks.clone();
        let wanted = if ips.is_empty() { addresses } else { ips.clone() };
        Wish { namespace_labels, wanted, pools, families, keeps, ..Wish::any(id.clone(), pod.clone()) }
    };
    let wishes: Vec<_> = open.iter().map(wish).collect();
    let mtu = agent.pod_mtu();
    let mut recorded = Ok(());
    let Agent { allocator, journal, .. } = agent;
    let assigned = allocator.assign(&wishes, |decided| {
        let of = |(ask, addresses): (&Ask, &Vec<IpAddr>)| attachment(&ask.prepare, addresses, mtu);
        let given = open.iter().zip(decided).filter_map(|(ask, addresses)| Some((ask, addresses.as_ref().ok()?)));
        recorded = journal.record_all(given.map(of).collect()).map_err(|error| fault(TRY_AGAIN, error));
    });
    for (ask, assigned) in open.into_iter().zip(assigned) {
        let outcome = recorded.clone().and_then(|()| assigned.map_err(no_addresses));
        answer(&ask.reply, conclude(agent, &ask.prepare, outcome));
    }
}

fn conclude<K: Kernel>(agent: &mut Agent<K>, prepare: &Prepare, outcome: Result<Vec<IpAddr>, Fault>) -> Reply {
    let outcome = outcome.and_then(|addresses| match floating::unmet(&agent.world, &prepare.pod, &addresses) {
        Some(text) => Err(fault(INVALID_CONFIG, text)),
        None => Ok(addresses),
    });
    match (outcome, agent.journal.get(&prepare.id)) {
        (Ok(addresses), Some(known)) if known.addresses == addresses => {
            tracing::info!(pod = %prepare.pod, id = %prepare.id, ?addresses, "prepared");
            Ok(Answer::Prepared(prepared(known)))
        }
        // Nothing was written down, and nothing given: where pools are full, nobody reads all blocks for each who is refused.
        (Err(reason), None) => Err(reason),
        (outcome, _) => {
            let reason = outcome.err().unwrap_or_else(|| fault(TRY_AGAIN, "another request for this pod came between"));
            if let Err(error) = super::release(agent, std::slice::from_ref(&prepare.id)) {
                tracing::warn!(id = %prepare.id, "cannot be undone yet: {error}");
            }
            Err(reason)
        }
    }
}

fn no_addresses(error: AllocateError) -> Fault {
    let hopeless = matches!(
        error,
        AllocateError::Assign(
            AssignError::NotInPool { .. }
                | AssignError::BadPool { .. }
                | AssignError::NoPoolForPod { .. }
                | AssignError::NotHere { .. }
        )
    );
    fault(if hopeless { INVALID_CONFIG } else { TRY_AGAIN }, error)
}

/// What the configuration says counts where neither the pod nor its namespace says anything.
fn with_configuration(mut asks: PodAsks, prepare: &Prepare) -> PodAsks {
    for (family, pools) in &prepare.pools {
        asks.pools.entry(*family).or_insert_with(|| pools.clone());
    }
    if asks.families.is_empty() {
        asks.families.clone_from(&prepare.families);
    }
    asks
}

fn networks<K: Kernel>(agent: &Agent<K>, prepare: &Prepare) -> Result<Vec<Cidr>, Fault> {
    let networks = pod_cidrs(agent, &prepare.pod_cidrs);
    networks.map_err(|reason| fault(TRY_AGAIN, format!("pod {}: {reason}", prepare.pod)))
}

/// The node's own networks; or why there is none of a family.
pub fn pod_cidrs<K: Kernel>(agent: &Agent<K>, families: &[Family]) -> Result<Vec<Cidr>, String> {
    if families.is_empty() {
        return Ok(Vec::new());
    }
    let node = &agent.node.name;
    let asked = agent.allocator.objects().pod_cidrs(node).map_err(|error| error.to_string())?;
    let heard = || agent.world.own_node().map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    let networks = asked.unwrap_or_else(heard);
    let lacks = |family: &&Family| !networks.iter().any(|network| network.is_v4() == (**family == Family::V4));
    if let Some((network, other)) =
        networks.iter().find_map(|network| Some((network, agent.world.other_with(*network)?)))
    {
        return Err(format!(
            "Node {node} has {network} in spec.podCIDRs, and Node {other} has the same addresses: give one of them another network"
        ));
    }
    match families.iter().find(lacks) {
        None => Ok(networks),
        Some(family) => {
            let (key, family) = match family {
                Family::V4 => ("usePodCidr", "IPv4"),
                Family::V6 => ("usePodCidrIPv6", "IPv6"),
            };
            Err(format!(
                "ipam says {key}, and Node {node} has no {family} network in spec.podCIDRs: have the cluster give it one \
                 (kube-controller-manager --allocate-node-cidrs --cluster-cidr), or name a subnet"
            ))
        }
    }
}

pub fn attachment(prepare: &Prepare, addresses: &[IpAddr], mtu: u32) -> Attachment {
    Attachment {
        id: prepare.id.clone(),
        pod: prepare.pod.clone(),
        host_interface: interface_of(prepare),
        // Chosen here, so that commit has nothing new to write down.
        mac: prepare.mac.unwrap_or_else(random_mac),
        addresses: addresses.to_vec(),
        mtu: prepare.mtu.unwrap_or(mtu),
        labels: prepare.labels.clone(),
        delegated: prepare.delegated,
        host_ports: prepare.host_ports.clone(),
        floating_ips: prepare.floating_ips,
        named: false,
        committed: false,
    }
}

/// A unicast address of local administration. Where the kernel has no random bytes, it chooses: all zero.
fn random_mac() -> Mac {
    let mut bytes = [0; 6];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if filled != Ok(bytes.len()) {
        return Mac([0; 6]);
    }
    bytes[0] = bytes[0] & 0xfe | 0x02;
    Mac(bytes)
}

fn prepared(attachment: &Attachment) -> Prepared {
    Prepared {
        host_interface: attachment.host_interface.clone(),
        mac: Some(attachment.mac).filter(|mac| mac.0 != [0; 6]),
        addresses: attachment.addresses.clone(),
        mtu: attachment.mtu,
        pod_cidrs: Vec::new(),
    }
}
