//! What the runtime says in environment variables.
//! In: a lookup of variables. Out: the command and whom it is about.
//! Invariant: one error names every variable that is missing or wrong (CNI-4).
//! Never: looks at the configuration or at the file system.

use crate::failure::{Code, Failure};
use model::{IfaceName, PodId};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

/// Longest interface name, bytes.
const INTERFACE_MAX: usize = 15;

/// What a plugin that is called on gets as we got it.
const PASSED_ON: [&str; 5] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is it as it was attached?
    Check,
    /// Detach what is not listed.
    Gc,
    /// Could it attach?
    Status,
    /// Which versions are spoken?
    Version,
}

/// The environment, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// What is to be done.
    pub command: Command,
    /// The container; empty where the command is about none.
    pub container: String,
    /// Its namespace's path, where one was given.
    pub namespace: Option<PathBuf>,
    /// The interface's name in the pod; empty where the command is about none.
    pub interface: IfaceName,
    /// `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
    /// Where plugins lie (`CNI_PATH`).
    pub path: Vec<PathBuf>,
    /// The variables as they came, for plugins that are called on.
    pub given: Vec<(&'static str, String)>,
    /// The pod may live in this program's own namespace (`CNI_NETNS_OVERRIDE`).
    pub own_namespace_allowed: bool,
}

impl Environment {
    /// Reads the variables `lookup` gives. `None`: there is no command at all; a human is at the keyboard.
    ///
    /// # Errors
    /// Code 4, naming every variable that is missing or wrong.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        let given = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let Some(word) = given("CNI_COMMAND") else { return Ok(None) };
        let command = command_of(&word)?;
        let found = Self {
            command,
            container: given("CNI_CONTAINERID").unwrap_or_default(),
            namespace: given("CNI_NETNS").map(PathBuf::from),
            interface: IfaceName(given("CNI_IFNAME").unwrap_or_default()),
            args: args_of(&given("CNI_ARGS").unwrap_or_default())?,
            path: given("CNI_PATH").iter().flat_map(std::env::split_paths).collect(),
            given: PASSED_ON.into_iter().filter_map(|name| Some((name, lookup(name)?))).collect(),
            own_namespace_allowed: given("CNI_NETNS_OVERRIDE")
                .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")),
        };
        let wrong = found.wrong();
        if wrong.is_empty() {
            return Ok(Some(found));
        }
        Err(Failure::new(Code::ENVIRONMENT, format!("environment of CNI_COMMAND={word}: {}", wrong.join("; "))))
    }

    /// The pod: from Kubernetes' arguments, else the container by its id.
    #[must_use]
    pub fn pod(&self) -> PodId {
        let arg = |key: &str| self.args.get(key).filter(|value| !value.is_empty());
        let namespace = arg("K8S_POD_NAMESPACE").map_or("default", String::as_str);
        PodId::new(namespace, arg("K8S_POD_NAME").unwrap_or(&self.container))
    }

    /// `IP` of `CNI_ARGS`: addresses that the pod is to have, at most one a family.
    ///
    /// # Errors
    /// It is no address, or two are of one family.
    pub fn ips(&self) -> Result<Vec<IpAddr>, Failure> {
        let text = self.args.get("IP").map_or("", String::as_str);
        let mut found: Vec<IpAddr> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let wrong = |what: &str| Failure::new(Code::ENVIRONMENT, format!("CNI_ARGS: IP={text:?}: {what}"));
            let address = part.split('/').next().unwrap_or_default().parse::<IpAddr>();
            let address = address.map_err(|_| wrong(&format!("{part:?} is no address")))?;
            if found.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
                return Err(wrong("a pod has one address of a family"));
            }
            found.push(address);
        }
        Ok(found)
    }

    fn wrong(&self) -> Vec<String> {
        if !matches!(self.command, Command::Add | Command::Del | Command::Check) {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        if self.container.is_empty() {
            wrong.push("CNI_CONTAINERID is missing".to_owned());
        } else if !is_name(&self.container) {
            wrong.push(format!("CNI_CONTAINERID {:?} is not letters, digits, `_`, `.`, `-`", self.container));
        }
        if self.namespace.is_none() && self.command != Command::Del {
            wrong.push("CNI_NETNS is missing".to_owned());
        }
        if self.interface.0.is_empty() {
            wrong.push("CNI_IFNAME is missing".to_owned());
        } else if !is_interface(&self.interface.0) {
            wrong.push(format!("CNI_IFNAME {:?} is not an interface name of 1 to 15 characters", self.interface.0));
        }
        wrong
    }
}

fn command_of(word: &str) -> Result<Command, Failure> {
    match word {
        "ADD" => Ok(Command::Add),
        "DEL" => Ok(Command::Del),
        "CHECK" => Ok(Command::Check),
        "GC" => Ok(Command::Gc),
        "STATUS" => Ok(Command::Status),
        "VERSION" => Ok(Command::Version),
        other => Err(Failure::new(
            Code::ENVIRONMENT,
            format!("CNI_COMMAND {other:?} is not one of ADD, DEL, CHECK, GC, STATUS, VERSION"),
        )),
    }
}

/// `K=V;K=V`; unknown keys are kept and hurt nobody (CNI-13).
fn args_of(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            Failure::new(Code::ENVIRONMENT, format!("CNI_ARGS: {part:?} is not of the form KEY=VALUE"))
        })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(';').filter(|part| !part.is_empty()).map(pair).collect()
}

/// A network's or container's name: begins with a letter or digit (CNI-5, CNI-6).
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_interface(text: &str) -> bool {
    (1..=INTERFACE_MAX).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>, Failure> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Environment::read(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    fn add(more: &[(&'static str, &'static str)]) -> Result<Option<Environment>, Failure> {
        let base = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];
        read(&[base.as_slice(), more].concat())
    }

    #[test]
    fn cni_4_one_message_names_every_missing_variable() {
        let failure = read(&[("CNI_COMMAND", "ADD")]).expect_err("nothing else is given");
        assert_eq!(failure.code, Code(4));
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            assert!(failure.message.contains(name), "{failure}");
        }
    }

    #[test]
    fn cni_3_del_needs_no_namespace_and_status_gc_and_version_need_nothing() {
        assert!(read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")]).is_ok());
        for command in ["STATUS", "GC", "VERSION"] {
            assert!(read(&[("CNI_COMMAND", command)]).is_ok(), "{command}");
        }
    }

    #[test]
    fn cni_6_container_ids_and_interface_names_have_their_charsets() {
        for bad in ["-c", "c/1", "c 1", "..", "ç"] {
            assert_eq!(add(&[("CNI_CONTAINERID", bad)]).expect_err(bad).code, Code(4));
        }
        for bad in [".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
            assert_eq!(add(&[("CNI_IFNAME", bad)]).expect_err(bad).code, Code(4));
        }
        assert!(add(&[("CNI_IFNAME", "fifteen-letters")]).is_ok());
    }

    #[test]
    fn cni_7_an_unknown_command_is_an_error_and_none_at_all_is_not() {
        assert_eq!(read(&[("CNI_COMMAND", "add")]).expect_err("case matters").code, Code(4));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn cni_13_the_pod_is_named_by_kubernetes_arguments_among_unknown_ones() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;FOO=a=b";
        let found = add(&[("CNI_ARGS", args)]).expect("good").expect("a command");
        assert_eq!(found.pod(), PodId::new("prod", "web"));
        assert_eq!(found.args["FOO"], "a=b");
        assert_eq!(add(&[("CNI_ARGS", "K8S_POD_NAME")]).expect_err("no value").code, Code(4));
        let ips = |args: &'static str| add(&[("CNI_ARGS", args)]).expect("good").expect("a command").ips();
        assert_eq!(ips("IP=10.65.0.7,fd00::7").expect("good").len(), 2);
        assert!(ips("IP=").expect("nothing is asked").is_empty());
        for bad in ["IP=ten", "IP=10.65.0.7,10.65.0.8"] {
            assert_eq!(ips(bad).expect_err(bad).code, Code(4));
        }
    }

    #[test]
    fn a_container_without_kubernetes_is_named_by_its_id() {
        assert_eq!(add(&[]).expect("good").expect("a command").pod(), PodId::new("default", "c1"));
    }
}
