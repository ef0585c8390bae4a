//! Writes the definitions of Calico's kinds, for `cargo xtask crds`.
//! In: a folder. Out: one file a kind in it.
//! Invariant: what is written again is the same.
//! Never: removes a file.

use datastore::crds;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("which folder?")?);
    for (plural, definition) in crds::definitions() {
        fs::write(folder.join(crds::file_name(plural)), crds::file_text(&definition))?;
    }
    Ok(())
}
