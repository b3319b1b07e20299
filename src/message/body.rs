//! The content of a message: collected as it comes, in memory and beyond that in a file, and read back.
//!
//! Content is kept with LF line ends and without the dots of transparency (RFC 788 4.5.2); neither a bare CR nor a
//! bare LF gets this far, so CRLF can be put back exactly. It stays in memory up to [`MEMORY_LIMIT`]; of more than that
//! the beginning goes to a file without a name, which the kernel drops with its last descriptor, so that a client that
//! vanishes or a daemon that is killed leaves nothing behind. A failed write is kept until [`BodyWriter::finish`],
//! because the answer to mail data comes after its end.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::mem;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::Finder;

use crate::message::Id;
use crate::message::region::{Region, SPILL, digest};

/// Octets of one message held in memory; with its read buffer a client stays far below 1 MiB.
pub const MEMORY_LIMIT: usize = 2 * SPILL;

/// Octets in a line of a header, which has its colon among them (RFC 5322 2.1.1).
const HEADER_LINE: usize = 998;

/// The buffer of a message, in octets: at first, which most fit in, and before it grows to all that it may have at once.
const BUFFER: usize = 4 * 1024;
const BUFFER_MAX: usize = 64 * 1024;

/// Mail data with LF line ends: in memory, in a region of a file, or its beginning there and the rest in memory. Threads
/// may share it: reads carry their offset.
#[derive(Debug)]
pub struct Body {
    /// Its beginning, or all of it.
    region: Option<Region>,
    rest: Vec<u8>,
    may_need_quoting: bool,
}

impl Body {
    /// Content in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Body {
        let may_need_quoting = has_from(&bytes);
        Body {
            region: None,
            rest: bytes,
            may_need_quoting,
        }
    }

    /// `len` octets at `offset` of `file`, which must be readable and keep its content.
    pub fn from_file(file: File, offset: u64, len: u64) -> Body {
        Body {
            region: Some(Region {
                file,
                offset,
                len,
                digests: Vec::new(),
            }),
            rest: Vec::new(),
            may_need_quoting: true,
        }
    }

    /// Its length in octets, line ends counted as one.
    pub fn len(&self) -> u64 {
        let region = self.region.as_ref().map_or(0, |region| region.len);
        region + self.rest.len() as u64
    }

    /// Whether it has no octets at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The content, if all of it is in memory.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.region {
            None => Some(&self.rest),
            Some(_) => None,
        }
    }

    /// Whether a line may match `^>*From `: false is certain, true is a perhaps.
    pub fn may_need_quoting(&self) -> bool {
        self.may_need_quoting
    }

    /// Whether it begins with a header field or an empty line, or is empty: other text would go on with a header line that
    /// is put before it. A field is a name of printable ASCII, white space in old mail (RFC 5322 4.5), and a colon; so the
    /// `From ` line of an mbox file is none.
    pub fn begins_with_header(&self) -> bool {
        let mut line = [0; HEADER_LINE];
        let read = self.read_at(0, &mut line).unwrap_or_default();
        let is_name = |b: &u8| matches!(b, b'!'..=b'9' | b';'..=b'~');
        let name = line.iter().take_while(|b| is_name(b)).count();
        let mut rest = line[name..]
            .iter()
            .skip_while(|b| matches!(b, b' ' | b'\t'));
        read == 0 || line[0] == b'\n' || name > 0 && rest.next() == Some(&b':')
    }

    /// Reads from `at`, counted from the start of the content; 0 octets at its end. Unlike the [`reader`](Body::reader)
    /// it takes what the file gives.
    ///
    /// # Errors
    /// What the file's read reports; none for content in memory.
    pub fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let in_file = self.region.as_ref().map_or(0, |region| region.len);
        if let (Some(region), Some(left @ 1..)) = (&self.region, in_file.checked_sub(at)) {
            let n = left.min(buf.len() as u64) as usize;
            let read = region.file.read_at(&mut buf[..n], region.offset + at)?;
            if read == 0 && n > 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the message's file is cut short",
                ));
            }
            return Ok(read);
        }
        let rest = self.rest.get((at - in_file) as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    /// A reader of the whole content, piece by piece. It fails rather than give anything that was not received: a
    /// device may refuse what waits in a file.
    pub fn reader(&self) -> impl BufRead + '_ {
        BodyReader {
            body: self,
            at: 0,
            piece: Vec::new(),
            start: 0,
        }
    }
}

struct BodyReader<'a> {
    body: &'a Body,
    at: u64,
    /// The piece of the file that was read last, and where it begins.
    piece: Vec<u8>,
    start: u64,
}

impl BufRead for BodyReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let region = self.body.region.as_ref();
        if let Some(region) = region.filter(|region| self.at < region.len) {
            let start = self.at - self.at % SPILL as u64;
            if self.piece.is_empty() || self.start != start {
                self.start = start;
                if let Err(error) = region.read_piece(start, &mut self.piece) {
                    self.piece.clear();
                    return Err(error);
                }
            }
            return Ok(&self.piece[(self.at - start) as usize..]);
        }
        let in_file = region.map_or(0, |region| region.len);
        Ok(&self.body.rest[(self.at - in_file) as usize..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount as u64;
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

/// Collects mail data as it comes.
#[derive(Debug)]
pub struct BodyWriter {
    buffer: Vec<u8>,
    /// The file of what has left memory, and the digest of each piece there.
    spilled: Option<(File, Vec<u64>)>,
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
    #[inline]
    pub fn push(&mut self, piece: &[u8]) {
        if !self.hops.body {
            self.hops.push(piece);
        }
        match piece.len() <= self.buffer.capacity() - self.buffer.len() {
            true => self.buffer.extend_from_slice(piece),
            false => self.push_growing(piece),
        }
    }

    fn push_growing(&mut self, mut piece: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        while piece.len() > MEMORY_LIMIT - self.buffer.len() {
            let (fits, more) = piece.split_at(MEMORY_LIMIT - self.buffer.len());
            self.buffer.extend_from_slice(fits);
            piece = more;
            if let Err(error) = self.spill() {
                self.failed = Some(error);
                self.buffer = Vec::new();
                return;
            }
        }
        let len = self.buffer.len();
        let size = match len + piece.len() {
            small @ ..=BUFFER_MAX => small.next_power_of_two().max(BUFFER),
            _ => MEMORY_LIMIT,
        };
        self.buffer.reserve_exact(size - len);
        self.buffer.extend_from_slice(piece);
    }

    /// How many `Received:` and `Mail-From:` lines the header has so far.
    pub fn hops(&self) -> usize {
        self.hops.count
    }

    /// The first failed write to the spill file: what follows is not kept.
    pub fn error(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    /// The content, whole.
    ///
    /// # Errors
    /// The first failed write to the spill file, for instance a full disk.
    pub fn finish(self) -> io::Result<Body> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let rest = Body::from_bytes(self.buffer);
        Ok(match self.spilled {
            None => rest,
            Some((file, digests)) => Body {
                region: Some(Region {
                    file,
                    offset: 0,
                    len: (digests.len() * SPILL) as u64,
                    digests,
                }),
                may_need_quoting: self.may_need_quoting || rest.may_need_quoting,
                ..rest
            },
        })
    }

    /// Moves the beginning of a full buffer to the file.
    fn spill(&mut self) -> io::Result<()> {
        let (file, digests) = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert((unnamed_file(&self.spill_dir)?, Vec::new())),
        };
        // One that begins at the very end of what leaves is whole here.
        let seen = (SPILL + FROM.len() - 1).min(self.buffer.len());
        self.may_need_quoting |= has_from(&self.buffer[..seen]);
        file.write_all(&self.buffer[..SPILL])?;
        digests.push(digest(&self.buffer[..SPILL]));
        self.buffer.drain(..SPILL);
        Ok(())
    }
}

/// What a line may begin with that an mbox file has to quote.
const FROM: &[u8] = b"From ";

/// Made once: to make it costs more than to search a short message.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(FROM));

/// Whether it is anywhere, at the start of a line or not.
fn has_from(content: &[u8]) -> bool {
    FINDER.find(content).is_some()
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

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
