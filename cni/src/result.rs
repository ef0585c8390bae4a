//! The result of an ADD, in the shape of the version that was asked for.
//! In: what was wired. Out: JSON.
//! Invariant: the host side comes first and the pod's second, so every `ips[].interface` is 1, as Calico has it (CNI-25).
//! Never: names a gateway in `ips`; the routes do.

use crate::conf::Version;
use model::{IfaceName, Mac};
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
}

impl Attached<'_> {
    /// The result (CNI-81 to CNI-83).
    #[must_use]
    pub fn to_json(&self, version: Version) -> Value {
        let mut host = json!({ "name": self.host, "mac": HOST_MAC });
        let mut pod = json!({ "name": self.interface, "mac": self.mac, "sandbox": self.sandbox });
        if version >= Version::V1_1_0 {
            host["mtu"] = self.mtu.into();
            pod["mtu"] = self.mtu.into();
        }
        let ips: Vec<_> = self.addresses.iter().map(|address| ip(*address, version)).collect();
        let routes: Vec<_> = self.addresses.iter().map(|address| default_route(*address)).collect();
        json!({
            "cniVersion": version.text(), "interfaces": [host, pod], "ips": ips, "routes": routes, "dns": {},
        })
    }
}

fn ip(address: IpAddr, version: Version) -> Value {
    let mut ip = json!({ "interface": 1, "address": format!("{address}/{}", host_prefix(address)) });
    if version < Version::V1_0_0 {
        ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
    }
    ip
}

fn default_route(address: IpAddr) -> Value {
    if address.is_ipv4() {
        json!({ "dst": "0.0.0.0/0", "gw": GATEWAY_V4 })
    } else {
        json!({ "dst": "::/0", "gw": GATEWAY_V6 })
    }
}

/// The prefix that holds one address.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(version: Version) -> Value {
        let addresses = ["10.65.0.2".parse().expect("an address"), "fd00:65::2".parse().expect("an address")];
        let attached = Attached {
            host: &IfaceName("cali0123456789a".to_owned()),
            interface: &IfaceName("eth0".to_owned()),
            mac: Mac([2, 0, 0, 0, 0, 7]),
            sandbox: Path::new("/run/netns/pod"),
            addresses: &addresses,
            mtu: 1450,
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
    fn cni_81_before_1_0_0_every_ip_says_its_version() {
        for (version, text) in [(Version::V0_3_1, "0.3.1"), (Version::V0_4_0, "0.4.0")] {
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
