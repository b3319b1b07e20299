//! The format of a spool file: write an envelope, read one back. Pure: bytes in, values out.
//!
//! ```text
//! smtpd788 spool 1
//! id: 0001f2e3d4c5b6a7
//! of: 0001f2e3d4c5b6a6                                    (only for a copy with a file of its own: the message)
//! from: <john@example.org>
//! received: 2026-11-21T22:30:01.123Z
//! tries: 0000000003
//! size: 00000000000000001042
//! origin: outside
//! to: waiting <mary@example.net>
//!   orig_to: <mary@example.com>                         (only if mail for her is forwarded to the path above)
//!   answer: mx.example.net said: 451 try later          (200 octets, filled up with spaces)
//! to: done    <fred@example.net>
//!   answer: mx.example.net said: 250 OK
//!
//! Received: from ...                                    (from here: `size` octets, LF-ended)
//! ```
//!
//! The fields that change in a file's life (`tries`, the state after `to:`, the answer) have a fixed
//! width and are written over in place. When to try next is the file's modification time. A file without `origin` is
//! an older one's: nothing is known of its client, so it counts as one from outside.
//!
//! A crash can tear such a write between any two octets. A state is therefore `done` only when all
//! seven octets say so; a mixture of the two words still reads as `waiting`: perhaps a second copy,
//! never a lost one. A torn number of tries is some other number, a torn answer some other text; both
//! are advice.
//!
//! [`parse`] is bounded by the input's length and never panics, whatever the bytes.

use crate::message::Id;
use crate::message::date;
use crate::smtp::address::{ForwardPath, ReversePath};
pub use crate::store::spool::origin::Origin;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::SystemTime;

/// What is read of a file at first, in octets: the envelope and the whole of most mail.
pub(crate) const FIRST_READ: usize = 8 << 10;

/// Octets of an answer that are kept in the file.
pub const ANSWER_WIDTH: usize = 200;

/// No envelope is longer: some 20,000 recipients with addresses of the longest kind. What could not be
/// read back is not written either.
pub const MAX_ENVELOPE: usize = 16 << 20;

const MAGIC: &[u8] = b"smtpd788 spool 1";
const WAITING: &[u8; 7] = b"waiting";
const DONE: &[u8; 7] = b"done   ";
/// Digits of the two numbers; both types at their largest fit.
const TRIES_WIDTH: usize = 10;
const SIZE_WIDTH: usize = 20;
const ANSWER: &str = "  answer: ";
const OF: &str = "of: ";
const ORIGIN: &str = "origin: ";
const ORIG_TO: &str = "  orig_to: ";

/// A recipient of a new message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecipient {
    /// Where the mail goes.
    pub to: ForwardPath,
    /// The user that the sender named, if their mail is forwarded to `to`.
    pub orig_to: Option<ForwardPath>,
}

impl From<ForwardPath> for NewRecipient {
    fn from(to: ForwardPath) -> NewRecipient {
        NewRecipient { to, orig_to: None }
    }
}

/// What the head of a spool file says, and where its changing fields are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The message's id; also the file's name.
    pub id: Id,
    /// The message that this is a copy of, if it has a file of its own beside others.
    pub of: Option<Id>,
    /// Where reports go.
    pub from: ReversePath,
    /// When it was accepted; its lifetime counts from here.
    pub received: SystemTime,
    /// Rounds of delivery that left somebody waiting.
    pub tries: u32,
    /// Octets after the empty line.
    pub size: u64,
    /// Who sent it.
    pub origin: Origin,
    /// Every recipient, in the order of the session; at least one.
    pub recipients: Vec<Recipient>,
    /// Where the digits of `tries` begin.
    pub tries_at: usize,
    /// Where the message begins: the length of the envelope.
    pub body_at: usize,
}

impl Envelope {
    /// ` of=ID` for the log and the listing, if this is a copy with a file of its own.
    pub fn log_of(&self) -> String {
        self.of.map_or_else(String::new, |of| format!(" of={of}"))
    }
}

/// Whether a recipient is still to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet.
    Waiting,
    /// Delivered, or reported to the sender: nothing more to do.
    Done,
}

/// One recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Where the mail goes.
    pub to: ForwardPath,
    /// The user that the sender named, if their mail is forwarded to `to`.
    pub orig_to: Option<ForwardPath>,
    /// As the file has it.
    pub state: State,
    /// The last answer, cut to what the file keeps and without its filling; may be empty.
    pub last_answer: String,
    /// Where the state word begins.
    pub state_at: usize,
    /// Where the answer area begins.
    pub answer_at: usize,
}

impl Recipient {
    /// As the sender wrote it: what a report may name.
    pub fn as_sent(&self) -> &ForwardPath {
        self.orig_to.as_ref().unwrap_or(&self.to)
    }

    /// ` orig_to=<user>` for the log, if the mail is forwarded.
    pub fn log_orig_to(&self) -> String {
        let orig_to = self.orig_to.as_ref();
        orig_to.map_or_else(String::new, |user| format!(" orig_to={user}"))
    }
}

/// Why some bytes are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first line is another one.
    #[error("it does not begin with `smtpd788 spool 1`")]
    Magic,
    /// The bytes end before the empty line; more of the file may help.
    #[error("it ends inside the envelope")]
    Unfinished,
    /// A line is not what it has to be.
    #[error("its `{0}` line is not valid")]
    Line(&'static str),
}

/// The envelope of a new message, nobody done and no try made, as octets and as [`parse`] reads them back. `size`:
/// octets that will follow.
pub fn envelope(
    id: Id,
    of: Option<Id>,
    from: &ReversePath,
    received: SystemTime,
    origin: Origin,
    to: &[NewRecipient],
    size: u64,
) -> (Vec<u8>, Envelope) {
    let mut text = String::with_capacity(192 + to.len() * (ANSWER_WIDTH + 72));
    // Writing to a String cannot fail.
    let received_at = date::iso(received);
    let _ = writeln!(text, "smtpd788 spool 1\nid: {id}");
    if let Some(of) = of {
        let _ = writeln!(text, "{OF}{of}");
    }
    let _ = write!(text, "from: {from}\nreceived: {received_at}\ntries: ");
    let tries_at = text.len();
    let _ = write!(
        text,
        "{:0TRIES_WIDTH$}\nsize: {size:0SIZE_WIDTH$}\n{ORIGIN}{}\n",
        0,
        origin.word()
    );
    let recipient = |NewRecipient { to, orig_to }: &NewRecipient| {
        text.push_str("to: ");
        let state_at = text.len();
        let _ = writeln!(text, "waiting {to}");
        if let Some(orig_to) = orig_to {
            let _ = writeln!(text, "{ORIG_TO}{orig_to}");
        }
        text.push_str(ANSWER);
        let answer_at = text.len();
        text.extend(std::iter::repeat_n(' ', ANSWER_WIDTH));
        text.push('\n');
        Recipient {
            to: to.clone(),
            orig_to: orig_to.clone(),
            state: State::Waiting,
            last_answer: String::new(),
            state_at,
            answer_at,
        }
    };
    let recipients = to.iter().map(recipient).collect();
    text.push('\n');
    let envelope = Envelope {
        id,
        of,
        from: from.clone(),
        received,
        tries: 0,
        size,
        origin,
        recipients,
        tries_at,
        body_at: text.len(),
    };
    (text.into_bytes(), envelope)
}

/// The octets of a state.
pub fn state_field(state: State) -> &'static [u8] {
    match state {
        State::Waiting => WAITING,
        State::Done => DONE,
    }
}

/// The octets of a number of tries.
pub fn tries_field(tries: u32) -> Vec<u8> {
    format!("{tries:0TRIES_WIDTH$}").into_bytes()
}

/// The octets of an answer: printable ASCII, cut or filled up to [`ANSWER_WIDTH`].
pub fn answer_field(answer: &str) -> Vec<u8> {
    let printable = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c as u8
        } else {
            b'?'
        }
    };
    let mut field: Vec<u8> = answer.chars().take(ANSWER_WIDTH).map(printable).collect();
    field.resize(ANSWER_WIDTH, b' ');
    field
}

/// Reads an envelope from the first bytes of a file.
pub fn parse(bytes: &[u8]) -> Result<Envelope, Fault> {
    let mut lines = Lines { bytes, at: 0 };
    if !bytes.starts_with(MAGIC) && !MAGIC.starts_with(bytes) {
        return Err(Fault::Magic);
    }
    if lines.next()? != MAGIC {
        return Err(Fault::Magic);
    }
    let id = lines.field("id", "id: ", Id::parse)?;
    let of = lines.optional("of", OF, Id::parse)?;
    let from = lines.field("from", "from: ", |s| ReversePath::from_str(s).ok())?;
    let received = lines.field("received", "received: ", time)?;
    let tries_at = lines.at + "tries: ".len();
    let tries = lines.field("tries", "tries: ", |s| number(s, TRIES_WIDTH))?;
    let size = lines.field("size", "size: ", |s| number(s, SIZE_WIDTH))?;
    let origin = lines.optional("origin", ORIGIN, Origin::of_word)?;
    let mut recipients = Vec::new();
    loop {
        let start = lines.at;
        let line = lines.next()?;
        if line.is_empty() {
            break;
        }
        let (state, to) = recipient(line).ok_or(Fault::Line("to"))?;
        let orig_to = lines.optional("orig_to", ORIG_TO, |s| s.parse().ok())?;
        let answer_at = lines.at + ANSWER.len();
        let last_answer = lines.field("answer", ANSWER, |s| {
            (s.len() == ANSWER_WIDTH).then(|| s.trim_end_matches(' ').to_owned())
        })?;
        recipients.push(Recipient {
            to,
            orig_to,
            state,
            last_answer,
            state_at: start + "to: ".len(),
            answer_at,
        });
    }
    if recipients.is_empty() {
        return Err(Fault::Line("to"));
    }
    // A torn count may be any ten digits.
    let tries = u32::try_from(tries).unwrap_or(u32::MAX);
    Ok(Envelope {
        id,
        of,
        from,
        received,
        tries,
        size,
        origin: origin.unwrap_or(Origin::Outside),
        recipients,
        tries_at,
        body_at: lines.at,
    })
}

/// The state and the path of `to: waiting <path>`.
fn recipient(line: &[u8]) -> Option<(State, ForwardPath)> {
    let (state, path) = line.strip_prefix(b"to: ")?.split_at_checked(DONE.len())?;
    let mixed = state
        .iter()
        .zip(WAITING)
        .zip(DONE)
        .all(|((is, w), d)| is == w || is == d);
    if !mixed {
        return None;
    }
    let path = std::str::from_utf8(path.strip_prefix(b" ")?).ok()?;
    let state = if state == DONE {
        State::Done
    } else {
        State::Waiting
    };
    Some((state, path.parse().ok()?))
}

fn time(s: &str) -> Option<SystemTime> {
    // Only the form that we write; the parser itself would take many.
    let ours = s.len() == 24 && s.ends_with('Z');
    ours.then(|| jiff::Timestamp::from_str(s).ok().map(SystemTime::from))?
}

fn number(s: &str, width: usize) -> Option<u64> {
    let digits = s.len() == width && s.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| s.parse().ok())?
}

/// The bytes line by line; a line without its LF is unfinished.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a [u8], Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest).ok_or(Fault::Unfinished)?;
        self.at += end + 1;
        Ok(&rest[..end])
    }

    /// The field, if the next line begins like it.
    fn optional<T>(
        &mut self,
        name: &'static str,
        prefix: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.starts_with(prefix.as_bytes()) {
            true => self.field(name, prefix, read).map(Some),
            false => Ok(None),
        }
    }

    fn field<T>(
        &mut self,
        name: &'static str,
        prefix: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        let line = std::str::from_utf8(self.next()?).map_err(|_| Fault::Line(name))?;
        line.strip_prefix(prefix)
            .and_then(read)
            .ok_or(Fault::Line(name))
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
