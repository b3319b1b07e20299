//! The spool: one durable file a message, in one flat folder.
//!
//! A message's life, and what a crash at each state leaves behind:
//!
//! 1. No file. Nothing was promised.
//! 2. `ID.new` is being written: a new file, or the recycled file of a finished message, then under that
//!    one's id (`recycled.rs`). Never acknowledged; removed at the next start.
//! 3. `ID.new` is whole and synced (file fsync). Still not acknowledged; removed at the next start.
//! 4. `ID`, renamed, its name perhaps only in memory. Not acknowledged; after a crash it is either
//!    there, whole, or it is state 3.
//! 5. `ID`, and the folder synced: **the instant of commitment**. Only now `accept` returns `Ok`, only
//!    now the client is told `250`.
//! 6. `ID` with some recipients `done` (see [`Queued`]): each is recorded in place and synced before the
//!    next step, so a crash repeats at most what was under way.
//! 7. Everybody is served: `ID` is unlinked, or renamed to `ID.new`. That is the record of the last ones. A
//!    crash of the process cannot undo it; until state 8 a power cut can.
//! 8. The folder is synced, before the next step. Only now another message may be written over the file.
//!
//! Threads that want the folder synced at the same moment, for 5 or for 8, share one sync.
//!
//! On any error `accept` takes its file away again, whatever the state. A failed fsync is never tried a
//! second time: the kernel may have dropped the data and would call the second one a success.
//!
//! The next try is the file's modification time, so a restart needs one `stat` a message to know it.
//! Damaged files go to `corrupt/`; files with names that are not ours are logged once and left alone.
//!
//! Cannot do: share the folder with another daemon (the lock refuses it) or survive a file system that
//! lies about fsync.

mod folder;
pub mod format;
mod origin;
mod owner;
pub mod queued;
mod recycled;
mod table;

use crate::message::Id;
use crate::store::directory::Directory;
use crate::store::files::write_all;
use crate::store::writeback::{self, EarlyWriteback};
use folder::{Folder, Name};
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, UtimensatFlags, fstat, utimensat};
use nix::sys::time::TimeSpec;
use owner::{Lock, check_owner, is_ours};
use queued::LoadError;
use recycled::Recycled;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

pub use format::{NewRecipient, Origin, Recipient, State};
pub use owner::SpoolError;
pub use queued::{NewEntry, Queued};
pub(crate) use recycled::MOST as RECYCLED;
pub use table::table;

/// The spool of one daemon; holding it is holding the lock.
#[derive(Debug)]
pub struct Spool {
    folder: Arc<Folder>,
    /// Foreign files are mentioned once, not at every scan.
    mentioned: AtomicBool,
    _lock: Lock,
}

impl Spool {
    /// Makes the folder (0700, durably), takes the lock and removes what was never acknowledged.
    ///
    /// # Errors
    /// Another daemon has the lock, somebody else owns the folder or may write in it, or the system refuses.
    pub fn open(dir: &Path) -> Result<Spool, SpoolError> {
        let dir = std::path::absolute(dir).map_err(|e| SpoolError::Io(dir.into(), e))?;
        let here = |e| SpoolError::Io(dir.clone(), e);
        let folder = Arc::new(Folder::open(&dir).map_err(here)?);
        let lock = Lock::take(&dir, &folder.directory)?;
        folder.remove_unfinished().map_err(here)?;
        Ok(Spool {
            folder,
            mentioned: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Whether a folder that is there belongs to whom it has to, and is not for others to write in; nothing is
    /// changed.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn check(dir: &Path) -> io::Result<()> {
        match Directory::open(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            found => check_owner(&found?),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.folder.path
    }

    /// Takes a message: durable when it returns `Ok`, with the message as [`load`](Spool::load) would return it; until
    /// that is dropped no [`scan`](Spool::scan) finds the message. On `Err` nothing is left of it, and the error has
    /// the system's kind, ENOSPC and all, and names the folder.
    pub fn accept(&self, entry: &NewEntry<'_>) -> io::Result<Queued> {
        self.store(entry).map_err(|error| {
            self.folder.is_replaced();
            let dir = self.folder.path.display();
            io::Error::new(error.kind(), format!("{error} (in SPOOL_DIR {dir})"))
        })
    }

    fn store(&self, entry: &NewEntry<'_>) -> io::Result<Queued> {
        let size = entry.heading.len() as u64 + entry.body.len();
        let (head, envelope) = format::envelope(
            entry.id,
            entry.of,
            entry.from,
            entry.received,
            entry.origin,
            entry.to,
            size,
        );
        if entry.to.is_empty() || head.len() > format::MAX_ENVELOPE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no recipients, or too many",
            ));
        }
        if self.folder.is_replaced() {
            return Err(io::Error::other("the folder was replaced"));
        }
        let in_use = self.folder.use_message(entry.id, true);
        let len = head.len() as u64 + size;
        let mut draft = Draft::begin(&self.folder, entry.id, len)?;
        write_message(&mut draft.file, &head, entry)?;
        draft.cut(len)?;
        // Else it is what the writing has set.
        if entry.next_try > SystemTime::now() {
            draft.file.set_modified(entry.next_try)?;
        }
        // fdatasync would do for the content. fsync costs the same here and keeps the next try too.
        draft.file.sync_all()?;
        let file = draft.commit(entry.id)?;
        Ok(Queued::accepted(
            &self.folder,
            file,
            head,
            envelope,
            entry,
            in_use,
        ))
    }

    /// When to [`purge`](Spool::purge), if there are recycled files.
    pub fn purge_at(&self) -> Option<Instant> {
        self.folder.recycled.purge_at()
    }

    /// Removes the recycled files, if no message has come or gone for a while.
    pub fn purge(&self) {
        self.folder.recycled.purge(&self.folder.directory);
    }

    /// Removes them now.
    pub fn purge_now(&self) {
        self.folder.recycled.purge_now(&self.folder.directory);
    }

    /// Takes back a message that was just accepted and that nobody was told of.
    pub fn withdraw(&self, id: Id) {
        if let Err(error) = self.folder.directory.remove(id.to_string().as_ref()) {
            log::warn!("spool: cannot take back id={id}, it may be sent twice: {error}");
        }
    }

    /// Sets a waiting message's next try; not durable, as [`Queued::defer`] is not.
    pub fn set_next_try(&self, id: Id, next_try: SystemTime) -> io::Result<()> {
        let since = next_try.duration_since(SystemTime::UNIX_EPOCH);
        let time = TimeSpec::from_duration(since.unwrap_or_default());
        let (name, flag) = (id.to_string(), UtimensatFlags::NoFollowSymlink);
        Ok(utimensat(
            &self.folder.directory.fd,
            name.as_str(),
            &time,
            &time,
            flag,
        )?)
    }

    /// Calls `each` with every waiting message and its next try, by directory entries and `stat` alone. What
    /// vanishes meanwhile is passed over.
    pub fn scan(&self, each: &mut dyn FnMut(Id, SystemTime)) -> io::Result<()> {
        let mention = !self.mentioned.swap(true, Ordering::Relaxed);
        if self.folder.is_replaced() && fstat(&self.folder.directory.fd)?.st_nlink == 0 {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the folder is gone",
            ));
        }
        for name in self.folder.directory.names()? {
            let id = match Name::of(&name) {
                Name::Internal | Name::New => continue,
                Name::Message(id) => Some(id),
                Name::Foreign => None,
            };
            let status = match self.folder.directory.status(&name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                status => status?,
            };
            match id.filter(|_| is_ours(&status)) {
                Some(id) if self.folder.is_fresh(id) => {}
                Some(id) => each(id, modified(&status)),
                None if mention => {
                    let name = crate::message::escape::Escaped(name.as_encoded_bytes());
                    log::warn!("spool: left alone, not a message of ours: {name}");
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Reads a message's envelope. `None`: it has vanished, or it was damaged and is in `corrupt/` now; both
    /// are logged. `Err`: it cannot be read at present.
    pub fn load(&self, id: Id) -> io::Result<Option<Queued>> {
        match Queued::open(&self.folder, id) {
            Ok(queued) => Ok(Some(queued)),
            Err(LoadError::Vanished) => {
                log::warn!("spool: the file is gone id={id}");
                Ok(None)
            }
            Err(LoadError::Damaged(why)) => {
                let kept = self.folder.set_aside(id)?;
                log::error!("spool: damaged, moved to {} id={id}: {why}", kept.display());
                Ok(None)
            }
            Err(LoadError::Io(e)) => Err(e),
        }
    }
}

fn modified(status: &FileStat) -> SystemTime {
    let since = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    let nanos = Duration::from_nanos(status.st_mtime_nsec.cast_unsigned());
    let whole = match status.st_mtime {
        past @ ..0 => SystemTime::UNIX_EPOCH - since(past),
        seconds => SystemTime::UNIX_EPOCH + since(seconds),
    };
    whole + nanos
}

/// A message's file from its beginning to its commitment.
struct Draft<'a> {
    file: File,
    /// What a message that is finished has left.
    len: u64,
    undo: Undo<'a>,
}

impl<'a> Draft<'a> {
    /// A recycled one, or a new one, for `len` octets.
    fn begin(folder: &'a Folder, id: Id, len: u64) -> io::Result<Draft<'a>> {
        let of = |file, len, name| {
            let name = Some(name);
            let undo = Undo { folder, name };
            Draft { file, len, undo }
        };
        if let Some((Recycled { file, name }, left)) = folder.recycled.take(&folder.directory, len)
        {
            return Ok(of(file, left, name));
        }
        let name = format!("{id}.new");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = folder.directory.open_file(name.as_ref(), flags, 0o600)?;
        Ok(of(file, 0, name))
    }

    /// Ends the file after `len` octets.
    fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.len > len {
            self.file.set_len(len)?;
        }
        Ok(())
    }

    /// Gives it the message's name, durably.
    fn commit(mut self, id: Id) -> io::Result<File> {
        let (folder, name) = (self.undo.folder, id.to_string());
        let epoch = folder.epoch();
        folder.rename(self.undo.name.as_deref().unwrap_or_default(), &name)?;
        self.undo.name = Some(name);
        folder.sync(epoch)?;
        self.undo.name = None;
        Ok(self.file)
    }
}

/// Takes a file away again unless it is told that all went well.
struct Undo<'a> {
    folder: &'a Folder,
    name: Option<String>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        if let Err(error) = self.folder.directory.remove(name.as_ref()) {
            // The client is told 451 and comes again: the worst is a second copy.
            log::error!("spool: could not remove {name} after a failure: {error}");
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.purge_now();
    }
}

fn write_message(file: &mut File, envelope: &[u8], entry: &NewEntry<'_>) -> io::Result<()> {
    let head = [IoSlice::new(envelope), IoSlice::new(entry.heading)];
    if let Some(content) = entry.body.as_bytes() {
        write_all(file, 0, &mut [head[0], head[1], IoSlice::new(content)])?;
        return Ok(());
    }
    let mut at = write_all(file, 0, &mut { head })?;
    let mut early = EarlyWriteback(0);
    writeback::in_pieces(entry.body, |piece| {
        early.reach(file, at);
        at = write_all(file, at, &mut [IoSlice::new(piece)])?;
        Ok(())
    })
}
