//! The company at a group commit: for how many its leader waits.
//!
//! A batch costs the same processor time whether it carries one item or six, so where many bring items all the time it
//! is worth waiting a moment for some of them:
//!
//! * as many as were in the last batch, for they may come again; so who is alone never waits, and who has been left
//!   alone waits once;
//! * but only two thirds of those who can come at all, which are the clients who have just connected or are in
//!   a transaction, so that the others have work to do while the batch runs;
//! * and six at most, since more save little.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How many are enough however many there are.
const ENOUGH: usize = 6;

/// The clients of this process who may bring a message, whichever mailbox it is for.
static COMING: AtomicUsize = AtomicUsize::new(0);

/// One of them: a client from its connection, or from MAIL, until its message is brought.
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

/// Whether a batch of `here` need not wait for more, if there were `last` in the one before.
pub(crate) fn is_enough(here: usize, last: usize, coming: usize) -> bool {
    here >= last.min(ENOUGH) || here >= (here + coming) * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many it takes where there are `all`, of whom those who are not here are coming.
    fn enough(all: usize, last: usize) -> usize {
        (1..=all)
            .find(|&here| is_enough(here, last, all - here))
            .unwrap()
    }

    #[test]
    fn who_had_no_company_does_not_wait() {
        for last in [0, 1] {
            for all in [1, 2, 1000] {
                assert_eq!(enough(all, last), 1);
            }
        }
    }

    #[test]
    fn who_was_left_alone_does_not_wait() {
        for last in [2, 1000] {
            assert_eq!(enough(1, last), 1);
        }
    }

    #[test]
    fn two_thirds_of_all_are_enough_and_six_of_any_number() {
        for (all, two_thirds) in [(2, 1), (3, 2), (4, 2), (6, 4), (8, 5), (9, 6), (1000, 6)] {
            assert_eq!(enough(all, all), two_thirds, "{all}");
        }
        assert_eq!(enough(20, 4), 4, "and as many as there were");
    }
}
