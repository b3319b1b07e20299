//! How one event looks: one line, always.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use ::log::Level;

use crate::message::date;
use crate::message::escape::escape;

/// The longest line, its line end included: up to this a pipe takes a line in one piece (PIPE_BUF).
pub(super) const LINE_MAX: usize = 4096;

/// Most lines fit, in octets.
pub(super) const ROOM: usize = 256;

/// Appends one event as one line.
pub(super) fn write_line(
    out: &mut String,
    time: SystemTime,
    level: Level,
    message: &fmt::Arguments<'_>,
) {
    out.reserve(ROOM);
    let mut line = OneLine {
        start: out.len(),
        text: out,
    };
    line.text.push_str(&date::iso(time));
    line.text.push_str(match level {
        Level::Error => " ERROR ",
        Level::Warn => " WARN  ",
        Level::Info => " INFO  ",
        Level::Debug => " DEBUG ",
        Level::Trace => " TRACE ",
    });
    // First as it is, which will do nearly always. An error means that the line is full (or that some Display failed):
    // what there is, is kept.
    let begin = line.text.len();
    let _ = line.write_fmt(*message);
    if !is_plain(&line.text.as_bytes()[begin..]) {
        let raw = line.text.split_off(begin);
        line.write_escaped(&raw);
    }
    line.finish();
}

/// Only printable ASCII. (All of it is looked at, without a branch: faster than to stop at the first.)
fn is_plain(text: &[u8]) -> bool {
    text.iter()
        .fold(true, |plain, octet| plain & (b' '..=b'~').contains(octet))
}

/// Text that does not outgrow [`LINE_MAX`] by more than one character.
struct OneLine<'a> {
    text: &'a mut String,
    start: usize,
}

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_MAX.saturating_sub(self.len());
        if text.len() < room {
            self.text.push_str(text);
            return Ok(());
        }
        let end = (room..).find(|&end| text.is_char_boundary(end));
        self.text.push_str(&text[..end.unwrap_or(text.len())]);
        Err(fmt::Error)
    }
}

impl OneLine<'_> {
    /// As much of `text` as fits, without anything that ends a line.
    fn write_escaped(&mut self, text: &str) {
        for c in text.chars() {
            if self.len() >= LINE_MAX {
                return;
            }
            // Line and paragraph separators and text direction marks are no controls to Unicode, but
            // break or reorder a line in some viewers.
            if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                for octet in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = escape(self.text, octet); // writing into a String cannot fail
                }
            } else {
                self.text.push(c);
            }
        }
    }

    fn len(&self) -> usize {
        self.text.len() - self.start
    }

    fn finish(self) {
        if self.len() >= LINE_MAX {
            while self.len() > LINE_MAX - "...\n".len() {
                self.text.pop();
            }
            self.text.push_str("...");
        }
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(level: Level, seconds: f64, message: &str) -> String {
        let mut out = "before\n".to_owned();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        write_line(&mut out, time, level, &format_args!("{message}"));
        out.strip_prefix("before\n").unwrap().to_owned()
    }

    fn line_of(message: &str) -> String {
        line(Level::Info, 1_795_300_201.123_5, message)
    }

    #[test]
    fn a_line_has_utc_milliseconds_a_padded_level_and_the_event() {
        assert_eq!(
            line_of("delivered id=1"),
            "2026-11-21T22:30:01.123Z INFO  delivered id=1\n"
        );
        for level in Level::iter() {
            let expected = format!("1970-01-01T00:00:00.000Z {level:<5} x\n");
            assert_eq!(line(level, 0.0, "x"), expected);
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
