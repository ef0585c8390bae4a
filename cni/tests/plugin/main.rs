//! The plugin against a scripted agent and real namespaces. Needs root.
//! In: what a runtime would say. Out: what it is told, and what is in the kernel afterwards.
//! Invariant: each test has a host and a pod namespace of its own; nothing is left on the machine.
//! Never: sleeps; the scripted agent answers at once or not at all.

mod calico;
mod delegation;
mod kit;

use cni::{
    client::{self, CallError},
    failure::{Code, Failure},
    protocol::Operation,
    result::HOST_MAC,
};
use kit::{COMMIT_FAULT, Node, Script, host_name, pod_path, within};
use model::IfaceName;
use netlink::{Socket, namespace};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    process::{Command, Stdio},
    time::Duration,
};

#[test]
fn calc_3_cni_40_add_wires_the_pod_as_calico_does_and_del_twice_leaves_nothing() {
    let node = Node::new(Script::Serves);
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
        assert_eq!(node.run("DEL", "c1", &node.pod_path(), json!({})), Ok(None));
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
fn cni_50_53_55_check_passes_silently_at_once_after_add_and_names_what_is_missing() {
    let node = Node::new(Script::Serves);
    let result = node.add("c1").expect("attached");
    let check = || node.run("CHECK", "c1", &node.pod_path(), json!({ "prevResult": result }));
    assert_eq!(check(), Ok(None));
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
    let node = Node::new(Script::Serves);
    let failure = node.run("CHECK", "c1", &node.pod_path(), json!({})).expect_err("no prevResult");
    assert_eq!(failure.code, Code::CONFIGURATION);
}

#[test]
fn cni_29_add_for_a_namespace_that_is_not_there_asks_nothing_and_leaves_nothing() {
    let node = Node::new(Script::Serves);
    let failure = node.run("ADD", "c1", "/run/netns/there-is-none", json!({})).expect_err("no namespace");
    assert_eq!(failure.code, Code::NAMESPACE);
    assert!(failure.message.contains("/run/netns/there-is-none"), "{failure}");
    assert!(node.agent.asked().is_empty(), "no address was taken");
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn a_refused_commit_is_undone_and_its_code_reaches_the_runtime() {
    let node = Node::new(Script::RefusesCommits);
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
    let node = Node::new(Script::Serves);
    let _other = foreign_eth0(&node.pod);
    let failure = node.add("c1").expect_err("eth0 is taken");
    assert!(failure.message.contains("eth0"), "{failure}");
    assert_eq!(node.links(), (vec![], vec!["eth0".to_owned()]));
    assert_eq!(node.agent.asked(), ["prepare", "abort"]);
}

#[test]
fn calc_14_a_failed_add_of_the_next_sandbox_leaves_the_former_one_connected() {
    let node = Node::new(Script::Serves);
    node.add("c1").expect("attached");
    let next = namespace::create().expect("a namespace");
    let _other = foreign_eth0(&next);
    let path = pod_path(&next);
    node.run("ADD", "c2", &path, json!({})).expect_err("eth0 is taken");
    assert_eq!(node.links(), (vec![host_name().0], vec!["eth0".to_owned()]));
    assert_eq!(node.agent.asked(), ["prepare", "commit", "prepare", "abort"]);
}

#[test]
fn calc_13_calc_16_cni_42_a_new_sandbox_of_a_pod_replaces_the_veth_and_the_old_ones_del_leaves_it() {
    let node = Node::new(Script::Serves);
    node.add("c1").expect("attached");
    node.add("c2").expect("attached again");
    assert_eq!(node.run("DEL", "c1", "", json!({})), Ok(None), "without a namespace");
    let host = within(&node.host, |socket| socket.link(&host_name())).expect("an answer").expect("the link");
    assert_eq!(host.alias, "tortie net/c2/eth0");
    assert_eq!(node.run("DEL", "c2", "/run/netns/there-is-none", json!({})), Ok(None), "its namespace is gone");
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn cni_44_del_for_nothing_succeeds_and_still_asks_the_agent() {
    let node = Node::new(Script::Serves);
    assert_eq!(node.run("DEL", "never", &node.pod_path(), json!({})), Ok(None));
    assert_eq!(node.agent.asked(), ["del"]);
}

#[test]
fn cni_12_e8_the_plugins_own_namespace_is_refused_for_add_and_del() {
    let node = Node::new(Script::Serves);
    for command in ["ADD", "DEL"] {
        let failure = node.run(command, "c1", "/proc/thread-self/ns/net", json!({})).expect_err("its own");
        assert_eq!(failure.code, Code::NAMESPACE, "{command}");
    }
    assert!(node.agent.asked().is_empty());
}

#[test]
fn cni_e11_e50_and_cni_70_an_agent_that_is_away_means_try_again_and_nothing_half_made() {
    let node = Node::new(Script::Serves);
    let away = json!({ "socket": "/run/there-is-none/tortie.sock", "timeoutSeconds": 1 });
    for command in ["ADD", "DEL"] {
        let failure = node.run(command, "c1", &node.pod_path(), away.clone()).expect_err("nobody listens");
        assert_eq!(failure.code, Code::LATER, "{command}");
        assert!(failure.message.contains("/run/there-is-none/tortie.sock"), "{failure}");
    }
    assert_eq!(node.run("STATUS", "c1", "", away).expect_err("nobody listens").code, Code::UNAVAILABLE);
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn cni_60_63_gc_asks_with_the_list_and_without_one_takes_nothing_away() {
    let node = Node::new(Script::Serves);
    assert_eq!(node.run("GC", "", "", json!({})), Ok(None));
    assert!(node.agent.asked().is_empty());
    let list = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    assert_eq!(node.run("GC", "", "", list), Ok(None));
    assert_eq!(node.agent.asked(), ["gc"]);
}

#[test]
fn cni_9_e1_commands_newer_than_the_configuration_are_refused_with_1() {
    let mut node = Node::new(Script::Serves);
    for (version, command) in [("0.3.1", "CHECK"), ("1.0.0", "GC"), ("0.4.0", "STATUS")] {
        node.version = version;
        let failure = node.run(command, "c1", &node.pod_path(), json!({})).expect_err("too old");
        assert_eq!(failure.code, Code::VERSION, "{command} in {version}");
    }
}

#[test]
fn cni_48_a_configuration_that_cannot_be_read_fails_del_too() {
    let node = Node::new(Script::Serves);
    let del = |more| node.run("DEL", "c1", &node.pod_path(), more).expect_err("not readable").code;
    assert_eq!(del(json!({ "name": "" })), Code::CONFIGURATION);
    assert_eq!(del(json!({ "mtu": "large" })), Code::CONFIGURATION);
    assert!(node.agent.asked().is_empty());
    let (output, success) =
        binary(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")], "{\"name\":");
    assert_eq!((serde_json::from_str::<Value>(&output).expect("JSON")["code"].as_u64(), success), (Some(6), false));
}

#[test]
fn cni_21_calc_15_a_second_interface_is_an_attachment_of_its_own_and_leaves_the_firsts_routes() {
    let mut node = Node::new(Script::Serves);
    let first = node.add("c1").expect("attached");
    node.interface = "net1";
    let second = node.add("c1").expect("attached too");
    let (host, pod) = node.links();
    assert_eq!((host.len(), pod), (2, vec!["eth0".to_owned(), "net1".to_owned()]));
    assert_ne!(first["interfaces"][0]["name"], second["interfaces"][0]["name"]);
    assert_eq!(second["interfaces"][1]["name"], "net1");
    assert_eq!((&second["ips"][0]["gateway"], &first["ips"][0]["gateway"]), (&json!("169.254.1.1"), &Value::Null));
    assert!(second["routes"][0]["priority"].as_u64().is_some_and(|metric| metric > 1024), "{second}");
    let index = |name: &str| {
        let name = IfaceName(name.to_owned());
        within(&node.pod, |socket| socket.link(&name)).expect("an answer").expect("the link").index
    };
    let routes = within(&node.pod, Socket::routes).expect("a listing");
    let through = |name| routes.iter().filter(|route| route.protocol == 3 && route.interface == index(name)).count();
    assert_eq!((through("eth0"), through("net1")), (3, 3), "{routes:#?}");
    let check =
        |node: &Node, result: &Value| node.run("CHECK", "c1", &node.pod_path(), json!({ "prevResult": result }));
    assert_eq!(check(&node, &second), Ok(None));
    assert!(check(&node, &first).is_err(), "cni_56 is about the interface that was added");
    node.run("DEL", "c1", &node.pod_path(), json!({})).expect("detached");
    assert_eq!(node.links(), (vec![host_name().0], vec!["eth0".to_owned()]));
    node.interface = "eth0";
    assert_eq!(check(&node, &first), Ok(None));
}

#[test]
fn cni_56_check_is_about_the_interface_and_namespace_of_add() {
    let node = Node::new(Script::Serves);
    let result = node.add("c1").expect("attached");
    let other = namespace::create().expect("a namespace");
    let failure = node.run("CHECK", "c1", &pod_path(&other), json!({ "prevResult": result })).expect_err("not there");
    assert!(failure.message.contains("eth0 is gone"), "{failure}");
}

#[test]
fn cni_22_51_add_and_check_stand_among_other_plugins() {
    let node = Node::new(Script::Serves);
    let before = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "before0", "sandbox": "/run/elsewhere"}],
        "ips": [{"address": "10.9.9.9/24", "interface": 0}], "routes": [{"dst": "10.9.0.0/16", "gw": "10.9.9.1"}]});
    let result = node.run("ADD", "c1", &node.pod_path(), json!({ "prevResult": before }));
    let mut result = result.expect("attached").expect("a result");
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(3));
    // As a later plugin hands it on: an interface and a route of its own, which may be gone again.
    result["interfaces"].as_array_mut().expect("a list").push(json!({"name": "after0"}));
    result["routes"].as_array_mut().expect("a list").push(json!({"dst": "10.8.0.0/16", "gw": "10.65.0.9"}));
    assert_eq!(node.run("CHECK", "c1", &node.pod_path(), json!({ "prevResult": result })), Ok(None));
}

/// Begins an ADD by the built binary.
fn begin_add(node: &Node) -> std::process::Child {
    let (variables, conf) = (node.variables("ADD", "c1", &node.pod_path()), node.conf(json!({})).to_string());
    let start = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tortie-cni"))
            .env_clear()
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        child.stdin.take().expect("piped").write_all(conf.as_bytes()).expect("written");
        child
    };
    namespace::inside(&node.host, start).expect("inside")
}

#[test]
fn cni_15_an_add_killed_in_either_phase_leaves_nothing_after_del() {
    for (phase, wired) in [("prepare", 0), ("commit", 1)] {
        let node = Node::new(Script::StallsAt(phase));
        let mut child = begin_add(&node);
        node.agent.stalled.recv().expect("it got there");
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(node.links().0.len(), wired, "{phase}");
        assert_eq!(node.run("DEL", "c1", &node.pod_path(), json!({})), Ok(None));
        assert_eq!(node.links(), (vec![], vec![]), "{phase}");
        assert_eq!(node.agent.asked().last(), Some(&"del"));
    }
}

/// Runs the built binary; its output and whether it says success.
fn binary(variables: &[(&str, &str)], input: &str) -> (String, bool) {
    binary_with(&[], variables, input)
}

fn binary_with(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> (String, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tortie-cni"))
        .args(arguments)
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
fn cni_10_11_version_answers_in_the_asked_version_and_without_any_input() {
    for (input, version) in [(r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), ("", "1.1.0")] {
        let (output, success) = binary(&[("CNI_COMMAND", "VERSION")], input);
        let expected = json!({"cniVersion": version, "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
        assert_eq!(serde_json::from_str::<Value>(&output).expect("JSON"), expected);
        assert!(success);
    }
}

#[test]
fn cni_1_2_an_error_is_one_json_object_on_standard_output_and_a_bad_exit() {
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
fn calc_28_a_silent_agent_is_waited_for_no_longer_than_the_deadline() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("silent.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let status = Operation::Status { network: "net".to_owned(), delegated: false, pod_cidrs: vec![] };
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
        let status = Operation::Status { network: "net".to_owned(), delegated: false, pod_cidrs: vec![] };
        let error = client::ask(&socket, Duration::from_secs(5), status).expect_err("no reply of ours");
        assert!(matches!(error, CallError::Unreadable { .. }) && error.to_string().contains("version"), "{error}");
        speaker.join().expect("it ends");
    }
}
