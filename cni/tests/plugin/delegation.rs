//! Another IPAM plugin behind `ipam.type`: called as the specification says, and never left holding what we do not use.
//! In: a scripted plugin on `CNI_PATH`. Out: its calls, the pod's wiring, what the runtime is told.
//! Invariant: what it is given is what we were given.
//! Never: a real plugin; the system tests call those.

use crate::kit::{COMMIT_FAULT, Ipam, Node, Script, within};
use cni::{failure::Code, protocol::Operation};
use netlink::Socket;
use serde_json::{Value, json};

/// A node whose network names the scripted plugin.
fn node(script: Script, ipam: &Ipam) -> Node {
    Node { path: format!("/nowhere:{}", ipam.path().display()), ..Node::new(script) }
}

fn one_address() -> Ipam {
    Ipam::new(&json!({"cniVersion": "1.1.0", "ips": [{"address": "10.88.0.5/24", "gateway": "10.88.0.1"}],
        "routes": [{"dst": "10.0.0.0/8"}], "dns": {"nameservers": ["10.88.0.1"]}}))
}

fn conf() -> Value {
    json!({"ipam": {"type": "scripted", "own": ["key"]}})
}

#[test]
fn cni_84_its_result_has_no_interfaces_and_ours_points_at_the_pods_side() {
    let ipam = one_address();
    let node = node(Script::Serves, &ipam);
    let result = node.run("ADD", "c1", &node.pod_path(), conf()).expect("attached").expect("a result");
    assert_eq!(result["ips"], json!([{"address": "10.88.0.5/32", "interface": 1}]));
    assert_eq!(result["routes"], json!([{"dst": "10.0.0.0/8", "gw": "169.254.1.1"}]));
    assert_eq!(result["dns"], json!({"nameservers": ["10.88.0.1"]}));
    let routes = within(&node.pod, Socket::routes).expect("a listing");
    let v4: Vec<_> =
        routes.iter().filter(|route| route.protocol == 3).map(|route| route.destination.to_string()).collect();
    assert_eq!(v4, ["10.0.0.0/8", "169.254.1.1/32"], "its routes, and no others");
    let Some(Operation::Commit { addresses, .. }) = node.agent.operations().pop() else { panic!("no commit") };
    assert_eq!(addresses, ["10.88.0.5".parse::<std::net::IpAddr>().expect("an address")]);
}

#[test]
fn cni_3_it_gets_our_environment_and_our_whole_configuration() {
    let ipam = one_address();
    let node = node(Script::Serves, &ipam);
    node.run("ADD", "c1", &node.pod_path(), conf()).expect("attached");
    let (input, environment) = ipam.got("ADD");
    assert_eq!(input, node.conf(conf()));
    for (name, value) in node.variables("ADD", "c1", &node.pod_path()) {
        assert!(environment.lines().any(|line| line == format!("{name}={value}")), "{name} in {environment}");
    }
}

#[test]
fn cni_80_its_result_is_read_in_the_old_shape_too() {
    let ipam =
        Ipam::new(&json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.88.0.5/24", "routes": [{"dst": "10.0.0.0/8"}]},
        "ip6": {"ip": "fd00:88::5/64"}}));
    let node = Node { version: "0.2.0", ..node(Script::Serves, &ipam) };
    let result = node.run("ADD", "c1", &node.pod_path(), conf()).expect("attached").expect("a result");
    assert_eq!((&result["ip4"]["ip"], &result["ip6"]["ip"]), (&json!("10.88.0.5/32"), &json!("fd00:88::5/128")));
    assert_eq!(result["ip4"]["routes"][0]["dst"], "10.0.0.0/8");
    assert_eq!(result["ip6"]["routes"][0]["dst"], "::/0", "of a family without routes everything");
}

#[test]
fn cni_23_when_it_fails_it_gets_del_and_its_error_is_the_runtimes() {
    let ipam = one_address();
    ipam.fail("ADD", r#"{"cniVersion": "1.1.0", "code": 11, "msg": "no address is free", "details": "10.88.0.0/24"}"#);
    let node = node(Script::Serves, &ipam);
    let failure = node.run("ADD", "c1", &node.pod_path(), conf()).expect_err("it failed");
    assert_eq!((failure.code, failure.details.as_str()), (Code::LATER, "10.88.0.0/24"));
    assert!(failure.message.contains("scripted") && failure.message.contains("no address is free"), "{failure}");
    assert_eq!(ipam.called(), ["ADD c1", "DEL c1"]);
    assert_eq!(node.agent.asked(), ["prepare", "abort"]);
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn cni_23_when_we_fail_later_it_gets_del_after_the_agent_has_let_go() {
    let ipam = one_address();
    let node = node(Script::RefusesCommits, &ipam);
    let failure = node.run("ADD", "c1", &node.pod_path(), conf()).expect_err("refused");
    assert_eq!(failure.code, Code(COMMIT_FAULT));
    assert_eq!(ipam.called(), ["ADD c1", "DEL c1"]);
    assert_eq!(node.agent.asked(), ["prepare", "commit", "abort"]);
}

#[test]
fn cni_45_54_62_70_the_other_commands_are_passed_on_and_its_errors_are_told_after_our_share() {
    let ipam = one_address();
    let node = node(Script::Serves, &ipam);
    let result = node.run("ADD", "c1", &node.pod_path(), conf()).expect("attached");
    let list = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    let with = |more: &Value| {
        let mut conf = conf();
        conf.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        conf
    };
    for (command, more) in
        [("CHECK", json!({ "prevResult": result })), ("GC", list), ("STATUS", json!({})), ("DEL", json!({}))]
    {
        let run = || node.run(command, "c1", &node.pod_path(), with(&more));
        assert_eq!(run(), Ok(None), "{command}");
        assert!(ipam.called().last().is_some_and(|last| last.starts_with(command)), "{command}");
        ipam.fail(command, r#"{"code": 42, "msg": "not mine"}"#);
        let failure = run().expect_err(command);
        // The second CHECK of a gone pod never gets that far; the others have done their share.
        assert_eq!(failure.code, Code(42), "{command}: {failure}");
        assert_eq!(node.agent.asked().last(), Some(&command.to_lowercase().as_str()), "{command}");
    }
    assert_eq!(node.links(), (vec![], vec![]));
}

#[test]
fn cni_60_without_a_list_it_is_not_told_to_collect() {
    let ipam = one_address();
    assert_eq!(node(Script::Serves, &ipam).run("GC", "", "", conf()), Ok(None));
    assert!(ipam.called().is_empty());
}

#[test]
fn an_address_that_may_still_be_routed_is_not_given_back() {
    let ipam = one_address();
    let node = node(Script::Serves, &ipam);
    node.run("ADD", "c1", &node.pod_path(), conf()).expect("attached");
    let mut away = conf();
    away["socket"] = "/run/there-is-none/tortie.sock".into();
    assert_eq!(node.run("DEL", "c1", &node.pod_path(), away).expect_err("nobody listens").code, Code::LATER);
    assert_eq!(ipam.called(), ["ADD c1"]);
}

#[test]
fn cni_e3_its_word_that_the_container_is_unknown_is_not_passed_on() {
    let ipam = one_address();
    let node = node(Script::Serves, &ipam);
    for said in [r#"{"code": 3, "msg": "unknown"}"#, r#"{"code": 0, "msg": "unknown"}"#, "", "panic: oh no"] {
        ipam.fail("ADD", said);
        assert_eq!(node.run("ADD", "c1", &node.pod_path(), conf()).expect_err("it failed").code, Code::DELEGATE);
    }
}

#[test]
fn a_result_that_makes_no_sense_is_refused() {
    for result in [json!(["x"]), json!({"ips": [{"address": "here"}]}), json!({"ips": 7})] {
        let ipam = Ipam::new(&result);
        let node = node(Script::Serves, &ipam);
        assert_eq!(node.run("ADD", "c1", &node.pod_path(), conf()).expect_err("no result").code, Code::DECODE);
        assert_eq!(ipam.called(), ["ADD c1", "DEL c1"]);
    }
}

#[test]
fn cni_4_a_plugin_that_is_not_found_is_named_with_the_places_that_were_looked_at() {
    let ipam = one_address();
    let mut node = node(Script::Serves, &ipam);
    let other = json!({"ipam": {"type": "there-is-none"}});
    let failure = node.run("ADD", "c1", &node.pod_path(), other).expect_err("not there");
    assert_eq!(failure.code, Code::CONFIGURATION);
    assert!(failure.message.contains("there-is-none") && failure.message.contains("/nowhere"), "{failure}");
    node.path = String::new();
    let failure = node.run("ADD", "c1", &node.pod_path(), conf()).expect_err("no path");
    assert_eq!(failure.code, Code::ENVIRONMENT);
    assert!(failure.message.contains("CNI_PATH"), "{failure}");
}

#[test]
fn one_that_does_not_answer_is_ended_at_the_deadline() {
    let ipam = one_address();
    ipam.fail("ADD", "sleep");
    let node = node(Script::Serves, &ipam);
    let mut conf = conf();
    conf["timeoutSeconds"] = 1.into();
    let failure = node.run("ADD", "c1", &node.pod_path(), conf).expect_err("no answer");
    assert_eq!(failure.code, Code::LATER);
    assert_eq!(ipam.called(), ["ADD c1", "DEL c1"]);
}
