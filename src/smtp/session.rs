//! The receiver: state x command -> reply, next state (RFC 788 sections 3, 4.1.1 and 4.3).
//!
//! ```text
//!               HELO     MAIL     RCPT       DATA     RSET      NOOP  QUIT
//!  Connected    Greeted  503      503        503      250       250   221
//!  Greeted      Greeted  Mailing  503        503      250       250   221
//!  Mailing      Greeted  Mailing  recipient  Greeted  Greeted   250   221
//! ```
//!
//! * Every line gets exactly one reply. Syntax is judged before state; a faulty line changes nothing.
//! * DATA without an accepted recipient is `503`, and the transaction goes on. Else the driver is given the transaction,
//!   reads the mail data, and says how that ended: [`Session::finish`].
//! * A client has a budget, which only a stored message renews. The reply that would exceed it is `421` instead, and
//!   ends the session:
//!
//!   | counted | the last one |
//!   | --- | --- |
//!   | errors in a row; any other reply begins the row anew | 20th |
//!   | errors | 100th |
//!   | commands other than RCPT and DATA, lines that are none among them | 100th |
//!   | commands of any kind | 2,000th, or twice MAX_RECIPIENTS if that is more |
//!
//!   An error is any 4yz or 5yz reply, but for the `552` to one recipient too many: a client with a long list does
//!   nothing wrong, so this neither counts as an error nor begins the row anew. QUIT is always answered `221`.
//! * A session that opens with an HTTP request line or a header of the PROXY protocol is answered `421`. (The signature
//!   of that protocol's version 2 is two empty lines, which get their `500`, and a line of one NUL.) What follows is
//!   somebody else's text, or the connection somebody else's client.
//! * The session decides nothing about recipients or storage: its driver does, and tells it. The driver also watches
//!   the time.

use super::address::{ForwardPath, Host, ReversePath};
use super::command::{Command, is_http};
use super::reply::{Reply, closing};
use std::mem;

/// The error in a row that ends the session: enough for a person who mistypes, few for a machine.
const ERRORS_IN_A_ROW: u32 = 20;
/// The error that ends the session, however many commands succeed in between.
const ERRORS: u32 = 100;
/// The command other than RCPT and DATA that ends the session.
const OTHER_COMMANDS: u32 = 100;
/// The command that ends the session, unless MAX_RECIPIENTS is larger than half of it.
const COMMANDS: usize = 2000;

/// The lines that a header of the PROXY protocol, version 2, begins with.
const PROXY_V2: [&[u8]; 3] = [b"", b"", b"\0"];

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
    /// Send the `354`, read mail data to its end, then call [`Session::finish`].
    Data(Reply, Transaction),
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
            | Step::Data(reply, _)
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
    /// `550`: the host is an address without its brackets.
    BareAddress,
    /// `552`: the transaction has as many recipients as it may have.
    TooMany,
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
    spent: Spent,
    /// How many lines of [`PROXY_V2`] the session has begun with; `None` once it has begun in another way.
    opening: Option<usize>,
}

#[derive(Debug)]
enum State {
    Connected,
    Greeted { helo: Host },
    Mailing(Transaction),
}

/// What was counted since the start, or since a message was stored.
#[derive(Debug, Default)]
struct Spent {
    errors_in_a_row: u32,
    errors: u32,
    others: u32,
    commands: usize,
}

impl Session {
    /// A session that has just been connected; `hostname` is ours.
    pub fn new(hostname: Host, max_recipients: usize) -> Session {
        Session {
            hostname,
            max_recipients,
            state: State::Connected,
            spent: Spent::default(),
            opening: Some(0),
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
            State::Mailing(transaction) => Some(&transaction.from),
            State::Connected | State::Greeted { .. } => None,
        }
    }

    /// Whether a transaction is under way that may take one more recipient; else none need be decided on.
    pub fn has_room(&self) -> bool {
        matches!(&self.state, State::Mailing(transaction) if transaction.to.len() < self.max_recipients)
    }

    /// One command line without its end; `fault` as [`super::line::LineStep`] has it.
    pub fn line(&mut self, line: &[u8], fault: bool) -> Step {
        if let Some(why) = self.foreign(line) {
            return self.close(why);
        }
        let command = match fault {
            true => Err(Reply::bad_line(line)),
            false => Command::parse(line),
        };
        self.spent.commands += 1;
        let word = line.get(..4).unwrap_or_default();
        let is_other = !(word.eq_ignore_ascii_case(b"RCPT") || word.eq_ignore_ascii_case(b"DATA"));
        self.spent.others += u32::from(is_other);
        let most = COMMANDS.max(self.max_recipients.saturating_mul(2));
        match command {
            Ok(Command::Quit) => Step::Close(Reply::closing(&self.hostname)),
            _ if self.spent.others >= OTHER_COMMANDS || self.spent.commands >= most => {
                self.close(closing::COMMANDS)
            }
            Ok(command) => self.command(command),
            Err(reply) => self.answer(reply, Step::Reply),
        }
    }

    /// Why the session is none of a mail client, as soon as `line` shows it.
    fn foreign(&mut self, line: &[u8]) -> Option<&'static str> {
        let seen = self.opening?;
        self.opening = (PROXY_V2.get(seen) == Some(&line)).then_some(seen + 1);
        match seen {
            0 if is_http(line) => Some(closing::HTTP),
            0 if line.starts_with(b"PROXY ") => Some(closing::PROXY),
            2 if self.opening.is_some() => Some(closing::PROXY),
            _ => None,
        }
    }

    /// The answer to [`Step::Recipient`]. (May exceed the budget: then it is [`Step::Close`].)
    pub fn recipient(&mut self, to: ForwardPath, verdict: Verdict) -> Step {
        let verdict = if self.has_room() {
            verdict
        } else {
            Verdict::TooMany
        };
        let State::Mailing(transaction) = &mut self.state else {
            return self.answer(Reply::need_mail(), Step::Reply);
        };
        let reply = match verdict {
            Verdict::Accept => Reply::ok(),
            Verdict::Forward(path) => Reply::will_forward(&path),
            Verdict::NoSuchUser => Reply::no_such_user(),
            Verdict::RelayDenied => Reply::relay_denied(),
            Verdict::BareAddress => Reply::bare_address(to.host()),
            Verdict::TooMany => return Step::Reply(Reply::too_many_recipients()),
            Verdict::TryLater => Reply::local_error(),
        };
        if !reply.is_error() {
            transaction.to.push(to);
        }
        self.answer(reply, Step::Reply)
    }

    /// After [`Step::Data`]: how its mail data ended.
    pub fn finish(&mut self, outcome: Outcome) -> Step {
        let reply = match outcome {
            Outcome::Stored(id) => {
                self.spent = Spent::default();
                Reply::stored(id)
            }
            Outcome::LocalError => Reply::local_error(),
            Outcome::NoSpace => Reply::no_space(),
            Outcome::TooLarge => Reply::too_large(),
            Outcome::BareLineEnd => Reply::bare_line_end(),
            Outcome::Loop => Reply::mail_loop(),
        };
        self.answer(reply, Step::Reply)
    }

    /// The table.
    fn command(&mut self, command: Command) -> Step {
        use State::{Connected, Greeted, Mailing};
        match (command, mem::replace(&mut self.state, Connected)) {
            (Command::Helo(helo), _) => {
                self.state = Greeted { helo };
                self.answer(Reply::hello(&self.hostname), Step::Greeted)
            }
            (Command::Mail(from), Greeted { helo } | Mailing(Transaction { helo, .. })) => {
                let to = Vec::new();
                self.state = Mailing(Transaction { helo, from, to });
                self.answer(Reply::ok(), Step::Begin)
            }
            (Command::Rcpt(to), Mailing(transaction)) => {
                self.state = Mailing(transaction);
                Step::Recipient(to)
            }
            (Command::Data, Mailing(transaction)) if transaction.to.is_empty() => {
                self.state = Mailing(transaction);
                self.answer(Reply::need_rcpt(), Step::Reply)
            }
            (Command::Data, Mailing(transaction)) => {
                let helo = transaction.helo.clone();
                self.state = Greeted { helo };
                self.spent.errors_in_a_row = 0;
                Step::Data(Reply::start_mail_input(), transaction)
            }
            (Command::Mail(_) | Command::Rcpt(_) | Command::Data, Connected) => {
                self.answer(Reply::need_helo(), Step::Reply)
            }
            (Command::Rcpt(_) | Command::Data, state) => {
                self.state = state;
                self.answer(Reply::need_mail(), Step::Reply)
            }
            (Command::Rset, state) => {
                if let Greeted { helo } | Mailing(Transaction { helo, .. }) = state {
                    self.state = Greeted { helo };
                }
                self.answer(Reply::ok(), Step::Reset)
            }
            (Command::Noop, state) => {
                self.state = state;
                self.answer(Reply::ok(), Step::Reply)
            }
            (Command::Quit, _) => Step::Close(Reply::closing(&self.hostname)),
        }
    }

    /// Counts errors.
    fn answer(&mut self, reply: Reply, step: fn(Reply) -> Step) -> Step {
        if !reply.is_error() {
            self.spent.errors_in_a_row = 0;
            return step(reply);
        }
        self.spent.errors_in_a_row += 1;
        self.spent.errors += 1;
        if self.spent.errors_in_a_row >= ERRORS_IN_A_ROW || self.spent.errors >= ERRORS {
            return self.close(closing::ERRORS);
        }
        step(reply)
    }

    fn close(&self, why: &'static str) -> Step {
        Step::Close(Reply::unavailable(&self.hostname, why))
    }
}
