//! Mail data in both directions: line ends, leading dots, the end (RFC 788 sections 4.1.1 and 4.5.2).
//!
//! Inside the program content is LF-ended lines without the extra dots. Outside it is `<CRLF>` lines with
//! them. A bare CR or LF never survives reception, so the two forms are one to one.
//!
//! The end of data is where mail is smuggled past a server. So there is one rule a session: after
//! `<CRLF>` command lines only `<CRLF>.<CRLF>` ends the data, after LF command lines an LF-ended line
//! that holds one dot (a CR just before an LF is dropped there). The first line counts as just after a
//! line end. A bare CR, or a bare LF in a `<CRLF>` session, makes the message bad, and still only the
//! true end ends it.
//!
//! Incremental: any split of the input gives the same. Content is handed on in slices of the input, about
//! one a line, never octet by octet; nothing is allocated or kept.

use super::line::LineEnd;
use memchr::{memchr, memchr2};

/// Mail data in reception: removes leading dots and CRs, finds the end.
#[derive(Debug)]
pub struct DataReader {
    end: LineEnd,
    position: Position,
    bad: bool,
    ending: usize,
}

/// Where the next octet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// First in a line.
    LineStart,
    /// After a line's leading dot.
    Dot,
    /// After a line's leading dot and CR.
    DotCr,
    /// In a line.
    Inside,
    /// After a CR that is not the one of `DotCr`.
    Cr,
    /// After the end of data.
    Done,
}

/// What one [`DataReader::feed`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Octets of the input used.
    pub used: usize,
    /// The end of mail data was reached.
    pub done: bool,
}

impl DataReader {
    /// A reader at the start of mail data, in a session with this line end.
    pub fn new(end: LineEnd) -> Self {
        DataReader {
            end,
            position: Position::LineStart,
            bad: false,
            ending: 0,
        }
    }

    /// Decodes `input`, handing pieces of LF-ended content to `out`. Stops just after the end of data;
    /// what follows is commands. Nothing more is handed on once the message is bad.
    pub fn feed(&mut self, input: &[u8], out: &mut impl FnMut(&[u8])) -> Progress {
        // input[from..at] is content that has been read and not yet handed on.
        let (mut from, mut at) = (0, 0);
        while let Some(&octet) = input.get(at) {
            match (self.position, octet) {
                (Position::Done, _) => break,
                (Position::Dot | Position::DotCr, b'\n') if self.ends_here() => {
                    self.ending = if self.position == Position::Dot { 2 } else { 3 };
                    self.position = Position::Done;
                    at += 1;
                    from = at;
                    break;
                }
                (Position::LineStart, b'.') => {
                    self.hand_on(&input[from..at], out);
                    self.position = Position::Dot;
                    at += 1;
                    from = at;
                }
                (Position::Dot, b'\r') => {
                    self.position = Position::DotCr;
                    at += 1;
                    from = at;
                }
                (Position::Cr, b'\n') => {
                    self.position = Position::LineStart;
                    at += 1;
                }
                (Position::DotCr | Position::Cr, _) => {
                    self.bad = true;
                    self.position = Position::Inside;
                }
                (Position::LineStart | Position::Dot | Position::Inside, _) => {
                    self.position = Position::Inside;
                    let Some(found) = memchr2(b'\r', b'\n', &input[at..]) else {
                        at = input.len();
                        break;
                    };
                    at += found;
                    if input[at] == b'\r' {
                        self.hand_on(&input[from..at], out);
                        from = at + 1; // the LF, if one follows, is content
                        self.position = Position::Cr;
                    } else if self.end == LineEnd::Lf {
                        self.position = Position::LineStart;
                    } else {
                        self.bad = true;
                    }
                    at += 1;
                }
            }
        }
        self.hand_on(&input[from..at], out);
        Progress {
            used: at,
            done: self.position == Position::Done,
        }
    }

    /// A bare CR or LF was seen: the answer at the end is `554`.
    pub fn is_bad(&self) -> bool {
        self.bad
    }

    /// Octets of the line that ended mail data, its line end included; 0 before that.
    pub fn ending(&self) -> usize {
        self.ending
    }

    /// Whether an LF after a line's lone dot, or its dot and CR, is the end of data.
    fn ends_here(&self) -> bool {
        self.position == Position::DotCr || self.end == LineEnd::Lf
    }

    fn hand_on(&self, content: &[u8], out: &mut impl FnMut(&[u8])) {
        if !self.bad && !content.is_empty() {
            out(content);
        }
    }
}

/// Mail data on the way out: LF-ended content to `<CRLF>` lines with leading dots doubled. A CR in the
/// content goes out as it is.
#[derive(Debug, Default)]
pub struct DataWriter {
    inside_line: bool,
}

impl DataWriter {
    /// Appends the outside form of a piece of content to `out`. Any split of the content gives the same.
    pub fn feed(&mut self, content: &[u8], out: &mut Vec<u8>) {
        out.reserve(content.len() + content.len() / 16);
        let mut rest = content;
        while let Some(first) = rest.first() {
            if !self.inside_line && *first == b'.' {
                out.push(b'.');
            }
            let Some(at) = memchr(b'\n', rest) else {
                out.extend_from_slice(rest);
                self.inside_line = true;
                return;
            };
            let (line, next) = rest.split_at(at);
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
            self.inside_line = false;
            rest = next.get(1..).unwrap_or_default();
        }
    }

    /// Ends an unfinished line, then appends the line of one dot.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.inside_line {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_handed_on_in_one_piece() {
        let mut pieces = Vec::new();
        let mut reader = DataReader::new(LineEnd::CrLf);
        let progress = reader.feed(b"one\r\ntwo\r\n..three\r\n.\r\nQUIT\r\n", &mut |piece| {
            pieces.push(String::from_utf8_lossy(piece).into_owned());
        });
        assert_eq!(pieces, ["one", "\ntwo", "\n", ".three", "\n"]);
        assert_eq!((progress.used, progress.done), (22, true));
    }

    #[test]
    fn lf_lines_are_handed_on_together() {
        let mut pieces = 0;
        let mut reader = DataReader::new(LineEnd::Lf);
        reader.feed(b"one\ntwo\n\nthree\n.\n", &mut |_| pieces += 1);
        assert_eq!(pieces, 1);
    }

    #[test]
    fn nothing_is_used_after_the_end() {
        let mut reader = DataReader::new(LineEnd::CrLf);
        let mut none = |_: &[u8]| panic!("no content");
        let whole = Progress {
            used: 3,
            done: true,
        };
        assert_eq!(reader.feed(b".\r\n.\r\n", &mut none), whole);
        assert_eq!(
            reader.feed(b"x", &mut none),
            Progress {
                used: 0,
                done: true
            }
        );
    }

    #[test]
    fn content_on_the_way_out() {
        for (content, expected) in [
            ("", ".\r\n"),
            ("\n", "\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (".\n", "..\r\n.\r\n"),
            ("..\n", "...\r\n.\r\n"),
            ("a.\n.b\n", "a.\r\n..b\r\n.\r\n"),
            ("no end", "no end\r\n.\r\n"),
            ("8-bit \u{fc}\n", "8-bit \u{fc}\r\n.\r\n"),
        ] {
            for at in 0..=content.len() {
                let (mut writer, mut out) = (DataWriter::default(), Vec::new());
                writer.feed(&content.as_bytes()[..at], &mut out);
                writer.feed(&content.as_bytes()[at..], &mut out);
                writer.finish(&mut out);
                assert_eq!(String::from_utf8_lossy(&out), expected, "split at {at}");
            }
        }
    }
}
