//! The map of sockets, and [`Sockets`] over it.
//! In: keys. Out: values as they lie in the kernel's memory.
//! Invariant: the name is that of `abi::maps`; the size is the default there, which the loader may override.
//! Never: part of a packet's way.

use abi::{SocketKey, SocketPeer, maps};
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use ebpf::sockets::Sockets;

use crate::maps::Kernel;

#[map]
static SOCKETS: LruHashMap<SocketKey, SocketPeer> = LruHashMap::with_max_entries(maps::SOCKETS.default_entries, 0);

impl Sockets for Kernel<false> {
    #[inline(always)]
    fn peer(&self, key: &SocketKey) -> Option<SocketPeer> {
        // SAFETY: integers, of which any are a value; of an element used anew they are another socket's, once.
        unsafe { SOCKETS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_peer(&self, key: &SocketKey, peer: &SocketPeer) {
        // Without room the socket hears its backend's own address.
        let _full = SOCKETS.insert(key, peer, 0);
    }

    #[inline(always)]
    fn remove_peer(&self, key: &SocketKey) {
        // Forgotten is forgotten.
        let _gone = SOCKETS.remove(key);
    }
}
