//! CHECK's own half: is the pod still wired as ADD's result says?
//! In: ADD's result as the runtime kept it, the pod's namespace. Out: every difference, in words.
//! Invariant: only what ADD made is looked at; what later plugins added or changed beside it is theirs (CNI-51).
//! Never: repairs.

use crate::{
    deadline::Deadline,
    failure::{Code, Failure},
    result::gateway_of,
};
use model::{Cidr, IfaceName, Ifindex, Mac};
use netlink::{Link, Socket, namespace};
use serde::Deserialize;
use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// ADD's result, as far as CHECK reads it.
#[derive(Debug, Deserialize)]
pub(crate) struct Previous {
    #[serde(default)]
    interfaces: Vec<PreviousInterface>,
    #[serde(default)]
    ips: Vec<PreviousIp>,
    #[serde(default)]
    routes: Vec<PreviousRoute>,
}

#[derive(Debug, Deserialize)]
struct PreviousInterface {
    name: IfaceName,
    #[serde(default)]
    mac: Option<Mac>,
    #[serde(default)]
    sandbox: String,
}

/// What CHECK is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The pod's side.
    pub interface: &'a IfaceName,
    /// The host's side.
    pub host: &'a IfaceName,
    /// The pod.
    pub sandbox: &'a OwnedFd,
}

#[derive(Debug, Deserialize)]
struct PreviousIp {
    address: String,
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct PreviousRoute {
    dst: Cidr,
    #[serde(default)]
    gw: Option<IpAddr>,
}

impl Previous {
    /// Reads `prevResult`.
    pub(crate) fn read(result: Option<&serde_json::Value>) -> Result<Self, Failure> {
        let unusable = |reason: String| Failure::new(Code::CONFIGURATION, format!("prevResult: {reason}"));
        let result = result.ok_or_else(|| unusable("missing; CHECK needs the result of ADD".to_owned()))?;
        serde_json::from_value(result.clone()).map_err(|error| unusable(error.to_string()))
    }

    /// Every difference; none: all is as it was left.
    pub(crate) fn differences(&self, wanted: Wanted<'_>, deadline: Deadline) -> Result<Vec<String>, Failure> {
        let Wanted { interface, host, sandbox } = wanted;
        let Some(place) = self.interfaces.iter().position(|own| own.name == *interface && !own.sandbox.is_empty())
        else {
            return Ok(vec![format!("prevResult has no interface {interface} in a sandbox")]);
        };
        let look = || self.look_inside(place, &mut deadline.socket()?);
        let (pod, mut found) = namespace::inside(sandbox.as_fd(), look)??;
        let Some(pod) = pod else { return Ok(found) };
        found.extend(look_outside(host, &pod, sandbox.as_fd(), &mut deadline.socket()?)?);
        Ok(found)
    }

    fn look_inside(&self, place: usize, socket: &mut Socket) -> Result<(Option<Link>, Vec<String>), Failure> {
        let own = &self.interfaces[place];
        let Some(link) = socket.link(&own.name)? else {
            return Ok((None, vec![format!("interface {} is gone from the pod", own.name)]));
        };
        let mut found = Vec::new();
        if !link.up {
            found.push(format!("interface {} in the pod is down", own.name));
        }
        if own.mac.is_some() && own.mac != link.mac {
            found.push(format!("interface {} in the pod has another MAC", own.name));
        }
        found.extend(self.missing_addresses(place, link.index, socket)?);
        found.extend(self.missing_routes(link.index, socket)?);
        Ok((Some(link), found))
    }

    fn missing_addresses(&self, place: usize, index: Ifindex, socket: &mut Socket) -> Result<Vec<String>, Failure> {
        let addresses = socket.addresses()?;
        let there = |text: &str| {
            addresses.iter().any(|own| own.interface == index && format!("{}/{}", own.address, own.prefix_len) == text)
        };
        let own = self.ips.iter().filter(|ip| ip.interface == Some(place));
        Ok(own
            .filter(|ip| !there(&ip.address))
            .map(|ip| format!("address {} is gone from the pod", ip.address))
            .collect())
    }

    fn missing_routes(&self, index: Ifindex, socket: &mut Socket) -> Result<Vec<String>, Failure> {
        let routes = socket.routes()?;
        let there = |wanted: &PreviousRoute| {
            routes.iter().any(|own| own.interface == index && own.destination == wanted.dst && own.gateway == wanted.gw)
        };
        let gone = |route: &PreviousRoute| format!("the route to {} is gone from the pod", route.dst);
        // Other gateways are of other plugins.
        let ours = |route: &&PreviousRoute| route.gw.is_some_and(|gateway| gateway == gateway_of(gateway));
        Ok(self.routes.iter().filter(ours).filter(|route| !there(route)).map(gone).collect())
    }
}

fn look_outside(
    host: &IfaceName,
    pod: &Link,
    sandbox: BorrowedFd<'_>,
    socket: &mut Socket,
) -> Result<Vec<String>, Failure> {
    let Some(link) = socket.link(host)? else {
        return Ok(vec![format!("host interface {host} is gone")]);
    };
    let mut found = Vec::new();
    if !link.up {
        found.push(format!("host interface {host} is down"));
    }
    if !socket.leads_to(&link, pod.index, sandbox)? {
        found.push(format!("host interface {host} does not lead to the pod"));
    }
    Ok(found)
}
