//! x
use crate::Problem;
use model::Update;
use std::{path::{Path, PathBuf}, sync::mpsc};
/// Changes that belong together.
pub type Batch = Vec<Update>;
/// Where batches arrive. It closes when the [`FileStore`] is dropped.
pub type Updates = mpsc::Receiver<Batch>;
/// Why a directory cannot be a datastore.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot be watched as a datastore: {reason}")]
pub struct OpenError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}
/// x
#[derive(Debug)]
pub struct FileStore {}
impl FileStore {
    /// x
    pub fn open(dir: &Path) -> Result<(Self, Updates), OpenError> { let _ = dir; todo!() }
    /// x
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> { todo!() }
}
