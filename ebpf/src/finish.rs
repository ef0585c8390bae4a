//! Finish: the one place where a verdict or a drop reason becomes what the kernel shall do.
//! In: a packet at a hook. Out: the program's return value; a live drop counted, or a dry run answered.
//! Invariant: every drop is counted once, on one endpoint's account and one reason.
//! Never: lets a packet pass on an error.

use abi::DropReason;
use abi::answer::{Answer, Outcome};
use abi::endpoint::{NODE_REFUSES_WORKLOADS, NODE_REJECTS, SLOT_HOST};
use abi::handover;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use ebpf::forward::{self, Hop, Kind, Stop};
use ebpf::tables::{Frame as _, Services as _, Tables};
use ebpf::translation::Translated;
use ebpf::walk::{Hook, State, Verdict, leave, walk};

use crate::complain::complain;
use crate::log;
use crate::maps::{Kernel, count_drop};
use crate::masquerade_maps::unmask_elsewhere;
use crate::packet::Skb;
use crate::scratch::{self, blank_state};
use crate::send::{self, LOOPBACK, NEXT, SHOT};
use crate::translate::{translate, translate_own};

/// What a dry run returns for a packet that would pass.
const OK: i32 = 0;

/// One packet, from the context to the return value.
#[inline(always)]
pub fn run<const DRY: bool>(hook: Hook, context: &TcContext) -> i32 {
    run_on::<DRY>(hook, Skb::new(context), 0)
}

/// The same where packets leave by an interface of the node's own: what a pod sent is judged first, then the gate is asked. Two
/// programs within the program: what the first finds out the verifier forgets, and neither stands on the other's stack.
#[inline(always)]
pub fn run_leaving(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    let refused = leave_apart(skb.0);
    gate_apart(skb.0, refused)
}

/// What leaves by the uplink. It judges nobody who would have to hear of it, and so needs nothing that tells.
#[inline(always)]
pub fn run_answers<const DRY: bool>(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some(state) = blank_state::<DRY>() else {
        return SHOT;
    };
    let verdict = walk(Hook::ToUplink, &Kernel::<DRY>, &skb, &skb.arrival(), state);
    if DRY {
        return answer(skb, state, verdict.map(|_| Outcome::ToHost));
    }
    let done = match verdict {
        Ok(Verdict::Through) => translate_own(skb, state),
        Ok(_) => Ok(()),
        Err(reason) => Err(reason),
    };
    match done {
        Ok(()) => NEXT,
        Err(reason) => {
            count_drop(state.slot, reason as u32);
            SHOT
        }
    }
}

/// What the node itself opens to a service, at the interface that it would leave by.
#[inline(always)]
pub fn run_own<const DRY: bool>(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some(state) = blank_state::<DRY>() else {
        return SHOT;
    };
    let verdict = walk(Hook::FromNode, &Kernel::<DRY>, &skb, &skb.arrival(), state);
    if DRY {
        let outcome = match verdict {
            Ok(verdict) => outcome(skb, Hook::FromNode, verdict, state, LOOPBACK),
            Err(reason) => Err(reason),
        };
        return answer(skb, state, outcome);
    }
    let done = match verdict {
        Ok(verdict) => act_own(skb, verdict, state),
        Err(reason) => Err(stopped(skb, state, reason)),
    };
    match done {
        Ok(action) => action,
        Err(Stop { kind: Kind::Drop, word: reason }) => {
            count_drop(state.slot, reason);
            SHOT
        }
        // There is no stack to leave it to any more.
        Err(stop) => match complain(skb, Hook::FromNode, stop) {
            NEXT => SHOT,
            action => action,
        },
    }
}

/// Carries a verdict about the node's own packet out.
#[inline(always)]
fn act_own(skb: Skb, verdict: Verdict, state: &mut State) -> Result<i32, Stop> {
    match verdict {
        Verdict::ToSocket => {
            translate_own(skb, state)?;
            Ok(send::to_socket(skb)?)
        }
        Verdict::ByRoute => {
            let route = send::route(skb, state, LOOPBACK, true)?;
            if route.hop == Hop::Stack {
                return Err(DropReason::Unroutable.into());
            }
            translate_own(skb, state)?;
            Ok(send::redirected(send::by_neighbour(state))?)
        }
        Verdict::ToEndpoint(slot) => {
            let endpoint = Kernel::<false>.endpoint(slot).ok_or(DropReason::TableCorrupt)?;
            send::hand_over(skb, state, endpoint)
        }
        _ => Ok(NEXT),
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
fn gate_apart(skb: *mut __sk_buff, refused: u32) -> i32 {
    run_on::<false>(Hook::ToHostEndpoint, Skb(skb), refused)
}

/// `refused`: why the packet goes no further already; 0: it does.
#[inline(always)]
pub fn run_on<const DRY: bool>(hook: Hook, skb: Skb, refused: u32) -> i32 {
    let leaves = !DRY && hook == Hook::ToHostEndpoint;
    let mut arrival = skb.arrival();
    // What was refused is told and counted by what is known of it.
    let state = if refused == 0 { blank_state::<DRY>() } else { scratch::state() };
    let Some(state) = state else {
        return SHOT;
    };
    if leaves {
        arrival.handed = handover::to_cb(state.generation);
    }
    let verdict = match DropReason::from_number(refused) {
        Some(reason) => Err(reason),
        None => walk(hook, &Kernel::<DRY>, &skb, &arrival, state),
    };
    if DRY {
        let outcome = match verdict {
            Ok(verdict) => outcome(skb, hook, verdict, state, arrival.ifindex),
            Err(reason) => Err(reason),
        };
        return answer(skb, state, outcome);
    }
    if matches!(hook, Hook::FromHostEndpoint | Hook::ToHostEndpoint) {
        log::write(state);
    }
    // No closures: the compiler makes calls of them, and a call within a call has too little stack.
    let done = match verdict {
        Ok(verdict) => act(skb, hook, verdict, state, arrival.ifindex),
        Err(reason) => Err(stopped(skb, state, reason)),
    };
    match done {
        Ok(action) => action,
        Err(Stop { kind: Kind::Drop, word: reason }) => {
            #[cfg(feature = "log")]
            aya_log_ebpf::debug!(&TcContext::new(skb.0), "dropped at endpoint {}: reason {}", state.slot, reason);
            count_drop(state.slot, reason);
            SHOT
        }
        Err(stop) => match complain(skb, hook, stop) {
            // Not translated there: a call within a call has too little stack.
            NEXT if is_left(state) => NEXT,
            NEXT => on(skb, state).unwrap_or(SHOT),
            action => action,
        },
    }
}

/// Why a pod's packet goes no further; 0: it does.
#[inline(never)]
#[unsafe(no_mangle)]
fn leave_apart(skb: *mut __sk_buff) -> u32 {
    let Some(state) = blank_state::<false>() else {
        return DropReason::TableCorrupt as u32;
    };
    let skb = Skb(skb);
    match leave(&Kernel::<false>, &skb, &skb.arrival(), state) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// Carries a verdict out.
#[inline(always)]
fn act(skb: Skb, hook: Hook, verdict: Verdict, state: &mut State, ifindex: u32) -> Result<i32, Stop> {
    match verdict {
        Verdict::Untouched => Ok(NEXT),
        Verdict::ToHost => {
            if hook == Hook::FromWorkload && state.translation.end == Translated::ByHost {
                send::mark(skb, handover::UNJUDGED);
            }
            Ok(on(skb, state)?)
        }
        Verdict::ToSocket => {
            translate(skb, state)?;
            Ok(send::to_socket(skb)?)
        }
        Verdict::Through if hook == Hook::ToHostEndpoint => Ok(NEXT),
        Verdict::Through => {
            let is_ahead = state.translation.end == Translated::Ahead;
            let generation = state.generation;
            // No pointer to either function: there is no such call.
            skb.leave(if is_ahead { handover::to_cb_ahead(generation) } else { handover::to_cb(generation) });
            Ok(NEXT)
        }
        Verdict::AnswerArp => Ok(send::answer_arp(skb, ifindex, hook == Hook::FromUplink)?),
        Verdict::AnswerSolicitation => Ok(send::answer_solicitation(skb, ifindex, hook == Hook::FromUplink)?),
        // Before the pod's interface there is nothing left to forward.
        Verdict::ByRoute | Verdict::ToEndpoint(_) if hook == Hook::ToWorkload => Ok(on(skb, state)?),
        Verdict::ByRoute => {
            let route = send::route(skb, state, ifindex, false)?;
            if route.hop == Hop::Known {
                // One that waits for a neighbour is judged on its way out by what is in force then.
                skb.leave(handover::to_cb(state.generation));
            }
            if hook == Hook::FromWorkload && route.is_here() && node_says(NODE_REFUSES_WORKLOADS, state.generation) {
                return Err(stopped(skb, state, DropReason::EndpointToHost));
            }
            unmask_elsewhere(state, route)?;
            send::leave(skb, state, route)
        }
        Verdict::ToEndpoint(slot) => {
            let endpoint = Kernel::<false>.endpoint(slot).ok_or(DropReason::TableCorrupt)?;
            send::deliver(skb, state, endpoint)
        }
    }
}

/// On to the next program, or the stack, as it goes on.
#[inline(always)]
fn on(skb: Skb, state: &State) -> Result<i32, DropReason> {
    translate(skb, state)?;
    Ok(NEXT)
}

/// Whether the stack gets an answer as its sender wrote it, to tell that sender what is wrong with it: what it carries on all the
/// same is translated at the client's own hook.
#[inline(always)]
fn is_left(state: &State) -> bool {
    state.translation.end == Translated::Source && !state.translation.is_hairpin
}

/// What becomes of a packet that was refused for this reason. The verifier then goes on once, not once for each.
#[inline(always)]
fn stopped(skb: Skb, state: &State, reason: DropReason) -> Stop {
    let word = skb.unknown(reason as u32);
    let told = (forward::is_by_rules(word) && node_says(NODE_REJECTS, state.generation))
        || (forward::is_by_service(word) && !state.translation.is_silent);
    Stop { kind: if told { Kind::Refused } else { Kind::Drop }, word }
}

/// Whether this is so of the node as a whole, for a packet of that generation. That it takes nothing from pods holds also at
/// an address of which the tables do not know that it is the node's.
#[inline(always)]
pub fn node_says(what: u32, generation: u64) -> bool {
    let node = Kernel::<true>.endpoint(SLOT_HOST);
    node.is_some_and(|node| Kernel::<true>.word(&node.ingress).at(generation) & what != 0)
}

/// Says where a verdict would send the packet.
#[inline(always)]
fn outcome(skb: Skb, hook: Hook, verdict: Verdict, state: &mut State, ifindex: u32) -> Result<Outcome, DropReason> {
    Ok(match verdict {
        Verdict::Untouched | Verdict::ToHost | Verdict::ToSocket | Verdict::Through => Outcome::ToHost,
        Verdict::AnswerArp | Verdict::AnswerSolicitation => Outcome::Answered,
        Verdict::ByRoute if hook == Hook::ToWorkload => Outcome::ToHost,
        Verdict::ByRoute => match send::route(skb, state, ifindex, hook == Hook::FromNode) {
            Ok(route)
                if hook == Hook::FromWorkload
                    && route.is_here()
                    && node_says(NODE_REFUSES_WORKLOADS, state.generation) =>
            {
                return Err(DropReason::EndpointToHost);
            }
            Ok(route) if route.hop == Hop::Stack => Outcome::ToHost,
            Ok(_) => Outcome::ToInterface(send::leaves_by(state)),
            Err(stop) => return Err(stop.reason()),
        },
        Verdict::ToEndpoint(slot) => Outcome::ToEndpoint(slot),
    })
}

/// Leaves a dry run's answer.
#[inline(always)]
fn answer(skb: Skb, state: &State, outcome: Result<Outcome, DropReason>) -> i32 {
    let action = if outcome.is_ok() { OK } else { SHOT };
    let answer = Answer {
        outcome: outcome.unwrap_or_else(Outcome::Drop),
        egress_hit: state.egress_hit,
        ingress_hit: state.ingress_hit,
        tracked: state.tracked,
        generation: state.generation as u32,
    };
    skb.leave(answer.to_cb());
    action
}
