//! The folder of the spool: made, locked, its names told apart, its entries made durable and removed.
//!
//! Which states a file goes through is told in `spool/mod.rs`; here is what they are made of. All errors are
//! returned.

use crate::message::Id;
use crate::store::group_commit::{Abandoned, Commit};
use crate::store::spool::SpoolError;
use crate::store::spool::spare::Spares;
use crate::store::{directory, files};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The folder by path, for people, and by descriptor, for us.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) fd: Arc<File>,
    /// Threads that want the folder synced at the same moment share one sync.
    syncs: Commit<Before, io::Result<()>, SyncFolder>,
    /// Syncs that failed.
    failed: Arc<AtomicU64>,
    pub(crate) spares: Spares,
    /// Messages in the hands of those who accept them; a scan passes them over.
    held: Mutex<HashSet<Id>>,
}

type SyncFolder = Box<dyn Fn(Vec<Before>) -> Vec<io::Result<()>> + Send + Sync>;

/// How many syncs of the folder had failed at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before(u64);

/// What a name in the folder is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Message(Id),
    /// A message that was never acknowledged.
    New,
    /// The lock, `corrupt`, notes of the mailboxes.
    Household,
    Stranger,
}

impl Name {
    pub(crate) fn of(name: &OsStr) -> Name {
        let Some(name) = name.to_str() else {
            return Name::Stranger;
        };
        if matches!(name, "lock" | "pid" | "pid.new" | "corrupt") || name.starts_with("appending") {
            return Name::Household;
        }
        if let Some(id) = Id::parse(name) {
            return Name::Message(id);
        }
        match name.strip_suffix(".new").and_then(Id::parse) {
            Some(_) => Name::New,
            None => Name::Stranger,
        }
    }
}

impl Folder {
    /// Opens a folder that is there.
    pub(crate) fn open(dir: &Path) -> io::Result<Folder> {
        let fd = Arc::new(File::open(dir)?);
        let failed = Arc::<AtomicU64>::default();
        let (its, failures) = (Arc::clone(&fd), Arc::clone(&failed));
        let sync = move |waiting: Vec<Before>| outcomes(its.sync_all(), &failures, &waiting);
        Ok(Folder {
            path: dir.to_owned(),
            fd,
            syncs: Commit::new(Box::new(sync)),
            failed,
            spares: Spares::default(),
            held: Mutex::default(),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashSet<Id>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new message is its maker's alone, until the result is dropped.
    pub(crate) fn hold(self: &Arc<Folder>, id: Id) -> Hold {
        self.held().insert(id);
        let folder = Arc::clone(self);
        Hold { folder, id }
    }

    /// Whether a message is somebody's alone.
    pub(crate) fn is_held(&self, id: Id) -> bool {
        self.held().contains(&id)
    }

    /// To be asked for before a change of names, for [`sync`](Folder::sync) after it.
    pub(crate) fn before(&self) -> Before {
        Before(self.failed.load(Ordering::SeqCst))
    }

    /// Makes names durable, and removals: those since `before`.
    pub(crate) fn sync(&self, before: Before) -> io::Result<()> {
        let synced = self.syncs.submit(before);
        synced.unwrap_or_else(|Abandoned| Err(io::Error::other("the sync panicked")))
    }

    /// Unlinks a message, durably; one that is gone already is no error.
    pub(crate) fn remove(&self, id: Id) -> io::Result<()> {
        let (name, before) = (id.to_string(), self.before());
        match unlinkat(&self.fd, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => self.sync(before),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The same for a file of `len` octets that nobody else has open. `Some`: it is not unlinked, but has this name, and
    /// may be kept as a spare.
    pub(crate) fn retire(&self, id: Id, len: u64) -> io::Result<Option<String>> {
        if !self.spares.want(len) {
            return self.remove(id).map(|()| None);
        }
        let before = self.before();
        let (name, new) = (id.to_string(), format!("{id}.new"));
        match renameat(&self.fd, name.as_str(), &self.fd, new.as_str()) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        if let Err(error) = self.sync(before) {
            let _ = unlinkat(&self.fd, new.as_str(), UnlinkatFlags::NoRemoveDir);
            return Err(error);
        }
        Ok(Some(new))
    }

    /// What a file is, if this name is its own: not if somebody has put another in its place.
    pub(crate) fn status(&self, name: &str, file: &File) -> Option<Metadata> {
        let named = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let status = file.metadata().ok()?;
        let same = named.st_ino == status.ino() && named.st_dev == status.dev();
        same.then_some(status)
    }

    /// Gives a file another name, which nobody may have.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        #[cfg(target_env = "gnu")]
        {
            let flag = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
            match nix::fcntl::renameat2(&self.fd, from, &self.fd, to, flag) {
                // The file system cannot do it.
                Err(Errno::EINVAL | Errno::ENOSYS) => {}
                other => return other.map_err(io::Error::from),
            }
        }
        // Ids are unique in a process and the lock keeps others out, so nobody can come in between.
        match fstatat(&self.fd, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(renameat(&self.fd, from, &self.fd, to)?),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes what was never acknowledged.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if Name::of(&name) == Name::New {
                unlinkat(&self.fd, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
            }
        }
        Ok(())
    }

    /// Moves a damaged file to `corrupt/` under its name, with a number if that is taken.
    pub(crate) fn set_aside(&self, id: Id) -> io::Result<PathBuf> {
        let corrupt = self.path.join("corrupt");
        directory::make(&corrupt, None)?;
        let name = id.to_string();
        let mut to = corrupt.join(&name);
        for n in 1u32.. {
            match to.symlink_metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
                Ok(_) => to = corrupt.join(format!("{name}.{n}")),
            }
        }
        let before = self.before();
        std::fs::rename(self.path.join(&name), &to)?;
        File::open(&corrupt)?.sync_all()?;
        self.sync(before)?;
        Ok(to)
    }
}

/// See [`Folder::hold`].
#[derive(Debug)]
pub(crate) struct Hold {
    folder: Arc<Folder>,
    id: Id,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.folder.held().remove(&self.id);
    }
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The outcome of one sync for each who waits for it. The system reports a failure once; so who made his change before
/// one that came meanwhile has failed too, whatever the sync after it says.
fn outcomes(synced: io::Result<()>, failed: &AtomicU64, waiting: &[Before]) -> Vec<io::Result<()>> {
    if synced.is_err() {
        failed.fetch_add(1, Ordering::SeqCst);
    }
    let failures = failed.load(Ordering::SeqCst);
    let one = |Before(seen): &Before| match &synced {
        Ok(()) if *seen == failures => Ok(()),
        Ok(()) => Err(Errno::EIO.into()),
        Err(error) => Err(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        }),
    };
    waiting.iter().map(one).collect()
}

/// An OFD write lock on `lock`, which then holds our process id. The file itself always stays: to remove
/// it would let a third daemon lock another one.
pub(crate) fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("lock");
    let there = |e| SpoolError::Io(path.clone(), e);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let mut file = options.open(&path).map_err(there)?;
    if !files::try_lock(&file).map_err(there)? {
        let mut holder = String::new();
        let _ = (&file).take(20).read_to_string(&mut holder);
        let holder = Some(holder.trim())
            .filter(|s| s.parse::<u32>().is_ok())
            .unwrap_or("?");
        return Err(SpoolError::InUse(dir.to_owned(), holder.to_owned()));
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .map_err(there)?;
    writeln!(file, "{}", std::process::id()).map_err(there)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_fails_for_all_that_it_was_to_cover() {
        let failed = AtomicU64::new(0);
        let early = Before(failed.load(Ordering::SeqCst));
        let ends = |synced, waiting: &[Before]| -> Vec<Option<i32>> {
            let outcomes = outcomes(synced, &failed, waiting);
            let code = |outcome: io::Result<()>| outcome.err().and_then(|e| e.raw_os_error());
            outcomes.into_iter().map(code).collect()
        };
        let enospc = io::Error::from_raw_os_error(Errno::ENOSPC as i32);
        let code = Some(Errno::ENOSPC as i32);
        assert_eq!(ends(Err(enospc), &[early, early]), [code, code]);
        // One that came while that sync ran, with another that came after it.
        let late = Before(failed.load(Ordering::SeqCst));
        assert_eq!(
            ends(Ok(()), &[early, late]),
            [Some(Errno::EIO as i32), None]
        );
    }

    #[test]
    fn names_are_told_apart() {
        let id = Id::parse("0123456789abcdef").unwrap();
        let rows = [
            ("0123456789abcdef", Name::Message(id)),
            ("0123456789abcdef.new", Name::New),
            ("0123456789ABCDEF", Name::Stranger),
            ("0123456789abcde", Name::Stranger),
            ("0123456789abcdef.old", Name::Stranger),
            (".new", Name::Stranger),
            ("lock", Name::Household),
            ("pid", Name::Household),
            ("corrupt", Name::Household),
            ("appending.7", Name::Household),
            ("notes.txt", Name::Stranger),
        ];
        for (name, kind) in rows {
            assert_eq!(Name::of(OsStr::new(name)), kind, "{name}");
        }
    }
}
