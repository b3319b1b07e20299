//! mboxrd quoting: each line that matches `^>*From ` gets one more `>`, so that it can't be taken
//! for the start of a message and so that taking one `>` away from every `^>+From ` gives the
//! content back.
//!
//! Content comes in pieces of any size, split anywhere; what goes out is slices of these pieces and
//! a few constants, so content in memory is quoted without being copied. The `>` goes before `From
//! `, behind the `>`s that are there: the same octets, and nothing has to be held back but the
//! start of a `From `.

use memchr::memmem::Finder;
use std::io;

const FROM: &[u8] = b"From ";

/// Quotes one message, piece by piece.
pub(crate) struct Quoter {
    finder: Finder<'static>,
    line: Line,
}

/// What the current line holds so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nothing, or only `>`.
    Start,
    /// `>*` and this many octets of `From `, which are still to be put out.
    Partial(usize),
    /// Something that needs no quoting any more.
    Past,
}

impl Quoter {
    /// At the start of a message, hence of a line.
    pub(crate) fn new() -> Quoter {
        Quoter {
            finder: Finder::new(FROM),
            line: Line::Start,
        }
    }

    /// Puts the next piece of the content out.
    ///
    /// # Errors
    /// The first of `put`.
    pub(crate) fn feed<'a>(
        &mut self,
        piece: &'a [u8],
        mut put: impl FnMut(&'a [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Line::Partial(seen) = self.line {
            let same = FROM[seen..]
                .iter()
                .zip(piece)
                .take_while(|(a, b)| a == b)
                .count();
            if seen + same < FROM.len() && same == piece.len() {
                self.line = Line::Partial(seen + same);
                return Ok(());
            }
            if seen + same == FROM.len() {
                put(b">")?;
            }
            put(&FROM[..seen])?;
            self.line = Line::Past;
        }
        let mut put_out = 0;
        for at in self.finder.find_iter(piece) {
            let arrows = piece[..at]
                .iter()
                .rev()
                .take_while(|&&octet| octet == b'>')
                .count();
            let begins_line = match (at - arrows).checked_sub(1) {
                Some(before) => piece[before] == b'\n',
                None => self.line == Line::Start,
            };
            if begins_line {
                put(&piece[put_out..at])?;
                put(b">")?;
                put_out = at;
            }
        }
        let last_line = match memchr::memrchr(b'\n', piece) {
            Some(end) => {
                self.line = Line::Start;
                &piece[end + 1..]
            }
            None => piece,
        };
        let mut held = 0;
        if self.line == Line::Start {
            let arrows = last_line.iter().take_while(|&&octet| octet == b'>').count();
            let rest = &last_line[arrows..];
            if rest.is_empty() {
                self.line = Line::Start;
            } else if rest.len() < FROM.len() && FROM.starts_with(rest) {
                held = rest.len();
                self.line = Line::Partial(held);
            } else {
                self.line = Line::Past;
            }
        }
        put(&piece[put_out..piece.len() - held])
    }

    /// Puts out what was held back; the message ends here.
    ///
    /// # Errors
    /// The one of `put`.
    pub(crate) fn finish(
        self,
        put: impl FnOnce(&'static [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.line {
            Line::Partial(seen) => put(&FROM[..seen]),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn quoted<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut quoter = Quoter::new();
        let mut out = Vec::new();
        let mut put = |part: &[u8]| out.write_all(part);
        for piece in pieces {
            quoter.feed(piece, &mut put).unwrap();
        }
        quoter.finish(put).unwrap();
        out
    }

    const TABLE: &[(&str, &str)] = &[
        // Quoted.
        ("From a\n", ">From a\n"),
        (">From a\n", ">>From a\n"),
        (">>>From a\n", ">>>>From a\n"),
        ("From ", ">From "),
        ("x\nFrom a\n", "x\n>From a\n"),
        ("\n>From a", "\n>>From a"),
        ("From From \n", ">From From \n"),
        ("From \nFrom \n>From \n", ">From \n>From \n>>From \n"),
        // Not quoted.
        ("", ""),
        ("\n", "\n"),
        ("From", "From"),
        ("From\n", "From\n"),
        ("From: a\n", "From: a\n"),
        ("Fro\nm a\n", "Fro\nm a\n"),
        ("from a\nFROM a\n", "from a\nFROM a\n"),
        (" From a\n", " From a\n"),
        ("> From a\n", "> From a\n"),
        ("a From b\n>aFrom c\n", "a From b\n>aFrom c\n"),
        (">>", ">>"),
        (">>Fr", ">>Fr"),
        ("FFrom a\n", "FFrom a\n"),
        ("FroFrom a\n", "FroFrom a\n"),
        ("From>From a\n", "From>From a\n"),
        // A lone CR ends no line here; reception lets none in.
        ("a\rFrom b\n", "a\rFrom b\n"),
    ];

    #[test]
    fn table_whole_byte_by_byte_and_split_at_every_two_points() {
        for (content, want) in TABLE {
            let content = content.as_bytes();
            assert_eq!(quoted([content]), want.as_bytes());
            assert_eq!(quoted(content.chunks(1)), want.as_bytes());
            for i in 0..=content.len() {
                for j in i..=content.len() {
                    let pieces = [&content[..i], &content[i..j], &content[j..]];
                    assert_eq!(quoted(pieces), want.as_bytes(), "{pieces:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn unquoting_gives_the_content_back(
            lines in proptest::collection::vec("[>]{0,3}(From |From|Fro|x)?[>F ]{0,3}", 0..8),
            cut in 0usize..40,
        ) {
            let content = lines.join("\n");
            let cut = cut.min(content.len());
            let out = quoted([&content.as_bytes()[..cut], &content.as_bytes()[cut..]]);
            let out = String::from_utf8(out).unwrap();
            let back: Vec<&str> = out
                .split('\n')
                .map(|line| {
                    assert!(!line.starts_with("From "), "{line:?}");
                    let quoted = line.starts_with('>') && line.trim_start_matches('>').starts_with("From ");
                    &line[usize::from(quoted)..]
                })
                .collect();
            prop_assert_eq!(back.join("\n"), content.clone());
        }
    }
}
