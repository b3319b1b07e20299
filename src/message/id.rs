//! The name of a message, for the log, the trace line and the spool.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Names a message: 16 lower-case hexadecimal digits, ordered by the time of reception.
///
/// The upper 52 bits are microseconds since 1970, never the same twice in a process; the lower 12 bits come from
/// the process id, so that two daemons on one machine rarely agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// A new one, larger than all earlier ones of this process.
    #[allow(clippy::new_without_default)] // no two are equal, so none is the default
    pub fn new() -> Id {
        static LAST: AtomicU64 = AtomicU64::new(0);
        static PROCESS: LazyLock<u32> = LazyLock::new(std::process::id);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_micros() as u64);
        let last = LAST
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(now.max(last + 1))
            })
            .unwrap_or_default();
        Id(now.max(last + 1) << 12 | u64::from(*PROCESS & 0xfff))
    }

    /// Reads one back; `None` unless `text` is what [`Id`]'s `Display` writes.
    pub fn parse(text: &str) -> Option<Id> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(hex) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
