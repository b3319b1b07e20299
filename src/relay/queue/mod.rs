//! The queue: what waits in the spool is sent to its next hop, delivered to a mailbox that could not take it at once,
//! or returned to its sender.
//!
//! | file | decides or does |
//! | --- | --- |
//! | `schedule` | which message is due, and how its attempt stands (pure) |
//! | `destinations`, `addresses` | which destination gets a worker, which address a connection (pure) |
//! | `pool` | the two above under one lock; who sleeps, what each worker has in hand |
//! | `worker` | one job after another: look up, connect, send, deliver, refuse |
//! | `attempt` | what became of a message's recipients: reports, records, the next try |
//! | `environment` | what the queue needs of the rest of the daemon; the clock |
//!
//! Here are the way in and the scheduler, a thread that begins what is due, starts workers, and looks through the spool.
//!
//! It promises: at most MAX_RELAYS connections, a fifth of them to one address; a dead or silent host delays only its
//! own mail, and so do names without an answer, up to 100 at once, and locked mailboxes, up to 4; idle, every thread
//! sleeps. A thread that the system refuses is asked for again a second later. A message whose file cannot be read now
//! stays in the schedule.

mod addresses;
mod attempt;
mod destinations;
mod environment;
mod pool;
mod schedule;
#[cfg(test)]
mod tests;
mod worker;

use crate::message::Id;
use crate::relay::queue::pool::{Pool, Shared, State};
use crate::relay::queue::schedule::Routed;
use crate::relay::queue::worker::Worker;
use crate::smtp::address::ForwardPath;
use crate::store::spool::{Origin, Queued, Recipient, Spool, State as Progress};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use crate::relay::queue::environment::Route;
pub(crate) use crate::relay::queue::environment::{BackOff, Environment, Link, Settings};
use crate::relay::queue::environment::{Destination, Limits, Millis, millis, moment, now};

/// Enough for a worker in a debug build; only what is used is ever in memory.
const STACK: usize = 256 << 10;
/// Before a refused thread is asked for again.
const START_AGAIN: Millis = 1_000;
/// Before a scan that failed is repeated.
const SCAN_AGAIN: Millis = 60_000;
/// No sleep of the scheduler with something to do is longer: a sleep does not go on through a suspend.
const NAP: Millis = 30_000;
/// A wall clock that goes wrong by more has been set.
const LEAP: i128 = 5_000;

/// The way into the queue. Made first, so that the router can have one; what is submitted before the queue starts
/// is kept.
#[derive(Clone)]
pub struct QueueHandle {
    pool: Arc<Pool>,
}

impl Default for QueueHandle {
    fn default() -> QueueHandle {
        QueueHandle {
            pool: Arc::new(Pool::new()),
        }
    }
}

impl QueueHandle {
    /// A message that [`Spool::accept`] has just taken: due at once. `routes`: of its recipients, in their order.
    pub fn submit(&self, queued: Queued, routes: Vec<Route>) {
        let recipients = queued.recipients.iter().enumerate().zip(routes);
        let routed = recipients
            .map(|((index, recipient), route)| routed(index, &recipient.to, route, queued.origin));
        let (id, routed) = (queued.id, routed.collect());
        let age = age(&queued, SystemTime::now());
        let mut state = self.pool.lock();
        if state.stopping || !state.schedule.admit(id, moment()) {
            return;
        }
        drop(state);
        // A file that is open is not recycled. A scan finds the message known from here on.
        drop(queued);
        self.pool.change(|state| state.begin(id, routed, age));
    }

    /// SIGUSR1: looks through the spool's folder again; everything is due now, and no host is given up.
    pub fn flush(&self) {
        self.pool.change(|state| state.flush = true);
    }
}

/// The running queue. Dropped, it ends without grace.
pub struct Queue {
    handle: QueueHandle,
    spool: Arc<Spool>,
    scheduler: Option<JoinHandle<()>>,
}

impl Queue {
    /// Starts scanning the spool and working. What is submitted to `handle` is worked on.
    ///
    /// # Errors
    /// The scheduler's thread cannot be started.
    pub(crate) fn start(
        spool: Arc<Spool>,
        environment: Arc<dyn Environment>,
        handle: &QueueHandle,
    ) -> io::Result<Queue> {
        let shared = Arc::new(Shared {
            pool: Arc::clone(&handle.pool),
            spool: Arc::clone(&spool),
            environment,
        });
        let boot = boot_time(&*shared.environment);
        let scheduler = Scheduler {
            shared,
            scan_at: Some(0),
            start_at: 0,
            started: 0,
            warned: false,
            boot,
        };
        let scheduler = Builder::new()
            .name("queue".into())
            .spawn(move || scheduler.run())?;
        Ok(Queue {
            handle: handle.clone(),
            spool,
            scheduler: Some(scheduler),
        })
    }

    /// The settings have changed.
    pub fn reloaded(&self) {
        self.handle.pool.wake_by(0);
    }

    /// See [`QueueHandle::flush`].
    pub fn flush(&self) {
        self.handle.flush();
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
        self.handle.pool.stop(grace);
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

/// The scheduler's own state.
struct Scheduler {
    shared: Arc<Shared>,
    /// When the spool is to be looked through.
    scan_at: Option<Millis>,
    /// When the next worker may be started, and how many have been.
    start_at: Millis,
    started: usize,
    warned: bool,
    /// When the machine was booted, by the wall clock: another answer means that this was set.
    boot: i128,
}

impl Scheduler {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let (pool, spool) = (&shared.pool, &shared.spool);
        loop {
            let settings = shared.environment.settings();
            self.follow_wall_clock();
            let limits_of = |s: &Settings| Limits::new(s.max_relays, s.back_off);
            let limits = limits_of(&settings);
            let now = now();
            pool.change(|state| {
                state.wakes_at = 0;
                state.destinations.addresses.limits = limits;
                state.destinations.addresses.expire(now);
            });
            let mut state = pool.lock();
            if state.stopping {
                return;
            }
            let purge_at = spool
                .purge_at()
                .map(|at| now + millis(at.saturating_duration_since(Instant::now())));
            let must_scan = self.scan_at.is_some_and(|at| at <= now);
            if self.start_at <= now && state.wants_worker() {
                self.start_worker(&mut state);
            } else if state.flush || must_scan {
                let flush = std::mem::take(&mut state.flush);
                if flush {
                    state.schedule.flush();
                    state.destinations.forget_back_offs();
                }
                drop(state);
                self.scan(flush, settings.back_off.max);
            } else if let Some(id) = state.schedule.due(now) {
                drop(state);
                let begin = AssertUnwindSafe(|| self.begin(id, &settings));
                if catch_unwind(begin).is_err() {
                    log::error!("the queue panicked on id={id}; it is tried again later");
                    let due = now + millis(settings.back_off.min);
                    pool.change(|state| state.schedule.retry(id, due, moment()));
                }
            } else if purge_at.is_some_and(|at| at <= now) {
                drop(state);
                spool.purge();
            } else if limits_of(&shared.environment.settings()) == limits {
                // A reload before that question woke nobody; one after it finds `wakes_at`.
                let start_at = Some(self.start_at).filter(|at| *at > now);
                let times = [state.next_event(), start_at, self.scan_at, purge_at];
                let until = times.into_iter().flatten().min();
                let until = until.map_or(Millis::MAX, |at| at.clamp(now + 1, now + NAP));
                state.wakes_at = until;
                drop(pool.sleep(state, Duration::from_millis(until - now)));
            }
        }
    }

    /// Starts a worker, or notes that the system refuses.
    fn start_worker(&mut self, state: &mut State) {
        self.started += 1;
        let (shared, number) = (Arc::clone(&self.shared), self.started);
        let started = Builder::new()
            .name("relay".into())
            .stack_size(STACK)
            .spawn(move || Worker::work(shared, number));
        match started {
            Ok(_) => {
                state.threads += 1;
                state.starting += 1;
                self.warned = false;
            }
            Err(e) => {
                self.start_at = now() + START_AGAIN;
                if !std::mem::replace(&mut self.warned, true) {
                    log::warn!("cannot start a worker of the queue, trying again: {e}");
                }
            }
        }
    }

    /// Puts every waiting message into the schedule.
    fn scan(&mut self, flush: bool, longest: Duration) {
        let (begun, clock, pool) = (
            now(),
            self.shared.environment.wall_clock(),
            &self.shared.pool,
        );
        let is_first = self.scan_at == Some(0);
        let scanned = self.shared.spool.scan(&mut |id, next_try| {
            // A clock that was set back must not keep mail for years.
            let wait = next_try
                .duration_since(clock)
                .unwrap_or_default()
                .min(longest);
            let due = if flush { 0 } else { begun + millis(wait) };
            pool.lock().schedule.found(id, due, moment());
        });
        if let Err(e) = scanned {
            log::error!("spool: cannot read the folder, trying again in a minute: {e}");
            self.scan_at = Some(now() + SCAN_AGAIN);
            return;
        }
        self.scan_at = None;
        let count = pool.lock().schedule.len();
        match flush {
            true => log::info!("trying all {count} messages of the spool now"),
            false if is_first && count > 0 => log::info!("{count} messages wait in the spool"),
            false => {}
        }
    }

    /// Begins a message's attempt: finds out where its recipients are.
    fn begin(&self, id: Id, settings: &Settings) {
        let Shared {
            pool,
            spool,
            environment,
        } = &*self.shared;
        let queued = match spool.load(id) {
            Ok(Some(queued)) => queued,
            Ok(None) => return pool.change(|state| state.schedule.forget(id)),
            Err(e) => {
                log::error!("spool: cannot read id={id}, trying again later: {e}");
                let again = now() + millis(settings.back_off.min);
                return pool.change(|state| state.schedule.retry(id, again, moment()));
            }
        };
        if queued.is_finished() {
            // It could not be removed when its last recipient was recorded.
            if let Err(e) = queued.remove() {
                log::error!("spool: cannot remove a finished message id={id}: {e}");
            }
            return pool.change(|state| state.schedule.forget(id));
        }
        let is_waiting =
            |(_, recipient): &(usize, &Recipient)| recipient.state == Progress::Waiting;
        let waiting = queued.recipients.iter().enumerate().filter(is_waiting);
        let routes =
            waiting.map(|(index, r)| routed(index, &r.to, environment.route(&r.to), queued.origin));
        let (routes, age) = (routes.collect(), age(&queued, environment.wall_clock()));
        drop(queued);
        pool.change(|state| state.begin(id, routes, age));
    }

    /// The files hold the next try by the wall clock, for `--queue` and for the next start. A clock that is set makes
    /// them untrue.
    fn follow_wall_clock(&mut self) {
        let environment = &self.shared.environment;
        let boot = boot_time(&**environment);
        if (boot - self.boot).abs() < LEAP {
            return;
        }
        self.boot = boot;
        let waiting: Vec<_> = self.shared.pool.lock().schedule.waiting().collect();
        log::info!(
            "the clock was set; {} messages wait as long as before",
            waiting.len()
        );
        for (due, id) in waiting {
            if let Err(e) = self
                .shared
                .spool
                .set_next_try(id, environment.wall_clock_at(due))
            {
                log::debug!("spool: cannot set the next try id={id}: {e}");
            }
        }
    }
}

/// Where a recipient's mail goes, and under which path.
fn routed(index: usize, to: &ForwardPath, route: Route, origin: Origin) -> Routed {
    let (destination, path) = match route {
        Route::Mailbox(mbox) => (Destination::Mailbox(mbox), None),
        Route::Forward(path) => (Destination::Host(path.host().clone()), Some(path)),
        Route::Remote if origin == Origin::Report => (Destination::Report(to.host().clone()), None),
        Route::Remote => (Destination::Host(to.host().clone()), None),
        Route::NoSuchUser => (Destination::Nobody, None),
    };
    Routed {
        index,
        destination,
        path,
    }
}

/// A message's age by the wall clock.
fn age(queued: &Queued, now: SystemTime) -> Millis {
    let age = now.duration_since(queued.received);
    age.map_or(0, millis)
}

/// When the machine was booted, in milliseconds of the wall clock.
fn boot_time(environment: &dyn Environment) -> i128 {
    let clock = environment.wall_clock().duration_since(UNIX_EPOCH);
    clock.map_or(0, |clock| clock.as_millis() as i128) - i128::from(now())
}
