//! The plugin against a scripted agent and real namespaces. Needs root.
//! In: what a runtime would say. Out: what it is told, and what is in the kernel afterwards.
//! Invariant: each test has a host and a pod namespace of its own; nothing is left on the machine.
//! Never: sleeps; the scripted agent answers at once or not at all.

use cni::{
    client::{self, CallError},
    environment::Environment,
    failure::{Code, Failure},
    name::host_interface_name,
    plugin,
    protocol::{Answer, Fault, Operation, Prepared, Reply, Request},
    result::HOST_MAC,
};
use model::{IfaceName, PodId};
use netlink::{LinkChange, Socket, namespace};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

const COMMIT_FAULT: u32 = 11;

/// An agent that answers by script and remembers what it was asked.
struct Agent {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Operation>>>,
}

impl Agent {
    /// Listens until the test process ends; `host` is where it sets host ends up.
    fn start(host: &OwnedFd, commits: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("agent.sock")).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heard, host) = (Arc::clone(&asked), host.try_clone().expect("a descriptor"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.expect("a connection"), &host, commits, &heard);
            }
        });
        Self { directory, asked }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// The kinds of operations asked so far, in order.
    fn asked(&self) -> Vec<&'static str> {
        let kind = |operation: &Operation| match operation {
            Operation::Prepare(_) => "prepare",
            Operation::Commit { .. } => "commit",
            Operation::Abort { .. } => "abort",
            Operation::Check { .. } => "check",
            Operation::Del { .. } => "del",
            Operation::Gc { .. } => "gc",
            Operation::Status { .. } => "status",
            Operation::Query(_) => "query",
        };
        self.asked.lock().expect("not poisoned").iter().map(kind).collect()
    }
}

fn serve(mut stream: UnixStream, host: &OwnedFd, commits: bool, heard: &Mutex<Vec<Operation>>) {
    let mut head = [0; 4];
    stream.read_exact(&mut head).expect("a length");
    let mut body = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut body).expect("a body");
    let request: Request = serde_json::from_slice(&body).expect("a request");
    heard.lock().expect("not poisoned").push(request.operation.clone());
    let reply = answer(&request.operation, host, commits);
    let body = serde_json::to_vec(&reply).expect("a reply");
    stream.write_all(&client::frame(&body).expect("short enough")).expect("sent");
}

fn answer(operation: &Operation, host: &OwnedFd, commits: bool) -> Reply {
    match operation {
        Operation::Prepare(wish) => Ok(Answer::Prepared(Prepared {
            host_interface: host_interface_name(&wish.pod),
            mac: wish.mac,
            addresses: vec!["10.65.0.2".parse().expect("one"), "fd00:65::2".parse().expect("one")],
            mtu: wish.mtu.unwrap_or(1450),
        })),
        Operation::Commit { .. } if !commits => {
            Err(Fault { code: COMMIT_FAULT, message: "no room for its policy".to_owned(), details: String::new() })
        }
        Operation::Commit { .. } => {
            within(host, |socket| {
                let link = socket.link(&host_name()).expect("an answer").expect("the wired link");
                assert!(!link.up, "the host end stays down until policy is in force");
                socket.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            });
            Ok(Answer::Done)
        }
        _ => Ok(Answer::Done),
    }
}

fn host_name() -> IfaceName {
    host_interface_name(&PodId::new("prod", "web"))
}

fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
    namespace::inside(namespace, || work(&mut Socket::open().expect("a socket"))).expect("inside")
}

/// A host and a pod, as a runtime sees them.
struct Node {
    host: OwnedFd,
    pod: OwnedFd,
    agent: Agent,
    version: &'static str,
}

impl Node {
    fn new(commits: bool) -> Self {
        let host = namespace::create().expect("a namespace: is this run by root?");
        let agent = Agent::start(&host, commits);
        Self { pod: namespace::create().expect("a namespace"), agent, host, version: "1.1.0" }
    }

    fn pod_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.pod.as_raw_fd())
    }

    fn conf(&self, more: Value) -> Value {
        let mut conf = json!({
            "cniVersion": self.version, "name": "net", "type": "tortie-cni",
            "socket": self.agent.socket(), "ipam": {"type": "tortie"},
        });
        conf.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        conf
    }

    fn run(&self, command: &str, container: &str, netns: &str, more: Value) -> Result<Option<Value>, Failure> {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web"),
        ];
        let lookup =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let environment = Environment::read(lookup)?.expect("a command");
        let input = self.conf(more).to_string();
        namespace::inside(&self.host, || plugin::run(&environment, input.as_bytes())).expect("inside")
    }

    fn add(&self, container: &str) -> Result<Value, Failure> {
        Ok(self.run("ADD", container, &self.pod_path(), json!({}))?.expect("a result"))
    }

    /// Names of the links on the host and in the pod, loopback left out.
    fn links(&self) -> (Vec<String>, Vec<String>) {
        let names = |namespace| {
            let links = within(namespace, Socket::links).expect("a listing");
            links.into_iter().map(|link| link.name.0).filter(|name| name != "lo").collect()
        };
        (names(&self.host), names(&self.pod))
    }
}

#[test]
fn calc_3_add_wires_the_pod_as_calico_does_and_del_twice_leaves_nothing() {
    let node = Node::new(true);
    let result = node.add("c1").expect("attached");
    assert_eq!(node.agent.asked(), ["prepare", "commit"]);
    assert_eq!(node.links(), (vec![host_name().0], vec!["eth0".to_owned()]));
    let host = within(&node.host, |socket| socket.link(&host_name())).expect("an answer").expect("the link");
    assert_eq!((host.mac, host.mtu, host.alias.as_str()), (Some(HOST_MAC), 1450, "tortie net/c1/eth0"));
    assert_eq!(pod_addresses(&node), ["10.65.0.2/32", "fd00:65::2/128"]);
    assert_eq!(
        pod_routes(&node),
        ["0.0.0.0/0 via 169.254.1.1", "169.254.1.1/32 link", "::/0 via fe80::ecee:eeff:feee:eeee"]
    );
    assert_eq!(result["interfaces"][1]["sandbox"], node.pod_path());
    for _ in 0..2 {
        assert_eq!(node.run("DEL", "c1", &node.pod_path(), json!({})), Ok(None), "cni_40");
        assert_eq!(node.links(), (vec![], vec![]));
    }
    assert_eq!(node.agent.asked(), ["prepare", "commit", "del", "del"]);
}

fn pod_addresses(node: &Node) -> Vec<String> {
    let listing = within(&node.pod, Socket::addresses).expect("a listing");
    let mut own: Vec<_> = listing
        .iter()
        .filter(|own| own.global && !own.tentative)
        .map(|own| format!("{}/{}", own.address, own.prefix_len))
        .collect();
    own.sort();
    own
}

/// Those of protocol boot.
fn pod_routes(node: &Node) -> Vec<String> {
    let text = |route: &netlink::Route| match route.gateway {
        Some(gateway) => format!("{} via {gateway}", route.destination),
        None => format!("{} link", route.destination),
    };
    let listing = within(&node.pod, Socket::routes).expect("a listing");
    let mut own: Vec<_> = listing.iter().filter(|route| route.protocol == 3).map(text).collect();
    own.sort();
    own
}

#[test]
fn cni_50_check_passes_after_add_and_names_what_is_missing() {
    let node = Node::new(true);
    let result = node.add("c1").expect("attached");
    let check = || node.run("CHECK", "c1", &node.pod_path(), json!({ "prevResult": result }));
    assert_eq!(check(), Ok(None), "cni_53 and cni_55");
    within(&node.pod, |socket| {
        let out = socket
            .routes()
            .expect("a listing")
            .into_iter()
            .find(|route| route.destination.prefix_len() == 0 && route.destination.is_v4());
        assert!(socket.delete_route(&out.expect("a default route")).expect("deleted"));
    });
    let failure = check().expect_err("a route is gone");
    assert_eq!(failure.code, Code::CHANGED);
    assert!(failure.message.contains("0.0.0.0/0") && !failure.message.contains("::/0"), "{failure}");
    within(&node.host, |socket| {
        let link = socket.link(&host_name()).expect("an answer").expect("the link");
        socket.delete_link(link.index).expect("deleted");
    });
    assert!(check().expect_err("the interface is gone").message.contains("eth0"));
}

#[test]
fn cni_50_check_without_the_result_of_add_is_refused() {
    let node = Node::new(true);
    let failure = node.run("CHECK", "c1", &node.pod_path(), json!({})).expect_err("no prevResult");
    assert_eq!(failure.code, Code::CONFIGURATION);
}

#[test]
fn cni_29_add_for_a_namespace_that_is_not_there_asks_nothing_and_leaves_nothing() {
    let node = Node::new(true);
    let failure = node.run("ADD", "c1", "/run/netns/there-is-none", json!({})).expect_err("no namespace");
    assert_eq!(failure.code, Code::NAMESPACE);
    assert!(failure.message.contains("/run/netns/there-is-none"), "{failure}");
    assert!(node.agent.asked().is_empty(), "no address was taken");
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn a_refused_commit_is_undone_and_its_code_reaches_the_runtime() {
    let node = Node::new(false);
    let failure = node.add("c1").expect_err("refused");
    assert_eq!((failure.code, failure.message.as_str()), (Code(COMMIT_FAULT), "no room for its policy"));
    assert_eq!(node.agent.asked(), ["prepare", "commit", "abort"]);
    assert_eq!(node.links(), (vec![], vec![]));
}

/// An `eth0` of somebody else's in `pod`; gone with the namespace that is returned.
fn foreign_eth0(pod: &OwnedFd) -> OwnedFd {
    let other = namespace::create().expect("a namespace");
    let spec = netlink::VethSpec {
        name: &IfaceName("eth0".to_owned()),
        mac: HOST_MAC,
        mtu: 1500,
        peer_name: &IfaceName("far".to_owned()),
        peer_mac: None,
        peer_namespace: other.as_fd(),
    };
    within(pod, |socket| socket.create_veth(&spec)).expect("a veth");
    other
}

#[test]
fn cni_20_an_interface_of_another_owner_in_the_pod_is_refused_and_kept() {
    let node = Node::new(true);
    let _other = foreign_eth0(&node.pod);
    let failure = node.add("c1").expect_err("eth0 is taken");
    assert!(failure.message.contains("eth0"), "{failure}");
    assert_eq!(node.links(), (vec![], vec!["eth0".to_owned()]));
    assert_eq!(node.agent.asked(), ["prepare", "abort"]);
}

#[test]
fn calc_14_a_failed_add_of_the_next_sandbox_leaves_the_former_one_connected() {
    let node = Node::new(true);
    node.add("c1").expect("attached");
    let next = namespace::create().expect("a namespace");
    let _other = foreign_eth0(&next);
    let path = format!("/proc/{}/fd/{}", std::process::id(), next.as_raw_fd());
    node.run("ADD", "c2", &path, json!({})).expect_err("eth0 is taken");
    assert_eq!(node.links(), (vec![host_name().0], vec!["eth0".to_owned()]));
    assert_eq!(node.agent.asked(), ["prepare", "commit", "prepare", "abort"]);
}

#[test]
fn calc_13_a_new_sandbox_of_a_pod_replaces_the_veth_and_calc_16_the_old_ones_del_leaves_it() {
    let node = Node::new(true);
    node.add("c1").expect("attached");
    node.add("c2").expect("attached again");
    assert_eq!(node.run("DEL", "c1", "", json!({})), Ok(None), "cni_42: without a namespace");
    let host = within(&node.host, |socket| socket.link(&host_name())).expect("an answer").expect("the link");
    assert_eq!(host.alias, "tortie net/c2/eth0");
    assert_eq!(node.run("DEL", "c2", "/run/netns/there-is-none", json!({})), Ok(None), "cni_42: gone");
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn cni_44_del_for_nothing_succeeds_and_still_asks_the_agent() {
    let node = Node::new(true);
    assert_eq!(node.run("DEL", "never", &node.pod_path(), json!({})), Ok(None));
    assert_eq!(node.agent.asked(), ["del"]);
}

#[test]
fn cni_12_the_plugins_own_namespace_is_refused_for_add_and_del() {
    let node = Node::new(true);
    for command in ["ADD", "DEL"] {
        let failure = node.run(command, "c1", "/proc/thread-self/ns/net", json!({})).expect_err("its own");
        assert_eq!(failure.code, Code::NAMESPACE, "{command}");
    }
    assert!(node.agent.asked().is_empty());
}

#[test]
fn cni_e11_an_agent_that_is_away_means_try_again_and_nothing_half_made() {
    let node = Node::new(true);
    let away = json!({ "socket": "/run/there-is-none/tortie.sock" });
    for command in ["ADD", "DEL"] {
        let failure = node.run(command, "c1", &node.pod_path(), away.clone()).expect_err("nobody listens");
        assert_eq!(failure.code, Code::LATER, "{command}");
        assert!(failure.message.contains("/run/there-is-none/tortie.sock"), "{failure}");
    }
    assert_eq!(node.run("STATUS", "c1", "", away).expect_err("nobody listens").code, Code::UNAVAILABLE, "cni_70");
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn cni_60_gc_asks_with_the_list_and_without_one_takes_nothing_away() {
    let node = Node::new(true);
    assert_eq!(node.run("GC", "", "", json!({})), Ok(None));
    assert!(node.agent.asked().is_empty());
    let list = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    assert_eq!(node.run("GC", "", "", list), Ok(None));
    assert_eq!(node.agent.asked(), ["gc"]);
}

#[test]
fn cni_9_commands_newer_than_the_configuration_are_refused_with_1() {
    let mut node = Node::new(true);
    for (version, command) in [("0.3.1", "CHECK"), ("1.0.0", "GC"), ("0.4.0", "STATUS")] {
        node.version = version;
        let failure = node.run(command, "c1", &node.pod_path(), json!({})).expect_err("too old");
        assert_eq!(failure.code, Code::VERSION, "{command} in {version}");
    }
}

/// Runs the built binary; its output and whether it says success.
fn binary(variables: &[(&str, &str)], input: &str) -> (String, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tortie-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    // It may end without reading.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    (String::from_utf8(output.stdout).expect("text"), output.status.success())
}

#[test]
fn cni_10_version_answers_in_the_asked_version_and_without_any_input() {
    for (input, version) in [(r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), ("", "1.1.0")] {
        let (output, success) = binary(&[("CNI_COMMAND", "VERSION")], input);
        let expected = json!({"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
        assert_eq!(serde_json::from_str::<Value>(&output).expect("JSON"), expected);
        assert!(success);
    }
}

#[test]
fn cni_2_an_error_is_one_json_object_on_standard_output_and_a_bad_exit() {
    let (output, success) = binary(&[("CNI_COMMAND", "ADD")], r#"{"cniVersion":"1.0.0"}"#);
    let error: Value = serde_json::from_str(&output).expect("JSON");
    assert!(!success);
    assert_eq!((&error["cniVersion"], &error["code"]), (&json!("1.0.0"), &json!(4)));
    assert!(error["msg"].as_str().expect("a message").contains("CNI_NETNS"));
}

#[test]
fn cni_7_without_a_command_nothing_is_on_standard_output() {
    assert_eq!(binary(&[], ""), (String::new(), true));
}

#[test]
fn a_silent_agent_is_waited_for_no_longer_than_the_deadline() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("silent.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let status = Operation::Status { network: "net".to_owned() };
    let error = client::ask(&socket, Duration::from_millis(10), status).expect_err("no answer");
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    assert_eq!(Failure::from(error).code, Code::LATER);
}

#[test]
fn an_agent_that_speaks_something_else_is_an_error_that_names_the_versions() {
    for torn in [[&5u32.to_be_bytes(), b"hello".as_slice()].concat(), u32::MAX.to_be_bytes().to_vec()] {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("odd.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let speaker = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.write_all(&torn).expect("sent");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        let status = Operation::Status { network: "net".to_owned() };
        let error = client::ask(&socket, Duration::from_secs(5), status).expect_err("no reply of ours");
        assert!(matches!(error, CallError::Unreadable { .. }) && error.to_string().contains("version"), "{error}");
        speaker.join().expect("it ends");
    }
}
