//! Leases under stalls, drifting clocks, crashes and a store that answers late: every step of an agent is an event of its own.
//! In: seeds. Out: who believes, after every event.
//! Invariant: at most one node believes in the lease at any moment; one that dies is followed in less than two seconds.
//! Never: real time.

use super::*;

const AGENTS: usize = 3;
/// A step takes so long, milliseconds.
const STEP: u64 = 20;
/// Nothing takes longer, unless an agent is held up.
const HELD_UP: u64 = 4000;

/// Numbers by chance, the same for one seed (xorshift64).
struct Dice(u64);

impl Dice {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What is stored, with versions.
#[derive(Default)]
struct Store {
    last: u64,
    beats: BTreeMap<String, Heartbeat>,
    lease: (u64, Option<Holder>),
}

impl Store {
    fn version(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The version written, or what is there.
    fn beat(&mut self, node: &str, term: u64, over: Option<&str>) -> Result<String, Option<Heartbeat>> {
        let found = self.beats.get(node).cloned();
        if found.as_ref().map(|found| &*found.version) != over {
            return Err(found);
        }
        let version = self.version().to_string();
        self.beats.insert(node.into(), Heartbeat { version: version.clone(), term, expire: Duration::ZERO });
        Ok(version)
    }

    fn put(&mut self, holder: Option<Holder>, over: u64) -> bool {
        let won = self.lease.0 == over;
        if won {
            self.lease = (self.version(), holder);
        }
        won
    }
}

/// Where an agent is in its round.
enum Phase {
    Begin,
    Writing { began: Duration, term: u64, over: Option<String> },
    Written { began: Duration, term: u64, answer: Result<String, Option<Heartbeat>> },
    Look,
    Reading { before: Duration },
    Asking { before: Duration, lease: (u64, Option<Holder>) },
    Judging { before: Duration, lease: (u64, Option<Holder>), beat: Option<Heartbeat> },
    Taking { own: Holder, over: u64 },
    Took { own: Holder, won: bool },
}

struct Agent {
    keeper: Keeper,
    phase: Phase,
    /// Its clock: thousandths of the true rate, and where it began.
    rate: u64,
    origin: u64,
    /// When it does its next step, in true milliseconds.
    next: u64,
    holder: Option<Holder>,
    dead: bool,
}

impl Agent {
    fn clock(&self, now: u64) -> Duration {
        Duration::from_micros(self.origin + now * self.rate)
    }

    fn believes(&self, now: u64) -> bool {
        !self.dead && self.keeper.believes(self.clock(now)) && self.holder.as_ref() == Some(&self.keeper.identity())
    }

    /// One step; how long until the next, if it is not as long as any.
    fn step(&mut self, store: &mut Store, now: u64) -> Option<u64> {
        let clock = self.clock(now);
        let node = self.keeper.node.clone();
        self.phase = match std::mem::replace(&mut self.phase, Phase::Look) {
            Phase::Begin if !self.keeper.is_due(clock) => Phase::Look,
            Phase::Begin => {
                let (term, over) = self.keeper.beat(clock);
                Phase::Writing { began: clock, term, over: over.map(str::to_owned) }
            }
            Phase::Writing { began, term, over } => {
                let answer = store.beat(&node, term, over.as_deref());
                Phase::Written { began, term, answer }
            }
            Phase::Written { began, term, answer } => {
                match answer {
                    Ok(version) => self.keeper.beaten(began, term, version),
                    Err(found) => self.keeper.overtaken(found.as_ref()),
                }
                Phase::Look
            }
            Phase::Look => Phase::Reading { before: clock },
            Phase::Reading { before } => Phase::Asking { before, lease: store.lease.clone() },
            Phase::Asking { before, lease } => {
                let beat = lease.1.as_ref().and_then(|holder| store.beats.get(&holder.node).cloned());
                Phase::Judging { before, lease, beat }
            }
            Phase::Judging { before, lease: (version, holder), beat } => {
                if let Some(other) = holder.as_ref().filter(|holder| holder.node != node) {
                    self.keeper.saw(&other.node, beat, clock);
                }
                if self.keeper.judge(holder.as_ref(), true, before) == Step::Take {
                    Phase::Taking { own: self.keeper.identity(), over: version }
                } else {
                    self.holder = holder;
                    self.phase = Phase::Begin;
                    return Some(150);
                }
            }
            Phase::Taking { own, over } => {
                let won = store.put(Some(own.clone()), over);
                Phase::Took { own, won }
            }
            Phase::Took { own, won } => {
                self.holder = won.then_some(own);
                self.phase = Phase::Begin;
                return Some(150);
            }
        };
        None
    }
}

fn agents(dice: &mut Dice, timing: Timing) -> Vec<Agent> {
    let agent = |number: usize| Agent {
        keeper: Keeper::new(&format!("n{number}"), timing),
        phase: Phase::Begin,
        rate: 900 + dice.below(201),
        origin: dice.below(10_000_000),
        next: dice.below(300),
        holder: None,
        dead: false,
    };
    (0..AGENTS).map(agent).collect()
}

/// Runs until `end`; `held_up` of a thousand steps take long. Gives how often the lease changed hands.
fn run(agents: &mut [Agent], store: &mut Store, dice: &mut Dice, end: u64, held_up: u64) -> usize {
    let (mut changes, mut last) = (0, None);
    loop {
        let at = (0..agents.len()).filter(|at| !agents[*at].dead).min_by_key(|at| agents[*at].next).expect("one lives");
        let now = agents[at].next;
        if now >= end {
            return changes;
        }
        if held_up > 0 && dice.below(4000) == 0 {
            // Its process ends and another begins; or the store forgets a heartbeat.
            if dice.below(2) == 0 {
                let node = agents[at].keeper.node.clone();
                agents[at].keeper = Keeper::new(&node, agents[at].keeper.timing());
                (agents[at].phase, agents[at].holder) = (Phase::Begin, None);
            } else {
                store.beats.remove(&agents[at].keeper.node);
            }
        }
        let pause = agents[at].step(store, now);
        let long = dice.below(1000) < held_up;
        let took = if long { dice.below(HELD_UP) } else { dice.below(STEP) };
        agents[at].next = now + 1 + pause.unwrap_or(0) + took;
        let believers: Vec<_> = (0..agents.len()).filter(|at| agents[*at].believes(now)).collect();
        assert!(believers.len() < 2, "at {now} ms: {believers:?} believe in one lease");
        if let [one] = believers[..] {
            changes += usize::from(last != Some(one));
            last = Some(one);
        }
    }
}

#[test]
fn no_two_nodes_ever_believe_in_one_lease() {
    for timing in [Timing::FAST, Timing::SPARING] {
        let mut changes = 0;
        for seed in 1..200 {
            let mut dice = Dice::of(seed);
            let mut agents = agents(&mut dice, timing);
            changes += run(&mut agents, &mut Store::default(), &mut dice, 120_000, 15);
        }
        assert!(changes > 2000, "the lease changed hands {changes} times: too seldom to show anything");
    }
}

#[test]
fn a_node_that_dies_is_followed_in_less_than_two_seconds_and_a_live_one_keeps_what_it_holds() {
    for (seed, timing) in (1..300).flat_map(|seed| [(seed, Timing::FAST), (seed, Timing::SPARING)]) {
        let mut dice = Dice::of(seed);
        let (mut agents, mut store) = (agents(&mut dice, timing), Store::default());
        let moment = 60_000 + dice.below(1000);
        assert_eq!(run(&mut agents, &mut store, &mut dice, moment, 0), 1, "nobody takes what is held");
        let holder = agents.iter().position(|agent| agent.believes(moment)).expect("somebody holds it");
        agents[holder].dead = true;
        run(&mut agents, &mut store, &mut dice, moment + 2000, 0);
        assert!(agents.iter().any(|agent| agent.believes(moment + 2000)), "seed {seed}: nobody follows");
    }
}

#[test]
fn what_is_not_wanted_any_more_is_given_back_and_vacant_at_once() {
    let ms = Duration::from_millis;
    let mut keeper = Keeper::new("n1", Timing::FAST);
    assert_eq!(keeper.judge(None, true, ms(0)), Step::Leave, "before the first heartbeat");
    let (term, _) = keeper.beat(ms(0));
    keeper.beaten(ms(0), term, "1".into());
    assert_eq!(keeper.judge(None, true, ms(1)), Step::Take);
    let own = keeper.identity();
    assert_eq!(keeper.judge(Some(&own), true, ms(1)), Step::Hold);
    assert_eq!(keeper.judge(Some(&own), false, ms(1)), Step::Release);
    assert_eq!(keeper.judge(Some(&own), true, ms(800)), Step::Leave, "it believes no more");
    // The next heartbeat is another life's: what the former held is over for everybody.
    assert_eq!(keeper.beat(ms(799)), (1, Some("1")));
    assert_eq!(keeper.beat(ms(800)), (2, Some("1")));
    let other = Holder { node: "n2".into(), term: 7 };
    keeper.beaten(ms(800), 2, "2".into());
    assert_eq!(keeper.judge(Some(&own), true, ms(801)), Step::Take);
    let beat = |term| Some(Heartbeat { version: "9".into(), term, expire: Duration::ZERO });
    assert_eq!(keeper.judge(Some(&other), true, ms(801)), Step::Leave, "never seen");
    keeper.saw("n2", beat(7), ms(801));
    assert_eq!(keeper.judge(Some(&other), true, ms(802)), Step::Leave);
    keeper.saw("n2", beat(8), ms(803));
    assert_eq!(keeper.judge(Some(&other), true, ms(804)), Step::Take, "its former life is over");
}
