//! Asks a dry twin: the live tables, the live stages, a packet that is never sent.
//! In: a twin, the interface a packet came by (0: this node made it), the one it is at, and a frame. Out: [`Answer`].
//! Invariant: run in the namespace whose interface index it is given (include/uapi/linux/bpf.h, `ctx_in`).
//! Never: reads an answer that was not given.

use crate::{
    TwinError,
    programs::{Hook, Programs, in_full},
};
use abi::Answer;
use aya::programs::{TestRun as _, TestRunOptions};

/// Size of `struct __sk_buff`, and where its `ingress_ifindex`, `ifindex` and `cb` lie.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;

/// Asks about a packet that came by one interface and is at another.
///
/// # Errors
/// The kernel cannot run the twin, or it gave no answer.
pub fn ask(programs: &Programs, hook: Hook, (by, ifindex): (u32, u32), frame: &[u8]) -> Result<Answer, TwinError> {
    let program = hook.twin();
    let failed = |reason: String| TwinError::Run { program, reason };
    let twin = programs.twin(hook).map_err(|error| failed(in_full(&error)))?;
    let mut context = [0; CONTEXT];
    context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&by.to_ne_bytes());
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let mut told = [0; CONTEXT];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = Some(&context);
    options.ctx_out = Some(&mut told);
    twin.test_run(options).map_err(|error| failed(in_full(&error)))?;
    let word = |number: usize| {
        let at = CB + 4 * number;
        u32::from_ne_bytes([told[at], told[at + 1], told[at + 2], told[at + 3]])
    };
    Answer::from_cb(std::array::from_fn(word)).ok_or(TwinError::Unanswered { program })
}
