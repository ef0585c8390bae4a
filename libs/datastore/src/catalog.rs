//! The catalog: what every file of the datastore says, and what has been said of it to the reader.
//! In: files' texts, one at a time. Out: the changes since the last time, and all problems.
//! Invariant: an object that is there but cannot be read keeps its last good revision; an object in two places counts
//! from the one that was made last, where that is known, else from the file whose name sorts first.
//! Never: does I/O; says a change twice.

mod alike;
mod interfaces;
mod reading;

use crate::{Batch, Problem};
use alike::Alike;
use model::{Resource, ResourceKey, Update};
pub(crate) use reading::Reading;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

/// All files.
#[derive(Debug, Default)]
pub struct Catalog {
    files: BTreeMap<Arc<Path>, File>,
    /// Every object that a file gives or hides, or that was said to the reader.
    objects: BTreeMap<ResourceKey, Known>,
    /// Objects of which files say something else than at the last call of [`Catalog::changes`].
    touched: BTreeSet<ResourceKey>,
    /// Files about which there is something to complain.
    troubled: BTreeSet<Arc<Path>>,
    /// Objects that more than one file gives.
    doubled: BTreeSet<ResourceKey>,
    /// What was in force when the agent last ran, until the first changes are asked for.
    restored: BTreeMap<ResourceKey, Resource>,
    alike: Alike,
}

/// Who speaks of an object.
#[derive(Debug, Default)]
struct Known {
    /// Files that give it, in order; nearly always one.
    givers: Vec<Arc<Path>>,
    /// How many files may hide it: it is, or may be, in them and cannot be read now.
    hiders: usize,
    /// As it was said to the reader, and not taken back.
    told: Option<Arc<Resource>>,
}

/// What one file says.
#[derive(Debug, Default)]
struct File {
    /// In the order of their keys.
    objects: Box<[Held]>,
    /// Objects that are, or may be, in the file and cannot be read now.
    refused: BTreeSet<ResourceKey>,
    complaints: Vec<Complaint>,
}

#[derive(Debug)]
struct Held {
    /// Where it stands in a file.
    line: Option<u64>,
    /// At which revision of the datastore it was made; of files nobody knows.
    made: i64,
    resource: Arc<Resource>,
    /// The document as JSON, of what policies are made of: to be written down, so that it outlives this process.
    document: Option<Box<str>>,
}

impl Held {
    /// Whether it says the same, be it in another line.
    fn is_as(&self, other: &Self) -> bool {
        (self.made, &self.resource, &self.document) == (other.made, &other.resource, &other.document)
    }
}

/// A problem whose consequence depends on what was published before.
#[derive(Debug)]
struct Complaint {
    line: Option<u64>,
    object: Option<String>,
    message: String,
    consequence: Consequence,
}

/// How far a file could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Wholly.
    #[default]
    None,
    /// But for parts of its objects.
    Partly,
    /// An object of it not at all.
    Refused,
}

#[derive(Debug)]
enum Consequence {
    /// This object keeps its last good revision, or is absent.
    Object(ResourceKey),
    /// What the file said before holds on.
    File,
    /// Said in the message.
    Told,
}

impl Catalog {
    /// Policies as they were in force when the agent last ran. Those that turn out to be there but cannot be read come
    /// into force again with the first changes; the others are forgotten then.
    pub(crate) fn restore(&mut self, policies: BTreeMap<ResourceKey, Resource>) {
        self.touched.extend(policies.keys().cloned());
        self.restored = policies;
    }

    /// `file` gave this object when the agent last ran: what cannot be named in it may be this one.
    pub(crate) fn expect(&mut self, file: &Path, key: &ResourceKey) {
        let file = self.files.entry(file.into()).or_default();
        if file.refused.insert(key.clone()) {
            self.objects.entry(key.clone()).or_default().hiders += 1;
            self.touched.insert(key.clone());
        }
    }

    /// Takes in what `file` says now; `Err`: it cannot be read at all.
    pub fn read(&mut self, file: &Path, text: Result<&str, String>) {
        self.take_in(file, Reading::of(text));
    }

    /// The same, where it was read already.
    pub(crate) fn take_in(&mut self, file: &Path, reading: Reading) {
        let (path, before) = self.files.remove_entry(file).unwrap_or_else(|| (file.into(), File::default()));
        let now = reading.end(&before, &mut self.alike);
        self.replace(&path, &before, &now);
        self.files.insert(path, now);
    }

    /// The file is gone.
    pub(crate) fn remove(&mut self, file: &Path) {
        if let Some((path, before)) = self.files.remove_entry(file) {
            self.replace(&path, &before, &File::default());
        }
    }

    /// The files below this one.
    pub(crate) fn files_within(&self, folder: &Path) -> BTreeSet<PathBuf> {
        let files = self.files.range::<Path, _>((Bound::Excluded(folder), Bound::Unbounded));
        files.map(|(path, _)| path.to_path_buf()).take_while(|path| path.starts_with(folder)).collect()
    }

    /// Whether there is a file below this one.
    pub(crate) fn has_within(&self, folder: &Path) -> bool {
        let mut files = self.files.range::<Path, _>((Bound::Excluded(folder), Bound::Unbounded));
        files.next().is_some_and(|(path, _)| path.starts_with(folder))
    }

    /// Every object that either speaks of, and not in the same way, is touched.
    fn replace(&mut self, path: &Arc<Path>, before: &File, now: &File) {
        for held in before.objects.iter().filter(|held| !now.says(held)) {
            let key = held.resource.key();
            if let Some(known) = self.objects.get_mut(&key) {
                known.givers.retain(|giver| giver != path);
                if known.givers.len() < 2 {
                    self.doubled.remove(&key);
                }
            }
            self.touched.insert(key);
        }
        for held in now.objects.iter().filter(|held| !before.says(held)) {
            let key = held.resource.key();
            let givers = &mut self.objects.entry(key.clone()).or_default().givers;
            let place = givers.partition_point(|giver| giver < path);
            givers.reserve_exact(1);
            givers.insert(place, Arc::clone(path));
            if givers.len() > 1 {
                self.doubled.insert(key.clone());
            }
            self.touched.insert(key);
        }
        for key in &before.refused {
            if let Some(known) = self.objects.get_mut(key) {
                known.hiders = known.hiders.saturating_sub(1);
            }
            self.touched.insert(key.clone());
        }
        for key in &now.refused {
            self.objects.entry(key.clone()).or_default().hiders += 1;
            self.touched.insert(key.clone());
        }
        if now.complaints.is_empty() {
            self.troubled.remove(path);
        } else {
            self.troubled.insert(Arc::clone(path));
        }
    }

    /// Objects that the next call of [`Catalog::changes`] looks at.
    pub(crate) fn touched(&self) -> &BTreeSet<ResourceKey> {
        &self.touched
    }

    /// What has changed since the last call: first what is there, then what is gone.
    #[must_use]
    pub fn changes(&mut self) -> Batch {
        let (mut set, mut gone) = (Vec::new(), Vec::new());
        let restored = std::mem::take(&mut self.restored);
        for key in std::mem::take(&mut self.touched) {
            let given = self.given(&key);
            let known = self.objects.entry(key.clone()).or_default();
            let hidden = || restored.get(&key).filter(|_| known.hiders > 0).cloned().map(Arc::new);
            match given.or_else(hidden) {
                Some(resource) => {
                    if known.told.as_ref() != Some(&resource) {
                        set.push(Update::Set((*resource).clone()));
                    }
                    known.told = Some(resource);
                }
                None if known.hiders > 0 => {}
                None => {
                    if known.told.is_some() {
                        gone.push(Update::Gone(key.clone()));
                    }
                    self.objects.remove(&key);
                }
            }
        }
        set.into_iter().chain(gone).collect()
    }

    /// All files that give an object, in order, and what each says.
    fn all_held(&self, key: &ResourceKey) -> impl Iterator<Item = (&Arc<Path>, &Held)> {
        let givers = self.objects.get(key).into_iter().flat_map(|known| &known.givers);
        givers.filter_map(move |path| Some((path, self.files.get(path)?.held(key)?)))
    }

    /// The file that counts for an object, and what it says.
    fn held(&self, key: &ResourceKey) -> Option<(&Arc<Path>, &Held)> {
        self.all_held(key).reduce(|best, other| if other.1.made > best.1.made { other } else { best })
    }

    /// What counts for an object.
    fn given(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        let (_, counts) = self.held(key)?;
        Some(match interfaces::joined(counts, self.all_held(key).map(|(_, held)| held)) {
            Some(pod) => Arc::new(Resource::Pod(pod)),
            None => Arc::clone(&counts.resource),
        })
    }

    /// A policy, or something that policies are made of, that can be read now: its file and document.
    pub(crate) fn document(&self, key: &ResourceKey) -> Option<(&Path, &str)> {
        let (path, held) = self.held(key)?;
        Some((path, held.document.as_deref()?))
    }

    /// Whether it was said to the reader, and not taken back.
    pub(crate) fn is_in_force(&self, key: &ResourceKey) -> bool {
        self.objects.get(key).is_some_and(|known| known.told.is_some())
    }

    /// How far a file could be read, and what is wrong with it, whatever was in force before.
    pub(crate) fn trouble_of(&self, file: &Path) -> (Trouble, Vec<String>) {
        let Some(file) = self.files.get(file) else { return (Trouble::None, Vec::new()) };
        let hides = |complaint: &Complaint| !matches!(complaint.consequence, Consequence::Told);
        let trouble = if !file.refused.is_empty() || file.complaints.iter().any(hides) {
            Trouble::Refused
        } else if !file.complaints.is_empty() {
            Trouble::Partly
        } else {
            Trouble::None
        };
        (trouble, file.complaints.iter().map(|complaint| complaint.message.clone()).collect())
    }

    /// All that is wrong now, by file and line.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.duplicates();
        for path in &self.troubled {
            let complaints = self.files.get(path).into_iter().flat_map(|file| &file.complaints);
            problems.extend(complaints.map(|complaint| self.problem(path, complaint)));
        }
        problems.sort();
        problems
    }

    fn problem(&self, file: &Path, complaint: &Complaint) -> Problem {
        let consequence = match &complaint.consequence {
            Consequence::Object(key) if self.is_in_force(key) => "; its last good revision stays in force",
            Consequence::Object(_) => "; it counts as absent until it can be read",
            Consequence::File => "; objects that this file gave before stay in force",
            Consequence::Told => "",
        };
        Problem {
            file: file.to_owned(),
            line: complaint.line,
            object: complaint.object.clone(),
            message: format!("{}{consequence}", complaint.message),
        }
    }

    fn duplicates(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for key in &self.doubled {
            let Some((winner, counts)) = self.held(key) else { continue };
            let is_other =
                |(path, held): &(&Arc<Path>, &Held)| *path != winner && !interfaces::are_of_one_pod(counts, held);
            for (path, held) in self.all_held(key).filter(is_other) {
                let why = if counts.made > held.made { "which is newer and counts" } else { "which counts" };
                problems.push(Problem {
                    file: path.to_path_buf(),
                    line: held.line,
                    object: Some(key.to_string()),
                    message: format!("also in {}, {why}; remove one of them", winner.display()),
                });
            }
        }
        problems
    }
}

impl File {
    fn held(&self, key: &ResourceKey) -> Option<&Held> {
        let place = self.objects.binary_search_by(|held| held.resource.key().cmp(key)).ok()?;
        self.objects.get(place)
    }

    /// Whether it says of an object what `held` says.
    fn says(&self, held: &Held) -> bool {
        !self.objects.is_empty() && self.held(&held.resource.key()).is_some_and(|own| own.is_as(held))
    }
}

#[cfg(test)]
mod tests;
