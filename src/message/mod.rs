//! What was received: the envelope, the content, and the lines that a receiver adds on top of it.

pub(crate) mod body;
pub(crate) mod date;
pub(crate) mod escape;

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

pub use crate::message::body::{Body, BodyWriter, MEMORY_LIMIT};
use crate::message::date::Utc;
use crate::smtp::address::{ForwardPath, Host, ReversePath};

/// Names a message: 16 lower-case hexadecimal digits, ordered by the time of reception.
///
/// The upper 52 bits are microseconds since 1970, never the same twice in a process; the lower 12 bits come from
/// the process id, so that two daemons on one machine rarely agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// A new one, larger than all earlier ones of this process.
    #[allow(clippy::new_without_default)] // no two are equal, so none is the default
    pub fn new() -> Id {
        static LAST: AtomicU64 = AtomicU64::new(0);
        static PROCESS: LazyLock<u32> = LazyLock::new(std::process::id);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_micros() as u64);
        let last = LAST
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(now.max(last + 1))
            })
            .unwrap_or_default();
        Id(now.max(last + 1) << 12 | u64::from(*PROCESS & 0xfff))
    }

    /// Reads one back; `None` unless `text` is what [`Id`]'s `Display` writes.
    pub fn parse(text: &str) -> Option<Id> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(hex) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: every message's is written five times.
        let mut digits = [0; 16];
        for (place, digit) in digits.iter_mut().rev().enumerate() {
            *digit = b"0123456789abcdef"[(self.0 >> (4 * place)) as usize & 0xf];
        }
        f.write_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

/// What a session said about a message before its data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Envelope {
    /// The name under which the log and the trace line know the message.
    pub id: Id,
    /// The host that the client named in HELO; only its word.
    pub helo: Host,
    /// The client's address; an IPv4-mapped one is IPv4.
    pub client: IpAddr,
    /// Where reports go (RFC 788 3.1).
    pub from: ReversePath,
    /// Every accepted recipient, in order, repeats included.
    pub to: Vec<ForwardPath>,
    /// When the mail data ended.
    pub received: SystemTime,
}

impl Envelope {
    /// An envelope with a new [`Id`], received now.
    pub fn new(helo: Host, client: IpAddr, from: ReversePath, to: Vec<ForwardPath>) -> Envelope {
        Envelope {
            id: Id::new(),
            helo,
            client,
            from,
            to,
            received: SystemTime::now(),
        }
    }
}

/// A received message.
#[derive(Debug)]
#[non_exhaustive]
pub struct Message {
    /// From whom, to whom, through which client.
    pub envelope: Envelope,
    /// The mail data.
    pub body: Body,
}

impl Message {
    /// Puts the two together.
    pub fn new(envelope: Envelope, body: Body) -> Message {
        Message { envelope, body }
    }
}

#[doc(hidden)] // the daemon's own
/// The trace line that reception writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStamp {
    /// `Received:`, as everything reads today.
    Received,
    /// `Mail-From:`, as RFC 788 4.1.2 writes it.
    MailFrom,
}

#[doc(hidden)] // the daemon's own
/// The time stamp line that a receiver puts on top, LF-ended: `Received:` as everything reads today, or `Mail-From:`
/// as RFC 788 4.1.2 writes it. The recipient is named only if there is just one, so that nobody learns of another.
pub fn time_stamp_line(style: TimeStamp, hostname: &Host, envelope: &Envelope) -> String {
    let at = Utc::at(envelope.received);
    let Envelope { helo, id, .. } = envelope;
    let mut line = String::with_capacity(256);
    // Writing into a String cannot fail.
    match style {
        TimeStamp::Received => {
            let client = Host::literal(envelope.client);
            let _ = write!(
                line,
                "Received: from {helo} ({client}) by {hostname} with SMTP id {id}"
            );
            if let [one] = &envelope.to[..] {
                let _ = write!(line, " for {one}");
            }
            line.push_str("; ");
            at.push_received(&mut line);
        }
        TimeStamp::MailFrom => {
            let _ = write!(line, "Mail-From: {helo} received by {hostname} at ");
            at.push_mail_from(&mut line);
        }
    }
    line.push('\n');
    line
}

/// The two lines that begin a message in an mbox file, LF-ended: the `From ` line and the return path line
/// (RFC 788 4.1.1). `more` is what follows them.
pub fn mbox_heading(from: &ReversePath, now: SystemTime, more: &str) -> String {
    let mut heading = String::with_capacity(256 + more.len());
    heading.push_str("From ");
    // Writing into a String cannot fail.
    let _ = match from {
        ReversePath::Null => heading.write_str("MAILER-DAEMON"),
        ReversePath::Mailbox(mailbox) => write!(heading, "{mailbox}"),
    };
    heading.push(' ');
    Utc::at(now).push_asctime(&mut heading);
    let _ = writeln!(heading, "\nReturn-Path: {from}");
    heading.push_str(more);
    heading
}
