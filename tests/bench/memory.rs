//! What a process holds: its own memory, what it maps, its tables.
//! In: a pid. Out: megabytes.
//! Invariant: a table is counted once, however many descriptors name it.
//! Never: asks the process.

use anyhow::{Context as _, Result};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, fs};

/// Of one agent, in megabytes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Its own pages.
    pub own: f64,
    /// Everything resident: its own pages, its program, what it has touched of tables that it maps.
    pub resident: f64,
    /// The most that was ever resident.
    pub peak: f64,
    /// All its tables as the kernel charges them, filled or not.
    pub tables: f64,
    /// What it has touched of what it maps.
    pub touched: f64,
}

impl Memory {
    /// As /proc says now.
    pub fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            own: status(pid, "RssAnon")?,
            resident: status(pid, "VmRSS")?,
            peak: status(pid, "VmHWM")?,
            tables: tables(pid)? / f64::from(1 << 20),
            touched: status(pid, "RssShmem")? + status(pid, "RssFile")?,
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, resident, peak, tables, touched } = self;
        write!(
            f,
            "own memory {own:.1} MB   resident {resident:.1} MB, at most {peak:.1} MB   tables {tables:.1} MB, of which \
             entries in use {touched:.1} MB"
        )
    }
}

/// Megabytes of a process, as /proc says.
fn status(pid: u32, what: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("reading the agent's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kilobytes.with_context(|| format!("no {what} in /proc/{pid}/status"))? / 1024.0)
}

/// Bytes of all tables that a process holds, each counted once.
fn tables(pid: u32) -> Result<f64> {
    let mut maps: BTreeMap<String, f64> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("listing the agent's descriptors")? {
        // One that was closed meanwhile is no table.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:").and_then(|bytes| bytes.parse().ok())) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}
