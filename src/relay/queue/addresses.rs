//! Which address may have one more connection, which is left alone, the connections that wait for mail, and what
//! workers are given to do. Pure.
//!
//! Permits are counted by address, whatever the domain: at most `limits.each` to one, and only one until a connection
//! has succeeded, so that a dead host is called once, not once a domain or a message. An address that could not be
//! opened gets a back-off, and all domains leave it alone until then. A destination that waits for a permit stands in
//! the line of its address, out of the way of all others.
//!
//! A connection without mail stays open for a moment and keeps its permit, unless somebody else could use it.

use crate::message::Id;
use crate::relay::client::Fate;
use crate::relay::mx::Target;
use crate::relay::queue::environment::{
    BackOff, Destination, Limits, Link, Millis, jitter, millis, moment,
};
use crate::smtp::address::Host;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;

/// How long a connection without mail is kept, as RFC 5321 4.5.3.2 lets us: far below any server's timeout.
const IDLE: Millis = 1_000;
/// Connections in a row that may be lost under their first message before the address counts as dead.
const LOSSES: u32 = 3;

/// An open connection.
pub(crate) struct Connection {
    pub(crate) link: Box<dyn Link>,
    pub(crate) destination: Destination,
    pub(crate) target: Target,
    /// The further hosts, for a message that this one loses.
    pub(crate) rest: Vec<Target>,
    /// Messages that it has carried.
    pub(crate) carried: u32,
    pub(crate) idle_since: Millis,
}

/// Why a destination takes no mail now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) fate: Fate,
    /// The moment when it was found out: what waits only since then has not been tried by that.
    pub(crate) since: u64,
    /// It is left alone until then.
    pub(crate) until: Millis,
}

/// What a worker is to do for a destination.
pub(crate) enum Job {
    /// Find its addresses.
    LookUp(Host),
    /// Call the first of these.
    Open(Vec<Target>),
    /// Mail has come for an idle connection.
    Relay(Connection),
    /// Deliver to the mailbox.
    Deliver(PathBuf),
    /// Tell all these messages the same.
    Refuse(Refusal, VecDeque<Id>),
    /// Close an idle connection.
    Quit(Connection),
}

/// The back-off of an address, of a name that cannot be looked up, or of a mailbox.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failures: u32,
    failed_at: u64,
    pub(crate) until: Millis,
    answer: String,
}

impl Health {
    pub(crate) fn fail(&mut self, answer: &str, now: Millis, back_off: &BackOff) {
        self.failures = self.failures.saturating_add(1);
        let wait = millis(back_off.wait(self.failures, jitter()));
        (self.failed_at, self.until) = (moment(), now.saturating_add(wait));
        self.answer = answer.to_owned();
    }

    /// While the back-off lasts.
    pub(crate) fn refusal(&self, now: Millis) -> Option<Refusal> {
        (self.until > now).then(|| Refusal {
            fate: Fate::Later(self.answer.clone()),
            since: self.failed_at,
            until: self.until,
        })
    }

    pub(crate) fn is_good(&self) -> bool {
        self.failures == 0
    }

    /// Nobody has asked for it since.
    pub(crate) fn is_over(&self, now: Millis, back_off: &BackOff) -> bool {
        self.until.saturating_add(millis(back_off.max)) < now
    }
}

/// What a destination that wants a connection gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Permit {
    Given,
    /// It stands in the line of its address, and is called.
    InLine,
    /// MAX_RELAYS are open.
    AllTaken,
}

/// All addresses that have a permit or a back-off.
pub(crate) struct Addresses {
    pub(crate) limits: Limits,
    addresses: HashMap<SocketAddr, Address>,
    /// Permits given out: connections that are open, or being opened or closed.
    connections: usize,
    /// In the order of their last use.
    idle: VecDeque<Connection>,
    /// Connections to be closed.
    pub(crate) leaving: Vec<Connection>,
}

#[derive(Debug, Default)]
struct Address {
    /// Permits given out.
    open: usize,
    /// Some connection succeeded since the last failure.
    healthy: bool,
    /// It took no more connections than this.
    full_at: Option<usize>,
    /// Connections lost under their first message since one was not.
    losses: u32,
    health: Health,
    line: VecDeque<Destination>,
}

impl Address {
    fn fail(&mut self, answer: &str, now: Millis, back_off: &BackOff) {
        (self.healthy, self.full_at, self.losses) = (false, None, 0);
        self.health.fail(answer, now, back_off);
    }
}

impl Addresses {
    pub(crate) fn new(limits: Limits) -> Addresses {
        Addresses {
            limits,
            addresses: HashMap::new(),
            connections: 0,
            idle: VecDeque::new(),
            leaving: Vec::new(),
        }
    }

    fn of(&mut self, addr: SocketAddr) -> &mut Address {
        self.addresses.entry(addr).or_default()
    }

    /// Whether an address is left alone.
    pub(crate) fn refusal(&self, addr: SocketAddr, now: Millis) -> Option<Refusal> {
        self.addresses.get(&addr)?.health.refusal(now)
    }

    /// Takes those out that are left alone; if that is all of them, until the first of them may be called.
    pub(crate) fn leave_alone(&self, targets: &mut Vec<Target>, now: Millis) -> Option<Refusal> {
        let refusals = targets.iter().map(|target| self.refusal(target.addr, now));
        let first = refusals.flatten().min_by_key(|refusal| refusal.until);
        targets.retain(|target| self.refusal(target.addr, now).is_none());
        first.filter(|_| targets.is_empty())
    }

    /// A permit to open a connection, until [`closed`](Addresses::closed).
    pub(crate) fn permit(&mut self, addr: SocketAddr, destination: &Destination) -> Permit {
        let (is_full, each) = (self.is_full(), self.limits.each);
        let address = self.of(addr);
        let most = match address.healthy {
            true => each.min(address.full_at.unwrap_or(usize::MAX)),
            false => 1,
        };
        if address.open >= most {
            address.line.push_back(destination.clone());
            self.evict(|connection| connection.target.addr == addr);
            return Permit::InLine;
        }
        if is_full {
            self.evict(|_| true);
            return Permit::AllTaken;
        }
        address.open += 1;
        self.connections += 1;
        Permit::Given
    }

    /// All permits are given out.
    pub(crate) fn is_full(&self) -> bool {
        self.connections >= self.limits.relays
    }

    /// Whether a permit can be had, perhaps that of an idle connection.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_full() || !self.idle.is_empty()
    }

    /// The connection is open: the address may have more. Returns its line, to be asked again.
    pub(crate) fn opened(&mut self, addr: SocketAddr) -> VecDeque<Destination> {
        self.of(addr).healthy = true;
        self.call(addr)
    }

    /// The connection could not be opened. Unless others are open (then the address just takes no more of them) the
    /// address gets a back-off. The permit is still to be given back.
    pub(crate) fn failed(&mut self, addr: SocketAddr, answer: &str, now: Millis) {
        let back_off = self.limits.back_off;
        let address = self.of(addr);
        debug_assert!(address.open > 0, "the permit of this connection");
        match address.open - 1 {
            0 => address.fail(answer, now, &back_off),
            others => address.full_at = Some(others),
        }
    }

    /// A connection was lost under its first message. Too many of these in a row, and the address has failed, whoever
    /// else is connected.
    pub(crate) fn lost(&mut self, addr: SocketAddr, answer: &str, now: Millis) {
        let back_off = self.limits.back_off;
        let address = self.of(addr);
        address.losses += 1;
        if address.losses >= LOSSES {
            address.fail(answer, now, &back_off);
        }
    }

    /// A message went through.
    pub(crate) fn proven(&mut self, addr: SocketAddr) {
        if let Some(address) = self.addresses.get_mut(&addr) {
            address.losses = 0;
            address.health = Health::default();
        }
    }

    /// The connection is closed: its permit is free. Returns the line.
    pub(crate) fn closed(&mut self, addr: SocketAddr) -> VecDeque<Destination> {
        debug_assert!(self.connections > 0, "a permit is given back once");
        self.connections -= 1;
        self.of(addr).open -= 1;
        self.call(addr)
    }

    fn call(&mut self, addr: SocketAddr) -> VecDeque<Destination> {
        let address = self.of(addr);
        let line = std::mem::take(&mut address.line);
        let is_over = address.open == 0 && address.health.is_good() && address.losses == 0;
        if is_over && line.is_empty() {
            self.addresses.remove(&addr);
        }
        line
    }

    /// Whether other destinations stand in the line of this connection's address.
    pub(crate) fn has_others_in_line(&self, connection: &Connection) -> bool {
        let address = self.addresses.get(&connection.target.addr);
        address.is_some_and(|address| has_others(&address.line, &connection.destination))
    }

    /// Keeps a connection for a moment, with its permit. Returns the line: its own destination may stand there.
    pub(crate) fn park(&mut self, connection: Connection) -> VecDeque<Destination> {
        let addr = connection.target.addr;
        self.idle.push_back(connection);
        self.call(addr)
    }

    /// The connection to a destination that was used last.
    pub(crate) fn take_idle(&mut self, destination: &Destination) -> Option<Connection> {
        let is_its = |connection: &Connection| connection.destination == *destination;
        let at = self.idle.iter().rposition(is_its)?;
        self.idle.remove(at)
    }

    /// The idle connection that has waited longest, of those that fit, makes room.
    fn evict(&mut self, fits: impl Fn(&Connection) -> bool) {
        if let Some(at) = self.idle.iter().position(fits) {
            self.leaving.extend(self.idle.remove(at));
        }
    }

    /// Connections that have been idle long enough are to be closed.
    pub(crate) fn expire(&mut self, now: Millis) {
        while self.next_expiry().is_some_and(|at| at <= now) {
            self.leaving.extend(self.idle.pop_front());
        }
    }

    /// When the next idle connection is to be closed.
    pub(crate) fn next_expiry(&self) -> Option<Millis> {
        self.idle.front().map(|idle| idle.idle_since + IDLE)
    }

    /// All connections that nobody works on, for the end.
    pub(crate) fn drain_idle(&mut self) -> Vec<Connection> {
        self.leaving.extend(self.idle.drain(..));
        std::mem::take(&mut self.leaving)
    }

    /// All may be called at once.
    pub(crate) fn forget_back_offs(&mut self) {
        for address in self.addresses.values_mut() {
            address.health = Health::default();
        }
    }

    /// Forgets back-offs that are long over.
    pub(crate) fn sweep(&mut self, now: Millis) {
        let back_off = self.limits.back_off;
        let is_over = |a: &Address| a.open == 0 && a.line.is_empty();
        self.addresses
            .retain(|_, a| !(is_over(a) && a.health.is_over(now, &back_off)));
    }

    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Permits given out.
    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }
}

/// Whether others than `destination` wait in a line.
pub(crate) fn has_others(line: &VecDeque<Destination>, destination: &Destination) -> bool {
    line.len() > 1 || line.front().is_some_and(|first| first != destination)
}
