//! The workers: one thread, one destination at a time, until nobody has work for it.
//!
//! A worker on a remote destination asks where its hosts are, opens a connection to the first that takes one,
//! and sends what waits for it, message after message. A connection that breaks under a message is replaced
//! for that message: anew from the first host if it had carried others before (the host may have closed it
//! meanwhile), else by the next host of the list, and after the last one the message is tried later. A message
//! that may have arrived is never tried on another host at once. A worker that panics gives back what it had,
//! and goes on.

use crate::message::{Id, mbox_heading};
use crate::relay::client::{Fate, Trouble};
use crate::relay::mx::{RouteError, Target};
use crate::relay::queue::attempt::Part;
use crate::relay::queue::destinations::{Destination, millis};
use crate::relay::queue::environment::{Environment, Link};
use crate::relay::queue::pool::Desk;
use crate::relay::queue::retry::jitter;
use crate::smtp::address::Host;
use crate::store::mailbox::MailboxMessage;
use crate::store::spool::Spool;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Recipients in one transaction: what every server must take (RFC 821 4.5.3).
const RECIPIENTS_A_TRANSACTION: usize = 100;

/// What all workers share.
pub(crate) struct Crew<O> {
    pub(crate) desk: Arc<Desk>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) outside: O,
}

/// What a worker has in hand, for the case that it panics.
#[derive(Default)]
pub(crate) struct Shift {
    /// A part that has not ended.
    pub(crate) message: Cell<Option<Id>>,
    /// A round that is being closed.
    pub(crate) closing: Cell<Option<Id>>,
    connected: Cell<bool>,
}

/// A connection, and who it is to.
struct Open<L> {
    link: L,
    host: String,
}

/// How sending went on one connection.
enum Sent {
    Done,
    /// The connection is lost; the message may be sent anew.
    Lost(Box<Part>, String),
}

impl<O: Environment> Crew<O> {
    /// A worker's life.
    pub(crate) fn work(&self, first: Destination) {
        let mut job = Some(first);
        while let Some(destination) = job {
            let shift = Shift::default();
            if catch_unwind(AssertUnwindSafe(|| self.serve(&destination, &shift))).is_err() {
                log::error!("a worker of the queue panicked on {destination:?}");
                if let Some(id) = shift.message.get() {
                    self.end(
                        id,
                        Some(self.desk.now() + millis(self.outside.settings().back_off.min)),
                    );
                }
            }
            let mut board = self.desk.board();
            let limits = board.limits;
            board
                .plan
                .sites
                .leave(&destination, !shift.connected.get(), &limits);
            drop(board);
            job = self.desk.next_job();
        }
    }

    fn serve(&self, destination: &Destination, shift: &Shift) {
        match destination {
            Destination::Host(host) => self.relay(host, destination, shift),
            Destination::Mailbox(mbox) => self.deliver(mbox, destination, shift),
            Destination::Nobody => {
                let Some(_under_way) = self.desk.register(Box::new(|| {})) else {
                    return;
                };
                self.connected(destination, shift);
                while let Some(part) = self.next(destination, 0, true, shift) {
                    let fates = vec![Fate::Never("no such user here".into()); part.paths.len()];
                    self.finish(part, &fates, None, shift);
                }
            }
        }
    }

    fn relay(&self, host: &Host, destination: &Destination, shift: &Shift) {
        let mut done = 0;
        let mut carried: Option<Part> = None;
        let mut targets = Vec::new().into_iter();
        // Who has just lost the carried message, untouched by anyone, and how: the rest of the list is for it.
        let mut lost: Option<(String, String)> = None;
        loop {
            if lost.is_none() {
                targets = match self.targets(host) {
                    Ok(found) => found.into_iter(),
                    Err(fate) => return self.refuse(destination, fate, carried, shift),
                };
            }
            let open = match (self.open(host, &mut targets), lost.take()) {
                (Ok(open), _) => open,
                (Err(fate), None) => return self.refuse(destination, fate, carried, shift),
                (Err(_), Some((name, why))) => {
                    if self.put_off(destination, carried.take(), &name, why, shift) {
                        continue;
                    }
                    return;
                }
            };
            let Some(under_way) = self.desk.register(open.link.interrupter()) else {
                carried
                    .into_iter()
                    .for_each(|part| self.abandon(part, shift));
                return;
            };
            // In this order, so that the connection is closed before `stop` hears that it is.
            let (_under_way, name, mut link) = (under_way, open.host, open.link);
            self.connected(destination, shift);
            let mut reused = false;
            loop {
                let Some(part) = carried
                    .take()
                    .or_else(|| self.next(destination, done, reused, shift))
                else {
                    link.quit();
                    return;
                };
                match self.send(part, &mut link, &name, shift) {
                    Sent::Done => (reused, done) = (true, done + 1),
                    Sent::Lost(part, _) if self.desk.board().stopping => {
                        return self.abandon(*part, shift);
                    }
                    Sent::Lost(part, why) => {
                        carried = Some(*part);
                        lost = (!reused).then_some((name, why));
                        break;
                    }
                }
            }
            shift.connected.set(false);
            self.desk.board().plan.sites.reopening(destination);
        }
    }

    /// Some host took the call, none the message. Whether to go on with what else waits.
    fn put_off(
        &self,
        destination: &Destination,
        part: Option<Part>,
        host: &str,
        why: String,
        shift: &Shift,
    ) -> bool {
        let Some(_under_way) = self.desk.register(Box::new(|| {})) else {
            part.into_iter().for_each(|part| self.abandon(part, shift));
            return false;
        };
        let fate = Fate::Later(why);
        if let Some(part) = part {
            let fates = vec![fate.clone(); part.paths.len()];
            self.finish(part, &fates, Some(host), shift);
        }
        let mut board = self.desk.board();
        let (dead, has_mail) = (
            board.plan.sites.lost(destination),
            board.plan.sites.has_mail(destination),
        );
        drop(board);
        if dead {
            self.refuse(destination, fate, None, shift);
        }
        has_mail && !dead
    }

    fn targets(&self, host: &Host) -> Result<Vec<Target>, Fate> {
        self.outside.targets(host).map_err(|e| match e {
            RouteError::Never(why) => Fate::Never(why),
            RouteError::Later(why) => Fate::Later(why),
        })
    }

    /// Opens a connection to the next host that takes one; `Err`: what to say of all mail for them.
    fn open(
        &self,
        host: &Host,
        targets: &mut impl Iterator<Item = Target>,
    ) -> Result<Open<O::Link>, Fate> {
        let mut last = format!("{host} has no address to call");
        for target in targets {
            if self.desk.board().stopping {
                break;
            }
            match self.outside.open(&target) {
                Ok(link) => {
                    return Ok(Open {
                        link,
                        host: target.name,
                    });
                }
                Err(Trouble(why)) => last = why,
            }
        }
        Err(Fate::Later(last))
    }

    /// All that waits for a destination meets the same fate; unless it is final, the destination is left alone
    /// for a while.
    fn refuse(&self, destination: &Destination, fate: Fate, carried: Option<Part>, shift: &Shift) {
        // A report and the record that it was sent are not to be parted by a stop.
        let Some(_under_way) = self.desk.register(Box::new(|| {})) else {
            carried
                .into_iter()
                .for_each(|part| self.abandon(part, shift));
            return;
        };
        if let Some(part) = carried {
            let fates = vec![fate.clone(); part.paths.len()];
            self.finish(part, &fates, None, shift);
        }
        let back_off = self.outside.settings().back_off;
        let ids = match fate {
            Fate::Never(_) => self.desk.board().plan.sites.drain(destination),
            _ => self.desk.board().plan.sites.failed(
                destination,
                self.desk.now(),
                &back_off,
                jitter(),
            ),
        };
        for id in ids {
            if self.desk.board().stopping {
                return;
            }
            shift.message.set(Some(id));
            if let Some(part) = self.begin(id, destination) {
                let fates = vec![fate.clone(); part.paths.len()];
                self.conclude(part, &fates, None, shift);
            }
            shift.message.set(None);
        }
    }

    fn send(&self, part: Part, link: &mut O::Link, host: &str, shift: &Shift) -> Sent {
        let mut fates = Vec::with_capacity(part.paths.len());
        let body = match part.queued.body() {
            Ok(body) => body,
            Err(e) => {
                log::error!("spool: cannot read id={}: {e}", part.queued.id);
                self.finish(part, &[], None, shift);
                return Sent::Done;
            }
        };
        for paths in part.paths.chunks(RECIPIENTS_A_TRANSACTION) {
            let some = link.send(&part.queued.from, paths, &body);
            if link.is_usable() {
                fates.extend(some);
                continue;
            }
            let why = some.iter().rev().find_map(|fate| match fate {
                Fate::Later(why) => Some(why.clone()),
                Fate::Delivered(_) | Fate::Never(_) => None,
            });
            let why = why.unwrap_or_else(|| "connection lost".to_owned());
            let undecided = some.iter().all(|fate| matches!(fate, Fate::Later(_)));
            if fates.is_empty() && undecided && !link.is_in_doubt() {
                return Sent::Lost(Box::new(part), why);
            }
            // What is decided stays so; the rest of this message is for another time.
            fates.extend(some);
            fates.resize(part.paths.len(), Fate::Later(why));
            break;
        }
        self.finish(part, &fates, Some(host), shift);
        Sent::Done
    }

    fn deliver(&self, mbox: &Path, destination: &Destination, shift: &Shift) {
        let Some(_under_way) = self.desk.register(Box::new(|| {})) else {
            return;
        };
        self.connected(destination, shift);
        let mut done = 0;
        while let Some(part) = self.next(destination, done, done > 0, shift) {
            done += 1;
            let heading = mbox_heading(&part.queued.from, SystemTime::now(), &part.paths, "")
                .into_bytes()
                .into();
            let delivered = part.queued.body().map_err(Into::into).and_then(|body| {
                self.outside.deliver(
                    mbox,
                    MailboxMessage {
                        heading,
                        body: Arc::new(body),
                    },
                )
            });
            match delivered {
                Ok(()) => {
                    let fates = vec![Fate::Delivered("delivered".into()); part.paths.len()];
                    self.finish(part, &fates, None, shift);
                }
                Err(e) => {
                    shift.connected.set(false);
                    self.desk.board().plan.sites.reopening(destination);
                    let why = format!("mailbox {}: {e}", mbox.display());
                    return self.refuse(destination, Fate::Later(why), Some(part), shift);
                }
            }
        }
    }

    /// The next message that waits for a destination, begun.
    fn next(
        &self,
        destination: &Destination,
        done: u32,
        proven: bool,
        shift: &Shift,
    ) -> Option<Part> {
        loop {
            let id = self.desk.next_message(destination, done, proven)?;
            shift.message.set(Some(id));
            if let Some(part) = self.begin(id, destination) {
                return Some(part);
            }
            shift.message.set(None);
        }
    }

    fn finish(&self, part: Part, fates: &[Fate], host: Option<&str>, shift: &Shift) {
        self.conclude(part, fates, host, shift);
    }

    /// Stopping: as if it had not been begun.
    fn abandon(&self, part: Part, shift: &Shift) {
        self.give_up(part);
        shift.message.set(None);
    }

    fn connected(&self, destination: &Destination, shift: &Shift) {
        shift.connected.set(true);
        self.desk.board().plan.sites.connected(destination);
    }
}
