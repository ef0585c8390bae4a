//! Where nodes of tests are: namespaces that serve one test after the other, with the programs that one of them had verified.
//! In: a test. Out: the same, run at a station; the folder of a node's pins there.
//! Invariant: a node finds what a machine has that was just booted, but for programs: no link, no entry, no count, no state.
//! Never: hands on what a failed test left.

use super::wipe;
use netlink::{LinkChange, Socket, namespace};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    cell::Cell,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// Over this folder lies a file system of the station's own.
pub const OWN_FOLDER: &str = "/mnt";
/// Its folder for nodes that are made alike.
const LASTING: &str = "node";

/// Those that no test is at: as many as ever ran at once.
static FREE: Mutex<Vec<Station>> = Mutex::new(Vec::new());

/// A network and a mount namespace. The programs are told of the first, so both belong together.
struct Station {
    network: OwnedFd,
    mounts: OwnedFd,
}

/// Runs `test` on a thread in a network and a mount namespace that nobody else is in.
pub fn on_a_node(test: impl FnOnce() + Send) {
    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let station = free.unwrap_or_else(Station::new);
    let work = || {
        station.enter();
        test();
    };
    namespace::inside(station.network.as_fd(), work).expect("root may enter its own namespace");
    // A test that fails does not come so far, and its station goes with it.
    FREE.lock().unwrap_or_else(PoisonError::into_inner).push(station);
}

impl Station {
    fn new() -> Self {
        let network = namespace::create().expect("root may make a network namespace");
        let mounts = namespace::inside(network.as_fd(), || {
            private_mounts();
            rustix::fs::open("/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        });
        let mounts = mounts.expect("root may enter its own namespace").expect("proc is mounted");
        Self { network, mounts }
    }

    fn enter(&self) {
        // SAFETY: the thread was made for this test and shares no working directory with code that depends on it.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.expect("a thread may have a working directory of its own");
        move_into_link_name_space(self.mounts.as_fd(), Some(LinkNameSpaceType::Mount)).expect("root may enter it");
    }
}

fn private_mounts() {
    // SAFETY: the thread was made for this and shares neither its descriptor table's use nor its working directory with
    // code that depends on them.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.expect("root may make a mount namespace");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("root may change mounts");
    mount("tortie-test", OWN_FOLDER, "tmpfs", MountFlags::empty(), None).expect("root may mount");
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Where the other ends of a node's links are.
pub struct Pods(OwnedFd);

impl Pods {
    /// A namespace of their own.
    pub fn new() -> Self {
        Self(namespace::create().expect("root may make a network namespace"))
    }
}

impl std::ops::Deref for Pods {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.0
    }
}

impl Drop for Pods {
    /// Links go while somebody waits. With this namespace they would go as well, but some time after the next node began.
    fn drop(&mut self) {
        forget_network();
    }
}

/// As if no node had been here: its links go with what lies on them, and routes that lie on none.
fn forget_network() {
    let mut socket = Socket::open().expect("netlink answers");
    for link in socket.links().expect("links are listed") {
        // Those that the kernel made with the namespace stay: loopback, down.
        let _ = socket.delete_link(link.index);
        let _ = socket.set_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() });
    }
    ip("-4 route flush table all");
    ip("-6 route flush table all");
}

/// The folder of one node: its pins, its state.
pub struct Place {
    directory: PathBuf,
    lasting: Cell<bool>,
}

impl Place {
    /// One that takes over what an earlier node like it had verified.
    pub fn lasting() -> Self {
        let directory = Path::new(OWN_FOLDER).join(LASTING);
        fs::create_dir_all(&directory).expect("a folder can be made");
        forget_node(&directory);
        Self { directory, lasting: Cell::new(true) }
    }

    /// One where nothing ever was.
    pub fn new() -> Self {
        let directory = tempfile::tempdir_in(OWN_FOLDER).expect("a temporary directory can be made").keep();
        Self { directory, lasting: Cell::new(false) }
    }

    /// Whatever is pinned here is no longer what a node finds that is just made: nobody takes it over.
    pub fn spoil(&self) {
        self.lasting.set(false);
    }

    /// Where the BPF file system is.
    pub fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// Where the node keeps what is no pin.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.lasting.get() {
            // With the mount its pins go.
            let _ = unmount(self.bpffs(), UnmountFlags::DETACH);
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Leaves of a node its programs, and tables with nothing in them.
fn forget_node(directory: &Path) {
    let bpffs = directory.join("bpf");
    for folder in [directory.join("state"), bpffs.join("links"), bpffs.join("sockets")] {
        absent(fs::remove_dir_all(&folder)).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    }
    wipe::maps_below(&bpffs);
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|why| if why.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(why) })
}
