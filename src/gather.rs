//! Writing copies to an open mbox file in as few calls as there can be: what is in memory is
//! gathered, uncopied, into pwritev; large content that lies in a file goes from file to file
//! inside the kernel, or through one buffer if it needs quoting. Writes at an offset of the
//! caller's, syncs nothing, and on an error leaves the file in whatever state it is in: cutting it
//! back is the caller's.

use crate::mailbox::Copy;
use crate::message::Body;
use crate::quote::{Quoter, most_added};
use nix::errno::Errno;
use nix::sys::sendfile::sendfile;
use nix::sys::uio::pwritev;
use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};

/// The most parts that the kernel takes in one call (IOV_MAX).
const MOST_PARTS: usize = 1024;
/// What content in a file that needs quoting is read by.
const CHUNK: usize = 64 * 1024;

/// The most octets that `copies` can come to in the file.
pub(crate) fn most_octets(copies: &[Copy]) -> u64 {
    let most = |copy: &Copy| {
        let quoting = if copy.body.may_need_quoting() {
            most_added(copy.body.len())
        } else {
            0
        };
        let end = copy
            .body
            .as_bytes()
            .map_or(b"\n\n".as_slice(), ending)
            .len();
        copy.heading.len() as u64 + copy.body.len() + quoting + end as u64
    };
    copies.iter().map(most).sum()
}

/// Writes `gap`, then `copies`, each quoted and with an empty line after it, at `at`; returns where
/// they end.
pub(crate) fn write_copies(
    file: &File,
    at: u64,
    gap: &'static [u8],
    copies: &[Copy],
) -> io::Result<u64> {
    let mut gather = Gather {
        file,
        at,
        parts: Vec::with_capacity(3 * copies.len() + 1),
    };
    gather.push(gap)?;
    for copy in copies {
        let body: &Body = &copy.body;
        gather.push(&copy.heading)?;
        let end = match (body.as_bytes(), body.as_file()) {
            (Some(bytes), _) => {
                if body.may_need_quoting() {
                    gather.push_quoted(bytes)?;
                } else {
                    gather.push(bytes)?;
                }
                ending(bytes)
            }
            (None, Some((source, offset))) if !body.may_need_quoting() => {
                gather.send(body, source, offset)?;
                ending(&last_octet(body)?)
            }
            (None, _) => {
                gather.flush()?;
                gather.at = write_chunks(file, gather.at, body)?;
                ending(&last_octet(body)?)
            }
        };
        gather.push(end)?;
    }
    gather.flush()?;
    Ok(gather.at)
}

/// Parts that lie in memory, for the next place in the file.
struct Gather<'a> {
    file: &'a File,
    at: u64,
    parts: Vec<IoSlice<'a>>,
}

impl<'a> Gather<'a> {
    fn push(&mut self, part: &'a [u8]) -> io::Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        if self.parts.len() == MOST_PARTS {
            self.flush()?;
        }
        self.parts.push(IoSlice::new(part));
        Ok(())
    }

    fn push_quoted(&mut self, content: &'a [u8]) -> io::Result<()> {
        let mut quoter = Quoter::new();
        self.push_piece(&mut quoter, content)?;
        let mut outcome = Ok(());
        quoter.finish(|part| outcome = self.push(part));
        outcome
    }

    fn push_piece(&mut self, quoter: &mut Quoter, piece: &'a [u8]) -> io::Result<()> {
        let mut outcome = Ok(());
        quoter.feed(piece, |part| {
            if outcome.is_ok() {
                outcome = self.push(part);
            }
        });
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut parts = &mut self.parts[..];
        while !parts.is_empty() {
            let written = match pwritev(self.file, parts, offset(self.at)?) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.at += written as u64;
            IoSlice::advance_slices(&mut parts, written);
        }
        self.parts.clear();
        Ok(())
    }

    /// Content of a file, moved inside the kernel.
    fn send(&mut self, body: &Body, source: &File, start: u64) -> io::Result<()> {
        self.flush()?;
        let mut out = self.file;
        out.seek(SeekFrom::Start(self.at))?;
        let (mut from, end) = (offset(start)?, offset(start + body.len())?);
        while from < end {
            let before = from;
            let most = usize::try_from(end - from).unwrap_or(usize::MAX);
            match sendfile(self.file, source, Some(&mut from), most) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => self.at += sent as u64,
                Err(Errno::EINTR) => {}
                // Not between these two kinds of file.
                Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP)
                    if before == offset(start)? =>
                {
                    self.at = write_chunks(self.file, self.at, body)?;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Writes `body`, quoted, through a buffer; returns where it ends.
fn write_chunks(file: &File, mut at: u64, body: &Body) -> io::Result<u64> {
    let mut quoter = Quoter::new();
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    while done < body.len() {
        let len = match body.read_at(done, &mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        done += len as u64;
        let mut gather = Gather {
            file,
            at,
            parts: Vec::new(),
        };
        gather.push_piece(&mut quoter, &chunk[..len])?;
        gather.flush()?;
        at = gather.at;
    }
    let mut gather = Gather {
        file,
        at,
        parts: Vec::new(),
    };
    let mut outcome = Ok(());
    quoter.finish(|part| outcome = gather.push(part));
    outcome?;
    gather.flush()?;
    Ok(gather.at)
}

/// What ends a message whose content ends like this: an empty line. Empty content follows a
/// heading, which ends in LF.
fn ending(content: &[u8]) -> &'static [u8] {
    if content.is_empty() || content.ends_with(b"\n") {
        b"\n"
    } else {
        b"\n\n"
    }
}

fn last_octet(body: &Body) -> io::Result<[u8; 1]> {
    let mut last = [b'\n'];
    if let Some(at) = body.len().checked_sub(1) {
        while let Err(error) = body.read_at(at, &mut last) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    Ok(last)
}

fn offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| Errno::EFBIG.into())
}
