//! What the queue needs of the rest of the daemon, as one trait, so that its tests can play the neighbours.

use crate::message::{Body, Id};
use crate::relay::client::{self, Fate, Trouble};
use crate::relay::mx::{RouteError, Target};
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use crate::store::mailbox::{MailboxError, MailboxMessage};
use crate::store::spool::{Origin, Queued};
use nix::time::{ClockId, clock_gettime};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where mail for a forward-path goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A local user's mbox file.
    Mailbox(PathBuf),
    /// `user.conf` sends it on to this path (RFC 788 3.2).
    Forward(ForwardPath),
    /// Another host's.
    Remote,
    /// Ours, but nobody has this name.
    NoSuchUser,
}

/// Where a delivery goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Destination {
    /// The mail hosts of a domain, or a literal.
    Host(Host),
    /// The same for a report that a stranger caused: it is kept away from this machine (`backscatter.rs`), and so never
    /// shares a connection with other mail.
    Report(Host),
    /// A local mbox file.
    Mailbox(PathBuf),
    /// No such user any more: back to the sender.
    Nobody,
}

/// How many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections: MAX_RELAYS.
    pub(crate) relays: usize,
    /// Connections to one address: a fifth, at least one.
    pub(crate) each: usize,
    /// Look-ups. One that is not answered takes 15 seconds.
    pub(crate) look_ups: usize,
    /// Mailboxes that are delivered to; one worker for each. They group their commits themselves.
    pub(crate) local: usize,
    pub(crate) back_off: BackOff,
}

impl Limits {
    /// The limits that follow from MAX_RELAYS, RETRY_MIN and RETRY_MAX.
    pub(crate) fn new(max_relays: usize, back_off: BackOff) -> Limits {
        Limits {
            relays: max_relays.max(1),
            each: (max_relays / 5).max(1),
            look_ups: 100,
            local: 4,
            back_off,
        }
    }

    /// Threads that have something to do, at most.
    pub(crate) fn workers(&self) -> usize {
        self.relays + self.look_ups + self.local
    }
}

/// The part of the configuration that the queue works by; asked for anew at each use.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) hostname: Host,
    /// MAX_RELAYS.
    pub(crate) max_relays: usize,
    pub(crate) back_off: BackOff,
    /// QUEUE_LIFETIME.
    pub(crate) lifetime: Duration,
}

/// The neighbours. Those of the spool have a body of their own; the tests make each of them fail.
pub(crate) trait Environment: Send + Sync {
    fn settings(&self) -> Settings;
    fn route(&self, to: &ForwardPath) -> Route;
    fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError>;
    /// Sends a report from `<>`; it is on stable storage when this returns.
    fn report(&self, to: &ForwardPath, content: Vec<u8>, origin: Origin) -> io::Result<Id>;
    fn look_up(&self, host: &Host) -> Result<Vec<Target>, RouteError>;
    fn open(&self, target: &Target) -> Result<Box<dyn Link>, Trouble>;

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }
    /// What the wall clock will say when `time` has come, as far as can be known.
    fn wall_clock_at(&self, time: Millis) -> SystemTime {
        self.wall_clock() + Duration::from_millis(time.saturating_sub(now()))
    }
    fn record(&self, queued: &mut Queued, done: &[(usize, &str)]) -> io::Result<()> {
        queued.finish(done)
    }
    fn defer(&self, queued: &mut Queued, tries: u32, next_try: SystemTime) -> io::Result<()> {
        queued.defer(tries, next_try)
    }
    fn recycle(&self, queued: Queued) -> Result<bool, (Box<Queued>, io::Error)> {
        queued.recycle()
    }
}

/// An open connection to a next hop, greeted.
pub(crate) trait Link: Send {
    /// One transaction: the fate of every recipient, in order.
    fn send(&mut self, from: &ReversePath, to: &[ForwardPath], body: &Body) -> Vec<Fate>;
    /// Whether another message may be sent.
    fn is_usable(&self) -> bool;
    /// The last message was sent whole and no reply came.
    fn is_in_doubt(&self) -> bool;
    fn quit(self: Box<Self>);
    /// Ends the connection from another thread, unless it is past DATA.
    fn interrupter(&self) -> Interrupter;
}

/// See [`Link::interrupter`].
pub(crate) type Interrupter = Box<dyn Fn() + Send>;

impl Link for client::Connection {
    fn send(&mut self, from: &ReversePath, to: &[ForwardPath], body: &Body) -> Vec<Fate> {
        client::Connection::send(self, from, to, body)
    }

    fn is_usable(&self) -> bool {
        client::Connection::is_usable(self)
    }

    fn is_in_doubt(&self) -> bool {
        client::Connection::is_in_doubt(self)
    }

    fn quit(self: Box<Self>) {
        client::Connection::quit(*self);
    }

    fn interrupter(&self) -> Interrupter {
        let handle = self.handle();
        Box::new(move || {
            handle.interrupt_unless_past_data();
        })
    }
}

/// Milliseconds since the machine was booted, its suspends included: nobody sets this clock, and a wait goes on while
/// the machine sleeps.
pub type Millis = u64;

/// The time now.
pub(crate) fn now() -> Millis {
    // The clock exists on every Linux since 2.6.39.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    time.map_or(0, millis)
}

/// The same clock in microseconds, to tell what came first.
pub(crate) fn moment() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    time.map_or(0, |time| time.as_micros() as u64)
}

/// A duration in our unit.
pub(crate) fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// RETRY_MIN and RETRY_MAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The wait after the first failure.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl BackOff {
    /// The wait after `failures` (1 for the first): doubles from `min` up to `max`. Up to a fifth of jitter is added,
    /// so that what failed together does not come back together; a greylisting host that counts `min` is never asked
    /// too early. Only a wait of `max` cannot grow: there the jitter shortens, but not below `min`. `jitter`: any number,
    /// evenly distributed.
    pub fn wait(&self, failures: u32, jitter: u64) -> Duration {
        let doubled = 1u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let wait = self.min.saturating_mul(doubled);
        let jitter = wait.min(self.max) / 5_000 * (jitter % 1_001) as u32;
        if wait < self.max {
            wait.saturating_add(jitter).min(self.max)
        } else {
            (self.max - jitter).max(self.min.min(self.max))
        }
    }
}

/// A random number; need not be unpredictable. The standard library seeds its hashers at random.
pub fn jitter() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
#[path = "tests/backoff_tests.rs"]
mod tests;
