//! Socket addresses: what a socket of this node asks for and hears, at the hooks of its cgroup.
//! In: the context of a system call. Out: another address in it; whether the call goes on, and its error if not.
//! Invariant: a socket of another network namespace than the agent's finds everything as it was.
//! Never: decides; `ebpf::sockets` does.

use core::ptr;

use abi::Address;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use ebpf::conntrack::Socket;
use ebpf::parse::protocol;
use ebpf::sockets::{self, Asked, Sent};

use crate::maps::Kernel;

/// The call goes on.
const GO: i32 = 1;
/// It fails: with EPERM, if nobody sets another error.
const STOP: i32 = 0;

const ECONNREFUSED: i32 = 111;
const ETIMEDOUT: i32 = 110;
/// `TCP_ESTABLISHED` (include/net/tcp_states.h), of UDP as well.
const ESTABLISHED: u32 = 1;

/// Whose sockets these programs are about. Read by `read_volatile` only: the loader puts the agent's there.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;

/// connect(2).
#[inline(always)]
pub fn connects<const V6: bool>(context: &SockAddrContext) -> i32 {
    if !is_of_this_node(context) {
        return GO;
    }
    let asked = asked::<V6>(context, false);
    conclude::<V6>(context, asked.protocol, sockets::connects(&Kernel::<false>, &asked))
}

/// sendmsg(2) with an address.
#[inline(always)]
pub fn sends<const V6: bool>(context: &SockAddrContext) -> i32 {
    if !is_of_this_node(context) {
        return GO;
    }
    let asked = asked::<V6>(context, is_connected(context));
    conclude::<V6>(context, asked.protocol, sockets::sends(&Kernel::<false>, &asked))
}

/// recvmsg(2) that asks who sent it, and getpeername(2).
#[inline(always)]
pub fn hears<const V6: bool>(context: &SockAddrContext) {
    if is_of_this_node(context)
        && let Some(known) = sockets::hears(&Kernel::<false>, cookie(context), address::<V6>(context))
    {
        set_address::<V6>(context, known);
    }
}

#[inline(always)]
fn is_of_this_node(context: &SockAddrContext) -> bool {
    // SAFETY: the helper reads the context; the static is aligned.
    unsafe { bpf_get_netns_cookie(context.as_ptr()) == ptr::read_volatile(&raw const NETNS_COOKIE) }
}

#[inline(always)]
fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: the helper reads the context.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

/// An IPv6 socket that is connected to an IPv4 address sends each datagram as if that address were named.
#[inline(always)]
fn is_connected(context: &SockAddrContext) -> bool {
    // SAFETY: a field of the context that is a socket's address, and a field of that socket, which is the caller's.
    unsafe {
        let socket = ptr::read_volatile(&raw const (*context.sock_addr).__bindgen_anon_1.sk);
        ptr::read_volatile(&raw const (*socket).state) == ESTABLISHED
    }
}

#[inline(always)]
fn asked<const V6: bool>(context: &SockAddrContext, is_connected: bool) -> Asked {
    // SAFETY: a field of the context, read whole.
    let protocol = unsafe { ptr::read_volatile(&raw const (*context.sock_addr).protocol) } as u8;
    Asked { cookie: cookie(context), protocol, to: address::<V6>(context), is_connected }
}

#[inline(always)]
fn conclude<const V6: bool>(context: &SockAddrContext, asked: u8, sent: Sent) -> i32 {
    match sent {
        Sent::AsAsked => GO,
        Sent::To(to) => {
            set_address::<V6>(context, to);
            GO
        }
        Sent::Refused => stop(ECONNREFUSED),
        // As where its packets are dropped on their way out: a datagram is forbidden, a connection comes to nothing.
        Sent::Unheard if asked == protocol::TCP => stop(ETIMEDOUT),
        Sent::Unheard => STOP,
    }
}

#[inline(always)]
fn stop(error: i32) -> i32 {
    // SAFETY: the helper takes a number. Where it refuses it, the call fails with EPERM.
    let _refused = unsafe { bpf_set_retval(-error) };
    STOP
}

/// The address in the context; its port in network order.
#[inline(always)]
fn address<const V6: bool>(context: &SockAddrContext) -> Socket {
    let at = context.sock_addr;
    // SAFETY: fields of the context, each read whole and by itself, which is all that the verifier allows.
    unsafe {
        let port = ptr::read_volatile(&raw const (*at).user_port) as u16;
        if V6 {
            let word =
                |index: usize| u64::from(ptr::read_volatile((&raw const (*at).user_ip6).cast::<u32>().add(index)));
            (Address([word(0) | word(1) << 32, word(2) | word(3) << 32]), port)
        } else {
            (Address::from_v4(ptr::read_volatile(&raw const (*at).user_ip4).to_ne_bytes()), port)
        }
    }
}

#[inline(always)]
fn set_address<const V6: bool>(context: &SockAddrContext, (Address([first, second]), port): Socket) {
    let at = context.sock_addr;
    // SAFETY: as in `address`, written.
    unsafe {
        ptr::write_volatile(&raw mut (*at).user_port, u32::from(port));
        if V6 {
            let write = |index: usize, word: u64| {
                ptr::write_volatile((&raw mut (*at).user_ip6).cast::<u32>().add(index), word as u32);
            };
            write(0, first);
            write(1, first >> 32);
            write(2, second);
            write(3, second >> 32);
        } else {
            ptr::write_volatile(&raw mut (*at).user_ip4, (second >> 32) as u32);
        }
    }
}
