//! Who is at the other end of a Unix socket.
//! In: a connected socket. Out: the user that connected, as this user namespace numbers it.
//! Invariant: one who has no process id here is told of, too: a container may have processes of its own.
//! Never: a process id: the peer may have ended, and its number may be another's.

use std::{
    io,
    mem::size_of,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
};

/// The user id with which the peer connected (unix(7), `SO_PEERCRED`).
///
/// # Errors
/// The kernel's: the socket is not connected.
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    // For rustix, which has this call, too, a process id is never 0; that of a peer outside this pid namespace is.
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(io::Error::other)?;
    // SAFETY: the socket is open for the whole call; the kernel writes at most `length` bytes, which is what `found` has, all of
    // them plain numbers, and how many it wrote.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut found).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(found.uid) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_whoever_made_the_pair() {
        let (here, _there) = UnixStream::pair().expect("a pair");
        assert_eq!(peer_uid(&here).expect("it is connected"), rustix::process::getuid().as_raw());
    }
}
