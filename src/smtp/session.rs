//! The receiver: state x command -> reply, next state (RFC 788 sections 3, 4.1.1 and 4.3).
//!
//! ```text
//!               HELO     MAIL     RCPT       DATA       RSET      NOOP  QUIT
//!  Connected    Greeted  503      503        503        250       250   221
//!  Greeted      Greeted  Mailing  503        503        250       250   221
//!  Mailing      Greeted  Mailing  recipient  Receiving  Greeted   250   221
//!  Receiving    (mail data; `take` and `finish` lead back to Greeted)
//! ```
//!
//! * Every line gets exactly one reply. Syntax is judged before state; a faulty line changes nothing.
//! * DATA without an accepted recipient is `503`, and the transaction goes on.
//! * The 20th error in a row is answered `421` and ends the session. An error is any 4yz or 5yz reply, but
//!   for the `552` to one recipient too many: it neither counts nor resets, because a client with a long
//!   list does nothing wrong.
//! * The session decides nothing about recipients or storage: its driver does, and tells it.

use super::address::{ForwardPath, Host, ReversePath};
use super::command::{Command, is_http};
use super::reply::Reply;
use std::mem;

/// The error in a row that ends the session: enough for a person who mistypes, few for a machine.
pub const ERRORS_MAX: u32 = 20;

/// What the session's driver does next. Exhaustive on purpose: a driver that overlooks a step leaves its client waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it, go on.
    Reply(Reply),
    /// HELO was accepted: send the reply, drop what a transaction collected.
    Greeted(Reply),
    /// A transaction begins: send the reply, drop what an earlier one collected.
    Begin(Reply),
    /// Decide on this recipient, then call [`Session::recipient`].
    Recipient(ForwardPath),
    /// RSET: send the reply, drop what a transaction collected.
    Reset(Reply),
    /// Send the `354`, call [`Session::take`], read mail data to its end, then call [`Session::finish`].
    Data(Reply),
    /// Send, then close.
    Close(Reply),
}

impl Step {
    /// The reply to send now; only [`Step::Recipient`] has none.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Step::Recipient(_) => None,
            Step::Reply(reply)
            | Step::Greeted(reply)
            | Step::Begin(reply)
            | Step::Reset(reply)
            | Step::Data(reply)
            | Step::Close(reply) => Some(reply),
        }
    }
}

/// The decision on one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// `250`.
    Accept,
    /// `251`: taken, and sent on to this path.
    Forward(ForwardPath),
    /// `550`.
    NoSuchUser,
    /// `550`.
    RelayDenied,
    /// `451`: it cannot be decided now.
    TryLater,
}

/// How the end of mail data is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// `250`: every recipient's copy is on stable storage, under this id.
    Stored(String),
    /// `451`.
    LocalError,
    /// `452`.
    NoSpace,
    /// `552`.
    TooLarge,
    /// `554`: a bare CR or LF.
    BareLineEnd,
    /// `554`: too many trace lines.
    Loop,
}

/// What a transaction collected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transaction {
    /// The host that the client says it is.
    pub helo: Host,
    /// Where failures are reported.
    pub from: ReversePath,
    /// The accepted recipients, as the client named them, repeats included.
    pub to: Vec<ForwardPath>,
}

/// The receiver's side of one connection.
#[derive(Debug)]
pub struct Session {
    hostname: Host,
    max_recipients: usize,
    state: State,
    /// Errors in a row.
    errors: u32,
    /// No line has come yet.
    fresh: bool,
}

#[derive(Debug)]
enum State {
    Connected,
    Greeted { helo: Host },
    Mailing(Transaction),
    Receiving(Transaction),
}

impl Session {
    /// A session that has just been connected; `hostname` is ours.
    pub fn new(hostname: Host, max_recipients: usize) -> Session {
        Session {
            hostname,
            max_recipients,
            state: State::Connected,
            errors: 0,
            fresh: true,
        }
    }

    /// A new limit, for the RCPTs to come.
    pub fn set_max_recipients(&mut self, n: usize) {
        self.max_recipients = n;
    }

    /// The `220` that opens the session.
    pub fn greeting(&self) -> Reply {
        Reply::ready(&self.hostname)
    }

    /// The reverse-path of the transaction under way.
    pub fn reverse_path(&self) -> Option<&ReversePath> {
        match &self.state {
            State::Mailing(transaction) | State::Receiving(transaction) => Some(&transaction.from),
            State::Connected | State::Greeted { .. } => None,
        }
    }

    /// Whether a transaction is under way: MAIL was accepted and mail data has not ended.
    pub fn in_transaction(&self) -> bool {
        matches!(self.state, State::Mailing(_) | State::Receiving(_))
    }

    /// One command line without its end; `fault` as [`super::line::LineStep`] has it.
    pub fn line(&mut self, line: &[u8], fault: bool) -> Step {
        self.take(); // a driver that never took it has dropped it
        if mem::take(&mut self.fresh) && is_http(line) {
            return Step::Close(Reply::not_http(&self.hostname));
        }
        if fault {
            return self.answer(Reply::bad_line(), Step::Reply);
        }
        match Command::parse(line) {
            Ok(command) => self.command(command),
            Err(reply) => self.answer(reply, Step::Reply),
        }
    }

    /// The answer to [`Step::Recipient`]. (May itself be the 20th error in a row: then [`Step::Close`].)
    pub fn recipient(&mut self, to: ForwardPath, verdict: Verdict) -> Step {
        let State::Mailing(transaction) = &mut self.state else {
            return self.answer(Reply::need_mail(), Step::Reply);
        };
        let reply = match verdict {
            Verdict::Accept => Reply::ok(),
            Verdict::Forward(path) => Reply::will_forward(&path),
            Verdict::NoSuchUser => Reply::no_such_user(),
            Verdict::RelayDenied => Reply::relay_denied(),
            Verdict::TryLater => Reply::local_error(),
        };
        if !reply.is_error() {
            transaction.to.push(to);
        }
        self.answer(reply, Step::Reply)
    }

    /// After [`Step::Data`]: the transaction, for the message's envelope. The session is greeted again.
    pub fn take(&mut self) -> Option<Transaction> {
        match mem::replace(&mut self.state, State::Connected) {
            State::Receiving(transaction) => {
                let helo = transaction.helo.clone();
                self.state = State::Greeted { helo };
                Some(transaction)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// After the end of mail data.
    pub fn finish(&mut self, outcome: Outcome) -> Step {
        self.take();
        let reply = match outcome {
            Outcome::Stored(id) => Reply::stored(id),
            Outcome::LocalError => Reply::local_error(),
            Outcome::NoSpace => Reply::no_space(),
            Outcome::TooLarge => Reply::too_large(),
            Outcome::BareLineEnd => Reply::bare_line_end(),
            Outcome::Loop => Reply::mail_loop(),
        };
        self.answer(reply, Step::Reply)
    }

    /// The table. `line` has left no `Receiving` behind.
    fn command(&mut self, command: Command) -> Step {
        use State::{Connected, Greeted, Mailing, Receiving};
        match (command, mem::replace(&mut self.state, Connected)) {
            (Command::Helo(helo), _) => {
                self.state = Greeted { helo };
                self.answer(Reply::hello(&self.hostname), Step::Greeted)
            }
            (Command::Mail(_), Connected) => self.answer(Reply::need_helo(), Step::Reply),
            (
                Command::Mail(from),
                Greeted { helo }
                | Mailing(Transaction { helo, .. })
                | Receiving(Transaction { helo, .. }),
            ) => {
                let to = Vec::new();
                self.state = Mailing(Transaction { helo, from, to });
                self.answer(Reply::ok(), Step::Begin)
            }
            (Command::Rcpt(to), Mailing(transaction)) => {
                let full = transaction.to.len() >= self.max_recipients;
                self.state = Mailing(transaction);
                if full {
                    return Step::Reply(Reply::too_many_recipients()); // not an error in a row
                }
                Step::Recipient(to)
            }
            (Command::Data, Mailing(transaction)) if transaction.to.is_empty() => {
                self.state = Mailing(transaction);
                self.answer(Reply::need_rcpt(), Step::Reply)
            }
            (Command::Data, Mailing(transaction)) => {
                self.state = Receiving(transaction);
                self.answer(Reply::start_mail_input(), Step::Data)
            }
            (Command::Rcpt(_) | Command::Data, Connected) => {
                self.answer(Reply::need_helo(), Step::Reply)
            }
            (Command::Rcpt(_) | Command::Data, state) => {
                self.state = state;
                self.answer(Reply::need_mail(), Step::Reply)
            }
            (Command::Rset, Connected) => self.answer(Reply::ok(), Step::Reset),
            (
                Command::Rset,
                Greeted { helo }
                | Mailing(Transaction { helo, .. })
                | Receiving(Transaction { helo, .. }),
            ) => {
                self.state = Greeted { helo };
                self.answer(Reply::ok(), Step::Reset)
            }
            (Command::Noop, state) => {
                self.state = state;
                self.answer(Reply::ok(), Step::Reply)
            }
            (Command::Quit, _) => Step::Close(Reply::closing(&self.hostname)),
        }
    }

    /// Counts errors in a row.
    fn answer(&mut self, reply: Reply, step: fn(Reply) -> Step) -> Step {
        if !reply.is_error() {
            self.errors = 0;
            return step(reply);
        }
        self.errors += 1;
        if self.errors >= ERRORS_MAX {
            return Step::Close(Reply::too_many_errors(&self.hostname));
        }
        step(reply)
    }
}
