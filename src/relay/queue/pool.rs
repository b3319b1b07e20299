//! Where the scheduler and the workers meet: the plan under one mutex, and who sleeps where. Every wait is for
//! an event with a name or for the next due time; nothing polls.
//!
//! * The scheduler sleeps on `changed`.
//! * A worker without work sits in `idle`: the scheduler puts a destination into its seat and unparks it.
//! * A worker with a connection and no mail for it stands in `lingering`: unparked when mail has come or when
//!   others need its place.
//! * `stop` sleeps on `gone` until no connection is registered any more.

use crate::message::Id;
use crate::relay::queue::OPEN;
use crate::relay::queue::attempt::Failed;
use crate::relay::queue::destinations::{Destination, Kind, Limits, Millis, Next, millis};
use crate::relay::queue::schedule::Plan;
use crate::store::files::files_to_keep;
use crate::store::spool::Queued;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a worker without work stays, so that a burst does not start its threads anew.
const IDLE: Duration = Duration::from_secs(30);
/// How long a connection without mail is kept, as RFC 5321 4.5.3.2 lets us: far below any server's timeout.
const LINGER: Duration = Duration::from_secs(1);

pub(crate) struct Desk {
    board: Mutex<Board>,
    changed: Condvar,
    gone: Condvar,
    start: Instant,
    /// Begins a message that was just accepted; set when the queue runs.
    pub(crate) begin: OnceLock<Box<dyn Fn(Queued) + Send + Sync>>,
}

pub(crate) struct Board {
    pub(crate) plan: Plan<Failed>,
    pub(crate) limits: Limits,
    pub(crate) stopping: bool,
    /// Messages that have begun, for one destination, and that no worker has taken: their files need not be read.
    pub(crate) open: HashMap<Id, Queued>,
    pub(crate) most_open: usize,
    idle: Vec<Arc<Seat>>,
    lingering: Vec<(Destination, Thread)>,
    /// How to end each thing under way.
    under_way: HashMap<u64, Box<dyn Fn() + Send>>,
    serial: u64,
}

struct Seat {
    thread: Thread,
    job: Mutex<Option<Destination>>,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        let board = Board {
            plan: Plan::default(),
            limits: Limits::new(1),
            stopping: false,
            open: HashMap::new(),
            most_open: files_to_keep(OPEN),
            idle: Vec::new(),
            lingering: Vec::new(),
            under_way: HashMap::new(),
            serial: 0,
        };
        Desk {
            board: Mutex::new(board),
            changed: Condvar::new(),
            gone: Condvar::new(),
            start: Instant::now(),
            begin: OnceLock::new(),
        }
    }

    pub(crate) fn now(&self) -> Millis {
        millis(self.start.elapsed())
    }

    /// The same clock at another moment.
    pub(crate) fn at(&self, moment: Instant) -> Millis {
        millis(moment.saturating_duration_since(self.start))
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that the scheduler should look at.
    pub(crate) fn notify(&self) {
        self.changed.notify_one();
    }

    /// The scheduler's sleep, until a change or `until`.
    pub(crate) fn wait<'a>(
        &'a self,
        board: MutexGuard<'a, Board>,
        until: Option<Millis>,
    ) -> MutexGuard<'a, Board> {
        match until {
            None => self
                .changed
                .wait(board)
                .unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let time = Duration::from_millis(until.saturating_sub(self.now()).max(1));
                self.changed
                    .wait_timeout(board, time)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// Hands work out: to those who linger for it, to idle workers, then to new ones by `hire`. Returns whether
    /// nobody could be hired for some of it.
    pub(crate) fn staff(
        &self,
        board: &mut Board,
        mut hire: impl FnMut(Destination) -> bool,
    ) -> bool {
        let Board {
            plan,
            limits,
            lingering,
            idle,
            ..
        } = board;
        if let Some(at) = lingering
            .iter()
            .rposition(|(destination, _)| plan.sites.has_mail(destination))
        {
            lingering.swap_remove(at).1.unpark();
        }
        for kind in [Kind::Remote, Kind::Local] {
            while let Some(destination) = plan.sites.take(kind, limits) {
                if let Some(seat) = idle.pop() {
                    *seat.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(destination);
                    seat.thread.unpark();
                } else if !hire(destination.clone()) {
                    plan.sites.leave(&destination, true, limits);
                    return true;
                }
            }
        }
        if plan.sites.is_crowded(Kind::Remote, limits)
            && let Some((_, thread)) = lingering.pop()
        {
            thread.unpark();
        }
        false
    }

    /// The next destination for a worker that has left its last; `None`: it is to end.
    pub(crate) fn next_job(&self) -> Option<Destination> {
        let mut board = self.board();
        if board.stopping {
            return None;
        }
        let Board { plan, limits, .. } = &mut *board;
        if let Some(job) = plan
            .sites
            .take(Kind::Remote, limits)
            .or_else(|| plan.sites.take(Kind::Local, limits))
        {
            return Some(job);
        }
        let seat = Arc::new(Seat {
            thread: thread::current(),
            job: Mutex::new(None),
        });
        board.idle.push(seat.clone());
        drop(board);
        let deadline = Instant::now() + IDLE;
        loop {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            let mut board = self.board();
            let job = seat
                .job
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if job.is_some() {
                return job;
            }
            if board.stopping || Instant::now() >= deadline {
                board.idle.retain(|other| !Arc::ptr_eq(other, &seat));
                return None;
            }
        }
    }

    /// The next message for a worker on `destination`, waited for a moment if there is a connection to keep;
    /// `None`: it is to leave. See [`crate::relay::queue::destinations::Sites::next`].
    pub(crate) fn next_message(
        &self,
        destination: &Destination,
        done: u32,
        proven: bool,
    ) -> Option<Id> {
        let start = Instant::now();
        let mut board = self.board();
        loop {
            if board.stopping {
                return None;
            }
            let limits = board.limits;
            match board.plan.sites.next(destination, done, proven, &limits) {
                Next::Message(id) => {
                    if board.plan.sites.has_work(Kind::Remote, &limits) {
                        self.notify();
                    }
                    return Some(id);
                }
                Next::Leave => return None,
                Next::Linger if start.elapsed() >= LINGER => return None,
                Next::Linger => {}
            }
            let me = thread::current();
            board.plan.sites.lingers(destination, true);
            board.lingering.push((destination.clone(), me.clone()));
            drop(board);
            thread::park_timeout(LINGER.saturating_sub(start.elapsed()));
            board = self.board();
            board.lingering.retain(|(_, thread)| thread.id() != me.id());
            board.plan.sites.lingers(destination, false);
        }
    }

    /// Registers something that `stop` waits for and can end; `None` if it is too late to begin it.
    pub(crate) fn register(&self, end: Box<dyn Fn() + Send>) -> Option<UnderWay<'_>> {
        let mut board = self.board();
        if board.stopping {
            return None;
        }
        board.serial += 1;
        let serial = board.serial;
        board.under_way.insert(serial, end);
        Some(UnderWay { desk: self, serial })
    }

    /// Tells everyone to end, and waits for what is under way, at most `grace`.
    pub(crate) fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut board = self.board();
        board.stopping = true;
        board.under_way.values().for_each(|end| end());
        board.idle.iter().for_each(|seat| seat.thread.unpark());
        board
            .lingering
            .iter()
            .for_each(|(_, thread)| thread.unpark());
        self.changed.notify_all();
        while !board.under_way.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            board = self
                .gone
                .wait_timeout(board, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Something that `stop` waits for; until dropped.
pub(crate) struct UnderWay<'a> {
    desk: &'a Desk,
    serial: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.desk.board().under_way.remove(&self.serial);
        self.desk.gone.notify_all();
    }
}
