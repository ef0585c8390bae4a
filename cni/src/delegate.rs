//! Another IPAM plugin, called as the CNI specification says: our environment, our configuration, its answer.
//! In: its name and what the runtime gave us. Out: addresses, or its error in its own words.
//! Invariant: it gets the bytes that we got, but for `usePodCidr`; it is waited for no longer than the deadline, then killed.
//! Never: passes on code 3, for it would make the runtime skip its DEL (CNI-E3).

use crate::{
    environment::Environment,
    failure::{Code, Failure},
};
use model::Cidr;
use serde::Deserialize;
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// More than any plugin answers.
const OUTPUT_MAX: u64 = 1 << 20;
/// Between two looks whether it has ended, once it has closed its output.
const PAUSE: Duration = Duration::from_millis(1);

/// One plugin for one command of the runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delegate<'a> {
    pub name: &'a str,
    pub environment: &'a Environment,
}

/// What it gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub addresses: Vec<IpAddr>,
    /// Destinations; through which gateway is ours to say.
    pub routes: Vec<Cidr>,
    pub dns: Option<Value>,
}

/// Its result in all shapes: a list of addresses since 0.3.0, one a family before.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    ips: Vec<Ip>,
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
    #[serde(default)]
    routes: Vec<AnswerRoute>,
    dns: Option<Value>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
    #[serde(default)]
    routes: Vec<AnswerRoute>,
}

#[derive(Deserialize)]
struct AnswerRoute {
    dst: Cidr,
}

/// Its error object.
#[derive(Deserialize)]
struct Said {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Delegate<'_> {
    /// ADD.
    pub(crate) fn add(&self, input: &[u8], limit: Duration) -> Result<Assigned, Failure> {
        let output = self.call("ADD", input, limit)?;
        let unreadable = |why: &dyn std::fmt::Display| self.failure(Code::DECODE, &format!("its result: {why}"));
        let answer: Answer = serde_json::from_slice(&output).map_err(|error| unreadable(&error))?;
        let old: Vec<OldIp> = answer.ip4.into_iter().chain(answer.ip6).collect();
        let texts = answer.ips.iter().map(|ip| &ip.address).chain(old.iter().map(|ip| &ip.ip));
        let address = |text: &String| {
            let address = text.split('/').next().unwrap_or_default().parse::<IpAddr>();
            address.map_err(|_| unreadable(&format!("{text:?} is no address")))
        };
        let addresses: Vec<_> = texts.map(address).collect::<Result<_, _>>()?;
        let routes = answer.routes.iter().chain(old.iter().flat_map(|ip| &ip.routes));
        let routes = routes.map(|route| route.dst).collect();
        Ok(Assigned { addresses, routes, dns: answer.dns.filter(says_something) })
    }

    /// A command that answers nothing.
    pub(crate) fn tell(&self, command: &str, input: &[u8], limit: Duration) -> Result<(), Failure> {
        self.call(command, input, limit).map(drop)
    }

    fn call(&self, command: &str, input: &[u8], limit: Duration) -> Result<Vec<u8>, Failure> {
        let end = Instant::now() + limit;
        let mut child = Command::new(self.find()?)
            .envs(self.environment.given.iter().map(|(name, value)| (*name, value)))
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| self.failure(Code::DELEGATE, &format!("cannot be started: {error}")))?;
        let output = self.output(&mut child, input, end);
        if output.is_err() {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
        }
        let status = child.wait();
        match (output?, status.is_ok_and(|status| status.success())) {
            (output, true) => Ok(output),
            (output, false) => Err(self.said(&output)),
        }
    }

    /// Feeds it and takes what it says; both pipes at once, for either may fill.
    fn output(&self, child: &mut Child, input: &[u8], end: Instant) -> Result<Vec<u8>, Failure> {
        let late = || self.failure(Code::LATER, "no answer in time; everything is undone, try again");
        let input = input.to_vec();
        let stdin = child.stdin.take();
        // One that does not read its input has an answer all the same.
        thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&input)));
        let (send, receive) = channel();
        let stdout = child.stdout.take();
        thread::spawn(move || {
            let mut output = Vec::new();
            let read = stdout.map_or(Ok(0), |pipe| pipe.take(OUTPUT_MAX).read_to_end(&mut output));
            send.send(read.map(|_| output))
        });
        let output = match receive.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(output) => output.map_err(|error| self.failure(Code::IO, &format!("its answer: {error}")))?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(late()),
        };
        while child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() >= end {
                return Err(late());
            }
            thread::sleep(PAUSE);
        }
        Ok(output)
    }

    fn find(&self) -> Result<PathBuf, Failure> {
        if self.environment.path.is_empty() {
            let message = format!("CNI_PATH is missing: the IPAM plugin {:?} is looked for there", self.name);
            return Err(Failure::new(Code::ENVIRONMENT, message));
        }
        let there = self.environment.path.iter().map(|dir| dir.join(self.name)).find(|path| path.is_file());
        there.ok_or_else(|| {
            let places: Vec<_> = self.environment.path.iter().map(|dir| dir.display().to_string()).collect();
            self.failure(Code::CONFIGURATION, &format!("is not in CNI_PATH ({})", places.join(", ")))
        })
    }

    /// Its error, under its name.
    fn said(&self, output: &[u8]) -> Failure {
        let Ok(Said { code, msg, details }) = serde_json::from_slice(output) else {
            return self.failure(Code::DELEGATE, "failed and said nothing that can be read");
        };
        let code = if [0, Code::UNKNOWN_CONTAINER.0].contains(&code) { Code::DELEGATE } else { Code(code) };
        Failure { details, ..self.failure(code, &msg) }
    }

    fn failure(&self, code: Code, what: &str) -> Failure {
        Failure::new(code, format!("IPAM plugin {:?}: {what}", self.name))
    }
}

fn says_something(dns: &Value) -> bool {
    dns.as_object().is_some_and(|fields| !fields.is_empty())
}
