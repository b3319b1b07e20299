//! One message in the hands of a worker: what became of its recipients, and with the last delivery the end of the
//! attempt.
//!
//! The order is what keeps mail from being lost: a report is durable before the recipients that it is about are
//! recorded; a record is durable before the next step; the file goes last. A crash between two of them repeats a
//! delivery or a report, and loses none.
//!
//! No mark is ever made in the file of another message, although a mark is two steps (is the name still the file's? then
//! the write) and a finished file is kept for the next message. Only [`Delivery::close`] gives a file away. It is
//! called by the worker that ended the last delivery of the one attempt that a message has at a time, and it owns the
//! only [`Queued`] that is left: the other deliveries have ended in the schedule, and each has dropped its own
//! before that ([`Delivery::end`]); one whose worker panicked was dropped by the unwinding, before the worker gave its
//! delivery back. The scheduler's was dropped before the attempt began.

use crate::message::Body;
use crate::message::escape::Escaped;
use crate::relay::bounce::{self, Failure, Reason, Report};
use crate::relay::client::Fate;
use crate::relay::queue::addresses::Refusal;
use crate::relay::queue::environment::{Destination, Millis, Settings, jitter, millis, now};
use crate::relay::queue::pool::{Shared, Verdict};
use crate::relay::queue::schedule::{Failed, Outcome, Taken, signed};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::store::spool::{Origin, Queued, Recipient, State};
use std::io;
use std::time::SystemTime;

/// Octets of the original that are looked through for its header.
const HEADER_READ: usize = 64 << 10;
/// Nothing expires before it was tried so often, whatever the clock says.
const MIN_TRIES: u32 = 3;

/// A message's recipients on one destination.
pub(crate) struct Delivery {
    pub(crate) queued: Queued,
    /// Where the mail is to go: each path once.
    pub(crate) paths: Vec<ForwardPath>,
    /// Recipients by number, each with the number of its path.
    who: Vec<(usize, usize)>,
    destination: Destination,
    taken: Taken,
}

/// What a delivery's recipients were told.
pub(crate) struct Answers<'a> {
    /// By path; one is for all.
    pub(crate) fates: Vec<Fate>,
    /// The host that said so.
    pub(crate) host: Option<&'a str>,
    /// The destination was not asked, or is left alone now.
    pub(crate) refusal: Option<&'a Refusal>,
}

impl<'a> Answers<'a> {
    pub(crate) fn all(fate: Fate, host: Option<&'a str>) -> Answers<'a> {
        Answers {
            fates: vec![fate],
            host,
            refusal: None,
        }
    }

    pub(crate) fn refused(refusal: &'a Refusal) -> Answers<'a> {
        Answers {
            fates: vec![refusal.fate.clone()],
            host: None,
            refusal: Some(refusal),
        }
    }
}

impl Delivery {
    /// Opens a message for those of its recipients that a worker has taken up. `Err`: that is over already.
    pub(crate) fn load(
        shared: &Shared,
        taken: Taken,
        destination: &Destination,
    ) -> Result<Delivery, Verdict> {
        let queued = match shared.spool.load(taken.id) {
            Ok(Some(queued)) => queued,
            Ok(None) => {
                return Err(Delivery::end(
                    shared,
                    &taken,
                    Outcome::default(),
                    Vec::new(),
                    None,
                ));
            }
            Err(e) => {
                log::error!("spool: cannot read id={}: {e}", taken.id);
                let again = now() + millis(shared.environment.settings().back_off.min);
                let outcome = Outcome {
                    again: Some(again),
                    ..Outcome::default()
                };
                return Err(Delivery::end(shared, &taken, outcome, Vec::new(), None));
            }
        };
        let mut delivery = Delivery {
            queued,
            paths: Vec::new(),
            who: Vec::new(),
            destination: destination.clone(),
            taken,
        };
        delivery.choose();
        Ok(delivery)
    }

    fn choose(&mut self) {
        let (recipients, routes) = (&self.queued.recipients, &self.taken.routes);
        let all = (0..recipients.len()).filter(|_| routes.is_empty());
        let all = all.map(|index| (index, None));
        let some = routes
            .iter()
            .map(|route| (route.index, route.path.as_ref()));
        for (index, path) in all.chain(some) {
            let Some(recipient) = recipients.get(index).filter(|r| r.state == State::Waiting)
            else {
                continue;
            };
            let path = path.unwrap_or(&recipient.to);
            let at = self.paths.iter().position(|known| known == path);
            self.who.push((index, at.unwrap_or(self.paths.len())));
            if at.is_none() {
                self.paths.push(path.clone());
            }
        }
    }

    /// Logs and notes what became of the recipients, and ends the delivery.
    pub(crate) fn finish(mut self, shared: &Shared, answers: &Answers<'_>) -> Verdict {
        let (id, settings) = (self.queued.id, shared.environment.settings());
        let is_tried = self.is_tried(answers);
        let expires = is_tried && self.has_expired(&settings);
        let again = self.again(answers, &settings, is_tried);
        let next = stamp(shared.environment.wall_clock_at(again));
        let (mut done, mut outcome) = (Vec::new(), Outcome::default());
        for (index, path) in std::mem::take(&mut self.who) {
            let shown = self.shown(index, path);
            let fate = answers.fates.get(path).or(answers.fates.last());
            match fate.unwrap_or(&Fate::Later(String::new())) {
                Fate::Delivered(answer) => {
                    match (&self.destination, answers.host) {
                        (Destination::Mailbox(mbox), _) => {
                            log::info!("delivered id={id} {shown} mailbox={}", mbox.display());
                        }
                        (_, host) => log::info!(
                            "relayed id={id} {shown} host={} answer={}",
                            host.unwrap_or_default(),
                            Escaped(answer)
                        ),
                    }
                    done.push((index, answer.clone()));
                }
                Fate::Never(answer) => {
                    let failed = self.failed(index, answer, answers.host, false);
                    outcome.failures.push(failed);
                }
                Fate::Later(answer) if expires => {
                    let failed = self.failed(index, answer, answers.host, true);
                    outcome.failures.push(failed);
                }
                Fate::Later(answer) => {
                    (outcome.tried, outcome.again) = (is_tried, Some(again));
                    log::info!(
                        "deferred id={id} {shown} next={next} answer={}",
                        Escaped(answer)
                    );
                    if let Err(e) = self.queued.note(index, answer) {
                        log::error!("spool: cannot note an answer id={id}: {e}");
                    }
                }
            }
        }
        Delivery::end(shared, &self.taken, outcome, done, Some(self.queued))
    }

    /// A refusal is a try if somebody has called there since the message came in, or was tried last.
    fn is_tried(&self, answers: &Answers<'_>) -> bool {
        let refusal = answers.refusal;
        refusal.is_none_or(|refusal| refusal.since >= self.taken.waits_since)
    }

    fn again(&self, answers: &Answers<'_>, settings: &Settings, is_tried: bool) -> Millis {
        let until = answers.refusal.map_or(0, |refusal| refusal.until);
        let tries = self.queued.tries.saturating_add(1);
        let wait = millis(settings.back_off.wait(tries, jitter()));
        match is_tried {
            true => until.max(now().saturating_add(wait)),
            false => until,
        }
    }

    fn has_expired(&self, settings: &Settings) -> bool {
        let age = signed(now()).saturating_sub(self.taken.received);
        let lifetime = signed(millis(settings.lifetime));
        age >= lifetime && self.queued.tries.saturating_add(1) >= MIN_TRIES
    }

    /// `to=PATH`, and whom the sender named if that is somebody else.
    fn shown(&self, index: usize, path: usize) -> String {
        let (asked, to) = (self.queued.recipients[index].as_sent(), &self.paths[path]);
        let of = self.queued.log_of();
        match asked == to {
            true => format!("to={to}{of}"),
            false => format!("to={to} orig_to={asked}{of}"),
        }
    }

    fn failed(&self, index: usize, answer: &str, host: Option<&str>, expired: bool) -> Failed {
        let reason = match &self.destination {
            Destination::Mailbox(_) => Reason::Mailbox,
            _ if expired => Reason::Expired,
            _ if host.is_some() => Reason::Refused,
            Destination::Nobody => Reason::NoSuchUser,
            Destination::Host(_) | Destination::Report(_) => Reason::Unroutable,
        };
        let recipient = &self.queued.recipients[index];
        let failure = Failure {
            to: recipient.as_sent().clone(),
            forwarded_to: recipient.orig_to.as_ref().map(|_| recipient.to.clone()),
            reason,
            diagnostic: answer.to_owned(),
            remote: host.map(str::to_owned),
        };
        Failed { index, failure }
    }

    /// A delivery has ended. `done` are delivered, yet unrecorded.
    fn end(
        shared: &Shared,
        taken: &Taken,
        outcome: Outcome,
        mut done: Vec<(usize, String)>,
        mut queued: Option<Queued>,
    ) -> Verdict {
        let id = taken.id;
        if taken.alone {
            return match queued {
                Some(queued) => Delivery::close(shared, queued, outcome, done),
                None => outcome.again.map_or(Verdict::Forget, Verdict::Retry),
            };
        }
        // While other deliveries last. From here on this one writes nothing, unless it is the last.
        if !shared.pool.lock().schedule.is_last(id)
            && let Some(mut queued) = queued.take()
        {
            record(shared, &mut queued, &done);
            done.clear();
        }
        let Some(whole) = shared.pool.lock().schedule.end(id, outcome) else {
            return Verdict::Others;
        };
        match (shared.spool.load(id), queued) {
            (Ok(Some(fresh)), _) => Delivery::close(shared, fresh, whole, done),
            (Ok(None), _) => Verdict::Forget,
            // This one misses only what others did, and their records are in the file.
            (Err(_), Some(stale)) => Delivery::close(shared, stale, whole, done),
            (Err(_), None) => Verdict::Retry(whole.again.unwrap_or_else(|| now() + 60_000)),
        }
    }

    /// The end of an attempt: reports, records, and what comes next.
    fn close(
        shared: &Shared,
        mut queued: Queued,
        outcome: Outcome,
        mut done: Vec<(usize, String)>,
    ) -> Verdict {
        let (id, environment) = (queued.id, &shared.environment);
        let (mut again, mut tried) = (outcome.again, outcome.tried);
        match report(shared, &queued, &outcome.failures) {
            Ok(()) => done.extend(
                outcome
                    .failures
                    .into_iter()
                    .map(|f| (f.index, f.failure.diagnostic)),
            ),
            Err(e) => {
                log::error!("could not store the report about id={id}, trying again later: {e}");
                (again, tried) = (None, true);
            }
        }
        let is_finished = |(index, recipient): (usize, &Recipient)| {
            recipient.state == State::Done || done.iter().any(|(d, _)| *d == index)
        };
        if queued.recipients.iter().enumerate().all(is_finished) {
            match environment.recycle(queued) {
                Ok(false) => {}
                // The scheduler is to purge in a while.
                Ok(true) => shared.pool.wake_by(now() + 1_000),
                Err((mut queued, e)) => {
                    // Should it be there still, the next start finds it, finished.
                    log::error!(
                        "spool: cannot remove, or not durably, a finished message id={id}: {e}"
                    );
                    record(shared, &mut queued, &done);
                }
            }
            return Verdict::Forget;
        }
        record(shared, &mut queued, &done);
        let tries = queued.tries.saturating_add(u32::from(tried));
        let again = again.unwrap_or_else(|| {
            let back_off = environment.settings().back_off;
            now() + millis(back_off.wait(tries.max(1), jitter()))
        });
        if let Err(e) = environment.defer(&mut queued, tries, environment.wall_clock_at(again)) {
            log::error!("spool: cannot set the next try id={id}: {e}");
        }
        Verdict::Retry(again)
    }
}

/// Records recipients as finished, durably.
fn record(shared: &Shared, queued: &mut Queued, done: &[(usize, String)]) {
    let done: Vec<_> = done
        .iter()
        .map(|(index, answer)| (*index, answer.as_str()))
        .collect();
    if !done.is_empty()
        && let Err(e) = shared.environment.record(queued, &done)
    {
        let id = queued.id;
        log::error!("spool: cannot record a delivery, it will be repeated id={id}: {e}");
    }
}

/// Tells the sender, durably; nobody if the sender is `<>`.
fn report(shared: &Shared, queued: &Queued, failures: &[Failed]) -> io::Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
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
                hostname: &shared.environment.settings().hostname,
                to: sender,
                id,
                received: queued.received,
                now: SystemTime::now(),
                failures: &plain,
                original: &header(&queued.body()?),
            });
            let to = ForwardPath(sender.clone());
            format!(
                "report={}",
                shared.environment.report(&to, content, origin)?
            )
        }
    };
    for Failed { index, failure } in failures {
        let recipient = &queued.recipients[*index];
        log::info!(
            "bounced id={id} to={}{}{} {sent} answer={}",
            recipient.to,
            recipient.log_orig_to(),
            queued.log_of(),
            Escaped(&failure.diagnostic)
        );
    }
    Ok(())
}

/// The header of a message, its empty line left out; cut if it is very long.
fn header(body: &Body) -> Vec<u8> {
    let len = usize::try_from(body.len()).unwrap_or(usize::MAX);
    let mut head = vec![0; len.min(HEADER_READ)];
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
