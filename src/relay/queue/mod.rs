//! The forwarding side of the daemon: a scheduler thread that knows when which message is due, and workers,
//! started on demand, that call out or deliver what the mailboxes could not take at once.
//!
//! What is decided is in `plan.rs` (pure); who waits for whom in `desk.rs`; the workers in `crew.rs`; a
//! message's round in `round.rs`. Here is the scheduler: scan the spool, begin rounds, hire.
//!
//! It promises: at most MAX_RELAYS connections, a quarter of them to one destination; a dead or silent host, or
//! a locked mailbox, delays only its own mail; idle, every thread sleeps. A thread that the system refuses is
//! asked for again a second later. A message whose file cannot be read now stays in the schedule.

mod attempt;
mod destinations;
mod environment;
#[cfg(test)]
mod fakes;
mod pool;
#[cfg(test)]
mod queue_tests;
mod retry;
mod schedule;
mod worker;

use crate::daemon::router::Router;
use crate::message::Id;
use crate::relay::queue::destinations::{Destination, Millis, millis};
use crate::relay::queue::environment::{DaemonEnvironment, Environment};
use crate::relay::queue::pool::{Board, Desk};
use crate::relay::queue::worker::Crew;
use crate::store::spool::{Queued, Spool, State};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime};

/// Enough for a worker in a debug build; only what is used is ever in memory.
const STACK: usize = 256 << 10;
/// Files of messages whose first try is near that are kept open, at most; fewer where open files are few.
pub(crate) const OPEN: usize = 128;
/// Before a refused thread is asked for again.
const HIRE_AGAIN: Millis = 1_000;
/// Before a scan that failed is repeated.
const SCAN_AGAIN: Millis = 60_000;

/// The way into the queue. Made first, so that the post office can have one; what is submitted before the queue
/// starts is kept.
#[derive(Clone)]
pub struct QueueHandle {
    pub(super) desk: Arc<Desk>,
}

impl Default for QueueHandle {
    fn default() -> QueueHandle {
        QueueHandle {
            desk: Arc::new(Desk::new()),
        }
    }
}

impl QueueHandle {
    /// A handle of a queue to be.
    #[cfg(test)]
    pub fn new() -> QueueHandle {
        QueueHandle::default()
    }

    /// A message that [`Spool::accept`] has just taken: due at once.
    pub fn submit(&self, queued: Queued) {
        let id = queued.id;
        let Some(begin) = self.desk.begin.get() else {
            self.desk.board().plan.submit(id);
            return self.desk.notify();
        };
        if catch_unwind(AssertUnwindSafe(|| begin(queued))).is_err() {
            log::error!("the queue panicked on id={id}; it waits for the next start");
        }
    }

    /// SIGUSR1: everything is due now, and no host is given up.
    #[cfg(test)]
    pub fn retry_all(&self) {
        self.desk.board().plan.retry_all();
        self.desk.notify();
    }
}

/// The running queue. Dropped, it ends without grace.
pub struct Queue {
    desk: Arc<Desk>,
    spool: Arc<Spool>,
    scheduler: Option<JoinHandle<()>>,
}

impl Queue {
    /// Starts scanning the spool and working. What is submitted to `inbox` is worked on. Fails if the scheduler's
    /// thread cannot be started.
    pub fn start(spool: Arc<Spool>, post: Arc<Router>, inbox: &QueueHandle) -> io::Result<Queue> {
        Queue::run(
            spool,
            DaemonEnvironment::new(post).map_err(io::Error::other)?,
            inbox,
        )
    }

    pub(crate) fn run<O: Environment>(
        spool: Arc<Spool>,
        outside: O,
        inbox: &QueueHandle,
    ) -> io::Result<Queue> {
        let desk = inbox.desk.clone();
        let crew = Arc::new(Crew {
            desk: desk.clone(),
            spool: spool.clone(),
            outside,
        });
        let (weak, limits) = (Arc::downgrade(&crew), crew.outside.settings().limits);
        desk.board().limits = limits;
        let _ = desk.begin.set(Box::new(move |queued| {
            if let Some(crew) = weak.upgrade() {
                begin_fresh(&crew, queued);
            }
        }));
        let scheduler = Builder::new()
            .name("queue".into())
            .spawn(move || schedule(&crew))?;
        Ok(Queue {
            desk,
            spool,
            scheduler: Some(scheduler),
        })
    }

    /// The settings have changed.
    pub fn reloaded(&self) {
        drop(self.desk.board());
        self.desk.notify();
    }

    /// See [`QueueHandle::retry_all`].
    pub fn retry_all(&self) {
        self.desk.board().plan.retry_all();
        self.desk.notify();
    }

    /// No new connections or messages; what is past DATA, or being written to a mailbox, finishes within `grace`.
    /// A worker that is still looking up or connecting is not waited for: it has nothing to lose, and ends when
    /// it notices.
    pub fn stop(mut self, grace: Duration) {
        self.end(grace);
    }

    fn end(&mut self, grace: Duration) {
        let Some(scheduler) = self.scheduler.take() else {
            return;
        };
        self.desk.stop(grace);
        if scheduler.join().is_err() {
            log::error!("the scheduler of the queue panicked");
        }
        self.spool.purge_now();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn schedule<O: Environment>(crew: &Arc<Crew<O>>) {
    let desk = &crew.desk;
    let mut scan_at = scan(crew);
    let mut hire_at = None;
    let mut warned = false;
    loop {
        let limits = crew.outside.settings().limits;
        let mut board = desk.board();
        if board.stopping {
            return;
        }
        board.limits = limits;
        let now = desk.now();
        if hire_at.is_none_or(|at| at <= now) {
            let short = desk.staff(&mut board, |destination| {
                hire(crew, destination, &mut warned)
            });
            hire_at = short.then_some(now + HIRE_AGAIN);
        }
        let purge_at = crew.spool.purge_at().map(|at| desk.at(at));
        if scan_at.is_some_and(|at| at <= now) {
            drop(board);
            scan_at = scan(crew);
        } else if let Some(id) = board.plan.due(now) {
            drop(board);
            if catch_unwind(AssertUnwindSafe(|| begin(crew, id))).is_err() {
                log::error!("the queue panicked on id={id}; it waits for the next start");
            }
        } else if purge_at.is_some_and(|at| at <= now) {
            drop(board);
            crew.spool.purge();
        } else {
            let until = [board.plan.next_due(), hire_at, scan_at, purge_at]
                .into_iter()
                .flatten()
                .min();
            drop(desk.wait(board, until));
        }
    }
}

/// Puts every waiting message into the plan. Returns when to do it again, should it have failed.
fn scan<O: Environment>(crew: &Crew<O>) -> Option<Millis> {
    let (now, clock) = (crew.desk.now(), SystemTime::now());
    // A clock that was set back must not keep mail for years.
    let longest = crew.outside.settings().back_off.max;
    let scanned = crew.spool.scan(&mut |id, next_try| {
        let wait = next_try
            .duration_since(clock)
            .unwrap_or_default()
            .min(longest);
        crew.desk
            .board()
            .plan
            .found(id, now.saturating_add(millis(wait)));
    });
    let Err(error) = scanned else {
        crew.desk.board().plan.all_found();
        return None;
    };
    log::error!("spool: cannot read the folder, trying again in a minute: {error}");
    Some(crew.desk.now() + SCAN_AGAIN)
}

/// Begins a message's round: finds out where its recipients are.
fn begin<O: Environment>(crew: &Crew<O>, id: Id) {
    let queued = match crew.spool.load(id) {
        Ok(Some(queued)) => queued,
        Ok(None) => return crew.desk.board().plan.forget(id),
        Err(e) => {
            log::error!("spool: cannot read id={id}, trying again later: {e}");
            let again = crew.desk.now() + millis(crew.outside.settings().back_off.min);
            return crew.desk.board().plan.schedule(id, again);
        }
    };
    if queued.is_finished() {
        // It could not be removed when its last recipient was recorded.
        if let Err(e) = queued.remove() {
            log::error!("spool: cannot remove a finished message id={id}: {e}");
        }
        return crew.desk.board().plan.forget(id);
    }
    let waiting = queued
        .recipients
        .iter()
        .filter(|r| r.state == State::Waiting);
    let destinations = crew.destinations(waiting.map(|recipient| &recipient.to));
    let held = join(crew, &mut crew.desk.board(), queued, destinations);
    if let Some((queued, until)) = held {
        hold(queued, until);
    }
}

/// Begins the first round of a message that was just accepted, in the thread that accepted it: its file, known to be
/// whole, is not read for that, and the scheduler is woken only if a worker is to be hired.
fn begin_fresh<O: Environment>(crew: &Crew<O>, queued: Queued) {
    let to = queued.recipients.iter().map(|recipient| &recipient.to);
    let destinations = crew.destinations(to);
    let mut board = crew.desk.board();
    if board.stopping || !board.plan.admit(queued.id) {
        return;
    }
    let held = join(crew, &mut board, queued, destinations);
    let short = crew.desk.staff(&mut board, |_| false);
    drop(board);
    if short || held.is_some() {
        crew.desk.notify();
    }
    if let Some((queued, until)) = held {
        hold(queued, until);
    }
}

/// The message joins the queues of its destinations. If all of them are in back-off: the message back, and until when.
fn join<O: Environment>(
    crew: &Crew<O>,
    board: &mut Board,
    queued: Queued,
    destinations: Vec<Destination>,
) -> Option<(Queued, SystemTime)> {
    let (now, limits) = (crew.desk.now(), board.limits);
    // The parts of a message for several would write to one open file: each opens its own.
    let alone = destinations.len() == 1;
    let held = board.plan.begin(queued.id, destinations, now, &limits);
    match held {
        Some(until) => {
            let wait = Duration::from_millis(until.saturating_sub(now));
            return Some((queued, SystemTime::now() + wait));
        }
        None if alone && queued.is_small() && board.open.len() < board.most_open => {
            board.open.insert(queued.id, queued);
        }
        None => {}
    }
    None
}

/// Notes when a message is due that its destinations' back-off holds: advice for `--queue`; the schedule has it.
fn hold(mut queued: Queued, next_try: SystemTime) {
    let (id, tries) = (queued.id, queued.tries);
    if let Err(e) = queued.defer(tries, next_try) {
        log::debug!("spool: cannot set the next try id={id}: {e}");
    }
}

/// Starts a worker; false if the system refuses.
fn hire<O: Environment>(crew: &Arc<Crew<O>>, destination: Destination, warned: &mut bool) -> bool {
    let its = crew.clone();
    match Builder::new()
        .name("relay".into())
        .stack_size(STACK)
        .spawn(move || its.work(destination))
    {
        Ok(_) => *warned = false,
        Err(e) if !*warned => {
            log::warn!("cannot start a worker of the queue, trying again: {e}");
            *warned = true;
        }
        Err(_) => {}
    }
    !*warned
}
