//! Text from outside, shown in one printable line.

use std::fmt::{self, Write as _};

/// Shows text from outside in one printable line: controls, DEL, backslash and non-ASCII as `\n`,
/// `\r`, `\t`, `\\`, `\xNN`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: AsRef<[u8]>> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().iter().try_for_each(|&octet| match octet {
            b'\\' => f.write_str("\\\\"),
            b' '..=b'~' => f.write_char(octet.into()),
            _ => escape(f, octet),
        })
    }
}

/// Writes a control or non-ASCII octet as its escape.
pub(crate) fn escape(out: &mut impl fmt::Write, octet: u8) -> fmt::Result {
    match octet {
        b'\n' => out.write_str("\\n"),
        b'\r' => out.write_str("\\r"),
        b'\t' => out.write_str("\\t"),
        _ => write!(out, "\\x{octet:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_is_escaped() {
        let rows: [(&[u8], &str); 5] = [
            (b"john@example.org", "john@example.org"),
            (b"a\r\nb\tc", "a\\r\\nb\\tc"),
            (b"a\\nb", "a\\\\nb"),
            (b"\x00\x7f\xff\xc3\xa9", "\\x00\\x7f\\xff\\xc3\\xa9"),
            (b"", ""),
        ];
        for (octets, shown) in rows {
            assert_eq!(Escaped(octets).to_string(), shown);
        }
    }
}
