//! The sending side of tests with a scripted hop.

use super::hop::Hop;
use smtpd788::message::Body;
use smtpd788::relay::client::{Connection, Fate, Target};
use smtpd788::smtp::address::ForwardPath;
use std::net::SocketAddr;
use std::time::Duration;

pub const PATIENT: Duration = Duration::from_secs(20);
pub const IMPATIENT: Duration = Duration::from_millis(400);

pub fn target(addr: SocketAddr) -> Target {
    Target::new(&"mx.test".parse().unwrap(), addr)
}

pub fn open(hop: &Hop, timeout: Duration) -> Connection {
    Connection::open(&target(hop.addr()), &"me.example".parse().unwrap(), timeout).unwrap()
}

pub fn paths(users: &[&str]) -> Vec<ForwardPath> {
    let path = |user| format!("<{user}@d.test>").parse().unwrap();
    users.iter().map(path).collect()
}

pub fn send(connection: &mut Connection, users: &[&str], content: &[u8]) -> Vec<Fate> {
    let from = "<from@me.example>".parse().unwrap();
    let body = Body::from_bytes(content.to_vec());
    connection.send(&from, &paths(users), &body)
}

/// `delivered`, `later` or `never` a recipient, and the text of the last without the hop's address.
pub fn told(fates: &[Fate], hop: &Hop) -> String {
    let words: Vec<_> = fates
        .iter()
        .map(|fate| match fate {
            Fate::Delivered(_) => "delivered",
            Fate::Later(_) => "later",
            Fate::Never(_) => "never",
        })
        .collect();
    let text = match fates.last().unwrap() {
        Fate::Delivered(text) | Fate::Later(text) | Fate::Never(text) => plain(text, hop),
    };
    format!("{}: {text}", words.join(" "))
}

pub fn plain(text: &str, hop: &Hop) -> String {
    text.replace(&format!("mx.test[127.0.0.1]:{}", hop.addr().port()), "MX")
}
