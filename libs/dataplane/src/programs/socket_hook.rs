//! The hooks of sockets: system calls in which the address of a service stands for another.
//! In: nothing. Out: names in the object, and how each is attached to a cgroup.
//! Invariant: in the order of [`SocketHook::ALL`] an answer is known by the service's name before anything is sent to a backend.
//! Never: knows whether it is loaded.

use aya::programs::CgroupSockAddrAttachType as At;

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketHook {
    /// getpeername(2), IPv4.
    GetPeerName4,
    /// getpeername(2), IPv6.
    GetPeerName6,
    /// recvmsg(2), IPv4.
    RecvMsg4,
    /// recvmsg(2), IPv6.
    RecvMsg6,
    /// connect(2), IPv4.
    Connect4,
    /// connect(2), IPv6.
    Connect6,
    /// sendmsg(2), IPv4.
    SendMsg4,
    /// sendmsg(2), IPv6.
    SendMsg6,
}

impl SocketHook {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::GetPeerName4,
        Self::GetPeerName6,
        Self::RecvMsg4,
        Self::RecvMsg6,
        Self::Connect4,
        Self::Connect6,
        Self::SendMsg4,
        Self::SendMsg6,
    ];

    /// The hook of a program.
    pub fn of(program: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == program)
    }

    /// The program's name in the object.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::GetPeerName4 => "getpeername4",
            Self::GetPeerName6 => "getpeername6",
            Self::RecvMsg4 => "recvmsg4",
            Self::RecvMsg6 => "recvmsg6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::SendMsg4 => "sendmsg4",
            Self::SendMsg6 => "sendmsg6",
        }
    }

    /// How it is attached.
    #[must_use]
    pub const fn attach_type(self) -> At {
        match self {
            Self::GetPeerName4 => At::GetPeerName4,
            Self::GetPeerName6 => At::GetPeerName6,
            Self::RecvMsg4 => At::UDPRecvMsg4,
            Self::RecvMsg6 => At::UDPRecvMsg6,
            Self::Connect4 => At::Connect4,
            Self::Connect6 => At::Connect6,
            Self::SendMsg4 => At::UDPSendMsg4,
            Self::SendMsg6 => At::UDPSendMsg6,
        }
    }
}
