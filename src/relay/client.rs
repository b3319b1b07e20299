//! The client side of RFC 788: one connection to one next hop, straight functions, no state machine.
//!
//! [`Connection::open`] connects, awaits the greeting and says HELO. [`Connection::send`] carries one message to any
//! number of recipients, and always tells the fate of each:
//!
//! | the hop | the recipient is |
//! | --- | --- |
//! | `2yz` to their RCPT and to the final dot | delivered |
//! | `4yz` to their RCPT, or to MAIL, DATA or the dot | for later |
//! | `5yz` likewise | never |
//! | `421` anywhere, silence, a hang-up, nonsense, a reply out of turn | for later, and the connection is of no more use |
//!
//! `552` or `452` to a RCPT, once another one of the transaction was accepted, says that there are too many: that recipient
//! and the rest go in a further transaction at once, if this one has delivered to somebody, else later. With an enhanced
//! code `5.2.x` or `4.2.x` it is about that mailbox alone.
//!
//! What was decided before the connection was lost stays decided. A connection lost after the dot was sent and before
//! its reply leaves the message in doubt: it counts as not delivered, so it may arrive twice, never not at all. If the
//! body can't be read to its end here, the connection is cut without the dot, so that no part of it is delivered.
//!
//! A greeting or HELO that is refused, even with `5yz`, says nothing of any recipient: it is [`Trouble`] of the site,
//! and the next address may be better. Commands are not pipelined: RFC 788 asks for each reply to be awaited.

pub use crate::relay::link::Handle;
pub use crate::relay::mx::Target;

use crate::message::Body;
use crate::relay::link::{Link, LinkError};
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use crate::smtp::data::DataWriter;
use crate::smtp::reply::RemoteReply;
use std::io::{BufRead, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

/// Mail data is written in pieces of about this size, in octets.
const PIECE: usize = 64 * 1024;
/// Nothing depends on the reply to QUIT; it is worth no longer wait.
const FAREWELL: Duration = Duration::from_secs(5);
/// What every receiver must take in one transaction (RFC 788 4.5.3).
const RECIPIENTS_A_TRANSACTION: usize = 100;
/// The steps between `354` and the final dot, and after it.
const MIDDLE: &str = "the middle of the data";
const END: &str = "the end of the data";
/// What a fate's text is cut to: it ends up in the spool, in log lines and in reports.
const MAX_TEXT: usize = 400;

/// What became of one recipient; there is no fourth. The text is one printable line that names the hop:
/// `mx.example.org[192.0.2.1]:25 said: 250 OK`, `mx.example.org[192.0.2.1]:25 said at RCPT: 550 No such user`, or
/// `connection to mx.example.org[192.0.2.1]:25 failed at RCPT: timed out`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The hop has taken the message for them.
    Delivered(String),
    /// To be tried again.
    Later(String),
    /// To be returned.
    Never(String),
}

/// The site can't be talked to: not reached, or not willing. Try the next address; if there is none, try later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

/// One connection to a next hop, greeted. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    /// `mx.example.org[192.0.2.1]:25`
    peer: String,
    usable: bool,
    in_doubt: bool,
    /// A transaction was begun and given up.
    needs_reset: bool,
}

impl Connection {
    /// Connects, awaits `220`, says HELO. `timeout`: for the connection and for each reply.
    ///
    /// # Errors
    /// The site was not reached, did not answer in time, or refused.
    pub fn open(target: &Target, helo: &Host, timeout: Duration) -> Result<Connection, Trouble> {
        Self::open_with(target, helo, timeout, |_| {})
    }

    /// Likewise; `connected` gets a handle before the greeting is awaited.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        target: &Target,
        helo: &Host,
        timeout: Duration,
        connected: impl FnOnce(Handle),
    ) -> Result<Connection, Trouble> {
        let peer = peer(target);
        let link = Link::connect(target.addr, timeout)
            .map_err(|error| Trouble(format!("connection to {peer} failed: {error}")))?;
        connected(link.handle());
        let mut connection = Connection {
            link,
            peer,
            usable: true,
            in_doubt: false,
            needs_reset: false,
        };
        let greeting = connection.link.reply();
        connection.welcome(greeting, "the greeting")?;
        let answer = connection.link.command(&format!("HELO {helo}"));
        connection.welcome(answer, "HELO")?;
        Ok(connection)
    }

    /// Cuts this connection from another thread.
    pub fn handle(&self) -> Handle {
        self.link.handle()
    }

    /// Whether another message may be sent.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// The last message was sent whole and no reply came: it may have arrived, so another host must not be tried now.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// One message, in as many transactions as the hop wants; the fate of every recipient, in order. Blocks at most a
    /// few timeouts longer than the hop takes in good faith.
    pub fn send(&mut self, from: &ReversePath, to: &[ForwardPath], body: &Body) -> Vec<Fate> {
        let mut fates = Vec::with_capacity(to.len());
        while fates.len() < to.len() {
            let rest = &to[fates.len()..];
            let part = &rest[..rest.len().min(RECIPIENTS_A_TRANSACTION)];
            let (mut told, full) = self.transact(from, part, body);
            let progress = told.iter().any(|fate| matches!(fate, Fate::Delivered(_)));
            fates.append(&mut told);
            if let Some(said) = full
                && !(progress && self.usable)
            {
                fates.resize(to.len(), Fate::Later(said));
            }
        }
        fates
    }

    /// QUIT, whatever the answer.
    pub fn quit(mut self) {
        if self.usable {
            self.link.shorten_timeout(FAREWELL);
            let _ = self.link.command("QUIT");
        }
    }

    /// One transaction: the fate of each recipient up to the one at which the hop said that it takes no more of them, and
    /// what it said then.
    fn transact(
        &mut self,
        from: &ReversePath,
        to: &[ForwardPath],
        body: &Body,
    ) -> (Vec<Fate>, Option<String>) {
        // `None` for who is accepted: the end of the data decides.
        let (mut named, mut full) = (Vec::with_capacity(to.len()), None);
        let rest = match self.name(from, to, &mut named, &mut full) {
            Ok(()) if named.iter().all(Option::is_some) => None,
            Ok(()) => Some(self.mail_data(body).unwrap_or_else(|fate| fate)),
            Err(fate) => {
                named.resize(to.len(), None);
                Some(fate)
            }
        };
        let fates = named.into_iter().map(|own| own.or_else(|| rest.clone()));
        (fates.flatten().collect(), full)
    }

    /// MAIL and RCPTs. Who is refused gets a fate of their own; an error is the fate of all who have none.
    fn name(
        &mut self,
        from: &ReversePath,
        to: &[ForwardPath],
        named: &mut Vec<Option<Fate>>,
        full: &mut Option<String>,
    ) -> Result<(), Fate> {
        if !self.usable {
            return Err(Fate::Later(lost(&self.peer, &LinkError::Closed, "MAIL")));
        }
        if std::mem::take(&mut self.needs_reset) {
            self.reset()?;
        }
        self.expect(200..300, "MAIL", &format!("MAIL FROM:{from}"))?;
        self.needs_reset = true;
        for path in to {
            let reply = self.command("RCPT", &format!("RCPT TO:{path}"))?;
            if (200..300).contains(&reply.code) {
                named.push(None);
            } else if is_full(&reply) && named.iter().any(Option::is_none) {
                *full = Some(self.said(&reply, "RCPT"));
                break;
            } else {
                let fate = self.refusal(&reply, "RCPT");
                if !self.usable {
                    return Err(fate);
                }
                named.push(Some(fate));
            }
        }
        Ok(())
    }

    /// A hop that refuses RSET says nothing of the next message.
    fn reset(&mut self) -> Result<(), Fate> {
        self.expect(200..300, "RSET", "RSET").map_err(|fate| {
            self.usable = false;
            match fate {
                Fate::Never(said) | Fate::Later(said) | Fate::Delivered(said) => Fate::Later(said),
            }
        })
    }

    /// Says `line`; the fate of those concerned if the reply is none of the `good` ones.
    fn expect(&mut self, good: std::ops::Range<u16>, step: &str, line: &str) -> Result<(), Fate> {
        let reply = self.command(step, line)?;
        match good.contains(&reply.code) {
            true => Ok(()),
            false => Err(self.refusal(&reply, step)),
        }
    }

    fn command(&mut self, step: &str, line: &str) -> Result<RemoteReply, Fate> {
        let reply = self.link.command(line);
        reply.map_err(|error| self.give_up(&error, step))
    }

    /// DATA, the body, and the reply to the dot: the fate of all who were accepted.
    fn mail_data(&mut self, body: &Body) -> Result<Fate, Fate> {
        self.expect(354..355, "DATA", "DATA")?;
        if let Err(error) = self.link.data_begins() {
            return Err(self.give_up(&error, "DATA"));
        }
        let result = self.write_data(body).and_then(|()| {
            self.in_doubt = true;
            let reply = self.link.reply();
            reply.map_err(|error| self.give_up(&error, END))
        });
        if !self.link.data_ended() {
            self.usable = false;
        }
        let reply = result?;
        (self.in_doubt, self.needs_reset) = (false, false);
        match reply.code {
            200..300 => Ok(Fate::Delivered(bounded(format!(
                "{} said: {}",
                self.peer, reply
            )))),
            _ => Err(self.refusal(&reply, END)),
        }
    }

    /// The body and the dot. On error the dot was not sent, and the connection is cut.
    fn write_data(&mut self, body: &Body) -> Result<(), Fate> {
        let (mut writer, mut wire) = (DataWriter::default(), Vec::new());
        let (mut reader, mut rest) = (body.reader(), body.len());
        while rest > 0 {
            let piece = match reader.fill_buf() {
                Ok(piece) if !piece.is_empty() => &piece[..piece.len().min(PIECE)],
                other => {
                    let error = other.err().unwrap_or(ErrorKind::UnexpectedEof.into());
                    self.usable = false;
                    self.link.cut();
                    return Err(Fate::Later(format!("cannot read the message: {error}")));
                }
            };
            writer.feed(piece, &mut wire);
            let len = piece.len();
            reader.consume(len);
            rest -= len as u64;
            if rest > 0 {
                self.write_piece(&wire)?;
                wire.clear();
            }
        }
        writer.finish(&mut wire);
        self.write_piece(&wire)
    }

    /// A hop may refuse in the middle, and be right: the message may be too large for it.
    fn write_piece(&mut self, wire: &[u8]) -> Result<(), Fate> {
        let silent = self.link.expect_silence();
        let written = silent.and_then(|()| {
            let written = self.link.write(wire);
            written.map_err(|error| self.link.last_words(error))
        });
        written.map_err(|error| {
            let fate = match error {
                LinkError::OutOfTurn(Some(reply)) if reply.code >= 400 => {
                    self.refusal(&reply, MIDDLE)
                }
                error => self.give_up(&error, MIDDLE),
            };
            self.usable = false;
            self.link.cut();
            fate
        })
    }

    fn welcome(
        &mut self,
        reply: Result<RemoteReply, LinkError>,
        step: &str,
    ) -> Result<(), Trouble> {
        match reply {
            Ok(reply) if (200..300).contains(&reply.code) => Ok(()),
            Ok(reply) => Err(Trouble(self.said(&reply, step))),
            Err(error) => Err(Trouble(lost(&self.peer, &error, step))),
        }
    }

    /// What a reply other than the one hoped for means.
    fn refusal(&mut self, reply: &RemoteReply, step: &str) -> Fate {
        let said = self.said(reply, step);
        match reply.code {
            421 => {
                self.usable = false;
                Fate::Later(said)
            }
            400..500 => Fate::Later(said),
            500..600 => Fate::Never(said),
            // Not an answer to this command: we no longer know which it answers.
            _ => {
                self.usable = false;
                Fate::Later(format!("{said} (out of turn)"))
            }
        }
    }

    /// The connection is lost.
    fn give_up(&mut self, error: &LinkError, step: &str) -> Fate {
        self.usable = false;
        Fate::Later(match error {
            LinkError::OutOfTurn(Some(reply)) if reply.code == 421 => self.said(reply, step),
            LinkError::OutOfTurn(Some(reply)) => {
                format!("{} (out of turn)", self.said(reply, step))
            }
            error => lost(&self.peer, error, step),
        })
    }

    fn said(&self, reply: &RemoteReply, step: &str) -> String {
        bounded(format!("{} said at {step}: {reply}", self.peer))
    }
}

fn lost(peer: &str, error: &LinkError, step: &str) -> String {
    bounded(format!("connection to {peer} failed at {step}: {error}"))
}

/// "Too many recipients" (RFC 788 4.3, RFC 5321 4.5.3.1.10), unless the enhanced code says that it is about this mailbox
/// (RFC 3463 3.3).
fn is_full(reply: &RemoteReply) -> bool {
    let own = [b"5.2.", b"4.2."];
    let text = reply
        .lines
        .first()
        .map_or(&b""[..], |line| line.trim_start().as_bytes());
    matches!(reply.code, 452 | 552) && !own.iter().any(|own| text.starts_with(*own))
}

/// `mx.example.org[192.0.2.1]:25`; a literal is not said twice.
fn peer(target: &Target) -> String {
    let port = target.addr.port();
    match target.name.starts_with('[') {
        true => format!("{}:{port}", target.name),
        false => format!("{}[{}]:{port}", target.name, SocketAddr::ip(&target.addr)),
    }
}

/// At most MAX_TEXT octets; what is longer loses its end.
fn bounded(mut text: String) -> String {
    const MARK: &str = "...";
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
    text
}
