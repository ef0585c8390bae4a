//! The result of an ADD, in the shape of the version that was asked for.
//! In: what was wired. Out: JSON.
//! Invariant: the host side comes first and the pod's second, as Calico has it (CNI-25); what plugins before this one
//! have done stands before both.
//! Never: names a gateway in the `ips` of a pod's first interface; the routes do, as Calico's. `sbr` looks for others' there.

use crate::conf::Version;
use model::{Cidr, IfaceName, Mac};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// The gateway of every pod.
pub const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The link-local address that belongs to [`HOST_MAC`].
pub const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee));
/// MAC of every host side.
pub const HOST_MAC: Mac = Mac([0xee; 6]);

/// What was wired.
#[derive(Clone, Copy, Debug)]
pub struct Attached<'a> {
    /// The host side.
    pub host: &'a IfaceName,
    /// The pod's side.
    pub interface: &'a IfaceName,
    /// Its MAC.
    pub mac: Mac,
    /// Its namespace, as the runtime named it.
    pub sandbox: &'a Path,
    /// Its addresses.
    pub addresses: &'a [IpAddr],
    /// MTU of both sides.
    pub mtu: u32,
    /// Where to, through the gateway.
    pub destinations: &'a [Cidr],
    /// Metric of the routes, if they have one.
    pub metric: Option<u32>,
    /// What the plugins before this one answered.
    pub previous: Option<&'a Value>,
    /// DNS settings, if this plugin has some to tell.
    pub dns: Option<&'a Value>,
}

impl Attached<'_> {
    /// The result (CNI-80 to CNI-83).
    #[must_use]
    pub fn to_json(&self, version: Version) -> Value {
        if version < Version::V0_3_0 {
            return self.old_json(version);
        }
        let mut host = json!({ "name": self.host, "mac": HOST_MAC });
        let mut pod = json!({ "name": self.interface, "mac": self.mac, "sandbox": self.sandbox });
        if version >= Version::V1_1_0 {
            host["mtu"] = self.mtu.into();
            pod["mtu"] = self.mtu.into();
        }
        let mut result = self.previous.filter(|previous| previous.is_object()).cloned().unwrap_or_else(|| json!({}));
        let before = result["interfaces"].as_array().map_or(0, Vec::len);
        let mut ips: Vec<_> = self.addresses.iter().map(|address| ip(*address, before + 1, version)).collect();
        if self.metric.is_some() {
            for (ip, address) in ips.iter_mut().zip(self.addresses) {
                ip["gateway"] = gateway_of(*address).to_string().into();
            }
        }
        append(&mut result, "ips", ips);
        append(&mut result, "routes", self.routes(version));
        append(&mut result, "interfaces", vec![host, pod]);
        result["cniVersion"] = version.text().into();
        if let Some(dns) = self.dns {
            result["dns"] = dns.clone();
        } else if result["dns"].is_null() {
            result["dns"] = json!({});
        }
        result
    }

    /// One address a family, each with its routes; no interfaces.
    fn old_json(&self, version: Version) -> Value {
        let mut result = json!({ "cniVersion": version.text(), "dns": self.dns.cloned().unwrap_or_else(|| json!({})) });
        for address in self.addresses {
            let gateway = gateway_of(*address);
            let own = self.destinations.iter().filter(|destination| destination.is_v4() == address.is_ipv4());
            let routes: Vec<_> = own.map(|destination| json!({ "dst": destination, "gw": gateway })).collect();
            result[if address.is_ipv4() { "ip4" } else { "ip6" }] =
                json!({ "ip": format!("{address}/{}", host_prefix(*address)), "gateway": gateway, "routes": routes });
        }
        result
    }

    fn routes(&self, version: Version) -> Vec<Value> {
        let of = |destination: &Cidr| {
            let gateway = gateway_of(destination.network());
            let mut route = json!({ "dst": destination, "gw": gateway });
            if let Some(metric) = self.metric.filter(|_| version >= Version::V1_1_0) {
                route["priority"] = metric.into();
            }
            route
        };
        self.destinations.iter().map(of).collect()
    }
}

fn append(result: &mut Value, name: &str, own: Vec<Value>) {
    let mut all = result[name].as_array().cloned().unwrap_or_default();
    all.extend(own);
    result[name] = all.into();
}

fn ip(address: IpAddr, interface: usize, version: Version) -> Value {
    let mut ip = json!({ "interface": interface, "address": format!("{address}/{}", host_prefix(address)) });
    if version < Version::V1_0_0 {
        ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
    }
    ip
}

/// The way out for addresses of one family.
pub(crate) fn gateway_of(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

/// The prefix that holds one address.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(version: Version) -> Value {
        behind(None, None, version)
    }

    fn behind(previous: Option<&Value>, dns: Option<&Value>, version: Version) -> Value {
        let destinations = ["0.0.0.0/0".parse().expect("a network"), "::/0".parse().expect("a network")];
        let addresses = ["10.65.0.2".parse().expect("an address"), "fd00:65::2".parse().expect("an address")];
        let attached = Attached {
            host: &IfaceName("cali0123456789a".to_owned()),
            interface: &IfaceName("eth0".to_owned()),
            mac: Mac([2, 0, 0, 0, 0, 7]),
            sandbox: Path::new("/run/netns/pod"),
            addresses: &addresses,
            mtu: 1450,
            destinations: &destinations,
            metric: None,
            previous,
            dns,
        };
        attached.to_json(version)
    }

    fn golden(version: &str) -> Value {
        json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "cali0123456789a", "mac": "ee:ee:ee:ee:ee:ee"},
                {"name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/run/netns/pod"},
            ],
            "ips": [
                {"interface": 1, "address": "10.65.0.2/32"},
                {"interface": 1, "address": "fd00:65::2/128"},
            ],
            "routes": [
                {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
                {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
            ],
            "dns": {},
        })
    }

    #[test]
    fn cni_80_before_0_3_0_there_is_one_address_a_family_and_no_interface() {
        let golden = json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.65.0.2/32", "gateway": "169.254.1.1",
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]},
            "ip6": {"ip": "fd00:65::2/128", "gateway": "fe80::ecee:eeff:feee:eeee",
                "routes": [{"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"}]},
            "dns": {},
        });
        assert_eq!(result(Version::V0_2_0), golden);
    }

    #[test]
    fn cni_22_what_plugins_before_did_is_passed_through_and_our_own_stands_behind() {
        let previous = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "dummy0"}], "ips": [{"address": "10.9.9.9/24",
            "interface": 0}], "routes": [{"dst": "10.9.0.0/16"}], "dns": {"nameservers": ["10.9.9.1"]}, "more": 1});
        let result = behind(Some(&previous), None, Version::V1_1_0);
        let names: Vec<_> = result["interfaces"].as_array().expect("a list").iter().map(|own| &own["name"]).collect();
        assert_eq!(names, ["dummy0", "cali0123456789a", "eth0"]);
        let places: Vec<_> = result["ips"].as_array().expect("a list").iter().map(|ip| &ip["interface"]).collect();
        assert_eq!(places, [0, 2, 2]);
        assert_eq!(
            (&result["routes"][0]["dst"], &result["routes"][1]["dst"]),
            (&json!("10.9.0.0/16"), &json!("0.0.0.0/0"))
        );
        assert_eq!((&result["dns"], &result["more"]), (&previous["dns"], &json!(1)));
    }

    #[test]
    fn cni_28_dns_is_told_as_it_is_configured() {
        let dns = json!({"nameservers": ["10.0.0.10"], "search": ["svc.cluster.local"]});
        assert_eq!(behind(None, Some(&dns), Version::V1_0_0)["dns"], dns);
    }

    #[test]
    fn cni_25_26_cni_81_before_1_0_0_every_ip_says_its_version() {
        for (version, text) in [(Version::V0_3_0, "0.3.0"), (Version::V0_3_1, "0.3.1"), (Version::V0_4_0, "0.4.0")] {
            let mut golden = golden(text);
            golden["ips"][0]["version"] = "4".into();
            golden["ips"][1]["version"] = "6".into();
            assert_eq!(result(version), golden);
        }
    }

    #[test]
    fn cni_82_in_1_0_0_no_ip_says_its_version() {
        assert_eq!(result(Version::V1_0_0), golden("1.0.0"));
    }

    #[test]
    fn cni_83_1_1_0_adds_the_mtu() {
        let mut golden = golden("1.1.0");
        golden["interfaces"][0]["mtu"] = 1450.into();
        golden["interfaces"][1]["mtu"] = 1450.into();
        assert_eq!(result(Version::V1_1_0), golden);
    }
}
