//! Log: what Log rules ask to be written down, in a ring for the agent.
//! In: a judgement whose span has the log bit. Out: one record, or one more that is left out.
//! Invariant: runs apart from the packets' way; each processor has an account of its own, so that a flood costs a look at it.
//! Never: in a dry run; waits for room.

use core::ptr;

use abi::log::{LOG_BYTES, LOG_INTERVAL_NS as DEFAULT_NS, LogAccount, LogRecord, spend};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use ebpf::policy::{LOGGED_MAX, LOGGED_ROOM};
use ebpf::walk::State;

use crate::scratch;

#[map]
static LOG: RingBuf = RingBuf::with_byte_size(LOG_BYTES, 0);
#[map]
static LOG_ACCOUNT: PerCpuArray<LogAccount> = PerCpuArray::with_max_entries(1, 0);

/// Read by `read_volatile` only: the loader may put another number there.
#[unsafe(no_mangle)]
static LOG_INTERVAL_NS: u64 = DEFAULT_NS;

/// Writes down what was noted of a packet, as far as its processor may.
#[inline(always)]
pub fn write(state: &mut State) {
    if state.log_count != 0 {
        log_apart();
    }
}

/// A program within the program, called with where the packet's state lies.
#[inline(never)]
#[unsafe(no_mangle)]
fn log_apart() -> u32 {
    let (Some(state), Some(account)) = (scratch::state(), LOG_ACCOUNT.get_ptr_mut(0)) else {
        return 1;
    };
    // SAFETY: aligned memory of this processor, on which the program stays; the static and the helper are only read.
    let (account, now_ns, interval_ns) =
        unsafe { (&mut *account, bpf_ktime_get_coarse_ns(), ptr::read_volatile(&raw const LOG_INTERVAL_NS)) };
    for _ in 0..LOGGED_MAX {
        let left = state.log_count;
        if left == 0 {
            break;
        }
        state.log_count = left - 1;
        let logged = state.logged[(left - 1) as usize % LOGGED_ROOM];
        let (source, destination) = match logged.is_reply {
            0 => (state.packet.source, state.packet.destination),
            _ => (state.packet.destination, state.packet.source),
        };
        let record = LogRecord {
            source,
            destination,
            slot: logged.slot,
            is_ingress: logged.is_ingress != 0,
            x: logged.x,
            source_port: logged.source_port as u16,
            span: logged.span,
        };
        // Not on the stack: there is little, and the head is not needed until a packet has been judged.
        let [first, second, third, fourth, fifth, sixth, ..] = &mut state.head;
        [*first, *second, *third, *fourth, *fifth, *sixth] = record.to_words();
        let Some((words, _)) = state.head.split_first_chunk::<6>() else {
            return 1;
        };
        match spend(account.paid_until_ns, now_ns, interval_ns) {
            Some(until) if LOG.output(words, 0).is_ok() => account.paid_until_ns = until,
            _ => account.left_out += 1,
        }
    }
    0
}
