//! Local delivery: messages appended to mbox files (mboxrd), durable when [`Mailboxes::deliver`]
//! returns.
//!
//! One append of a batch of messages to one mbox goes through these states:
//!
//! | state | the file | its entry in `SPOOL_DIR/appending` | a process killed here leaves |
//! | --- | --- | --- | --- |
//! | 1 locked: fcntl lock, dotlock, path checked | length F | none | a stale dotlock |
//! | 2 entered: a piece of up to 256 KiB is about to be written | F and the pieces before | F, where this piece can end | a torn end, unless this is the first piece |
//! | 3 growing, then from 2 again until all is written | longer | as in 2 | a torn end, which the next start cuts to F |
//! | 4 written | length T | F, T, whole | whole messages that nobody was told of |
//! | 5 **committed: fdatasync has returned** | length T | F, T, whole | whole messages, here for good |
//! | 6 cleared, unlocked, answered | length T | none | nothing |
//!
//! An error in 2 to 4 cuts the file to F at once, syncs that, clears the entry, and is the
//! answer of every message in the batch; only a write that failed for several is first tried for
//! each by itself, since one may be too large where the others fit. If even the cut fails, the append
//! is pending, and nothing is appended to this mailbox before that is settled. A sync that failed is
//! never tried again.
//!
//! No octet that others wrote is ever cut. The next start, and whoever settles a pending append later, cuts
//! only in the boot that the entry was made in, and only if the path still names the same file
//! (device, inode), if its length is one that the piece under way can have left, and if the checksum of
//! all from F on shows that it is ours (`mbox/journal.rs`). The entry is cleared before the lock is let go, so
//! what a mail reader does to the file later is never taken for a torn end. A torn end that is not shown
//! to be ours is ended by an empty line, so that it doesn't swallow the next message. (What a power failure
//! leaves of an unsynced append can be such an end, and what another program has appended to.)
//!
//! Threads that deliver to one mailbox at the same moment share one lock, one write and one sync
//! (`group_commit.rs`); different mailboxes know nothing of each other.

mod check;
mod clock;
mod delivery;
mod dotlock;
mod file;
mod lock;
mod mbox;

use crate::message::escape::Escaped;
use crate::store::directory;
use crate::store::group_commit::{Abandoned, Commit};
pub use crate::store::mailbox::check::{Finding, Identity, check};
pub use crate::store::mailbox::delivery::{MailboxError, MailboxMessage, Stats};
use crate::store::mailbox::dotlock::{Dotlocks, PidFile};
use crate::store::mailbox::file::{Key, Place, parent};
use crate::store::mailbox::lock::PATIENCE;
use crate::store::mailbox::mbox::journal::{self, Entry, Journal, Slot};
use crate::store::mailbox::mbox::{Mbox, Shared};
use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

/// How long a start waits for one mailbox that is locked: its journal entry can wait for the first append.
const START_PATIENCE: Duration = Duration::from_millis(200);

/// All mailboxes of the daemon, by path; made on first use.
pub struct Mailboxes {
    known: Arc<Known>,
    /// By path as given: where those who deliver to it meet.
    by_path: RwLock<HashMap<PathBuf, Arc<PathCommit>>>,
    /// Those with something that a killed process left.
    unsettled: Vec<Arc<Mbox>>,
}

type PathCommit = Commit<MailboxMessage, Result<(), MailboxError>, Append>;

/// Every mailbox that something holds, by where it is: two paths of one mailbox share it.
struct Known {
    shared: Arc<Shared>,
    by_key: Mutex<HashMap<Key, Weak<Mbox>>>,
}

impl Known {
    fn get(&self, place: &Place) -> Arc<Mbox> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let key = place.key();
        if let Some(mbox) = by_key.get(&key).and_then(Weak::upgrade) {
            return mbox;
        }
        by_key.retain(|_, mbox| mbox.strong_count() > 0);
        let mbox = Mbox::new(Arc::clone(&self.shared), key.clone());
        by_key.insert(key, Arc::downgrade(&mbox));
        mbox
    }
}

type Append = Box<dyn Fn(Vec<MailboxMessage>) -> Vec<Result<(), MailboxError>> + Send + Sync>;

impl Mailboxes {
    /// `spool` is SPOOL_DIR, whose lock the caller holds: there is the journal of appends
    /// (`appending`), and the file that dotlocks are linked from (`pid`). None: library
    /// use, without recovery after a crash.
    ///
    /// Recovers first: cuts back what a killed process left torn; returns a line for the log for
    /// each cut, and for each mailbox that can't be looked at now, which is looked at again before its
    /// next message.
    ///
    /// # Errors
    /// The journal in SPOOL_DIR can't be made or read; the text names it.
    pub fn open(spool: Option<&Path>) -> io::Result<(Mailboxes, Vec<String>)> {
        let mut lines = Vec::new();
        let (journal, pid_file, torn) = match spool {
            Some(spool) => {
                let shown = Escaped(spool.as_os_str().as_bytes());
                let pid_file = PidFile::create(spool).map_err(|error| {
                    lines.push(format!(
                        "cannot write {shown}/pid, locks do without: {error}"
                    ));
                });
                let (journal, torn) = Journal::open(spool).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", journal::NAME))
                })?;
                (Some(journal), pid_file.ok(), torn)
            }
            None => (None, None, Vec::new()),
        };
        let mut mailboxes = Mailboxes {
            known: Arc::new(Known {
                shared: Arc::new(Shared::new(journal, Dotlocks::new(pid_file), PATIENCE)),
                by_key: Mutex::default(),
            }),
            by_path: RwLock::default(),
            unsettled: Vec::new(),
        };
        for (slot, entry) in torn {
            let path = entry.path.clone();
            if let Err(error) = mailboxes.recover(slot, entry, &mut lines) {
                let path = Escaped(path.as_os_str().as_bytes());
                lines.push(format!(
                    "recovery of mailbox={path} waits for its next message: {error}"
                ));
            }
        }
        Ok((mailboxes, lines))
    }

    fn recover(
        &mut self,
        slot: Slot,
        entry: Entry,
        lines: &mut Vec<String>,
    ) -> Result<(), MailboxError> {
        let place = match Place::find(&entry.path, false) {
            Err(error) if error.is_not_found() => return Ok(slot.clear()?),
            place => place?,
        };
        let mbox = self.known.get(&place);
        match mbox.recover(&place, slot, entry, START_PATIENCE) {
            Ok(report) => lines.extend(report),
            Err(error) => {
                self.unsettled.push(mbox);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes missing parent directories (0700, durably).
    ///
    /// # Errors
    /// A directory can't be made, or is something else.
    pub fn prepare(&self, mbox: &Path) -> io::Result<()> {
        directory::make(parent(mbox), None)
    }

    /// Returns once the copy is on stable storage. Threads that deliver to one mailbox at the same
    /// moment share lock, write and sync.
    ///
    /// # Errors
    /// The copy is not in the mailbox, and the file is as it was; [`MailboxError`] says why.
    pub fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError> {
        match self.entry(mbox)?.submit(copy) {
            Ok(outcome) => outcome,
            Err(Abandoned) => {
                Err(io::Error::other("the thread that wrote the batch panicked").into())
            }
        }
    }

    /// How long [`deliver`](Mailboxes::deliver) waits for the locks of other programs; 10 s unless
    /// set.
    pub fn set_patience(&self, patience: Duration) {
        self.known
            .shared
            .patience
            .store(patience.as_millis() as u64, Ordering::Relaxed);
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.known.shared.stats()
    }

    fn entry(&self, mbox: &Path) -> Result<Arc<PathCommit>, MailboxError> {
        if let Some(entry) = self
            .by_path
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(mbox)
        {
            return Ok(Arc::clone(entry));
        }
        let path = std::path::absolute(mbox)?;
        let known = Arc::clone(&self.known);
        // Holds the mailbox that the path led to last, with its open file.
        let last: Mutex<Option<Arc<Mbox>>> = Mutex::default();
        let append: Append = Box::new(move |batch| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let directory = last.as_ref().and_then(|mbox| mbox.directory());
            let place = match Place::find_again(&path, directory) {
                Ok(place) => place,
                Err(error) => return batch.iter().map(|_| Err(error.again())).collect(),
            };
            let mbox = match last.take() {
                Some(mbox) if place.is(&mbox.key) => mbox,
                _ => known.get(&place),
            };
            *last = Some(Arc::clone(&mbox));
            mbox.append(&place, &batch)
        });
        let mut by_path = self.by_path.write().unwrap_or_else(PoisonError::into_inner);
        let entry = by_path
            .entry(mbox.to_owned())
            .or_insert_with(|| Arc::new(Commit::new(append)));
        Ok(Arc::clone(entry))
    }
}
