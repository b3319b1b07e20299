//! Command lines, cut out of whatever pieces the network delivers.
//!
//! * A session's line end is that of its first line. In a `<CRLF>` session a line that ends in a bare LF
//!   is bad, and the LF ends it; in an LF session one CR just before the LF is dropped. Any other CR is a
//!   fault everywhere, so a line never means one thing here and another to the next server.
//! * Bounded: [`LINE_MAX`] octets with the line end as received (RFC 788 section 4.5.3). A longer line is
//!   handed over as one faulty line as soon as that is certain, and the rest of it is skipped unseen, so
//!   that a client is refused by its first octets and never held in memory.
//! * Any split of the input gives the same lines.

use memchr::memchr;

/// Octets in a command line with its end, as received (RFC 788 section 4.5.3). The caller's buffer must
/// hold as many.
pub const LINE_MAX: usize = 512;

/// A session's line end, taken from its first command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// `<CRLF>`, the standard.
    CrLf,
    /// LF: a person or a script at plain netcat.
    Lf,
}

/// Cuts command lines out of input.
#[derive(Debug, Default)]
pub struct LineReader {
    end: Option<LineEnd>,
    /// An overlong line is being skipped; its last octet so far.
    skipping: Option<u8>,
}

/// What [`LineReader::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum LineStep<'a> {
    /// A line.
    Line {
        /// The line without its end; of an overlong line, its beginning.
        line: &'a [u8],
        /// Octets of the input used, with the line end (and the rest of an overlong line before).
        used: usize,
        /// It must get `500`: too long, a bare CR or LF, a control or an 8-bit character.
        fault: bool,
    },
    /// No whole line yet: drop `used` octets (of an overlong line that is being skipped) and read more.
    More {
        /// Octets of the input used.
        used: usize,
    },
}

impl LineReader {
    /// The session's line end, once a whole line has been seen.
    pub fn end(&self) -> Option<LineEnd> {
        self.end
    }

    /// The next line in `input`, which is everything that was received and not yet used.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> LineStep<'a> {
        let Some(skipped) = self.skip(input) else {
            return LineStep::More { used: input.len() };
        };
        let rest = input.get(skipped..).unwrap_or_default();
        let window = rest.get(..LINE_MAX).unwrap_or(rest);
        let Some(at) = memchr(b'\n', window) else {
            if window.len() < LINE_MAX {
                return LineStep::More { used: skipped };
            }
            self.skipping = window.last().copied();
            return LineStep::Line {
                line: window,
                used: skipped + LINE_MAX,
                fault: true,
            };
        };
        let received = &window[..at];
        let (line, this) = match received.strip_suffix(b"\r") {
            Some(line) => (line, LineEnd::CrLf),
            None => (received, LineEnd::Lf),
        };
        let end = *self.end.get_or_insert(this);
        let bare_lf = end == LineEnd::CrLf && this == LineEnd::Lf;
        LineStep::Line {
            line,
            used: skipped + at + 1,
            fault: bare_lf || !line.iter().all(|b| matches!(b, b' '..=b'~')),
        }
    }

    /// Octets at the start of `input` that belong to an overlong line; `None` if it does not end there.
    fn skip(&mut self, input: &[u8]) -> Option<usize> {
        let Some(last) = self.skipping else {
            return Some(0);
        };
        let Some(at) = memchr(b'\n', input) else {
            self.skipping = input.last().copied().or(Some(last));
            return None;
        };
        let before = at.checked_sub(1).map_or(last, |before| input[before]);
        self.skipping = None;
        self.end.get_or_insert(match before {
            b'\r' => LineEnd::CrLf,
            _ => LineEnd::Lf,
        });
        Some(at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines of `input`, which arrives in pieces of `size`, with their faults.
    fn lines(input: &[u8], size: usize) -> (Vec<(Vec<u8>, bool)>, Option<LineEnd>) {
        let (mut reader, mut buffer, mut found) = (LineReader::default(), Vec::new(), Vec::new());
        for piece in input.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                let used = match reader.next(&buffer) {
                    LineStep::Line { line, used, fault } => {
                        found.push((line.to_vec(), fault));
                        used
                    }
                    LineStep::More { used } => {
                        buffer.drain(..used);
                        break;
                    }
                };
                buffer.drain(..used);
            }
            assert!(buffer.len() < LINE_MAX, "bounded");
        }
        (found, reader.end())
    }

    #[test]
    fn line_ends_and_faults() {
        use LineEnd::{CrLf, Lf};
        const GOOD: bool = false;
        const BAD: bool = true;
        type Row = (&'static [u8], LineEnd, &'static [(&'static [u8], bool)]);
        let rows: &[Row] = &[
            // good
            (b"NOOP\r\n", CrLf, &[(b"NOOP", GOOD)]),
            (b"NOOP\n", Lf, &[(b"NOOP", GOOD)]),
            (b"\r\n", CrLf, &[(b"", GOOD)]),
            (b"\n", Lf, &[(b"", GOOD)]),
            (b"A\r\nB\r\n", CrLf, &[(b"A", GOOD), (b"B", GOOD)]),
            // an LF session drops one CR before the LF
            (b"A\nB\r\n", Lf, &[(b"A", GOOD), (b"B", GOOD)]),
            // a CRLF session: the bare LF ends a bad line
            (
                b"A\r\nB\nC\r\n",
                CrLf,
                &[(b"A", GOOD), (b"B", BAD), (b"C", GOOD)],
            ),
            // bare CRs
            (b"A\rB\r\n", CrLf, &[(b"A\rB", BAD)]),
            (b"A\rB\n", Lf, &[(b"A\rB", BAD)]),
            (b"A\r\r\n", CrLf, &[(b"A\r", BAD)]),
            (b"A\nB\r\r\n", Lf, &[(b"A", GOOD), (b"B\r", BAD)]),
            (b"\rA\r\n", CrLf, &[(b"\rA", BAD)]),
            // controls and 8-bit
            (b"A\0B\r\n", CrLf, &[(b"A\0B", BAD)]),
            (b"A\tB\r\n", CrLf, &[(b"A\tB", BAD)]),
            (b"A\x7fB\r\n", CrLf, &[(b"A\x7fB", BAD)]),
            (b"A\xfcB\r\n", CrLf, &[(b"A\xfcB", BAD)]),
            (b"A ~\r\n", CrLf, &[(b"A ~", GOOD)]),
        ];
        for (input, end, expected) in rows {
            for size in 1..=input.len() {
                let (found, found_end) = lines(input, size);
                let found: Vec<_> = found.iter().map(|(l, f)| (l.as_slice(), *f)).collect();
                let shown = input.escape_ascii();
                assert_eq!(found, *expected, "{shown} in pieces of {size}");
                assert_eq!(found_end, Some(*end), "{shown}");
            }
        }
    }

    #[test]
    fn length_counts_the_line_end_and_one_line_is_one_fault() {
        for (end, kind) in [("\r\n", LineEnd::CrLf), ("\n", LineEnd::Lf)] {
            for (len, bad) in [
                (510, false),
                (511, false),
                (512, false),
                (513, true),
                (514, true),
            ]
            .into_iter()
            .chain([(1024, true), (1025, true), (5000, true), (100_000, true)])
            {
                let long = "x".repeat(len - end.len());
                let input = format!("{long}{end}NOOP{end}");
                for size in [1, 2, 511, 512, 513, 4096, input.len()] {
                    let (found, found_end) = lines(input.as_bytes(), size);
                    assert_eq!(found.len(), 2, "{len} octets in pieces of {size}");
                    assert_eq!(found[0].1, bad, "{len} octets in pieces of {size}");
                    assert!(long.as_bytes().starts_with(&found[0].0[..508]));
                    assert_eq!(found[1], (b"NOOP".to_vec(), false));
                    assert_eq!(found_end, Some(kind));
                }
            }
        }
    }

    #[test]
    fn an_unfinished_line_is_no_line() {
        assert_eq!(lines(b"QUIT\r", 1), (vec![], None));
        assert_eq!(LineReader::default().next(b""), LineStep::More { used: 0 });
    }
}
