//! Where things are pinned, and the file system they are pinned in.
//! In: the directory of `--bpffs`. Out: paths below it, on a bpffs.
//! Invariant: a map's pin carries its layout version; a link's pin carries interface index and program.
//! Never: a name with a dot, which a bpffs refuses.

use abi::maps::MapSpec;
use rustix::{
    fs::statfs,
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The name of a map's pin.
#[must_use]
pub fn map_name(spec: &MapSpec) -> String {
    format!("{}-v{}", spec.name, spec.version)
}

/// The directory of map pins.
#[must_use]
pub fn maps_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("maps")
}

/// The directory of link pins.
#[must_use]
pub fn links_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("links")
}

/// Makes the directories, on a bpffs that is mounted here if there is none.
///
/// # Errors
/// A directory cannot be made, or nothing can be mounted.
pub fn prepare(bpffs: &Path) -> io::Result<()> {
    fs::create_dir_all(bpffs)?;
    if !is_bpffs(bpffs)? {
        mount("tortie", bpffs, "bpf", MountFlags::empty(), Some(c"mode=0700"))?;
    }
    fs::create_dir_all(maps_dir(bpffs))?;
    fs::create_dir_all(links_dir(bpffs))
}

/// Removes all pins, with which links end and maps go; unmounts a bpffs of our own.
///
/// # Errors
/// A pin cannot be removed.
pub fn remove(bpffs: &Path) -> io::Result<()> {
    for dir in [links_dir(bpffs), maps_dir(bpffs)] {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Mounted by `prepare`, or a directory within the host's own bpffs: either way it is empty now.
    match unmount(bpffs, UnmountFlags::empty()) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_dir(bpffs) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a path lies on a bpffs.
///
/// # Errors
/// It cannot be looked at.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type == BPF_FS_MAGIC)
}
