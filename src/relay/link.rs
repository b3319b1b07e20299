//! A TCP connection to a next hop: commands out, replies in, every wait with a deadline, nothing unbounded.
//!
//! The hop is a peer like any other and may be hostile. A reply has one deadline for the whole of it, however slowly
//! it drips (and may overrun it by a sixteenth); its size is bounded by [`ReplyReader`]. A reply that comes before it was asked for would be taken for the
//! answer to the next command, at worst for the `250` of a message that nobody took; so before a command, and before
//! the end of mail data, the line must be silent.
//!
//! Another thread can cut the connection through a [`Handle`], except between `354` and the reply to the final dot:
//! cut there, nobody knows whether the message arrived.

use crate::net::stream::Stream;
use crate::smtp::reply::{RemoteReply, ReplyError, ReplyReader};
use socket2::SockRef;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Set while a message is between `354` and its reply.
const PAST_DATA: u8 = 1;
/// Set once somebody wants the connection to end.
const INTERRUPTED: u8 = 2;

/// What went wrong on the way.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("timed out")]
    TimedOut,
    #[error("closed by the other side")]
    Closed,
    #[error("interrupted by our own stop")]
    Interrupted,
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A reply, whole if it is one, that answers nothing.
    #[error("an answer without a question")]
    OutOfTurn(Option<RemoteReply>),
    #[error("{}", without_number(.0))]
    Io(io::Error),
}

/// The connection; closed when dropped.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream<Arc<TcpStream>>,
    shared: Arc<Shared>,
    timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    socket: Arc<TcpStream>,
    phase: AtomicU8,
}

/// Ends a connection from another thread. Keeps nothing open by itself.
#[derive(Clone, Debug)]
pub struct Handle(Weak<Shared>);

impl Handle {
    /// Shuts the connection down, so that a thread that waits on it returns at once, unless a message is between
    /// `354` and its reply: then that reply is waited for, and the connection takes no further message. False if so.
    pub fn interrupt_unless_past_data(&self) -> bool {
        let Some(shared) = self.0.upgrade() else {
            return true;
        };
        let past_data = shared.phase.fetch_or(INTERRUPTED, Ordering::SeqCst) & PAST_DATA != 0;
        if !past_data {
            let _ = shared.socket.shutdown(Shutdown::Both);
        }
        !past_data
    }
}

impl Link {
    /// `timeout`: for the connection, for each piece written, and for each reply.
    pub fn connect(addr: SocketAddr, timeout: Duration) -> Result<Link, LinkError> {
        let socket = Arc::new(TcpStream::connect_timeout(&addr, timeout)?);
        // Every write is a whole command or a large piece of data.
        socket.set_nodelay(true)?;
        let phase = AtomicU8::new(0);
        Ok(Link {
            stream: Stream::new(Arc::clone(&socket), Duration::ZERO, Arc::default()),
            shared: Arc::new(Shared { socket, phase }),
            timeout,
        })
    }

    pub fn handle(&self) -> Handle {
        Handle(Arc::downgrade(&self.shared))
    }

    pub fn shorten_timeout(&mut self, timeout: Duration) {
        self.timeout = self.timeout.min(timeout);
    }

    /// One command, without its line end, and its reply.
    pub fn command(&mut self, line: &str) -> Result<RemoteReply, LinkError> {
        self.expect_silence()?;
        match self.write(format!("{line}\r\n").as_bytes()) {
            Ok(()) => self.reply(),
            Err(error) => Err(self.last_words(error)),
        }
    }

    /// The next reply.
    pub fn reply(&mut self) -> Result<RemoteReply, LinkError> {
        let mut now = Instant::now();
        let deadline = now + self.timeout;
        let mut reader = ReplyReader::default();
        loop {
            let (used, reply) = reader.feed(self.stream.buffered())?;
            self.stream.consume(used);
            if let Some(reply) = reply {
                return Ok(reply);
            }
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return Err(LinkError::TimedOut);
            }
            if self.stream.fill(left, now)? == 0 {
                return Err(self.closed());
            }
            now = Instant::now();
        }
    }

    /// All of it, before the deadline.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        Ok(self.stream.write_all(bytes, self.timeout, Instant::now())?)
    }

    /// After a write failed: a hop that hangs up often says why first.
    pub fn last_words(&mut self, error: LinkError) -> LinkError {
        match error {
            // It listens to nothing; it will not speak either.
            LinkError::TimedOut => error,
            _ => match self.reply() {
                Ok(reply) => LinkError::OutOfTurn(Some(reply)),
                Err(_) => match self.closed() {
                    LinkError::Closed => error,
                    interrupted => interrupted,
                },
            },
        }
    }

    /// Nothing has come that was not asked for, and the other side has not hung up.
    pub fn expect_silence(&mut self) -> Result<(), LinkError> {
        if self.skip_empty_lines() && self.stream.fill_now()? == Some(0) {
            return Err(self.closed());
        }
        if self.skip_empty_lines() {
            return Ok(());
        }
        let reply = ReplyReader::default().feed(self.stream.buffered());
        Err(LinkError::OutOfTurn(
            reply.ok().and_then(|(_, reply)| reply),
        ))
    }

    /// Whether nothing else has been read. (Some hops end a reply with an empty line too many.)
    fn skip_empty_lines(&mut self) -> bool {
        let input = self.stream.buffered();
        let is_empty = input.trim_ascii().is_empty();
        if is_empty {
            self.stream.consume(input.len());
        }
        is_empty
    }

    /// Mail data follows: from here to [`data_ended`](Self::data_ended) no interrupt.
    pub fn data_begins(&mut self) -> Result<(), LinkError> {
        match self.shared.phase.fetch_or(PAST_DATA, Ordering::SeqCst) & INTERRUPTED {
            0 => Ok(()),
            _ => Err(LinkError::Interrupted),
        }
    }

    /// False if an interrupt came meanwhile: nothing more may be sent.
    pub fn data_ended(&mut self) -> bool {
        self.shared.phase.fetch_and(!PAST_DATA, Ordering::SeqCst) & INTERRUPTED == 0
    }

    /// At once: what is written and not sent yet is thrown away, not left to the system to send for minutes.
    pub fn cut(&mut self) {
        let _ = SockRef::from(&*self.shared.socket).set_linger(Some(Duration::ZERO));
        let _ = self.shared.socket.shutdown(Shutdown::Both);
    }

    fn closed(&self) -> LinkError {
        match self.shared.phase.load(Ordering::SeqCst) & INTERRUPTED {
            0 => LinkError::Closed,
            _ => LinkError::Interrupted,
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => LinkError::TimedOut,
            _ => LinkError::Io(error),
        }
    }
}

/// `Connection refused`, without ` (os error 111)`.
fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}
