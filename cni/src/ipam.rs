//! The `ipam` of a network configuration: who gives addresses, and what the configuration asks of them.
//! In: the configuration, read. Out: what the agent or another plugin is asked.
//! Invariant: keys of Calico's mean what they mean there (cni-plugin/pkg/types, pkg/ipamplugin, pkg/utils).
//! Never: decides what of it can be had; the agent knows pools and nodes.

use crate::failure::{Code, Failure};
use model::{Cidr, Family};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr};

/// Who gives addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipam {
    /// The agent, out of the datastore's pools.
    Own(Asked),
    /// The plugin of this name, on `CNI_PATH`.
    Delegate(String),
}

/// What the configuration asks of the agent's addresses; annotations of a pod or its namespace come before pools and families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `runtimeConfig.ips`: exactly these, at most one a family.
    pub ips: Vec<IpAddr>,
    /// `ipv4_pools`, `ipv6_pools`: of these alone, by name or network.
    pub pools: BTreeMap<Family, Vec<String>>,
    /// `assign_ipv4`, `assign_ipv6`: one of each; empty: nothing is said of it.
    pub families: Vec<Family>,
}

/// `ipam`, as far as it is read here.
#[derive(Deserialize)]
pub(crate) struct RawIpam {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    routes: Vec<RawRoute>,
    ipv4_pools: Option<Vec<String>>,
    ipv6_pools: Option<Vec<String>>,
    assign_ipv4: Option<Switch>,
    assign_ipv6: Option<Switch>,
}

#[derive(Deserialize)]
struct RawRoute {
    dst: Cidr,
}

/// Calico writes it as a text.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "ipam.assign_ipv4 and ipam.assign_ipv6 are \"true\" or \"false\"")]
enum Switch {
    Said(bool),
    Written(Written),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    True,
    False,
}

impl Switch {
    fn is_on(self) -> bool {
        matches!(self, Self::Said(true) | Self::Written(Written::True))
    }
}

impl RawIpam {
    /// Destinations of the pod's routes.
    pub(crate) fn routes(&self) -> impl Iterator<Item = Cidr> {
        self.routes.iter().map(|route| route.dst)
    }
}

/// Who gives addresses; `ips` are those that the runtime asks for by number. What cannot be used is a sentence, which names the key.
pub(crate) fn ipam_of(raw: Option<&RawIpam>, ips: &[String]) -> Result<Ipam, (Code, String)> {
    let unusable = |reason: String| (Code::CONFIGURATION, reason);
    let none = || unusable("no ipam.type; add \"ipam\": {\"type\": \"tortie\"}, or name another IPAM plugin".into());
    let raw = raw.filter(|raw| !raw.kind.is_empty()).ok_or_else(none)?;
    match raw.kind.as_str() {
        "tortie" => asked(raw, ips).map(Ipam::Own).map_err(unusable),
        // Its client speaks over the pod's own link: before policy is in force that is down, and later nobody but the
        // node hears a broadcast there. A lease could be neither had nor renewed.
        "dhcp" => Err((
            Code::UNSUPPORTED,
            "ipam.type \"dhcp\" is not supported: pods are routed, their broadcasts reach no DHCP server; use \
             \"tortie\", \"host-local\" or \"static\""
                .to_owned(),
        )),
        other if other.contains('/') => Err(unusable(format!("ipam.type {other:?} is a path; give a plugin's name"))),
        other => Ok(Ipam::Delegate(other.to_owned())),
    }
}

fn asked(raw: &RawIpam, ips: &[String]) -> Result<Asked, String> {
    let mut pools = BTreeMap::new();
    for (key, family, list) in
        [("ipv4_pools", Family::V4, &raw.ipv4_pools), ("ipv6_pools", Family::V6, &raw.ipv6_pools)]
    {
        let Some(list) = list.as_ref().filter(|list| !list.is_empty()) else { continue };
        let is_other = |name: &&String| name.parse::<Cidr>().is_ok_and(|cidr| cidr.is_v4() != (family == Family::V4));
        if let Some(name) = list.iter().find(is_other) {
            return Err(format!("ipam.{key}: {name} is of the other family"));
        }
        pools.insert(family, list.clone());
    }
    Ok(Asked { ips: addresses(ips)?, pools, families: families(raw)? })
}

/// Where only one of the two is said, the other is as in Calico: IPv4 is assigned, IPv6 is not.
fn families(raw: &RawIpam) -> Result<Vec<Family>, String> {
    if raw.assign_ipv4.is_none() && raw.assign_ipv6.is_none() {
        return Ok(Vec::new());
    }
    let mut families = Vec::new();
    families.extend(raw.assign_ipv4.is_none_or(Switch::is_on).then_some(Family::V4));
    families.extend(raw.assign_ipv6.is_some_and(Switch::is_on).then_some(Family::V6));
    if families.is_empty() {
        return Err("ipam.assign_ipv4 and ipam.assign_ipv6 leave a pod no address; say \"true\" for one".to_owned());
    }
    Ok(families)
}

/// `runtimeConfig.ips`: `address` or `address/prefix`; a pod's prefix is always that of one address.
fn addresses(ips: &[String]) -> Result<Vec<IpAddr>, String> {
    let mut found: Vec<IpAddr> = Vec::new();
    for text in ips {
        let address = text.split('/').next().unwrap_or_default().parse::<IpAddr>();
        let address = address.map_err(|_| format!("runtimeConfig.ips: {text:?} is no address"))?;
        if found.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
            return Err("runtimeConfig.ips: a pod has one address of a family".to_owned());
        }
        found.push(address);
    }
    Ok(found)
}

/// What stands for the node's own network in host-local's configuration.
const NODES_OWN: [(&str, Family, &str); 2] =
    [("usePodCidr", Family::V4, "0.0.0.0/0"), ("usePodCidrIPv6", Family::V6, "::/0")];

/// Families of which host-local is to give addresses out of the node's own network (`spec.podCIDRs`).
#[must_use]
pub(crate) fn nodes_own(conf: &Value) -> Vec<Family> {
    let mut found = Vec::new();
    let mut conf = conf.clone();
    for subnet in subnets(&mut conf) {
        let family = stands_for(subnet).map(|(_, family, _)| family);
        found.extend(family.filter(|family| !found.contains(family)));
    }
    found
}

/// The configuration as host-local reads it. It gives back by container, so that without `networks` any will do.
pub(crate) fn with_networks(input: &[u8], networks: Option<&[Cidr]>) -> Result<Vec<u8>, Failure> {
    let mut conf: Value = serde_json::from_slice(input)
        .map_err(|error| Failure::new(Code::DECODE, format!("network configuration on standard input: {error}")))?;
    for subnet in subnets(&mut conf) {
        let Some((written, family, any)) = stands_for(subnet) else { continue };
        *subnet = match networks {
            None => any.into(),
            Some(networks) => {
                let own = networks.iter().find(|network| network.is_v4() == (family == Family::V4));
                let unknown = || {
                    let message =
                        format!("ipam: the agent does not say what {written} stands for: install one release");
                    Failure::new(Code::CONFIGURATION, message)
                };
                own.ok_or_else(unknown)?.to_string().into()
            }
        };
    }
    Ok(conf.to_string().into_bytes())
}

fn stands_for(subnet: &Value) -> Option<(&'static str, Family, &'static str)> {
    let text = subnet.as_str()?;
    NODES_OWN.into_iter().find(|(name, ..)| text.eq_ignore_ascii_case(name))
}

/// Where host-local's configuration names networks: in `ipam`, and in its `ranges`.
fn subnets(conf: &mut Value) -> Vec<&mut Value> {
    let Some(ipam) = conf.get_mut("ipam").and_then(Value::as_object_mut) else { return Vec::new() };
    if ipam.get("type").and_then(Value::as_str) != Some("host-local") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (key, value) in ipam {
        match (key.as_str(), value) {
            ("subnet", subnet) => found.push(subnet),
            ("ranges", Value::Array(sets)) => {
                let ranges = sets.iter_mut().filter_map(Value::as_array_mut).flatten();
                found.extend(ranges.filter_map(|range| range.get_mut("subnet")));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(ipam: Value) -> Value {
        json!({ "name": "net", "cniVersion": "1.0.0", "ipam": ipam })
    }

    fn networks() -> [Cidr; 2] {
        ["10.244.1.0/24", "fd00:244:1::/64"].map(|text| text.parse().expect("a network"))
    }

    fn put(ipam: Value, networks: Option<&[Cidr]>) -> Value {
        let written = with_networks(conf(ipam).to_string().as_bytes(), networks).expect("JSON");
        let mut read: Value = serde_json::from_slice(&written).expect("JSON");
        assert_eq!((&read["name"], &read["cniVersion"]), (&json!("net"), &json!("1.0.0")), "the rest stays");
        read["ipam"].take()
    }

    #[test]
    fn calc_24_the_nodes_own_networks_are_put_where_calicos_words_for_them_stand() {
        let one = json!({"type": "host-local", "subnet": "usePodCidr", "dataDir": "/x"});
        assert_eq!(nodes_own(&conf(one.clone())), [Family::V4]);
        assert_eq!(
            put(one.clone(), Some(&networks())),
            json!({"type": "host-local", "subnet": "10.244.1.0/24", "dataDir": "/x"})
        );
        assert_eq!(put(one, None)["subnet"], json!("0.0.0.0/0"), "it gives back by container");
        let both = json!({"type": "host-local", "ranges": [[{"subnet": "USEPODCIDR"}],
            [{"subnet": "usePodCidrIPv6"}, {"subnet": "fd00:9::/64", "rangeStart": "fd00:9::7"}]]});
        assert_eq!(nodes_own(&conf(both.clone())), [Family::V4, Family::V6]);
        assert_eq!(
            put(both, Some(&networks()))["ranges"],
            json!([[{"subnet": "10.244.1.0/24"}],
                [{"subnet": "fd00:244:1::/64"}, {"subnet": "fd00:9::/64", "rangeStart": "fd00:9::7"}]])
        );
        for other in [
            json!({"type": "host-local", "subnet": "10.1.0.0/24"}),
            json!({"type": "static", "subnet": "usePodCidr"}),
            json!({"type": "host-local", "ranges": "usePodCidr"}),
            json!({"type": "host-local", "ranges": [{"subnet": "usePodCidr"}, 7, [7]]}),
            json!(7),
        ] {
            assert_eq!(nodes_own(&conf(other.clone())), [], "{other}");
        }
    }

    #[test]
    fn an_agent_that_does_not_know_the_word_is_not_guessed_for() {
        let input = conf(json!({"type": "host-local", "subnet": "usePodCidrIPv6"})).to_string();
        let failure = with_networks(input.as_bytes(), Some(&networks()[..1])).expect_err("no network");
        assert!(failure.message.contains("usePodCidrIPv6"), "{failure}");
    }
}
