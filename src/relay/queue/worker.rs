//! The workers: each does one job after another for whatever destination has work.
//!
//! A worker that has opened a connection sends what waits for its destination, message after message. A connection
//! that breaks under a message is replaced for that message: anew, from the first host, if it had carried others before
//! (the host may have closed it meanwhile), else by the next host of the list, and after the last one the message is
//! tried later. A message that may have arrived is never tried on another host at once. A worker that panics gives
//! back what it has in hand (`pool.rs`), and goes on.

use crate::message::mbox_heading;
use crate::relay::backscatter::keep_away;
use crate::relay::client::{Fate, Trouble};
use crate::relay::mx::Target;
use crate::relay::queue::addresses::{Connection, Job, Refusal};
use crate::relay::queue::attempt::{Answers, Delivery};
use crate::relay::queue::environment::{Destination, moment, now};
use crate::relay::queue::pool::{Shared, State, Verdict};
use crate::store::mailbox::MailboxMessage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// One thread that serves the queue.
pub(crate) struct Worker {
    /// Its name in the pool.
    number: usize,
    shared: Arc<Shared>,
}

/// How sending went on one connection.
enum Sent {
    Ended(Verdict),
    /// The connection is lost; the message may be sent anew.
    Lost(Box<Delivery>, String),
}

impl Worker {
    /// A worker's life.
    pub(crate) fn work(shared: Arc<Shared>, number: usize) {
        shared.pool.lock().starting -= 1;
        Worker { number, shared }.run();
    }

    fn run(&self) {
        while let Some((destination, job)) = self.shared.pool.next_job(self.number) {
            let work = || self.perform(&destination, job);
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                log::error!(
                    "a worker of the queue panicked on {destination:?}; its mail is tried again later"
                );
            }
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut State, usize) -> R) -> R {
        self.shared.pool.change(|state| change(state, self.number))
    }

    fn perform(&self, destination: &Destination, job: Job) {
        match job {
            Job::LookUp(host) => {
                let found = self.shared.environment.look_up(&host);
                let found = match destination {
                    Destination::Report(_) => found.and_then(|found| keep_away(&host, found)),
                    _ => found,
                };
                self.change(|state, me| state.looked_up(me, found));
            }
            Job::Open(targets) => self.open(destination, targets),
            Job::Relay(connection) => self.relay(connection),
            Job::Deliver(mbox) => self.deliver(destination, &mbox),
            Job::Refuse(refusal, _) => self.refuse(destination, &refusal),
            Job::Quit(connection) => connection.link.quit(),
        }
    }

    fn open(&self, destination: &Destination, targets: Vec<Target>) {
        let mut rest = targets.into_iter();
        let Some(target) = rest.next() else { return };
        match self.shared.environment.open(&target) {
            Err(Trouble(why)) => self.change(|state, me| state.open_failed(me, &why)),
            Ok(link) => {
                let connection = Connection {
                    link,
                    destination: destination.clone(),
                    target,
                    rest: rest.collect(),
                    carried: 0,
                    idle_since: 0,
                };
                if self.change(|state, me| state.opened(me, &connection)) {
                    self.relay(connection);
                }
            }
        }
    }

    /// Sends what waits for the destination of a connection.
    fn relay(&self, connection: Connection) {
        let mut slot = Some(connection);
        let mut ended = None;
        loop {
            let next = self.change(|state, me| {
                state.settle(me, ended.take());
                state.next_message(me, &mut slot)
            });
            let Some(connection) = &mut slot else { return };
            let Some(taken) = next else { break };
            let sent = match Delivery::load(&self.shared, taken, &connection.destination) {
                Ok(delivery) => self.send(delivery, connection),
                Err(verdict) => Sent::Ended(verdict),
            };
            match sent {
                Sent::Ended(verdict) => ended = Some(verdict),
                // Stopping: as if it had not been begun.
                Sent::Lost(..) if self.shared.pool.lock().stopping => return,
                Sent::Lost(delivery, why) => {
                    if !self.change(|state, me| state.lost(me, connection, &why)) {
                        let answers = Answers::all(Fate::Later(why), Some(&connection.target.name));
                        let verdict = delivery.finish(&self.shared, &answers);
                        self.change(|state, me| state.settle(me, Some(verdict)));
                    }
                    return;
                }
            }
        }
        if let Some(connection) = slot {
            connection.link.quit();
        }
    }

    fn send(&self, delivery: Delivery, connection: &mut Connection) -> Sent {
        let Connection {
            link,
            target,
            carried,
            ..
        } = connection;
        let body = match delivery.queued.body() {
            Ok(body) => body,
            Err(e) => {
                log::error!("spool: cannot read id={}: {e}", delivery.queued.id);
                let fate = Fate::Later("the message cannot be read now".into());
                return Sent::Ended(delivery.finish(&self.shared, &Answers::all(fate, None)));
            }
        };
        let fates = link.send(&delivery.queued.from, &delivery.paths, &body);
        if !link.is_usable() && !link.is_in_doubt() {
            let why = |fate: &Fate| match fate {
                Fate::Later(why) => Some(why.clone()),
                Fate::Delivered(_) | Fate::Never(_) => None,
            };
            // What is decided stays so; then the rest is for another time.
            let all: Option<Vec<_>> = fates.iter().map(why).collect();
            if let Some(last) = all.and_then(|all| all.into_iter().next_back()) {
                return Sent::Lost(Box::new(delivery), last);
            }
        }
        if let Some(Fate::Later(why)) = fates.last()
            && link.is_in_doubt()
            && *carried == 0
        {
            // For the address this is a loss like any other.
            self.change(|state, _| state.destinations.addresses.lost(target.addr, why, now()));
        }
        *carried += 1;
        let answers = Answers {
            fates,
            host: Some(&target.name),
            refusal: None,
        };
        Sent::Ended(delivery.finish(&self.shared, &answers))
    }

    fn deliver(&self, destination: &Destination, mbox: &Path) {
        let (mut done, mut ended) = (0, None);
        loop {
            let next = self.change(|state, me| {
                state.settle(me, ended.take());
                state.next_local(me, destination, done)
            });
            let Some(taken) = next else { return };
            done += 1;
            let delivery = match Delivery::load(&self.shared, taken, destination) {
                Ok(delivery) => delivery,
                Err(verdict) => {
                    ended = Some(verdict);
                    continue;
                }
            };
            let queued = &delivery.queued;
            let heading = mbox_heading(&queued.from, SystemTime::now(), &delivery.paths, "");
            let delivered = queued.body().map_err(Into::into).and_then(|body| {
                let copy = MailboxMessage {
                    heading: heading.into_bytes().into(),
                    body: Arc::new(body),
                };
                self.shared.environment.deliver(mbox, copy)
            });
            let Err(e) = delivered else {
                let answers = Answers::all(Fate::Delivered("delivered".into()), None);
                ended = Some(delivery.finish(&self.shared, &answers));
                continue;
            };
            let why = format!("mailbox {}: {e}", mbox.display());
            let since = moment();
            let until = self
                .shared
                .pool
                .change(|state| state.destinations.local_failed(destination, &why, now()));
            let fate = Fate::Later(why);
            let refusal = Refusal { fate, since, until };
            let answers = Answers::refused(&refusal);
            let verdict = delivery.finish(&self.shared, &answers);
            return self.change(|state, me| state.settle(me, Some(verdict)));
        }
    }

    /// All that waited for a destination meets the same fate.
    fn refuse(&self, destination: &Destination, refusal: &Refusal) {
        let answers = Answers::refused(refusal);
        let mut next = self.shared.pool.lock().current(self.number);
        while let Some(taken) = next {
            let verdict = match Delivery::load(&self.shared, taken, destination) {
                Ok(delivery) => delivery.finish(&self.shared, &answers),
                Err(verdict) => verdict,
            };
            next = self.change(|state, me| {
                state.settle(me, Some(verdict));
                state.current(me)
            });
        }
    }
}
