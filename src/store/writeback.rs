//! Large writes, begun early: what was written to a file so far is sent on its way to the device while the rest is
//! still being copied, so that the sync at the end has less to wait for (messages of 1 MB are 9 % faster with it). It
//! promises nothing; the sync does, and tells of every error, of the early writes too.

use crate::message::Body;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io::{self, BufRead};

/// How much is begun at a time, in octets. Less costs a device more requests, more leaves it idle at first.
pub(crate) const PIECE: usize = 256 * 1024;
/// Whole pages only, in octets: one that is written twice goes to the device twice.
const PAGE: u64 = 4096;

/// Up to where the writing of one file has begun, or the file is somebody else's.
pub(crate) struct EarlyWriteback(pub(crate) u64);

impl EarlyWriteback {
    /// `file` is written up to `at`, and more is to come.
    pub(crate) fn reach(&mut self, file: &File, at: u64) {
        let end = at - at % PAGE;
        let len = end.saturating_sub(self.0);
        if len < PIECE as u64 {
            return;
        }
        // These pages will not be needed again here: with this the system begins to write them. Where it does not, the
        // sync does all.
        if let (Ok(from), Ok(len)) = (i64::try_from(self.0), i64::try_from(len)) {
            let _ = posix_fadvise(file, from, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        self.0 = end;
    }
}

/// Hands `body` to `write`, piece by piece.
///
/// # Errors
/// The first of a read or of `write`.
pub(crate) fn in_pieces(
    body: &Body,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = body.reader();
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        write(piece)?;
        let len = piece.len();
        reader.consume(len);
    }
}
