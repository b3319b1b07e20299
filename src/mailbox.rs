//! mbox delivery.
use crate::message::Body;
use std::path::Path;
use std::sync::Arc;
/// All mailboxes of the daemon, by path; made on first use.
pub struct Mailboxes {}
/// One copy for one mailbox.
#[derive(Clone)]
pub struct Copy {
    /** `From ` line, Return-Path, time stamp line, LF-ended */
    pub heading: Arc<[u8]>,
    pub body: Arc<Body>,
}
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailboxError {
    #[error("locked by another program for over 10 s")]
    Busy,
    #[error("not a plain mbox file: {0}")]
    NotAFile(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}
impl MailboxError {
    /** ENOSPC, EDQUOT, EFBIG */
    pub fn is_no_space(&self) -> bool {
        todo!()
    }
}
impl Mailboxes {
    /// `notes`: SPOOL_DIR, where extensions in progress are noted (None: library use without crash recovery).
    /// Recovers first: cuts back what a crash left torn; returns a line for the log for each cut.
    pub fn open(_notes: Option<&Path>) -> std::io::Result<(Mailboxes, Vec<String>)> {
        todo!()
    }
    /// Makes missing parent directories (0700, fsynced).
    pub fn prepare(&self, _mbox: &Path) -> std::io::Result<()> {
        todo!()
    }
    /// Returns once the copy is on stable storage. Group commit: concurrent callers share lock, write, sync.
    pub fn deliver(&self, _mbox: &Path, _copy: Copy) -> Result<(), MailboxError> {
        todo!()
    }
}
