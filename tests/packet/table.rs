//! Packet tables: a row is a name, what went before, one packet, and everything that may come of it.
//! In: rows over named actors. Out: one failure text that names every row that did not hold, for each family.
//! Invariant: fresh conntrack, fragments and counters for every row; what a row does not name must not change.
//! Never: a row that passes because nothing was compared.

use crate::{
    cast::{Actor, Family},
    kernel::{Kernel, Ran, Seen},
    scenario::Scenario,
};
use abi::DropReason;
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// Where a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Sent by this pod.
    Pod(Actor),
    /// On its way from the host's stack to this pod.
    ToPod(Actor, By),
    /// Received on the uplink.
    Uplink,
    /// The same, at the host endpoint there.
    In,
    /// Sent by the uplink, at the host endpoint there.
    Out(By),
    /// The same, where answers of the node's own processes get their service's address.
    Up(By),
    /// Sent by the node itself by the uplink, where it is led to services.
    Node,
    /// The same, by loopback.
    Loop,
}

/// How a packet came into the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The host made it: it has no incoming interface.
    Host,
    /// The host forwards what came in by the uplink.
    Uplink,
    /// The host forwards what this pod sent.
    Pod(Actor),
}

type Bytes = Box<dyn Fn(Family) -> Vec<u8> + Send + Sync>;

/// One packet at one hook.
pub struct Step {
    hook: Hook,
    bytes: Bytes,
}

impl Step {
    /// Does it, outside a row.
    pub fn take(&self, kernel: &mut Kernel, family: Family) -> Action {
        kernel.run(self.hook, &(self.bytes)(family)).action
    }

    /// Does it, and says how long the program took.
    pub fn time(&self, kernel: &mut Kernel, family: Family) -> (Action, Duration) {
        kernel.time(self.hook, &(self.bytes)(family))
    }
}

/// `actor` sends.
pub fn sends(actor: Actor, bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::Pod(actor), bytes: Box::new(bytes) }
}

/// The host sends to `actor`.
pub fn host_sends(actor: Actor, bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::ToPod(actor, By::Host), bytes: Box::new(bytes) }
}

/// The host forwards to `actor`.
pub fn forwarded(actor: Actor, by: By, bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::ToPod(actor, by), bytes: Box::new(bytes) }
}

/// The uplink receives.
pub fn arrives(bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::Uplink, bytes: Box::new(bytes) }
}

/// The host endpoint at the uplink receives.
pub fn comes_in(bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::In, bytes: Box::new(bytes) }
}

/// It sends.
pub fn goes_out(by: By, bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::Out(by), bytes: Box::new(bytes) }
}

/// It leaves by the uplink, before that.
pub fn leaves(by: By, bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::Up(by), bytes: Box::new(bytes) }
}

/// The node itself sends by the uplink, where it is led to services.
pub fn node_sends(bytes: impl Fn(Family) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step { hook: Hook::Node, bytes: Box::new(bytes) }
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Redirected into this pod, one hop older.
    To(Actor),
    /// Left to the host's stack, untouched.
    Host,
    /// Answered on the spot; the bytes are looked at by the row's own check.
    Answered,
    /// Dropped and counted at this endpoint for this reason, and an ICMP error goes back to the sender; the error's bytes
    /// are looked at by the row's own check.
    Told(Actor, DropReason),
    /// Dropped, and counted at this endpoint (`None`: at slot 0) for this reason.
    Drop(Option<Actor>, DropReason),
}

/// What may change besides the fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries more than before.
    pub entries: i64,
    /// Judgements counted.
    pub judged: u64,
}

/// A look at the bytes that came out; what is wrong with them, in words.
type Check = fn(Family, &[u8]) -> Result<(), String>;

/// A row.
pub struct Row {
    name: &'static str,
    families: &'static [Family],
    given: Vec<Step>,
    packet: Step,
    fate: Fate,
    changes: Changes,
    check: Option<Check>,
}

/// A row in which `packet` meets `fate` and nothing changes.
pub fn row(name: &'static str, packet: Step, fate: Fate) -> Row {
    Row { name, families: &Family::BOTH, given: Vec::new(), packet, fate, changes: Changes::default(), check: None }
}

impl Row {
    /// Packets that went before.
    pub fn given(mut self, steps: Vec<Step>) -> Self {
        self.given = steps;
        self
    }

    /// A flow is opened, after this many judgements.
    pub fn opens(mut self, judged: u64) -> Self {
        self.changes = Changes { entries: 1, judged };
        self
    }

    /// Judged, but no entry made.
    pub fn judged(mut self, judged: u64) -> Self {
        self.changes.judged = judged;
        self
    }

    /// Only for one family.
    pub fn only(mut self, families: &'static [Family]) -> Self {
        self.families = families;
        self
    }

    /// Looks at the bytes that came out.
    pub fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }
}

/// Runs every row for every family it is for, and panics with all that did not hold.
pub fn run(scenario: &Scenario, rows: Vec<Row>) {
    run_on(&mut Kernel::new(scenario), scenario, rows);
}

/// The same on a node that is there.
pub fn run_on(kernel: &mut Kernel, scenario: &Scenario, rows: Vec<Row>) {
    let mut failures = String::new();
    let mut held = 0;
    for row in &rows {
        for &family in row.families {
            match hold(kernel, row, family) {
                Ok(()) => held += 1,
                Err(why) => {
                    let _ = writeln!(failures, "  {family:?} {}: {why}", row.name);
                }
            }
        }
    }
    assert!(failures.is_empty(), "rows that did not hold, in the scenario\n{}\n{failures}", scenario.text());
    assert!(held > 0, "a table without rows shows nothing");
}

fn hold(kernel: &mut Kernel, row: &Row, family: Family) -> Result<(), String> {
    kernel.fresh();
    for step in &row.given {
        kernel.run(step.hook, &(step.bytes)(family));
    }
    let before = kernel.seen();
    let sent = (row.packet.bytes)(family);
    let ran = kernel.run(row.packet.hook, &sent);
    let after = kernel.seen();
    fate_of(kernel, row, &sent, &ran, &before, &after)?;
    changes_of(row, &before, &after)?;
    row.check.map_or(Ok(()), |check| check(family, &ran.bytes))
}

fn fate_of(kernel: &Kernel, row: &Row, sent: &[u8], ran: &Ran, before: &Seen, after: &Seen) -> Result<(), String> {
    let drops = difference(&before.drops, &after.drops);
    let found = match (ran.action, drops.as_slice()) {
        (Action::PassOn, []) if ran.bytes == sent => Fate::Host,
        (Action::PassOn, []) => return Err("passed on to the host, but changed".into()),
        (Action::Redirect, []) if matches!(row.fate, Fate::Answered) => Fate::Answered,
        (Action::Redirect, [((slot, reason), 1)]) => {
            Fate::Told(kernel.pod_in_slot(*slot).ok_or("told on nobody's account")?, *reason)
        }
        (Action::Redirect, []) if ran.mark != 0 => return Err("redirected with another hook's mark".into()),
        (Action::Redirect, []) => {
            let mac = ran.bytes.get(..6).unwrap_or_default();
            kernel.pod_with_mac(mac).map(Fate::To).ok_or(format!("redirected to {mac:02x?}, who is nobody"))?
        }
        (Action::Drop, [((slot, reason), 1)]) => Fate::Drop(kernel.pod_in_slot(*slot), *reason),
        (action, drops) => return Err(format!("{action:?} with drops counted {drops:?}")),
    };
    if found == row.fate { Ok(()) } else { Err(format!("expected {:?}, found {found:?}", row.fate)) }
}

fn changes_of(row: &Row, before: &Seen, after: &Seen) -> Result<(), String> {
    let count = |seen: &Seen| i64::try_from(seen.entries.len()).expect("a test opens few flows");
    let found = Changes { entries: count(after) - count(before), judged: after.judged - before.judged };
    if found == row.changes { Ok(()) } else { Err(format!("expected {:?}, found {found:?}", row.changes)) }
}

fn difference<K: Ord + Copy>(before: &BTreeMap<K, u64>, after: &BTreeMap<K, u64>) -> Vec<(K, u64)> {
    let grown = after.iter().map(|(key, count)| (*key, count - before.get(key).unwrap_or(&0)));
    grown.filter(|(_, count)| *count > 0).collect()
}

/// A program's answer to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    PassOn,
    Drop,
    Redirect,
}
