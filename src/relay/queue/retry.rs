//! How long to wait before the next try. Pure arithmetic.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// RETRY_MIN and RETRY_MAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The wait after the first failure.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl BackOff {
    /// The wait after `failures` (1 for the first): doubling from `min` up to `max`, with a tenth of jitter
    /// either way so that what failed together does not come back together. At `max` the jitter only shortens.
    /// `jitter`: any number, evenly distributed.
    pub fn wait(&self, failures: u32, jitter: u64) -> Duration {
        let doubled = 1u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let wait = self.min.saturating_mul(doubled);
        let tenth = wait.min(self.max) / 10;
        let jitter = tenth / 500 * (jitter % 1_001) as u32;
        if wait < self.max {
            (wait - tenth + jitter).min(self.max)
        } else {
            self.max - tenth * 2 + jitter
        }
    }
}

/// A number that nobody has to guess right or wrong: std seeds its hashers at random.
pub fn jitter() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS: BackOff = BackOff {
        min: Duration::from_secs(300),
        max: Duration::from_secs(14_400),
    };

    #[test]
    fn it_doubles_up_to_the_longest() {
        let rows = [(0, 300), (1, 300), (2, 600), (3, 1_200), (6, 9_600)];
        for (failures, seconds) in rows {
            assert_eq!(HOURS.wait(failures, 500).as_secs(), seconds, "{failures}");
        }
        for failures in [7, 8, 31, 32, 33, 64, u32::MAX] {
            assert_eq!(HOURS.wait(failures, 1_000).as_secs(), 14_400, "{failures}");
            assert_eq!(HOURS.wait(failures, 0).as_secs(), 11_520, "{failures}");
        }
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for jitter in 0..2_000 {
            let wait = HOURS.wait(1, jitter).as_secs();
            assert!((270..=330).contains(&wait), "{wait}");
            assert!(HOURS.wait(6, jitter) <= HOURS.max);
        }
        assert_ne!(HOURS.wait(3, 1), HOURS.wait(3, 900));
    }

    #[test]
    fn odd_settings_are_no_trouble() {
        let zero = BackOff {
            min: Duration::ZERO,
            max: Duration::ZERO,
        };
        assert_eq!(zero.wait(9, u64::MAX), Duration::ZERO);
        let upside_down = BackOff {
            min: Duration::from_secs(60),
            max: Duration::from_secs(10),
        };
        assert!(upside_down.wait(1, 1_000) <= Duration::from_secs(10));
        let huge = BackOff {
            min: Duration::MAX,
            max: Duration::MAX,
        };
        assert!(huge.wait(40, 1_000) <= Duration::MAX);
    }
}
