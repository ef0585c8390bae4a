//! The face of the crate: one value that holds the kernel's tables, programs and links.
//! In: `Options` once, then `Desired` after `Desired`. Out: `Applied`, answers and reports.
//! Invariant: `apply` may be called with any Desired at any time; the same one twice changes nothing.
//! Never: sweeps anything before the first `apply`.

use crate::{
    ApplyError, CleanupError, OpenError, Question, ReportError, TwinAnswer, TwinError, conntrack, frame, host,
    links::Links,
    pins,
    programs::{Hook, Programs, in_full},
    report::Reporter,
    tables::{KernelStore, StoreError, Tables},
    twin, uplink,
};
use abi::{endpoint::GATEWAY_MAC, rules::HIT_NONE};
use calc::{Desired, EndpointSpec};
use model::{AttachmentId, Direction, IfaceName, Ifindex, Mac};
use netlink::Socket;
use policy::Decider;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// What a dataplane is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where maps and links are pinned; mounted as a bpffs if it is none.
    pub bpffs: PathBuf,
    /// The compiled kernel programs (an ELF object).
    pub object: Vec<u8>,
    /// Map sizes that differ from the defaults, by map name.
    pub entries: BTreeMap<String, u32>,
    /// The interface towards the network; `None`: pods are reached from this host only.
    pub uplink: Option<IfaceName>,
    /// Where the sysctls to give back are remembered.
    pub state_dir: PathBuf,
}

/// What an `apply` came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// The generation in force.
    pub generation: u64,
    /// Endpoints that are completely in force.
    pub ok: usize,
    /// Items that are not as wanted, by name, and why. They are tried again by the next `apply`.
    pub failed: Vec<(String, ApplyError)>,
}

/// The node's dataplane.
pub struct Dataplane {
    options: Options,
    programs: Programs,
    links: Links,
    tables: Tables<KernelStore>,
    wanted: BTreeMap<AttachmentId, EndpointSpec>,
    in_force: BTreeSet<AttachmentId>,
}

/// One pass of `apply`: what is there, and what went wrong so far.
struct Pass {
    socket: Socket,
    seen: host::Seen,
    failed: Vec<(String, ApplyError)>,
}

impl Pass {
    fn fail(&mut self, item: String, step: &str, error: &dyn std::error::Error) {
        self.failed.push((item, ApplyError { step: step.to_owned(), reason: in_full(error) }));
    }
}

impl Dataplane {
    /// Loads the programs, adopts what is pinned, guards the uplink. Call it in the node's network namespace: the
    /// calling thread's namespace is the one that is served.
    ///
    /// # Errors
    /// The kernel refuses the programs, or what is pinned is of another layout.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let state_dir = |source| OpenError::StateDir { path: options.state_dir.clone(), source };
        fs::create_dir_all(&options.state_dir).map_err(state_dir)?;
        pins::prepare(&options.bpffs).map_err(|source| OpenError::Bpffs { path: options.bpffs.clone(), source })?;
        let programs = Programs::load(&options.bpffs, &options.object, &options.entries)?;
        let adopt = |error: StoreError| OpenError::Adopt { reason: error.to_string() };
        let store = KernelStore::open(&pins::maps_dir(&options.bpffs)).map_err(adopt)?;
        let tables = Tables::adopt(store).map_err(adopt)?;
        let links = Links::new(&options.bpffs);
        let (wanted, in_force) = (BTreeMap::new(), BTreeSet::new());
        let mut dataplane = Self { options, programs, links, tables, wanted, in_force };
        dataplane.guard_what_is_guarded()?;
        Ok(dataplane)
    }

    /// The uplink, and every pod's interface that the tables adopted: from now on the present programs run there.
    fn guard_what_is_guarded(&mut self) -> Result<(), OpenError> {
        let unanswered = |error: netlink::Error| OpenError::Netlink { reason: error.to_string() };
        let mut socket = Socket::open().map_err(unanswered)?;
        let links = socket.links().map_err(unanswered)?;
        for link in links.iter().filter(|link| self.tables.image().interfaces.contains_key(&link.index.0)) {
            for hook in [Hook::FromWorkload, Hook::ToWorkload] {
                // What was attached before goes on working; the first `apply` tries again and reports.
                if let Err(error) = self.links.attach(&mut self.programs, hook, link.index.0) {
                    tracing::warn!(interface = %link.name, %error, "the former programs stay attached");
                }
            }
        }
        if let Some(name) = self.options.uplink.clone() {
            let link = links.iter().find(|link| link.name == name);
            let index = link.map(|link| link.index.0);
            self.guard_uplink(&name, index).map_err(|reason| OpenError::Uplink { interface: name, reason })?;
        }
        Ok(())
    }

    fn guard_uplink(&mut self, name: &IfaceName, index: Option<u32>) -> Result<(), String> {
        let index = index.ok_or("there is no such interface; give the node's own with --uplink")?;
        uplink::prepare(name, &self.options.state_dir)?;
        self.links.attach(&mut self.programs, Hook::FromUplink, index).map_err(|error| in_full(&error))
    }

    /// Makes the kernel so. When it returns, every endpoint that is not in `failed` is in force.
    pub fn apply(&mut self, desired: &Desired) -> Applied {
        self.wanted = desired.endpoints.clone();
        let mut pass = match Self::look() {
            Ok(pass) => pass,
            Err(error) => {
                let error = ApplyError { step: "list what is there".into(), reason: in_full(&error) };
                return Applied { failed: vec![("the host".into(), error)], ..self.as_it_is() };
            }
        };
        self.guard(&mut pass);
        self.commit(&mut pass, desired);
        self.connect(&mut pass);
        self.sweep(&mut pass);
        Applied { failed: pass.failed, ..self.as_it_is() }
    }

    fn as_it_is(&self) -> Applied {
        Applied { generation: self.tables.image().generation, ok: self.in_force.len(), failed: Vec::new() }
    }

    fn look() -> Result<Pass, netlink::Error> {
        let mut socket = Socket::open()?;
        let seen = host::Seen::list(&mut socket)?;
        Ok(Pass { socket, seen, failed: Vec::new() })
    }

    /// Programs first: nothing is in force on an interface that is not guarded.
    fn guard(&mut self, pass: &mut Pass) {
        let present = pass.seen.links.iter().map(|link| link.index.0).collect();
        self.links.forget_others(&present);
        if let Some(name) = self.options.uplink.clone() {
            let index = pass.seen.link(&name).map(|link| link.index.0);
            if let Err(reason) = self.guard_uplink(&name, index) {
                let error = ApplyError { step: format!("guard the uplink {name}"), reason };
                pass.failed.push((name.to_string(), error));
            }
        }
        for (id, endpoint) in &self.wanted {
            let Some(link) = pass.seen.link(&endpoint.interface).cloned() else { continue };
            if let Err(error) = host::prepare(&mut pass.socket, &link) {
                pass.failed.push((id.to_string(), error));
                continue;
            }
            for hook in [Hook::FromWorkload, Hook::ToWorkload] {
                if let Err(error) = self.links.attach(&mut self.programs, hook, link.index.0) {
                    pass.fail(endpoint.pod.to_string(), "attach its programs", &error);
                }
            }
        }
    }

    fn commit(&mut self, pass: &mut Pass, desired: &Desired) {
        let guarded = |name: &IfaceName| {
            let index = pass.seen.link(name)?.index.0;
            let both = [Hook::FromWorkload, Hook::ToWorkload].iter().all(|hook| self.links.is_attached(index, *hook));
            both.then_some(index)
        };
        match self.tables.commit(desired, &guarded) {
            Ok(committed) => {
                for (id, refusal) in &committed.refused {
                    pass.fail(id.to_string(), "serve the endpoint", refusal);
                }
            }
            Err(error) => pass.fail("the tables".into(), "put the new revision in force", &error),
        }
    }

    /// The ways to each endpoint, once its policy is in force.
    fn connect(&mut self, pass: &mut Pass) {
        self.in_force.clear();
        for (id, endpoint) in &self.wanted {
            let Some(link) = pass.seen.link(&endpoint.interface).cloned() else { continue };
            if !serves(&self.tables, id, link.index) {
                continue;
            }
            match host::connect(&mut pass.socket, &pass.seen, &link, endpoint) {
                Ok(()) => {
                    self.in_force.insert(id.clone());
                }
                Err(error) => pass.failed.push((id.to_string(), error)),
            }
        }
    }

    /// Takes away the ways to endpoints that are no longer served, and pins of interfaces that are gone. Programs stay
    /// on an interface as long as it is there: one that is nobody's lets nothing through.
    fn sweep(&mut self, pass: &mut Pass) {
        let mut ways: BTreeSet<(Ifindex, IpAddr)> = BTreeSet::new();
        for endpoint in self.wanted.values() {
            if let Some(link) = pass.seen.link(&endpoint.interface) {
                ways.extend(endpoint.addresses.iter().map(|address| (link.index, *address)));
            }
        }
        pass.failed.extend(host::sweep(&mut pass.socket, &pass.seen, &ways));
        let present = pass.seen.links.iter().map(|link| link.index.0).collect();
        for (pin, error) in self.links.sweep(&present).err().unwrap_or_default() {
            pass.fail(pin.display().to_string(), "remove the pin of an interface that is gone", &error);
        }
    }

    /// What `apply` left for after its answer: waits until no packet sees the previous revision, then takes it away.
    /// The next `apply` does it first if nobody did.
    pub fn settle(&mut self) {
        if let Err(error) = self.tables.settle() {
            tracing::warn!(%error, "the previous revision is not swept yet; the next change tries again");
        }
    }

    /// Whether this endpoint's programs are attached, its policy is in force and its host side is complete.
    #[must_use]
    pub fn in_force(&self, id: &AttachmentId) -> bool {
        self.in_force.contains(id)
    }

    /// Asks the kernel's dry twin.
    ///
    /// # Errors
    /// The endpoint is not in force, or the kernel cannot run the twin.
    pub fn explain(&self, question: &Question) -> Result<TwinAnswer, TwinError> {
        let (hook, ifindex, source) = match &question.from {
            Some(id) => {
                let slot = self.tables.names().endpoints.get(id);
                let entry = slot.and_then(|slot| self.tables.image().endpoints.get(slot));
                let entry = entry.ok_or_else(|| TwinError::NoEndpoint(id.clone()))?;
                (Hook::FromWorkload, entry.ifindex, Mac(entry.mac))
            }
            None => (Hook::FromUplink, self.uplink_index()?, Mac([2, 0, 0, 0, 0, 0])),
        };
        let frame = frame::of(question, source, Mac(GATEWAY_MAC))?;
        let answer = twin::ask(&self.programs, hook, ifindex, &frame)?;
        let names = self.tables.names();
        let decider = |hit: Option<u32>, direction| match hit? {
            HIT_NONE => Some(Decider::NoPolicy(direction)),
            hit => names.decider(hit).cloned(),
        };
        let egress = decider(answer.egress_hit, Direction::Egress);
        Ok(TwinAnswer { answer, egress, ingress: decider(answer.ingress_hit, Direction::Ingress) })
    }

    fn uplink_index(&self) -> Result<u32, TwinError> {
        let name = self.options.uplink.as_ref().ok_or(TwinError::NoUplink)?;
        let link = Socket::open().and_then(|mut socket| socket.link(name)).ok().flatten();
        link.map(|link| link.index.0).ok_or(TwinError::NoUplink)
    }

    /// Deletes expired flows; says how many. Call it now and then.
    pub fn sweep_conntrack(&mut self) -> usize {
        let swept = self.tables.store_mut().conntrack.sweep(conntrack::now_s());
        swept.unwrap_or_else(|error| {
            tracing::warn!(%error, "expired flows are not swept; programs take them for absent all the same");
            0
        })
    }

    /// The rows of a table for people and scripts: an array of flat objects. Tables: `endpoints`, `policies`, `classes`,
    /// `rulesets`, `conntrack`, `drops`, `capacity`.
    ///
    /// # Errors
    /// No such table, or a map that cannot be read.
    pub fn report(&self, table: &str) -> Result<serde_json::Value, ReportError> {
        Reporter { tables: &self.tables, endpoints: &self.wanted, in_force: &self.in_force }.rows(table)
    }
}

fn serves(tables: &Tables<KernelStore>, id: &AttachmentId, index: Ifindex) -> bool {
    let slot = tables.names().endpoints.get(id);
    slot.and_then(|slot| tables.image().endpoints.get(slot)).is_some_and(|entry| entry.ifindex == index.0)
}

/// Takes away everything an agent with this bpffs and state directory left in the calling thread's network namespace:
/// links, pins, routes, neighbours; gives sysctls back.
///
/// # Errors
/// Names what is left.
pub fn cleanup(bpffs: &Path, state_dir: &Path) -> Result<(), CleanupError> {
    let mut left = Vec::new();
    if let Err(error) = pins::remove(bpffs) {
        left.push(format!("pins below {}: {error}", bpffs.display()));
    }
    match Dataplane::look() {
        Ok(mut pass) => {
            let failed = host::sweep(&mut pass.socket, &pass.seen, &BTreeSet::new());
            left.extend(failed.into_iter().map(|(item, error)| format!("{item}: {error}")));
        }
        Err(error) => left.push(in_full(&error)),
    }
    if let Err(error) = uplink::give_back(state_dir) {
        left.push(format!("the uplink's sysctls: {error}"));
    }
    if left.is_empty() { Ok(()) } else { Err(CleanupError { left }) }
}
