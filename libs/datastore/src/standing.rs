//! What stands: the catalog of what a datastore says, and what of it outlives this process.
//! In: readings by the place they come from, a file or an object's path. Out: batches of updates, and problems for people.
//! Invariant: what outlives the process is written down while there is nothing else to do, so that no change of policy waits
//! for the disk.
//! Never: reads the datastore.

use crate::{
    Batch, Problem,
    catalog::{Catalog, Reading, Trouble},
    last_good::{LastGood, Record, Restored},
};
use model::ResourceKey;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// All that is wrong now, where others can see it.
pub(crate) type Told = Arc<Mutex<Vec<Problem>>>;

/// The catalog and its records.
#[derive(Debug)]
pub(crate) struct Standing {
    /// What places are named within.
    root: PathBuf,
    catalog: Catalog,
    last_good: Option<LastGood>,
    /// Which of the last good policies each place gave, until the first list is over.
    given: BTreeMap<String, Vec<ResourceKey>>,
    told: Told,
    /// What is wrong with the reading itself.
    beside: Vec<Problem>,
}

impl Standing {
    pub(crate) fn new(root: PathBuf, told: Told) -> Self {
        Self { root, catalog: Catalog::default(), last_good: None, given: BTreeMap::new(), told, beside: Vec::new() }
    }

    /// Takes up what was in force when the agent last ran, and writes it down from now on.
    pub(crate) fn remember(&mut self, folder: &Path) -> io::Result<()> {
        let (last_good, Restored { objects, given }) = LastGood::open(folder)?;
        self.last_good = Some(last_good);
        self.catalog.restore(objects);
        self.given = given;
        Ok(())
    }

    /// The first list has this place: what it gave before may still be in it.
    pub(crate) fn expect(&mut self, place: &Path) {
        for key in self.given.remove(&*within(&self.root, place)).unwrap_or_default() {
            self.catalog.expect(place, &key);
        }
    }

    /// Likewise all places within one; they are named.
    pub(crate) fn expect_within(&mut self, place: &Path) -> BTreeSet<PathBuf> {
        let given = self.given.keys().map(|name| self.root.join(name)).filter(|given| given.starts_with(place));
        let expected: BTreeSet<_> = given.collect();
        expected.iter().for_each(|place| self.expect(place));
        expected
    }

    /// All places within one that gave something.
    pub(crate) fn places_within(&self, place: &Path) -> BTreeSet<PathBuf> {
        self.catalog.files_within(place)
    }

    /// Whether any place within one gave something.
    pub(crate) fn has_within(&self, place: &Path) -> bool {
        self.catalog.has_within(place)
    }

    /// What a place says now; `None`: it is gone.
    pub(crate) fn take_in(&mut self, place: &Path, reading: Option<Reading>) {
        match reading {
            Some(reading) => self.catalog.take_in(place, reading),
            None => self.catalog.remove(place),
        }
    }

    /// How far what a place says could be read, and what is wrong with it.
    pub(crate) fn trouble_of(&self, place: &Path) -> (Trouble, Vec<String>) {
        self.catalog.trouble_of(place)
    }

    /// What has changed since the last call.
    pub(crate) fn changes(&mut self) -> Batch {
        self.given.clear();
        if let Some(last_good) = &mut self.last_good {
            last_good.plan(self.catalog.touched());
        }
        let batch = self.catalog.changes();
        self.tell();
        batch
    }

    /// Writes one of the last good policies down. False: all are.
    pub(crate) fn keep_one(&mut self) -> bool {
        let Self { last_good, catalog, root, .. } = self;
        let Some(last_good) = last_good.as_mut().filter(|last_good| last_good.is_behind()) else { return false };
        let good = |key: &ResourceKey| {
            let (place, document) = catalog.document(key)?;
            Some(Record { file: within(root, place), document })
        };
        last_good.step(good, |key| catalog.is_in_force(key));
        if !last_good.is_behind() {
            self.tell();
        }
        true
    }

    /// Says what is wrong with the reading itself, instead of what was.
    pub(crate) fn tell_beside(&mut self, beside: Vec<Problem>) {
        if self.beside != beside {
            self.beside = beside;
            self.tell();
        }
    }

    fn tell(&self) {
        let mut now = self.catalog.problems();
        now.extend(self.beside.iter().cloned());
        now.extend(self.last_good.iter().flat_map(LastGood::problems).cloned());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in now.iter().filter(|problem| !told.contains(problem)) {
            tracing::warn!("{problem}");
        }
        *told = now;
    }
}

/// A place's name within the datastore.
fn within<'a>(root: &Path, place: &'a Path) -> Cow<'a, str> {
    place.strip_prefix(root).unwrap_or(place).to_string_lossy()
}
