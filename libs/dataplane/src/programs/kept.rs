//! Programs under pins: what one agent had verified, the next one takes over.
//! In: the object's bytes and what its programs are told. Out: a folder of the pins of exactly those, and what is in it.
//! Invariant: a program is taken over only if it was loaded from the same object, told the same, and runs over our maps.
//! Never: says how a pin came to be there: one that is not of use is replaced.

use super::{Globals, SocketHook};
use crate::{bpf::bytes_of, pins, tcx::Failure};
use aya::{
    maps::MapInfo,
    programs::{CgroupSockAddr, Program, ProgramError, ProgramInfo, SchedClassifier},
};
use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hasher as _},
    io,
    path::{Path, PathBuf},
};

/// Letters of a name that the kernel keeps.
const NAME_LETTERS: usize = 15;
/// What the loader makes of constants: one for each time that the object was loaded, and what is in it was hashed.
const CONSTANTS: &str = ".rodata";

/// The pins of one object's programs.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    /// The maps that they are to run over.
    maps: BTreeSet<u32>,
}

impl Kept {
    /// Those of this object, told this.
    pub fn of(bpffs: &Path, object: &[u8], globals: &Globals) -> Self {
        Self { dir: pins::programs_dir(bpffs).join(name(object, globals)), maps: BTreeSet::new() }
    }

    /// Where a program is pinned, or a map that only these programs use.
    pub fn place(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the folder.
    pub fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)
    }

    /// Says over which maps programs are to run: those at these pins.
    pub fn over<'a>(&mut self, pins: impl IntoIterator<Item = &'a PathBuf>) {
        let id = |pin| MapInfo::from_pin(pin).ok().map(|info| info.id());
        self.maps = pins.into_iter().filter_map(id).collect();
    }

    /// The program that an earlier agent left.
    pub fn take(&self, name: &str) -> Option<Program> {
        let program = self.open(name).ok()?;
        let info = program.info().ok()?;
        let is_it = info.name_as_str() == name.get(..NAME_LETTERS).or(Some(name));
        (is_it && self.runs_over_ours(&info)).then_some(program)
    }

    fn runs_over_ours(&self, info: &ProgramInfo) -> bool {
        let Ok(Some(maps)) = info.map_ids() else { return false };
        !maps.is_empty() && maps.iter().all(|id| self.maps.contains(id) || is_of_constants(*id))
    }

    /// Pins a loaded program, in the place of one that is of no use, and opens it by its pin.
    pub fn put(&self, name: &str, program: &mut Program) -> Result<Program, Failure> {
        self.prepare()?;
        let pin = self.place(name);
        pins::gone(fs::remove_file(&pin))?;
        program.pin(&pin)?;
        Ok(self.open(name)?)
    }

    /// One of sockets, by another handle.
    pub fn of_sockets(&self, hook: SocketHook) -> Result<CgroupSockAddr, ProgramError> {
        CgroupSockAddr::from_pin(self.place(hook.program()), hook.attach_type())
    }

    fn open(&self, name: &str) -> Result<Program, ProgramError> {
        Ok(match SocketHook::of(name) {
            Some(hook) => Program::CgroupSockAddr(self.of_sockets(hook)?),
            None => Program::SchedClassifier(SchedClassifier::from_pin(self.place(name))?),
        })
    }

    /// Whether the pin of a program is gone.
    pub fn lacks(&self, name: &str) -> bool {
        self.place(name).symlink_metadata().is_err()
    }

    /// Takes away the programs of other objects: those that run go on until they are replaced.
    pub fn remove_others(&self) -> io::Result<()> {
        let all = self.dir.parent().map(fs::read_dir).transpose()?.into_iter().flatten();
        for folder in all.map(|entry| entry.map(|entry| entry.path())) {
            let folder = folder?;
            if folder != self.dir {
                fs::remove_dir_all(folder)?;
            }
        }
        Ok(())
    }
}

fn is_of_constants(map: u32) -> bool {
    MapInfo::from_id(map).is_ok_and(|info| info.name_as_str() == Some(CONSTANTS))
}

/// The folder's name. Another one for the same object, as after a change of the hash, costs one more verification.
fn name(object: &[u8], globals: &Globals) -> String {
    let Globals { timeouts, flow_quota, log_interval_ns, netns_cookie } = globals;
    let mut hasher = DefaultHasher::new();
    let told = [bytes_of(timeouts), bytes_of(flow_quota), bytes_of(log_interval_ns), bytes_of(netns_cookie)];
    for bytes in [object].into_iter().chain(told) {
        hasher.write_usize(bytes.len());
        hasher.write(bytes);
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Timeouts;

    #[test]
    fn what_programs_are_told_is_part_of_their_name() {
        let told = Globals { timeouts: Timeouts::DEFAULT, flow_quota: 7, log_interval_ns: 9, netns_cookie: 3 };
        let mut others = vec![name(b"other", &told), name(b"object", &Globals { flow_quota: 8, ..told })];
        others.push(name(b"object", &Globals { log_interval_ns: 8, ..told }));
        others.push(name(b"object", &Globals { netns_cookie: 4, ..told }));
        let mut timeouts = Timeouts::DEFAULT;
        timeouts.0[0] += 1;
        others.push(name(b"object", &Globals { timeouts, ..told }));
        assert_eq!(name(b"object", &told), name(b"object", &told));
        assert!(!others.contains(&name(b"object", &told)), "{others:?}");
    }
}
