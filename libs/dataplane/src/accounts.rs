//! The accounts of tracked flows, counted anew: what each endpoint owns of CONNTRACK, and all of it.
//! In: the pinned maps, while programs go on. Out: accounts that say how many entries there are.
//! Invariant: an account is put right only where nobody wrote to it while its flows were counted.
//! Never: stores a number over what a program counts: the difference is added.

use crate::{
    OpenError,
    bpf::{self, Bytes},
    pins,
    tables::mapped::MappedArray,
};
use abi::{
    ConntrackEntry,
    conntrack::QUOTA_ALL,
    maps::{self, MapSpec},
};
use aya::maps::{MapData, MapInfo};
use std::{collections::BTreeMap, fmt, io, os::fd::AsFd as _, path::Path};

/// Times that the flows are counted, at most. An account that moved each time stays as it is: it is off by as many flows as
/// came while the map grew.
const TRIES: usize = 8;

fn failed(error: impl fmt::Display) -> OpenError {
    OpenError::Grow { map: maps::QUOTA.name, reason: error.to_string() }
}

/// Puts the accounts pinned in `dir` right.
///
/// # Errors
/// The maps cannot be read.
pub fn recount(dir: &Path) -> Result<(), OpenError> {
    let open = |map: &MapSpec| {
        let data = MapData::from_pin(dir.join(pins::map_name(map))).map_err(failed)?;
        let info = data.info().map_err(failed)?;
        Ok::<_, OpenError>((data, info))
    };
    let (flows, accounts) = (open(&maps::CONNTRACK)?, open(&maps::QUOTA)?);
    let said = MappedArray::<u64>::map(accounts.0.fd().as_fd(), accounts.1.max_entries()).map_err(failed)?;
    for _ in 0..TRIES {
        if put_right(&said, || counted(&flows)).map_err(failed)? {
            return Ok(());
        }
    }
    tracing::warn!("flows came and went while they were counted anew; an account may be off by a few");
    Ok(())
}

/// Puts right what stood still; whether all did. Between two looks that say the same somebody may have counted up and
/// down again; what that can hide is one flow.
fn put_right(said: &MappedArray<u64>, count: impl FnOnce() -> io::Result<BTreeMap<u32, u64>>) -> io::Result<bool> {
    let look = || (0..said.len()).map(|account| said.get(account).unwrap_or_default()).collect::<Vec<_>>();
    let before = look();
    let counted = count()?;
    let mut is_still = true;
    for (account, (was, is)) in (0..).zip(before.into_iter().zip(look())) {
        let flows = counted.get(&account).copied().unwrap_or_default();
        match (was == is, flows == is) {
            (true, true) => {}
            (true, false) => said.add(account, flows.wrapping_sub(is)),
            (false, _) => is_still = false,
        }
    }
    Ok(is_still)
}

/// Entries by owner, and all.
fn counted((data, info): &(MapData, MapInfo)) -> io::Result<BTreeMap<u32, u64>> {
    let mut counted = BTreeMap::new();
    Bytes::new(data.fd().as_fd(), info)?.walk(|_, value| {
        if let Some(flow) = bpf::value_of::<ConntrackEntry>(value) {
            *counted.entry(flow.owner()).or_default() += 1;
            *counted.entry(QUOTA_ALL).or_default() += 1;
        }
    })?;
    Ok(counted)
}
