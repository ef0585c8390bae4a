//! The CNI plugin's front: what a runtime may hand over, up to where the agent would be asked.
//! In: environment as lines `NAME=VALUE`, a zero byte, standard input. Out: nothing, or a broken promise.
//! Invariant: every refusal is one JSON object, with a code that the specification has for it, on one line.
//! Never: opens the namespace or the socket that the input names.

use cni::{
    conf::{Conf, Version},
    environment::{Command, Environment, is_name},
    failure::{Code, Failure},
    ipam::{Asked, Ipam},
    plugin,
};
use std::time::Duration;

/// One input.
pub fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let variables = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let input = parts.next().unwrap_or_default();
    let lookup = |name: &str| {
        let set = variables.lines().filter_map(|line| line.split_once('='));
        set.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).next_back()
    };
    match Environment::read(lookup) {
        Ok(None) => assert_eq!(lookup("CNI_COMMAND").unwrap_or_default(), ""),
        Ok(Some(environment)) => commanded(&environment, input),
        Err(failure) => refused(&failure, &[Code::ENVIRONMENT], input),
    }
}

fn commanded(environment: &Environment, input: &[u8]) {
    if matches!(environment.command, Command::Add | Command::Del | Command::Check) {
        assert!(is_name(&environment.container));
        assert!((1..16).contains(&environment.interface.0.len()), "{}", environment.interface);
        assert!(!environment.pod().name.is_empty());
    }
    if environment.command == Command::Version {
        let versions = plugin::run(environment, input).expect("VERSION needs nothing").expect("and has an answer");
        assert!(versions["supportedVersions"].as_array().is_some_and(|list| list.len() == Version::ALL.len()));
        return;
    }
    match Conf::read(input) {
        Ok(conf) => usable(&conf, input),
        Err(failure) => {
            refused(&failure, &[Code::VERSION, Code::UNSUPPORTED, Code::DECODE, Code::CONFIGURATION], input);
        }
    }
}

fn usable(conf: &Conf, input: &[u8]) {
    assert!(is_name(&conf.network));
    assert!(conf.mtu.is_none_or(|mtu| (68..=65535).contains(&mtu)));
    assert!(conf.mac.is_none_or(|mac| mac.0[0] & 1 == 0 && mac.0 != [0; 6]));
    match &conf.ipam {
        Ipam::Own(Asked { ips, .. }) => {
            assert!(ips.len() < 2 || ips[0].is_ipv4() != ips[1].is_ipv4(), "two of a family: {ips:?}")
        }
        Ipam::Delegate(name) => assert!(!name.is_empty() && !name.contains('/'), "no plugin's name: {name:?}"),
    }
    assert!(conf.timeout > Duration::ZERO);
    assert!(conf.previous.as_ref().is_none_or(|result| !result.is_null()));
    assert_eq!(plugin::error_version(input), conf.version.text());
}

/// What the runtime would be told.
fn refused(failure: &Failure, codes: &[Code], input: &[u8]) {
    assert!(codes.contains(&failure.code), "code {:?}: {failure}", failure.code);
    let text = failure.to_json(plugin::error_version(input)).to_string();
    assert!(!text.contains('\n'));
    let told: serde_json::Value = serde_json::from_str(&text).expect("an error object is JSON");
    assert!(told["cniVersion"].as_str().and_then(Version::of).is_some());
    assert_eq!(told["code"], failure.code.0);
    let message = told["msg"].as_str().expect("a message is text");
    assert!(!message.is_empty() && !message.contains('\n'), "more than one line: {message:?}");
}
