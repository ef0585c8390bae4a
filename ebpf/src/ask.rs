//! Ask: what no entry in force lets pass at once, as programs within the programs, four for each hook.
//! In: a packet, its state as far as the hot way came. Out: the slot that it goes to, or the reason of a drop.
//! Invariant: the same stages as under test (`ebpf::asked`), one after the other; the state lies where it lay. None stands on
//! another's stack.
//! Never: on the way of an established flow: a call costs a packet as much as dozens of instructions.

use abi::DropReason;
use aya_ebpf::bindings::__sk_buff;
use ebpf::asked::{self, Part, is_completed};
use ebpf::walk::{Hook, State};

use crate::maps::Kernel;
use crate::packet::Skb;
use crate::scratch::known_state;

macro_rules! apart {
    ($($hook:ident, $dry:literal: $seeks:ident, $relates:ident, $judges:ident, $completes:ident;)*) => {
        $(#[inline(never)]
        #[unsafe(no_mangle)]
        fn $seeks(skb: *mut __sk_buff, is_new: u32) -> u64 {
            part!(skb, Hook::$hook, $dry, seeks, is_new != 0)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        fn $relates(skb: *mut __sk_buff) -> u64 {
            part!(skb, Hook::$hook, $dry, relates, 0)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        fn $judges(skb: *mut __sk_buff, known: u32) -> u64 {
            part!(skb, Hook::$hook, $dry, judges, known)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        fn $completes(skb: *mut __sk_buff, slot: u32) -> u64 {
            part!(skb, Hook::$hook, $dry, completes, slot)
        })*

        /// The slot that a packet of this hook goes to; `None`: it is none of ours.
        #[inline(always)]
        pub fn ask<const DRY: bool>(
            hook: Hook,
            skb: Skb,
            state: &State,
            is_new: bool,
        ) -> Result<Option<u32>, DropReason> {
            match (hook, DRY) {
                $((Hook::$hook, $dry) => {
                    let mut said = $seeks(skb.0, is_new.into());
                    if asked::complains(said) {
                        said = $relates(skb.0);
                    }
                    if let Some(known) = asked::to_judge(said) {
                        said = $judges(skb.0, known);
                    }
                    if let Some(slot) = asked::goes_to(said) && is_completed(hook, state, slot) {
                        said = $completes(skb.0, slot);
                    }
                    asked::said(said)
                })*
                // A gate asks nobody apart.
                _ => Err(DropReason::TableCorrupt),
            }
        }
    };
}

macro_rules! part {
    ($skb:ident, $hook:expr, $dry:literal, $part:ident, $word:expr) => {{
        let Some(state) = known_state::<$dry>() else {
            return DropReason::TableCorrupt as u64;
        };
        let skb = Skb($skb);
        let part = Part { hook: $hook, tables: &Kernel::<$dry>, frame: &skb, arrival: &skb.arrival() };
        asked::$part(part, state, $word)
    }};
}

apart! {
    FromWorkload, false:
        from_workload_seeks, from_workload_relates, from_workload_judges, from_workload_completes;
    FromWorkload, true:
        from_workload_dry_seeks, from_workload_dry_relates, from_workload_dry_judges, from_workload_dry_completes;
    ToWorkload, false:
        to_workload_seeks, to_workload_relates, to_workload_judges, to_workload_completes;
    ToWorkload, true:
        to_workload_dry_seeks, to_workload_dry_relates, to_workload_dry_judges, to_workload_dry_completes;
    FromUplink, false:
        from_uplink_seeks, from_uplink_relates, from_uplink_judges, from_uplink_completes;
    FromUplink, true:
        from_uplink_dry_seeks, from_uplink_dry_relates, from_uplink_dry_judges, from_uplink_dry_completes;
    FromNode, false: from_node_seeks, from_node_relates, from_node_judges, from_node_completes;
    FromNode, true: from_node_dry_seeks, from_node_dry_relates, from_node_dry_judges, from_node_dry_completes;
    ToHostEndpoint, false: leave_seeks, leave_relates, leave_judges, leave_completes;
}
