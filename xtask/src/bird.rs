//! BIRD for the tests: Debian's, unpacked beside all target folders.
//! In: Debian's package lists. Out: `bird` in a folder of its version in the cache.
//! Invariant: the package is not installed, so no service of it starts, and nothing speaks BGP on this machine.
//! Never: unpacks what is there already.

use crate::{paths::Paths, setup::apt, step::Console};
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

const PACKAGE: &str = "bird2";
/// What folders of versions begin with.
const FOLDER: &str = "bird-";

/// Where it is, if it is.
pub fn path(paths: &Paths) -> Option<PathBuf> {
    let folders = fs::read_dir(&paths.cache).into_iter().flatten().flatten();
    let birds = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(FOLDER));
    birds.map(|folder| folder.path().join("bird")).find(|program| program.is_file())
}

/// Unpacks it, if it is not there.
pub fn bird(paths: &Paths, console: &Console) -> Result<()> {
    if path(paths).is_some() {
        console.nothing_to_do("BIRD");
        return Ok(());
    }
    let folder = paths.cache.join("bird.part");
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let hint = "run by hand, as root: apt-get update, and this again";
    console.run("BIRD: package", apt(paths, &["download", PACKAGE]).current_dir(&folder)).context(hint)?;
    let package = archive(&folder)?;
    let mut unpack = paths.command("dpkg-deb");
    console.run("BIRD: unpacking", unpack.arg("-x").arg(&package).arg(&folder))?;
    let version = package.file_stem().context("a package has a name")?.to_string_lossy().replace(PACKAGE, "");
    let there = paths.cache.join(format!("{FOLDER}{}", version.trim_matches('_')));
    fs::create_dir_all(&there)?;
    // Last: a folder with the program is whole.
    fs::rename(folder.join("usr/sbin/bird"), there.join("bird")).context("moving BIRD into the cache")?;
    fs::remove_dir_all(&folder).context("removing what else was in the package")
}

fn archive(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    entries.find(|path| path.extension().is_some_and(|end| end == "deb")).context("apt has downloaded no package")
}
