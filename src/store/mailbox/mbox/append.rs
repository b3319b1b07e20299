//! Appends copies to an open mbox file in as few calls as there can be: what is in memory is gathered, uncopied, into
//! writes of up to [`PIECE`] octets; what lies in a file goes through a buffer of that size. Syncs nothing.
//!
//! Each write is in the journal before it begins. The file is open for appending, and its length is looked at after
//! each write: a program that empties or extends it without a lock meanwhile finds no hole and nothing overwritten, and
//! the append fails. After an error the caller undoes what was written, by [`Append::back_to`].

use crate::message::Body;
use crate::store::mailbox::delivery::MailboxMessage;
use crate::store::mailbox::mbox::journal::{Entry, Slot, Sum};
use crate::store::mailbox::mbox::quote::Quoter;
use crate::store::writeback::{self, EarlyWriteback, PIECE};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem;

/// The most parts that the kernel takes in one call (IOV_MAX).
const MAX_PARTS: usize = 1024;

/// An append that is neither finished nor undone.
pub(crate) struct PendingAppend {
    /// None: without a journal.
    pub(crate) slot: Option<Slot>,
    pub(crate) entry: Entry,
    /// It is this process's, so it is undone even if it is whole: nobody was told that it is safe. One of a process
    /// that was killed stays if it is whole.
    pub(crate) ours: bool,
}

impl PendingAppend {
    /// Where the journal takes no entry (the disk of SPOOL_DIR is full, say, and this mailbox is on another), the
    /// append goes on without: its torn end, should the process be killed now, is not cut but ended.
    ///
    /// # Errors
    /// An entry of an earlier write of this append stays there. It would say after the end that the append is torn.
    fn record(&mut self, at: u64) -> io::Result<()> {
        if let Some(slot) = &self.slot
            && let Err(error) = slot.write(&self.entry)
        {
            slot.report(&error);
            if slot.clear().is_err() && at > self.entry.from {
                return Err(error);
            }
            self.slot = None;
        }
        Ok(())
    }
}

/// An append under way; the caller holds the locks.
pub(crate) struct Append<'f> {
    file: &'f File,
    pending: &'f mut PendingAppend,
    /// What is to go before the first message: the end of the last one.
    gap: &'static [u8],
    sum: Sum,
    early: EarlyWriteback,
}

impl<'f> Append<'f> {
    /// Nothing is written yet.
    pub(crate) fn new(
        file: &'f File,
        pending: &'f mut PendingAppend,
        gap: &'static [u8],
    ) -> Append<'f> {
        let from = pending.entry.from;
        Append {
            file,
            pending,
            gap,
            sum: Sum::new(from),
            early: EarlyWriteback(from),
        }
    }

    /// How far it is, for [`back_to`](Append::back_to).
    pub(crate) fn mark(&self) -> Sum {
        self.sum.clone()
    }

    /// Writes `copies`, each quoted and with an empty line after it. `last`: nothing follows.
    pub(crate) fn write(&mut self, copies: &[MailboxMessage], last: bool) -> io::Result<()> {
        let gap = match self.sum.at == self.pending.entry.from {
            true => self.gap,
            false => b"",
        };
        let mut gather = Gather::new(self, 3 * copies.len() + 1);
        gather.push(gap)?;
        for copy in copies {
            let body: &Body = &copy.body;
            gather.push(&copy.heading)?;
            let mut quoter = body.may_need_quoting().then(Quoter::new);
            let mut end = None;
            if let Some(bytes) = body.as_bytes() {
                gather.push_content(quoter.as_mut(), bytes)?;
                end = bytes.last().copied();
            } else {
                gather.flush(false)?;
                writeback::in_pieces(body, |piece| {
                    let mut inner = Gather::new(gather.append, 1);
                    inner.push_content(quoter.as_mut(), piece)?;
                    end = piece.last().copied();
                    inner.flush(false)
                })?;
            }
            if let Some(quoter) = quoter {
                quoter.finish(|part| gather.push(part))?;
            }
            // Empty content follows a heading, which ends in LF.
            gather.push(match end {
                None | Some(b'\n') => b"\n",
                Some(_) => b"\n\n",
            })?;
        }
        gather.flush(last)
    }

    /// Says in the journal that what is there is whole, if the last [`write`](Append::write) could not.
    pub(crate) fn whole(&mut self) -> io::Result<()> {
        self.pending.entry.ends = vec![self.sum.end()];
        self.pending.entry.whole = true;
        self.pending.record(self.sum.at)
    }

    /// Cuts back to `mark`. False: another program has written to the file meanwhile, and nothing is cut.
    pub(crate) fn back_to(&mut self, mark: Sum) -> io::Result<bool> {
        if !self.is_at_end()? {
            return Ok(false);
        }
        if mark.at < self.sum.at {
            self.file.set_len(mark.at)?;
        }
        self.sum = mark;
        Ok(true)
    }

    /// Whether the file ends where this append does.
    fn is_at_end(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() == self.sum.at)
    }

    fn write_parts(&mut self, mut parts: &mut [IoSlice<'_>], last: bool) -> io::Result<()> {
        self.early.reach(self.file, self.sum.at);
        while !parts.is_empty() {
            let mut done = self.sum.clone();
            self.pending.entry.ends = done.advance(parts, usize::MAX);
            self.pending.entry.whole = last;
            self.pending.record(self.sum.at)?;
            let mut file = self.file;
            let written = match file.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match self.sum.at + written as u64 == done.at {
                true => self.sum = done,
                false => drop(self.sum.advance(parts, written)),
            }
            IoSlice::advance_slices(&mut parts, written);
            if !self.is_at_end()? {
                return Err(io::Error::other(
                    "another program changed the mailbox without a lock meanwhile",
                ));
            }
        }
        Ok(())
    }
}

/// Parts that lie in memory, for the next write.
struct Gather<'a, 'f, 'd> {
    append: &'a mut Append<'f>,
    parts: Vec<IoSlice<'d>>,
    len: usize,
}

impl<'a, 'f, 'd> Gather<'a, 'f, 'd> {
    fn new(append: &'a mut Append<'f>, capacity: usize) -> Self {
        Gather {
            append,
            parts: Vec::with_capacity(capacity),
            len: 0,
        }
    }

    fn push(&mut self, mut part: &'d [u8]) -> io::Result<()> {
        while !part.is_empty() {
            if self.len == PIECE || self.parts.len() == MAX_PARTS {
                self.flush(false)?;
            }
            let (now, later) = part.split_at(part.len().min(PIECE - self.len));
            self.parts.push(IoSlice::new(now));
            self.len += now.len();
            part = later;
        }
        Ok(())
    }

    fn push_content(&mut self, quoter: Option<&mut Quoter>, piece: &'d [u8]) -> io::Result<()> {
        match quoter {
            Some(quoter) => quoter.feed(piece, |part| self.push(part)),
            None => self.push(piece),
        }
    }

    fn flush(&mut self, last: bool) -> io::Result<()> {
        self.len = 0;
        let mut parts = mem::take(&mut self.parts);
        self.append.write_parts(&mut parts, last)
    }
}
