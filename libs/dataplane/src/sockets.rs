//! Programs of sockets at a cgroup: attached by links that are pinned, so that they outlive the agent.
//! In: the programs, the cgroup of the setting. Out: a cgroup at which they run, or why they do not.
//! Invariant: while a program takes another's place in a link there is no moment without one; all are attached or none.
//! Never: removes a link that is not pinned in our own directory; fails a start.

use crate::{
    bpf::{bpf, call},
    cgroup::{Cgroup, Place},
    pins,
    programs::{Programs, SocketHook, in_full},
    tcx::Failure,
};
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr,
    cgroup_sock_addr::CgroupSockAddrLink,
    links::{FdLink, PinnedLink},
};
use std::{
    ffi::CString,
    fmt, fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// What a look can find.
const DETACHED: &str = "it was detached";
const UNPINNED: &str = "its pin was removed";

/// One program at the cgroup. The link is held open, so that a pin that somebody removes does not end it while this process lives.
#[derive(Debug)]
struct Held {
    hook: SocketHook,
    program: CgroupSockAddr,
    link: Option<FdLink>,
}

/// The programs of sockets; in words, what becomes of the node's own where nothing fails.
#[derive(Debug)]
pub struct Sockets {
    bpffs: PathBuf,
    place: Option<Place>,
    held: Vec<Held>,
    /// Why they are attached nowhere.
    lacks: String,
    /// Where they are not, packets are led one by one.
    by_packet: bool,
    /// A former agent's were attached.
    were_attached: bool,
}

impl fmt::Display for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "reach services, by {}", place.path.display()),
            None if self.by_packet => write!(f, "reach services packet by packet: {}", self.lacks),
            None => write!(f, "do not reach services: {}", self.lacks),
        }
    }
}

impl Sockets {
    /// Has them run at the cgroup: in the links of a former agent, or in new ones. Where none shall be, former ones go.
    pub(crate) fn start(programs: &Programs, bpffs: &Path, cgroup: &Cgroup, netns_cookie: u64) -> Self {
        let by_packet = *cgroup != Cgroup::Off;
        let (bpffs, lacks) = (bpffs.to_owned(), format!("cgroup is {}", if by_packet { "none" } else { "off" }));
        let mut sockets = Self { bpffs, place: None, held: Vec::new(), lacks, by_packet, were_attached: false };
        sockets.were_attached = sockets.dir().exists();
        let started = Place::find(cgroup).and_then(|place| match place {
            Some(_) if netns_cookie == 0 => Err("the kernel does not tell network namespaces apart".to_owned()),
            Some(place) => sockets.attach_all(programs, place).map_err(|error| in_full(error.as_ref())),
            None => Ok(()),
        });
        if let Err(why) = started {
            sockets.lacks = why;
        }
        if sockets.place.is_none()
            && let Err(error) = sockets.end()
        {
            tracing::warn!(%error, "programs of sockets stay attached");
        }
        sockets
    }

    fn attach_all(&mut self, programs: &Programs, place: Place) -> Result<(), Failure> {
        fs::create_dir_all(self.dir())?;
        for (hook, program) in programs.of_sockets()? {
            let mut held = Held { hook, program, link: None };
            held.put(&place, &self.dir())
                .map_err(|error| format!("{}: {}", hook.program(), in_full(error.as_ref())))?;
            self.held.push(held);
        }
        self.place = Some(place);
        Ok(())
    }

    /// Ends every link there is.
    fn end(&mut self) -> io::Result<()> {
        self.held.clear();
        pins::gone(fs::remove_dir_all(self.dir()))
    }

    fn dir(&self) -> PathBuf {
        pins::sockets_dir(&self.bpffs)
    }

    /// Whether they run.
    pub(crate) const fn is_attached(&self) -> bool {
        self.place.is_some()
    }

    /// Whether the node's own packets are led to services one by one instead.
    pub(crate) const fn leads_packets(&self) -> bool {
        self.by_packet && !self.is_attached()
    }

    /// Whether they run, and no former agent's did: until then packets may have been led one by one.
    pub(crate) const fn are_new(&self) -> bool {
        self.is_attached() && !self.were_attached
    }

    /// Looks at every hook, and puts right what others did to it. Says what was found.
    ///
    /// # Errors
    /// One cannot be put right: the first, in words.
    pub(crate) fn mend(&mut self) -> Result<Vec<(SocketHook, &'static str)>, String> {
        let (dir, mut mended) = (self.dir(), Vec::new());
        let Some(place) = &self.place else { return Ok(mended) };
        for held in &mut self.held {
            let Some(found) = held.found(place, &dir) else { continue };
            let put = fs::create_dir_all(&dir).map_err(Into::into).and_then(|()| held.put_again(place, &dir, found));
            put.map_err(|error| format!("{}: {}", held.hook.program(), in_full(error.as_ref())))?;
            mended.push((held.hook, found));
        }
        Ok(mended)
    }
}

impl Held {
    /// Into the link that is pinned, if it is at this cgroup; else by a new one, which is pinned in the old one's place.
    fn put(&mut self, place: &Place, dir: &Path) -> Result<(), Failure> {
        let pin = dir.join(self.hook.program());
        pins::gone(fs::remove_file(passing(&pin)))?;
        self.link = Some(match seen(&pin) {
            Ok((cgroup, _)) if cgroup == place.id => {
                let link = CgroupSockAddrLink::try_from(FdLink::from(PinnedLink::from_pin(&pin)?))?;
                let id = self.program.attach_to_link(link)?;
                FdLink::try_from(self.program.take_link(id)?)?
            }
            _ => self.put_anew(place, &pin)?,
        });
        Ok(())
    }

    fn put_anew(&mut self, place: &Place, pin: &Path) -> Result<FdLink, Failure> {
        // The mode of a link is none: it stands beside all others.
        let id = self.program.attach(place, CgroupAttachMode::Single)?;
        let link = FdLink::try_from(self.program.take_link(id)?)?;
        let fresh = passing(pin);
        pins::gone(fs::remove_file(&fresh))?;
        let link = link.pin(&fresh)?;
        fs::rename(&fresh, pin)?;
        Ok(link.into())
    }

    /// What is wrong.
    fn found(&self, place: &Place, dir: &Path) -> Option<&'static str> {
        let own = self.program.info().map(|info| info.id());
        match (seen(&dir.join(self.hook.program())), own) {
            (Ok((cgroup, program)), Ok(own)) if (cgroup, program) == (place.id, own) => None,
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Some(UNPINNED),
            _ => Some(DETACHED),
        }
    }

    fn put_again(&mut self, place: &Place, dir: &Path, found: &str) -> Result<(), Failure> {
        let pin = dir.join(self.hook.program());
        match self.link.take() {
            Some(link) if found == UNPINNED => self.link = Some(link.pin(&pin)?.into()),
            _ => self.link = Some(self.put_anew(place, &pin)?),
        }
        Ok(())
    }
}

/// A pin before it takes another's place.
fn passing(pin: &Path) -> PathBuf {
    pin.with_file_name(format!("{}-new", pin.file_name().unwrap_or_default().to_string_lossy()))
}

/// `union bpf_attr` for a pin.
#[repr(C)]
#[derive(Default)]
struct Pinned {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` for what an object says of itself.
#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}

/// `struct bpf_link_info` of a link at a cgroup.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    cgroup: u64,
    attach_type: u32,
    rest: u32,
}

/// The cgroup (0: none any more) and the program of the link that is pinned here.
fn seen(pin: &Path) -> io::Result<(u64, u32)> {
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let fd = call(OBJ_GET, &mut Pinned { path: path.as_ptr() as u64, ..Pinned::default() })?;
    // SAFETY: the kernel has just given this descriptor, which is nobody else's.
    let link = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(io::Error::other)?) };
    let mut info = LinkInfo::default();
    let mut ask = Info {
        fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut ask)?;
    Ok((info.cgroup, info.program))
}
