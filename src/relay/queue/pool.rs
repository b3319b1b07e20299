//! The queue's one state, under one lock, and the workers that sleep on its one Condvar.
//!
//! A worker asks for its next job and sleeps until there is one; after 30 seconds without, it ends. Whoever changes the
//! state wakes one sleeper if there is work. That may be the scheduler, which then starts a worker, or finds that a
//! sleeping one will do. Whoever puts in a time before the scheduler's next one wakes all.
//!
//! What a worker has in hand stands in [`State::workers`], not on its stack. It is cleared step by step; what is left
//! when the worker asks for its next job (because it panicked, say) is given back then: permits, places, messages.

use crate::message::Id;
use crate::relay::mx::{RouteError, Target};
use crate::relay::queue::addresses::{Connection, Job};
use crate::relay::queue::destinations::Destinations;
use crate::relay::queue::environment::{
    BackOff, Destination, Environment, Interrupter, Limits, Millis, millis, moment, now,
};
use crate::relay::queue::schedule::{Routed, Schedule, Taken};
use crate::store::spool::Spool;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker without work stays, so that a burst does not start its threads anew.
const IDLE: Duration = Duration::from_secs(30);

/// What all threads of the queue share.
pub(crate) struct Shared {
    pub(crate) pool: Arc<Pool>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) environment: Arc<dyn Environment>,
}

/// The state and its sleepers.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

/// All that the queue knows.
pub(crate) struct State {
    pub(crate) schedule: Schedule,
    pub(crate) destinations: Destinations,
    pub(crate) stopping: bool,
    /// The spool's folder is to be looked through and all of it to be tried at once.
    pub(crate) flush: bool,
    /// When the scheduler looks again by itself; never, while it is awake.
    pub(crate) wakes_at: Millis,
    workers: HashMap<usize, Work>,
    /// Workers there are, those of them that wait for a job, and those that have not asked for one yet.
    pub(crate) threads: usize,
    waiting: usize,
    pub(crate) starting: usize,
}

/// What a worker has in hand.
struct Work {
    destination: Destination,
    stage: Stage,
    /// Deliveries that have not ended, the current one first.
    messages: VecDeque<Id>,
    /// Ends a connection, and with it this work; `stop` waits for it.
    interrupter: Option<Interrupter>,
}

/// What of its destination a worker takes up.
enum Stage {
    LookingUp,
    Opening(Vec<Target>),
    Connected(Target),
    Local,
    Nothing,
}

/// What becomes of a message whose delivery has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is gone.
    Forget,
    /// It is tried again then.
    Retry(Millis),
    /// Other deliveries of it have not ended.
    Others,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        // The scheduler puts in what is configured.
        let min = Duration::from_secs(60);
        let state = State {
            schedule: Schedule::default(),
            destinations: Destinations::new(Limits::new(1, BackOff { min, max: min })),
            stopping: false,
            flush: false,
            wakes_at: 0,
            workers: HashMap::new(),
            threads: 0,
            waiting: 0,
            starting: 0,
        };
        Pool {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes whom that concerns once the lock is free.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        self.unlock(state);
        result
    }

    /// Wakes whom a change concerns.
    pub(crate) fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let next = state.next_event();
        let is_late = state.flush || next.is_some_and(|at| at < state.wakes_at);
        if is_late {
            state.wakes_at = 0;
        }
        let has_work = state.destinations.has_work();
        drop(state);
        if is_late {
            self.changed.notify_all();
        } else if has_work {
            self.changed.notify_one();
        }
    }

    /// The scheduler looks again at this time, if not before.
    pub(crate) fn wake_by(&self, time: Millis) {
        let mut state = self.lock();
        if time < state.wakes_at {
            state.wakes_at = 0;
            self.changed.notify_all();
        }
    }

    /// Sleeps until a change, at most for `time`.
    pub(crate) fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State>,
        time: Duration,
    ) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, time);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The next job of a worker, which has given back whatever it had in hand; `None`: it is to end.
    pub(crate) fn next_job(&self, worker: usize) -> Option<(Destination, Job)> {
        let mut state = self.lock();
        state.give_back(worker);
        let deadline = Instant::now() + IDLE;
        loop {
            if state.stopping {
                break;
            }
            let job = state.take(worker);
            self.unlock(state);
            if job.is_some() {
                return job;
            }
            state = self.lock();
            if state.stopping || state.destinations.has_work() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.waiting += 1;
            state = self.sleep(state, left);
            state.waiting -= 1;
        }
        state.threads -= 1;
        // `stop` may have waited for what this one had.
        self.changed.notify_all();
        None
    }

    /// Tells everyone to end, and waits for what is under way, at most `grace`.
    pub(crate) fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut state = self.lock();
        state.stopping = true;
        let ends = state.workers.values().flat_map(|work| &work.interrupter);
        ends.for_each(|end| end());
        self.changed.notify_all();
        // Hosts that owe the reply to a QUIT are not waited for one after the other.
        let farewells = deadline.min(Instant::now() + Duration::from_secs(1));
        for Connection { link, .. } in state.destinations.addresses.drain_idle() {
            drop(state);
            if Instant::now() < farewells {
                link.quit();
            }
            state = self.lock();
        }
        let is_waited_for = |work: &Work| work.interrupter.is_some();
        while state.workers.values().any(is_waited_for) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.sleep(state, left);
        }
    }
}

impl State {
    /// When the scheduler has something to do next.
    pub(crate) fn next_event(&self) -> Option<Millis> {
        let times = [
            self.schedule.next_due(),
            self.destinations.addresses.next_expiry(),
        ];
        times.into_iter().flatten().min()
    }

    /// Whether there is work and nobody to do it, and there may be one more.
    pub(crate) fn wants_worker(&self) -> bool {
        self.destinations.has_work()
            && self.waiting + self.starting == 0
            && self.threads < self.destinations.addresses.limits.workers()
    }

    /// Begins an attempt. `age`: of the message, by its file.
    pub(crate) fn begin(&mut self, id: Id, routes: Vec<Routed>, age: Millis) {
        for destination in self.schedule.begin(id, routes, now(), age) {
            self.destinations.push(&destination, id);
        }
    }

    fn take(&mut self, worker: usize) -> Option<(Destination, Job)> {
        let (destination, mut job) = self.destinations.take(now())?;
        let mut work = Work {
            destination: destination.clone(),
            stage: Stage::Nothing,
            messages: VecDeque::new(),
            interrupter: Some(Box::new(|| {})),
        };
        match &mut job {
            // Nothing is lost if these are not waited for; they may last.
            Job::LookUp(_) => (work.stage, work.interrupter) = (Stage::LookingUp, None),
            Job::Open(targets) => {
                (work.stage, work.interrupter) = (Stage::Opening(targets.clone()), None);
            }
            Job::Relay(connection) | Job::Quit(connection) => {
                work.stage = Stage::Connected(connection.target.clone());
                work.interrupter = Some(connection.link.interrupter());
            }
            Job::Deliver(_) => work.stage = Stage::Local,
            Job::Refuse(_, messages) => work.messages = std::mem::take(messages),
        }
        self.workers.insert(worker, work);
        Some((destination, job))
    }

    /// A look-up has ended.
    pub(crate) fn looked_up(&mut self, worker: usize, found: Result<Vec<Target>, RouteError>) {
        if let Some(work) = self.workers.remove(&worker) {
            self.destinations.looked_up(&work.destination, found, now());
        }
    }

    /// A connection is open. False: the queue is stopping.
    pub(crate) fn opened(&mut self, worker: usize, connection: &Connection) -> bool {
        let Some(work) = self.workers.get_mut(&worker).filter(|_| !self.stopping) else {
            return false;
        };
        work.stage = Stage::Connected(connection.target.clone());
        work.interrupter = Some(connection.link.interrupter());
        self.destinations
            .opened(&connection.destination, &connection.target);
        true
    }

    /// No connection could be opened to the first of the worker's targets.
    pub(crate) fn open_failed(&mut self, worker: usize, answer: &str) {
        if let Some(work) = self.workers.remove(&worker)
            && let Stage::Opening(targets) = work.stage
        {
            self.destinations
                .open_failed(&work.destination, targets, answer, now());
        }
    }

    /// The next message for a connection; without one the connection is kept for a moment, or left to be closed.
    pub(crate) fn next_message(
        &mut self,
        worker: usize,
        slot: &mut Option<Connection>,
    ) -> Option<Taken> {
        let connection = slot.as_ref().filter(|_| !self.stopping)?;
        if connection.link.is_usable()
            && let Some(id) = self.destinations.next_message(connection)
        {
            return self.take_message(worker, id);
        }
        let connection = slot.take()?;
        *slot = self.destinations.park(connection, now());
        if slot.is_none() {
            self.workers.remove(&worker);
        }
        None
    }

    /// The next message for a mailbox whose worker has delivered `done`.
    pub(crate) fn next_local(
        &mut self,
        worker: usize,
        destination: &Destination,
        done: u32,
    ) -> Option<Taken> {
        let id = self
            .destinations
            .next_local(destination, done)
            .filter(|_| !self.stopping)?;
        self.take_message(worker, id)
    }

    fn take_message(&mut self, worker: usize, id: Id) -> Option<Taken> {
        let work = self.workers.get_mut(&worker)?;
        work.messages.push_back(id);
        self.current(worker)
    }

    /// The first message in a worker's hands.
    pub(crate) fn current(&self, worker: usize) -> Option<Taken> {
        let work = self.workers.get(&worker).filter(|_| !self.stopping)?;
        self.schedule
            .take(*work.messages.front()?, &work.destination)
    }

    /// The first message in a worker's hands was lost with a connection: whether another one is to be tried for it.
    pub(crate) fn lost(
        &mut self,
        worker: usize,
        connection: &mut Connection,
        answer: &str,
    ) -> bool {
        let Some(work) = self.workers.get_mut(&worker) else {
            return true;
        };
        let Some(id) = work.messages.front().copied() else {
            return true;
        };
        let goes_on = self.destinations.lost(connection, id, answer, now());
        if goes_on {
            work.messages.pop_front();
        }
        goes_on
    }

    /// The first delivery in a worker's hands has ended, if there is a verdict.
    pub(crate) fn settle(&mut self, worker: usize, verdict: Option<Verdict>) {
        let (Some(work), Some(verdict)) = (self.workers.get_mut(&worker), verdict) else {
            return;
        };
        match (work.messages.pop_front(), verdict) {
            (Some(id), Verdict::Forget) => self.schedule.forget(id),
            (Some(id), Verdict::Retry(due)) => self.schedule.retry(id, due, moment()),
            (_, Verdict::Others) | (None, _) => {}
        }
    }

    /// Whatever a worker still has in hand.
    fn give_back(&mut self, worker: usize) {
        let Some(Work {
            destination,
            stage,
            messages,
            ..
        }) = self.workers.remove(&worker)
        else {
            return;
        };
        let (now, answer) = (now(), "the worker panicked");
        let due = now.saturating_add(millis(self.destinations.addresses.limits.back_off.min));
        messages
            .into_iter()
            .for_each(|id| self.schedule.give_back(id, due, moment()));
        match stage {
            Stage::LookingUp => {
                let found = Err(RouteError::Later(answer.to_owned()));
                self.destinations.looked_up(&destination, found, now);
            }
            Stage::Opening(targets) => {
                self.destinations
                    .open_failed(&destination, targets, answer, now);
            }
            Stage::Connected(target) => self.destinations.closed(&destination, &target),
            Stage::Local => self.destinations.left_local(&destination),
            Stage::Nothing => {}
        }
    }
}
