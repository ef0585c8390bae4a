//! `tortie ipam configure`: how nodes take blocks; with calicoctl's meaning.
//! In: what is to be so from now on, and how it is. Out: what was done, or would be.
//! Invariant: what is not named stays; a combination that could not work is refused as Calico refuses it.
//! Never: writes without `--yes`.

use super::split::with;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use datastore::{
    Metadata, Object, Store,
    settings::{Change, Setting},
};
use model::IpamConfig;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What is to be so.
#[derive(Args, Clone, Copy, Debug, Default)]
#[group(required = true, multiple = true)]
pub struct Wanted {
    /// No node gives out addresses of another's blocks
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    pub strictaffinity: Option<bool>,
    /// Blocks of one family that one node may have; 0: 20
    #[arg(long, value_name = "NUMBER")]
    pub max_blocks_per_host: Option<u32>,
    /// Whether a virtual machine of KubeVirt keeps its address
    #[arg(long, value_enum, ignore_case = true)]
    pub kubevirt_ip_persistence: Option<Persistence>,
}

/// Whether it keeps its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Persistence {
    #[value(name = "Enabled")]
    Enabled,
    #[value(name = "Disabled")]
    Disabled,
}

/// How it is: what stands there, or what nobody has said.
pub fn current(store: &Store) -> Result<(Option<Object>, Value)> {
    let found = store.settings(Setting::Config)?.into_iter().find(|config| config.metadata.name == IpamConfig::NAME);
    let defaults = json!({ "strictAffinity": false, "autoAllocateBlocks": true, "maxBlocksPerHost": 0 });
    let mut spec = found.as_ref().map_or(Value::Null, |found| found.spec.clone());
    for (field, value) in defaults.as_object().into_iter().flatten() {
        if spec[field].is_null() {
            spec[field] = value.clone();
        }
    }
    Ok((found, spec))
}

/// Makes it so.
pub fn set(store: &Store, wanted: Wanted, yes: bool) -> Result<String> {
    let (found, spec) = current(store)?;
    let metadata = Metadata { name: IpamConfig::NAME.to_owned(), resource_version: None };
    let kind = Setting::Config.name().to_owned();
    let mut object = Object { api_version: String::new(), kind, metadata, spec: spec.clone() };
    let Wanted { strictaffinity, max_blocks_per_host, kubevirt_ip_persistence } = wanted;
    let persistence = kubevirt_ip_persistence.map(|given| json!(format!("{given:?}")));
    let given = [
        ("StrictAffinity", "strictAffinity", strictaffinity.map(Value::from)),
        ("MaxBlocksPerHost", "maxBlocksPerHost", max_blocks_per_host.map(Value::from)),
        ("KubeVirtVMAddressPersistence", "kubeVirtVMAddressPersistence", persistence),
    ];
    let mut said = String::new();
    for (name, field, value) in given.into_iter().filter_map(|(name, field, value)| Some((name, field, value?))) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let was = if spec[field].is_null() { "not set".to_owned() } else { text(&spec[field]) };
        match yes {
            true => writeln!(said, "Successfully set {name} to: {}", text(&value))?,
            false => writeln!(said, "{name}: {was} -> {}", text(&value))?,
        }
        object.spec = with(&object, field, value);
    }
    if object.spec["strictAffinity"] != true && object.spec["autoAllocateBlocks"] != true {
        bail!("strictAffinity and autoAllocateBlocks cannot both be off: no node could get an address");
    }
    if object.spec["strictAffinity"] != true && object.spec["maxBlocksPerHost"].as_u64().unwrap_or_default() > 0 {
        bail!("maxBlocksPerHost needs strictAffinity: give --strictaffinity=true, too");
    }
    if !yes {
        return Ok(format!("{said}Nothing was done: give --yes"));
    }
    let change = match &found {
        Some(found) if found.spec == object.spec => return Ok(said.trim_end().to_owned()),
        Some(found) => Change::of(Setting::Config, found, Some(object.spec)),
        None => Change::new(Setting::Config, IpamConfig::NAME, object.spec),
    };
    store.set(&[change])?;
    Ok(said.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn ipam_2_what_is_named_is_changed_and_what_could_not_work_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store: Store = Arc::new(datastore::Objects::open(dir.path()).expect("a store"));
        let strict = Wanted { strictaffinity: Some(true), ..Wanted::default() };
        let dry = set(&store, strict, false).expect("it can be");
        assert!(dry.contains("StrictAffinity: false -> true") && dry.contains("Nothing was done"), "{dry}");
        assert_eq!(current(&store).expect("readable").0, None);
        let most = Wanted { max_blocks_per_host: Some(4), ..Wanted::default() };
        let refused = set(&store, most, true).expect_err("nodes borrow").to_string();
        assert!(refused.contains("--strictaffinity=true"), "{refused}");
        assert_eq!(set(&store, strict, true).expect("written"), "Successfully set StrictAffinity to: true");
        set(&store, most, true).expect("written");
        let persists = Wanted { kubevirt_ip_persistence: Some(Persistence::Disabled), ..Wanted::default() };
        set(&store, persists, true).expect("written");
        let expected = json!({
            "strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 4, "kubeVirtVMAddressPersistence": "Disabled",
        });
        assert_eq!(current(&store).expect("readable").1, expected);
        let both = Wanted { strictaffinity: Some(false), max_blocks_per_host: Some(0), ..Wanted::default() };
        set(&store, both, true).expect("they go together");
    }
}
