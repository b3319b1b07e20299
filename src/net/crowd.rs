//! The programs beside us: whether it costs much to give way to them.
//!
//! Who gives way (sched_yield) waits a fraction of a millisecond where the daemon and its clients are alone, but a whole
//! time slice, several milliseconds, for each busy program. There it is better to sleep: who wakes up has a claim to a
//! processor that who gave way has lost. So all threads together keep an average of what it took, and where it is too
//! much nobody gives way for a while; then they try again.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Who gives way for longer than this on average shares the processors with programs that do not give way themselves.
const CROWDED: Duration = Duration::from_millis(1);
/// The average is taken over as many times.
const ENOUGH: u64 = 128;
/// How long nobody gives way then; doubled each time there is still a crowd.
const REST: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(8);

/// The one of this process.
pub(crate) static CROWD: LazyLock<Crowd> = LazyLock::new(Crowd::new);

/// What is known of it. Numbers that race are a little wrong, which is of no consequence.
pub(crate) struct Crowd {
    start: Instant,
    times: AtomicU64,
    /// All of these times, in microseconds.
    took: AtomicU64,
    /// The last rest, if the crowd was there the last time, in milliseconds.
    rest: AtomicU64,
    /// When it ends, in milliseconds since the start.
    until: AtomicU64,
}

impl Crowd {
    fn new() -> Crowd {
        Crowd {
            start: Instant::now(),
            times: AtomicU64::new(0),
            took: AtomicU64::new(0),
            rest: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }

    /// Whether to give way is worth trying.
    pub(crate) fn may_give_way(&self, now: Instant) -> bool {
        self.since_start(now) >= self.until.load(Relaxed)
    }

    /// It took as long, until `now`.
    pub(crate) fn gave_way(&self, took: Duration, now: Instant) {
        self.took.fetch_add(took.as_micros() as u64, Relaxed);
        if self.times.fetch_add(1, Relaxed) + 1 < ENOUGH {
            return;
        }
        self.times.store(0, Relaxed);
        let average = Duration::from_micros(self.took.swap(0, Relaxed) / ENOUGH);
        if average <= CROWDED {
            self.rest.store(0, Relaxed);
            return;
        }
        let rest = Duration::from_millis(self.rest.load(Relaxed) * 2).clamp(REST, REST_MAX);
        self.rest.store(rest.as_millis() as u64, Relaxed);
        self.until.store(self.since_start(now + rest), Relaxed);
    }

    fn since_start(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives way [`ENOUGH`] times, each for `took`; how long nobody does after that.
    fn rest(crowd: &Crowd, now: &mut Instant, took: Duration) -> Duration {
        for _ in 0..ENOUGH {
            assert!(crowd.may_give_way(*now));
            *now += took;
            crowd.gave_way(took, *now);
        }
        let begun = *now;
        while !crowd.may_give_way(*now) {
            *now += REST / 4;
        }
        *now - begun
    }

    #[test]
    fn beside_busy_programs_nobody_gives_way_for_long() {
        let crowd = Crowd::new();
        let mut now = crowd.start;
        let mut rest = |took| rest(&crowd, &mut now, took);
        let (alone, crowded) = (CROWDED / 8, CROWDED * 4);
        assert_eq!(rest(alone), Duration::ZERO);
        for times in [1, 2, 4, 8, 16, 32, 32] {
            let found = rest(crowded);
            assert!(
                found >= REST * times && found < REST * (times + 1),
                "{found:?}"
            );
        }
        assert_eq!(rest(alone), Duration::ZERO);
        assert!(rest(crowded) < REST * 2, "from the beginning");
    }
}
