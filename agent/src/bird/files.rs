//! The files of our BIRD: its configuration, its socket, its process.
//! In: a folder of the agent's state. Out: paths; a configuration written whole.
//! Invariant: the folder is the owner's alone, and so is what holds passwords.
//! Never: a configuration that is there in part.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Where they are.
#[derive(Clone, Debug)]
pub struct Files {
    /// All of them.
    pub folder: PathBuf,
    /// What BIRD reads.
    pub configuration: PathBuf,
    /// What it is asked to read next.
    pub next: PathBuf,
    /// Where it is spoken with.
    pub socket: PathBuf,
    /// Which process it is.
    pub pid: PathBuf,
    /// What it writes.
    pub log: PathBuf,
}

impl Files {
    pub fn of(folder: &Path) -> Self {
        let at = |name: &str| folder.join(name);
        Self {
            folder: folder.to_owned(),
            configuration: at("bird.conf"),
            next: at("bird.conf.next"),
            socket: at("bird.ctl"),
            pid: at("bird.pid"),
            log: at("bird.log"),
        }
    }

    /// Written beside the one in force.
    pub fn write_next(&self, text: &str) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // One that somebody made readable is not written into.
        let _gone = fs::remove_file(&self.next);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&self.next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Takes the place of the one in force.
    pub fn put_next(&self) -> io::Result<()> {
        fs::rename(&self.next, &self.configuration)
    }

    /// The process that runs with our socket, if one does.
    pub fn running(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(&self.pid).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let socket = self.socket.as_os_str().as_encoded_bytes();
        command.split(|byte| *byte == 0).any(|argument| argument == socket).then_some(pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_configuration_can_be_read_by_its_owner_alone_and_takes_the_place_of_the_former_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files::of(&dir.path().join("bird"));
        for text in ["one", "two"] {
            files.write_next(text).expect("written");
            files.put_next().expect("put");
            let mode = |path: &Path| fs::metadata(path).expect("it").permissions().mode() & 0o777;
            assert_eq!((mode(&files.configuration), mode(&files.folder)), (0o600, 0o700));
            assert_eq!(fs::read_to_string(&files.configuration).expect("readable"), text);
        }
        assert_eq!(files.running(), None);
    }

    #[test]
    fn a_process_is_ours_only_with_our_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files::of(dir.path());
        fs::write(&files.pid, std::process::id().to_string()).expect("written");
        assert_eq!(files.running(), None, "this test is no BIRD");
    }
}
