//! The journal: which attachments this agent has made, so that its death loses nothing.
//! In: attachments. Out: `STATE_DIR/attachments/HOST_INTERFACE.json`, and `HOST_INTERFACE.prepared.json` until commit.
//! Invariant: memory and files say the same; a file that cannot be read stays where it is and is reported. Nothing waits for
//! the disk: a machine that crashes takes its pods along, and what it forgets of them the blocks still know (`owner.rs`).
//! Never: opens anything for an attachment that it cannot read.

use datastore::durable::{File, replace_all};
use ipam::owner_of;
use model::{Attachment, AttachmentId, IfaceName};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

const VERSION: u32 = 1;
/// The records, within the state directory.
pub const FOLDER: &str = "attachments";
/// In the name of what is not committed. The name alone says so, and commit is a rename.
const PREPARED: &str = ".prepared";

#[derive(Serialize, Deserialize)]
struct Entry {
    version: u32,
    attachment: Attachment,
}

/// A version that does not fit must be told from damage before the attachment is read.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("{path}: {source}; the attachment is not recorded")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{path}: cannot be read: {reason}; its pod gets no traffic: delete the pod, then remove the file")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of another version of the agent.
    #[error(
        "{path}: version {found}, this agent reads version {VERSION}; run the agent that wrote it, or delete its pod and remove the file"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    known: BTreeMap<AttachmentId, Attachment>,
    /// Who is at each host interface.
    at: BTreeMap<IfaceName, AttachmentId>,
    /// Who has addresses under each owner's name, in which upper and lower case are the same.
    owners: BTreeMap<String, AttachmentId>,
}

impl Journal {
    /// Reads what is there. Files that cannot be read are reported and left alone.
    pub fn open(state_dir: &Path) -> Result<(Self, Vec<JournalError>), JournalError> {
        let dir = state_dir.join(FOLDER);
        fs::create_dir_all(&dir).map_err(|source| io_error(&dir, source))?;
        let mut journal = Self { dir, known: BTreeMap::new(), at: BTreeMap::new(), owners: BTreeMap::new() };
        let mut damaged = Vec::new();
        for path in journal.files()? {
            match read(&path) {
                Ok(attachment) => journal.meet(attachment),
                Err(error) => damaged.push(error),
            }
        }
        Ok((journal, damaged))
    }

    /// Killed between two files of one interface: a committed one is later than what was prepared for it, and what was
    /// prepared for another container is later than what the former had.
    fn meet(&mut self, attachment: Attachment) {
        let is_earlier = |known: &Attachment| match known.id == attachment.id {
            true => known.committed,
            false => !known.committed,
        };
        if self.at(&attachment.host_interface).is_some_and(is_earlier) {
            return;
        }
        self.keep(attachment);
    }

    /// In place of any other at its host interface, and of what was known of it at another.
    fn keep(&mut self, attachment: Attachment) {
        let former = self.at.get(&attachment.host_interface).cloned();
        [former.as_ref(), Some(&attachment.id)].into_iter().flatten().for_each(|id| drop(self.drop_known(id)));
        self.at.insert(attachment.host_interface.clone(), attachment.id.clone());
        self.owners.insert(owner(&attachment.id), attachment.id.clone());
        self.known.insert(attachment.id.clone(), attachment);
    }

    fn drop_known(&mut self, id: &AttachmentId) -> Option<Attachment> {
        let known = self.known.remove(id)?;
        self.at.remove(&known.host_interface);
        self.owners.remove(&owner(id));
        Some(known)
    }

    /// Removes the records that the machine had not written when it crashed: empty files, of pods that went with it.
    pub fn drop_unwritten(state_dir: &Path) -> io::Result<()> {
        let Ok(entries) = fs::read_dir(state_dir.join(FOLDER)) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            if entry.metadata()?.len() == 0 {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// One attachment.
    pub fn get(&self, id: &AttachmentId) -> Option<&Attachment> {
        self.known.get(id)
    }

    /// All attachments.
    pub fn all(&self) -> impl Iterator<Item = &Attachment> {
        self.known.values()
    }

    /// The attachment that has this host interface.
    pub fn at(&self, interface: &IfaceName) -> Option<&Attachment> {
        self.known.get(self.at.get(interface)?)
    }

    /// The attachment whose addresses stand under the same owner's name as those of `id`: the parts of two identities can
    /// join to the same.
    pub fn of_owner(&self, id: &AttachmentId) -> Option<&Attachment> {
        self.known.get(self.owners.get(&owner(id))?)
    }

    /// Records an attachment, in place of any other at its host interface.
    pub fn record(&mut self, attachment: Attachment) -> Result<(), JournalError> {
        self.record_all(vec![attachment])
    }

    /// As [`Journal::record`], several at once. If it fails, none of them is known; some may be on the disk, and are
    /// undone at the next start.
    pub fn record_all(&mut self, attachments: Vec<Attachment>) -> Result<(), JournalError> {
        // Of two for one host interface the later counts.
        let of = |attachment: Attachment| (attachment.host_interface.clone(), attachment);
        let attachments: BTreeMap<IfaceName, Attachment> = attachments.into_iter().map(of).collect();
        let fresh = attachments.values().filter(|attachment| !self.is_written(attachment));
        let files: Vec<_> = fresh.map(|attachment| self.prepared_file(attachment)).collect();
        replace_all(&files).map_err(|(path, source)| io_error(&path, source))?;
        for (interface, attachment) in &attachments {
            let (prepared, committed) = (self.path(interface, false), self.path(interface, true));
            let named = match attachment.committed {
                true => fs::rename(&prepared, &committed),
                // What the interface's former container had.
                false => fs::remove_file(&committed).or_else(absent_is_fine),
            };
            named.map_err(|source| io_error(&committed, source))?;
        }
        attachments.into_values().for_each(|attachment| self.keep(attachment));
        Ok(())
    }

    /// Whether it was prepared just so.
    fn is_written(&self, attachment: &Attachment) -> bool {
        let prepared = Attachment { committed: false, ..attachment.clone() };
        self.known.get(&attachment.id) == Some(&prepared)
    }

    /// Says what it says once it is committed.
    fn prepared_file(&self, attachment: &Attachment) -> File {
        let entry = Entry { version: VERSION, attachment: Attachment { committed: true, ..attachment.clone() } };
        let text = serde_json::to_vec_pretty(&entry).expect("strings, numbers and lists are always JSON");
        File { path: self.path(&attachment.host_interface, false), text, lasts: false }
    }

    /// Forgets an attachment; one that is not there is no error.
    pub fn forget(&mut self, id: &AttachmentId) -> Result<(), JournalError> {
        let Some(attachment) = self.known.get(id) else { return Ok(()) };
        for committed in [false, true] {
            let path = self.path(&attachment.host_interface, committed);
            fs::remove_file(&path).or_else(absent_is_fine).map_err(|source| io_error(&path, source))?;
        }
        self.drop_known(id);
        Ok(())
    }

    fn files(&self) -> Result<Vec<PathBuf>, JournalError> {
        let entries = fs::read_dir(&self.dir).map_err(|source| io_error(&self.dir, source))?;
        let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut paths = paths.map_err(|source| io_error(&self.dir, source))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        Ok(paths)
    }

    fn path(&self, interface: &IfaceName, committed: bool) -> PathBuf {
        self.dir.join(format!("{interface}{}.json", if committed { "" } else { PREPARED }))
    }
}

fn read(path: &Path) -> Result<Attachment, JournalError> {
    let corrupt = |error: serde_json::Error| JournalError::Corrupt { path: path.to_owned(), reason: error.to_string() };
    let text = fs::read(path).map_err(|source| io_error(path, source))?;
    let found = serde_json::from_slice::<VersionOnly>(&text).map_err(corrupt)?.version;
    if found != VERSION {
        return Err(JournalError::Version { path: path.to_owned(), found });
    }
    let mut attachment = serde_json::from_slice::<Entry>(&text).map_err(corrupt)?.attachment;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let prepared = stem.strip_suffix(PREPARED);
    // Former agents said it in the file.
    attachment.committed &= prepared.is_none();
    if prepared.unwrap_or(&stem) != attachment.host_interface.0 {
        let reason = format!("it describes {}, not the interface it is named after", attachment.host_interface);
        return Err(JournalError::Corrupt { path: path.to_owned(), reason });
    }
    Ok(attachment)
}

fn owner(id: &AttachmentId) -> String {
    owner_of(id).to_lowercase()
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn io_error(path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Mac, PodId};

    fn attachment(container: &str, interface: &str) -> Attachment {
        Attachment {
            id: AttachmentId { network: "net".into(), container: container.into(), interface: "eth0".into() },
            pod: PodId::new("default", container),
            host_interface: IfaceName(interface.into()),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec!["10.65.0.2".parse().expect("a valid address")],
            mtu: 1500,
            labels: [("app".to_owned(), "web".to_owned())].into(),
            delegated: false,
            host_ports: Vec::new(),
            floating_ips: true,
            named: false,
            committed: true,
        }
    }

    fn reopen(dir: &Path) -> (Vec<Attachment>, Vec<String>) {
        let (journal, damaged) = Journal::open(dir).expect("the journal opens");
        (journal.all().cloned().collect(), damaged.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_was_recorded_is_there_after_a_restart_and_what_was_forgotten_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut journal, _) = Journal::open(dir.path()).expect("the journal opens");
        journal.record(attachment("a", "cali1")).expect("recorded");
        journal.record(attachment("b", "cali2")).expect("recorded");
        journal.forget(&attachment("a", "cali1").id).expect("forgotten");
        journal.forget(&attachment("a", "cali1").id).expect("twice is no error");
        assert_eq!(reopen(dir.path()), (vec![attachment("b", "cali2")], vec![]));
    }

    #[test]
    fn who_is_at_an_interface_and_who_has_an_owners_name_is_known_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut journal, _) = Journal::open(dir.path()).expect("the journal opens");
        let (first, next) = (attachment("Abc", "cali1"), attachment("b", "cali1"));
        journal.record(first.clone()).expect("recorded");
        let alike = AttachmentId { container: "aBC".to_owned(), ..first.id.clone() };
        assert_eq!(journal.of_owner(&alike), Some(&first));
        journal.record(next.clone()).expect("recorded");
        assert_eq!((journal.of_owner(&alike), journal.at(&next.host_interface)), (None, Some(&next)));
        let moved = Attachment { host_interface: IfaceName("cali2".into()), ..next.clone() };
        journal.record(moved.clone()).expect("recorded");
        assert_eq!((journal.at(&next.host_interface), journal.at(&moved.host_interface)), (None, Some(&moved)));
        journal.forget(&moved.id).expect("forgotten");
        assert_eq!((journal.of_owner(&moved.id), journal.at(&moved.host_interface)), (None, None));
    }

    #[test]
    fn a_new_container_takes_the_place_of_the_old_one_at_an_interface() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut journal, _) = Journal::open(dir.path()).expect("the journal opens");
        journal.record(attachment("old", "cali1")).expect("recorded");
        journal.record(attachment("new", "cali1")).expect("recorded");
        journal.forget(&attachment("old", "cali1").id).expect("forgetting the old leaves the new");
        assert_eq!(reopen(dir.path()).0, [attachment("new", "cali1")]);
    }

    #[test]
    fn what_is_prepared_becomes_committed_and_a_kill_between_its_two_files_loses_neither() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut journal, _) = Journal::open(dir.path()).expect("the journal opens");
        let committed = attachment("a", "cali1");
        let prepared = Attachment { committed: false, ..committed.clone() };
        journal.record(prepared.clone()).expect("recorded");
        assert_eq!(reopen(dir.path()), (vec![prepared.clone()], vec![]));
        let at = |name: &str| dir.path().join("attachments").join(name);
        let before = fs::read(at("cali1.prepared.json")).expect("a file of its own");
        journal.record(committed.clone()).expect("recorded");
        assert_eq!(reopen(dir.path()), (vec![committed.clone()], vec![]));
        assert!(!at("cali1.prepared.json").exists());
        fs::write(at("cali1.prepared.json"), before).expect("written");
        assert_eq!(reopen(dir.path()), (vec![committed], vec![]), "killed before the first file went");
        // A new container of the same pod.
        let next = Attachment { committed: false, ..attachment("b", "cali1") };
        let (old, name) = (fs::read(at("cali1.json")).expect("there"), at("cali1.json"));
        journal.record(next.clone()).expect("recorded");
        assert_eq!(reopen(dir.path()), (vec![next.clone()], vec![]));
        fs::write(name, old).expect("written");
        assert_eq!(reopen(dir.path()), (vec![next], vec![]), "killed before the former one's file went");
    }

    #[test]
    fn a_record_that_the_machine_did_not_write_is_dropped_when_the_machine_was_restarted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut journal, _) = Journal::open(dir.path()).expect("the journal opens");
        journal.record(attachment("a", "cali1")).expect("recorded");
        let empty = dir.path().join("attachments/cali2.prepared.json");
        fs::write(&empty, "").expect("an empty file");
        assert_eq!(reopen(dir.path()).1.len(), 1, "reported while its pod may be there");
        Journal::drop_unwritten(dir.path()).expect("dropped");
        assert_eq!(reopen(dir.path()), (vec![attachment("a", "cali1")], vec![]));
    }

    #[test]
    fn a_damaged_file_is_named_and_the_others_are_read() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut journal, _) = Journal::open(dir.path()).expect("the journal opens");
        journal.record(attachment("a", "cali1")).expect("recorded");
        let at = |name: &str| dir.path().join("attachments").join(name);
        let good = fs::read_to_string(at("cali1.json")).expect("the file is there");
        fs::write(at("cali2.json"), &good[..good.len() / 2]).expect("a torn file");
        fs::write(at("cali3.json"), good.replace("\"version\": 1", "\"version\": 9")).expect("another version");
        fs::write(at("cali4.json"), &good).expect("a file under a wrong name");
        let (read, damaged) = reopen(dir.path());
        assert_eq!(read, [attachment("a", "cali1")]);
        assert_eq!(damaged.len(), 3, "{damaged:?}");
        for (error, name) in damaged.iter().zip(["cali2.json", "cali3.json", "cali4.json"]) {
            assert!(error.contains(name) && error.contains("remove the file"), "{error}");
        }
        assert!(at("cali2.json").exists(), "a damaged file is left for people to look at");
    }
}
