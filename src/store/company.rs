//! The company at a group commit: for how many its leader waits.
//!
//! A batch costs the same processor time whether it carries one item or six, so where many bring items all the time it
//! is worth waiting a moment for some of them:
//!
//! * as many as were in the last batch, for they may come again; so who is alone never waits, and who has been left
//!   alone waits once;
//! * but where the device is quick, only two thirds of those who can come at all, which are the clients in a
//!   transaction, so that the others have work to do while the batch runs;
//! * and six at most, since more save little.
//!
//! Where the device is slow there is time for all work while it syncs, and what matters is that nobody comes just too
//! late: then it is all that were in the last batch.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How many are enough however many there are.
const ENOUGH: usize = 6;

/// The clients of this process who may bring a message, whichever mailbox it is for.
static COMING: AtomicUsize = AtomicUsize::new(0);

/// One of them: a transaction until its message is brought, or until it ends in another way.
#[derive(Debug)]
pub(crate) struct Coming(());

impl Coming {
    /// From now on.
    pub(crate) fn begin() -> Coming {
        COMING.fetch_add(1, Relaxed);
        Coming(())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        COMING.fetch_sub(1, Relaxed);
    }
}

/// How many they are now.
pub(crate) fn coming() -> usize {
    COMING.load(Relaxed)
}

/// The last batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Last {
    /// How many it held.
    pub(crate) size: usize,
    /// It took longer than a leader has patience.
    pub(crate) slow: bool,
}

/// Whether a batch of `here` need not wait for more, if so many are `coming`.
pub(crate) fn is_enough(here: usize, last: Last, coming: usize) -> bool {
    match last.slow {
        true => here >= last.size,
        false => here >= last.size.min(ENOUGH) || here >= (here + coming) * 2 / 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many it takes where there are `all`, of whom those who are not here are coming.
    fn enough(all: usize, size: usize, slow: bool) -> usize {
        let last = Last { size, slow };
        (1..)
            .find(|&here| is_enough(here, last, all.saturating_sub(here)))
            .unwrap()
    }

    #[test]
    fn who_had_no_company_does_not_wait() {
        for size in [0, 1] {
            for all in [1, 2, 1000] {
                assert_eq!(enough(all, size, false), 1);
                assert_eq!(enough(all, size, true), 1);
            }
        }
    }

    #[test]
    fn who_is_left_alone_does_not_wait_for_a_quick_device() {
        for size in [2, 1000] {
            assert_eq!(enough(1, size, false), 1);
        }
    }

    #[test]
    fn two_thirds_of_all_are_enough_and_six_of_any_number() {
        for (all, two_thirds) in [(2, 1), (3, 2), (4, 2), (6, 4), (8, 5), (9, 6), (1000, 6)] {
            assert_eq!(enough(all, all, false), two_thirds, "{all}");
        }
        assert_eq!(enough(20, 4, false), 4, "and as many as there were");
    }

    #[test]
    fn a_slow_device_is_worth_waiting_for_all_who_were_there() {
        for size in [1, 2, 7, 100] {
            assert_eq!(enough(3, size, true), size);
        }
    }
}
