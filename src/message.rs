//! What was received: the envelope, the content, and the lines that a receiver adds on top of it.
//!
//! Content is kept with LF line ends and without the dots of transparency (RFC 788 4.5.2); neither a bare CR nor a
//! bare LF gets this far, so CRLF can be put back exactly. It stays in memory up to [`MEMORY_LIMIT`]; the rest goes
//! to a file without a name, which the kernel drops with its last descriptor, so that a client that vanishes or a
//! daemon that is killed leaves nothing behind. A failed write is kept until [`BodyWriter::finish`], because the
//! answer to mail data comes after its end.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use std::{fmt, mem};

use memchr::{memchr, memmem, memrchr};

use crate::config::TimeStamp;
use crate::date::Utc;
use crate::smtp::address::{ForwardPath, Host, ReversePath};

/// Octets of one message held in memory; with its read buffer a client stays far below 1 MiB.
pub const MEMORY_LIMIT: usize = 256 * 1024;

/// The buffer of a message at first, in octets.
const BUFFER: usize = 4 * 1024;

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
        write!(f, "{:016x}", self.0)
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

/// Mail data with LF line ends, in memory or as a region of a file. Threads may share it: reads carry their offset.
#[derive(Debug)]
pub struct Body {
    content: Content,
    may_need_quoting: bool,
}

#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    File { file: File, offset: u64, len: u64 },
}

impl Body {
    /// Content in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Body {
        let may_need_quoting = memmem::find(&bytes, b"From ").is_some();
        Body {
            content: Content::Memory(bytes),
            may_need_quoting,
        }
    }

    /// `len` octets at `offset` of `file`, which must be readable and keep its content.
    pub fn from_file(file: File, offset: u64, len: u64) -> Body {
        Body {
            content: Content::File { file, offset, len },
            may_need_quoting: true,
        }
    }

    /// Its length in octets, line ends counted as one.
    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File { len, .. } => *len,
        }
    }

    /// Whether it has no octets at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The content, if it is in memory.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Memory(bytes) => Some(bytes),
            Content::File { .. } => None,
        }
    }

    /// The file and the offset in it, if the content is in a file.
    pub fn as_file(&self) -> Option<(&File, u64)> {
        match &self.content {
            Content::Memory(_) => None,
            Content::File { file, offset, .. } => Some((file, *offset)),
        }
    }

    /// Whether a line may match `^>*From `: false is certain, true is a perhaps.
    pub fn may_need_quoting(&self) -> bool {
        self.may_need_quoting
    }

    /// Reads from `at`, counted from the start of the content; 0 octets at its end.
    ///
    /// # Errors
    /// What the file's read reports; none for content in memory.
    pub fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        match &self.content {
            Content::Memory(bytes) => {
                let rest = bytes.get(at as usize..).unwrap_or_default();
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            Content::File { file, offset, len } => {
                let n = len.saturating_sub(at).min(buf.len() as u64) as usize;
                let read = file.read_at(&mut buf[..n], offset + at)?;
                if read == 0 && n > 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the message's file is cut short",
                    ));
                }
                Ok(read)
            }
        }
    }

    /// A reader of the whole content.
    pub fn reader(&self) -> impl Read + '_ {
        BodyReader { body: self, at: 0 }
    }
}

struct BodyReader<'a> {
    body: &'a Body,
    at: u64,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read_at(self.at, buf)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Collects mail data as it comes.
#[derive(Debug)]
pub struct BodyWriter {
    buffer: Vec<u8>,
    spilled: Option<(File, u64)>,
    spill_dir: PathBuf,
    failed: Option<io::Error>,
    may_need_quoting: bool,
    hops: HopCounter,
}

impl BodyWriter {
    /// `spill_dir`: where a large message's unnamed file is made.
    pub fn new(spill_dir: &Path) -> BodyWriter {
        BodyWriter {
            buffer: Vec::new(),
            spilled: None,
            spill_dir: spill_dir.to_owned(),
            failed: None,
            may_need_quoting: false,
            hops: HopCounter::default(),
        }
    }

    /// Takes the next piece, cut anywhere.
    pub fn push(&mut self, piece: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.hops.push(piece);
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(BUFFER); // most messages fit, and need no second one
        }
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= MEMORY_LIMIT
            && let Err(error) = self.spill()
        {
            self.failed = Some(error);
            self.buffer = Vec::new();
        }
    }

    /// How many `Received:` and `Mail-From:` lines the header has so far.
    pub fn hops(&self) -> usize {
        self.hops.count
    }

    /// The content, whole.
    ///
    /// # Errors
    /// The first failed write to the spill file, for instance a full disk.
    pub fn finish(mut self) -> io::Result<Body> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.spilled.is_none() {
            return Ok(Body::from_bytes(self.buffer));
        }
        self.spill()?;
        let may_need_quoting = self.may_need_quoting;
        match self.spilled {
            Some((file, len)) => Ok(Body {
                content: Content::File {
                    file,
                    offset: 0,
                    len,
                },
                may_need_quoting,
            }),
            None => Ok(Body::from_bytes(self.buffer)),
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        let (file, len) = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert((unnamed_file(&self.spill_dir)?, 0)),
        };
        // A line that is cut by the end of the buffer is looked at in two halves: say perhaps.
        let tail = memrchr(b'\n', &self.buffer).map_or(0, |lf| lf + 1);
        let cut_line = self
            .buffer
            .get(tail)
            .is_some_and(|&b| b == b'>' || b == b'F');
        self.may_need_quoting |= cut_line || memmem::find(&self.buffer, b"From ").is_some();
        file.write_all(&self.buffer)?;
        *len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A file in `dir` that has no name; where the file system cannot make one, a named one that is removed at once.
fn unnamed_file(dir: &Path) -> io::Result<File> {
    let unnamed = File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(dir);
    match unnamed {
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(nix::libc::EOPNOTSUPP | nix::libc::EISDIR | nix::libc::EINVAL)
            ) =>
        {
            let path = dir.join(format!("{}.spill.new", Id::new()));
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        other => other,
    }
}

/// Counts the trace lines of a header, up to the first empty line.
#[derive(Debug, Default)]
struct HopCounter {
    line: [u8; 10],
    line_len: usize,
    count: usize,
    body: bool,
}

impl HopCounter {
    fn push(&mut self, mut piece: &[u8]) {
        while !self.body && !piece.is_empty() {
            let end = memchr(b'\n', piece);
            let part = &piece[..end.unwrap_or(piece.len())];
            if self.line_len < self.line.len() {
                let n = part.len().min(self.line.len() - self.line_len);
                self.line[self.line_len..self.line_len + n].copy_from_slice(&part[..n]);
                self.line_len += n;
            }
            let Some(end) = end else { return };
            let line = &self.line[..mem::take(&mut self.line_len)];
            let trace = |word: &[u8]| {
                line.get(..word.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(word))
            };
            self.count += usize::from(trace(b"Received:") || trace(b"Mail-From:"));
            self.body = line.is_empty();
            piece = &piece[end + 1..];
        }
    }
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
            let _ = write!(line, "Received: from {helo} ({client}) by {hostname}");
            let _ = write!(line, " with SMTP id {id}");
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
