use crate::smtp::address::Host;
use std::net::SocketAddr;
use std::time::Duration;
/// One address to call, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /** the MX host's name or the literal, for the log */
    pub name: String,
    pub addr: SocketAddr,
}
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /** returned to the sender */
    #[error("{0}")]
    Never(String),
    /** tried again */
    #[error("{0}")]
    Later(String),
}
/// Who we are, for loops.
#[derive(Clone, Debug)]
pub struct Identity {
    pub hostname: Host,
    pub listening: Vec<SocketAddr>,
}
/// Shared by all threads without a lock around a lookup.
pub struct Resolver {}
impl Resolver {
    /// Empty: the system's nameservers. `timeout`: for one lookup.
    pub fn new(_nameservers: &[SocketAddr], _timeout: Duration) -> Result<Resolver, RouteError> {
        todo!()
    }
    /// At most 5 addresses, in the order to try; a literal is that address.
    pub fn targets(
        &self,
        _host: &Host,
        _port: u16,
        _me: &Identity,
    ) -> Result<Vec<Target>, RouteError> {
        todo!()
    }
}
