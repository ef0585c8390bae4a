//! A packet socket at a pod's end of its pair.
//! In: whole frames. Out: whole frames, each behind a header of offloads.
//! Invariant: every wait is bounded.
//! Never: concludes from silence.

use crate::{cast::Actor, kernel::Kernel};
use netlink::namespace;
use std::{
    ffi::CString,
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h).
pub const OFFLOAD: usize = 10;

/// A packet socket at a pod's end of its pair, every frame behind a header of offloads.
pub struct Port(std::fs::File);

impl Port {
    pub fn at(kernel: &Kernel, actor: Actor) -> Self {
        namespace::inside(kernel.pods(), || open(actor.name)).expect("the pods' namespace can be entered")
    }

    pub fn send(&mut self, offload: [u8; OFFLOAD], frame: &[u8]) {
        self.0.write_all(&[&offload, frame].concat()).expect("the frame can be sent");
    }

    /// Offloads and frame of the next packet whose last bytes are these.
    pub fn receive(&mut self, tail: &[u8]) -> (Vec<u8>, Vec<u8>) {
        loop {
            let (offload, frame) = self.next();
            if frame.ends_with(tail) {
                return (offload, frame);
            }
        }
    }

    /// The frames that come before one whose last bytes are these.
    pub fn received_before(&mut self, tail: &[u8]) -> Vec<Vec<u8>> {
        let frames = std::iter::from_fn(|| Some(self.next().1));
        frames.take_while(|frame| !frame.ends_with(tail)).collect()
    }

    fn next(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut buffer = vec![0; 1 << 16];
        let length = self.0.read(&mut buffer).expect("the frame arrives in time");
        let (offload, frame) = buffer[..length].split_at(OFFLOAD);
        (offload.to_vec(), frame.to_vec())
    }
}

fn open(name: &str) -> Port {
    let name = CString::new(name).expect("a name has no zero");
    let check = |answer: libc::c_int| if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) };
    let every = (libc::ETH_P_ALL as u16).to_be();
    let (on, patience) = (1i32, libc::timeval { tv_sec: 20, tv_usec: 0 });
    // SAFETY: plain system calls on a descriptor made here, with pointers to values of the lengths given.
    unsafe {
        let fd = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(every)))
            .expect("root may open a packet socket");
        let owned = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()).cast_signed();
        let set = |level, option, value: *const libc::c_void, length| {
            check(libc::setsockopt(owned.as_raw_fd(), level, option, value, length)).expect("the option is known")
        };
        set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const on).cast(), 4);
        set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const patience).cast(), size_of::<libc::timeval>() as u32);
        let length = size_of::<libc::sockaddr_ll>() as u32;
        check(libc::bind(owned.as_raw_fd(), (&raw const address).cast(), length)).expect("the interface is there");
        Port(owned.into())
    }
}
