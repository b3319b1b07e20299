//! Which message is due, and in which round it is: the decisions of the queue about messages. Pure: no thread,
//! no clock, no file; time is a number of milliseconds that the caller counts. `sites.rs` has the other half,
//! the decisions about destinations.
//!
//! A message is in exactly one of these places:
//!
//! 1. `fresh` or `waiting`: an id and, for the latter, when. Some 60 octets.
//! 2. `rounds`: its round is on; it stands in the queue of every destination that it has waiting recipients
//!    for. Each of these *parts* is worked on by one worker at most, different parts perhaps at once.
//! 3. Neither, its id only `known`: the worker that ended the last part closes the round, and then calls
//!    [`Plan::schedule`] or [`Plan::forget`]. Or it was just accepted, and begins at once.
//!
//! So nothing can start a second round of a message before the first is closed.

use crate::message::Id;
use crate::relay::queue::destinations::{Destination, Limits, Millis, Sites};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// A round that is over; `failures` are whatever the workers handed in.
#[derive(Debug, PartialEq, Eq)]
pub struct Closing<F> {
    /// Recipients that failed for good in this round.
    pub failures: Vec<F>,
    /// The earliest next try that some part asked for.
    pub again: Option<Millis>,
    /// Some recipient was tried in vain, so the tries count one more.
    pub tried: bool,
    /// Other parts may have changed the file since this worker read it.
    pub shared: bool,
}

/// The state of it all. `F`: a failure, see [`Closing`].
#[derive(Debug)]
pub struct Plan<F> {
    fresh: VecDeque<Id>,
    waiting: BTreeSet<(Millis, Id)>,
    known: HashSet<Id>,
    rounds: HashMap<Id, Round<F>>,
    /// Whether the spool has been read to its end; if not, whether all that is still found is due at once.
    is_read: bool,
    hurry: bool,
    /// Messages whose round was under way when all was to be due at once.
    hurried: HashSet<Id>,
    /// The destinations, with the messages in their queues.
    pub sites: Sites,
}

#[derive(Debug)]
struct Round<F> {
    parts: usize,
    tried: bool,
    again: Option<Millis>,
    /// Only for messages in several parts.
    shared: Option<Box<Shared<F>>>,
}

#[derive(Debug)]
struct Shared<F> {
    failures: Vec<F>,
    claimed: HashSet<usize>,
}

impl<F> Default for Plan<F> {
    fn default() -> Plan<F> {
        Plan {
            fresh: VecDeque::new(),
            waiting: BTreeSet::new(),
            known: HashSet::new(),
            rounds: HashMap::new(),
            is_read: false,
            hurry: false,
            hurried: HashSet::new(),
            sites: Sites::default(),
        }
    }
}

impl<F> Plan<F> {
    /// A message that was just accepted: due before all others. A known one is left as it is; false if it is one.
    pub fn submit(&mut self, id: Id) -> bool {
        let new = self.known.insert(id);
        if new {
            self.fresh.push_back(id);
        }
        new
    }

    /// A message that was just accepted and is to [`begin`](Plan::begin) at once; false if it is a known one.
    pub fn admit(&mut self, id: Id) -> bool {
        self.known.insert(id)
    }

    /// A message found in the spool. A known one is left as it is.
    pub fn found(&mut self, id: Id, due: Millis) {
        if self.known.insert(id) {
            self.waiting.insert((if self.hurry { 0 } else { due }, id));
        }
    }

    /// The spool has been read to its end.
    pub fn all_found(&mut self) {
        (self.is_read, self.hurry) = (true, false);
    }

    /// The next message to begin a round with.
    pub fn due(&mut self, now: Millis) -> Option<Id> {
        if let Some(id) = self.fresh.pop_front() {
            return Some(id);
        }
        let (due, id) = *self.waiting.first()?;
        (due <= now).then(|| {
            self.waiting.pop_first();
            id
        })
    }

    /// When the next message is due.
    pub fn next_due(&self) -> Option<Millis> {
        if self.fresh.is_empty() {
            self.waiting.first().map(|(due, _)| *due)
        } else {
            Some(0)
        }
    }

    /// Begins a round: the message joins the queues of its destinations. Those in back-off are left out; if all
    /// are, it waits for the first of them, and that time is returned. Without destinations it is forgotten.
    pub fn begin(
        &mut self,
        id: Id,
        to: Vec<Destination>,
        now: Millis,
        limits: &Limits,
    ) -> Option<Millis> {
        self.hurried.remove(&id);
        let mut parts = 0;
        let mut again: Option<Millis> = None;
        for destination in to {
            match self.sites.push(&destination, id, now, limits) {
                Ok(()) => parts += 1,
                Err(until) => again = Some(again.map_or(until, |a| a.min(until))),
            }
        }
        if parts > 0 {
            let shared = || {
                Box::new(Shared {
                    failures: Vec::new(),
                    claimed: HashSet::new(),
                })
            };
            let round = Round {
                parts,
                tried: false,
                again,
                shared: (parts > 1).then(shared),
            };
            self.rounds.insert(id, round);
            return None;
        }
        match again {
            Some(again) => self.waiting.insert((again, id)),
            None => self.known.remove(&id),
        };
        again
    }

    /// Those of `recipients` that no other part of the message has taken. A reload may route one anew while
    /// its round is on.
    pub fn claim(&mut self, id: Id, recipients: Vec<usize>) -> Vec<usize> {
        match self
            .rounds
            .get_mut(&id)
            .and_then(|round| round.shared.as_mut())
        {
            Some(shared) => recipients
                .into_iter()
                .filter(|r| shared.claimed.insert(*r))
                .collect(),
            None => recipients,
        }
    }

    /// Whether all other parts have ended; then none can begin.
    pub fn is_last_part(&self, id: Id) -> bool {
        self.rounds.get(&id).is_none_or(|round| round.parts <= 1)
    }

    /// A part has ended. `again`: when those that were not served should be tried; `tried`: they have been. The
    /// last part gets the round to close.
    pub fn end_part(
        &mut self,
        id: Id,
        failures: Vec<F>,
        again: Option<Millis>,
        tried: bool,
    ) -> Option<Closing<F>> {
        let round = self.rounds.get_mut(&id)?;
        round.parts = round.parts.saturating_sub(1);
        // A real try decides when the next one is; until then the earliest wish does.
        round.again = match (round.again, again) {
            (_, Some(again)) if tried && !round.tried => Some(again),
            (Some(a), Some(b)) if tried == round.tried => Some(a.min(b)),
            (None, again) => again,
            (again, _) => again,
        };
        round.tried |= tried;
        if round.parts > 0 {
            if let Some(shared) = &mut round.shared {
                shared.failures.extend(failures);
            }
            return None;
        }
        let round = self.rounds.remove(&id)?;
        let shared = round.shared.is_some();
        let mut all = round.shared.map(|s| s.failures).unwrap_or_default();
        all.extend(failures);
        Some(Closing {
            failures: all,
            again: round.again,
            tried: round.tried,
            shared,
        })
    }

    /// The round is closed: again at `due`.
    pub fn schedule(&mut self, id: Id, due: Millis) {
        self.known.insert(id);
        let due = if self.hurried.remove(&id) { 0 } else { due };
        self.waiting.insert((due, id));
    }

    /// The round is closed, and the message gone.
    pub fn forget(&mut self, id: Id) {
        self.known.remove(&id);
        self.hurried.remove(&id);
    }

    /// Everything that waits is due now, also what is found later, and what is under way, should its try fail;
    /// back-offs are forgotten.
    pub fn retry_all(&mut self) {
        self.hurry = !self.is_read;
        self.hurried.clone_from(&self.known);
        for id in self.waiting.iter().map(|(_, id)| id).chain(&self.fresh) {
            self.hurried.remove(id);
        }
        self.sites.forget_back_offs();
        self.waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(_, id)| (0, id))
            .collect();
    }

    /// Messages that wait, and messages in a round.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.waiting.len() + self.fresh.len(), self.rounds.len())
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
