//! What whoever comes from Calico's plugin relies on, beyond the wiring itself.
//! In: keys and arguments of Calico's plugin. Out: what the runtime or the installer is told, and what is in the pod.
//! Invariant: as in the other tests here.
//! Never: Calico's own plugin.

use crate::{
    begin_add, binary_with,
    kit::{Node, Script, host_name, within},
};
use cni::{failure::Code, result::HOST_MAC};
use model::IfaceName;
use netlink::{LOOPBACK, LinkChange, VethSpec, namespace, sysctl};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    thread,
};

#[test]
fn calc_4_whatever_bears_the_host_sides_name_is_replaced() {
    let node = Node::new(Script::Serves);
    let other = namespace::create().expect("a namespace");
    let spec = VethSpec {
        name: &host_name(),
        mac: HOST_MAC,
        mtu: 1500,
        peer_name: &IfaceName("left".to_owned()),
        peer_mac: None,
        peer_namespace: other.as_fd(),
    };
    within(&node.host, |socket| socket.create_veth(&spec)).expect("a veth of nobody's");
    node.add("c1").expect("attached");
    let host = within(&node.host, |socket| socket.link(&host_name())).expect("an answer").expect("the link");
    assert_eq!(host.alias, "tortie net/c1/eth0");
    let left = within(&other, |socket| socket.link(&IfaceName("left".to_owned()))).expect("an answer");
    assert!(left.is_none(), "its other side went with it");
}

/// Answers the first GET in `host` with a status. Gives where.
fn gate(host: &OwnedFd, status: &'static str) -> String {
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    within(host, |socket| socket.set_link(LOOPBACK, &up)).expect("up");
    let listener = namespace::inside(host, || TcpListener::bind("127.0.0.1:0").expect("a port")).expect("inside");
    let url = format!("http://{}/readiness", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _asked = stream.read(&mut [0; 512]).expect("a request");
        stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).expect("answered");
    });
    url
}

#[test]
fn calc_19_a_pod_is_attached_once_the_readiness_gates_are_open_and_before_that_nothing_is_asked() {
    let node = Node::new(Script::Serves);
    let gates = |last: &'static str| json!([gate(&node.host, "200 OK"), gate(&node.host, last)]);
    let add = |gates: Value| {
        let more = json!({ "readiness_gates": gates, "timeoutSeconds": 1 });
        node.run("ADD", "c1", &node.pod_path(), more)
    };
    let shut = gates("503 Service Unavailable");
    let failure = add(shut.clone()).expect_err("it is shut");
    assert_eq!(failure.code, Code::LATER);
    assert!(failure.message.contains(shut[1].as_str().expect("a URL")), "{failure}");
    assert_eq!((node.agent.asked(), node.links()), (vec![], (vec![], vec![])));
    add(gates("204 No Content")).expect("attached");
    // DEL is never kept waiting.
    let closed = json!({ "readiness_gates": shut });
    assert_eq!(node.run("DEL", "c1", &node.pod_path(), closed), Ok(None));
    assert_eq!(node.agent.asked(), ["prepare", "commit", "del"]);
    let secret = json!({ "readiness_gates": ["https://localhost/"] });
    let failure = node.run("STATUS", "", "", secret).expect_err("it is said before a pod comes");
    assert!(failure.code == Code::UNSUPPORTED && failure.message.contains("https://localhost/"), "{failure}");
}

#[test]
fn calc_21_the_version_is_printed_and_the_datastore_is_tested_by_whether_the_agent_has_heard_it() {
    let (version, success) = binary_with(&["-v"], &[], "");
    assert_eq!((version.trim_end(), success), (concat!("tortie-cni ", env!("CARGO_PKG_VERSION")), true));
    // Exhausted addresses and limited pods are no fault of the datastore.
    for script in [Script::Serves, Script::Unfit(50), Script::Unfit(51)] {
        let node = Node::new(script);
        let tested = binary_with(&["-t"], &[], &node.conf(json!({})).to_string());
        assert_eq!((tested, node.agent.asked()), ((String::new(), true), vec!["status"]), "{script:?}");
    }
    let reading = Node::new(Script::Unfit(11));
    let away = reading.conf(json!({ "socket": "/run/there-is-none/tortie.sock" }));
    for (said, input) in [
        ("still reading", reading.conf(json!({})).to_string()),
        ("/run/there-is-none/tortie.sock", away.to_string()),
        ("standard input", "{".to_owned()),
    ] {
        let (output, success) = binary_with(&["-t"], &[], &input);
        let error: Value = serde_json::from_str(&output).expect("JSON");
        assert_eq!((&error["code"], success), (&json!(100), false), "{output}");
        assert!(error["msg"].as_str().is_some_and(|text| text.contains(said)), "{output}");
    }
}

#[test]
fn calc_23_a_pod_forwards_packets_only_where_the_configuration_allows_it() {
    for (settings, expected) in [
        (json!({}), "0"),
        (json!({ "container_settings": { "allow_ip_forwarding": false } }), "0"),
        (json!({ "container_settings": { "allow_ip_forwarding": true } }), "1"),
    ] {
        let node = Node::new(Script::Serves);
        // As a runtime may have left it.
        namespace::inside(&node.pod, || sysctl::Families::open().write("ipv4/ip_forward", "1"))
            .expect("inside")
            .expect("written");
        node.run("ADD", "c1", &node.pod_path(), settings.clone()).expect("attached");
        let forwarding = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
        let found = namespace::inside(&node.pod, || forwarding.map(|path| sysctl::read(path).expect("it is there")));
        assert_eq!(found.expect("inside"), [expected; 2], "{settings}");
    }
}

#[test]
fn calc_28_an_add_that_waits_keeps_no_other_waiting() {
    let node = Node::new(Script::StallsAt("prepare"));
    let mut child = begin_add(&node);
    node.agent.stalled.recv().expect("it got there");
    node.add("c2").expect("attached while the other waits");
    assert_eq!(node.run("DEL", "c2", &node.pod_path(), json!({})), Ok(None));
    assert!(child.try_wait().expect("a child").is_none(), "it waits still");
    child.kill().expect("killed");
    child.wait().expect("ended");
}
