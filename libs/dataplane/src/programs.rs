//! The kernel programs and their maps: loaded once, verified once.
//! In: the object's bytes and the maps' sizes. Out: loaded programs over pinned maps.
//! Invariant: a pinned map is only used if its layout and size are those asked for.
//! Never: attaches; `links` does.

use crate::{OpenError, growth::Growth, packet_log, pins, policy_log::PolicyLog, tables::Sizes};
use abi::{
    Timeouts,
    log::LOG_INTERVAL_GLOBAL,
    maps,
    timeout::{FLOW_QUOTA_GLOBAL, TIMEOUTS_GLOBAL},
};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use netlink::Side;
use std::path::Path;

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Ingress of `cali*`: what a pod sends.
    FromWorkload,
    /// Egress of `cali*`: what the host's stack sends to a pod.
    ToWorkload,
    /// Ingress of the uplink.
    FromUplink,
    /// Ingress of an interface of the node's own that has a host endpoint.
    FromHostEndpoint,
    /// Its egress.
    ToHostEndpoint,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::FromWorkload, Self::ToWorkload, Self::FromUplink, Self::FromHostEndpoint, Self::ToHostEndpoint];

    /// The program's name in the object.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload",
            Self::ToWorkload => "to_workload",
            Self::FromUplink => "from_uplink",
            Self::FromHostEndpoint => "from_host_endpoint",
            Self::ToHostEndpoint => "to_host_endpoint",
        }
    }

    /// Which packets of its interface it sees.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::FromWorkload | Self::FromUplink | Self::FromHostEndpoint => Side::Ingress,
            Self::ToWorkload | Self::ToHostEndpoint => Side::Egress,
        }
    }

    /// The twin that only answers.
    #[must_use]
    pub const fn twin(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload_dry",
            Self::ToWorkload => "to_workload_dry",
            Self::FromUplink => "from_uplink_dry",
            Self::FromHostEndpoint => "from_host_endpoint_dry",
            Self::ToHostEndpoint => "to_host_endpoint_dry",
        }
    }

    /// The one that comes before it where both sit: a host endpoint's rules are asked of what its interface takes in at all.
    #[must_use]
    pub const fn after(self) -> Option<Self> {
        match self {
            Self::FromUplink => Some(Self::FromHostEndpoint),
            Self::FromWorkload | Self::ToWorkload | Self::FromHostEndpoint | Self::ToHostEndpoint => None,
        }
    }

    /// Whether pods wait for it.
    #[must_use]
    pub const fn is_pods(self) -> bool {
        matches!(self, Self::FromWorkload | Self::ToWorkload)
    }
}

/// The program that arms the cursor over tracked flows. It is attached nowhere.
const EXPIRE: &str = "expire";

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Globals {
    /// How long flows live without a packet.
    pub timeouts: Timeouts,
    /// Flows that one endpoint may own.
    pub flow_quota: u32,
    /// Nanoseconds between lines of Log rules, for each processor; 0: none is written.
    pub log_interval_ns: u64,
}

/// The loaded programs.
#[derive(Debug)]
pub struct Programs(Ebpf);

impl Programs {
    /// Loads them over the maps pinned below `bpffs`, which are made where they are not there; those that have to grow are
    /// made beside, to be filled and put in their place.
    ///
    /// # Errors
    /// The kernel refuses, or a pin is of another layout or size.
    pub fn load(bpffs: &Path, object: &[u8], sizes: &Sizes, globals: &Globals) -> Result<(Self, Growth), OpenError> {
        let dir = pins::maps_dir(bpffs);
        let growth = Growth::plan(&dir, sizes)?;
        let mut loader = EbpfLoader::new();
        for spec in maps::MAPS {
            loader.map_max_entries(spec.name, sizes.of(spec));
            loader.map_pin_path(spec.name, growth.place(spec));
        }
        loader.override_global(TIMEOUTS_GLOBAL, &globals.timeouts, true);
        loader.override_global(FLOW_QUOTA_GLOBAL, &globals.flow_quota, true);
        loader.override_global(LOG_INTERVAL_GLOBAL, &globals.log_interval_ns, true);
        let mut ebpf = loader.load(object).map_err(|error| refused(&dir, error))?;
        for spec in maps::MAPS {
            if ebpf.map(spec.name).is_none() {
                return Err(OpenError::Missing { kind: "map", name: spec.name.to_owned() });
            }
        }
        for name in Hook::ALL.into_iter().flat_map(|hook| [hook.program(), hook.twin()]).chain([EXPIRE]) {
            let program = classifier(&mut ebpf, name)?;
            let refused = |error| OpenError::Load { reason: format!("{name}: {}", shortened(&in_full(&error))) };
            program.load().map_err(refused)?;
        }
        packet_log::follow(&mut ebpf).map_err(|reason| OpenError::Load { reason })?;
        Ok((Self(ebpf), growth))
    }

    /// What Log rules write down: to be taken once.
    ///
    /// # Errors
    /// The object has no such maps.
    pub fn policy_log(&mut self) -> Result<PolicyLog, OpenError> {
        PolicyLog::of(&mut self.0)
    }

    /// Sets the cursor over tracked flows going, or has the one that goes run these programs' code. From then on it needs
    /// nobody: it ends with the pins.
    ///
    /// # Errors
    /// The kernel does not take the timer.
    pub fn start_cursor(&mut self) -> Result<(), OpenError> {
        let mut options = TestRunOptions::new();
        let frame = [0; SHORTEST_FRAME];
        options.data_in = Some(&frame);
        let refused = |reason: String| OpenError::Load { reason: format!("{EXPIRE}: {reason}") };
        let ran = classifier(&mut self.0, EXPIRE)?.test_run(options).map_err(|error| refused(in_full(&error)))?;
        if ran.return_value == 0 { Ok(()) } else { Err(refused("the timer cannot be started".into())) }
    }

    /// The program to attach at a hook.
    ///
    /// # Errors
    /// The object has none.
    pub fn at(&mut self, hook: Hook) -> Result<&mut SchedClassifier, OpenError> {
        classifier(&mut self.0, hook.program())
    }

    /// The program of a hook, to be named.
    ///
    /// # Errors
    /// The object has none.
    pub fn get(&self, hook: Hook) -> Result<&SchedClassifier, OpenError> {
        let missing = || OpenError::Missing { kind: "program", name: hook.program().to_owned() };
        self.0.program(hook.program()).and_then(|program| program.try_into().ok()).ok_or_else(missing)
    }

    /// The twin of a hook's program, to attach it.
    ///
    /// # Errors
    /// The object has none.
    pub fn twin_mut(&mut self, hook: Hook) -> Result<&mut SchedClassifier, OpenError> {
        classifier(&mut self.0, hook.twin())
    }

    /// Pins again the maps whose pins are gone, and names them.
    ///
    /// # Errors
    /// A pin cannot be made.
    pub fn pin_again(&self, bpffs: &Path) -> Result<Vec<&'static str>, Box<dyn std::error::Error>> {
        let pin_of = |spec| pins::maps_dir(bpffs).join(pins::map_name(spec));
        let gone: Vec<_> = maps::MAPS.iter().filter(|spec| pin_of(spec).symlink_metadata().is_err()).collect();
        if !gone.is_empty() {
            pins::prepare(bpffs)?;
        }
        for spec in &gone {
            self.0.map(spec.name).ok_or("the object has no such map")?.pin(pin_of(spec))?;
        }
        Ok(gone.iter().map(|spec| spec.name).collect())
    }

    /// The twin of a hook's program.
    #[must_use]
    pub fn twin(&self, hook: Hook) -> Option<&SchedClassifier> {
        self.0.program(hook.twin()).and_then(|program| program.try_into().ok())
    }
}

/// What the kernel takes for a test run: an Ethernet header, and a byte.
const SHORTEST_FRAME: usize = 15;

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, OpenError> {
    let missing = || OpenError::Missing { kind: "program", name: name.to_owned() };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    program.try_into().map_err(|_: ProgramError| missing())
}

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
