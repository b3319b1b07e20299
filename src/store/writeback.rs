//! Large writes, begun early: what was written to a file so far is sent on its way to the device while the rest is
//! still being copied, so that the sync at the end has less to wait for. It promises nothing; the sync does, and tells
//! of every error, of the early writes too.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::sendfile::sendfile;

/// How much is begun at a time, in octets. Less costs a device more requests, more leaves it idle at first.
pub(crate) const PIECE: u64 = 256 * 1024;
/// Whole pages only, in octets: one that is written twice goes to the device twice.
const PAGE: u64 = 4096;

/// One file that grows.
pub(crate) struct Ahead<'a> {
    file: &'a File,
    /// Up to here it is begun, or somebody else's.
    begun: u64,
}

impl<'a> Ahead<'a> {
    /// What is to be written to `file` begins at `at`.
    pub(crate) fn new(file: &'a File, at: u64) -> Ahead<'a> {
        let begun = at - at % PAGE;
        Ahead { file, begun }
    }

    /// It is written up to `at`, and more is to come.
    pub(crate) fn reach(&mut self, at: u64) {
        let end = at - at % PAGE;
        let len = end.saturating_sub(self.begun);
        if len < PIECE {
            return;
        }
        // These pages will not be needed again here: with this the system begins to write them. Where it does not, the
        // sync does all.
        if let (Ok(from), Ok(len)) = (i64::try_from(self.begun), i64::try_from(len)) {
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = posix_fadvise(self.file, from, len, advice);
        }
        self.begun = end;
    }

    /// Moves `len` octets at `offset` of `source` to the file's own position, which is `at`, inside the kernel; returns
    /// how many came, fewer only with the error that stopped it.
    pub(crate) fn send(
        &mut self,
        at: u64,
        source: &File,
        offset: u64,
        len: u64,
    ) -> (u64, io::Result<()>) {
        let mut sent = 0;
        let Ok(mut from) = i64::try_from(offset) else {
            return (0, Err(Errno::EFBIG.into()));
        };
        while sent < len {
            self.reach(at + sent);
            let most = (len - sent).min(PIECE) as usize;
            match sendfile(self.file, source, Some(&mut from), most) {
                Ok(0) => return (sent, Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => sent += n as u64,
                Err(Errno::EINTR) => {}
                Err(errno) => return (sent, Err(errno.into())),
            }
        }
        (sent, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};

    #[test]
    fn what_is_sent_arrives_whole_behind_what_was_there() {
        let content: Vec<u8> = (0..PIECE * 3 + 5000).map(|i| (i % 251) as u8).collect();
        let (mut source, mut file) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all(b"before").unwrap();
        source.write_all(&content).unwrap();
        file.write_all(b"old\n").unwrap();
        let mut ahead = Ahead::new(&file, 4);
        let (sent, outcome) = ahead.send(4, &source, 6, content.len() as u64);
        outcome.unwrap();
        assert_eq!(sent, content.len() as u64);
        assert_eq!(ahead.begun, PIECE * 3, "the last piece is the sync's");
        ahead.reach(4 + sent);
        assert_eq!(ahead.begun, PIECE * 3, "too little to begin with");
        let mut got = Vec::new();
        file.seek(SeekFrom::Start(4)).unwrap();
        file.read_to_end(&mut got).unwrap();
        assert!(got == content);
    }

    #[test]
    fn a_source_that_is_too_short_is_an_error_after_what_it_had() {
        let (mut source, file) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all(&[b'x'; 10]).unwrap();
        let (sent, outcome) = Ahead::new(&file, 0).send(0, &source, 4, 100);
        assert_eq!(sent, 6);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
