//! Whether programs of others compete for the processors, which decides whether polling pays.
//!
//! A thread that polls yields (sched_yield) between two looks. Where the daemon and its clients are alone, a yield takes
//! a fraction of a millisecond; beside a busy program it takes a whole time slice, several milliseconds. There it is
//! better to sleep: a thread that wakes up is scheduled soon, one that has yielded is not. So the threads that share this
//! value keep a moving average of what a yield takes, and while it is too long they do not poll for a while.
//! (Taken out, with the polling itself: 0.92, 0.88 and 0.80 of the messages a second.)

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Yields that take longer than this on average show busy programs.
const CONTENDED: Duration = Duration::from_millis(1);
/// Each yield counts for this part of the average.
const WEIGHT: u64 = 64;
/// How long nobody polls then.
const COOL_DOWN: Duration = Duration::from_secs(1);

/// Shared by the threads of one server. Numbers that race are a little wrong, which is of no consequence.
#[derive(Debug)]
pub(crate) struct Contention {
    start: Instant,
    /// Microseconds that a yield takes, times [`WEIGHT`].
    average: AtomicU64,
    /// When the cool-down ends, in milliseconds since the start.
    until: AtomicU64,
}

impl Default for Contention {
    fn default() -> Contention {
        Contention {
            start: Instant::now(),
            average: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }
}

impl Contention {
    /// Whether polling is worth a try.
    pub(crate) fn may_poll(&self, now: Instant) -> bool {
        self.since_start(now) >= self.until.load(Relaxed)
    }

    /// A yield took this long, until `now`.
    pub(crate) fn yielded(&self, took: Duration, now: Instant) {
        let sum = self.average.load(Relaxed);
        let sum = sum - sum / WEIGHT + took.as_micros() as u64;
        if sum / WEIGHT <= CONTENDED.as_micros() as u64 {
            return self.average.store(sum, Relaxed);
        }
        self.average.store(0, Relaxed);
        self.until.store(self.since_start(now + COOL_DOWN), Relaxed);
    }

    fn since_start(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_busy_programs_nobody_polls_for_a_while() {
        let contention = Contention::default();
        let mut now = contention.start;
        let mut yields = |took: Duration, most: usize| {
            (0..most).find(|_| {
                now += took;
                contention.yielded(took, now);
                let stopped = !contention.may_poll(now);
                if stopped {
                    now += COOL_DOWN;
                    assert!(contention.may_poll(now));
                }
                stopped
            })
        };
        assert_eq!(yields(CONTENDED / 8, 10_000), None);
        // One that is slow among quick ones says nothing.
        assert_eq!(yields(CONTENDED * 20, 1), None);
        assert_eq!(yields(CONTENDED / 8, 1_000), None);
        for _ in 0..3 {
            let slow = yields(CONTENDED * 4, 1_000).unwrap();
            assert!((8..40).contains(&slow), "{slow}");
        }
        assert_eq!(yields(CONTENDED / 8, 10_000), None);
    }
}
