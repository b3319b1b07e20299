//! The log: one event, one line on standard output. The only folder that prints.
//!
//! * A line is `2026-11-21T22:30:01.123Z INFO  delivered id=...`: UTC, milliseconds, the level padded
//!   to five, then the message, whose first word names the event.
//! * One event is always one line. What came from outside is wrapped in
//!   `message::escape::Escaped` where the event is written; as a last defence every
//!   control character that is left is escaped here. A line has at most 4,096 octets, its end included;
//!   a longer one is cut and ends in `...`.
//! * A log that cannot be written never stops the mail. Lines go into a bounded queue, and one thread
//!   writes them. While its reader stalls the queue fills up; then it is waited for once, 1 s, and
//!   further lines are dropped until it reads again. The log says how many were lost. Nothing here
//!   panics.
//! * A stop flushes the queue. A process that is killed may lose the lines of its last millisecond.
//!
//! What it cannot do: promise that a line arrived. Nothing may depend on it.

mod line;
mod output;
mod writer;

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

pub use output::{err, out};
use writer::Queue;

/// Without RUST_LOG: our own events, and of other crates only what they call an error.
const FILTER: &str = "error,smtpd788=info";

/// How long a stop waits for a reader that stalls.
const FLUSH: Duration = Duration::from_secs(2);

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// What the crate `log` talks to: env_logger judges, the queue takes the lines.
struct Logger {
    filter: env_logger::Logger,
    queue: Queue,
}

/// Installs the logger on standard output, with the thread that writes. RUST_LOG (if not empty)
/// overrides `info`. A second call does nothing.
///
/// # Errors
/// The system has no thread to give.
pub fn init() -> io::Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = match filter.trim() {
        "" => FILTER,
        filter => filter,
    };
    let filter = env_logger::Builder::new().parse_filters(filter).build();
    let most = filter.filter();
    let queue = Queue::default();
    let logger = LOGGER.get_or_init(|| Logger { filter, queue });
    if ::log::set_logger(logger).is_ok() {
        ::log::set_max_level(most);
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(|| {
            let mut torn = false;
            loop {
                logger.queue.write_next(&io::stdout(), &mut torn);
            }
        })?;
    }
    Ok(())
}

/// Waits until all events so far are written, or a stalled reader had its time: for the end of the process.
pub fn flush() {
    ::log::logger().flush();
}

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.filter.matches(record) {
            let line = line::line(SystemTime::now(), record.level(), record.args());
            self.queue.put(&line);
        }
    }

    fn flush(&self) {
        self.queue.flush(FLUSH);
    }
}
