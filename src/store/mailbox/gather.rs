//! Writing copies to an open mbox file in as few calls as there can be: what is in memory is
//! gathered, uncopied, into pwritev; the part of a large message that lies in a file goes from file
//! to file inside the kernel, or all of it through one buffer if it needs quoting. Writes at an offset of the
//! caller's, syncs nothing, and on an error leaves the file in whatever state it is in: cutting it
//! back is the caller's.

use crate::message::Body;
use crate::store::mailbox::MailboxMessage;
use crate::store::mailbox::quote::{Quoter, most_added};
use crate::store::writeback::{self, Ahead};
use nix::errno::Errno;
use nix::sys::uio::pwritev;
use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};

/// The most parts that the kernel takes in one call (IOV_MAX).
const MOST_PARTS: usize = 1024;
/// What content in a file that needs quoting is read by.
const CHUNK: usize = 64 * 1024;

/// The most octets that `copies` can come to in the file.
pub(crate) fn most_octets(copies: &[MailboxMessage]) -> u64 {
    let most = |copy: &MailboxMessage| {
        let quoting = if copy.body.may_need_quoting() {
            most_added(copy.body.len())
        } else {
            0
        };
        // What cannot be read ends in the longer way, until it is written.
        let end = ending(&copy.body).map_or(2, <[u8]>::len);
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
    copies: &[MailboxMessage],
) -> io::Result<u64> {
    let mut place = Place {
        file,
        at,
        ahead: Ahead::new(file, at),
    };
    let mut gather = Gather {
        place: &mut place,
        parts: Vec::with_capacity(3 * copies.len() + 1),
    };
    gather.push(gap)?;
    for copy in copies {
        let body: &Body = &copy.body;
        gather.push(&copy.heading)?;
        match (body.in_file(), body.may_need_quoting()) {
            (Some(_), true) => {
                gather.flush()?;
                write_chunks(gather.place, body)?;
            }
            (Some((source, offset, len)), false) => {
                gather.flush()?;
                match gather.place.send(source, offset, len)? {
                    true => gather.push(body.in_memory())?,
                    false => write_chunks(gather.place, body)?,
                }
            }
            (None, true) => gather.push_quoted(body.in_memory())?,
            (None, false) => gather.push(body.in_memory())?,
        }
        gather.push(ending(body)?)?;
        if body.len() >= writeback::PIECE {
            gather.flush()?;
        }
    }
    gather.flush()?;
    Ok(place.at)
}

/// Where in the file the next octets go.
struct Place<'f> {
    file: &'f File,
    at: u64,
    ahead: Ahead<'f>,
}

impl Place<'_> {
    fn write(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.ahead.reach(self.at);
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
        Ok(())
    }

    /// Content of a file, moved inside the kernel; false, and nothing moved, if that cannot be between these two kinds
    /// of file.
    fn send(&mut self, source: &File, offset: u64, len: u64) -> io::Result<bool> {
        const CANNOT: [Errno; 3] = [Errno::EINVAL, Errno::ENOSYS, Errno::EOPNOTSUPP];
        let mut out = self.file;
        out.seek(SeekFrom::Start(self.at))?;
        let (sent, outcome) = self.ahead.send(self.at, source, offset, len);
        self.at += sent;
        match outcome {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(errno) if sent == 0 && CANNOT.contains(&errno) => Ok(false),
                _ => Err(error),
            },
        }
    }
}

/// Parts that lie in memory, for the next place in the file.
struct Gather<'p, 'f, 'd> {
    place: &'p mut Place<'f>,
    parts: Vec<IoSlice<'d>>,
}

impl<'d> Gather<'_, '_, 'd> {
    fn push(&mut self, part: &'d [u8]) -> io::Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        if self.parts.len() == MOST_PARTS {
            self.flush()?;
        }
        self.parts.push(IoSlice::new(part));
        Ok(())
    }

    fn push_quoted(&mut self, content: &'d [u8]) -> io::Result<()> {
        let mut quoter = Quoter::new();
        self.push_piece(&mut quoter, content)?;
        let mut outcome = Ok(());
        quoter.finish(|part| outcome = self.push(part));
        outcome
    }

    fn push_piece(&mut self, quoter: &mut Quoter, piece: &'d [u8]) -> io::Result<()> {
        let mut outcome = Ok(());
        quoter.feed(piece, |part| {
            if outcome.is_ok() {
                outcome = self.push(part);
            }
        });
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        self.place.write(&mut self.parts)?;
        self.parts.clear();
        Ok(())
    }
}

/// Writes `body`, quoted, through a buffer.
fn write_chunks(place: &mut Place, body: &Body) -> io::Result<()> {
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
            place,
            parts: Vec::new(),
        };
        gather.push_piece(&mut quoter, &chunk[..len])?;
        gather.flush()?;
    }
    let mut gather = Gather {
        place,
        parts: Vec::new(),
    };
    let mut outcome = Ok(());
    quoter.finish(|part| outcome = gather.push(part));
    outcome?;
    gather.flush()
}

/// What ends a message whose content ends like this: an empty line. Empty content follows a
/// heading, which ends in LF.
fn ending(body: &Body) -> io::Result<&'static [u8]> {
    let mut last = [b'\n'];
    if let Some(at) = body.len().checked_sub(1) {
        while let Err(error) = body.read_at(at, &mut last) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    Ok(match &last {
        b"\n" => b"\n",
        _ => b"\n\n",
    })
}

fn offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| Errno::EFBIG.into())
}
