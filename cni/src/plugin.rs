//! The six commands.
//! In: environment and standard input. Out: what goes to standard output, or a failure.
//! Invariant: ADD either ends with policy in force, or leaves neither link nor address behind.
//! Never: decides; the agent does.

use crate::{
    client::{self, CallError},
    conf::{Conf, Version, written_version},
    deadline::Deadline,
    environment::{Command, Environment},
    failure::{Code, Failure},
    inspect::Previous,
    name::{host_interface_alias, host_interface_name},
    protocol::{Answer, Operation, Prepare, Prepared},
    result::Attached,
    wiring::{Wiring, unwire},
};
use model::{AttachmentId, Mac};
use netlink::namespace;
use serde_json::{Value, json};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

/// Undoing may begin after the command's deadline; it gets this long.
const UNDO_LIMIT: Duration = Duration::from_secs(5);

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
    let invocation = Invocation { environment, deadline: Deadline::after(conf.timeout), conf: &conf };
    match environment.command {
        Command::Add => invocation.add().map(Some),
        Command::Del => invocation.del().map(|()| None),
        Command::Check => invocation.check().map(|()| None),
        Command::Gc => invocation.gc().map(|()| None),
        Command::Status => invocation.status().map(|()| None),
        Command::Version => Ok(Some(versions(input))),
    }
}

/// The version an error object is written in.
#[must_use]
pub fn error_version(input: &[u8]) -> &'static str {
    written_version(input).and_then(|text| Version::of(&text)).unwrap_or(Version::NEWEST).text()
}

/// Needs neither root nor a configuration (CNI-10, CNI-11).
fn versions(input: &[u8]) -> Value {
    let asked = written_version(input).unwrap_or_else(|| Version::NEWEST.text().to_owned());
    json!({ "cniVersion": asked, "supportedVersions": Version::ALL.map(Version::text) })
}

fn require_version(command: Command, version: Version) -> Result<(), Failure> {
    let since = match command {
        Command::Add | Command::Del | Command::Version => Version::V0_3_1,
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
        let prepared = self.prepare()?;
        self.attach(&prepared, path, &sandbox).map_err(|failure| self.undo(failure))
    }

    fn attach(&self, prepared: &Prepared, path: &Path, sandbox: &OwnedFd) -> Result<Value, Failure> {
        let mac = self.wire(prepared, sandbox)?;
        self.tell(Operation::Commit { id: self.id(), mac })?;
        let attached = Attached {
            host: &prepared.host_interface,
            interface: &self.environment.interface,
            mac,
            sandbox: path,
            addresses: &prepared.addresses,
            mtu: prepared.mtu,
        };
        Ok(attached.to_json(self.conf.version))
    }

    /// Where the agent refuses or is away nothing was prepared, and what it had before is not ours to undo.
    fn prepare(&self) -> Result<Prepared, Failure> {
        let wish = Prepare {
            id: self.id(),
            pod: self.environment.pod(),
            labels: self.conf.labels.clone(),
            mtu: self.conf.mtu,
            mac: self.conf.mac,
        };
        match client::ask(&self.conf.socket, self.deadline.left()?, Operation::Prepare(wish)) {
            Ok(Answer::Prepared(prepared)) => Ok(prepared),
            Ok(Answer::Done | Answer::Report { .. }) => Err(self.undo(self.unexpected())),
            Err(error @ (CallError::Refused(_) | CallError::Unreachable { .. })) => Err(error.into()),
            Err(error) => Err(self.undo(error.into())),
        }
    }

    fn wire(&self, prepared: &Prepared, sandbox: &OwnedFd) -> Result<Mac, Failure> {
        let wiring = Wiring {
            host: &prepared.host_interface,
            alias: &host_interface_alias(&self.id()),
            interface: &self.environment.interface,
            mac: prepared.mac,
            mtu: prepared.mtu,
            addresses: &prepared.addresses,
            namespace: sandbox.as_fd(),
            forwarding: self.conf.forwarding,
        };
        wiring.wire(self.deadline)
    }

    /// Takes back what a failed ADD has done. What cannot be taken back goes into the failure's details; the runtime's
    /// DEL, and the agent by itself, try again.
    fn undo(&self, mut failure: Failure) -> Failure {
        let links = unwire(&host_interface_alias(&self.id()), None);
        let abort = Operation::Abort { id: self.id() };
        let agent = client::ask(&self.conf.socket, UNDO_LIMIT, abort).map(|_| ()).map_err(Failure::from);
        for left in [links, agent].into_iter().filter_map(Result::err) {
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
        unwire(&host_interface_alias(&self.id()), Some(&host_interface_name(&self.environment.pod())))?;
        self.tell(Operation::Del { id: self.id() })
    }

    fn check(&self) -> Result<(), Failure> {
        let previous = Previous::read(self.conf.previous.as_ref())?;
        let sandbox = namespace::open(self.environment.namespace.as_deref().unwrap_or(Path::new("")))?;
        let differences = previous.differences(&self.environment.interface, &sandbox, self.deadline)?;
        if !differences.is_empty() {
            let message = format!("{} is not as ADD left it: {}", self.id(), differences.join("; "));
            return Err(Failure::new(Code::CHANGED, message));
        }
        self.tell(Operation::Check { id: self.id() })
    }

    /// Without a list nothing is known to be stale, so nothing is taken away (CNI-60).
    fn gc(&self) -> Result<(), Failure> {
        let Some(keep) = self.conf.valid.clone() else { return Ok(()) };
        self.tell(Operation::Gc { network: self.conf.network.clone(), keep })
    }

    fn status(&self) -> Result<(), Failure> {
        self.tell(Operation::Status { network: self.conf.network.clone() }).map_err(|mut failure| {
            if failure.code == Code::LATER {
                failure.code = Code::UNAVAILABLE;
            }
            failure
        })
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
