//! The bare wiring of a pod: what benches hold the CNI binary against.
//! In: name of the host side, the pod's namespace, an address of each family; of several pods with `--` between. Out: pods that the host
//! reaches.
//! Invariant: one request, one acknowledgement, one after the other: what any program has to ask of the kernel.
//! Never: asks anybody but the kernel; sets a sysctl; attaches a program; undoes.

use model::{Cidr, IfaceName, Ifindex, Mac};
use netlink::{Error, LinkChange, Route, Scope, Socket, VethSpec, namespace};
use std::{
    error::Error as AnyError,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

const HOST_MAC: Mac = Mac([0xee; 6]);
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee));
const MTU: u32 = 1500;

fn main() -> Result<(), Box<dyn AnyError>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    arguments.split(|argument| argument == "--").try_for_each(wire)
}

fn wire(arguments: &[String]) -> Result<(), Box<dyn AnyError>> {
    let [host, path, addresses @ ..] = arguments else {
        return Err("usage: wire HOST_INTERFACE NAMESPACE ADDRESS... [-- HOST_INTERFACE NAMESPACE ADDRESS...]".into());
    };
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let sandbox = namespace::open(Path::new(path))?;
    let mut outside = Socket::open()?;
    let mut inside = namespace::inside(&sandbox, Socket::open)??;
    let (host, pod) = pair(&mut outside, host, sandbox.as_fd(), &mut inside)?;
    pod_side(&mut inside, pod.0, &addresses)?;
    host_side(&mut outside, host, pod.1, &addresses)?;
    Ok(())
}

/// The pair; index of the host side, index and MAC of the pod's.
fn pair(
    outside: &mut Socket,
    host: &str,
    sandbox: BorrowedFd<'_>,
    inside: &mut Socket,
) -> Result<(Ifindex, (Ifindex, Mac)), Box<dyn AnyError>> {
    let [host, pod] = [host, "eth0"].map(|name| IfaceName(name.to_owned()));
    outside.create_veth(&VethSpec {
        name: &host,
        mac: HOST_MAC,
        mtu: MTU,
        peer_name: &pod,
        peer_mac: None,
        peer_namespace: sandbox,
    })?;
    let host = outside.link(&host)?.ok_or("the host side has vanished")?;
    let pod = inside.link(&pod)?.ok_or("the pod's side has vanished")?;
    Ok((host.index, (pod.index, pod.mac.ok_or("the pod's side has no MAC")?)))
}

fn pod_side(inside: &mut Socket, pod: Ifindex, addresses: &[IpAddr]) -> Result<(), Error> {
    inside.set_link(pod, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    for address in addresses {
        let v4 = address.is_ipv4();
        inside.add_address(pod, *address, if v4 { 32 } else { 128 }, true)?;
        let gateway = if v4 { GATEWAY_V4 } else { GATEWAY_V6 };
        if v4 {
            inside.replace_route(&route(Cidr::host(gateway), None, pod, Scope::Link))?;
        }
        let everywhere: Cidr = if v4 { "0.0.0.0/0" } else { "::/0" }.parse().expect("because the text is a network");
        inside.replace_route(&route(everywhere, Some(gateway), pod, Scope::Global))?;
    }
    Ok(())
}

fn host_side(outside: &mut Socket, host: Ifindex, mac: Mac, addresses: &[IpAddr]) -> Result<(), Error> {
    outside.set_link(host, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    for address in addresses {
        outside.replace_neighbour(host, *address, mac)?;
        let scope = if address.is_ipv4() { Scope::Link } else { Scope::Global };
        outside.replace_route(&route(Cidr::host(*address), None, host, scope))?;
    }
    Ok(())
}

fn route(destination: Cidr, gateway: Option<IpAddr>, interface: Ifindex, scope: Scope) -> Route {
    Route { gateway, scope, ..Route::new(destination, interface, 3) }
}
