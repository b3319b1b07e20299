//! One message in the hands of the workers: take a part of it, see what became of its recipients, and with
//! the last part close the round.
//!
//! The order is what keeps mail from being lost: a report is durable before the recipients that it is about
//! are recorded; a record is durable before the next step; the file goes last. A crash between two of them
//! repeats a delivery or a report, and loses none.

use crate::daemon::router::Route;
use crate::message::escape::Escaped;
use crate::message::{Body, Id};
use crate::relay::bounce::{self, Failure, Reason, Report};
use crate::relay::client::Fate;
use crate::relay::queue::destinations::{Destination, Millis, millis};
use crate::relay::queue::environment::Environment;
use crate::relay::queue::retry::jitter;
use crate::relay::queue::schedule::Closing;
use crate::relay::queue::worker::{Crew, Shift};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::store::spool::{Origin, Queued, State};
use std::time::{Duration, SystemTime};

/// Octets of the original that are looked through for its header.
const HEADER_READ: usize = 64 << 10;

/// A recipient that failed for good in this round.
pub(crate) struct Failed {
    index: usize,
    failure: Failure,
}

/// A message's recipients on one destination.
pub(crate) struct Part {
    pub(crate) queued: Queued,
    /// Where the mail is to go: each path once.
    pub(crate) paths: Vec<ForwardPath>,
    /// Recipients by number, each with the number of its path.
    who: Vec<(usize, usize)>,
}

impl<O: Environment> Crew<O> {
    /// Where a recipient's mail goes now, and under which path.
    pub(crate) fn destination(&self, to: &ForwardPath) -> (Destination, ForwardPath) {
        match self.outside.route(to) {
            Route::Mailbox(mbox) => (Destination::Mailbox(mbox), to.clone()),
            Route::Forward(path) => (Destination::Host(path.host().clone()), path),
            Route::Remote => (Destination::Host(to.host().clone()), to.clone()),
            Route::NoSuchUser => (Destination::Nobody, to.clone()),
        }
    }

    /// The destinations of some recipients, each once.
    pub(crate) fn destinations<'a>(
        &self,
        to: impl Iterator<Item = &'a ForwardPath>,
    ) -> Vec<Destination> {
        let mut destinations = Vec::new();
        for path in to {
            let (destination, _) = self.destination(path);
            if !destinations.contains(&destination) {
                destinations.push(destination);
            }
        }
        destinations
    }

    /// Opens a message for the recipients that wait for `destination`; `None`: the part has ended already.
    pub(crate) fn begin(&self, id: Id, destination: &Destination) -> Option<Part> {
        let open = self.desk.board().open.remove(&id);
        let open = open.filter(Queued::is_there);
        let queued = match open.map_or_else(|| self.spool.load(id), |queued| Ok(Some(queued))) {
            Ok(Some(queued)) => queued,
            Ok(None) => {
                self.end(id, None);
                return None;
            }
            Err(e) => {
                log::error!("spool: cannot read id={id}: {e}");
                self.end(
                    id,
                    Some(self.desk.now() + millis(self.outside.settings().back_off.min)),
                );
                return None;
            }
        };
        let waiting = queued
            .recipients
            .iter()
            .enumerate()
            .filter(|(_, r)| r.state == State::Waiting);
        let mut here: Vec<(usize, ForwardPath)> = waiting
            .filter_map(|(index, recipient)| match self.destination(&recipient.to) {
                (its, path) if its == *destination => Some((index, path)),
                _ => None,
            })
            .collect();
        let claimed = self
            .desk
            .board()
            .plan
            .claim(id, here.iter().map(|(index, _)| *index).collect());
        here.retain(|(index, _)| claimed.contains(index));
        let mut part = Part {
            queued,
            paths: Vec::new(),
            who: Vec::new(),
        };
        for (index, path) in here {
            let at = part
                .paths
                .iter()
                .position(|p| *p == path)
                .unwrap_or(part.paths.len());
            if at == part.paths.len() {
                part.paths.push(path);
            }
            part.who.push((index, at));
        }
        if part.paths.is_empty() {
            // A reload has moved them elsewhere: the next round finds them there.
            self.end(id, Some(self.desk.now() + 1_000));
            return None;
        }
        Some(part)
    }

    /// Gives a part up untried.
    pub(crate) fn give_up(&self, part: Part) {
        self.end(part.queued.id, Some(self.desk.now()));
    }

    /// Ends a part of which nothing is known but when to come again; `None`: the file is gone.
    pub(crate) fn end(&self, id: Id, again: Option<Millis>) {
        let closing = self
            .desk
            .board()
            .plan
            .end_part(id, Vec::new(), again, false);
        let Some(closing) = closing else { return };
        if again.is_none() && !closing.shared {
            self.desk.board().plan.forget(id);
            return;
        }
        match self.spool.load(id) {
            Ok(Some(queued)) => self.close(queued, closing, Vec::new()),
            Ok(None) => self.desk.board().plan.forget(id),
            Err(_) => self
                .desk
                .board()
                .plan
                .schedule(id, again.unwrap_or_else(|| self.desk.now() + 60_000)),
        }
        self.desk.notify();
    }

    /// Notes what became of a part's recipients: `fates` by path. `host`: who said so.
    pub(crate) fn conclude(&self, part: Part, fates: &[Fate], host: Option<&str>, shift: &Shift) {
        let Part {
            mut queued,
            paths,
            who,
        } = part;
        let (id, settings, now) = (queued.id, self.outside.settings(), self.desk.now());
        let age = SystemTime::now()
            .duration_since(queued.received)
            .unwrap_or_default();
        let wait = settings
            .back_off
            .wait(queued.tries.saturating_add(1), jitter());
        let (mut done, mut failures, mut tried) = (Vec::new(), Vec::new(), false);
        let silence = Fate::Later("no answer for this recipient".into());
        for (index, path) in who {
            let to = queued.recipients[index].to.clone();
            let as_sent = queued.recipients[index].as_sent().clone();
            let mut never = |reason: Reason, diagnostic: String| {
                let remote = host.map(str::to_owned);
                failures.push(Failed {
                    index,
                    failure: Failure {
                        to: as_sent.clone(),
                        forwarded_to: (as_sent != to).then(|| to.clone()),
                        reason,
                        diagnostic,
                        remote,
                    },
                });
            };
            match fates.get(path).unwrap_or(&silence) {
                Fate::Delivered(answer) => {
                    match self.destination(&to).0 {
                        Destination::Mailbox(mbox) if host.is_none() => {
                            log::info!("delivered id={id} to={to} mailbox={}", mbox.display());
                        }
                        _ => {
                            let host = host.unwrap_or_default();
                            log::info!(
                                "relayed id={id} to={} host={host} answer={}",
                                paths[path],
                                Escaped(answer)
                            );
                        }
                    }
                    done.push((index, answer.clone()));
                }
                Fate::Never(answer) => {
                    let reason = match self.destination(&to).0 {
                        _ if host.is_some() => Reason::Refused,
                        Destination::Nobody => Reason::NoSuchUser,
                        Destination::Host(_) | Destination::Mailbox(_) => Reason::Unroutable,
                    };
                    never(reason, answer.clone());
                }
                Fate::Later(answer) if age >= settings.lifetime => {
                    let reason = match self.destination(&to).0 {
                        Destination::Mailbox(_) => Reason::Mailbox,
                        _ => Reason::Expired,
                    };
                    never(reason, answer.clone());
                }
                Fate::Later(answer) => {
                    tried = true;
                    let next = stamp(SystemTime::now() + wait);
                    log::info!(
                        "deferred id={id} to={to} next={next} answer={}",
                        Escaped(answer)
                    );
                    if let Err(e) = queued.note(index, answer) {
                        log::error!("spool: cannot note an answer id={id}: {e}");
                    }
                }
            }
        }
        let last = self.desk.board().plan.is_last_part(id);
        if !last {
            self.record(&mut queued, &done);
        }
        let again = tried.then(|| now.saturating_add(millis(wait)));
        let closing = self.desk.board().plan.end_part(id, failures, again, tried);
        shift.message.set(None);
        let Some(closing) = closing else { return };
        shift.closing.set(Some(id));
        if closing.shared {
            match self.spool.load(id) {
                Ok(Some(fresh)) => self.close(fresh, closing, done),
                Ok(None) => self.desk.board().plan.forget(id),
                // What we have misses only what others did; their records are in the file.
                Err(_) => self.close(queued, closing, done),
            }
        } else {
            self.close(queued, closing, done);
        }
        shift.closing.set(None);
    }

    /// The end of a round: reports, records, and what comes next. `done` are delivered, yet unrecorded.
    fn close(&self, mut queued: Queued, closing: Closing<Failed>, mut done: Vec<(usize, String)>) {
        let id = queued.id;
        let (mut again, mut tried) = (closing.again, closing.tried);
        if !closing.failures.is_empty() {
            match self.report(&queued, &closing.failures) {
                Ok(()) => done.extend(
                    closing
                        .failures
                        .into_iter()
                        .map(|f| (f.index, f.failure.diagnostic)),
                ),
                Err(e) => {
                    log::error!(
                        "could not store the report about id={id}, trying again later: {e}"
                    );
                    (again, tried) = (None, true);
                }
            }
        }
        let finished = |(index, r): (usize, &crate::store::spool::Recipient)| {
            r.state == State::Done || done.iter().any(|(d, _)| *d == index)
        };
        let all_finished = queued.recipients.iter().enumerate().all(finished);
        if all_finished {
            let recycled = queued.recycle();
            if let Err((mut queued, e)) = recycled {
                // Should it be there still, the next start finds it, finished.
                log::error!(
                    "spool: cannot remove, or not durably, a finished message id={id}: {e}"
                );
                self.record(&mut queued, &done);
                return self.desk.board().plan.forget(id);
            }
            self.desk.board().plan.forget(id);
            if matches!(recycled, Ok(true)) {
                // The scheduler is to purge. After the board was had, so that it cannot just have looked.
                self.desk.notify();
            }
            return;
        }
        self.record(&mut queued, &done);
        let tries = queued.tries.saturating_add(u32::from(tried));
        let now = self.desk.now();
        let again = again.unwrap_or_else(|| {
            now + millis(
                self.outside
                    .settings()
                    .back_off
                    .wait(tries.max(1), jitter()),
            )
        });
        let next_try = SystemTime::now() + Duration::from_millis(again.saturating_sub(now));
        if let Err(e) = queued.defer(tries, next_try) {
            log::error!("spool: cannot set the next try id={id}: {e}");
        }
        self.desk.board().plan.schedule(id, again);
        self.desk.notify();
    }

    /// Records recipients as finished, durably.
    fn record(&self, queued: &mut Queued, done: &[(usize, String)]) {
        let fates: Vec<_> = done
            .iter()
            .map(|(index, answer)| (*index, answer.as_str()))
            .collect();
        if !fates.is_empty()
            && let Err(e) = queued.finish(&fates)
        {
            log::error!(
                "spool: cannot record a delivery, it will be repeated id={}: {e}",
                queued.id
            );
        }
    }

    /// Tells the sender, durably; nobody if the sender is `<>`.
    fn report(&self, queued: &Queued, failures: &[Failed]) -> std::io::Result<()> {
        let id = queued.id;
        let sent = match &queued.from {
            ReversePath::Null => "report=none".to_owned(),
            ReversePath::Mailbox(sender) => {
                let origin = match queued.origin {
                    Origin::Inside => Origin::Inside,
                    Origin::Outside | Origin::Report => Origin::Report,
                };
                let plain: Vec<Failure> = failures.iter().map(|f| f.failure.clone()).collect();
                let content = bounce::compose(&Report {
                    hostname: &self.outside.settings().hostname,
                    to: sender,
                    id,
                    received: queued.received,
                    now: SystemTime::now(),
                    failures: &plain,
                    original: &header(&queued.body()?),
                });
                let report = self
                    .outside
                    .submit(&ForwardPath(sender.clone()), content, origin)?;
                format!("report={report}")
            }
        };
        for Failed { index, failure } in failures {
            let recipient = &queued.recipients[*index];
            log::info!(
                "bounced id={id} to={}{} {sent} answer={}",
                recipient.to,
                recipient.log_orig_to(),
                Escaped(&failure.diagnostic)
            );
        }
        Ok(())
    }
}

/// The header of a message, its empty line left out; cut if it is very long.
fn header(body: &Body) -> Vec<u8> {
    let mut head = vec![
        0;
        usize::try_from(body.len())
            .unwrap_or(usize::MAX)
            .min(HEADER_READ)
    ];
    let mut filled = 0;
    while let Ok(n @ 1..) = body.read_at(filled as u64, &mut head[filled..]) {
        filled += n;
    }
    head.truncate(filled);
    if let Some(end) = memchr::memmem::find(&head, b"\n\n") {
        head.truncate(end + 1);
    }
    head
}

fn stamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "?".into(), |t| format!("{t:.0}"))
}
