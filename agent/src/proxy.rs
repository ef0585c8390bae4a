//! Who translates services on this node: this agent, or a kube-proxy beside it.
//! In: the setting, and what netfilter's tables hold. Out: who, and why.
//! Invariant: kube-proxy is there as long as its rules are: its process may come and go while they translate.
//! Never: changes a rule; believes a port or a process name.

use clap::ValueEnum;
use netlink::{
    Error,
    netfilter::{Family, has_chain, has_table},
};
use serde::Deserialize;
use std::{sync::mpsc::SyncSender, thread, time::Duration};

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
    /// A kube-proxy, in the host's stack.
    pub by_host: bool,
    /// How that is known.
    pub reason: String,
}

impl Proxy {
    /// Who, in a word.
    pub const fn by(&self) -> &'static str {
        if self.by_host { "kube-proxy" } else { "tortie" }
    }

    /// By the setting, and a look.
    pub fn find(setting: Services) -> Self {
        let set = |by_host, name| Self { by_host, reason: format!("--services {name}") };
        match setting {
            Services::Tortie => set(false, "tortie"),
            Services::KubeProxy => set(true, "kube-proxy"),
            Services::Auto => look(),
        }
    }
}

fn look() -> Proxy {
    match rules() {
        Ok(Some(rules)) => Proxy { by_host: true, reason: format!("kube-proxy's rules are there: {rules}") },
        Ok(None) => Proxy { by_host: false, reason: "no rules of kube-proxy are there".to_owned() },
        Err(error) => Proxy { by_host: false, reason: format!("kube-proxy was not looked for: {error}") },
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
pub fn watch(known: Proxy, owner: SyncSender<Event>) -> std::io::Result<()> {
    let run = move || {
        let mut known = known;
        loop {
            thread::sleep(LOOK);
            let Ok(rules) = rules() else { continue };
            if rules.is_some() != known.by_host {
                known = look();
                if owner.send(Event::Proxy(known.clone())).is_err() {
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("proxy".into()).spawn(run).map(drop)
}
