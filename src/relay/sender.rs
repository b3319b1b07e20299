use super::mx::Target;
use crate::message::Body;
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use std::time::Duration;
/// What became of one recipient; the text is the remote host's own words with its name: `mx.example.org said: 550 ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivered(String),
    Later(String),
    Never(String),
}
/// One connection to a next hop, greeted.
pub struct Connection {}
/// The connection is of no more use; the text says at which step and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /** could not connect, or was not greeted: try the next address */
    #[error("{0}")]
    Site(String),
    /** lost while a message was under way: its recipients are Later */
    #[error("{0}")]
    Lost(String),
}
impl Connection {
    /// Connect, 220, HELO 250. `on_open` gets a handle that can interrupt the connection from another thread (shutdown).
    pub fn open(_target: &Target, _helo: &Host, _timeout: Duration) -> Result<Connection, Trouble> {
        todo!()
    }
    /// One transaction; a fate for every recipient in order. On Lost after the dot: the caller defers (may duplicate, never loses).
    pub fn send(
        &mut self,
        _from: &ReversePath,
        _to: &[ForwardPath],
        _body: &Body,
    ) -> Result<Vec<Fate>, Trouble> {
        todo!()
    }
    /// QUIT; whatever the answer.
    pub fn quit(self) {}
}
