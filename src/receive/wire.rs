//! The receiver's side of a stream: replies that wait until the next read leave together, and an end that loses none.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::contention::Contention;
use crate::net::stream::Stream;
use crate::smtp::reply::Reply;

/// Room for a few replies, in octets: all that a client that awaits each needs.
const REPLIES: usize = 256;
/// Replies that wait are sent at this many octets, whatever comes.
const REPLIES_MAX: usize = 4 * 1024;

/// A stream and the replies that wait to be sent.
#[derive(Debug)]
pub struct Wire<'a> {
    stream: Stream<&'a TcpStream>,
    replies: Vec<u8>,
}

impl<'a> Wire<'a> {
    /// `timeout`: what the socket's read and write timeouts are now.
    pub fn new(socket: &'a TcpStream, timeout: Duration, contention: &Arc<Contention>) -> Wire<'a> {
        Wire {
            stream: Stream::new(socket, timeout, Arc::clone(contention)),
            replies: Vec::new(),
        }
    }

    /// Input that was read and not consumed.
    pub fn buffered(&self) -> &[u8] {
        self.stream.buffered()
    }

    /// Drops the first `n` octets of [`buffered`](Wire::buffered).
    pub fn consume(&mut self, n: usize) {
        self.stream.consume(n);
    }

    /// Sends what replies there are, then reads once; `Ok(0)` is the end of input. Without a `deadline` it is set, `wait`
    /// from now.
    ///
    /// # Errors
    /// Kind `TimedOut` when `wait` or the time until `deadline` has passed without input or with replies unsent;
    /// else what the system reports.
    pub fn fill(&mut self, wait: Duration, deadline: &mut Option<Instant>) -> io::Result<usize> {
        let mut now = Instant::now();
        let deadline = *deadline.get_or_insert_with(|| now + wait);
        if !self.replies.is_empty() {
            self.flush(wait, now)?;
            now = Instant::now();
        }
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.fill(wait.min(left), now)
    }

    /// Adds a reply to those that leave together at the next [`fill`](Wire::fill).
    ///
    /// # Errors
    /// Kind `TimedOut` when a client that only sends has gathered many replies and does not take them; else what the
    /// system reports.
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

    fn flush(&mut self, wait: Duration, now: Instant) -> io::Result<()> {
        let result = self.stream.write_all(&self.replies, wait, now);
        self.replies.clear();
        result
    }

    /// Ends the connection so that no reply is lost to a reset: sends what waits, within `wait`, ends writing, then
    /// reads and drops what the peer still sends, for `linger` at most.
    pub fn close(mut self, wait: Duration, linger: Duration) {
        let sent = self.stream.write_last(&self.replies, wait, Instant::now());
        if sent.is_ok() {
            self.stream.drain(linger);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    const WAIT: Duration = Duration::from_secs(300);

    /// Both ends of a connection, the first with [`WAIT`] as its timeouts.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(WAIT)).unwrap();
        server.set_write_timeout(Some(WAIT)).unwrap();
        (server, client)
    }

    fn wire(socket: &TcpStream) -> Wire<'_> {
        Wire::new(socket, WAIT, &Arc::default())
    }

    #[test]
    fn input_of_any_size_comes_through_whole() {
        let (server, mut client) = pair();
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
        let copy = sent.clone();
        let sender = thread::spawn(move || client.write_all(&copy).unwrap());
        let (mut wire, mut got, mut largest) = (wire(&server), Vec::new(), 0);
        while wire.fill(WAIT, &mut None).unwrap() > 0 {
            let n = wire.buffered().len().div_ceil(2); // leave some of it for later
            largest = largest.max(wire.buffered().len());
            got.extend_from_slice(&wire.buffered()[..n]);
            wire.consume(n);
        }
        got.extend_from_slice(wire.buffered());
        sender.join().unwrap();
        assert!(got == sent);
        assert!(largest <= 2 * 70_000, "the buffer is bounded: {largest}");
    }

    #[test]
    fn replies_leave_together_and_before_the_next_read() {
        let (server, mut client) = pair();
        let (mut wire, host) = (wire(&server), "a.example".parse().unwrap());
        for _ in 0..3 {
            wire.reply(&Reply::ready(&host), WAIT).unwrap();
        }
        client.set_nonblocking(true).unwrap();
        let mut got = [0; 1000];
        let nothing = client.read(&mut got).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
        client.write_all(b"x").unwrap();
        assert_eq!(wire.fill(WAIT, &mut None).unwrap(), 1);
        let n = client.read(&mut got).unwrap();
        assert_eq!(got[..n].split(|&b| b == b'\n').count(), 4, "in one piece");
    }

    #[test]
    fn a_timeout_is_set_only_when_it_changes() {
        let (server, mut client) = pair();
        let mut wire = wire(&server);
        let mut fill = |deadline: &mut Option<Instant>| {
            // A read that polls sets none.
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(20));
                    client.write_all(b"x").unwrap();
                });
                wire.fill(WAIT, deadline).unwrap();
            });
            server.read_timeout().unwrap().unwrap()
        };
        assert_eq!(fill(&mut None), WAIT, "the inherited one fits");
        let soon = fill(&mut Some(Instant::now() + WAIT / 2));
        assert!(soon <= WAIT / 2 && soon > WAIT / 3, "{soon:?}");
    }

    #[test]
    fn a_deadline_that_has_passed_reads_nothing() {
        let (server, mut client) = pair();
        client.write_all(b"late").unwrap();
        let mut past = Some(Instant::now());
        let error = wire(&server).fill(WAIT, &mut past).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_client_that_takes_nothing_is_given_up() {
        let (server, _client) = pair();
        let (mut wire, host) = (wire(&server), "a.example".parse().unwrap());
        let wait = Duration::from_millis(50);
        let error = (0..1_000_000).find_map(|_| wire.reply(&Reply::ready(&host), wait).err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_last_reply_outlives_unread_input() {
        let (server, mut client) = pair();
        let (mut wire, host) = (wire(&server), "a.example".parse().unwrap());
        client.write_all(&[b'x'; 100_000]).unwrap();
        wire.reply(&Reply::ready(&host), WAIT).unwrap();
        let reader = thread::spawn(move || {
            let mut all = String::new();
            client.read_to_string(&mut all).unwrap();
            all
        });
        wire.close(WAIT, WAIT);
        drop(server);
        assert!(reader.join().unwrap().starts_with("220 a.example"));
    }
}
