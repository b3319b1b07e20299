//! Group commit: what many threads bring at the same moment is done as one batch, by one of them.
//!
//! A storage device syncs a few thousand times a second, whatever the syncs carry. So a thread that
//! brings an item while another is at work does not queue for its own turn: it queues its item. The
//! thread at work, the leader, runs exactly one batch; then it hands the leadership to the first of
//! those who came meanwhile, who takes everything queued as the next batch. Nobody leads twice in a
//! row for others, so no client pays for the crowd.
//!
//! One caller's way through [`Commit::submit`]:
//!
//! | state | the caller | leaves it when |
//! | --- | --- | --- |
//! | 1 arriving | puts its item into the queue | nobody leads: to 3; somebody leads: to 2 |
//! | 2 queued | is parked | made leader: to 3; its batch was run by another: to 5 |
//! | 3 gathering | leads, and is parked while too few are in the queue | enough are, or its patience is at an end: to 4 |
//! | 4 running | has taken the whole queue, its own item first, and runs the batch | the batch is run, the leadership handed on |
//! | 5 answered | has the outcome of its item | |
//!
//! Promises: an item is in exactly one batch; its outcome is handed out only after that batch ran;
//! at most one batch runs at a time; whoever is queued when a leader ends is not forgotten. A batch
//! that panics, or that returns the wrong number of outcomes, is answered [`Abandoned`] to everyone
//! in it, and the next batch goes on. The four are model-checked (`tests/loom`).
//!
//! It adapts by itself. A lone caller runs its item at once. The longer a batch takes, the more come meanwhile, and the
//! larger is the next; and a leader that has had company gathers some of it before it begins (`company.rs`), for a
//! millisecond at most.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::store::company::{self, Last};

/// What the model checker replaces.
#[cfg(not(loom))]
mod sync {
    pub(super) use std::sync::{Arc, Mutex};
    pub(super) use std::thread;
    use std::time::{Duration, Instant};

    /// Parks, until `until` at most; false if that is over.
    pub(super) fn rest(until: Instant) -> bool {
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
        Instant::now() < until
    }

    pub(super) fn since(begun: Instant) -> Duration {
        begun.elapsed()
    }
}
#[cfg(loom)]
mod sync {
    pub(super) use loom::sync::{Arc, Mutex};
    pub(super) use loom::thread;
    use std::time::{Duration, Instant};

    /// There is no time in a model. Patience is at an end at any moment, so after one; or it has none (`until` is more
    /// than an hour away).
    pub(super) fn rest(until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let patient = left > Duration::from_secs(3600);
        match patient {
            true => thread::park(),
            false => thread::yield_now(),
        }
        patient
    }

    pub(super) fn since(_: Instant) -> Duration {
        Duration::ZERO
    }
}
use sync::{Arc, Mutex, rest, since, thread};

/// How long a leader gathers at most: too short to be noticed, several syncs on a fast device.
const PATIENCE: Duration = Duration::from_millis(1);

/// The batch that held the item ended without an outcome for it: it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// A place where items are brought, and the work that is done on them in batches.
pub(crate) struct Commit<I, O, F> {
    queue: Mutex<Queue<I, O>>,
    patience: Duration,
    /// How many may still bring something.
    coming: fn() -> usize,
    /// Takes a batch, returns one outcome for each item, in order.
    run: F,
}

struct Queue<I, O> {
    /// In the order of arrival. Who found nobody leading has no ticket; that is the first or nobody.
    waiting: Vec<(I, Option<Arc<Ticket<O>>>)>,
    /// Somebody leads, or was told to. While it is false, `waiting` is empty.
    led: bool,
    /// The leader, while it is parked for company.
    gathering: Option<thread::Thread>,
    last: Last,
}

/// Where one queued thread is told what became of its item.
struct Ticket<O> {
    thread: thread::Thread,
    news: Mutex<News<O>>,
}

enum News<O> {
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
            last: Last::default(),
        };
        Commit {
            queue: Mutex::new(queue),
            patience: PATIENCE,
            coming: company::coming,
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
            news: Mutex::new(News::None),
        });
        queue.waiting.push((item, Some(Arc::clone(&ticket))));
        let gathered = match self.is_enough(&queue) {
            true => queue.gathering.take(),
            false => None,
        };
        drop(queue);
        if let Some(leader) = gathered {
            leader.unpark();
        }
        loop {
            // A thread may be unparked for reasons that are not ours, so the news decides.
            let news = std::mem::replace(&mut *lock(&ticket.news), News::None);
            match news {
                News::None => thread::park(),
                News::Lead => return self.lead(),
                News::Done(outcome) => return outcome,
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
        let mut outcomes = outcomes.into_iter();
        let mut next = || {
            if complete {
                outcomes.next().ok_or(Abandoned)
            } else {
                Err(Abandoned)
            }
        };

        let slow = since(begun) > self.patience;
        self.hand_on(Last { size, slow });
        // The first is the leader's own item, with a ticket or without.
        let mine = next();
        for ticket in tickets.into_iter().skip(1).flatten() {
            ticket.tell(News::Done(next()));
        }
        mine
    }

    /// Takes what is queued, when it is enough or there was time enough.
    fn gather(&self) -> Vec<(I, Option<Arc<Ticket<O>>>)> {
        let mut until = None;
        let mut queue = lock(&self.queue);
        while !self.is_enough(&queue) {
            queue.gathering = Some(thread::current());
            drop(queue);
            let until = *until.get_or_insert_with(|| Instant::now() + self.patience);
            let in_time = rest(until);
            queue = lock(&self.queue);
            if !in_time {
                break;
            }
        }
        queue.gathering = None;
        std::mem::take(&mut queue.waiting)
    }

    fn is_enough(&self, queue: &Queue<I, O>) -> bool {
        company::is_enough(queue.waiting.len(), queue.last, (self.coming)())
    }

    /// The first of those who came meanwhile leads the next batch, after this.
    fn hand_on(&self, last: Last) {
        let heir = {
            let mut queue = lock(&self.queue);
            let heir = (queue.waiting.first()).and_then(|(_, ticket)| ticket.clone());
            (queue.led, queue.last) = (heir.is_some(), last);
            heir
        };
        if let Some(heir) = heir {
            heir.tell(News::Lead);
        }
    }
}

impl<O> Ticket<O> {
    fn tell(&self, news: News<O>) {
        *lock(&self.news) = news;
        self.thread.unpark();
    }
}

/// No code that can panic runs under these locks, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> sync_guard::Guard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

mod sync_guard {
    #[cfg(loom)]
    pub(super) use loom::sync::MutexGuard as Guard;
    #[cfg(not(loom))]
    pub(super) use std::sync::MutexGuard as Guard;
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
    fn a_leader_gathers_those_who_may_come() {
        let sizes = Mutex::new(Vec::new());
        let mut commit = Commit::new(|batch: Vec<usize>| {
            sizes.lock().unwrap().push(batch.len());
            batch
        });
        (commit.patience, commit.coming) = (LONG, || 9);
        lock(&commit.queue).last.size = 3;
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
    fn a_leader_whose_company_does_not_come_waits_once() {
        let mut commit = Commit::new(|batch: Vec<u8>| batch);
        (commit.patience, commit.coming) = (Duration::from_millis(20), || 9);
        lock(&commit.queue).last.size = 3;
        let begun = Instant::now();
        assert_eq!(commit.submit(7), Ok(7));
        assert!(begun.elapsed() >= commit.patience);
        commit.patience = LONG;
        assert_eq!(commit.submit(8), Ok(8));
        assert!(begun.elapsed() < LONG);
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
#[cfg(all(test, loom))]
#[path = "group_commit_model.rs"]
mod model;
