//! CHECK, STATUS and the read commands' questions.
//! In: an identity or a table's name. Out: what is so now, or what is not as it should be.
//! Invariant: answers from the World, the kernel's own tables and the shared objects, not from memory of what was done.
//! Never: changes anything.

use super::{LIMITED, NOT_AS_IT_SHOULD_BE, NOT_AVAILABLE, TRY_AGAIN, done, fault, ports, prepare};
use crate::{
    bird, explain, felix,
    kernel::Kernel,
    notes,
    owner::Agent,
    passage, services,
    trial::{self, Gathered},
};
use cni::protocol::{Answer, Fault, File, Query, Reply};
use model::{AttachmentId, Family, HostPort, ResourceKey};
use serde_json::{Value, json};
use std::{net::IpAddr, time::Duration};

/// What all pods share may fail for a moment and be put right by the next look; that is no news for the runtime (CNI-73).
const LIMITED_AFTER: Duration = Duration::from_secs(10);
/// Objects that are named of those that are put off; `show services` has all services.
const PUT_OFF_MAX: usize = 64;
/// Somebody changes Calico's objects as a whole.
const LOCKED: &str = "datastoreReady of ClusterInformation is not true: no address is given or taken back until it is";
/// Of the node's own sockets, where another proxy serves.
const LEFT: &str = "are left to kube-proxy";

/// Answers a read command.
pub fn query<K: Kernel>(agent: &mut Agent<K>, question: &Query) -> Reply {
    let report = match question {
        Query::Show { table } if table == "status" => state(agent),
        Query::Show { table } if table == "node" => {
            json!({ "bgp": bird::report(agent.speaker.as_ref()), "parameters": felix::report(agent) })
        }
        Query::Services { of, after, backends } => {
            let asked = services::Asked { of: of.as_deref(), after: after.as_deref(), backends: *backends };
            services::page(agent, &asked).map_err(|error| fault(NOT_AS_IT_SHOULD_BE, error))?
        }
        Query::Show { table } => {
            let mut rows = agent.kernel.report(table).map_err(|error| fault(NOT_AS_IT_SHOULD_BE, error))?;
            if ["policies", "staged"].contains(&table.as_str()) {
                notes::annotate(&agent.world, &mut rows);
            }
            if let Some(announcer) = agent.announcer.as_ref().filter(|_| table == "endpoints") {
                notes::announced(announcer, &mut rows);
            }
            rows
        }
        Query::ExplainHost { from, to, port, protocol, source_port } => {
            let asked = passage::Asked { from: *from, to, port: *port, protocol, source_port: *source_port };
            passage::explain(agent, &asked).map_err(|error| fault(NOT_AS_IT_SHOULD_BE, error))?
        }
        Query::Explain { from, to, port, protocol, source_port } => {
            let asked = explain::Asked { from, to, port: *port, protocol, source_port: *source_port };
            explain::explain(agent, &asked).map_err(|error| fault(NOT_AS_IT_SHOULD_BE, error))?
        }
        Query::Test { files, delete } => test(agent, files, *delete)?.report(),
    };
    Ok(Answer::Report { report })
}

/// What `policy test` is worked out from.
pub fn test<K: Kernel>(agent: &mut Agent<K>, files: &[File], delete: bool) -> Result<Gathered, Fault> {
    trial::gather(agent, files, delete).map_err(|error| fault(NOT_AS_IT_SHOULD_BE, error))
}

/// `show status`.
fn state<K: Kernel>(agent: &Agent<K>) -> Value {
    let known = agent.world.status();
    let failed = agent.outcome.failed.iter().chain(agent.repairs.failed());
    let mut failed: Vec<_> = failed.map(|(item, error)| format!("{item}: {error}")).collect();
    failed.extend(put_off(agent));
    let host: Vec<_> = agent.world.host_addresses().iter().map(ToString::to_string).collect();
    json!({
        "node": agent.node.name,
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": agent.node.platform.release,
        "attachment": agent.node.platform.attached_by.to_string(),
        "kernelLacks": agent.node.platform.lacks,
        "nodeSockets": if agent.node.proxy.is_by_host() { LEFT.to_owned() } else { agent.kernel.sockets() },
        "nodeAnswersOutside": agent.kernel.answers(),
        "inSync": known.in_sync,
        "generation": agent.outcome.generation,
        "endpoints": agent.outcome.endpoints,
        "attachments": known.attachments,
        "pods": known.pods,
        "namespaces": known.namespaces,
        "policies": known.policies,
        "services": known.services,
        "servicesBy": format!("{} ({})", agent.node.proxy.by(), agent.node.proxy.reason),
        "pools": known.pools,
        "hostAddresses": host,
        "notInForce": failed,
        "driftRepaired": agent.repairs.rows(),
        "problems": agent.problems(),
        "damagedRecords": agent.node.damaged,
    })
}

/// Objects that are put off, so many by name.
fn put_off<K: Kernel>(agent: &Agent<K>) -> impl Iterator<Item = String> {
    let said = |(key, reason): (&ResourceKey, &str)| match key {
        ResourceKey::Service(id) if agent.world.is_put_off(id) => {
            format!("{key}: is put off, and is not served: {reason}")
        }
        _ => format!("{key}: its newest revision is put off, its former one holds: {reason}"),
    };
    let more = agent.setbacks.held().len().saturating_sub(PUT_OFF_MAX);
    let more = (more > 0).then(|| format!("and {more} more objects are put off"));
    agent.setbacks.held().take(PUT_OFF_MAX).map(said).chain(more)
}

/// CHECK: everything of this attachment is as it was committed.
pub fn check<K: Kernel>(agent: &mut Agent<K>, id: &AttachmentId, host_ports: &[HostPort]) -> Reply {
    let wrong = |what: String| Err(fault(NOT_AS_IT_SHOULD_BE, format!("{id}: {what}")));
    let ports = ports::missing(agent, id, host_ports);
    let Some(known) = agent.journal.get(id).filter(|known| known.committed) else {
        return wrong("is not attached; the pod has to be made again".to_owned());
    };
    if !agent.kernel.in_force(id) {
        let why = agent.outcome.failed.first().map_or_else(String::new, |(item, error)| format!(": {item}: {error}"));
        return wrong(format!("is not in force{why}"));
    }
    if let Some(missing) = ports {
        return wrong(missing);
    }
    // Another IPAM plugin's addresses are its own to check.
    if known.delegated {
        return done();
    }
    // Nor has IPAM any part in those that a pod names and no pool has.
    let is_of_pool = |address: &&IpAddr| !known.named || agent.world.pools().any(|pool| pool.cidr.contains(**address));
    match agent.allocator.held_by(id) {
        Err(error) => wrong(error.to_string()),
        Ok(held) if known.addresses.iter().filter(is_of_pool).all(|address| held.contains(address)) => done(),
        Ok(held) => wrong(format!("has {:?}, but the blocks give it {held:?}", known.addresses)),
    }
}

/// STATUS: could an ADD be served now?
pub fn status<K: Kernel>(agent: &Agent<K>, delegated: bool, pod_cidrs: &[Family]) -> Reply {
    if agent.world.in_sync().is_none() {
        return Err(fault(TRY_AGAIN, "the agent is still reading the datastore"));
    }
    if agent.limited.is_some_and(|since| since.elapsed() >= LIMITED_AFTER) {
        let failed: Vec<_> = agent.outcome.failed.iter().map(|(item, error)| format!("{item}: {error}")).collect();
        return Err(fault(LIMITED, format!("this node is not as it should be: {}", failed.join("; "))));
    }
    prepare::pod_cidrs(agent, pod_cidrs).map_err(|reason| fault(NOT_AVAILABLE, reason))?;
    if !delegated {
        if agent.allocator.objects().is_locked() {
            return Err(fault(TRY_AGAIN, LOCKED));
        }
        agent.allocator.room().map_err(|error| fault(NOT_AVAILABLE, error))?;
    }
    done()
}
