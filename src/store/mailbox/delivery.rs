//! What a mailbox is given, and why it may not have it.

use crate::message::Body;
use crate::store::files;
use std::io;
use std::sync::Arc;

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
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, MailboxError::Io(error)
            if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, MailboxError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The same, for the next one whom it concerns.
    pub(crate) fn again(&self) -> MailboxError {
        match self {
            MailboxError::Busy => MailboxError::Busy,
            MailboxError::NotAFile(what) => MailboxError::NotAFile(what.clone()),
            MailboxError::Io(error) => MailboxError::Io(files::again(error)),
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
