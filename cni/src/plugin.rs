//! The six commands.
//! In: environment and standard input. Out: what goes to standard output, or a failure.
//! Invariant: ADD either ends with policy in force, or leaves neither link nor address behind.
//! Never: decides; the agent does.

use crate::{
    client::{self, CallError},
    conf::{Conf, Version, written_version},
    deadline::Deadline,
    delegate::{Assigned, Delegate},
    environment::{Command, Environment},
    failure::{Code, Failure},
    inspect::{Previous, Wanted},
    ipam::{Asked, Ipam, with_networks},
    name::{host_interface_alias, host_interface_name},
    protocol::{Answer, Operation, Prepare, Prepared},
    readiness,
    result::Attached,
    steps::Steps,
    wiring::{Wired, Wiring, unwire},
};
use model::{AttachmentId, Cidr, IfaceName};
use netlink::namespace;
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Undoing may begin after the command's deadline; it gets this long.
const UNDO_LIMIT: Duration = Duration::from_secs(5);
/// STATUS waits this long for an agent that is away: one that is being replaced is back by then (CNI-73).
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// `-t` waits this long for the agent.
const TEST_LIMIT: Duration = Duration::from_secs(2);
/// Between two questions of STATUS.
const STATUS_PAUSE: Duration = Duration::from_millis(100);

/// Does what the runtime asks. `None`: success without output.
///
/// # Errors
/// What the runtime is to be told.
pub fn run(environment: &Environment, input: &[u8]) -> Result<Option<Value>, Failure> {
    if environment.command == Command::Version {
        return Ok(Some(versions(input)));
    }
    let conf = Conf::read(input)?;
    require_version(environment.command, conf.version)?;
    let (deadline, steps) = (Deadline::after(conf.timeout), Steps::begin());
    let invocation = Invocation { environment, deadline, conf: &conf, input, steps };
    match environment.command {
        Command::Add => invocation.add().inspect(|_| invocation.steps.tell()).map(Some),
        Command::Del => invocation.del().map(|()| None),
        Command::Check => invocation.check().map(|()| None),
        Command::Gc => invocation.gc().map(|()| None),
        Command::Status => invocation.status().map(|()| None),
        Command::Version => Ok(Some(versions(input))),
    }
}

/// Whether the agent that this configuration leads to answers, and has heard its datastore.
///
/// # Errors
/// Code 100, as Calico's plugin says it, with the reason.
pub fn test(input: &[u8]) -> Result<(), Failure> {
    let asked = Conf::read(input).and_then(|conf| {
        let status = Operation::Status { network: conf.network, delegated: false, pod_cidrs: vec![] };
        Ok(client::ask(&conf.socket, TEST_LIMIT, status)?)
    });
    match asked {
        // It has heard the datastore; what else is wrong STATUS says: addresses may be exhausted, or pods limited.
        Err(Failure { code: Code::UNAVAILABLE | Code::LIMITED, .. }) | Ok(_) => Ok(()),
        Err(Failure { message, details, .. }) => {
            let message = format!("the datastore cannot be used: {message}");
            Err(Failure { details, ..Failure::new(Code::CHANGED, message) })
        }
    }
}

/// The version an error object is written in.
#[must_use]
pub fn error_version(input: &[u8]) -> &'static str {
    written_version(input).and_then(|text| Version::of(&text)).unwrap_or(Version::NEWEST).text()
}

/// Needs neither root nor a configuration (CNI-10, CNI-11).
fn versions(input: &[u8]) -> Value {
    let written = written_version(input).filter(|text| !text.is_empty());
    let asked = written.unwrap_or_else(|| Version::NEWEST.text().to_owned());
    json!({ "cniVersion": asked, "supportedVersions": Version::ALL.map(Version::text) })
}

fn require_version(command: Command, version: Version) -> Result<(), Failure> {
    let since = match command {
        Command::Add | Command::Del | Command::Version => Version::V0_1_0,
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
    };
    if version >= since {
        return Ok(());
    }
    let message = format!("cniVersion {} does not have this command; it came with {}", version.text(), since.text());
    Err(Failure::new(Code::VERSION, message))
}

struct Invocation<'a> {
    environment: &'a Environment,
    conf: &'a Conf,
    deadline: Deadline,
    input: &'a [u8],
    steps: Steps,
}

impl Invocation<'_> {
    fn id(&self) -> AttachmentId {
        AttachmentId {
            network: self.conf.network.clone(),
            container: self.environment.container.clone(),
            interface: self.environment.interface.0.clone(),
        }
    }

    fn ask(&self, operation: Operation) -> Result<Answer, Failure> {
        Ok(client::ask(&self.conf.socket, self.deadline.left()?, operation)?)
    }

    /// As [`Invocation::ask`], for operations that have nothing to say.
    fn tell(&self, operation: Operation) -> Result<(), Failure> {
        match self.ask(operation)? {
            Answer::Done => Ok(()),
            Answer::Prepared(_) | Answer::Report { .. } => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> Failure {
        CallError::Unexpected { socket: self.conf.socket.clone() }.into()
    }

    fn add(&self) -> Result<Value, Failure> {
        let path = self.environment.namespace.as_deref().unwrap_or(Path::new(""));
        let sandbox = namespace::open(path)?;
        self.refuse_own(&sandbox)?;
        readiness::await_all(&self.conf.gates, self.deadline)?;
        self.steps.end("open");
        let prepared = self.prepare()?;
        self.steps.end("prepare");
        let assigned = self.assigned(&prepared);
        self.steps.end("ipam");
        assigned
            .and_then(|assigned| self.attach(&prepared, &assigned, path, &sandbox))
            .map_err(|failure| self.undo(failure))
    }

    /// Addresses of the agent, or of the IPAM plugin that is named. One that has given some already is not asked again.
    fn assigned(&self, prepared: &Prepared) -> Result<Assigned, Failure> {
        match self.delegate() {
            Some(delegate) if prepared.addresses.is_empty() => {
                delegate.add(&self.input_for_ipam(Some(&prepared.pod_cidrs))?, self.deadline.left()?)
            }
            Some(_) | None => {
                let (addresses, routes) = (prepared.addresses.clone(), self.conf.routes.clone());
                Ok(Assigned { addresses, routes, dns: None })
            }
        }
    }

    fn delegate(&self) -> Option<Delegate<'_>> {
        match &self.conf.ipam {
            Ipam::Own(_) => None,
            Ipam::Delegate(name) => Some(Delegate { name, environment: self.environment }),
        }
    }

    /// What the IPAM plugin reads: our own input, but for the node's own networks, which it cannot know.
    fn input_for_ipam(&self, networks: Option<&[Cidr]>) -> Result<Cow<'_, [u8]>, Failure> {
        if self.conf.pod_cidrs.is_empty() {
            return Ok(Cow::Borrowed(self.input));
        }
        with_networks(self.input, networks).map(Cow::Owned)
    }

    fn attach(
        &self,
        prepared: &Prepared,
        assigned: &Assigned,
        path: &Path,
        sandbox: &OwnedFd,
    ) -> Result<Value, Failure> {
        let destinations = destinations(assigned);
        let wiring = Wiring {
            host: &prepared.host_interface,
            alias: &host_interface_alias(&self.id()),
            interface: &self.environment.interface,
            mac: prepared.mac,
            mtu: prepared.mtu,
            addresses: &assigned.addresses,
            destinations: &destinations,
            namespace: sandbox.as_fd(),
            forwarding: self.conf.forwarding,
        };
        let wired = wiring.wire(self.deadline, &self.steps)?;
        let Wired { mac, metric, .. } = wired;
        let addresses = self.delegate().map_or_else(Vec::new, |_| assigned.addresses.clone());
        self.tell(Operation::Commit { id: self.id(), mac, addresses })?;
        self.steps.end("commit");
        wired.await_running()?;
        self.steps.end("running");
        let attached = Attached {
            host: &prepared.host_interface,
            interface: &self.environment.interface,
            mac,
            sandbox: path,
            addresses: &assigned.addresses,
            mtu: prepared.mtu,
            destinations: &destinations,
            metric,
            previous: self.conf.previous.as_ref(),
            dns: self.conf.dns.as_ref().or(assigned.dns.as_ref()),
        };
        Ok(attached.to_json(self.conf.version))
    }

    /// Where the agent refuses or is away nothing was prepared, and what it had before is not ours to undo.
    fn prepare(&self) -> Result<Prepared, Failure> {
        let Asked { ips, pools, families } = match &self.conf.ipam {
            Ipam::Own(asked) if asked.ips.is_empty() => Asked { ips: self.environment.ips()?, ..asked.clone() },
            Ipam::Own(asked) => asked.clone(),
            Ipam::Delegate(_) => Asked::default(),
        };
        let wish = Prepare {
            id: self.id(),
            pod: self.environment.pod(),
            labels: self.conf.labels.clone(),
            mtu: self.conf.mtu,
            mac: self.conf.mac,
            ips,
            delegated: self.delegate().is_some(),
            host_ports: self.conf.host_ports.clone(),
            floating_ips: self.conf.floating_ips,
            ip_addrs_no_ipam: self.conf.ip_addrs_no_ipam,
            pools,
            families,
            pod_cidrs: self.conf.pod_cidrs.clone(),
        };
        match client::ask(&self.conf.socket, self.deadline.left()?, Operation::Prepare(wish)) {
            Ok(Answer::Prepared(prepared)) => Ok(prepared),
            Ok(Answer::Done | Answer::Report { .. }) => Err(self.undo(self.unexpected())),
            Err(error @ (CallError::Refused(_) | CallError::Unreachable { .. })) => Err(error.into()),
            Err(error) => Err(self.undo(error.into())),
        }
    }

    /// Takes back what a failed ADD has done. What cannot be taken back goes into the failure's details; the runtime's
    /// DEL, and the agent by itself, try again.
    fn undo(&self, mut failure: Failure) -> Failure {
        let links = unwire(&self.host_interface(), &host_interface_alias(&self.id()));
        let abort = Operation::Abort { id: self.id() };
        let agent = client::ask(&self.conf.socket, UNDO_LIMIT, abort).map(|_| ()).map_err(Failure::from);
        // An attachment that the agent could not take back may still use its addresses.
        let ipam = match self.delegate() {
            Some(delegate) if agent.is_ok() => {
                self.input_for_ipam(None).and_then(|input| delegate.tell("DEL", &input, UNDO_LIMIT))
            }
            Some(_) | None => Ok(()),
        };
        for left in [links, agent, ipam].into_iter().filter_map(Result::err) {
            if left.message != failure.message {
                failure.details.push_str(&format!("not undone: {left}. "));
            }
        }
        failure
    }

    /// The links go first: an address is free only when nobody uses it any more.
    fn del(&self) -> Result<(), Failure> {
        // One that is gone with its pod is no reason to keep the rest (CNI-42).
        if let Some(Ok(sandbox)) = self.environment.namespace.as_deref().map(namespace::open) {
            self.refuse_own(&sandbox)?;
        }
        unwire(&self.host_interface(), &host_interface_alias(&self.id()))?;
        self.tell(Operation::Del { id: self.id() })?;
        self.pass_on("DEL")
    }

    /// The IPAM plugin's share of a command that answers nothing.
    fn pass_on(&self, command: &str) -> Result<(), Failure> {
        match self.delegate() {
            Some(delegate) => delegate.tell(command, &self.input_for_ipam(None)?, self.deadline.left()?),
            None => Ok(()),
        }
    }

    fn host_interface(&self) -> IfaceName {
        host_interface_name(&self.environment.pod(), &self.environment.interface.0)
    }

    fn check(&self) -> Result<(), Failure> {
        let previous = Previous::read(self.conf.previous.as_ref())?;
        let sandbox = namespace::open(self.environment.namespace.as_deref().unwrap_or(Path::new("")))?;
        let (interface, host) = (&self.environment.interface, &self.host_interface());
        let differences = previous.differences(Wanted { interface, host, sandbox: &sandbox }, self.deadline)?;
        if !differences.is_empty() {
            let message = format!("{} is not as ADD left it: {}", self.id(), differences.join("; "));
            return Err(Failure::new(Code::CHANGED, message));
        }
        self.tell(Operation::Check { id: self.id(), host_ports: self.conf.host_ports.clone() })?;
        self.pass_on("CHECK")
    }

    /// Without a list nothing is known to be stale, so nothing is taken away (CNI-60), nor is anybody told to. What fails
    /// here is said after the IPAM plugin has done its share (CNI-62).
    fn gc(&self) -> Result<(), Failure> {
        let Some(keep) = self.conf.valid.clone() else { return Ok(()) };
        let own = self.tell(Operation::Gc { network: self.conf.network.clone(), keep });
        let ipam = self.pass_on("GC");
        own.and(ipam)
    }

    fn status(&self) -> Result<(), Failure> {
        let end = Instant::now() + STATUS_PATIENCE.min(self.conf.timeout);
        loop {
            let (network, delegated) = (self.conf.network.clone(), self.delegate().is_some());
            let pod_cidrs = self.conf.pod_cidrs.clone();
            match self.tell(Operation::Status { network, delegated, pod_cidrs }) {
                Err(failure) if failure.code == Code::LATER && Instant::now() + STATUS_PAUSE < end => {
                    thread::sleep(STATUS_PAUSE);
                }
                Err(failure) if failure.code == Code::LATER => {
                    return Err(Failure { code: Code::UNAVAILABLE, ..failure });
                }
                told => return told.and_then(|()| self.pass_on("STATUS")),
            }
        }
    }

    /// A pod in the host's own namespace would have the host's interfaces taken for its own (CNI-12).
    fn refuse_own(&self, sandbox: &OwnedFd) -> Result<(), Failure> {
        let own = namespace::current()?;
        if self.environment.own_namespace_allowed || !namespace::same(own.as_fd(), sandbox.as_fd())? {
            return Ok(());
        }
        Err(Failure::new(Code::NAMESPACE, "CNI_NETNS is the namespace tortie-cni itself runs in; give the pod its own"))
    }
}

/// Where the pod's routes lead: as the addresses came, else everywhere. Addresses of one family share them.
fn destinations(assigned: &Assigned) -> Vec<Cidr> {
    let has = |v4: bool| assigned.addresses.iter().any(|address| address.is_ipv4() == v4);
    let of = |v4: bool| {
        let own: Vec<Cidr> = assigned.routes.iter().filter(|route| route.is_v4() == v4).copied().collect();
        let unspecified = if v4 { "0.0.0.0/0" } else { "::/0" };
        if own.is_empty() { vec![unspecified.parse().expect("because the text is a network")] } else { own }
    };
    [true, false].into_iter().filter(|v4| has(*v4)).flat_map(of).collect()
}
