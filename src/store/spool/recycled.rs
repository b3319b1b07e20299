//! Recycled files: the files of finished messages, written over by the next ones.
//!
//! To make a file, to give it blocks and to free both again is most of what a short-lived message costs the
//! file system: without this, messages through the spool come at 0.74 of the rate. So a small file whose
//! message is finished, durably, is kept for a moment under the name `ID.new`: it is in state 2 of
//! `spool/mod.rs`, unfinished and never acknowledged, and the next start would remove it. After [`KEPT`]
//! without use all of them are purged.
//!
//! No mark that is meant for the finished message can land in the next one: a file is recycled only if its
//! one user gives it away (`Folder::recycle`). No body is read from it either: of a file up to [`LARGEST`]
//! the whole content is in memory. And what somebody has put in its place, or has given a second hard link,
//! is not written over.

use crate::store::directory::{Directory, id};
use crate::store::files::files_to_keep;
use crate::store::spool::format::FIRST_READ;
use nix::sys::stat::fstat;
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Recycled files at once; each is an open file. Fewer where these are few.
pub(crate) const MOST: usize = 128;
/// A larger file is not recycled, in octets.
const LARGEST: u64 = FIRST_READ as u64;
/// How long files that nobody uses are kept.
const KEPT: Duration = Duration::from_secs(1);

/// One recycled file.
#[derive(Debug)]
pub(crate) struct Recycled {
    /// Readable and writable.
    pub(crate) file: File,
    /// Its name in the folder.
    pub(crate) name: String,
}

#[derive(Debug)]
pub(crate) struct RecycledFiles {
    kept: Mutex<Kept>,
    most: usize,
}

#[derive(Debug)]
struct Kept {
    files: Vec<Recycled>,
    /// When one was last put or taken.
    used: Instant,
}

impl Default for RecycledFiles {
    fn default() -> RecycledFiles {
        let kept = Kept {
            files: Vec::new(),
            used: Instant::now(),
        };
        RecycledFiles {
            kept: Mutex::new(kept),
            most: files_to_keep(MOST),
        }
    }
}

impl RecycledFiles {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more of this length may be put.
    pub(crate) fn want(&self, len: u64) -> bool {
        len <= LARGEST && self.kept().files.len() < self.most
    }

    /// Whether it is the first one: then somebody should plan to [`purge`](RecycledFiles::purge).
    pub(crate) fn put(&self, recycled: Recycled) -> bool {
        let mut kept = self.kept();
        kept.used = Instant::now();
        kept.files.push(recycled);
        kept.files.len() == 1
    }

    /// One for a message of `len` octets, and how long it is.
    pub(crate) fn take(&self, at: &Directory, len: u64) -> Option<(Recycled, u64)> {
        if len > LARGEST {
            return None;
        }
        loop {
            let mut kept = self.kept();
            let recycled = kept.files.pop()?;
            kept.used = Instant::now();
            drop(kept);
            match sole_name(at, &recycled.name, &recycled.file) {
                Some(len) => return Some((recycled, len)),
                None => discard(at, &recycled),
            }
        }
    }

    /// When to [`purge`](RecycledFiles::purge), if there are some.
    pub(crate) fn purge_at(&self) -> Option<Instant> {
        let kept = self.kept();
        (!kept.files.is_empty()).then(|| kept.used + KEPT)
    }

    /// Removes all if nobody has used one for a while.
    pub(crate) fn purge(&self, at: &Directory) {
        if self.purge_at().is_some_and(|at| at <= Instant::now()) {
            self.purge_now(at);
        }
    }

    /// Removes all.
    pub(crate) fn purge_now(&self, at: &Directory) {
        let gone = std::mem::take(&mut self.kept().files);
        gone.iter().for_each(|recycled| discard(at, recycled));
    }
}

/// Its message is finished: if this fails, the next start removes it.
fn discard(at: &Directory, Recycled { name, .. }: &Recycled) {
    if let Err(error) = at.remove(name.as_ref()) {
        log::debug!("spool: cannot remove {name}: {error}");
    }
}

/// The length of a file, if this is its name and its only one.
pub(crate) fn sole_name(at: &Directory, name: &str, file: &File) -> Option<u64> {
    let named = at.status(name.as_ref()).ok()?;
    let open = fstat(file).ok()?;
    (id(&named) == id(&open) && open.st_nlink == 1).then_some(open.st_size.cast_unsigned())
}
