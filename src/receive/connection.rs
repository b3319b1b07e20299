//! One client from greeting to goodbye: drives the pure session over the wire.
//!
//! A function that reads from the top: input is cut into command lines, the session answers each, and after `354`
//! mail data goes to the message until its end. Replies to pipelined commands leave together, before the next read.
//! A client that drops mid-message leaves nothing behind: the message exists only here.
//!
//! What a client cannot do for ever: take time outside mail data ([`PATIENCE`]; a stored message renews it, as it does
//! the session's budget), be slow in it ([`MIN_RATE`]), or go on with data that is refused already (as much again as a
//! message may have). Short of that the reply to mail data comes after its end, whatever went wrong in it.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, debug, info, log_enabled, warn};

use crate::message::escape::Escaped;
use crate::message::{Body, BodyWriter, Envelope, Message};
use crate::receive::handler::{Client, Handler, Refusal, Settings};
use crate::receive::limits::Permit;
use crate::receive::wire::Wire;
use crate::smtp::address::ForwardPath;
use crate::smtp::data::DataReader;
use crate::smtp::line::{LineEnd, LineReader, LineStep};
use crate::smtp::reply::{Reply, closing};
use crate::smtp::session::{Outcome, Session, Step, Transaction, Verdict};

/// More trace lines than this in a header are a mail loop (RFC 5321 6.3 asks for 100 at least).
const MAX_HOPS: usize = 100;
/// A client must keep up this rate over a whole message, in octets a second, beyond one CLIENT_TIMEOUT.
const MIN_RATE: u64 = 500;
/// How many CLIENT_TIMEOUTs a client may spend outside mail data without a stored message.
const PATIENCE: u32 = 4;
/// `.` CR LF, the most that ends mail data without being part of it, in octets.
const END_OF_DATA: u64 = 3;
/// Refusals of one session that have a line of their own in the log.
const LOGGED: usize = 20;

/// How a connection ends.
enum End {
    /// Say this, and close.
    Say(Reply),
    /// The client is gone, for this reason.
    Gone(String),
}

/// One client's connection.
pub struct Connection<'a, H: Handler> {
    handler: &'a H,
    settings: Arc<Settings>,
    client: Client,
    permit: Permit<'a>,
    wire: Wire<'a>,
    lines: LineReader,
    session: Session,
    transaction: Option<H::Transaction>,
    /// When the time outside mail data is spent.
    spent_at: Instant,
    /// The command being answered, for the log.
    shown: String,
    /// The message or the recipient being answered, for the log.
    about: String,
    refusals: usize,
}

impl<'a, H: Handler> Connection<'a, H> {
    pub fn new(
        handler: &'a H,
        settings: Arc<Settings>,
        client: Client,
        permit: Permit<'a>,
        wire: Wire<'a>,
    ) -> Self {
        Connection {
            handler,
            client,
            permit,
            wire,
            lines: LineReader::default(),
            session: Session::new(settings.hostname.clone(), settings.max_recipients),
            transaction: None,
            spent_at: Instant::now() + settings.timeout() * PATIENCE,
            shown: String::new(),
            about: String::new(),
            refusals: 0,
            settings,
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
        let linger = self.permit.leave();
        let reason = match end {
            End::Say(reply) => {
                self.log_reply(&reply);
                // A client that did not take what was said before has had its time.
                let wait = match reply.why() {
                    Some(closing::TIMEOUT) => linger,
                    _ => self.settings.timeout(),
                };
                if self.wire.reply(&reply, wait).is_ok() {
                    self.wire.close(wait, linger);
                }
                reply.why().map(str::to_owned)
            }
            End::Gone(reason) => Some(reason),
        };
        let more = match self.refusals.saturating_sub(LOGGED) {
            0 => String::new(),
            more => format!(" further_rejected={more}"),
        };
        let reason = reason.map_or_else(String::new, |reason| format!(" reason={reason}"));
        info!("disconnect client={peer}{more}{reason}");
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
                    if self.permit.is_stopping() {
                        return Err(self.unavailable(closing::STOPPING));
                    }
                    // Lines that came together are answered without a wait, as slowly as their replies are taken.
                    if Instant::now() >= self.spent_at {
                        return Err(self.unavailable(closing::TIMEOUT));
                    }
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
        deadline.get_or_insert_with(|| self.spent_at.min(Instant::now() + wait));
        let going_on = self.permit.begin_wait();
        let result = if going_on {
            self.wire.fill(wait, deadline)
        } else {
            Ok(0)
        };
        self.permit.end_wait();
        match result {
            Ok(0) if self.permit.is_stopping() => Err(self.unavailable(closing::STOPPING)),
            result => self.filled(result, ""),
        }
    }

    /// What a read tells; `place` says where in the session it was.
    fn filled(&self, read: io::Result<usize>, place: &str) -> Result<(), End> {
        match read {
            Ok(0) => Err(End::Gone(format!("closed by the client{place}"))),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(self.unavailable(closing::TIMEOUT))
            }
            Err(error) => Err(End::Gone(format!("{error}{place}"))),
        }
    }

    fn unavailable(&self, why: &'static str) -> End {
        End::Say(Reply::unavailable(&self.settings.hostname, why))
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
            Step::Data(reply, transaction) => {
                self.say(&reply)?;
                let step = self.message(transaction)?;
                self.act(step)
            }
            Step::Close(reply) => Err(End::Say(reply)),
        }
    }

    fn recipient(&mut self, to: ForwardPath) -> Step {
        let verdict = match &mut self.transaction {
            Some(kept) if self.session.has_room() => {
                self.handler.recipient(&self.client, kept, &to)
            }
            _ => Verdict::TooMany,
        };
        if !matches!(verdict, Verdict::Accept | Verdict::Forward(_))
            && let Some(from) = self.session.reverse_path()
        {
            let _ = write!(self.about, " from={from} to={to}"); // into a String: cannot fail
        }
        self.session.recipient(to, verdict)
    }

    /// Reads a message and has it stored.
    fn message(&mut self, transaction: Transaction) -> Result<Step, End> {
        let begun = Instant::now();
        let Transaction { helo, from, to } = transaction;
        let mut envelope = Envelope::new(helo, self.client.peer.ip(), from, to);
        let id = envelope.id;
        let _ = write!(self.about, " id={id} from={}", envelope.from);
        let body = self.mail_data(begun)?;
        envelope.received = SystemTime::now();
        let outcome = match (body, self.transaction.take()) {
            (Ok(body), Some(kept)) => {
                let message = Message::new(envelope, body);
                match self.handler.message(&self.client, kept, message) {
                    Ok(()) => Outcome::Stored(id.to_string()),
                    Err(refusal) => outcome_of(refusal),
                }
            }
            (Ok(_), None) => Outcome::LocalError, // MAIL began it
            (Err(outcome), _) => outcome,
        };
        self.spent_at = match outcome {
            Outcome::Stored(_) => Instant::now() + self.settings.timeout() * PATIENCE,
            _ => self.spent_at + begun.elapsed(),
        };
        Ok(self.session.finish(outcome))
    }

    /// Reads mail data to its end, which began at `begun`; or what is wrong with it.
    fn mail_data(&mut self, begun: Instant) -> Result<Result<Body, Outcome>, End> {
        let settings = Arc::clone(&self.settings);
        let (wait, most) = (settings.timeout(), settings.max_message_size);
        let mut reader = DataReader::new(self.lines.end().unwrap_or(LineEnd::CrLf));
        let mut body = Ok(BodyWriter::new(&settings.spill_dir));
        let (mut size, mut last) = (0, u64::MAX);
        loop {
            let mut keep = |piece: &[u8]| {
                if let Ok(body) = &mut body {
                    body.push(piece);
                }
            };
            let progress = reader.feed(self.wire.buffered(), &mut keep);
            self.wire.consume(progress.used);
            size += progress.used as u64;
            let end = if progress.done {
                reader.ending() as u64
            } else {
                END_OF_DATA
            };
            let fault = match &body {
                _ if reader.is_bad() => Some(Outcome::BareLineEnd),
                _ if size.saturating_sub(end) > most => Some(Outcome::TooLarge),
                Ok(body) if body.hops() > MAX_HOPS => Some(Outcome::Loop),
                Ok(body) => body.error().map(|error| {
                    let (peer, dir) = (self.client.peer, settings.spill_dir.display());
                    warn!("cannot keep mail data in {dir} client={peer}: {error}");
                    outcome_of(Refusal::from(error))
                }),
                Err(_) => None,
            };
            if let Some(fault) = fault {
                if body.is_ok() {
                    last = size.saturating_add(most);
                }
                body = Err(fault);
            }
            if progress.done {
                let refused = |error| outcome_of(Refusal::from(&error));
                return Ok(body.and_then(|body| body.finish().map_err(refused)));
            }
            if size > last {
                return Err(self.unavailable(closing::DATA));
            }
            let deadline = begun + wait + Duration::from_secs(size / MIN_RATE);
            let read = self.wire.fill(wait, &mut Some(deadline));
            self.filled(read, " in mail data")?;
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
        let said = self.wire.reply(reply, self.settings.timeout());
        said.map_err(|error| match error.kind() {
            // The same word whether it sends nothing or takes nothing.
            io::ErrorKind::TimedOut => End::Gone(closing::TIMEOUT.to_owned()),
            _ => End::Gone(error.to_string()),
        })
    }

    fn log_reply(&mut self, reply: &Reply) {
        let peer = self.client.peer;
        debug!("reply client={peer}{} answer={reply}", self.shown);
        if reply.is_error() {
            self.refusals += 1;
            if self.refusals <= LOGGED {
                info!("rejected client={peer}{} answer={reply}", self.about);
            }
        }
        // Nothing that is said later is about the same.
        self.shown.clear();
        self.about.clear();
    }
}

fn outcome_of(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::NoSpace => Outcome::NoSpace,
        Refusal::LocalError => Outcome::LocalError,
    }
}
