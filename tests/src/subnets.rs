//! Two networks with a router between them: the fabric's own, and one behind the outside host.
//! In: a cluster, its nodes. Out: nodes here and there that reach each other by addresses of their own.
//! Invariant: the router knows no pod: what is between pods of the two finds no way but a tunnel.
//! Never: a route to a pod.

use crate::{Cluster, NetNs};
use anyhow::Result;

/// Addresses of node `number`, IPv4 and IPv6, of the network behind the router.
#[must_use]
pub fn far(number: u8) -> [String; 2] {
    [format!("198.51.100.{number}"), format!("2001:db8:2::{number:x}")]
}

/// Makes the outside host a router between both.
///
/// # Errors
/// It is one already.
pub fn make_router(cluster: &Cluster) -> Result<()> {
    let outside = cluster.outside();
    outside.ip(&["address add 198.51.100.254/24 dev br0", "address add 2001:db8:2::fe/64 dev br0 nodad"])?;
    for (setting, value) in [
        ("ipv4/conf/all/forwarding", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/br0/send_redirects", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ] {
        outside.sysctl(setting, value)?;
    }
    Ok(())
}

/// A node that stays in the fabric's network, and knows the router.
///
/// # Errors
/// It has a default route already.
pub fn stay(namespace: &NetNs) -> Result<()> {
    namespace.ip(&["route add default via 192.0.2.254", "route add default via 2001:db8::fe"])
}

/// Moves node `number` into the network behind the router.
///
/// # Errors
/// It has no uplink, or is there already.
pub fn move_away(namespace: &NetNs, number: u8) -> Result<()> {
    let [v4, v6] = far(number);
    namespace.ip(&[
        "address flush dev eth0 scope global",
        &format!("address add {v4}/24 dev eth0"),
        &format!("address add {v6}/64 dev eth0 nodad"),
        "route add default via 198.51.100.254",
        "route add default via 2001:db8:2::fe",
    ])
}
