//! Frontend: what stands for others where a packet is sent to: an address with a protocol and a port, or an address as a whole.
//! In: a packet's destination, and for whom those ask who come to this hook. Out: the balancer that is there for them.
//! Invariant: a port's own goes before its address'; where there is none of a kind, nobody looks for it.
//! Never: chooses a backend.

use abi::service::{FRONTENDS_FLOATING, FRONTENDS_PORTS};
use abi::{Address, Balancer, DropReason, ServiceKey};

use crate::choice::{self, Side};
use crate::parse::protocol;
use crate::tables::{Frame, Tables};
use crate::translation::Translation;
use crate::walk::{Hook, State, Walk};

impl<'a, T: Tables, F: Frame> Walk<'a, T, F> {
    /// For whom those ask whose packets come to this hook.
    #[inline(always)]
    fn side_of_sender(&self) -> Side {
        if matches!(self.hook, Hook::FromUplink | Hook::FromHostEndpoint) { Side::Outside } else { Side::Inside }
    }

    /// Whether an address floats, by whatever generation.
    #[inline(always)]
    pub(crate) fn floats(&self, address: &Address) -> bool {
        self.tables.service(&ServiceKey::floating(*address)).is_some()
    }

    /// What the packet's frontend has for its sender: that of its port, else that of its address as a whole. At a pod's own
    /// interface only the second leads there, by a route.
    #[inline(always)]
    pub(crate) fn balancer(&self, state: &mut State) -> Result<Option<&'a Balancer>, DropReason> {
        let side = self.side_of_sender();
        let any = choice::any_for(side, self.tables, state.generation)?;
        let Translation { key, frontend, port, at, .. } = &mut state.translation;
        if any & FRONTENDS_PORTS != 0 && is_served(state.packet.protocol) && self.hook != Hook::ToWorkload {
            key.address = *frontend;
            key.port = port.to_ne_bytes();
            key.protocol = state.packet.protocol;
            key.pad = [0; 5];
            if let Some((slot, balancer)) = choice::balancer_for(side, self.tables, key, state.generation)? {
                *at = slot;
                return Ok(Some(balancer));
            }
        }
        // What the node itself sends there goes by the pod's interface.
        if any & FRONTENDS_FLOATING == 0 || self.hook == Hook::FromNode {
            return Ok(None);
        }
        *key = ServiceKey::floating(*frontend);
        match choice::balancer_for(side, self.tables, key, state.generation)? {
            Some((slot, balancer)) => {
                *at = slot;
                Ok(Some(balancer))
            }
            None => Ok(None),
        }
    }
}

/// Whether a service may have ports of this protocol.
#[inline(always)]
const fn is_served(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}
