//! The stream of both flows: a connected socket whose every read and write ends in bounded time, and a bounded buffer for
//! what was read.
//!
//! The socket's own timeouts bound a single wait; the time that a caller gives bounds the sum of the waits. A system call
//! to change a timeout is made only when the time that is left differs from what the socket has already, which for a
//! client that sends whole lines is never: the timeouts that it inherited from the listener fit.
//!
//! A peer on the same machine or network answers at once, and is served without a sleep and a wake-up, which cost more
//! than the command itself: a read polls for [`POLL`], yielding to other threads between two looks, before it blocks.
//! It does not if the last answer took long or was part of something large, or where programs of others are busy
//! (`contention.rs`).
//!
//! An idle peer costs no buffer: the first octets are read into the stack, and the buffer grows with the use.

use crate::net::contention::Contention;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use std::io::{self, Read};
use std::net::TcpStream;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a read polls before it blocks.
const POLL: Duration = Duration::from_micros(60);
/// A peer that answers within this time is polled the next time.
const NEAR: Duration = Duration::from_millis(1);
/// A read that brings as much, in octets, is part of something larger. Others go through the stack; two full command
/// lines fit.
const BULK: usize = 2048;
/// What is read at once of something larger, in octets.
const PIECE: usize = 64 * 1024;

/// A connected socket, by reference or shared.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    socket: Socket<S>,
    input: Vec<u8>,
    /// From `start` to `end` is what was read and not consumed.
    start: usize,
    end: usize,
    /// The last read was part of something larger.
    bulk: bool,
}

impl<S: Deref<Target = TcpStream>> Stream<S> {
    /// `timeout`: what the socket's read and write timeouts are now. `contention`: shared by those who serve together.
    pub fn new(socket: S, timeout: Duration, contention: Arc<Contention>) -> Stream<S> {
        Stream {
            socket: Socket {
                socket,
                read_timeout: timeout,
                write_timeout: timeout,
                polls: true,
                contention,
            },
            input: Vec::new(),
            start: 0,
            end: 0,
            bulk: false,
        }
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        &self.socket.socket
    }

    /// Input that was read and not consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Drops the first `n` octets of [`buffered`](Self::buffered).
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Reads once, within `wait` from `now`; `Ok(0)` is the end of input.
    ///
    /// # Errors
    /// Kind `TimedOut` when nothing came; else what the system reports.
    pub fn fill(&mut self, wait: Duration, now: Instant) -> io::Result<usize> {
        self.fill_by(|socket, buffer| socket.read(buffer, wait, now))
    }

    /// Reads what is there; `None` if nothing is.
    ///
    /// # Errors
    /// What the system reports.
    pub fn fill_now(&mut self) -> io::Result<Option<usize>> {
        match self.fill_by(Socket::read_now) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read.map(Some),
        }
    }

    fn fill_by(
        &mut self,
        read: impl FnOnce(&mut Socket<S>, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = if self.bulk {
            self.make_room(PIECE);
            read(&mut self.socket, &mut self.input[self.end..])
        } else {
            let mut piece = [0; BULK];
            let read = read(&mut self.socket, &mut piece);
            if let Ok(n) = read {
                self.make_room(n);
                self.input[self.end..self.end + n].copy_from_slice(&piece[..n]);
            }
            read
        };
        self.end += read.as_ref().map_or(0, |n| *n);
        self.bulk = read.as_ref().is_ok_and(|n| *n >= BULK);
        read
    }

    /// What is there already is not cleared again for each read.
    fn make_room(&mut self, len: usize) {
        if self.input.len() < self.end + len {
            self.input.resize(self.end + len, 0);
        }
    }

    /// Sends all of `bytes`, within `wait` from `now`.
    ///
    /// # Errors
    /// Kind `TimedOut` when the peer does not take them; else what the system reports.
    pub fn write_all(&mut self, bytes: &[u8], wait: Duration, now: Instant) -> io::Result<()> {
        self.socket.write_all(bytes, wait, now, MsgFlags::empty())
    }

    /// Sends `bytes` and the end of output, in one packet if they fit, within `wait` from `now`.
    ///
    /// # Errors
    /// As [`write_all`](Self::write_all).
    pub fn write_last(&mut self, bytes: &[u8], wait: Duration, now: Instant) -> io::Result<()> {
        self.socket
            .write_all(bytes, wait, now, MsgFlags::from_bits_retain(libc::MSG_MORE))?;
        self.socket().shutdown(std::net::Shutdown::Write)
    }

    /// Reads and drops what the peer still sends, until it ends or `linger` has passed: closing with unread input would
    /// be a reset, which can overtake what was written last.
    pub fn drain(mut self, linger: Duration) {
        self.input = Vec::new();
        self.socket.polls = true; // a peer that has what it wanted is gone at once
        let mut now = Instant::now();
        let (deadline, mut dropped) = (now + linger, [0; BULK]);
        while let Ok(1..) =
            self.socket
                .read(&mut dropped, deadline.saturating_duration_since(now), now)
        {
            now = Instant::now();
            if now >= deadline {
                return;
            }
        }
    }
}

/// The socket, with its timeouts as they are set.
#[derive(Debug)]
struct Socket<S> {
    socket: S,
    read_timeout: Duration,
    write_timeout: Duration,
    /// Whether the next read polls before it blocks.
    polls: bool,
    contention: Arc<Contention>,
}

impl<S: Deref<Target = TcpStream>> Socket<S> {
    fn read(&mut self, buffer: &mut [u8], wait: Duration, now: Instant) -> io::Result<usize> {
        let mut read = match self.polls && self.contention.may_poll(now) {
            true => self.poll(buffer, now),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
        let (deadline, mut now) = (now + wait, now);
        while let Err(error) = &read
            && matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            )
        {
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if differs(self.read_timeout, left) {
                self.socket.set_read_timeout(Some(left))?;
                self.read_timeout = left;
            }
            read = (&*self.socket).read(buffer);
            let began = std::mem::replace(&mut now, Instant::now());
            self.polls = now - began < NEAR;
            if read
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        self.polls &= read.as_ref().is_ok_and(|n| *n < BULK);
        read
    }

    /// Looks for input until [`POLL`] has passed. Whoever has just been answered is given a moment before the first look.
    fn poll(&mut self, buffer: &mut [u8], now: Instant) -> io::Result<usize> {
        let (until, mut before) = (now + POLL, now);
        loop {
            thread::yield_now();
            let after = Instant::now();
            self.contention.yielded(after - before, after);
            match self.read_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && after < until => {
                    before = after;
                }
                read => return read,
            }
        }
    }

    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT);
        read.map_err(io::Error::from)
    }

    fn write_all(
        &mut self,
        mut bytes: &[u8],
        wait: Duration,
        now: Instant,
        flags: MsgFlags,
    ) -> io::Result<()> {
        let (deadline, mut left) = (now + wait, wait);
        while !bytes.is_empty() {
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if differs(self.write_timeout, left) {
                self.socket.set_write_timeout(Some(left))?;
                self.write_timeout = left;
            }
            match send(
                self.socket.as_raw_fd(),
                bytes,
                flags | MsgFlags::MSG_NOSIGNAL,
            ) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
            if !bytes.is_empty() {
                left = deadline.saturating_duration_since(Instant::now());
            }
        }
        Ok(())
    }
}

/// Whether a timeout that is set must be set anew: never later than wanted, and not so much sooner that it matters.
fn differs(set: Duration, wanted: Duration) -> bool {
    set < wanted || set - wanted > wanted / 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn a_timeout_may_be_a_little_too_long_and_never_too_short() {
        let seconds = Duration::from_secs;
        for (set, wanted, call) in [
            (300, 300, false),
            (300, 290, false),
            (300, 280, true),
            (290, 300, true),
            (0, 300, true),
        ] {
            assert_eq!(
                differs(seconds(set), seconds(wanted)),
                call,
                "{set} {wanted}"
            );
        }
        assert!(differs(
            seconds(300) - Duration::from_millis(2),
            seconds(300)
        ));
    }

    #[test]
    fn who_is_slow_or_sends_much_is_not_polled() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let wait = Duration::from_secs(20);
        let mut stream = Stream::new(&socket, Duration::ZERO, Arc::default());
        assert!(stream.socket.polls, "it is not known at first");
        for (pause, size, polls) in [
            (Duration::ZERO, 10, true),
            (NEAR * 5, 10, false),
            (Duration::ZERO, BULK, false),
            (Duration::ZERO, 10, true),
        ] {
            // What is sent without a pause is there before it is read; what is sent after one is not. Unless the reader
            // itself comes late, or is put aside in the middle of a read: then once more.
            for _ in 0..100 {
                if pause.is_zero() {
                    peer.write_all(&vec![b'x'; size]).unwrap();
                    while socket.peek(&mut vec![0; BULK]).unwrap() < size {}
                    stream.fill(wait, Instant::now()).unwrap();
                } else {
                    thread::scope(|scope| {
                        let peer = &mut peer;
                        scope.spawn(move || {
                            thread::sleep(pause);
                            peer.write_all(&vec![b'x'; size]).unwrap();
                        });
                        stream.fill(wait, Instant::now()).unwrap();
                    });
                }
                let n = stream.buffered().len();
                stream.consume(n);
                if stream.socket.polls == polls {
                    break;
                }
            }
            assert_eq!(stream.socket.polls, polls, "{pause:?} {size}");
        }
    }
}
