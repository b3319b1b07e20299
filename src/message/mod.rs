//! What was received: the envelope, the content, and the lines that a receiver adds on top of it.

pub(crate) mod body;
pub(crate) mod date;
pub(crate) mod escape;
mod id;
mod region;
mod trace;

use std::net::IpAddr;
use std::time::SystemTime;

pub use crate::message::body::{Body, BodyWriter, MEMORY_LIMIT};
pub use crate::message::id::Id;
#[doc(hidden)] // the daemon's own
pub use crate::message::trace::{TimeStamp, mbox_heading, time_stamp_line};
use crate::smtp::address::{ForwardPath, Host, ReversePath};

/// What a session said about a message before its data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Envelope {
    /// The name under which the log and the trace line know the message.
    pub id: Id,
    /// The host that the client named in HELO; only its word.
    pub helo: Host,
    /// The client's address; an IPv4-mapped one is IPv4.
    pub client: IpAddr,
    /// Where reports go (RFC 788 3.1).
    pub from: ReversePath,
    /// Every accepted recipient, in order, repeats included.
    pub to: Vec<ForwardPath>,
    /// When the mail data ended.
    pub received: SystemTime,
}

impl Envelope {
    /// An envelope with a new [`Id`], received now.
    pub fn new(helo: Host, client: IpAddr, from: ReversePath, to: Vec<ForwardPath>) -> Envelope {
        Envelope {
            id: Id::new(),
            helo,
            client,
            from,
            to,
            received: SystemTime::now(),
        }
    }
}

/// A received message.
#[derive(Debug)]
#[non_exhaustive]
pub struct Message {
    /// From whom, to whom, through which client.
    pub envelope: Envelope,
    /// The mail data.
    pub body: Body,
}

impl Message {
    /// Puts the two together.
    pub fn new(envelope: Envelope, body: Body) -> Message {
        Message { envelope, body }
    }
}
