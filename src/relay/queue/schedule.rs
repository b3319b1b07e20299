//! Which message is due, and how its attempt stands: the decisions of the queue about messages. Pure: no thread, no
//! clock, no file. `destinations.rs` has the other half.
//!
//! A message is in exactly one of these places:
//!
//! 1. `waiting`: an id, and when it is due. Some 50 octets.
//! 2. `attempts`: its attempt is on. It stands in the queue of every destination that it has waiting recipients for, or
//!    is in the hands of a worker there: each of these *deliveries* is one worker's at most, different ones perhaps at
//!    once. The attempt stays here until the worker that ended the last delivery has reported, recorded and said what
//!    comes next: [`Schedule::retry`] or [`Schedule::forget`]. So nothing begins a second attempt before the first is closed.
//! 3. Neither, only `known`: the scheduler is about to begin it.

use crate::message::Id;
use crate::relay::bounce::Failure;
use crate::relay::queue::environment::{Destination, Millis};
use crate::smtp::address::ForwardPath;
use std::collections::{BTreeSet, HashMap, HashSet};

/// A recipient that failed for good in this attempt.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    /// Its number in the message.
    pub(crate) index: usize,
    pub(crate) failure: Failure,
}

/// What came of a delivery, or of a whole attempt.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) failures: Vec<Failed>,
    /// When those that were not served should be tried again.
    pub(crate) again: Option<Millis>,
    /// Some recipient was tried in vain, so the tries count one more.
    pub(crate) tried: bool,
}

/// Where one recipient's mail goes in this attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routed {
    /// Its number in the message.
    pub(crate) index: usize,
    pub(crate) destination: Destination,
    /// The path that `user.conf` puts in the place of its own.
    pub(crate) path: Option<ForwardPath>,
}

/// A delivery in a worker's hands.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) id: Id,
    /// The attempt has no other delivery, now or later.
    pub(crate) alone: bool,
    /// The recipients; none means all that wait, under their own paths.
    pub(crate) routes: Vec<Routed>,
    /// The moment when it came in, or its last attempt ended.
    pub(crate) waits_since: u64,
    /// When it was received, by the queue's clock; before the machine was booted it is negative.
    pub(crate) received: i64,
}

/// All messages.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    waiting: BTreeSet<(Millis, Id)>,
    known: HashMap<Id, Seen>,
    attempts: HashMap<Id, Attempt>,
    /// Messages whose attempt was on when all was to be retried at once.
    flushed: HashSet<Id>,
}

/// What is remembered of every message.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// When it was received, by the queue's clock; [`UNREAD`] until its file has been read. A wall clock that is put
    /// right while the daemon runs makes no message older.
    received: i64,
    waits_since: u64,
}

const UNREAD: i64 = i64::MAX;

#[derive(Debug)]
struct Attempt {
    /// Deliveries that have not ended.
    open: usize,
    alone: bool,
    routes: Vec<Routed>,
    outcome: Outcome,
}

impl Schedule {
    /// A message found in the spool; one that is known is left as it is. Whether it is new.
    pub(crate) fn found(&mut self, id: Id, due: Millis, moment: u64) -> bool {
        let new = self.admit(id, moment);
        if new {
            self.waiting.insert((due, id));
        }
        new
    }

    /// A message that was just accepted, to [`begin`](Schedule::begin) at once; false if it is known.
    pub(crate) fn admit(&mut self, id: Id, moment: u64) -> bool {
        let new = !self.known.contains_key(&id);
        if new {
            let (received, waits_since) = (UNREAD, moment);
            let seen = Seen {
                received,
                waits_since,
            };
            self.known.insert(id, seen);
        }
        new
    }

    /// The next message to begin an attempt with.
    pub(crate) fn due(&mut self, now: Millis) -> Option<Id> {
        let (due, id) = *self.waiting.first()?;
        (due <= now).then(|| {
            self.waiting.pop_first();
            id
        })
    }

    /// When the next message is due.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Begins an attempt; `age`: the message's, by its file. Returns the destinations, whose queues it is to join.
    pub(crate) fn begin(
        &mut self,
        id: Id,
        routes: Vec<Routed>,
        now: Millis,
        age: Millis,
    ) -> Vec<Destination> {
        debug_assert!(self.known.contains_key(&id), "it was found or admitted");
        if let Some(seen) = self.known.get_mut(&id)
            && seen.received == UNREAD
        {
            seen.received = signed(now).saturating_sub(signed(age));
        }
        self.flushed.remove(&id);
        let mut destinations = Vec::new();
        for Routed { destination, .. } in &routes {
            if !destinations.contains(destination) {
                destinations.push(destination.clone());
            }
        }
        debug_assert!(!destinations.is_empty(), "somebody waits");
        let (open, alone) = (destinations.len(), destinations.len() == 1);
        // Most mail has one destination and goes under its own path: that needs no list.
        let plain = alone && routes.iter().all(|route| route.path.is_none());
        let attempt = Attempt {
            open,
            alone,
            routes: if plain { Vec::new() } else { routes },
            outcome: Outcome::default(),
        };
        let before = self.attempts.insert(id, attempt);
        debug_assert!(before.is_none(), "one attempt at a time");
        destinations
    }

    /// A worker takes the delivery to `destination` up.
    pub(crate) fn take(&self, id: Id, destination: &Destination) -> Option<Taken> {
        let (attempt, seen) = (self.attempts.get(&id)?, self.known.get(&id)?);
        let here = |route: &&Routed| route.destination == *destination;
        Some(Taken {
            id,
            alone: attempt.alone,
            routes: attempt.routes.iter().filter(here).cloned().collect(),
            waits_since: seen.waits_since,
            received: seen.received,
        })
    }

    /// Whether all other deliveries of the attempt have ended.
    pub(crate) fn is_last(&self, id: Id) -> bool {
        self.attempts
            .get(&id)
            .is_none_or(|attempt| attempt.open <= 1)
    }

    /// A delivery has ended. The last one gets what came of all, and closes the attempt.
    pub(crate) fn end(&mut self, id: Id, outcome: Outcome) -> Option<Outcome> {
        let attempt = self.attempts.get_mut(&id)?;
        debug_assert!(attempt.open > 0, "a delivery ends once");
        attempt.open = attempt.open.saturating_sub(1);
        let all = &mut attempt.outcome;
        // A real try decides when the next one is; until then the earliest wish does.
        all.again = match (all.again, outcome.again) {
            (_, Some(again)) if outcome.tried && !all.tried => Some(again),
            (Some(a), Some(b)) if outcome.tried == all.tried => Some(a.min(b)),
            (None, again) => again,
            (again, _) => again,
        };
        all.tried |= outcome.tried;
        all.failures.extend(outcome.failures);
        (attempt.open == 0).then(|| std::mem::take(all))
    }

    /// A worker gives a delivery back that it could not bring to an end: the message is tried again at `due`, or when
    /// the other deliveries have ended.
    pub(crate) fn give_back(&mut self, id: Id, due: Millis, moment: u64) {
        match self.attempts.get_mut(&id) {
            Some(attempt) if attempt.open > 1 => {
                attempt.open -= 1;
                let again = &mut attempt.outcome.again;
                *again = Some(again.map_or(due, |again| again.min(due)));
            }
            _ => self.retry(id, due, moment),
        }
    }

    /// The attempt is closed: again at `due`.
    pub(crate) fn retry(&mut self, id: Id, due: Millis, moment: u64) {
        self.attempts.remove(&id);
        if let Some(seen) = self.known.get_mut(&id) {
            seen.waits_since = moment;
        }
        let due = if self.flushed.remove(&id) { 0 } else { due };
        self.waiting.insert((due, id));
    }

    /// The attempt is closed, and the message gone.
    pub(crate) fn forget(&mut self, id: Id) {
        self.attempts.remove(&id);
        self.known.remove(&id);
        self.flushed.remove(&id);
    }

    /// Everything that waits is due now, and so is what is under way, should its attempt leave somebody waiting.
    pub(crate) fn flush(&mut self) {
        self.flushed = self.known.keys().copied().collect();
        for (_, id) in std::mem::take(&mut self.waiting) {
            self.flushed.remove(&id);
            self.waiting.insert((0, id));
        }
    }

    /// All that wait, with their times.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Millis, Id)> {
        self.waiting.iter().copied()
    }

    /// How many messages there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Messages that wait, and messages with an attempt.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.attempts.len())
    }
}

/// A time or a span, to be counted below zero.
pub(crate) fn signed(time: Millis) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX - 1)
}

#[cfg(test)]
#[path = "tests/schedule_tests.rs"]
mod tests;
