//! Who translates services on this node: this agent, or a kube-proxy beside it.
//! In: the setting, and what netfilter's tables hold. Out: who, and why.
//! Invariant: kube-proxy is there as long as its rules are: its process may come and go while they translate.
//! Never: changes a rule; believes a port or a process name.

use calc::Neighbour;
use clap::ValueEnum;
use netlink::{
    Error,
    netfilter::{Family, has_chain, has_table},
};
use serde::Deserialize;
use std::{fmt::Display, sync::mpsc::SyncSender, thread, time::Duration};

use crate::owner::Event;

/// Between two looks for kube-proxy's rules.
const LOOK: Duration = Duration::from_secs(2);
/// Its table of nftables; and its chain in the table that iptables fills.
const TABLE: &str = "kube-proxy";
const CHAIN: (&str, &str) = ("nat", "KUBE-SERVICES");

/// Who translates services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Services {
    /// This agent's programs.
    Tortie,
    /// A kube-proxy, in the host's stack.
    KubeProxy,
    /// A kube-proxy if its rules are there, else this agent's programs.
    #[default]
    Auto,
}

/// Who does, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What a kube-proxy does in the host's stack.
    pub neighbour: Neighbour,
    /// How that is known.
    pub reason: String,
}

impl Proxy {
    /// A kube-proxy does.
    pub fn is_by_host(&self) -> bool {
        self.neighbour == Neighbour::Serves
    }

    /// Who, in a word.
    pub fn by(&self) -> &'static str {
        if self.is_by_host() { "kube-proxy" } else { "tortie" }
    }

    /// By the setting, and a look.
    pub fn find(setting: Services) -> Self {
        Self::by_rules(setting, rules())
    }

    fn by_rules<E: Display>(setting: Services, rules: Result<Option<String>, E>) -> Self {
        let are_there = |rules: &str| format!("kube-proxy's rules are there: {rules}");
        let (neighbour, reason) = match (setting, rules) {
            (Services::KubeProxy, _) => (Neighbour::Serves, "--services kube-proxy".to_owned()),
            (Services::Tortie, Ok(Some(rules))) => {
                (Neighbour::Rests, format!("--services tortie, though {}", are_there(&rules)))
            }
            (Services::Tortie, _) => (Neighbour::None, "--services tortie".to_owned()),
            (Services::Auto, Ok(Some(rules))) => (Neighbour::Serves, are_there(&rules)),
            (Services::Auto, Ok(None)) => (Neighbour::None, "no rules of kube-proxy are there".to_owned()),
            (Services::Auto, Err(error)) => (Neighbour::None, format!("kube-proxy was not looked for: {error}")),
        };
        Self { neighbour, reason }
    }
}

/// Its rules, in words.
fn rules() -> Result<Option<String>, Error> {
    let (table, chain) = CHAIN;
    for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        if has_table(family, TABLE)? {
            return Ok(Some(format!("table {ip} {TABLE}")));
        }
        if has_chain(family, table, chain)? {
            return Ok(Some(format!("chain {chain} in table {ip} {table}")));
        }
    }
    Ok(None)
}

/// Looks now and then, and tells the owner what is different; one answer that cannot be had changes nothing.
pub fn watch(setting: Services, known: Proxy, owner: SyncSender<Event>) -> std::io::Result<()> {
    let run = move || {
        let mut known = known;
        loop {
            thread::sleep(LOOK);
            let Ok(rules) = rules() else { continue };
            let now = Proxy::by_rules(setting, Ok::<_, Error>(rules));
            if now.neighbour != known.neighbour {
                known = now.clone();
                if owner.send(Event::Proxy(now)).is_err() {
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("proxy".into()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_who_serves_unless_the_setting_does_and_are_heeded_all_the_same() {
        let there = || Ok(Some("table ip kube-proxy".to_owned()));
        let failed = || Err("not permitted");
        for (setting, rules, expected) in [
            (Services::Auto, there(), Neighbour::Serves),
            (Services::Auto, Ok(None), Neighbour::None),
            (Services::Auto, failed(), Neighbour::None),
            (Services::Tortie, there(), Neighbour::Rests),
            (Services::Tortie, Ok(None), Neighbour::None),
            (Services::Tortie, failed(), Neighbour::None),
            (Services::KubeProxy, there(), Neighbour::Serves),
            (Services::KubeProxy, Ok(None), Neighbour::Serves),
        ] {
            let found = Proxy::by_rules(setting, rules);
            assert_eq!(found.neighbour, expected, "{setting:?}: {}", found.reason);
            assert_eq!(found.by() == "kube-proxy", expected == Neighbour::Serves);
        }
    }
}
