//! The kernel programs: one per hook; of those for packets a twin each that only answers what it would do; one arms the cursor.
//! In: a packet at a TCX hook, an address at a cgroup's. Out: what the kernel shall do with it.
//! Invariant: a live program and its twin are the same stages, compiled with another constant.
//! Never: decides; the stages do, in this crate's library.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod announced_maps;
#[cfg(target_arch = "bpf")]
mod apart;
#[cfg(target_arch = "bpf")]
mod ask;
#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod budget;
#[cfg(target_arch = "bpf")]
mod complain;
#[cfg(target_arch = "bpf")]
mod cursor;
#[cfg(target_arch = "bpf")]
mod finish;
#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod masquerade_maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod requote;
#[cfg(target_arch = "bpf")]
mod scratch;
#[cfg(target_arch = "bpf")]
mod sctp;
#[cfg(target_arch = "bpf")]
mod send;
#[cfg(target_arch = "bpf")]
mod service_maps;
#[cfg(target_arch = "bpf")]
mod sock_addr;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod socket_maps;
#[cfg(target_arch = "bpf")]
mod translate;
#[cfg(target_arch = "bpf")]
mod tunnelled;
#[cfg(target_arch = "bpf")]
mod words;
#[cfg(target_arch = "bpf")]
mod wrapped;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::{cgroup_sock_addr, classifier};
    use aya_ebpf::programs::{SockAddrContext, TcContext};
    use ebpf::walk::Hook;

    use crate::finish::{run, run_answers, run_leaving, run_own};
    use crate::tunnelled::{run_unwrapped, run_wrapped};
    use crate::{cursor, sock_addr, wrapped};

    #[classifier]
    #[inline(always)]
    pub fn from_workload(context: TcContext) -> i32 {
        run::<false>(Hook::FromWorkload, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_workload(context: TcContext) -> i32 {
        run::<false>(Hook::ToWorkload, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_uplink(context: TcContext) -> i32 {
        run::<false>(Hook::FromUplink, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_host_endpoint(context: TcContext) -> i32 {
        run::<false>(Hook::FromHostEndpoint, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_host_endpoint(context: TcContext) -> i32 {
        run_leaving(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_uplink(context: TcContext) -> i32 {
        run_answers::<false>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_node(context: TcContext) -> i32 {
        run_own::<false>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_workload_dry(context: TcContext) -> i32 {
        run::<true>(Hook::FromWorkload, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_workload_dry(context: TcContext) -> i32 {
        run::<true>(Hook::ToWorkload, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_uplink_dry(context: TcContext) -> i32 {
        run::<true>(Hook::FromUplink, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_host_endpoint_dry(context: TcContext) -> i32 {
        run::<true>(Hook::FromHostEndpoint, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_host_endpoint_dry(context: TcContext) -> i32 {
        run::<true>(Hook::ToHostEndpoint, &context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_uplink_dry(context: TcContext) -> i32 {
        run_answers::<true>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_node_dry(context: TcContext) -> i32 {
        run_own::<true>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_tunnel(context: TcContext) -> i32 {
        run_unwrapped::<false>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_tunnel(context: TcContext) -> i32 {
        run_wrapped::<false>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_tunnel_dry(context: TcContext) -> i32 {
        run_unwrapped::<true>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_tunnel_dry(context: TcContext) -> i32 {
        run_wrapped::<true>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_ipip(context: TcContext) -> i32 {
        wrapped::run_arriving::<false>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_ipip(context: TcContext) -> i32 {
        wrapped::run_leaving::<false>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn from_ipip_dry(context: TcContext) -> i32 {
        wrapped::run_arriving::<true>(&context)
    }

    #[classifier]
    #[inline(always)]
    pub fn to_ipip_dry(context: TcContext) -> i32 {
        wrapped::run_leaving::<true>(&context)
    }

    /// Never attached: run once by the agent at its start. 0: the cursor goes on.
    #[classifier]
    pub fn expire(_context: TcContext) -> i32 {
        i32::from(!cursor::arm())
    }

    #[cgroup_sock_addr(connect4)]
    #[inline(always)]
    pub fn connect4(context: SockAddrContext) -> i32 {
        sock_addr::connects::<false>(&context)
    }

    #[cgroup_sock_addr(connect6)]
    #[inline(always)]
    pub fn connect6(context: SockAddrContext) -> i32 {
        sock_addr::connects::<true>(&context)
    }

    #[cgroup_sock_addr(sendmsg4)]
    #[inline(always)]
    pub fn sendmsg4(context: SockAddrContext) -> i32 {
        sock_addr::sends::<false>(&context)
    }

    #[cgroup_sock_addr(sendmsg6)]
    #[inline(always)]
    pub fn sendmsg6(context: SockAddrContext) -> i32 {
        sock_addr::sends::<true>(&context)
    }

    // The kernel takes no other word than 1 of those below.

    #[cgroup_sock_addr(recvmsg4)]
    #[inline(always)]
    pub fn recvmsg4(context: SockAddrContext) -> i32 {
        sock_addr::hears::<false>(&context);
        1
    }

    #[cgroup_sock_addr(recvmsg6)]
    #[inline(always)]
    pub fn recvmsg6(context: SockAddrContext) -> i32 {
        sock_addr::hears::<true>(&context);
        1
    }

    #[cgroup_sock_addr(getpeername4)]
    #[inline(always)]
    pub fn getpeername4(context: SockAddrContext) -> i32 {
        sock_addr::hears::<false>(&context);
        1
    }

    #[cgroup_sock_addr(getpeername6)]
    #[inline(always)]
    pub fn getpeername6(context: SockAddrContext) -> i32 {
        sock_addr::hears::<true>(&context);
        1
    }
}

/// The kernel refuses a program without a GPL-compatible licence most of the helpers used here.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The programs exist for the kernel only; elsewhere this binary is empty.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
