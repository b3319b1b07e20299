//! A stream with manners: input in a bounded buffer, replies gathered and sent together, and a deadline on both.
//!
//! The stream's own timeouts bound a single wait; a deadline bounds the sum of waits. A system call to change a
//! timeout is made only when the time that is left differs from what the stream has already, which for a client
//! that sends whole lines is never: the timeouts that it inherited from the listener fit.
//!
//! An idle client costs no buffer: the first octets are read into the stack and the buffer grows with the use.

use std::io;
use std::time::{Duration, Instant};

use crate::net::stream::{Reader, Stream, differs, look};
use crate::smtp::reply::Reply;

/// The first read of a client goes through the stack; two full command lines fit.
const FIRST_READ: usize = 1024;
/// The buffer's sizes, in octets: at first, and when the client keeps filling it.
const BUFFER: usize = 4 * 1024;
const BUFFER_MAX: usize = 64 * 1024;
/// Room for a few replies, in octets: all that a client that awaits each needs.
const REPLIES: usize = 256;
/// Replies waiting for company are sent at this many octets, whatever comes.
const REPLIES_MAX: usize = 4 * 1024;

/// A stream, its input buffer, and the replies that wait to be sent.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    input: Vec<u8>,
    start: usize,
    end: usize,
    replies: Vec<u8>,
    reader: Reader,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl<S: Stream> Wire<S> {
    /// `timeout`: what the stream's read and write timeouts are now.
    pub fn new(stream: S, timeout: Duration) -> Wire<S> {
        Wire {
            stream,
            input: Vec::new(),
            start: 0,
            end: 0,
            replies: Vec::new(),
            reader: Reader::default(),
            read_timeout: timeout,
            write_timeout: timeout,
        }
    }

    /// Input that was read and not consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Drops the first `n` octets of [`buffered`](Wire::buffered).
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Sends what replies there are, then reads once; `Ok(0)` is the end of input. Without a `deadline` it is set, `wait`
    /// from now.
    ///
    /// # Errors
    /// Kind `TimedOut` when `wait` or the time until `deadline` has passed without input or with replies unsent;
    /// else what the stream reports.
    pub fn fill(&mut self, wait: Duration, deadline: &mut Option<Instant>) -> io::Result<usize> {
        let mut now = Instant::now();
        let deadline = *deadline.get_or_insert_with(|| now + wait);
        if !self.replies.is_empty() {
            self.flush(wait, now)?;
            now = Instant::now();
        }
        loop {
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.set_read_timeout(wait.min(left))?;
            match self.read(now) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => now = Instant::now(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                other => return other,
            }
        }
    }

    /// Adds a reply to those that leave together at the next [`fill`](Wire::fill).
    ///
    /// # Errors
    /// Like [`flush`](Wire::flush), when a client that only sends has gathered many replies.
    pub fn reply(&mut self, reply: &Reply, wait: Duration) -> io::Result<()> {
        if self.replies.capacity() == 0 {
            self.replies.reserve(REPLIES);
        }
        reply.write(&mut self.replies);
        if self.replies.len() > REPLIES_MAX {
            self.flush(wait, Instant::now())
        } else {
            Ok(())
        }
    }

    /// Sends the replies that wait, within `wait` from `now` in all.
    ///
    /// # Errors
    /// Kind `TimedOut` when the client does not take them; else what the stream reports. Either way they are gone.
    pub fn flush(&mut self, wait: Duration, now: Instant) -> io::Result<()> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let result = self.send_replies(wait, now, std::io::Write::write);
        self.replies.clear();
        result
    }

    fn send_replies(
        &mut self,
        wait: Duration,
        now: Instant,
        write: fn(&mut S, &[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let deadline = now + wait;
        let (mut sent, mut left) = (0, wait);
        while sent < self.replies.len() {
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if differs(self.write_timeout, left) {
                self.stream.set_write_timeout(left)?;
                self.write_timeout = left;
            }
            match write(&mut self.stream, &self.replies[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(e) => return Err(e),
            }
            if sent < self.replies.len() {
                left = deadline.saturating_duration_since(Instant::now());
            }
        }
        Ok(())
    }

    /// Ends the conversation so that no reply is lost to a reset: sends what waits, within `wait`, ends writing, then
    /// reads and drops what the peer still sends, for `linger` at most.
    pub fn close(mut self, wait: Duration, linger: Duration) {
        let sent = self.send_replies(wait, Instant::now(), S::write_last);
        if sent.is_err() || self.stream.end_writing().is_err() {
            return;
        }
        let deadline = Instant::now() + linger;
        self.input = Vec::new();
        let mut dropped = [0; FIRST_READ];
        loop {
            // A client that has what it wanted is gone at once: no system call for a timeout.
            let read = match look(&mut self.stream, &mut dropped, false, Instant::now()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || self.stream.set_read_timeout(left).is_err() {
                        return;
                    }
                    self.stream.read(&mut dropped)
                }
                other => other,
            };
            match read {
                Ok(n) if n > 0 && Instant::now() < deadline => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        if differs(self.read_timeout, timeout) {
            self.stream.set_read_timeout(timeout)?;
            self.read_timeout = timeout;
        }
        Ok(())
    }

    fn read(&mut self, now: Instant) -> io::Result<usize> {
        if self.input.is_empty() {
            let mut first = [0; FIRST_READ];
            let n = self.reader.read(&mut self.stream, &mut first, now)?;
            if n > 0 {
                self.input.resize(BUFFER, 0);
                self.input[..n].copy_from_slice(&first[..n]);
                self.end = n;
            }
            return Ok(n);
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.input.len() || self.end * 2 > self.input.len() {
            let size = (self.input.len() * 2).min(BUFFER_MAX);
            self.input.resize(size.max(self.end + BUFFER), 0);
        }
        let buffer = &mut self.input[self.end..];
        let n = self.reader.read(&mut self.stream, buffer, now)?;
        self.end += n;
        if self.end == self.input.len() && self.input.len() < BUFFER_MAX {
            self.input.resize(self.input.len() * 2, 0); // it sends more than fits: read larger pieces
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::io::{Read, Write};

    /// A stream by script: each read gives the next piece; writes are kept, one entry a call.
    #[derive(Default)]
    struct Script {
        pieces: RefCell<VecDeque<Vec<u8>>>,
        written: RefCell<Vec<Vec<u8>>>,
        timeouts: RefCell<Vec<Duration>>,
    }

    impl Read for &Script {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let Some(mut piece) = self.pieces.borrow_mut().pop_front() else {
                return Ok(0);
            };
            let n = piece.len().min(buf.len());
            buf[..n].copy_from_slice(&piece[..n]);
            if n < piece.len() {
                self.pieces.borrow_mut().push_front(piece.split_off(n));
            }
            Ok(n)
        }
    }

    impl Write for &Script {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.written.borrow_mut().push(buf.to_vec());
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for &Script {
        fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
            self.timeouts.borrow_mut().push(timeout);
            Ok(())
        }
        fn set_write_timeout(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
        fn read_now(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.read(buf)
        }
        fn write_last(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.write(buf)
        }
        fn end_writing(&self) -> io::Result<()> {
            Ok(())
        }
    }

    const WAIT: Duration = Duration::from_secs(300);

    #[test]
    fn input_of_any_size_comes_through_whole() {
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let script = Script::default();
        script
            .pieces
            .borrow_mut()
            .extend(sent.chunks(70_000).map(<[u8]>::to_vec));
        let mut wire = Wire::new(&script, WAIT);
        let mut got = Vec::new();
        while wire.fill(WAIT, &mut None).unwrap() > 0 {
            let n = wire.buffered().len().div_ceil(2); // leave some of it for later
            got.extend_from_slice(&wire.buffered()[..n]);
            wire.consume(n);
            assert!(
                wire.input.len() <= BUFFER_MAX + BUFFER,
                "the buffer is bounded"
            );
        }
        got.extend_from_slice(wire.buffered());
        assert_eq!(got, sent);
    }

    #[test]
    fn replies_leave_together_and_before_the_next_read() {
        let script = Script::default();
        let mut wire = Wire::new(&script, WAIT);
        let host = "a.example".parse().unwrap();
        for _ in 0..3 {
            wire.reply(&Reply::ready(&host), WAIT).unwrap();
        }
        assert!(script.written.borrow().is_empty());
        assert_eq!(wire.fill(WAIT, &mut None).unwrap(), 0);
        let written = script.written.borrow();
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].split(|&b| b == b'\n').count(), 4);
    }

    #[test]
    fn a_timeout_is_set_only_when_it_changes() {
        let script = Script::default();
        let mut wire = Wire::new(&script, WAIT);
        wire.fill(WAIT, &mut None).unwrap();
        assert!(
            script.timeouts.borrow().is_empty(),
            "the inherited one fits"
        );
        let mut soon = Some(Instant::now() + WAIT / 2);
        wire.fill(WAIT, &mut soon).unwrap();
        assert_eq!(script.timeouts.borrow().len(), 1);
    }

    #[test]
    fn a_deadline_that_has_passed_reads_nothing() {
        let script = Script::default();
        script.pieces.borrow_mut().push_back(b"late".to_vec());
        let mut wire = Wire::new(&script, WAIT);
        let mut past = Some(Instant::now());
        let error = wire.fill(WAIT, &mut past).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
