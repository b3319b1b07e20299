//! Local delivery: messages appended to mbox files (mboxrd), durable when [`Mailboxes::deliver`]
//! returns.
//!
//! One append of a batch of messages to one mbox goes through these states:
//!
//! | state | the file | the note in `SPOOL_DIR/appending` | a process killed here leaves |
//! | --- | --- | --- | --- |
//! | 1 locked: fcntl lock, dotlock, path checked | as it was | none | a stale dotlock |
//! | 2 noted: about to grow from F to T | length F | F, T | the file as it was |
//! | 3 growing | between F and T | F, T | a torn end, which the next start cuts to F |
//! | 4 written | T | F, T | whole messages that nobody was told of |
//! | 5 **committed: fdatasync has returned** | T | F, T | whole messages, here for good |
//! | 6 struck out, unlocked, answered | T | none | nothing |
//!
//! An error in 3 or 4 cuts the file to F at once, syncs that, strikes the note out, and is the
//! answer of every message in the batch; only a write that failed for several is first tried for
//! each by itself, since one may be too large where the others fit. If even the cut fails, nothing
//! is appended to this mailbox until it succeeds. A sync that failed is never tried again.
//!
//! The next start cuts only if the path still names the same file (device, inode) and its length
//! lies strictly between F and T. The note is struck out before the lock is let go, so what a mail
//! reader does to the file later is never taken for a torn end. A torn end that is not ours is
//! ended by an empty line, so that it doesn't swallow the next message. (What a power failure
//! leaves of an unsynced append can be such an end.)
//!
//! Threads that deliver to one mailbox at the same moment share one lock, one write and one sync
//! (`commit.rs`); different mailboxes know nothing of each other.

mod appending;
mod check;
mod dotlock;
mod file;
mod gather;
mod lock;
mod mbox;
mod quote;

use crate::message::Body;
use crate::message::escape::Escaped;
use crate::store::directory;
use crate::store::group_commit::{Abandoned, Commit};
use crate::store::mailbox::appending::Notes;
pub use crate::store::mailbox::check::{Finding, Identity, check};
use crate::store::mailbox::dotlock::PidFile;
use crate::store::mailbox::file::parent;
use crate::store::mailbox::lock::PATIENCE;
use crate::store::mailbox::mbox::{Mbox, Shared};
use nix::errno::Errno;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long a start waits for one mailbox that is locked: its note can wait for the first append.
const START_PATIENCE: Duration = Duration::from_millis(200);

/// All mailboxes of the daemon, by path; made on first use.
pub struct Mailboxes {
    shared: Arc<Shared>,
    /// By path as given and by path with its directory resolved: two names of one mailbox share one
    /// entry.
    by_path: RwLock<HashMap<PathBuf, Arc<Entry>>>,
}

/// One mailbox, and where those who deliver to it meet.
struct Entry {
    mbox: Arc<Mbox>,
    commit: Commit<MailboxMessage, Result<(), MailboxError>, Append>,
}

type Append = Box<dyn Fn(Vec<MailboxMessage>) -> Vec<Result<(), MailboxError>> + Send + Sync>;

/// One copy for one mailbox.
#[derive(Clone, Debug)]
pub struct MailboxMessage {
    /// `From ` line, Return-Path, time stamp line, LF-ended; written as it is.
    pub heading: Arc<[u8]>,
    /// The message as received; quoted as it is written.
    pub body: Arc<Body>,
}

/// Why a copy is not in the mailbox. The file is as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailboxError {
    /// Another program held a lock all the time.
    #[error("locked by another program for over 10 s")]
    Busy,
    /// There is something in the mailbox's place that is never written to; the text says what.
    #[error("not a plain mbox file: {0}")]
    NotAFile(String),
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl MailboxError {
    /// No room for the message: ENOSPC, EDQUOT, EFBIG.
    pub fn is_no_space(&self) -> bool {
        const NO_SPACE: [Errno; 3] = [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG];
        matches!(self, MailboxError::Io(error)
            if error.raw_os_error().is_some_and(|code| NO_SPACE.contains(&Errno::from_raw(code))))
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, MailboxError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The same, for the next one whom it concerns.
    pub(crate) fn again(&self) -> MailboxError {
        match self {
            MailboxError::Busy => MailboxError::Busy,
            MailboxError::NotAFile(what) => MailboxError::NotAFile(what.clone()),
            MailboxError::Io(error) => MailboxError::Io(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
        }
    }
}

/// What was done since the start, for tests and measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Batches committed, each with one sync.
    pub batches: u64,
    /// Messages in them.
    pub messages: u64,
}

impl Mailboxes {
    /// `notes` is SPOOL_DIR, whose lock the caller holds: there extensions in progress are noted
    /// (`appending`), and there is the file that dotlocks are linked from (`pid`). None: library
    /// use, without recovery after a crash.
    ///
    /// Recovers first: cuts back what a killed process left torn; returns a line for the log for
    /// each cut, and for each mailbox that can't be looked at now, which is tried again before its
    /// next message.
    ///
    /// # Errors
    /// The files in SPOOL_DIR can't be made, written or read.
    pub fn open(notes: Option<&Path>) -> io::Result<(Mailboxes, Vec<String>)> {
        let mut lines = Vec::new();
        let (notes, pid_file, torn) = match notes {
            Some(spool) => {
                let pid_file = Arc::new(PidFile::create(spool)?);
                let (notes, torn) = Notes::open(spool)?;
                (Some(notes), Some(pid_file), torn)
            }
            None => (None, None, Vec::new()),
        };
        let shared = Arc::new(Shared::new(notes, pid_file, PATIENCE));
        let mailboxes = Mailboxes {
            shared,
            by_path: RwLock::default(),
        };
        for (slot, note) in torn {
            let path = note.path.clone();
            match mailboxes
                .enter(path.clone())
                .mbox
                .recover(slot, note, START_PATIENCE)
            {
                Ok(report) => lines.extend(report),
                Err(error) => {
                    let path = Escaped(path.as_os_str().as_bytes());
                    lines.push(format!(
                        "recovery of mailbox={path} waits for its next message: {error}"
                    ));
                }
            }
        }
        Ok((mailboxes, lines))
    }

    /// Makes missing parent directories (0700, fsynced). To be called again for each mailbox when
    /// the configuration is read anew: links among its directories are then followed anew.
    ///
    /// # Errors
    /// A directory can't be made, or is something else.
    pub fn prepare(&self, mbox: &Path) -> io::Result<()> {
        self.forget(mbox);
        directory::make(parent(mbox), None)
    }

    /// Returns once the copy is on stable storage. Threads that deliver to one mailbox at the same
    /// moment share lock, write and sync.
    ///
    /// # Errors
    /// The copy is not in the mailbox, and the file is as it was; [`MailboxError`] says why.
    pub fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError> {
        let outcome = match self.entry(mbox)?.commit.submit(copy) {
            Ok(outcome) => outcome,
            Err(Abandoned) => {
                Err(io::Error::other("the thread that wrote the batch panicked").into())
            }
        };
        if outcome.as_ref().is_err_and(MailboxError::is_not_found) {
            // Perhaps a directory was moved, and a link now leads to another.
            self.forget(mbox);
        }
        outcome
    }

    /// How long [`deliver`](Mailboxes::deliver) waits for the locks of other programs; 10 s unless
    /// set.
    pub fn set_patience(&self, patience: Duration) {
        self.shared
            .patience
            .store(patience.as_millis() as u64, Ordering::Relaxed);
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn entry(&self, mbox: &Path) -> Result<Arc<Entry>, MailboxError> {
        if let Some(entry) = self
            .by_path
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(mbox)
        {
            return Ok(Arc::clone(entry));
        }
        let name = mbox
            .file_name()
            .ok_or_else(|| MailboxError::NotAFile("a directory".into()))?;
        let entry = self.enter(fs::canonicalize(parent(mbox))?.join(name));
        self.by_path
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(mbox.to_owned(), Arc::clone(&entry));
        Ok(entry)
    }

    /// The entry of an absolute path, its directory without links.
    fn enter(&self, path: PathBuf) -> Arc<Entry> {
        let mut by_path = self.by_path.write().unwrap_or_else(PoisonError::into_inner);
        let entry = by_path.entry(path).or_insert_with_key(|path| {
            let mbox = Mbox::new(Arc::clone(&self.shared), path.clone());
            let writer = Arc::clone(&mbox);
            let append: Append = Box::new(move |batch| writer.append(batch));
            Arc::new(Entry {
                mbox,
                commit: Commit::new(append),
            })
        });
        Arc::clone(entry)
    }

    /// Forgets where `mbox` leads, but not the mailbox that it led to.
    fn forget(&self, mbox: &Path) {
        let mut by_path = self.by_path.write().unwrap_or_else(PoisonError::into_inner);
        if by_path
            .get(mbox)
            .is_some_and(|entry| !entry.mbox.is_at(mbox))
        {
            by_path.remove(mbox);
        }
    }
}
