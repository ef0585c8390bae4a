//! Where things are pinned, and the file system they are pinned in.
//! In: the directory of `--bpffs`. Out: paths below it, on a bpffs.
//! Invariant: a map's pin carries its layout version; a link's pin begins with its interface's index.
//! Never: a name with a dot, which a bpffs refuses.

use abi::maps::MapSpec;
use rustix::{
    fs::statfs,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// What mountinfo names as the source of a bpffs that is ours to unmount.
const MOUNT_SOURCE: &str = "tortie";

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

/// The directory of programs' pins, in which each object has a folder.
#[must_use]
pub fn programs_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("programs")
}

/// The directory of the pins of links at a cgroup.
#[must_use]
pub fn sockets_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("sockets")
}

/// What is pinned in a directory of links, and the interface it is for: a link, or a folder that only says something.
#[must_use]
pub fn links(dir: &Path) -> Vec<(PathBuf, Option<u32>)> {
    let ifindex = |pin: &str| pin.split_once('-').and_then(|(index, _)| index.parse().ok());
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| (entry.path(), ifindex(&entry.file_name().to_string_lossy()))).collect()
}

/// Removes one of them. One that is gone is removed.
///
/// # Errors
/// The kernel refuses.
pub fn remove_link(pin: &Path) -> io::Result<()> {
    gone(if pin.is_dir() { fs::remove_dir(pin) } else { fs::remove_file(pin) })
}

/// Makes the directories, on a bpffs that is mounted here if there is none.
///
/// # Errors
/// A directory cannot be made, or nothing can be mounted.
pub fn prepare(bpffs: &Path) -> io::Result<()> {
    fs::create_dir_all(bpffs)?;
    if !is_bpffs(bpffs)? {
        mount(MOUNT_SOURCE, bpffs, "bpf", MountFlags::empty(), Some(c"mode=0700"))?;
    }
    fs::create_dir_all(maps_dir(bpffs))?;
    fs::create_dir_all(links_dir(bpffs))
}

/// Removes all pins, with which links end and maps go; unmounts the bpffs if [`prepare`] mounted it.
///
/// # Errors
/// A pin cannot be removed.
pub fn remove(bpffs: &Path) -> io::Result<()> {
    for dir in [sockets_dir(bpffs), links_dir(bpffs), programs_dir(bpffs), maps_dir(bpffs)] {
        gone(fs::remove_dir_all(dir))?;
    }
    if is_our_mount(bpffs)? {
        unmount(bpffs, UnmountFlags::empty())?;
        gone(fs::remove_dir(bpffs))?;
    } else if is_within_a_mount(bpffs) {
        gone(fs::remove_dir(bpffs))?;
    }
    Ok(())
}

/// What is not there need not be removed.
pub(crate) fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Whether a file system of our own making is mounted at exactly this path: its source in mountinfo says so.
fn is_our_mount(path: &Path) -> io::Result<bool> {
    let Ok(path) = path.canonicalize() else { return Ok(false) };
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(|line| mounted(line) == Some((path.as_path(), MOUNT_SOURCE))))
}

/// Mount point and source of a line of mountinfo (proc_pid_mountinfo(5)); `None` for what has escapes in it.
fn mounted(line: &str) -> Option<(&Path, &str)> {
    let (place, kind) = line.split_once(" - ")?;
    Some((Path::new(place.split(' ').nth(4)?), kind.split(' ').nth(1)?))
}

/// A folder inside somebody's file system, which stays when the folder goes: no mount point itself.
fn is_within_a_mount(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let parent = path.parent().map(device);
    matches!((device(path), parent), (Ok(own), Some(Ok(above))) if own == above)
}

/// Whether a path lies on a bpffs.
///
/// # Errors
/// It cannot be looked at.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_ours_by_its_source_only() {
        let ours = "36 35 0:40 / /sys/fs/bpf/tortie rw,relatime shared:1 - bpf tortie rw,mode=700";
        assert_eq!(mounted(ours), Some((Path::new("/sys/fs/bpf/tortie"), MOUNT_SOURCE)));
        let the_hosts = "31 25 0:27 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700";
        assert_ne!(mounted(the_hosts).map(|(_, source)| source), Some(MOUNT_SOURCE));
    }
}
