//! The kernel programs and their maps: each program verified once on this kernel, when it is first needed.
//! In: the object's bytes and the maps' sizes. Out: loaded programs over pinned maps, pinned themselves for the next agent.
//! Invariant: a pinned map is only used if its layout and size are those asked for.
//! Never: attaches; `links` does.

use crate::{OpenError, growth::Growth, packet_log, pins, policy_log::PolicyLog, tables::Sizes, tcx::Failure};
use abi::{
    Timeouts,
    log::{LOG_ACCOUNT_MAP, LOG_INTERVAL_GLOBAL, LOG_MAP},
    maps,
    socket::NETNS_COOKIE_GLOBAL,
    timeout::{FLOW_QUOTA_GLOBAL, TIMEOUTS_GLOBAL},
};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{CgroupSockAddr, Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use kept::Kept;
use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

mod hook;
mod kept;
mod socket_hook;

pub use hook::Hook;
pub use socket_hook::SocketHook;

/// The program that arms the cursor over tracked flows. It is attached nowhere.
const EXPIRE: &str = "expire";

/// A timer's memory is taken without waiting for it (`bpf_map_kmalloc_nolock`, since Linux 6.18), and there may be none at the
/// moment: it is asked for so often.
const TIMER_TRIES: u32 = 100;
/// Between two tries.
const TIMER_PAUSE: Duration = Duration::from_millis(10);

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Globals {
    /// How long flows live without a packet.
    pub timeouts: Timeouts,
    /// Flows that one endpoint may own.
    pub flow_quota: u32,
    /// Nanoseconds between lines of Log rules, for each processor; 0: none is written.
    pub log_interval_ns: u64,
    /// The network namespace whose sockets reach services; 0: none.
    pub netns_cookie: u64,
}

/// Maps that are of no use without these very programs: what they log, and what they keep to themselves.
const OWN_MAPS: [&str; 7] = [LOG_MAP, LOG_ACCOUNT_MAP, "SCRATCH", "DRY_SCRATCH", "NOTES", "OPENINGS", packet_log::MAP];

/// The programs: those that are loaded, and the object to load the others from.
#[derive(Debug)]
pub struct Programs {
    object: RefCell<Ebpf>,
    kept: Kept,
    loaded: BTreeMap<&'static str, OnceCell<Program>>,
}

impl Programs {
    /// Opens the object over the maps pinned below `bpffs`, which are made where they are not there; those that have to grow
    /// are made beside, to be filled and put in their place.
    ///
    /// # Errors
    /// The object lacks a program or a map, or a pin is of another layout or size.
    pub fn open(bpffs: &Path, object: &[u8], sizes: &Sizes, globals: &Globals) -> Result<(Self, Growth), OpenError> {
        let dir = pins::maps_dir(bpffs);
        let growth = Growth::plan(&dir, sizes)?;
        let mut kept = Kept::of(bpffs, object, globals);
        kept.prepare().map_err(|source| OpenError::Bpffs { path: bpffs.to_owned(), source })?;
        let own = OWN_MAPS.map(|name| (name, kept.place(name)));
        let places: Vec<(&str, PathBuf)> =
            maps::MAPS.iter().map(|spec| (spec.name, growth.place(spec))).chain(own).collect();
        let mut loader = EbpfLoader::new();
        for spec in maps::MAPS {
            loader.map_max_entries(spec.name, sizes.of(spec));
        }
        for (name, place) in &places {
            loader.map_pin_path(name, place);
        }
        loader.override_global(TIMEOUTS_GLOBAL, &globals.timeouts, true);
        loader.override_global(FLOW_QUOTA_GLOBAL, &globals.flow_quota, true);
        loader.override_global(LOG_INTERVAL_GLOBAL, &globals.log_interval_ns, true);
        loader.override_global(NETNS_COOKIE_GLOBAL, &globals.netns_cookie, true);
        let mut object = loader.load(object).map_err(|error| refused(&dir, error))?;
        check(&mut object)?;
        kept.over(places.iter().map(|(_, place)| place));
        packet_log::follow(&mut object).map_err(|reason| OpenError::Load { reason })?;
        let loaded = names().map(|name| (name, OnceCell::new())).collect();
        Ok((Self { object: RefCell::new(object), kept, loaded }, growth))
    }

    /// Has these hooks' programs and the cursor's loaded, at once: what no node goes without.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn start(&self, hooks: &[Hook]) -> Result<(), OpenError> {
        self.need(&hooks.iter().map(|hook| hook.program()).chain([EXPIRE]).collect::<Vec<_>>())
    }

    /// Has a program loaded before somebody needs it.
    ///
    /// # Errors
    /// The kernel refuses it, or there is none of this name.
    pub fn load(&self, name: &str) -> Result<(), OpenError> {
        let name = names().find(|known| *known == name).ok_or_else(|| missing("program", name))?;
        self.need(&[name])
    }

    /// What Log rules write down: to be taken once.
    ///
    /// # Errors
    /// The object has no such maps.
    pub fn policy_log(&mut self) -> Result<PolicyLog, OpenError> {
        PolicyLog::of(self.object.get_mut())
    }

    /// Sets the cursor over tracked flows going, or has the one that goes run these programs' code. From then on it needs
    /// nobody: it ends with the pins.
    ///
    /// # Errors
    /// The kernel does not take the timer.
    pub fn start_cursor(&self) -> Result<(), OpenError> {
        let refused = |reason: String| OpenError::Load { reason: format!("{EXPIRE}: {reason}") };
        let program = self.get(EXPIRE)?;
        for _ in 0..TIMER_TRIES {
            let mut options = TestRunOptions::new();
            let frame = [0; SHORTEST_FRAME];
            options.data_in = Some(&frame);
            if program.test_run(options).map_err(|error| refused(in_full(&error)))?.return_value == 0 {
                return Ok(());
            }
            thread::sleep(TIMER_PAUSE);
        }
        Err(refused("the timer cannot be started".into()))
    }

    /// The program to attach at a hook. With it those are there that are of use only together: a kernel that refuses one has
    /// nothing attached of the other.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub fn at(&mut self, hook: Hook) -> Result<&mut SchedClassifier, OpenError> {
        self.need(&hook.together().iter().map(|hook| hook.program()).collect::<Vec<_>>())?;
        self.get_mut(hook.program())
    }

    /// The program of a hook, if it is loaded.
    #[must_use]
    pub fn known(&self, hook: Hook) -> Option<&SchedClassifier> {
        self.loaded.get(hook.program())?.get().and_then(of_packets)
    }

    /// The programs of sockets, by handles of their own. All are there before one is attached.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn of_sockets(&self) -> Result<Vec<(SocketHook, CgroupSockAddr)>, OpenError> {
        self.need(&SocketHook::ALL.map(SocketHook::program))?;
        SocketHook::ALL
            .into_iter()
            .map(|hook| Ok((hook, self.kept.of_sockets(hook).map_err(|error| load_error(hook.program(), &error))?)))
            .collect()
    }

    /// The twin of a hook's program, to attach it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn twin_mut(&mut self, hook: Hook) -> Result<&mut SchedClassifier, OpenError> {
        self.get_mut(hook.twin())
    }

    /// The twin of a hook's program.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn twin(&self, hook: Hook) -> Result<&SchedClassifier, OpenError> {
        self.get(hook.twin())
    }

    /// Pins again the maps and programs whose pins are gone, and names them.
    ///
    /// # Errors
    /// A pin cannot be made.
    pub fn pin_again(&mut self, bpffs: &Path) -> Result<Vec<&'static str>, Failure> {
        let pin_of = |spec| pins::maps_dir(bpffs).join(pins::map_name(spec));
        let gone: Vec<_> = maps::MAPS.iter().filter(|spec| pin_of(spec).symlink_metadata().is_err()).collect();
        if !gone.is_empty() {
            pins::prepare(bpffs)?;
        }
        for spec in &gone {
            self.object.get_mut().map(spec.name).ok_or("the object has no such map")?.pin(pin_of(spec))?;
        }
        let mut named: Vec<_> = gone.iter().map(|spec| spec.name).collect();
        for (name, program) in &mut self.loaded {
            if let Some(program) = program.get_mut().filter(|_| self.kept.lacks(name)) {
                drop(self.kept.put(name, program)?);
                named.push(name);
            }
        }
        Ok(named)
    }

    /// Takes away the pins of other objects' programs.
    ///
    /// # Errors
    /// One stays.
    pub fn forget_others(&self) -> std::io::Result<()> {
        self.kept.remove_others()
    }

    fn get(&self, name: &'static str) -> Result<&SchedClassifier, OpenError> {
        self.need(&[name])?;
        self.loaded.get(name).and_then(OnceCell::get).and_then(of_packets).ok_or_else(|| missing("program", name))
    }

    fn get_mut(&mut self, name: &'static str) -> Result<&mut SchedClassifier, OpenError> {
        self.need(&[name])?;
        match self.loaded.get_mut(name).and_then(OnceCell::get_mut) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(missing("program", name)),
        }
    }

    /// Has these loaded: taken over from an earlier agent, or verified, all at once.
    fn need(&self, names: &[&'static str]) -> Result<(), OpenError> {
        let cells = names.iter().filter_map(|name| Some((*name, self.loaded.get(name)?)));
        let mut fresh = Vec::new();
        for (name, cell) in cells.filter(|(_, cell)| cell.get().is_none()) {
            match self.kept.take(name) {
                Some(program) => drop(cell.set(program)),
                None => fresh.push((name, cell)),
            }
        }
        let mut object = self.object.borrow_mut();
        verify(&mut object, &fresh.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        for (name, cell) in fresh {
            let pinned = self.kept.put(name, object.program_mut(name).ok_or_else(|| missing("program", name))?);
            let failed =
                |error: Failure| OpenError::Load { reason: format!("pin {name}: {}", in_full(error.as_ref())) };
            drop(cell.set(pinned.map_err(failed)?));
        }
        Ok(())
    }
}

/// Every program of the object.
pub fn names() -> impl Iterator<Item = &'static str> {
    let of_packets = Hook::ALL.into_iter().flat_map(|hook| [hook.program(), hook.twin()]);
    of_packets.chain([EXPIRE]).chain(SocketHook::ALL.map(SocketHook::program))
}

/// Whether the object has everything.
fn check(object: &mut Ebpf) -> Result<(), OpenError> {
    if let Some(spec) = maps::MAPS.iter().find(|spec| object.map(spec.name).is_none()) {
        return Err(missing("map", spec.name));
    }
    names().try_for_each(|name| {
        let is_sockets = SocketHook::of(name).is_some();
        match object.program(name) {
            Some(Program::SchedClassifier(_)) if !is_sockets => Ok(()),
            Some(Program::CgroupSockAddr(_)) if is_sockets => Ok(()),
            _ => Err(missing("program", name)),
        }
    })
}

/// Has the kernel verify these, each on a thread of its own: the verifier takes a tenth of a second and more for one.
fn verify(object: &mut Ebpf, names: &[&str]) -> Result<(), OpenError> {
    let mut wanted: Vec<_> = object.programs_mut().filter(|(name, _)| names.contains(name)).collect();
    wanted.sort_by_key(|(name, _)| *name);
    thread::scope(|scope| {
        let walks: Vec<_> =
            wanted.into_iter().map(|(name, program)| scope.spawn(move || load(name, program))).collect();
        let ended = |walk: thread::ScopedJoinHandle<'_, _>| {
            walk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        walks.into_iter().map(ended).fold(Ok(()), Result::and)
    })
}

fn load(name: &str, program: &mut Program) -> Result<(), OpenError> {
    // One that was taken while its fellow was refused.
    if program.fd().is_ok() {
        return Ok(());
    }
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => return Err(missing("program", name)),
    };
    loaded.map_err(|error| load_error(name, &error))
}

fn load_error(name: &str, error: &ProgramError) -> OpenError {
    OpenError::Load { reason: format!("{name}: {}", shortened(&in_full(error))) }
}

const fn of_packets(program: &Program) -> Option<&SchedClassifier> {
    if let Program::SchedClassifier(program) = program { Some(program) } else { None }
}

fn missing(kind: &'static str, name: &str) -> OpenError {
    OpenError::Missing { kind, name: name.to_owned() }
}

/// What the kernel takes for a test run: an Ethernet header, and a byte.
const SHORTEST_FRAME: usize = 15;

fn refused(dir: &Path, error: EbpfError) -> OpenError {
    match error {
        EbpfError::MapError(MapError::IncompatiblePinnedMap { name, property, expected, actual }) => {
            let spec = maps::MAPS.iter().find(|spec| spec.name == name);
            let pin = dir.join(spec.map_or(name, pins::map_name));
            OpenError::ForeignPin { pin, property: property.to_string(), expected, actual }
        }
        error => OpenError::Load { reason: in_full(&error) },
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// The verifier tells its whole way, thousands of lines; why it refuses stands at the end.
fn shortened(words: &str) -> String {
    let lines: Vec<_> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.as_slice() {
        [first, middle @ .., a, b, c, d, e, f] if !middle.is_empty() => [*first, "...", a, b, c, d, e, f].join("\n"),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn the_verifiers_words_are_cut_to_their_beginning_and_their_end() {
        let long: Vec<_> = (0..1000).map(|line| line.to_string()).collect();
        assert_eq!(shortened(&long.join("\n")), "0\n...\n994\n995\n996\n997\n998\n999");
        assert_eq!(shortened("a\nb"), "a\nb");
    }
}
