//! The host's network as the reconciler meets it: what is there, and the few changes it makes.
//! In: links, routes, neighbours and settings by name. Out: the kernel's answer, one call at a time.
//! Invariant: what is listed is one look; what changes after it is found by the next.
//! Never: decides; tells ours from another's.

use model::{IfaceName, Ifindex, Mac};
use netlink::{
    Error, Link, LinkChange, Neighbour, Route, Socket,
    sysctl::{self, SysctlError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

/// What the kernel holds, listed once a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Links by name.
    pub links: BTreeMap<IfaceName, Link>,
    /// Routes of all tables.
    pub routes: BTreeSet<Route>,
    /// Neighbours of all interfaces.
    pub neighbours: BTreeSet<Neighbour>,
}

impl Seen {
    /// The indexes of all links.
    #[must_use]
    pub fn indexes(&self) -> BTreeSet<u32> {
        self.links.values().map(|link| link.index.0).collect()
    }
}

/// The calls.
pub trait Network {
    /// Lists what there is.
    fn list(&mut self) -> Result<Seen, Error>;
    /// A setting's value; `None`: there is no such setting (no IPv6, an older kernel, or the interface is gone).
    fn setting(&self, path: &str) -> Result<Option<String>, SysctlError>;
    /// Makes a setting.
    fn set(&mut self, path: &str, value: &str) -> Result<(), SysctlError>;
    /// Gives a link its MAC.
    fn set_mac(&mut self, index: Ifindex, mac: Mac) -> Result<(), Error>;
    /// Sets a link up.
    fn set_up(&mut self, index: Ifindex) -> Result<(), Error>;
    /// Makes a permanent neighbour, or changes it into one.
    fn replace_neighbour(&mut self, index: Ifindex, address: IpAddr, mac: Mac) -> Result<(), Error>;
    /// Takes a neighbour away. `false`: it was gone.
    fn delete_neighbour(&mut self, index: Ifindex, address: IpAddr) -> Result<bool, Error>;
    /// Makes a route, or changes it.
    fn replace_route(&mut self, route: &Route) -> Result<(), Error>;
    /// Takes exactly this route away. `false`: it was gone.
    fn delete_route(&mut self, route: &Route) -> Result<bool, Error>;
}

/// The network namespace this value was made in.
pub struct KernelNetwork(Socket);

impl KernelNetwork {
    /// Serves the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no netlink socket to be had.
    pub fn open() -> Result<Self, Error> {
        Socket::open().map(Self)
    }
}

impl Network for KernelNetwork {
    fn list(&mut self) -> Result<Seen, Error> {
        // A fresh socket each pass: an answer that came too late for the last one is not read by this one.
        self.0 = Socket::open()?;
        let links = self.0.links()?.into_iter().map(|link| (link.name.clone(), link)).collect();
        let routes = self.0.routes()?.into_iter().collect();
        Ok(Seen { links, routes, neighbours: self.0.neighbours()?.into_iter().collect() })
    }

    fn setting(&self, path: &str) -> Result<Option<String>, SysctlError> {
        match sysctl::read(path) {
            Ok(value) => Ok(Some(value)),
            Err(SysctlError::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set(&mut self, path: &str, value: &str) -> Result<(), SysctlError> {
        sysctl::write(path, value)
    }

    fn set_mac(&mut self, index: Ifindex, mac: Mac) -> Result<(), Error> {
        self.0.set_link(index, &LinkChange { mac: Some(mac), ..LinkChange::default() })
    }

    fn set_up(&mut self, index: Ifindex) -> Result<(), Error> {
        self.0.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    fn replace_neighbour(&mut self, index: Ifindex, address: IpAddr, mac: Mac) -> Result<(), Error> {
        self.0.replace_neighbour(index, address, mac)
    }

    fn delete_neighbour(&mut self, index: Ifindex, address: IpAddr) -> Result<bool, Error> {
        self.0.delete_neighbour(index, address)
    }

    fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        self.0.replace_route(route)
    }

    fn delete_route(&mut self, route: &Route) -> Result<bool, Error> {
        self.0.delete_route(route)
    }
}
