//! Group commit: what many threads bring at the same moment is done as one batch, by one of them.
//!
//! A storage device syncs a few thousand times a second, whatever the syncs carry. So a thread that
//! brings an item while another is at work does not queue for its own turn: it queues its item. The
//! thread at work, the leader, runs exactly one batch; then it hands the leadership to the first of
//! those who came meanwhile, who takes everything queued as the next batch. No thread leads twice in a
//! row for others, so no client pays for all the others.
//!
//! One caller's way through [`Commit::submit`]:
//!
//! | state | the caller | leaves it when |
//! | --- | --- | --- |
//! | 1 arriving | puts its item into the queue | nobody leads: to 3; somebody leads: to 2 |
//! | 2 queued | is parked | made leader: to 3; its batch was run by another: to 5 |
//! | 3 gathering | leads, and is parked while too few are in the queue | enough are, or the longest wait is over: to 4 |
//! | 4 running | has taken the whole queue, its own item first, and runs the batch | the batch is run, the leadership handed on |
//! | 5 answered | has the outcome of its item | |
//!
//! Promises: an item is in exactly one batch; its outcome is handed out only after that batch ran;
//! at most one batch runs at a time; whoever is queued when a leader ends is not forgotten. A batch
//! that panics, or that returns the wrong number of outcomes, is answered [`Abandoned`] to everyone
//! in it, and the next batch goes on. The four are model-checked (`tests/loom`).
//!
//! It adapts by itself. A lone caller runs its item at once. The longer a batch takes, the more siblings come
//! meanwhile, and the larger is the next. Where a batch took longer than a leader may wait, the device is slow, and an
//! item that comes just too late waits for two syncs: there the next leader first waits for as many as were in that
//! batch, a millisecond at most. A lone caller waits for nobody, and one whose siblings stay away waits once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

#[cfg(loom)]
use model::sync;
use sync::{Arc, Mutex, MutexGuard, park_until, thread};

/// What the model checker replaces.
#[cfg(not(loom))]
mod sync {
    pub(super) use std::sync::{Arc, Mutex, MutexGuard};
    pub(super) use std::thread;
    use std::time::Instant;

    /// Parks, until `until` at most; false if that moment has passed.
    pub(super) fn park_until(until: Instant) -> bool {
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
        Instant::now() < until
    }
}

/// How long a leader waits for its siblings at most: too short to be noticed, several syncs on a fast device.
const MAX_WAIT: Duration = Duration::from_millis(1);

/// The batch that held the item ended without an outcome for it: it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// A place where items are brought, and the work that is done on them in batches.
pub(crate) struct Commit<I, O, F> {
    queue: Mutex<Queue<I, O>>,
    max_wait: Duration,
    /// Takes a batch, returns one outcome for each item, in order.
    run: F,
}

/// Items in flight, each with its caller's ticket.
type Batch<I, O> = Vec<(I, Option<Arc<Ticket<O>>>)>;

struct Queue<I, O> {
    /// In the order of arrival. The caller that found nobody leading has no ticket; that is the first or nobody.
    waiting: Batch<I, O>,
    /// A caller leads, or was told to. While it is false, `waiting` is empty.
    led: bool,
    /// The leader, while it is parked until its siblings are there.
    gathering: Option<thread::Thread>,
    /// How many the leader waits for: as many as were in the last batch, if that was slow.
    expected: usize,
}

/// Where one queued thread is told what became of its item.
struct Ticket<O> {
    thread: thread::Thread,
    wakeup: Mutex<Wakeup<O>>,
}

enum Wakeup<O> {
    None,
    Lead,
    Done(Result<O, Abandoned>),
}

impl<I, O, F: Fn(Vec<I>) -> Vec<O>> Commit<I, O, F> {
    /// Nothing is queued and nobody leads.
    pub(crate) fn new(run: F) -> Self {
        let queue = Queue {
            waiting: Vec::new(),
            led: false,
            gathering: None,
            expected: 0,
        };
        Commit {
            queue: Mutex::new(queue),
            max_wait: MAX_WAIT,
            run,
        }
    }

    /// Returns the outcome of `item` once the batch that holds it has run.
    pub(crate) fn submit(&self, item: I) -> Result<O, Abandoned> {
        let mut queue = lock(&self.queue);
        if !queue.led {
            queue.led = true;
            queue.waiting.push((item, None));
            drop(queue);
            return self.lead();
        }
        let ticket = Arc::new(Ticket {
            thread: thread::current(),
            wakeup: Mutex::new(Wakeup::None),
        });
        queue.waiting.push((item, Some(Arc::clone(&ticket))));
        let leader = match queue.waiting.len() >= queue.expected {
            true => queue.gathering.take(),
            false => None,
        };
        drop(queue);
        if let Some(leader) = leader {
            leader.unpark();
        }
        loop {
            // A thread may be unparked for reasons that are not ours, so the ticket decides.
            let wakeup = std::mem::replace(&mut *lock(&ticket.wakeup), Wakeup::None);
            match wakeup {
                Wakeup::None => thread::park(),
                Wakeup::Lead => return self.lead(),
                Wakeup::Done(outcome) => return outcome,
            }
        }
    }

    /// Runs one batch: all that is queued, this thread's item first.
    fn lead(&self) -> Result<O, Abandoned> {
        let (batch, tickets): (Vec<I>, Vec<_>) = self.gather().into_iter().unzip();
        let size = batch.len();
        let begun = Instant::now();

        // Unwind safe: the batch is consumed, and what `run` keeps for itself is its own to keep
        // whole.
        let outcomes = catch_unwind(AssertUnwindSafe(|| (self.run)(batch))).unwrap_or_default();
        let complete = outcomes.len() == size;
        let mut outcomes = outcomes.into_iter().filter(|_| complete);
        let mut next = || outcomes.next().ok_or(Abandoned);

        let slow = begun.elapsed() > self.max_wait;
        self.hand_on(if slow { size } else { 0 });
        // The first is the leader's own item, with a ticket or without.
        let mine = next();
        for ticket in tickets.into_iter().skip(1).flatten() {
            ticket.wake(Wakeup::Done(next()));
        }
        mine
    }

    /// Takes what is queued, once as many are there as are expected, or the longest wait is over.
    fn gather(&self) -> Batch<I, O> {
        let mut queue = lock(&self.queue);
        let until = Instant::now() + self.max_wait;
        let mut in_time = true;
        while in_time && queue.waiting.len() < queue.expected {
            queue.gathering = Some(thread::current());
            drop(queue);
            in_time = park_until(until);
            queue = lock(&self.queue);
        }
        queue.gathering = None;
        std::mem::take(&mut queue.waiting)
    }

    /// The first of those who came meanwhile leads the next batch.
    fn hand_on(&self, expected: usize) {
        let mut queue = lock(&self.queue);
        let next_leader = (queue.waiting.first()).and_then(|(_, ticket)| ticket.clone());
        (queue.led, queue.expected) = (next_leader.is_some(), expected);
        drop(queue);
        if let Some(next_leader) = next_leader {
            next_leader.wake(Wakeup::Lead);
        }
    }
}

impl<O> Ticket<O> {
    fn wake(&self, wakeup: Wakeup<O>) {
        *lock(&self.wakeup) = wakeup;
        self.thread.unpark();
    }
}

/// No code that can panic runs under these locks, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn alone_every_item_is_a_batch_and_gets_its_own_outcome() {
        let commit =
            Commit::new(|batch: Vec<u32>| batch.iter().map(|n| (n * 2, batch.len())).collect());
        for n in 0..5 {
            assert_eq!(commit.submit(n), Ok((n * 2, 1)));
        }
    }

    #[test]
    fn forty_at_once_need_far_fewer_batches() {
        const CALLERS: usize = 40;
        let (batches, inside) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let commit = Commit::new(|batch: Vec<usize>| {
            assert_eq!(
                inside.fetch_add(1, Ordering::SeqCst),
                0,
                "two batches at a time"
            );
            batches.fetch_add(1, Ordering::SeqCst);
            // Stands for the sync: long beside the arrival of 40 threads.
            std::thread::sleep(Duration::from_millis(50));
            inside.fetch_sub(1, Ordering::SeqCst);
            batch
        });
        let start = Barrier::new(CALLERS);
        std::thread::scope(|scope| {
            for n in 0..CALLERS {
                let (commit, start) = (&commit, &start);
                scope.spawn(move || {
                    start.wait();
                    assert_eq!(commit.submit(n), Ok(n));
                });
            }
        });
        assert!(
            batches.load(Ordering::SeqCst) <= CALLERS / 4,
            "{batches:?} batches"
        );
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_leader_waits_for_the_siblings_that_it_expects() {
        let sizes = Mutex::new(Vec::new());
        let mut commit = Commit::new(|batch: Vec<usize>| {
            sizes.lock().unwrap().push(batch.len());
            batch
        });
        commit.max_wait = LONG;
        lock(&commit.queue).expected = 3;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for n in 0..3 {
                let commit = &commit;
                scope.spawn(move || assert_eq!(commit.submit(n), Ok(n)));
            }
        });
        assert!(begun.elapsed() < LONG, "the last to come wakes the leader");
        let queue = commit.queue.into_inner().unwrap();
        assert!(!queue.led && queue.gathering.is_none());
        assert_eq!(sizes.into_inner().unwrap(), [3]);
    }

    #[test]
    fn a_leader_whose_siblings_stay_away_waits_once() {
        let mut commit = Commit::new(|batch: Vec<u8>| batch);
        commit.max_wait = Duration::from_millis(20);
        lock(&commit.queue).expected = 3;
        let begun = Instant::now();
        assert_eq!(commit.submit(7), Ok(7));
        assert!(begun.elapsed() >= commit.max_wait);
        commit.max_wait = LONG;
        assert_eq!(commit.submit(8), Ok(8));
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn siblings_are_expected_after_a_slow_batch_only() {
        let commit = Commit::new(|batch: Vec<u64>| {
            std::thread::sleep(Duration::from_millis(batch[0]));
            batch
        });
        for (milliseconds, expected) in [(0, 0), (5, 1), (0, 0)] {
            commit.submit(milliseconds).unwrap();
            let slow = lock(&commit.queue).expected;
            // A busy machine makes a quick batch slow, never a slow one quick.
            assert!(slow == expected || milliseconds == 0 && slow == 1);
        }
    }

    #[test]
    fn a_panic_or_a_missing_outcome_is_an_error_for_its_batch_only() {
        let commit = Commit::new(|batch: Vec<u8>| match batch[0] {
            1 => panic!("told to"),
            2 => Vec::new(),
            _ => batch,
        });
        assert_eq!(commit.submit(0), Ok(0));
        assert_eq!(commit.submit(1), Err(Abandoned));
        assert_eq!(commit.submit(2), Err(Abandoned));
        assert_eq!(commit.submit(3), Ok(3));
    }

    #[test]
    fn those_who_waited_through_a_panic_are_answered() {
        let commit = Commit::new(|batch: Vec<usize>| {
            std::thread::sleep(Duration::from_millis(5));
            assert!(!batch.contains(&7), "told to");
            batch
        });
        let (good, bad) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for n in 0..20 {
                let (commit, good, bad) = (&commit, &good, &bad);
                scope.spawn(move || match commit.submit(n) {
                    Ok(m) => {
                        assert_eq!(m, n);
                        good.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(Abandoned) => {
                        bad.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(good.into_inner() + bad.load(Ordering::SeqCst), 20);
        assert!(bad.into_inner() >= 1);
    }
}

/// Every interleaving of a few threads: `cargo test --manifest-path tests/loom/Cargo.toml`.
#[cfg(loom)]
#[path = "group_commit_model.rs"]
mod model;
