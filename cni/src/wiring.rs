//! The veth pair between a pod and the host: exactly as Calico wires it, host end down.
//! In: names, addresses, the pod's namespace. Out: the pod side's MAC.
//! Invariant: a host interface with another attachment's alias is never taken away, except by the pod's next sandbox.
//! Never: sets the host end up; that is the agent's, once policy is in force.

use crate::{
    deadline::Deadline,
    failure::{Code, Failure},
    result::{HOST_MAC, gateway_of, host_prefix},
    steps::Steps,
};
use model::{Cidr, FIRST_INTERFACE, IfaceName, Ifindex, Mac};
use netlink::{LOOPBACK, Link, LinkChange, Route, Scope, Socket, VethSpec, namespace, sysctl::Families};
use std::{
    net::IpAddr,
    os::fd::BorrowedFd,
    thread,
    time::{Duration, Instant},
};

/// The protocol number of routes that CNI plugins make: boot.
const ROUTE_PROTOCOL: u8 = 3;

/// Below it the kernel puts IPv6 routes that name no metric.
const METRIC_BASE: u32 = 1024;

/// How long a pod's interface may take until it takes packets; that is a moment of the kernel's own.
const RUNNING: Duration = Duration::from_millis(200);
/// Between two looks at it.
const RUNNING_PAUSE: Duration = Duration::from_millis(1);

/// What only the wiring knows.
#[derive(Debug)]
pub(crate) struct Wired {
    pub mac: Mac,
    /// Of the pod's routes through this interface; `None`: none was named.
    pub metric: Option<u32>,
    /// The pod's interface, and a socket in its namespace.
    index: Ifindex,
    socket: Socket,
}

impl Wired {
    /// After the host's side is up: until the kernel has set the queue of the pod's side to work, it drops what the pod sends,
    /// and the first SYN comes again after a second. One that takes longer is no failure of ADD.
    pub(crate) fn await_running(mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        while !self.socket.is_running(self.index)? && begun.elapsed() < RUNNING {
            thread::sleep(RUNNING_PAUSE);
        }
        Ok(())
    }
}

/// What to wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wiring<'a> {
    pub host: &'a IfaceName,
    /// Says whose the host side is.
    pub alias: &'a str,
    pub interface: &'a IfaceName,
    /// `None`: the kernel chooses.
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub addresses: &'a [IpAddr],
    /// Where to, through the gateway.
    pub destinations: &'a [Cidr],
    pub namespace: BorrowedFd<'a>,
    pub forwarding: bool,
}

impl Wiring<'_> {
    /// Makes the pair and everything in the pod. What fails is left for [`unwire`].
    pub(crate) fn wire(&self, deadline: Deadline, steps: &Steps) -> Result<Wired, Failure> {
        let mut socket = deadline.socket()?;
        let pair = VethSpec {
            name: self.host,
            mac: HOST_MAC,
            mtu: self.mtu,
            peer_name: self.interface,
            peer_mac: self.mac,
            peer_namespace: self.namespace,
        };
        match socket.create_veth(&pair) {
            // One of the two names is taken.
            Err(error) if error.is_present() => {
                self.make_way(&mut socket, deadline)?;
                socket.create_veth(&pair)?;
            }
            created => created?,
        }
        socket.set_alias(self.host, self.alias)?;
        steps.end("veth");
        let wired = namespace::inside(self.namespace, || self.wire_pod(deadline.socket()?, deadline))?;
        steps.end("pod");
        wired
    }

    /// Takes away the pair of the pod's former sandbox (CALC-4); refuses where the pod's interface is another's (CNI-20).
    fn make_way(&self, socket: &mut Socket, deadline: Deadline) -> Result<(), Failure> {
        let former = socket.link(self.host)?;
        let inside = namespace::inside(self.namespace, || Ok::<_, Failure>(deadline.socket()?.link(self.interface)?))??;
        if let Some(inside) = inside {
            let pair = match &former {
                Some(former) => socket.leads_to(former, inside.index, self.namespace)?,
                None => false,
            };
            if !pair {
                return Err(self.taken());
            }
        }
        if let Some(former) = former {
            socket.delete_link(former.index)?;
        }
        Ok(())
    }

    fn taken(&self) -> Failure {
        let message =
            format!("CNI_IFNAME {} is taken in the pod's namespace; remove it or use another", self.interface);
        Failure::new(Code::WIRING, message)
    }

    fn wire_pod(&self, mut socket: Socket, deadline: Deadline) -> Result<Wired, Failure> {
        self.set_sysctls()?;
        let link = there(&mut socket, self.interface)?;
        // The first interface's routes are the pod's; another's stand behind them, for who binds to it.
        let metric = (self.interface.0 != FIRST_INTERFACE).then_some(METRIC_BASE + link.index.0);
        deadline.left()?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        socket.together(|socket| {
            socket.set_link(LOOPBACK, &up)?;
            socket.set_link(link.index, &up)?;
            for address in self.addresses {
                socket.add_address(link.index, *address, host_prefix(*address), true)?;
                for route in pod_routes(link.index, *address, self.destinations) {
                    socket.replace_route(&Route { metric: metric.unwrap_or_default(), ..route })?;
                }
            }
            Ok(())
        })?;
        let without = || Failure::new(Code::WIRING, format!("{} in the pod has no MAC", self.interface));
        Ok(Wired { mac: link.mac.ok_or_else(without)?, metric, index: link.index, socket })
    }

    /// In the pod's namespace only.
    fn set_sysctls(&self) -> Result<(), Failure> {
        let (settings, forwarding) = (Families::open(), if self.forwarding { "1" } else { "0" });
        if self.addresses.iter().any(IpAddr::is_ipv4) {
            settings.write("ipv4/ip_forward", forwarding)?;
        }
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            // Some runtimes make namespaces with IPv6 off.
            for scope in ["all", "default", "lo", &self.interface.0] {
                settings.write(&format!("ipv6/conf/{scope}/disable_ipv6"), "0")?;
            }
            settings.write("ipv6/conf/all/forwarding", forwarding)?;
            // The way out is fixed; else the pod would solicit a router for as long as it lives, and none answers.
            settings.write(&format!("ipv6/conf/{}/accept_ra", self.interface), "0")?;
        }
        Ok(())
    }
}

fn there(socket: &mut Socket, name: &IfaceName) -> Result<Link, Failure> {
    socket.link(name)?.ok_or_else(|| Failure::new(Code::WIRING, format!("interface {name} has vanished")))
}

/// The way out of a pod: a gateway that no network holds (Calico: cni-plugin dataplane_linux.go).
fn pod_routes(interface: Ifindex, address: IpAddr, destinations: &[Cidr]) -> Vec<Route> {
    let route =
        |destination, gateway, scope| Route { gateway, scope, ..Route::new(destination, interface, ROUTE_PROTOCOL) };
    let gateway = gateway_of(address);
    let own = destinations.iter().filter(|destination| destination.is_v4() == address.is_ipv4());
    let out = own.map(|destination| route(*destination, Some(gateway), Scope::Global));
    // A link-local address needs no route to be a gateway.
    let to_gateway = address.is_ipv4().then(|| route(Cidr::host(gateway), None, Scope::Link));
    to_gateway.into_iter().chain(out).collect()
}

/// Takes away the host side `host` if it carries `alias`, and with it the pod's side. Succeeds where there is none. One that
/// an interrupted ADD left without an alias, or under another name than the runtime's arguments give, is the agent's to
/// take: its journal says whose it is. Not looked for among all links: that list may change as fast as it is read.
pub(crate) fn unwire(host: &IfaceName, alias: &str) -> Result<(), Failure> {
    let mut socket = Socket::open()?;
    if let Some(link) = socket.link(host)?.filter(|link| link.kind == "veth" && link.alias == alias) {
        socket.delete_link(link.index)?;
    }
    Ok(())
}
