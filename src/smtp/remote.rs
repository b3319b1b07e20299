//! Other hosts' replies, read with patience and bounds (RFC 788 section 4.2, Appendix E for those of many
//! lines). A hostile next hop is a peer too: it costs some 50 KiB at most, and what it says is made
//! printable before anybody sees it.

use super::reply::{REPLY_MAX, printable};
use memchr::memchr;
use std::fmt;

/// Octets of another host's reply line that are read; those over [`REPLY_MAX`] are dropped.
const REMOTE_LINE_MAX: usize = 2048;
/// Lines of another host's reply that are read.
const REMOTE_LINES_MAX: usize = 100;

/// A reply of another host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteReply {
    /// The three-digit code, 200 to 599; that of the last line.
    pub code: u16,
    /// The text of each line, printable ASCII, at most [`REPLY_MAX`] octets each.
    pub lines: Vec<String>,
}

impl RemoteReply {
    /// The text in one line: lines that say something, joined by ` / `.
    pub fn text(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(|line| line.trim()).collect();
        let spoken = lines.into_iter().filter(|line| !line.is_empty());
        spoken.collect::<Vec<_>>().join(" / ")
    }
}

/// `CODE text` in one line: the other host's own words.
impl fmt::Display for RemoteReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            text if text.is_empty() => write!(f, "{}", self.code),
            text => write!(f, "{} {text}", self.code),
        }
    }
}

/// Reads replies incrementally; any split of the input gives the same. Lenient: LF alone ends a line, empty
/// lines before a reply are passed over, `250` needs no text, a tab may follow it, and lines may disagree on the code. Bounded: some 50 KiB.
#[derive(Debug, Default)]
pub struct ReplyReader {
    line: Vec<u8>,
    /// Lines read, empty ones before the reply too.
    count: usize,
    lines: Vec<String>,
}

/// Why what came is not a reply. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A line without a code from 200 to 599.
    #[error("not a reply")]
    Malformed,
    /// A line of over 2,048 octets.
    #[error("a reply line is too long")]
    LineTooLong,
    /// Over 100 lines.
    #[error("a reply has too many lines")]
    TooManyLines,
}

impl ReplyReader {
    /// Takes octets; returns how many it used and, once whole, the reply.
    ///
    /// # Errors
    /// If this is no reply, or none with bounds.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<RemoteReply>), ReplyError> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let end = memchr(b'\n', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + piece.len() > REMOTE_LINE_MAX {
                return Err(ReplyError::LineTooLong);
            }
            self.line.extend_from_slice(piece);
            used += piece.len();
            if end.is_some() {
                used += 1;
                if let Some(code) = self.take_line()? {
                    let lines = std::mem::take(&mut self.lines);
                    self.count = 0;
                    return Ok((used, Some(RemoteReply { code, lines })));
                }
            }
        }
        Ok((used, None))
    }

    /// Keeps a whole line; the code if it is the reply's last.
    fn take_line(&mut self) -> Result<Option<u16>, ReplyError> {
        if self.count == REMOTE_LINES_MAX {
            return Err(ReplyError::TooManyLines);
        }
        self.count += 1;
        let line = self.line.trim_ascii_end();
        if line.is_empty() && self.lines.is_empty() {
            self.line.clear();
            return Ok(None);
        }
        let (code, rest) = line.split_at_checked(3).ok_or(ReplyError::Malformed)?;
        let (more, text) = match rest.split_first() {
            None => (false, rest),
            Some((b' ' | b'\t', text)) => (false, text),
            Some((b'-', text)) => (true, text),
            Some(_) => return Err(ReplyError::Malformed),
        };
        if !matches!(code, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']) {
            return Err(ReplyError::Malformed);
        }
        let code = code
            .iter()
            .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        self.lines.push(printable(text).take(REPLY_MAX).collect());
        self.line.clear();
        Ok((!more).then_some(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_replies() {
        use ReplyError::{LineTooLong, Malformed, TooManyLines};
        let long = |n: usize| format!("250 {}\r\n", "x".repeat(n - 4));
        let many = |n: usize| "250-x\r\n".repeat(n - 1) + "250 x\r\n";
        let kept = format!("250 {}", "x".repeat(512));
        let hundred = format!("250 {}", vec!["x"; 100].join(" / "));
        for (input, expected) in [
            // good
            ("250 OK\r\n", Ok("250 OK")),
            ("250 OK\n", Ok("250 OK")),
            ("250\r\n", Ok("250")),
            ("250 \r\n", Ok("250")),
            ("250-a\r\n250-b\r\n250 c\r\n", Ok("250 a / b / c")),
            ("250-\r\n250-b\r\n250\r\n", Ok("250 b")),
            ("250-a\r\n550 c\r\n", Ok("550 a / c")), // the last code counts
            ("599 x\r\n", Ok("599 x")),
            ("250 \u{fc}\u{7}\tx\r\n", Ok("250 ??? x")),
            ("250 OK\r\r\n", Ok("250 OK")),
            ("250\tOK\tthen\r\n", Ok("250 OK then")),
            ("\r\n250 OK\r\n", Ok("250 OK")),
            ("\n \r\n\t\n250-a\r\n250 b\r\n", Ok("250 a / b")),
            // bad
            ("250-a\r\n\r\n250 b\r\n", Err(Malformed)),
            ("OK\r\n", Err(Malformed)),
            ("25\r\n", Err(Malformed)),
            ("2500 OK\r\n", Err(Malformed)),
            ("250OK\r\n", Err(Malformed)),
            ("150 OK\r\n", Err(Malformed)),
            ("650 OK\r\n", Err(Malformed)),
            ("2x0 OK\r\n", Err(Malformed)),
            (" 250 OK\r\n", Err(Malformed)),
            ("\u{662}50 OK\r\n", Err(Malformed)),
            // bounds
            (&long(2047), Ok(kept.as_str())),
            (&long(2048), Err(LineTooLong)),
            (&many(100), Ok(hundred.as_str())),
            (&many(101), Err(TooManyLines)),
            (&("\r\n".repeat(99) + "250 OK\r\n"), Ok("250 OK")),
            (&("\r\n".repeat(100) + "250 OK\r\n"), Err(TooManyLines)),
        ] {
            let whole = ReplyReader::default().feed(input.as_bytes());
            let mut bytewise = Ok((0, None));
            let mut reader = ReplyReader::default();
            for octet in input.as_bytes() {
                bytewise = reader.feed(&[*octet]);
                if !matches!(bytewise, Ok((1, None))) {
                    break;
                }
            }
            for found in [whole, bytewise] {
                let found = found.map(|(_, reply)| reply.map(|reply| reply.to_string()));
                assert_eq!(found, expected.map(|s| Some(s.to_owned())), "{input:.20}");
            }
        }
    }

    #[test]
    fn two_replies_in_one_piece() {
        let mut reader = ReplyReader::default();
        let (used, reply) = reader.feed(b"250 a\r\n354 b\r\n").unwrap();
        assert_eq!((used, reply.unwrap().code), (7, 250));
        let (used, reply) = reader.feed(b"354 b\r\n").unwrap();
        assert_eq!((used, reply.unwrap().code), (7, 354));
        assert_eq!(reader.feed(b""), Ok((0, None)));
    }
}
