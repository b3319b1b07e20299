//! The log: one event, one line on standard output. The only file that prints.
//!
//! * A line is `2026-11-21T22:30:01.123Z INFO  delivered id=...`: UTC, milliseconds, the level padded
//!   to five, then the message, whose first word names the event.
//! * One event is always one line. What came from outside is wrapped in [`Escaped`] where the event is
//!   written; as a last defence the formatter escapes every control character that is left. A line
//!   has at most 4,096 octets, its end included (what a pipe takes in one piece); a longer one is cut and
//!   ends in `...`.
//! * A log that cannot be written never stops the mail. Errors are ignored. A reader that stalls is
//!   waited for once, 1 s; then lines are dropped without waiting until it reads again, and the log
//!   says how many were lost. Nothing here panics.
//!
//! What it cannot do: promise that a line arrived. Nothing may depend on it.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ::log::Level;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest line, its line end included: up to this a pipe takes a line in one piece (PIPE_BUF).
const LINE_MAX: usize = 4096;

/// Lines that wait while another thread writes, in octets; more are counted as lost.
const QUEUE_MAX: usize = 256 * 1024;

/// How long a stalled reader is waited for, once, before lines are dropped.
const STALL: Duration = Duration::from_secs(1);

/// Without RUST_LOG: our own events, and of other crates only what they call an error.
const FILTER: &str = "error,smtpd788=info";

/// Installs the logger on standard output. RUST_LOG (if not empty) overrides `info`. A second call
/// does nothing.
pub fn init() {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = if filter.trim().is_empty() {
        FILTER
    } else {
        &filter
    };
    let filter = env_logger::Builder::new().parse_filters(filter).build();
    let most = filter.filter();
    let desk = Desk::new(Sink::new(io::stdout(), STALL));
    if ::log::set_boxed_logger(Box::new(Front { filter, desk })).is_ok() {
        ::log::set_max_level(most);
    }
}

/// What the crate `log` talks to: env_logger judges, the desk takes the lines.
struct Front<F: AsFd> {
    filter: env_logger::Logger,
    desk: Desk<F>,
}

impl<F: AsFd + Send + Sync> ::log::Log for Front<F> {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.filter.matches(record) {
            let line = line(SystemTime::now(), record.level(), record.args());
            self.desk.take(&line);
        }
    }

    fn flush(&self) {
        self.desk.flush();
    }
}

/// Lines on their way out. Whoever finds nobody writing writes, and then writes what others left meanwhile; they do
/// not wait. So a busy log needs fewer writes, and a slow one holds up one thread at the most.
struct Desk<F> {
    queue: Mutex<Queue>,
    idle: Condvar,
    sink: Mutex<Sink<F>>,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    lost: u64,
    writing: bool,
}

impl<F: AsFd> Desk<F> {
    fn new(sink: Sink<F>) -> Desk<F> {
        Desk {
            queue: Mutex::default(),
            idle: Condvar::new(),
            sink: Mutex::new(sink),
        }
    }

    fn take(&self, line: &[u8]) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() + line.len() > QUEUE_MAX {
            queue.lost = queue.lost.saturating_add(1);
        } else {
            queue.lines.extend_from_slice(line);
        }
        if queue.writing {
            return;
        }
        queue.writing = true;
        let mut spare = Vec::new();
        while !queue.lines.is_empty() {
            let lines = mem::replace(&mut queue.lines, spare);
            let lost = mem::take(&mut queue.lost);
            drop(queue);
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            sink.put_all(&lines);
            sink.lost = sink.lost.saturating_add(lost);
            drop(sink);
            spare = lines;
            spare.clear();
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        }
        queue.lines = spare; // its room is used again
        queue.writing = false;
        drop(queue);
        self.idle.notify_all();
    }

    /// Waits until all is written, or a stalled reader has had its time.
    fn flush(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.idle
                .wait_timeout_while(queue, 2 * STALL, |queue| queue.writing),
        );
    }
}

/// Writes `text` as it is to standard output, for `-h`, `-V`, `-t` and `-q`. Waits for a slow reader;
/// a failure is ignored, as nobody is left to be told.
pub fn out(text: &str) {
    write_out(&io::stdout(), text.as_bytes());
}

/// Writes `text` as it is to standard error; otherwise like [`out`].
pub fn err(text: &str) {
    write_out(&io::stderr(), text.as_bytes());
}

fn write_out(fd: &impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(0) => return,
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if writable(fd, None) => {}
            Err(_) => return,
        }
    }
}

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

fn escape(out: &mut impl fmt::Write, octet: u8) -> fmt::Result {
    match octet {
        b'\n' => out.write_str("\\n"),
        b'\r' => out.write_str("\\r"),
        b'\t' => out.write_str("\\t"),
        _ => write!(out, "\\x{octet:02x}"),
    }
}

/// One event as the octets of one line.
fn line(time: SystemTime, level: Level, message: &fmt::Arguments<'_>) -> Vec<u8> {
    let mut line = OneLine(String::with_capacity(256));
    stamp(time, &mut line.0);
    // An error means that the line is full (or that some Display failed): what there is, is kept.
    let _ = write!(line, " {level:<5} {message}");
    line.finish()
}

/// `2026-11-21T22:30:01.123Z`. By hand: it stands on every line, and a format string costs more than the rest of it.
fn stamp(time: SystemTime, out: &mut String) {
    // A clock beyond the year 9999 is no reason to fail.
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let at = jiff::tz::TimeZone::UTC.to_datetime(time);
    let mut digits = |number: i32, width: u32, end: char| {
        for place in (0..width).rev() {
            let digit = number.unsigned_abs() / 10_u32.pow(place) % 10;
            out.push(char::from(b'0' + digit as u8));
        }
        out.push(end);
    };
    digits(at.year().into(), 4, '-');
    digits(at.month().into(), 2, '-');
    digits(at.day().into(), 2, 'T');
    digits(at.hour().into(), 2, ':');
    digits(at.minute().into(), 2, ':');
    digits(at.second().into(), 2, '.');
    digits(at.millisecond().into(), 3, 'Z');
}

/// Text that cannot hold a line end and does not outgrow [`LINE_MAX`] by more than one character.
struct OneLine(String);

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let plain = text.bytes().all(|octet| (b' '..=b'~').contains(&octet));
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
                c.encode_utf8(&mut [0; 4])
                    .bytes()
                    .try_for_each(|o| escape(&mut self.0, o))?;
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

impl OneLine {
    fn finish(mut self) -> Vec<u8> {
        if self.0.len() >= LINE_MAX {
            while self.0.len() > LINE_MAX - "...\n".len() {
                self.0.pop();
            }
            self.0.push_str("...");
        }
        self.0.push('\n');
        self.0.into_bytes()
    }
}

/// Where lines go. Each `write` takes a whole line and reports success, whatever happens.
struct Sink<F> {
    fd: F,
    /// A regular file is always writable: no need to ask.
    regular: bool,
    stall: Duration,
    /// The last line was not taken: do not wait for the next.
    stalled: bool,
    /// A write stopped inside a line: the next one starts with a line end.
    torn: bool,
    lost: u64,
}

impl<F: AsFd> Sink<F> {
    fn new(fd: F, stall: Duration) -> Sink<F> {
        let file = fd.as_fd().try_clone_to_owned().map(File::from);
        let regular = file
            .and_then(|file| file.metadata())
            .is_ok_and(|data| data.is_file());
        Sink {
            fd,
            regular,
            stall,
            stalled: false,
            torn: false,
            lost: 0,
        }
    }

    fn put(&mut self, line_of_log: &[u8]) {
        if self.lost > 0 {
            let now = SystemTime::now();
            let note = line(
                now,
                Level::Warn,
                &format_args!("log: {} lines lost", self.lost),
            );
            if self.attempt(&note) {
                self.lost = 0;
            }
        }
        if self.lost > 0 || !self.attempt(line_of_log) {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Several lines: in one piece where a write cannot stall, else each by itself.
    fn put_all(&mut self, lines: &[u8]) {
        if self.regular && self.lost == 0 {
            return self.put(lines);
        }
        lines
            .split_inclusive(|&octet| octet == b'\n')
            .for_each(|line| self.put(line));
    }

    /// Whether the line was written whole.
    fn attempt(&mut self, line: &[u8]) -> bool {
        let wait = if self.stalled {
            Duration::ZERO
        } else {
            self.stall
        };
        if !self.regular && !writable(&self.fd, Some(wait)) {
            self.stalled = true;
            return false;
        }
        self.stalled = false;
        let ended;
        let line = if self.torn {
            ended = [b"\n", line].concat();
            &ended
        } else {
            line
        };
        loop {
            match nix::unistd::write(&self.fd, line) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.stalled = true;
                    return false;
                }
                Err(_) => return false,
                Ok(n) => {
                    self.torn = n < line.len();
                    return !self.torn;
                }
            }
        }
    }
}

/// Whether `fd` takes a write now, or within `wait` (`None`: for ever). A closed reader counts as
/// writable: the write fails at once.
fn writable(fd: &impl AsFd, wait: Option<Duration>) -> bool {
    let timeout = wait.map(|wait| PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
    loop {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};

    fn line_of(message: &str) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_300_201_123);
        String::from_utf8(line(time, Level::Info, &format_args!("{message}"))).unwrap()
    }

    #[test]
    fn a_line_has_utc_milliseconds_a_padded_level_and_the_event() {
        assert_eq!(
            line_of("delivered id=1"),
            "2026-11-21T22:30:01.123Z INFO  delivered id=1\n"
        );
        let error = line(SystemTime::UNIX_EPOCH, Level::Error, &format_args!("x"));
        assert_eq!(error, b"1970-01-01T00:00:00.000Z ERROR x\n");
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

    fn stalled_sink() -> (PipeReader, Sink<io::PipeWriter>) {
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::new(writer, Duration::from_millis(10));
        while !sink.stalled {
            sink.put(&[b'x'; LINE_MAX]);
        }
        (reader, sink)
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_is_told() {
        let (mut reader, mut sink) = stalled_sink();
        sink.put(b"lost too\n");
        assert_eq!(sink.lost, 2);
        let mut buffer = vec![0; 1 << 20];
        let full = reader.read(&mut buffer).unwrap();
        assert_eq!(full % LINE_MAX, 0, "whole lines only");
        sink.put(b"back\n");
        sink.put(b"again\n");
        drop(sink);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(&rest[25..], "WARN  log: 2 lines lost\nback\nagain\n");
    }

    #[test]
    fn a_closed_reader_is_ignored() {
        let (reader, mut sink) = stalled_sink();
        drop(reader);
        sink.put(b"nobody reads this\n");
        assert!(!sink.stalled, "a failing write does not wait");
        assert_eq!(sink.lost, 2);
        write_out(&sink.fd, b"nor this");
    }

    #[test]
    fn a_full_disk_is_ignored() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::new(full, Duration::from_millis(10));
        sink.put(b"no room\n");
        assert_eq!(sink.lost, 1);
    }
}
