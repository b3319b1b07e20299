//! Which destination gets a worker, and for what: the decisions of the queue about destinations. Pure, as
//! `schedule.rs` is.
//!
//! A remote destination with mail goes through three states: its hosts are looked up (that takes no place of a
//! connection), a connection to the first of its addresses that is not known to be dead gets a permit
//! (`addresses.rs`), and messages are sent. A mailbox has one worker. Destinations that want a worker stand in a round
//! robin, and are served in turn.

use crate::message::Id;
use crate::relay::client::Fate;
use crate::relay::mx::{RouteError, Target};
use crate::relay::queue::addresses::{
    Addresses, Connection, Health, Job, Permit, Refusal, has_others,
};
use crate::relay::queue::environment::{Destination, Limits, Millis};
use std::collections::{HashMap, VecDeque};

/// Messages over one connection, or to one mailbox, at most; fewer if others wait for a permit or a worker.
const MESSAGES_A_TURN: u32 = 100;
const MESSAGES_WHEN_CROWDED: u32 = 10;

/// All destinations that have mail, a worker or a back-off.
pub(crate) struct Destinations {
    entries: HashMap<Destination, Entry>,
    /// Destinations that want one more worker; some may have changed their mind.
    rings: [VecDeque<Destination>; 3],
    pub(crate) addresses: Addresses,
    looking_up: usize,
    local: usize,
    /// How many entries and addresses there may be before old back-offs are looked for.
    sweep_at: usize,
}

/// The round robins.
#[derive(Clone, Copy)]
enum Ring {
    LookUp,
    Connect,
    Local,
}

#[derive(Debug, Default)]
struct Entry {
    queue: VecDeque<Id>,
    /// Where its hosts are: for the next connection, which uses them up.
    targets: Option<Vec<Target>>,
    /// There is no way to it, ever.
    never: Option<String>,
    looking_up: bool,
    /// Workers on it; `opening` of them are not connected yet.
    workers: usize,
    opening: usize,
    health: Health,
    /// It stands in a round robin or in the line of an address.
    is_offered: bool,
}

impl Entry {
    fn wants_worker(&self, is_remote: bool) -> bool {
        match is_remote {
            true => !self.looking_up && self.queue.len() > self.opening,
            false => self.workers == 0 && !self.queue.is_empty(),
        }
    }

    fn is_over(&self) -> bool {
        self.queue.is_empty() && self.workers == 0 && !self.looking_up && !self.is_offered
    }
}

impl Destinations {
    pub(crate) fn new(limits: Limits) -> Destinations {
        Destinations {
            entries: HashMap::new(),
            rings: Default::default(),
            addresses: Addresses::new(limits),
            looking_up: 0,
            local: 0,
            sweep_at: 64,
        }
    }

    /// Puts a message into a destination's queue.
    pub(crate) fn push(&mut self, to: &Destination, id: Id) {
        self.entry(to).queue.push_back(id);
        self.offer(to);
    }

    /// Whether a worker without a job would find one.
    pub(crate) fn has_work(&self) -> bool {
        let ([look_up, connect, local], limits) = (&self.rings, &self.addresses.limits);
        !self.addresses.leaving.is_empty()
            || !connect.is_empty() && self.addresses.has_room()
            || !look_up.is_empty() && self.looking_up < limits.look_ups
            || !local.is_empty() && self.local < limits.local
    }

    /// The next job. What is counted for it is given back by the functions below.
    pub(crate) fn take(&mut self, now: Millis) -> Option<(Destination, Job)> {
        self.take_connect(now)
            // That may have made an idle connection leave.
            .or_else(|| self.take_leaving())
            .or_else(|| self.take_other(Ring::LookUp, now))
            .or_else(|| self.take_other(Ring::Local, now))
    }

    fn take_leaving(&mut self) -> Option<(Destination, Job)> {
        let connection = self.addresses.leaving.pop()?;
        let destination = connection.destination.clone();
        self.entry(&destination).workers += 1;
        Some((destination, Job::Quit(connection)))
    }

    fn take_connect(&mut self, now: Millis) -> Option<(Destination, Job)> {
        while self.addresses.has_room()
            && let Some(destination) = self.next_of(Ring::Connect)
        {
            if let Some(refused) = self.refused(&destination, now) {
                return Some((destination, refused));
            }
            if let Some(connection) = self.addresses.take_idle(&destination) {
                self.entry(&destination).workers += 1;
                self.offer(&destination);
                return Some((destination, Job::Relay(connection)));
            }
            let Some(mut targets) = self.entry(&destination).targets.take() else {
                self.line_up(Ring::LookUp, destination);
                continue;
            };
            if let Some(refusal) = self.addresses.leave_alone(&mut targets, now) {
                let queue = std::mem::take(&mut self.entry(&destination).queue);
                return Some((destination, Job::Refuse(refusal, queue)));
            }
            let permit = self.addresses.permit(targets[0].addr, &destination);
            let entry = self.entry(&destination);
            if permit == Permit::Given {
                (entry.workers, entry.opening) = (entry.workers + 1, entry.opening + 1);
                self.offer(&destination);
                return Some((destination, Job::Open(targets)));
            }
            (entry.targets, entry.is_offered) = (Some(targets), true);
            if permit == Permit::AllTaken {
                self.rings[Ring::Connect as usize].push_front(destination);
                break;
            }
        }
        None
    }

    fn take_other(&mut self, ring: Ring, now: Millis) -> Option<(Destination, Job)> {
        let limits = &self.addresses.limits;
        let has_room = match ring {
            Ring::LookUp => self.looking_up < limits.look_ups,
            _ => self.local < limits.local,
        };
        let destination = has_room.then(|| self.next_of(ring))??;
        let refused = self.refused(&destination, now);
        let job = match (&destination, refused) {
            (_, Some(refused)) => refused,
            (Destination::Host(host) | Destination::Report(host), None) => {
                self.entry(&destination).looking_up = true;
                self.looking_up += 1;
                Job::LookUp(host.clone())
            }
            (Destination::Mailbox(mbox), None) => {
                self.entry(&destination).workers += 1;
                self.local += 1;
                Job::Deliver(mbox.clone())
            }
            (Destination::Nobody, None) => return None,
        };
        Some((destination, job))
    }

    /// The whole queue, if there is no way to this destination now or ever.
    fn refused(&mut self, destination: &Destination, now: Millis) -> Option<Job> {
        let entry = self.entry(destination);
        let never = match destination {
            Destination::Nobody => Some("no such user here".to_owned()),
            _ => entry.never.take(),
        };
        let refusal = match never {
            Some(why) => Refusal {
                fate: Fate::Never(why),
                since: now,
                until: now,
            },
            None => entry.health.refusal(now)?,
        };
        entry.targets = None;
        Some(Job::Refuse(refusal, std::mem::take(&mut entry.queue)))
    }

    /// A look-up has ended.
    pub(crate) fn looked_up(
        &mut self,
        destination: &Destination,
        found: Result<Vec<Target>, RouteError>,
        now: Millis,
    ) {
        debug_assert!(self.looking_up > 0, "a look-up ends once");
        self.looking_up -= 1;
        let back_off = self.addresses.limits.back_off;
        let entry = self.entry(destination);
        entry.looking_up = false;
        match found {
            Ok(targets) if targets.is_empty() => entry.health.fail("no address", now, &back_off),
            Ok(targets) => (entry.targets, entry.health) = (Some(targets), Health::default()),
            Err(RouteError::Never(why)) => entry.never = Some(why),
            Err(RouteError::Later(why)) => entry.health.fail(&why, now, &back_off),
        }
        self.offer(destination);
        self.drop_if_over(destination);
        self.sweep(now);
    }

    /// A connection is open.
    pub(crate) fn opened(&mut self, destination: &Destination, target: &Target) {
        self.entry(destination).opening -= 1;
        let line = self.addresses.opened(target.addr);
        self.rings[Ring::Connect as usize].extend(line);
    }

    /// The first of `targets` could not be opened; its permit is given back. The destination goes on with the others.
    pub(crate) fn open_failed(
        &mut self,
        destination: &Destination,
        targets: Vec<Target>,
        answer: &str,
        now: Millis,
    ) {
        let Some(first) = targets.first().cloned() else {
            return;
        };
        let entry = self.entry(destination);
        entry.opening -= 1;
        entry.targets.get_or_insert(targets);
        self.addresses.failed(first.addr, answer, now);
        self.closed(destination, &first);
        self.sweep(now);
    }

    /// A connection was lost under a message. The message goes on over another one: anew from the first host if this one
    /// had carried others before, since the host may have closed it meanwhile; else to the next host, if there is one;
    /// false if not.
    pub(crate) fn lost(&mut self, lost: &mut Connection, id: Id, why: &str, now: Millis) -> bool {
        let is_first = lost.carried == 0;
        if is_first {
            self.addresses.lost(lost.target.addr, why, now);
        }
        let goes_on = !is_first || !lost.rest.is_empty();
        if goes_on {
            let rest = std::mem::take(&mut lost.rest);
            let entry = self.entry(&lost.destination);
            entry.queue.push_front(id);
            entry.targets = Some(rest).filter(|_| is_first);
        }
        goes_on
    }

    /// The next message for a connection.
    pub(crate) fn next_message(&mut self, connection: &Connection) -> Option<Id> {
        let carried = connection.carried;
        if carried > 0 {
            self.addresses.proven(connection.target.addr);
        }
        let has_turn = carried < MESSAGES_WHEN_CROWDED
            || carried < MESSAGES_A_TURN && !self.is_crowded(connection);
        let entry = self.entries.get_mut(&connection.destination)?;
        has_turn.then(|| entry.queue.pop_front())?
    }

    /// The next message for a mailbox whose worker has delivered `done`.
    pub(crate) fn next_local(&mut self, destination: &Destination, done: u32) -> Option<Id> {
        let is_crowded = !self.rings[Ring::Local as usize].is_empty();
        let entry = self.entries.get_mut(destination)?;
        if done > 0 {
            entry.health = Health::default();
        }
        let has_turn = done < MESSAGES_WHEN_CROWDED || done < MESSAGES_A_TURN && !is_crowded;
        has_turn.then(|| entry.queue.pop_front())?
    }

    /// A mailbox cannot be written to; until when it is left alone.
    pub(crate) fn local_failed(&mut self, mbox: &Destination, why: &str, now: Millis) -> Millis {
        let back_off = self.addresses.limits.back_off;
        let health = &mut self.entry(mbox).health;
        health.fail(why, now, &back_off);
        health.until
    }

    /// Keeps a connection without mail for a moment. Gives it back, to be closed, if it is of no use or others want it.
    pub(crate) fn park(&mut self, mut connection: Connection, now: Millis) -> Option<Connection> {
        let entry = self.entries.get(&connection.destination);
        let has_mail = entry.is_some_and(|entry| !entry.queue.is_empty());
        if has_mail || !connection.link.is_usable() || self.is_crowded(&connection) {
            return Some(connection);
        }
        connection.idle_since = now;
        let destination = connection.destination.clone();
        let line = self.addresses.park(connection);
        self.rings[Ring::Connect as usize].extend(line);
        self.left(&destination);
        None
    }

    fn is_crowded(&self, connection: &Connection) -> bool {
        let connect = &self.rings[Ring::Connect as usize];
        self.addresses.is_full() && has_others(connect, &connection.destination)
            || self.addresses.has_others_in_line(connection)
    }

    /// A connection is closed: its permit is free.
    pub(crate) fn closed(&mut self, destination: &Destination, target: &Target) {
        let line = self.addresses.closed(target.addr);
        self.rings[Ring::Connect as usize].extend(line);
        self.left(destination);
    }

    /// The worker of a mailbox has left it.
    pub(crate) fn left_local(&mut self, destination: &Destination) {
        debug_assert!(self.local > 0, "a worker leaves once");
        self.local -= 1;
        self.left(destination);
    }

    fn left(&mut self, destination: &Destination) {
        let entry = self.entry(destination);
        debug_assert!(entry.workers > 0, "a worker leaves once");
        entry.workers -= 1;
        self.offer(destination);
        self.drop_if_over(destination);
    }

    /// All may be called at once.
    pub(crate) fn forget_back_offs(&mut self) {
        self.addresses.forget_back_offs();
        for entry in self.entries.values_mut() {
            entry.health = Health::default();
        }
    }

    /// The first destination in a round robin that still wants a worker.
    fn next_of(&mut self, ring: Ring) -> Option<Destination> {
        while let Some(destination) = self.rings[ring as usize].pop_front() {
            let is_remote = matches!(destination, Destination::Host(_) | Destination::Report(_));
            let entry = self.entry(&destination);
            entry.is_offered = false;
            if entry.wants_worker(is_remote) {
                return Some(destination);
            }
            self.drop_if_over(&destination);
        }
        None
    }

    fn offer(&mut self, destination: &Destination) {
        let (is_remote, ring) = match destination {
            Destination::Host(_) | Destination::Report(_) => (true, Ring::Connect),
            _ => (false, Ring::Local),
        };
        if let Some(entry) = self.entries.get(destination)
            && !entry.is_offered
            && entry.wants_worker(is_remote)
        {
            self.line_up(ring, destination.clone());
        }
    }

    fn line_up(&mut self, ring: Ring, destination: Destination) {
        self.entry(&destination).is_offered = true;
        self.rings[ring as usize].push_back(destination);
    }

    fn entry(&mut self, destination: &Destination) -> &mut Entry {
        self.entries.entry(destination.clone()).or_default()
    }

    fn drop_if_over(&mut self, destination: &Destination) {
        let over = |entry: &Entry| entry.is_over() && entry.health.is_good();
        if self.entries.get(destination).is_some_and(over) {
            self.entries.remove(destination);
        }
    }

    /// Forgets back-offs that nobody has asked for since: a hostile list of domains must not fill the memory.
    fn sweep(&mut self, now: Millis) {
        if self.len() >= self.sweep_at {
            self.addresses.sweep(now);
            let back_off = self.addresses.limits.back_off;
            self.entries
                .retain(|_, e| !(e.is_over() && e.health.is_over(now, &back_off)));
            self.sweep_at = (self.len() * 2).max(64);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() + self.addresses.len()
    }
}
