//! Which destination gets a worker, how many at once, and which is left alone: the decisions of the queue about
//! destinations. Pure, as `plan.rs` is.
//!
//! A destination has at most `limits.each` workers, but only one until a connection succeeded: a dead host is
//! called once, not once a worker. When no connection to it can be opened it gets a back-off of its own, and
//! whatever comes for it until then is not tried at all. Destinations with work form a ring, served in turn.

use crate::message::Id;
use crate::relay::queue::retry::BackOff;
use crate::smtp::address::Host;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// Milliseconds since the queue was started.
pub type Millis = u64;

/// Where a part of a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The mail hosts of a domain, or a literal.
    Host(Host),
    /// A local mbox file.
    Mailbox(PathBuf),
    /// No such user any more: back to the sender.
    Nobody,
}

impl Destination {
    fn kind(&self) -> Kind {
        match self {
            Destination::Host(_) => Kind::Remote,
            _ => Kind::Local,
        }
    }
}

/// Remote work and local work have workers of their own: a locked mailbox never holds up a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Calls out.
    Remote,
    /// Stays on this machine.
    Local,
}

/// How many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Workers on remote destinations: MAX_RELAYS.
    pub relays: usize,
    /// Workers on one of them: a quarter, at least one.
    pub each: usize,
    /// Workers on local destinations; one for each.
    pub local: usize,
}

/// Local deliveries at once; the mailboxes group their commits themselves.
const LOCAL_WORKERS: usize = 4;

impl Limits {
    /// The limits that follow from MAX_RELAYS.
    pub fn new(max_relays: usize) -> Limits {
        Limits {
            relays: max_relays.max(1),
            each: (max_relays / 4).max(1),
            local: LOCAL_WORKERS,
        }
    }

    fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Remote => self.relays,
            Kind::Local => self.local,
        }
    }
}

/// What a worker does next on its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This message.
    Message(Id),
    /// Nothing is here and nothing elsewhere: the connection may be kept a moment.
    Linger,
    /// Nothing is here, or others have waited long enough.
    Leave,
}

/// Messages over one connection, at most; fewer if others wait for a worker.
const MESSAGES_A_CONNECTION: u32 = 100;
const MESSAGES_WHEN_CROWDED: u32 = 10;

/// Connections in a row that may be lost under their first message before the destination counts as dead.
const LOSSES: u32 = 3;

/// All destinations that have mail, a worker or a back-off.
#[derive(Debug)]
pub struct Sites {
    sites: HashMap<Destination, Site>,
    /// For each kind, destinations that want one more worker; some may have changed their mind.
    rings: [VecDeque<Destination>; 2],
    /// Workers of each kind.
    busy: [usize; 2],
    /// How many sites there may be before old back-offs are looked for.
    sweep_at: usize,
}

impl Default for Sites {
    fn default() -> Sites {
        let rings = [VecDeque::new(), VecDeque::new()];
        Sites {
            sites: HashMap::new(),
            rings,
            busy: [0; 2],
            sweep_at: 64,
        }
    }
}

#[derive(Debug, Default)]
struct Site {
    queue: VecDeque<Id>,
    /// Workers on it; `opening` of them are not connected yet, `lingering` wait for mail.
    workers: usize,
    opening: usize,
    lingering: usize,
    /// Some connection succeeded since the last failure.
    up: bool,
    /// It took no more connections than this.
    full_at: Option<usize>,
    failures: u32,
    /// Connections lost under their first message since one was not.
    losses: u32,
    until: Millis,
    in_ring: bool,
}

impl Site {
    fn wants(&self, kind: Kind, limits: &Limits) -> bool {
        let most = match kind {
            Kind::Remote if self.up => limits.each.min(self.full_at.unwrap_or(usize::MAX)),
            _ => 1,
        };
        self.workers < most && self.queue.len() > self.opening + self.lingering
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.workers == 0 && self.failures == 0 && self.losses == 0
    }
}

impl Sites {
    /// Puts a message into a destination's queue; `Err`: it is in back-off until then.
    pub fn push(
        &mut self,
        destination: &Destination,
        id: Id,
        now: Millis,
        limits: &Limits,
    ) -> Result<(), Millis> {
        let site = self.sites.entry(destination.clone()).or_default();
        if site.until > now {
            return Err(site.until);
        }
        site.queue.push_back(id);
        self.offer(destination, limits);
        Ok(())
    }

    /// Whether a worker of this kind has something to do that it may do.
    pub fn has_work(&mut self, kind: Kind, limits: &Limits) -> bool {
        while let Some(first) = self.rings[kind as usize].front() {
            if self
                .sites
                .get(first)
                .is_some_and(|site| site.wants(kind, limits))
            {
                return self.busy[kind as usize] < limits.of(kind);
            }
            if let Some(gone) = self.rings[kind as usize].pop_front()
                && let Some(site) = self.sites.get_mut(&gone)
            {
                site.in_ring = false;
                if site.is_idle() {
                    self.sites.remove(&gone);
                }
            }
        }
        false
    }

    /// A destination for one more worker; to be ended by [`Sites::leave`].
    pub fn take(&mut self, kind: Kind, limits: &Limits) -> Option<Destination> {
        if !self.has_work(kind, limits) {
            return None;
        }
        let destination = self.rings[kind as usize].pop_front()?;
        let site = self.sites.get_mut(&destination)?;
        site.in_ring = false;
        site.workers += 1;
        site.opening += 1;
        self.busy[kind as usize] += 1;
        self.offer(&destination, limits);
        Some(destination)
    }

    /// The worker is connected: the destination may have more workers if this one leaves something in the
    /// queue. Its past failures count until a message went through.
    pub fn connected(&mut self, destination: &Destination) {
        if let Some(site) = self.sites.get_mut(destination) {
            site.opening = site.opening.saturating_sub(1);
            site.up = true;
        }
    }

    /// The worker gave its connection up and opens another.
    pub fn reopening(&mut self, destination: &Destination) {
        if let Some(site) = self.sites.get_mut(destination) {
            site.opening += 1;
        }
    }

    /// A connection could not be opened, or was of no use. Unless other workers are connected (then it just takes
    /// no more of them) the destination gets a back-off, and all that stand in its queue are returned, for the
    /// caller to end their parts.
    pub fn failed(
        &mut self,
        destination: &Destination,
        now: Millis,
        back_off: &BackOff,
        jitter: u64,
    ) -> Vec<Id> {
        let Some(site) = self.sites.get_mut(destination) else {
            return Vec::new();
        };
        let connected = site.workers.saturating_sub(site.opening);
        if connected > 0 && site.losses < LOSSES {
            site.full_at = Some(connected);
            return Vec::new();
        }
        site.failures = site.failures.saturating_add(1);
        let wait = back_off.wait(site.failures, jitter);
        (site.up, site.full_at, site.losses) = (false, None, 0);
        site.until = now.saturating_add(millis(wait));
        let ids = std::mem::take(&mut site.queue).into();
        self.sweep(now, back_off.max);
        ids
    }

    /// The whole queue of a destination, without a back-off: its domain says never, say.
    pub fn drain(&mut self, destination: &Destination) -> Vec<Id> {
        self.sites
            .get_mut(destination)
            .map(|site| std::mem::take(&mut site.queue).into())
            .unwrap_or_default()
    }

    /// A connection was lost under its first message. Whether that was once too often: the destination has
    /// [`Sites::failed`], whoever else is connected.
    pub fn lost(&mut self, destination: &Destination) -> bool {
        self.sites.get_mut(destination).is_some_and(|site| {
            site.losses = site.losses.saturating_add(1);
            site.losses >= LOSSES
        })
    }

    /// What a worker that has done `done` messages on its destination does next. `proven`: its connection has
    /// carried a message.
    pub fn next(
        &mut self,
        destination: &Destination,
        done: u32,
        proven: bool,
        limits: &Limits,
    ) -> Next {
        let kind = destination.kind();
        let crowded = self.is_crowded(kind, limits);
        let most = if crowded {
            MESSAGES_WHEN_CROWDED
        } else {
            MESSAGES_A_CONNECTION
        };
        let site = self.sites.get_mut(destination);
        let message = site.and_then(|site| {
            if proven {
                (site.failures, site.losses, site.until) = (0, 0, 0);
            }
            if done < most {
                site.queue.pop_front()
            } else {
                None
            }
        });
        self.offer(destination, limits);
        match message {
            Some(id) => Next::Message(id),
            None if crowded || done >= most || kind == Kind::Local => Next::Leave,
            None => Next::Linger,
        }
    }

    /// A worker of `destination` waits for mail (`on`) or no longer does.
    pub fn lingers(&mut self, destination: &Destination, on: bool) {
        if let Some(site) = self.sites.get_mut(destination) {
            site.lingering = if on {
                site.lingering + 1
            } else {
                site.lingering.saturating_sub(1)
            };
        }
    }

    /// Whether mail has come for a lingering worker.
    pub fn has_mail(&self, destination: &Destination) -> bool {
        self.sites
            .get(destination)
            .is_some_and(|site| !site.queue.is_empty())
    }

    /// Others wait for a worker and all are taken.
    pub fn is_crowded(&self, kind: Kind, limits: &Limits) -> bool {
        self.busy[kind as usize] >= limits.of(kind) && !self.rings[kind as usize].is_empty()
    }

    /// The worker is done with its destination. `opening`: it was not connected when it gave up.
    pub fn leave(&mut self, destination: &Destination, opening: bool, limits: &Limits) {
        let kind = destination.kind();
        self.busy[kind as usize] = self.busy[kind as usize].saturating_sub(1);
        if let Some(site) = self.sites.get_mut(destination) {
            site.workers = site.workers.saturating_sub(1);
            site.opening = site.opening.saturating_sub(usize::from(opening));
            if site.is_idle() && !site.in_ring {
                self.sites.remove(destination);
            }
        }
        self.offer(destination, limits);
    }

    /// All may be called at once.
    pub fn forget_back_offs(&mut self) {
        for site in self.sites.values_mut() {
            (site.failures, site.losses, site.until) = (0, 0, 0);
        }
        self.sites.retain(|_, site| !site.is_idle() || site.in_ring);
    }

    /// Whether there is none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Whether anybody works on one.
    #[cfg(test)]
    pub fn is_busy(&self) -> bool {
        self.busy != [0; 2]
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    fn offer(&mut self, destination: &Destination, limits: &Limits) {
        let kind = destination.kind();
        if let Some(site) = self.sites.get_mut(destination)
            && !site.in_ring
            && site.wants(kind, limits)
        {
            site.in_ring = true;
            self.rings[kind as usize].push_back(destination.clone());
        }
    }

    /// Forgets back-offs that nobody has asked for since: a hostile list of domains must not fill the memory.
    fn sweep(&mut self, now: Millis, longest: Duration) {
        if self.sites.len() >= self.sweep_at {
            let old = |site: &Site| site.until.saturating_add(millis(longest)) < now;
            self.sites
                .retain(|_, s| s.in_ring || s.workers > 0 || !s.queue.is_empty() || !old(s));
            self.sweep_at = (self.sites.len() * 2).max(64);
        }
    }
}

/// A duration in our unit.
pub fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
