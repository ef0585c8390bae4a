//! What the tests of the plugin share: a scripted agent, a scripted IPAM plugin, a node with a pod.
//! In: scripts. Out: what was asked, and what is in the kernel.
//! Invariant: each node has namespaces of its own, and they go with it.
//! Never: answers otherwise than its script.

use cni::{
    client,
    environment::Environment,
    failure::Failure,
    name::host_interface_name,
    plugin,
    protocol::{Answer, Fault, Operation, Prepared, Reply, Request},
};
use model::{IfaceName, PodId};
use netlink::{LinkChange, Socket, namespace};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::symlink,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
};

pub const COMMIT_FAULT: u32 = 11;

/// How an agent behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Everything is done.
    Serves,
    /// Commits are refused.
    RefusesCommits,
    /// The first request of this kind is never answered.
    StallsAt(&'static str),
    /// No ADD can be served, for this reason.
    Unfit(u32),
}

/// An agent that answers by script and remembers what it was asked.
pub struct Agent {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Operation>>>,
    /// Hears of the request that is not answered.
    pub stalled: Receiver<()>,
}

impl Agent {
    /// Listens until the test process ends; `host` is where it sets host ends up.
    pub fn start(host: &OwnedFd, script: Script) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("agent.sock")).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (stall, stalled) = channel();
        let served = Served { host: host.try_clone().expect("a descriptor"), heard: Arc::clone(&asked), stall };
        std::thread::spawn(move || {
            let (mut script, mut kept) = (script, Vec::new());
            for stream in listener.incoming() {
                if let Some(stream) = served.serve(stream.expect("a connection"), script) {
                    kept.push(stream);
                    script = Script::Serves;
                }
            }
        });
        Self { directory, asked, stalled }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// What was asked so far, in order.
    pub fn operations(&self) -> Vec<Operation> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// The kinds of it.
    pub fn asked(&self) -> Vec<&'static str> {
        self.operations().iter().map(Operation::name).collect()
    }
}

struct Served {
    host: OwnedFd,
    heard: Arc<Mutex<Vec<Operation>>>,
    stall: Sender<()>,
}

impl Served {
    /// The connection, where it is left without an answer.
    fn serve(&self, mut stream: UnixStream, script: Script) -> Option<UnixStream> {
        let mut head = [0; 4];
        stream.read_exact(&mut head).expect("a length");
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        stream.read_exact(&mut body).expect("a body");
        let request: Request = serde_json::from_slice(&body).expect("a request");
        self.heard.lock().expect("not poisoned").push(request.operation.clone());
        if script == Script::StallsAt(request.operation.name()) {
            self.stall.send(()).expect("somebody waits for it");
            return Some(stream);
        }
        let body = serde_json::to_vec(&self.answer(&request.operation, script)).expect("a reply");
        stream.write_all(&client::frame(&body).expect("short enough")).expect("sent");
        None
    }

    fn answer(&self, operation: &Operation, script: Script) -> Reply {
        match operation {
            Operation::Prepare(wish) => Ok(Answer::Prepared(Prepared {
                host_interface: host_interface_name(&wish.pod, &wish.id.interface),
                mac: wish.mac,
                addresses: if wish.delegated { vec![] } else { addresses(&wish.id.interface) },
                mtu: wish.mtu.unwrap_or(1450),
                pod_cidrs: vec![],
            })),
            Operation::Commit { .. } if script == Script::RefusesCommits => {
                Err(Fault { code: COMMIT_FAULT, message: "no room for its policy".to_owned(), details: String::new() })
            }
            Operation::Status { .. } if let Script::Unfit(code) = script => {
                Err(Fault { code, message: "the agent is still reading".to_owned(), details: String::new() })
            }
            Operation::Commit { id, .. } => {
                within(&self.host, |socket| {
                    let name = host_interface_name(&PodId::new("prod", "web"), &id.interface);
                    let link = socket.link(&name).expect("an answer").expect("the wired link");
                    assert!(!link.up, "the host end stays down until policy is in force");
                    socket.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
                });
                Ok(Answer::Done)
            }
            _ => Ok(Answer::Done),
        }
    }
}

fn addresses(interface: &str) -> Vec<std::net::IpAddr> {
    let last = if interface == "eth0" { 2 } else { 3 };
    [format!("10.65.0.{last}"), format!("fd00:65::{last}")].map(|text| text.parse().expect("an address")).into()
}

pub fn host_name() -> IfaceName {
    host_interface_name(&PodId::new("prod", "web"), "eth0")
}

pub fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
    namespace::inside(namespace, || work(&mut Socket::open().expect("a socket"))).expect("inside")
}

/// How this process names a namespace that it holds.
pub fn pod_path(namespace: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// An IPAM plugin that answers by script and remembers what it was called with: `ipam.sh`, under another name.
pub struct Ipam {
    directory: tempfile::TempDir,
}

impl Ipam {
    pub fn new(result: &Value) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin/ipam.sh");
        symlink(script, directory.path().join("scripted")).expect("a link");
        let ipam = Self { directory };
        ipam.write("result", &result.to_string());
        ipam
    }

    /// For `CNI_PATH`.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What it answers to one command instead, failing.
    pub fn fail(&self, command: &str, said: &str) {
        self.write(&format!("fail.{command}"), said);
    }

    /// Commands and containers it was called with, in order.
    pub fn called(&self) -> Vec<String> {
        self.read("called").lines().map(str::to_owned).collect()
    }

    /// Its input and its environment at one command.
    pub fn got(&self, command: &str) -> (Value, String) {
        let input = serde_json::from_str(&self.read(&format!("input.{command}"))).expect("JSON");
        (input, self.read(&format!("environment.{command}")))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }
}

/// A host and a pod, as a runtime sees them.
pub struct Node {
    pub host: OwnedFd,
    pub pod: OwnedFd,
    pub agent: Agent,
    pub version: &'static str,
    pub interface: &'static str,
    /// `CNI_PATH`.
    pub path: String,
}

impl Node {
    pub fn new(script: Script) -> Self {
        let host = namespace::create().expect("a namespace: is this run by root?");
        let agent = Agent::start(&host, script);
        let pod = namespace::create().expect("a namespace");
        Self { pod, agent, host, version: "1.1.0", interface: "eth0", path: String::new() }
    }

    pub fn pod_path(&self) -> String {
        pod_path(&self.pod)
    }

    pub fn conf(&self, more: Value) -> Value {
        let mut conf = json!({
            "cniVersion": self.version, "name": "net", "type": "tortie-cni",
            "socket": self.agent.socket(), "ipam": {"type": "tortie"},
        });
        conf.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        conf
    }

    /// The environment of a call.
    pub fn variables(&self, command: &str, container: &str, netns: &str) -> Vec<(&'static str, String)> {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web";
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", self.interface),
            ("CNI_ARGS", args),
            ("CNI_PATH", &self.path),
        ];
        variables.map(|(name, value)| (name, value.to_owned())).into()
    }

    pub fn run(&self, command: &str, container: &str, netns: &str, more: Value) -> Result<Option<Value>, Failure> {
        let variables = self.variables(command, container, netns);
        let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let environment = Environment::read(lookup)?.expect("a command");
        let input = self.conf(more).to_string();
        namespace::inside(&self.host, || plugin::run(&environment, input.as_bytes())).expect("inside")
    }

    pub fn add(&self, container: &str) -> Result<Value, Failure> {
        Ok(self.run("ADD", container, &self.pod_path(), json!({}))?.expect("a result"))
    }

    /// Names of the links on the host and in the pod, loopback left out.
    pub fn links(&self) -> (Vec<String>, Vec<String>) {
        let names = |namespace| {
            let links = within(namespace, Socket::links).expect("a listing");
            links.into_iter().map(|link| link.name.0).filter(|name| name != "lo").collect()
        };
        (names(&self.host), names(&self.pod))
    }
}
