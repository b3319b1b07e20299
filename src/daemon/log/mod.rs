//! The log: one event, one line on standard output. The only file that prints.
//!
//! * A line is `2026-11-21T22:30:01.123Z INFO  delivered id=...`: UTC, milliseconds, the level padded
//!   to five, then the message, whose first word names the event.
//! * One event is always one line. What came from outside is wrapped in [`Escaped`](crate::message::escape::Escaped) where the event is
//!   written; as a last defence the formatter escapes every control character that is left. A line
//!   has at most 4,096 octets, its end included (what a pipe takes in one piece); a longer one is cut and
//!   ends in `...`.
//! * A log that cannot be written never stops the mail. Errors are ignored. A reader that stalls is
//!   waited for once, 1 s; then lines are dropped without waiting until it reads again, and the log
//!   says how many were lost. Nothing here panics.
//! * Lines that tell of one thing may leave in one write; none is held back for longer.
//!
//! What it cannot do: promise that a line arrived. Nothing may depend on it.

mod desk;
mod line;

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use desk::{Desk, STALL, Sink};
use line::{ROOM, write_line};

/// Without RUST_LOG: our own events, and of other crates only what they call an error.
const FILTER: &str = "error,smtpd788=info";

/// Lines that are held leave when they are so many octets: far below what the desk takes.
const PORTION: usize = 16 * 1024;

static FRONT: OnceLock<Front<io::Stdout>> = OnceLock::new();

thread_local! {
    /// The lines of this thread that leave together.
    static HELD: Cell<Option<String>> = const { Cell::new(None) };
}

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
    let front = FRONT.get_or_init(|| Front { filter, desk });
    if ::log::set_logger(front).is_ok() {
        ::log::set_max_level(most);
    }
}

/// What `work` logs on this thread leaves in one write, at its end; very much of it in several.
pub(crate) fn together<T>(work: impl FnOnce() -> T) -> T {
    struct Release<'a>(&'a Front<io::Stdout>);
    impl Drop for Release<'_> {
        fn drop(&mut self) {
            if let Some(lines) = HELD.take() {
                self.0.desk.take(lines.as_bytes());
            }
        }
    }
    // Without our own logger there is nothing to hold; inside another one's work, that one sees to it.
    let held = HELD.take();
    let release = match (&held, FRONT.get()) {
        (None, Some(front)) => Some(Release(front)),
        _ => None,
    };
    HELD.set(held.or_else(|| release.as_ref().map(|_| String::with_capacity(2 * ROOM))));
    work()
}

/// Where the next line goes: behind those that this thread holds, or by itself.
struct Lines {
    text: String,
    held: bool,
    /// What follows is lost if it is not finished: something in it panicked.
    whole: usize,
}

impl Lines {
    fn of_this_thread() -> Lines {
        // A thread that is ending holds nothing any more.
        let held = HELD.try_with(Cell::take).ok().flatten();
        let whole = held.as_ref().map_or(0, String::len);
        Lines {
            held: held.is_some(),
            text: held.unwrap_or_default(),
            whole,
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.held {
            self.text.truncate(self.whole);
            HELD.set(Some(std::mem::take(&mut self.text)));
        }
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
        if !self.filter.matches(record) {
            return;
        }
        let mut lines = Lines::of_this_thread();
        write_line(
            &mut lines.text,
            SystemTime::now(),
            record.level(),
            record.args(),
        );
        if !lines.held || lines.text.len() > PORTION {
            self.desk.take(lines.text.as_bytes());
            lines.text.clear();
        }
        lines.whole = lines.text.len();
    }

    fn flush(&self) {
        self.desk.flush();
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
    use std::fmt;

    /// Cannot be shown.
    struct Broken;

    impl fmt::Display for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("told to")
        }
    }

    #[test]
    fn a_line_that_panics_takes_none_with_it() {
        let file = tempfile::tempfile().unwrap();
        let front = Front {
            filter: env_logger::Builder::new().parse_filters("info").build(),
            desk: Desk::new(Sink::new(file, STALL)),
        };
        let log = |what: &dyn fmt::Display| {
            let mut record = ::log::Record::builder();
            record.level(::log::Level::Info);
            ::log::Log::log(&front, &record.args(format_args!("one {what}")).build());
        };
        HELD.set(Some(String::new()));
        log(&1);
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| log(&Broken)));
        assert!(broken.is_err());
        log(&2);
        let held = HELD.take().unwrap();
        let ends: Vec<_> = held.lines().map(|line| &line[line.len() - 5..]).collect();
        assert_eq!(ends, ["one 1", "one 2"]);
    }
}
