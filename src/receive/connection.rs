//! One client from greeting to goodbye: drives the pure session over the wire.
//!
//! A function that reads from the top: input is cut into command lines, the session answers each, and after `354`
//! mail data goes to the message until its end. Replies to pipelined commands leave together, before the next read.
//! Whatever happens once mail data has begun, the reply comes after its end. A client that drops mid-message leaves
//! nothing behind: the message exists only here.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, debug, info, log_enabled, warn};

use crate::message::escape::Escaped;
use crate::message::{BodyWriter, Envelope, Message};
use crate::receive::handler::{Client, Handler, Refusal, Settings};
use crate::receive::limits::Permit;
use crate::receive::wire::Wire;
use crate::smtp::address::ForwardPath;
use crate::smtp::data::DataReader;
use crate::smtp::line::{LineEnd, LineReader, LineStep};
use crate::smtp::reply::Reply;
use crate::smtp::session::{Outcome, Session, Step, Transaction, Verdict};

/// More trace lines than this in a header are a mail loop (RFC 5321 6.3 asks for 100 at least).
const MAX_HOPS: usize = 100;
/// A client must keep up this rate over a whole message, in octets a second, beyond one CLIENT_TIMEOUT.
const MIN_RATE: u64 = 500;
/// `.` CR LF, the most that ends mail data without being part of it, in octets.
const END_OF_DATA: u64 = 3;
/// After the last reply, how long the client may take to see it.
const LINGER: Duration = Duration::from_secs(2);

/// Why a conversation ends without QUIT.
enum End {
    /// Say this, and close.
    Say(Reply),
    /// The client is gone.
    Gone,
}

/// One client's conversation.
pub struct Connection<'a, H: Handler> {
    handler: &'a H,
    settings: Arc<Settings>,
    client: Client,
    place: Permit<'a>,
    wire: Wire<'a>,
    lines: LineReader,
    session: Session,
    transaction: Option<H::Transaction>,
    /// The command being answered, for the log.
    shown: String,
}

impl<'a, H: Handler> Connection<'a, H> {
    pub fn new(
        handler: &'a H,
        settings: Arc<Settings>,
        client: Client,
        place: Permit<'a>,
        wire: Wire<'a>,
    ) -> Self {
        let session = Session::new(settings.hostname.clone(), settings.max_recipients);
        let lines = LineReader::default();
        Connection {
            handler,
            settings,
            client,
            place,
            wire,
            lines,
            session,
            transaction: None,
            shown: String::new(),
        }
    }

    /// Serves the client to the end.
    pub fn run(mut self) {
        let peer = self.client.peer;
        info!("connect client={peer}");
        let greeting = self.session.greeting();
        let end = match self.say(&greeting) {
            Ok(()) => self.converse(),
            Err(end) => end,
        };
        self.transaction = None;
        let polite = self.place.leave();
        if let End::Say(reply) = end {
            self.log_reply(&reply);
            let linger = if polite { LINGER } else { Duration::ZERO };
            let wait = self.settings.timeout();
            if self.wire.reply(&reply, wait).is_ok() {
                self.wire.close(wait, linger);
            }
        }
        info!("disconnect client={peer}");
    }

    fn converse(&mut self) -> End {
        loop {
            if let Err(end) = self.command().and_then(|step| self.act(step)) {
                return end;
            }
        }
    }

    /// Waits for one command line and passes it to the session.
    fn command(&mut self) -> Result<Step, End> {
        let mut deadline = None;
        loop {
            match self.lines.next(self.wire.buffered()) {
                LineStep::Line { line, used, fault } => {
                    if self.place.is_stopping() {
                        return Err(End::Say(Reply::stopping(&self.settings.hostname)));
                    }
                    self.shown.clear();
                    if log_enabled!(Level::Debug) {
                        self.shown = format!(" command={}", Escaped(line));
                    }
                    let step = self.session.line(line, fault);
                    self.wire.consume(used);
                    return Ok(step);
                }
                LineStep::More { used } => {
                    self.wire.consume(used);
                    self.wait(&mut deadline)?;
                }
            }
        }
    }

    /// Waits for input, for a timeout or until `deadline`, which is set if there is none.
    fn wait(&mut self, deadline: &mut Option<Instant>) -> Result<(), End> {
        let wait = self.settings.timeout();
        let going_on = self.place.begin_wait();
        let result = if going_on {
            self.wire.fill(wait, deadline)
        } else {
            Ok(0)
        };
        self.place.end_wait();
        match result {
            Ok(0) if self.place.is_stopping() => {
                Err(End::Say(Reply::stopping(&self.settings.hostname)))
            }
            Ok(0) => Err(End::Gone),
            Ok(_) => Ok(()),
            Err(error) => Err(self.ended_by(&error)),
        }
    }

    fn ended_by(&self, error: &io::Error) -> End {
        match error.kind() {
            io::ErrorKind::TimedOut => End::Say(Reply::timeout(&self.settings.hostname)),
            _ => End::Gone,
        }
    }

    fn act(&mut self, step: Step) -> Result<(), End> {
        match step {
            Step::Reply(reply) => self.say(&reply),
            Step::Greeted(reply) => {
                self.transaction = None;
                self.refresh();
                self.say(&reply)
            }
            Step::Reset(reply) => {
                self.transaction = None;
                self.say(&reply)
            }
            Step::Begin(reply) => {
                self.refresh();
                self.transaction = (self.session.reverse_path())
                    .map(|from| self.handler.begin(&self.client, from));
                self.say(&reply)
            }
            Step::Recipient(to) => {
                let step = self.recipient(to);
                self.act(step)
            }
            Step::Data(reply) => {
                self.say(&reply)?;
                self.shown.clear();
                let outcome = self.data()?;
                let step = self.session.finish(outcome);
                if let Step::Reply(reply) | Step::Close(reply) = &step
                    && reply.is_error()
                {
                    self.log_rejected(None, reply);
                }
                self.act(step)
            }
            Step::Close(reply) => Err(End::Say(reply)),
        }
    }

    fn recipient(&mut self, to: ForwardPath) -> Step {
        let verdict = match &mut self.transaction {
            Some(transaction) => self.handler.recipient(&self.client, transaction, &to),
            None => Verdict::TryLater, // the session asks only inside a transaction
        };
        let refused = match verdict {
            Verdict::Accept | Verdict::Forward(_) => None,
            Verdict::NoSuchUser | Verdict::RelayDenied | Verdict::TryLater => Some(to.clone()),
        };
        let step = self.session.recipient(to, verdict);
        if let Step::Reply(reply) | Step::Close(reply) = &step
            && reply.is_error()
        {
            self.log_rejected(refused.as_ref(), reply);
        }
        step
    }

    /// Reads mail data to its end, whatever went wrong before, and has it stored.
    fn data(&mut self) -> Result<Outcome, End> {
        let begun = Instant::now();
        let settings = Arc::clone(&self.settings);
        let wait = settings.timeout();
        let (kept, transaction) = (self.transaction.take(), self.session.take());
        let mut reader = DataReader::new(self.lines.end().unwrap_or(LineEnd::CrLf));
        let mut body = Some(BodyWriter::new(&settings.spill_dir));
        let mut size = 0;
        loop {
            let mut keep = |piece: &[u8]| {
                if let Some(body) = &mut body {
                    body.push(piece);
                }
            };
            let progress = reader.feed(self.wire.buffered(), &mut keep);
            self.wire.consume(progress.used);
            size += progress.used as u64;
            if size > settings.max_message_size.saturating_add(END_OF_DATA) {
                body = None;
            }
            if progress.done {
                if size - reader.ending() as u64 > settings.max_message_size {
                    body = None;
                }
                break;
            }
            let deadline = begun + wait + Duration::from_secs(size / MIN_RATE);
            match self.wire.fill(wait, &mut Some(deadline)) {
                Ok(0) => return Err(End::Gone),
                Ok(_) => {}
                Err(error) => return Err(self.ended_by(&error)),
            }
        }
        if reader.is_bad() {
            return Ok(Outcome::BareLineEnd);
        }
        let Some(body) = body else {
            return Ok(Outcome::TooLarge);
        };
        if body.hops() > MAX_HOPS {
            return Ok(Outcome::Loop);
        }
        let (Some(kept), Some(transaction)) = (kept, transaction) else {
            return Ok(Outcome::LocalError); // the session gives 354 only with both
        };
        let body = match body.finish() {
            Ok(body) => body,
            Err(error) => {
                warn!(
                    "cannot keep a message in {}: {error}",
                    settings.spill_dir.display()
                );
                return Ok(outcome_of(Refusal::from(&error)));
            }
        };
        let Transaction { helo, from, to } = transaction;
        let envelope = Envelope::new(helo, self.client.peer.ip(), from, to);
        let id = envelope.id;
        match self
            .handler
            .message(&self.client, kept, Message::new(envelope, body))
        {
            Ok(()) => Ok(Outcome::Stored(id.to_string())),
            Err(refusal) => Ok(outcome_of(refusal)),
        }
    }

    /// New users, networks and limits are seen from here on.
    fn refresh(&mut self) {
        self.settings = self.handler.settings();
        self.session
            .set_max_recipients(self.settings.max_recipients);
    }

    fn say(&mut self, reply: &Reply) -> Result<(), End> {
        self.log_reply(reply);
        self.wire
            .reply(reply, self.settings.timeout())
            .map_err(|_| End::Gone)
    }

    fn log_reply(&self, reply: &Reply) {
        debug!(
            "reply client={}{} answer={reply}",
            self.client.peer, self.shown
        );
    }

    fn log_rejected(&self, to: Option<&ForwardPath>, reply: &Reply) {
        let peer = self.client.peer;
        match (to, self.session.reverse_path()) {
            (Some(to), Some(from)) => {
                info!("rejected client={peer} from={from} to={to} answer={reply}");
            }
            _ => info!("rejected client={peer} answer={reply}"),
        }
    }
}

fn outcome_of(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::NoSpace => Outcome::NoSpace,
        Refusal::LocalError => Outcome::LocalError,
    }
}
