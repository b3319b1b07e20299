//! Sending from a program: a [`Mailer`] carries one message to a host, or to the hosts that DNS names for each
//! recipient's domain, and tells the [`Fate`] of every recipient. It keeps no queue: what is for later is the
//! caller's to try again. (RFC 788 section 3.1, the sender's side; underneath are [`relay::client`](crate::relay::client)
//! and [`relay::mx`](crate::relay::mx), for a program that wants to hold a connection open.)
//!
//! ```
//! use smtpd788::send::{self, Fate, Mailer};
//! use smtpd788::server::Server;
//! use std::io::Read;
//!
//! let (server, mail) = Server::channel("127.0.0.1:0")?;
//!
//! let mailer = Mailer::new("me.example".parse()?);
//! let content = send::content("Subject: hello\r\n\r\n.dots are safe\r\n")?;
//! let (from, to) = ("<ann@me.example>".parse()?, ["<bob@you.example>".parse()?]);
//! let fates = mailer.to_host(server.addr(), &from, &to, &content)?;
//! assert!(matches!(&fates[..], [Fate::Delivered(answer)] if answer.contains("250 OK id=")));
//!
//! let mut text = String::new();
//! mail.recv()?.body.reader().read_to_string(&mut text)?;
//! assert_eq!(text, "Subject: hello\n\n.dots are safe\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use crate::relay::client::Fate;
pub use crate::relay::mx::Resolver;

use crate::message::Body;
use crate::relay::client::{Connection, Target, Trouble};
use crate::relay::mx::{Identity, RouteError};
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use std::io;
use std::net::ToSocketAddrs;
use std::time::Duration;

/// What [`Mailer::timeout`] is kept within.
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(86_400));

/// Who sends, and with how much patience. Has no state: any number of threads may use one.
#[derive(Clone, Debug)]
pub struct Mailer {
    helo: Host,
    timeout: Duration,
    mx_port: u16,
}

impl Mailer {
    /// `helo`: this host, as HELO says it. Timeout 120 s, MX hosts on port 25.
    pub fn new(helo: Host) -> Mailer {
        Mailer {
            helo,
            timeout: Duration::from_secs(120),
            mx_port: 25,
        }
    }

    /// For each connection, each piece written and each reply; from a millisecond to a day.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Mailer {
        self.timeout = timeout.clamp(TIMEOUTS.0, TIMEOUTS.1);
        self
    }

    /// The port that MX hosts are called on.
    #[must_use]
    pub fn mx_port(mut self, port: u16) -> Mailer {
        self.mx_port = port;
        self
    }

    /// Sends to one host, whatever the recipients' domains: a relay, or the server under test. Its addresses are tried
    /// in turn until one greets us. The fates are in the order of `to`; a host that can't be reached is
    /// [`Fate::Later`] for all. Without recipients nothing is done.
    ///
    /// # Errors
    /// The name in `host` could not be looked up.
    pub fn to_host(
        &self,
        host: impl ToSocketAddrs,
        from: &ReversePath,
        to: &[ForwardPath],
        body: &Body,
    ) -> io::Result<Vec<Fate>> {
        let targets: Vec<_> = host.to_socket_addrs()?.map(Target::from).collect();
        Ok(self.send(&targets, from, to, body))
    }

    /// Sends to the MX hosts of each recipient's domain, or to its address literal, one connection a domain. What DNS
    /// says of a domain is the fate of all recipients there. The fates are in the order of `to`.
    pub fn to_mx(
        &self,
        resolver: &Resolver,
        from: &ReversePath,
        to: &[ForwardPath],
        body: &Body,
    ) -> Vec<Fate> {
        let me = Identity::new(self.helo.clone(), Vec::new());
        let mut fates: Vec<Option<Fate>> = vec![None; to.len()];
        while let Some(first) = fates.iter().position(Option::is_none) {
            let host = to[first].host();
            let there: Vec<_> = (first..to.len())
                .filter(|&n| to[n].host() == host)
                .collect();
            let paths: Vec<_> = there.iter().map(|&n| to[n].clone()).collect();
            let told = match resolver.targets(host, self.mx_port, &me) {
                Ok(targets) => self.send(&targets, from, &paths, body),
                Err(RouteError::Never(why)) => vec![Fate::Never(why); paths.len()],
                Err(RouteError::Later(why)) => vec![Fate::Later(why); paths.len()],
            };
            for (n, fate) in there.into_iter().zip(told) {
                fates[n] = Some(fate);
            }
        }
        fates.into_iter().flatten().collect()
    }

    /// To the first target that greets us.
    fn send(
        &self,
        targets: &[Target],
        from: &ReversePath,
        to: &[ForwardPath],
        body: &Body,
    ) -> Vec<Fate> {
        if to.is_empty() {
            return Vec::new();
        }
        let mut why = "no address to call".to_owned();
        for target in targets {
            match Connection::open(target, &self.helo, self.timeout) {
                Ok(mut connection) => {
                    let fates = connection.send(from, to, body);
                    connection.quit();
                    return fates;
                }
                Err(Trouble(said)) => why = said,
            }
        }
        vec![Fate::Later(why); to.len()]
    }
}

/// A carriage return that is no part of a line end; a receiver would refuse it (RFC 788 4.1.1 ends lines by CRLF).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} holds a carriage return that ends no line")]
#[non_exhaustive]
pub struct BareCr {
    /// The line, from 1.
    pub line: usize,
}

/// Text as files have it, with LF or CRLF line ends or both, as mail data. Lines that begin with a dot need no care,
/// and a last line without its end gets one when it is sent.
///
/// # Errors
/// A bare CR.
pub fn content(text: impl AsRef<[u8]>) -> Result<Body, BareCr> {
    let text = text.as_ref();
    let mut content = Vec::with_capacity(text.len());
    for (number, line) in text.split_inclusive(|octet| *octet == b'\n').enumerate() {
        let kept = match line.strip_suffix(b"\r\n") {
            Some(start) => [start, b"\n"],
            None => [line, b""],
        };
        if kept[0].contains(&b'\r') {
            return Err(BareCr { line: number + 1 });
        }
        content.extend_from_slice(kept[0]);
        content.extend_from_slice(kept[1]);
    }
    Ok(Body::from_bytes(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_of_files() {
        for (text, expected) in [
            ("", Ok("")),
            ("a\r\n\r\nb\r\n", Ok("a\n\nb\n")),
            ("a\n\nb", Ok("a\n\nb")),
            ("a\r\nb\n.\r\n", Ok("a\nb\n.\n")),
            ("a\rb\n", Err(1)),
            ("a\n\r\r\n", Err(2)),
            ("a\r\nb\r", Err(2)),
            ("\r", Err(1)),
        ] {
            let found = content(text).map_err(|bare| bare.line);
            let found = found.map(|body| String::from_utf8(body.as_bytes().unwrap().to_vec()));
            assert_eq!(found, expected.map(|s: &str| Ok(s.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn a_timeout_is_kept_within_reason() {
        let mailer = Mailer::new("me".parse().unwrap());
        assert_eq!(mailer.clone().timeout(Duration::ZERO).timeout, TIMEOUTS.0);
        assert_eq!(mailer.timeout(Duration::MAX).timeout, TIMEOUTS.1);
    }
}
