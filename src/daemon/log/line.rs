//! How one event looks: one line, always.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use ::log::Level;

use crate::message::date;
use crate::message::escape::escape;

/// The longest line, its line end included: up to this a pipe takes a line in one piece (PIPE_BUF).
pub(super) const LINE_MAX: usize = 4096;

/// The line of one event, with its line end.
pub(super) fn line(time: SystemTime, level: Level, message: &fmt::Arguments<'_>) -> String {
    let mut line = OneLine(String::with_capacity(256)); // enough for most
    // An error means that the line is full, or that some Display failed: what there is, is kept.
    let _ = write!(line, "{} {level:<5} {message}", date::iso(time));
    let OneLine(mut text) = line;
    if text.len() >= LINE_MAX {
        while text.len() > LINE_MAX - "...\n".len() {
            text.pop();
        }
        text.push_str("...");
    }
    text.push('\n');
    text
}

/// Takes text until it is full, and escapes what would end or reorder a line.
struct OneLine(String);

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let plain = text.bytes().all(|octet| matches!(octet, b' '..=b'~'));
        if plain && self.0.len() + text.len() < LINE_MAX {
            self.0.push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            if self.0.len() >= LINE_MAX {
                return Err(fmt::Error);
            }
            // Line and paragraph separators and text direction marks are no controls to Unicode, but
            // break or reorder a line in some viewers.
            if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                for octet in c.encode_utf8(&mut [0; 4]).bytes() {
                    escape(&mut self.0, octet)?;
                }
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line_at(level: Level, seconds: f64, message: &str) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        line(time, level, &format_args!("{message}"))
    }

    fn line_of(message: &str) -> String {
        line_at(Level::Info, 1_795_300_201.123_5, message)
    }

    #[test]
    fn a_line_has_utc_milliseconds_a_padded_level_and_the_event() {
        assert_eq!(
            line_of("delivered id=1"),
            "2026-11-21T22:30:01.123Z INFO  delivered id=1\n"
        );
        for level in Level::iter() {
            let expected = format!("1970-01-01T00:00:00.000Z {level:<5} x\n");
            assert_eq!(line_at(level, 0.0, "x"), expected);
        }
    }

    #[test]
    fn one_event_is_one_line() {
        let rows = [
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td", "line ends and tabs"),
            (
                "a\0b\x1b[2Jc\x7f",
                "a\\x00b\\x1b[2Jc\\x7f",
                "what moves a terminal",
            ),
            (
                "a\u{85}b\u{2028}c",
                "a\\xc2\\x85b\\xe2\\x80\\xa8c",
                "line ends beyond ASCII",
            ),
            ("a\\nb", "a\\nb", "what is escaped already stays"),
            (
                "mailbox=/home/josé",
                "mailbox=/home/josé",
                "our own words stay",
            ),
        ];
        for (message, shown, why) in rows {
            assert_eq!(line_of(message)[31..], format!("{shown}\n"), "{why}");
        }
    }

    #[test]
    fn a_long_line_is_cut() {
        let room = LINE_MAX - line_of("").len();
        assert_eq!(line_of(&"x".repeat(room)).len(), LINE_MAX);
        assert!(line_of(&"x".repeat(room)).ends_with("xx\n"));
        for long in [
            "x".repeat(room + 1),
            "x".repeat(1 << 20),
            "\n".repeat(9999),
            "é".repeat(9999),
        ] {
            let line = line_of(&long);
            assert!(
                line.len() <= LINE_MAX && line.len() > LINE_MAX - 8,
                "{}",
                line.len()
            );
            assert!(line.ends_with("...\n"));
            assert_eq!(line.matches('\n').count(), 1);
        }
    }
}
