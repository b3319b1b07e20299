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
//! | 1 arriving | holds its item | nobody leads: to 3; somebody leads: to 2 |
//! | 2 queued | is parked; its item is in the queue | made leader: to 3; its batch was run by another: to 4 |
//! | 3 leading | has taken the whole queue, its own item first, and runs the batch | the batch is run, the leadership handed on |
//! | 4 answered | has the outcome of its item | |
//!
//! Promises: an item is in exactly one batch; its outcome is handed out only after that batch ran;
//! at most one batch runs at a time; whoever is queued when a leader ends is not forgotten. A batch
//! that panics, or that returns the wrong number of outcomes, is answered [`Abandoned`] to everyone
//! in it, and the next batch goes on. The four are model-checked (`tests/loom`).
//!
//! It adapts by itself: a lone caller takes one lock and runs its item at once, and nobody waits for company. The longer
//! a batch takes, the more come meanwhile, and the larger is the next. Who is made leader has company, and gives way
//! once before it looks who is there: those who were just about to bring their items are in its batch then.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the model checker replaces.
#[cfg(not(loom))]
mod sync {
    pub(super) use crate::crowd::give_way;
    pub(super) use std::sync::{Arc, Mutex};
    pub(super) use std::thread;
}
#[cfg(loom)]
mod sync {
    pub(super) use loom::sync::{Arc, Mutex};
    pub(super) use loom::thread::{self, yield_now as give_way};
}
use sync::{Arc, Mutex, give_way, thread};

/// The batch that held the item ended without an outcome for it: it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// A place where items are brought, and the work that is done on them in batches.
pub(crate) struct Commit<I, O, F> {
    queue: Mutex<Queue<I, O>>,
    /// Takes a batch, returns one outcome for each item, in order.
    run: F,
}

struct Queue<I, O> {
    waiting: Vec<(I, Arc<Ticket<O>>)>,
    /// Somebody leads, or was told to. While it is false, `waiting` is empty.
    led: bool,
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
        };
        Commit {
            queue: Mutex::new(queue),
            run,
        }
    }

    /// Returns the outcome of `item` once the batch that holds it has run.
    pub(crate) fn submit(&self, item: I) -> Result<O, Abandoned> {
        let mut queue = lock(&self.queue);
        if !queue.led {
            queue.led = true;
            drop(queue);
            return self.lead(Some(item));
        }
        let ticket = Arc::new(Ticket {
            thread: thread::current(),
            news: Mutex::new(News::None),
        });
        queue.waiting.push((item, Arc::clone(&ticket)));
        drop(queue);
        loop {
            // A thread may be unparked for reasons that are not ours, so the news decides.
            let news = std::mem::replace(&mut *lock(&ticket.news), News::None);
            match news {
                News::None => thread::park(),
                News::Lead => return self.lead(None),
                News::Done(outcome) => return outcome,
            }
        }
    }

    /// Runs one batch: `own`, if this thread has not queued its item, and then all that is queued.
    fn lead(&self, own: Option<I>) -> Result<O, Abandoned> {
        if own.is_none() {
            give_way();
        }
        let taken = std::mem::take(&mut lock(&self.queue).waiting);
        let mut batch = Vec::with_capacity(taken.len() + 1);
        let mut tickets = Vec::with_capacity(taken.len() + 1);
        if let Some(own) = own {
            batch.push(own);
            tickets.push(None);
        }
        for (item, ticket) in taken {
            batch.push(item);
            tickets.push(Some(ticket));
        }
        let size = batch.len();

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

        self.hand_on();
        // The first is the leader's own item, whether it was queued or not.
        let mine = next();
        for ticket in tickets.into_iter().skip(1).flatten() {
            ticket.tell(News::Done(next()));
        }
        mine
    }

    /// The first of those who came meanwhile leads the next batch.
    fn hand_on(&self) {
        let heir = {
            let mut queue = lock(&self.queue);
            let heir = queue.waiting.first().map(|(_, ticket)| Arc::clone(ticket));
            queue.led = heir.is_some();
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
mod model {
    use super::*;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// Each of `callers` threads (this one is the last) brings its number; checks all four
    /// promises.
    fn check(callers: usize, preemptions: Option<usize>, fails: fn(&[usize]) -> bool) {
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
            let commit = Arc::new(Commit::new(move |batch: Vec<usize>| {
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
            }));
            let one = |n: usize, commit: &Commit<_, _, _>, synced: &[AtomicUsize]| {
                // Whoever is answered was in a batch that ran, and hears of his own item in that
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
            assert!(!queue.led && queue.waiting.is_empty());
        });
    }

    #[test]
    fn two_callers_in_every_order() {
        check(2, None, |_| false);
    }

    #[test]
    fn three_callers() {
        check(3, Some(3), |_| false);
    }

    #[test]
    fn an_error_reaches_everyone_in_its_batch_and_nobody_else() {
        check(3, Some(3), |batch| batch.contains(&1));
    }

    #[test]
    fn two_items_each_one_after_the_other() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let commit = Arc::new(Commit::new(|batch: Vec<usize>| batch));
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
            let commit = Arc::new(Commit::new(|batch: Vec<usize>| {
                if batch.contains(&1) {
                    std::panic::resume_unwind(Box::new("told to"))
                } else {
                    batch
                }
            }));
            let other = Arc::clone(&commit);
            let other = thread::spawn(move || assert_eq!(other.submit(1), Err(Abandoned)));
            assert!(matches!(commit.submit(0), Ok(0) | Err(Abandoned)));
            other.join().unwrap();
        });
    }
}
