//! A pinned map in a larger size: made beside it, filled from it, and put in its place, while its programs go on.
//! In: the pins and the sizes asked for. Out: pins of the sizes asked for, with everything that was in them.
//! Invariant: every pin holds a whole map at every moment; what the former programs wrote until they were replaced is
//! carried over after. A kill after any step leaves what the next start goes on from.
//! Never: shrinks a map; runs while a commit could write: the agent is starting.

use crate::{
    OpenError, accounts,
    bpf::{Bytes, NEW_ONLY},
    pins,
    tables::Sizes,
};
use abi::maps::{self, MAPS, MapSpec, Sizing};
use aya::maps::{MapData, MapInfo, MapType};
use std::{
    cmp::Ordering,
    fmt, fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

/// The maps that have to grow.
#[derive(Debug)]
pub struct Growth {
    dir: PathBuf,
    grown: Vec<&'static MapSpec>,
}

/// A step of a map's growth. A start may die after any: the next goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The larger map holds what the smaller one does.
    Fill,
    /// The smaller one is pinned beside it: programs go on writing there.
    Keep,
    /// The larger one takes over the pin.
    Replace,
    /// What was written to the smaller ones since is in the larger one, too.
    Add,
    /// Accounts say how many flows there are.
    Recount,
    /// The smaller ones go.
    Release,
}

/// A pinned map.
struct Pinned {
    data: MapData,
    info: MapInfo,
}

fn failed(map: &MapSpec, error: impl fmt::Display) -> OpenError {
    OpenError::Grow { map: map.name, reason: error.to_string() }
}

/// The larger map until it is filled.
fn fresh_pin(dir: &Path, map: &MapSpec) -> PathBuf {
    dir.join(format!("{}-new", pins::map_name(map)))
}

/// Growths in a row of which none came to its end.
const FORMERS_MAX: u32 = 16;

/// The smaller maps until no program runs over them: one, and one more for each start that died and asked for less.
fn former_pins(dir: &Path, map: &MapSpec) -> impl Iterator<Item = PathBuf> {
    let pin = dir.join(format!("{}-former", pins::map_name(map)));
    let numbered = (2..=FORMERS_MAX).map({
        let pin = pin.clone();
        move |number| pin.with_file_name(format!("{}-{number}", pin.file_name().unwrap_or_default().display()))
    });
    [pin].into_iter().chain(numbered)
}

fn formers(dir: &Path, map: &MapSpec) -> impl Iterator<Item = PathBuf> {
    former_pins(dir, map).filter(|pin| pin.exists())
}

fn pin(dir: &Path, map: &MapSpec) -> PathBuf {
    dir.join(pins::map_name(map))
}

fn remove(path: &Path) -> io::Result<()> {
    pins::gone(fs::remove_file(path))
}

impl Pinned {
    /// `None`: nothing is pinned there.
    fn open(path: &Path, map: &MapSpec) -> Result<Option<Self>, OpenError> {
        if !path.exists() {
            return Ok(None);
        }
        let data = MapData::from_pin(path).map_err(|error| failed(map, error))?;
        let info = data.info().map_err(|error| failed(map, error))?;
        Ok(Some(Self { data, info }))
    }

    fn bytes(&self) -> io::Result<Bytes<'_>> {
        Bytes::new(self.data.fd().as_fd(), &self.info)
    }
}

impl Growth {
    /// Which of the maps pinned in `dir` are smaller than they are to be.
    ///
    /// # Errors
    /// A pin cannot be looked at, or is larger.
    pub fn plan(dir: &Path, sizes: &Sizes) -> Result<Self, OpenError> {
        let mut grown = Vec::new();
        for map in MAPS {
            // An earlier start may have died before it was filled.
            remove(&fresh_pin(dir, map)).map_err(|error| failed(map, error))?;
            let Some(pinned) = Pinned::open(&pin(dir, map), map)? else { continue };
            forget_not_replaced(dir, map, &pinned)?;
            let (actual, expected) = (pinned.info.max_entries(), sizes.of(map));
            match actual.cmp(&expected) {
                Ordering::Less => grown.push(map),
                Ordering::Equal => {}
                // Said here, where a map comes before those that have their size from it.
                Ordering::Greater => {
                    let (pin, property) = (pin(dir, map), "entries".to_owned());
                    return Err(OpenError::ForeignPin {
                        pin,
                        property,
                        expected: expected.into(),
                        actual: actual.into(),
                    });
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), grown })
    }

    /// Where the loader finds or makes a map.
    #[must_use]
    pub fn place(&self, map: &MapSpec) -> PathBuf {
        if self.grown.iter().any(|grown| grown.name == map.name) {
            fresh_pin(&self.dir, map)
        } else {
            pin(&self.dir, map)
        }
    }

    /// The steps that fill the larger maps and put them in the place of the smaller ones, which stay pinned beside.
    pub fn steps(&self) -> impl Iterator<Item = (&'static MapSpec, Step)> {
        let each = |map: &&'static MapSpec| [Step::Fill, Step::Keep, Step::Replace].map(|step| (*map, step));
        self.grown.iter().flat_map(each)
    }

    /// Takes all of them.
    ///
    /// # Errors
    /// The map that cannot be filled; all pins are as before, or whole.
    pub fn carry(&self) -> Result<(), OpenError> {
        for (map, step) in self.steps() {
            take(&self.dir, map, step)?;
            if step == Step::Replace {
                tracing::info!(map = map.name, "the map has grown; its entries were carried over");
            }
        }
        Ok(())
    }
}

/// A start that died between two steps left the present map pinned twice: nothing has taken its place.
fn forget_not_replaced(dir: &Path, map: &MapSpec, present: &Pinned) -> Result<(), OpenError> {
    for former in formers(dir, map) {
        let is_present = Pinned::open(&former, map)?.is_some_and(|pinned| pinned.info.id() == present.info.id());
        if is_present {
            remove(&former).map_err(|error| failed(map, error))?;
        }
    }
    Ok(())
}

/// The steps after the former programs are replaced, for the maps that a start left to be finished.
pub fn last_steps(dir: &Path) -> impl Iterator<Item = (&'static MapSpec, Step)> {
    let unfinished = MAPS.iter().filter(move |map| formers(dir, map).next().is_some());
    unfinished.flat_map(|map| [Step::Add, Step::Recount, Step::Release].map(|step| (map, step)))
}

/// Before the first commit: what the former programs wrote until they were replaced is carried over too.
///
/// # Errors
/// A former program still runs (not `everywhere`): over the smaller maps it would judge by numbers that a commit may give
/// a new meaning. Or a map's entries could not be carried over.
pub fn finish(dir: &Path, everywhere: bool) -> Result<(), OpenError> {
    let steps: Vec<_> = last_steps(dir).collect();
    if let Some((map, _)) = steps.first().filter(|_| !everywhere) {
        return Err(failed(map, "a former program could not be replaced and still uses the smaller map; start again"));
    }
    steps.into_iter().try_for_each(|(map, step)| take(dir, map, step))
}

/// Takes one step.
///
/// # Errors
/// A map or pin cannot be read or written; the pins are whole.
pub fn take(dir: &Path, map: &'static MapSpec, step: Step) -> Result<(), OpenError> {
    let failed = |error: io::Error| failed(map, error);
    match step {
        Step::Fill => fill(dir, map),
        Step::Keep => keep(dir, map),
        Step::Replace => fs::rename(fresh_pin(dir, map), pin(dir, map)).map_err(failed),
        Step::Add => formers(dir, map).try_for_each(|former| add(dir, map, &former)),
        Step::Recount if [maps::CONNTRACK.name, maps::QUOTA.name].contains(&map.name) => accounts::recount(dir),
        Step::Recount => Ok(()),
        Step::Release => formers(dir, map).try_for_each(|former| remove(&former)).map_err(failed),
    }
}

fn fill(dir: &Path, map: &MapSpec) -> Result<(), OpenError> {
    let missing = || failed(map, "its pin has gone");
    let old = Pinned::open(&pin(dir, map), map)?.ok_or_else(missing)?;
    let new = Pinned::open(&fresh_pin(dir, map), map)?.ok_or_else(missing)?;
    if layout(&old.info) != layout(&new.info) {
        return Err(failed(map, "its layout is another; run `tortie cleanup` to start with empty tables"));
    }
    // What waits in a queue is taken over in the end: it can be read only by taking it out.
    if is_queue(&old.info) { Ok(()) } else { copy(map, &old, &new).map_err(|error| failed(map, error)) }
}

fn keep(dir: &Path, map: &MapSpec) -> Result<(), OpenError> {
    let free = former_pins(dir, map).find(|pin| !pin.exists());
    let free = free.ok_or_else(|| failed(map, "too many starts have died while it grew; run `tortie cleanup`"))?;
    let old = Pinned::open(&pin(dir, map), map)?.ok_or_else(|| failed(map, "its pin has gone"))?;
    old.data.pin(&free).map_err(|error| failed(map, error))
}

fn add(dir: &Path, map: &MapSpec, former: &Path) -> Result<(), OpenError> {
    let (Some(old), Some(new)) = (Pinned::open(former, map)?, Pinned::open(&pin(dir, map), map)?) else {
        return Ok(());
    };
    let added = if is_queue(&old.info) {
        drain(&old, &new)
    } else if is_hash(&old.info) {
        add_missing(&old, &new)
    } else {
        Ok(())
    };
    added.map_err(|error| failed(map, error))
}

/// Type, key, value and flags.
fn layout(info: &MapInfo) -> (Option<u32>, u32, u32, u32) {
    (info.map_type().ok().map(|kind| kind as u32), info.key_size(), info.value_size(), info.map_flags())
}

fn is_queue(info: &MapInfo) -> bool {
    matches!(info.map_type(), Ok(MapType::Queue))
}

fn is_hash(info: &MapInfo) -> bool {
    matches!(info.map_type(), Ok(MapType::Hash | MapType::LruHash))
}

/// Everything, as it is.
fn copy(map: &MapSpec, old: &Pinned, new: &Pinned) -> io::Result<()> {
    let (from, to) = (old.bytes()?, new.bytes()?);
    from.walk_many(|keys, values, count| {
        if let Sizing::PerEndpoint(each) = map.sizing {
            let moved: Vec<u8> = keys.as_chunks().0.iter().flat_map(|key| moved(*key, each, old, new)).collect();
            return to.put_many(&moved, values, count);
        }
        to.put_many(keys, values, count)
    })
}

/// The last group of entries is of endpoints that are gone: it stays the last one.
fn moved(key: [u8; 4], each: u32, old: &Pinned, new: &Pinned) -> [u8; 4] {
    let (index, last) = (u32::from_ne_bytes(key), old.info.max_entries().saturating_sub(each));
    let shift = new.info.max_entries().saturating_sub(old.info.max_entries());
    if index < last { key } else { (index + shift).to_ne_bytes() }
}

/// What is not there yet.
fn add_missing(old: &Pinned, new: &Pinned) -> io::Result<()> {
    let (from, to) = (old.bytes()?, new.bytes()?);
    let mut result = Ok(());
    from.walk(|key, value| match to.put(key, value, NEW_ONLY) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && result.is_ok() => result = Err(error),
        _ => {}
    })?;
    result
}

/// Everything that waits, in its order.
fn drain(old: &Pinned, new: &Pinned) -> io::Result<()> {
    let (from, to) = (old.bytes()?, new.bytes()?);
    while let Some(value) = from.take(&[])? {
        to.put(&[], &value, 0)?;
    }
    Ok(())
}
