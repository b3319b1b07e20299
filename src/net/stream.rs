//! What the two sides that talk over TCP share, the receiver and the sender: a stream that can be looked at without
//! sleeping, and how to read from a peer that may be near.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::MsgFlags;
use socket2::SockRef;

use crate::net::crowd::CROWD;

/// How long a read looks for input before it sleeps.
const LOOK: Duration = Duration::from_micros(60);
/// A peer that answers within this time is near.
const NEAR: Duration = Duration::from_millis(1);

/// A read that brings as much, in octets, is part of something larger.
const FLOW: usize = 2048;

/// What a conversation needs from its stream beyond reading and writing.
pub trait Stream: Read + Write {
    /// Bounds each following read; expiry is an error of kind `WouldBlock` or `TimedOut`.
    ///
    /// # Errors
    /// What the system reports; never for a connected socket.
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()>;
    /// Bounds each following write in the same way.
    ///
    /// # Errors
    /// What the system reports; never for a connected socket.
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()>;
    /// Reads what is there; an error of kind `WouldBlock` if nothing is.
    ///
    /// # Errors
    /// What the system reports.
    fn read_now(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes what [`end_writing`](Stream::end_writing) follows at once, so that both may go in one packet.
    ///
    /// # Errors
    /// What the system reports.
    fn write_last(&mut self, buf: &[u8]) -> io::Result<usize>;
    /// Tells the peer that nothing more will come.
    ///
    /// # Errors
    /// What the system reports, for instance that the peer is gone.
    fn end_writing(&self) -> io::Result<()>;
}

impl Stream for &TcpStream {
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_read_timeout(self, Some(timeout))
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_write_timeout(self, Some(timeout))
    }
    fn read_now(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT;
        nix::sys::socket::recv(self.as_raw_fd(), buf, flags).map_err(io::Error::from)
    }
    fn write_last(&mut self, buf: &[u8]) -> io::Result<usize> {
        let flags = nix::libc::MSG_MORE | nix::libc::MSG_NOSIGNAL;
        SockRef::from(*self).send_with_flags(buf, flags)
    }
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Reads from a peer that may be near.
///
/// One on the same machine or network answers at once, and is served without a sleep and a wake-up, which cost more
/// than the command itself: the reader looks for [`LOOK`] whether something has come, giving way to the daemon's other
/// threads between the looks, before it sleeps. A peer whose answer took longer than [`NEAR`] is not looked for the next
/// time, and nobody is where other programs want the processors (`crowd.rs`).
#[derive(Debug)]
pub(crate) struct Reader {
    near: bool,
    /// The last read brought so much that more is on its way, or here.
    flows: bool,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            near: true,
            flows: false,
        }
    }
}

impl Reader {
    /// Reads once, beginning `now`; sleeps if need be.
    ///
    /// # Errors
    /// What the stream reports.
    pub(crate) fn read<S: Stream>(
        &mut self,
        stream: &mut S,
        buf: &mut [u8],
        now: Instant,
    ) -> io::Result<usize> {
        let looked = match self.near {
            true => look(stream, buf, self.flows, now),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
        let read = match looked {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let read = stream.read(buf);
                self.near = now.elapsed() < NEAR;
                read
            }
            other => other,
        };
        self.flows = read.as_ref().is_ok_and(|n| *n >= FLOW);
        read
    }
}

/// Looks for input without sleeping: an error of kind `WouldBlock` if nothing came, or if there is no looking beside a
/// crowd. `at_once`: it may be here already; else who has just been answered is given a moment first. `now`: this
/// moment, so that nobody asks the clock again.
pub(crate) fn look<S: Stream>(
    stream: &mut S,
    buf: &mut [u8],
    at_once: bool,
    now: Instant,
) -> io::Result<usize> {
    if !CROWD.may_give_way(now) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    if at_once {
        match stream.read_now(buf) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    let (until, mut before) = (now + LOOK, now);
    loop {
        thread::yield_now();
        let after = Instant::now();
        CROWD.gave_way(after - before, after);
        match stream.read_now(buf) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && after < until => before = after,
            other => return other,
        }
    }
}

/// Whether a timeout is worth a system call: not while it is the right one, or longer by a sixteenth of it at most. A
/// shorter one would end a wait before its time.
pub(crate) fn differs(set: Duration, wanted: Duration) -> bool {
    set < wanted || set - wanted > wanted / 16
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Nothing is there at first; a read that sleeps takes as long as it is told.
    struct Sleepy {
        sleep: Duration,
        looks: usize,
    }

    impl Read for Sleepy {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            thread::sleep(self.sleep);
            Ok(1)
        }
    }

    impl Write for Sleepy {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for Sleepy {
        fn set_read_timeout(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
        fn set_write_timeout(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
        fn read_now(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.looks += 1;
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn write_last(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn end_writing(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_peer_that_is_far_is_not_looked_for() {
        let (sleep, looks) = (NEAR * 2, 0);
        let (mut stream, mut reader) = (Sleepy { sleep, looks }, Reader::default());
        assert!(reader.near, "it is not known at first");
        reader.read(&mut stream, &mut [0], Instant::now()).unwrap();
        // (How often it was looked for depends on who else is busy on this machine.)
        let looks = stream.looks;
        reader.read(&mut stream, &mut [0], Instant::now()).unwrap();
        assert_eq!(stream.looks, looks);
    }
}
