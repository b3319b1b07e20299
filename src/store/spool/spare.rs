//! Finished files that the next messages are written over.
//!
//! To make a file, to give it blocks and to free both again is most of what a short-lived message costs the file system.
//! So a small file whose message is finished, durably, is kept for a moment under the name `ID.new`: it is in state 2 of
//! `spool/mod.rs`, unfinished and never acknowledged, and the next start would remove it. A new message is written over
//! it, or makes a file of its own if there is none. After [`KEPT`] without use all of them go.
//!
//! Nobody else may have such a file: whoever finishes a message gives its open file away, and what somebody has put in
//! its place, or has given a second hard link, is not written over.

use super::folder::Folder;
use super::queued::FIRST_READ;
use crate::store::files::files_to_keep;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Spares at once; each is an open file. Fewer where these are few.
pub(crate) const MOST: usize = 128;
/// A larger file is not kept, in octets: of what is not read whole at once, somebody might still read a body.
const LARGEST: u64 = FIRST_READ as u64;
/// How long spares that nobody uses are kept.
const KEPT: Duration = Duration::from_secs(1);

/// One finished file.
#[derive(Debug)]
pub(crate) struct Spare {
    /// Readable and writable.
    pub(crate) file: File,
    /// Its name in the folder.
    pub(crate) name: String,
}

#[derive(Debug)]
pub(crate) struct Spares {
    kept: Mutex<Kept>,
    most: usize,
}

#[derive(Debug)]
struct Kept {
    files: Vec<Spare>,
    /// When one was last put or taken.
    used: Instant,
}

impl Default for Spares {
    fn default() -> Spares {
        let kept = Kept {
            files: Vec::new(),
            used: Instant::now(),
        };
        Spares {
            kept: Mutex::new(kept),
            most: files_to_keep(MOST),
        }
    }
}

impl Spares {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more of this length may be put.
    pub(crate) fn want(&self, len: u64) -> bool {
        len <= LARGEST && self.kept().files.len() < self.most
    }

    /// Whether it is the first one: then somebody should plan to [`tidy`](Spares::tidy).
    pub(crate) fn put(&self, spare: Spare) -> bool {
        let mut kept = self.kept();
        kept.used = Instant::now();
        kept.files.push(spare);
        kept.files.len() == 1
    }

    /// One for a message of `len` octets, and how long it is.
    pub(crate) fn take(&self, folder: &Folder, len: u64) -> Option<(Spare, u64)> {
        if len > LARGEST {
            return None;
        }
        loop {
            let mut kept = self.kept();
            let spare = kept.files.pop()?;
            kept.used = Instant::now();
            drop(kept);
            match folder.status(&spare.name, &spare.file) {
                Some(status) if status.nlink() == 1 => return Some((spare, status.len())),
                _ => discard(folder, &spare),
            }
        }
    }

    /// When to [`tidy`](Spares::tidy), if there are some.
    pub(crate) fn tidy_at(&self) -> Option<Instant> {
        let kept = self.kept();
        (!kept.files.is_empty()).then(|| kept.used + KEPT)
    }

    /// Removes all if nobody has used one for a while.
    pub(crate) fn tidy(&self, folder: &Folder) {
        if self.tidy_at().is_some_and(|at| at <= Instant::now()) {
            self.clear(folder);
        }
    }

    /// Removes all.
    pub(crate) fn clear(&self, folder: &Folder) {
        let gone = std::mem::take(&mut self.kept().files);
        gone.iter().for_each(|spare| discard(folder, spare));
    }
}

/// Its message is finished: if this fails, the next start removes it.
fn discard(folder: &Folder, Spare { name, .. }: &Spare) {
    let removed = unlinkat(&folder.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
    if let Err(error) = removed.map_err(io::Error::from)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::debug!("spool: cannot remove {name}: {error}");
    }
}
