//! A pinned map in a larger size: made beside it, filled from it, and put in its place, while its programs go on.
//! In: the pins and the sizes asked for. Out: pins of the sizes asked for, with everything that was in them.
//! Invariant: every pin holds a whole map at every moment; what the former programs wrote until they were replaced is
//! carried over after. A kill at any point leaves what the next start goes on from.
//! Never: shrinks a map; runs while a commit could write: the agent is starting.

use crate::{
    OpenError,
    bpf::{self, Bytes, NEW_ONLY},
    pins,
    tables::{Sizes, mapped::MappedArray},
};
use abi::{
    ConntrackEntry,
    conntrack::QUOTA_ALL,
    maps::{self, MAPS, MapSpec, Sizing},
};
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

/// The smaller map until no program runs over it.
fn former_pin(dir: &Path, map: &MapSpec) -> PathBuf {
    dir.join(format!("{}-former", pins::map_name(map)))
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
    pub fn place(&self, map: &MapSpec) -> PathBuf {
        if self.grown.iter().any(|grown| grown.name == map.name) {
            fresh_pin(&self.dir, map)
        } else {
            pin(&self.dir, map)
        }
    }

    /// Fills the larger maps and puts them in the place of the smaller ones, which stay pinned beside.
    ///
    /// # Errors
    /// The map that cannot be filled; all pins are as before, or whole.
    pub fn carry(&self) -> Result<(), OpenError> {
        for map in &self.grown {
            self.carry_one(map)?;
            tracing::info!(map = map.name, "the map has grown; its entries were carried over");
        }
        Ok(())
    }

    fn carry_one(&self, map: &MapSpec) -> Result<(), OpenError> {
        let (fresh, place, former) = (fresh_pin(&self.dir, map), pin(&self.dir, map), former_pin(&self.dir, map));
        let missing = || failed(map, "its pin has gone");
        let old = Pinned::open(&place, map)?.ok_or_else(missing)?;
        let new = Pinned::open(&fresh, map)?.ok_or_else(missing)?;
        if layout(&old.info) != layout(&new.info) {
            return Err(failed(map, "its layout is another; run `tortie cleanup` to start with empty tables"));
        }
        // Two growths in a row, and no start between them that came to its end.
        finish_one(&self.dir, map)?;
        if !is_queue(&old.info) {
            copy(map, &old, &new).map_err(|error| failed(map, error))?;
        }
        old.data.pin(&former).map_err(|error| failed(map, error))?;
        fs::rename(&fresh, &place).map_err(|error| failed(map, error))
    }
}

/// Before the first commit: what the former programs wrote until they were replaced is carried over too.
///
/// # Errors
/// A former program still runs (not `everywhere`): over the smaller maps it would judge by numbers that a commit may give
/// a new meaning. Or a map's entries could not be carried over.
pub fn finish(dir: &Path, everywhere: bool) -> Result<(), OpenError> {
    let unfinished = MAPS.iter().find(|map| former_pin(dir, map).exists());
    if let Some(map) = unfinished.filter(|_| !everywhere) {
        return Err(failed(map, "a former program could not be replaced and still uses the smaller map; start again"));
    }
    MAPS.iter().try_for_each(|map| finish_one(dir, map))
}

fn finish_one(dir: &Path, map: &MapSpec) -> Result<(), OpenError> {
    let former = former_pin(dir, map);
    let (Some(old), Some(new)) = (Pinned::open(&former, map)?, Pinned::open(&pin(dir, map), map)?) else {
        return Ok(());
    };
    if is_queue(&old.info) {
        drain(&old, &new).map_err(|error| failed(map, error))?;
    } else if is_hash(&old.info) {
        let added = add_missing(&old, &new).map_err(|error| failed(map, error))?;
        if map.name == maps::CONNTRACK.name {
            count(dir, &added)?;
        }
    }
    drop(old);
    remove(&former).map_err(|error| failed(map, error))
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

/// What is not there yet; gives the values added.
fn add_missing(old: &Pinned, new: &Pinned) -> io::Result<Vec<Vec<u8>>> {
    let (from, to) = (old.bytes()?, new.bytes()?);
    let (mut added, mut result) = (Vec::new(), Ok(()));
    from.walk(|key, value| match to.put(key, value, NEW_ONLY) {
        Ok(()) => added.push(value.to_vec()),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && result.is_ok() => result = Err(error),
        Err(_) => {}
    })?;
    result.map(|()| added)
}

/// Everything that waits, in its order.
fn drain(old: &Pinned, new: &Pinned) -> io::Result<()> {
    let (from, to) = (old.bytes()?, new.bytes()?);
    while let Some(value) = from.take(&[])? {
        to.put(&[], &value, 0)?;
    }
    Ok(())
}

/// Flows that the former programs counted in accounts which have grown too: there they are not counted yet.
fn count(dir: &Path, flows: &[Vec<u8>]) -> Result<(), OpenError> {
    let map = &maps::QUOTA;
    if !former_pin(dir, map).exists() {
        return Ok(());
    }
    let Some(accounts) = Pinned::open(&pin(dir, map), map)? else { return Ok(()) };
    let fd = accounts.data.fd().as_fd();
    let accounts = MappedArray::<u64>::map(fd, accounts.info.max_entries()).map_err(|error| failed(map, error))?;
    for flow in flows.iter().filter_map(|value| bpf::value_of::<ConntrackEntry>(value)) {
        accounts.add(flow.owner(), 1);
        accounts.add(QUOTA_ALL, 1);
    }
    Ok(())
}
