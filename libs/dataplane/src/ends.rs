//! Sockets whose backend is gone are ended: their processes ask anew instead of waiting for nobody.
//! In: which backends went, the sockets of this namespace, what the programs remember of them. Out: how many were ended.
//! Invariant: only a socket is ended that a program sent to that very backend.
//! Never: ends one that was connected by its process' own choice.

use crate::tables::{Ended, KernelStore};
use abi::{Address, SocketKey, socket::SIDE_BACKEND};
use model::Protocol;
use netlink::Diag;

/// Ends those of these backends.
///
/// # Errors
/// In words: the kernel does not list or end sockets.
pub fn end(store: &KernelStore, ended: &Ended, generation: u64) -> Result<usize, String> {
    if ended.is_nothing() {
        return Ok(0);
    }
    let mut diag = Diag::open().map_err(|error| error.to_string())?;
    let mut count = 0;
    for protocol in [Protocol::TCP, Protocol::UDP] {
        for socket in diag.connected(protocol.0).map_err(|error| error.to_string())? {
            let (address, port) = (Address::from_bytes(socket.address), socket.port);
            let key = SocketKey { cookie: socket.cookie, address, port, side: SIDE_BACKEND, pad: [0; 5] };
            let is_meant = ended.has((address, port))
                && store.is_of_gone_backend(&key, generation).map_err(|error| error.to_string())?;
            if is_meant && diag.destroy(&socket).map_err(|error| error.to_string())? {
                count += 1;
            }
        }
    }
    Ok(count)
}
