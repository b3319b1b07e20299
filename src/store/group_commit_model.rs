//! The group commit, model-checked: `cargo test --manifest-path tests/loom/Cargo.toml`.

use super::*;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// What the daemon takes from the standard library.
pub(super) mod sync {
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use loom::thread;
    use std::time::{Duration, Instant};

    /// There is no time in a model. A wait is over at any moment, so after one; or it has no end (`until` is more
    /// than a day away).
    pub(crate) fn park_until(until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let endless = left > Duration::from_secs(24 * 3600);
        match endless {
            true => thread::park(),
            false => thread::yield_now(),
        }
        endless
    }
}

/// How long a leader waits here: longer than a batch takes, so that none is slow and only what is told is expected.
const WAIT: Duration = Duration::from_secs(3600);

/// Each of `callers` threads (this one is the last) brings its number, and the first leader waits for `expected` of
/// them, for `max_wait`; checks all four promises.
fn check(
    callers: usize,
    expected: usize,
    max_wait: Duration,
    preemptions: Option<usize>,
    fails: fn(&[usize]) -> bool,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let inside = AtomicUsize::new(0);
        let synced = Arc::new(
            (0..callers)
                .map(|_| AtomicUsize::new(0))
                .collect::<Vec<_>>(),
        );
        let seen = Arc::clone(&synced);
        let mut commit = Commit::new(move |batch: Vec<usize>| {
            assert_eq!(
                inside.fetch_add(1, Ordering::SeqCst),
                0,
                "two batches at a time"
            );
            let failed = fails(&batch);
            for &n in &batch {
                let before = seen[n].fetch_add(if failed { 2 } else { 1 }, Ordering::SeqCst);
                assert_eq!(before, 0, "in two batches");
            }
            assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
            batch
                .iter()
                .map(|&n| if failed { Err(n) } else { Ok(n) })
                .collect()
        });
        commit.max_wait = max_wait;
        lock(&commit.queue).expected = expected;
        let commit = Arc::new(commit);
        let one = |n: usize, commit: &Commit<_, _, _>, synced: &[AtomicUsize]| {
            // Whoever is answered was in a batch that ran, and hears of its own item in that
            // batch.
            let outcome = commit.submit(n);
            match synced[n].load(Ordering::SeqCst) {
                1 => assert_eq!(outcome, Ok(Ok(n))),
                2 => assert_eq!(outcome, Ok(Err(n))),
                other => panic!("answered before the batch ran: {other}"),
            }
        };
        let others: Vec<_> = (1..callers)
            .map(|n| {
                let (commit, synced) = (Arc::clone(&commit), Arc::clone(&synced));
                thread::spawn(move || one(n, &commit, &synced))
            })
            .collect();
        one(0, &commit, &synced);
        // A forgotten waiter would be a deadlock, which the checker reports.
        for other in others {
            other.join().unwrap();
        }
        let queue = lock(&commit.queue);
        assert!(!queue.led && queue.waiting.is_empty() && queue.gathering.is_none());
    });
}

#[test]
fn two_callers_in_every_order() {
    check(2, 0, WAIT, None, |_| false);
}

#[test]
fn two_callers_and_a_leader_that_gathers() {
    check(2, 2, WAIT, None, |_| false);
}

#[test]
fn three_callers() {
    check(3, 0, WAIT, Some(3), |_| false);
}

#[test]
fn three_callers_and_a_leader_that_gathers() {
    check(3, 2, WAIT, Some(3), |_| false);
}

/// A wake-up that is lost would be a deadlock here.
#[test]
fn all_are_awaited_without_end() {
    let endless = WAIT * 1000;
    check(2, 2, endless, None, |_| false);
    check(3, 3, endless, Some(3), |_| false);
}

#[test]
fn an_error_reaches_everyone_in_its_batch_and_nobody_else() {
    check(3, 0, WAIT, Some(3), |batch| batch.contains(&1));
}

#[test]
fn two_items_each_one_after_the_other() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let mut commit = Commit::new(|batch: Vec<usize>| batch);
        commit.max_wait = WAIT;
        let commit = Arc::new(commit);
        let other = Arc::clone(&commit);
        let other = thread::spawn(move || [3, 4].map(|n| assert_eq!(other.submit(n), Ok(n))));
        for n in 1..3 {
            assert_eq!(commit.submit(n), Ok(n));
        }
        other.join().unwrap();
    });
}

#[test]
fn a_panic_hangs_nobody() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let mut commit = Commit::new(|batch: Vec<usize>| {
            if batch.contains(&1) {
                std::panic::resume_unwind(Box::new("told to"))
            } else {
                batch
            }
        });
        commit.max_wait = WAIT;
        let commit = Arc::new(commit);
        let other = Arc::clone(&commit);
        let other = thread::spawn(move || assert_eq!(other.submit(1), Err(Abandoned)));
        assert!(matches!(commit.submit(0), Ok(0) | Err(Abandoned)));
        other.join().unwrap();
    });
}
