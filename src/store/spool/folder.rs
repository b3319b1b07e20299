//! The folder of the spool: its names told apart, its entries made durable, recycled and removed.
//!
//! Which states a file goes through is told in `spool/mod.rs`; here is what they are made of. All errors are
//! returned.

use crate::message::Id;
use crate::store::directory::{self, Directory};
use crate::store::files;
use crate::store::group_commit::{Abandoned, Commit};
use crate::store::spool::owner::{check_owner, is_ours};
use crate::store::spool::recycled::RecycledFiles;
use nix::errno::Errno;
use nix::fcntl::renameat;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The folder by path, for people, and by descriptor, for us.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) directory: Directory,
    /// Threads that want the folder synced at the same moment share one sync.
    syncs: Commit<SyncEpoch, io::Result<()>, SyncFolder>,
    /// Syncs that failed.
    failed: Arc<AtomicU64>,
    pub(crate) recycled: RecycledFiles,
    in_use: Mutex<HashMap<Id, Users>>,
    /// The log has said that the folder was replaced.
    replaced: AtomicBool,
}

/// Who has a message open.
#[derive(Debug, Default)]
struct Users {
    count: usize,
    /// One of them accepted it: a scan passes it over.
    fresh: bool,
}

type SyncFolder = Box<dyn Fn(Vec<SyncEpoch>) -> Vec<io::Result<()>> + Send + Sync>;

/// How many syncs of the folder had failed at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyncEpoch(u64);

/// What a name in the folder is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Message(Id),
    /// A message that was never acknowledged.
    New,
    /// The lock, `corrupt`, notes of the mailboxes.
    Internal,
    Foreign,
}

impl Name {
    pub(crate) fn of(name: &OsStr) -> Name {
        let Some(name) = name.to_str() else {
            return Name::Foreign;
        };
        if matches!(name, "lock" | "pid" | "pid.new" | "corrupt") || name.starts_with("appending") {
            return Name::Internal;
        }
        if let Some(id) = Id::parse(name) {
            return Name::Message(id);
        }
        match name.strip_suffix(".new").and_then(Id::parse) {
            Some(_) => Name::New,
            None => Name::Foreign,
        }
    }
}

impl Folder {
    /// Makes the folder (0700, durably), or opens it if nobody else may write in it.
    pub(crate) fn open(dir: &Path) -> io::Result<Folder> {
        let directory = Directory::make(dir, None)?;
        check_owner(&directory)?;
        let synced = directory.readable()?;
        let failed = Arc::<AtomicU64>::default();
        let failures = Arc::clone(&failed);
        let sync = move |waiting: Vec<SyncEpoch>| outcomes(synced.sync_all(), &failures, &waiting);
        Ok(Folder {
            path: dir.to_owned(),
            directory,
            syncs: Commit::new(Box::new(sync)),
            failed,
            recycled: RecycledFiles::default(),
            in_use: Mutex::default(),
            replaced: AtomicBool::new(false),
        })
    }

    /// Whether the path leads to this folder no more, because somebody has removed or moved it. The log says so
    /// once.
    pub(crate) fn is_replaced(&self) -> bool {
        let ours = directory::id(&self.directory.status);
        let there = self.path.metadata();
        if there.is_ok_and(|there| (there.dev(), there.ino()) == ours) {
            return false;
        }
        if !self.replaced.swap(true, Ordering::Relaxed) {
            let path = self.path.display();
            log::error!(
                "SPOOL_DIR {path} was removed or replaced: a restart is needed, until then no mail is taken that needs it"
            );
        }
        true
    }

    fn in_use(&self) -> MutexGuard<'_, HashMap<Id, Users>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be had before a message's file is opened or made. While a `fresh` one is there, no scan finds it.
    pub(crate) fn use_message(self: &Arc<Folder>, id: Id, fresh: bool) -> InUse {
        let mut in_use = self.in_use();
        let users = in_use.entry(id).or_default();
        users.count += 1;
        users.fresh |= fresh;
        drop(in_use);
        let folder = Arc::clone(self);
        InUse { folder, id, fresh }
    }

    /// Whether a message is still in the hands of who accepted it.
    pub(crate) fn is_fresh(&self, id: Id) -> bool {
        self.in_use().get(&id).is_some_and(|users| users.fresh)
    }

    /// To be asked for before a change of names, for [`sync`](Folder::sync) after it.
    pub(crate) fn epoch(&self) -> SyncEpoch {
        SyncEpoch(self.failed.load(Ordering::SeqCst))
    }

    /// Makes names durable, and removals: those since `epoch`.
    pub(crate) fn sync(&self, epoch: SyncEpoch) -> io::Result<()> {
        let synced = self.syncs.submit(epoch);
        synced.unwrap_or_else(|Abandoned| Err(io::Error::other("the sync panicked")))
    }

    /// Unlinks a message, durably; one that is gone already is no error.
    pub(crate) fn remove(&self, id: Id) -> io::Result<()> {
        let epoch = self.epoch();
        self.directory.remove(id.to_string().as_ref())?;
        self.sync(epoch)
    }

    /// The same for a file of `len` octets. `Some`: it is not unlinked, but has this name, and may be written
    /// over.
    ///
    /// Only if the caller alone has it open. Whoever else wants to open it says so first
    /// ([`use_message`](Folder::use_message)): then either it is counted here, or it comes after the
    /// renaming, which happens under the same lock, and finds no file.
    pub(crate) fn recycle(&self, id: Id, len: u64) -> io::Result<Option<String>> {
        let epoch = self.epoch();
        let (name, new) = (id.to_string(), format!("{id}.new"));
        let in_use = self.in_use();
        let alone = in_use.get(&id).is_some_and(|users| users.count == 1);
        if !alone || !self.recycled.want(len) {
            drop(in_use);
            return self.remove(id).map(|()| None);
        }
        let fd = &self.directory.fd;
        let renamed = renameat(fd, name.as_str(), fd, new.as_str());
        drop(in_use);
        match renamed {
            Err(Errno::ENOENT) => return Ok(None),
            other => other?,
        }
        if let Err(error) = self.sync(epoch) {
            let _ = self.directory.remove(new.as_ref());
            return Err(error);
        }
        Ok(Some(new))
    }

    /// Gives a file another name, which nobody may have.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let fd = &self.directory.fd;
        #[cfg(target_env = "gnu")]
        {
            let flag = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
            match nix::fcntl::renameat2(fd, from, fd, to, flag) {
                // The file system cannot do it.
                Err(Errno::EINVAL | Errno::ENOSYS) => {}
                other => return other.map_err(io::Error::from),
            }
        }
        // Ids are unique in a process and the lock keeps others out, so nobody can come in between.
        match self.directory.status(to.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(renameat(fd, from, fd, to)?)
            }
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) => Err(error),
        }
    }

    /// Removes what was never acknowledged.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        for name in self.directory.names()? {
            if Name::of(&name) == Name::New && is_ours(&self.directory.status(&name)?) {
                self.directory.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Moves a damaged file to `corrupt/` under its name, with a number if that is taken.
    pub(crate) fn set_aside(&self, id: Id) -> io::Result<PathBuf> {
        let path = self.path.join("corrupt");
        let corrupt = Directory::make(&path, None)?;
        let name = id.to_string();
        let mut to = name.clone();
        for n in 1u32.. {
            match corrupt.status(to.as_ref()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
                Ok(_) => to = format!("{name}.{n}"),
            }
        }
        let epoch = self.epoch();
        renameat(&self.directory.fd, name.as_str(), &corrupt.fd, to.as_str())?;
        corrupt.sync()?;
        self.sync(epoch)?;
        Ok(path.join(to))
    }
}

/// See [`Folder::use_message`].
#[derive(Debug)]
pub(crate) struct InUse {
    folder: Arc<Folder>,
    id: Id,
    fresh: bool,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut in_use = self.folder.in_use();
        if let Some(users) = in_use.get_mut(&self.id) {
            users.count -= 1;
            users.fresh &= !self.fresh;
            if users.count == 0 {
                in_use.remove(&self.id);
            }
        }
    }
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The outcome of one sync for each who waits for it. The system reports a failure once; so who made a change before
/// one that came meanwhile has failed too, whatever the sync after it says.
fn outcomes(
    synced: io::Result<()>,
    failed: &AtomicU64,
    waiting: &[SyncEpoch],
) -> Vec<io::Result<()>> {
    if synced.is_err() {
        failed.fetch_add(1, Ordering::SeqCst);
    }
    let failures = failed.load(Ordering::SeqCst);
    let one = |SyncEpoch(seen): &SyncEpoch| match &synced {
        Ok(()) if *seen == failures => Ok(()),
        Ok(()) => Err(Errno::EIO.into()),
        Err(error) => Err(files::again(error)),
    };
    waiting.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_fails_for_all_that_it_was_to_cover() {
        let failed = AtomicU64::new(0);
        let early = SyncEpoch(failed.load(Ordering::SeqCst));
        let ends = |synced, waiting: &[SyncEpoch]| -> Vec<Option<i32>> {
            let outcomes = outcomes(synced, &failed, waiting);
            let code = |outcome: io::Result<()>| outcome.err().and_then(|e| e.raw_os_error());
            outcomes.into_iter().map(code).collect()
        };
        let enospc = io::Error::from_raw_os_error(Errno::ENOSPC as i32);
        let code = Some(Errno::ENOSPC as i32);
        assert_eq!(ends(Err(enospc), &[early, early]), [code, code]);
        // One that came while that sync ran, with another that came after it.
        let late = SyncEpoch(failed.load(Ordering::SeqCst));
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
            ("0123456789ABCDEF", Name::Foreign),
            ("0123456789abcde", Name::Foreign),
            ("0123456789abcdef.old", Name::Foreign),
            (".new", Name::Foreign),
            ("lock", Name::Internal),
            ("pid", Name::Internal),
            ("corrupt", Name::Internal),
            ("appending.7", Name::Internal),
            ("notes.txt", Name::Foreign),
        ];
        for (name, kind) in rows {
            assert_eq!(Name::of(OsStr::new(name)), kind, "{name}");
        }
    }
}
