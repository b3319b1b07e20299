//! The post office.
use crate::config::Config;
use crate::mailbox::{Copy, MailboxError};
use crate::message::Id;
use crate::smtp::address::ForwardPath;
use std::path::{Path, PathBuf};
use std::sync::Arc;
/// Where mail for a forward-path goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Mailbox(PathBuf),
    /** user.conf sends it on to this path */
    Forward(ForwardPath),
    Remote,
    NoSuchUser,
}
pub struct PostOffice {}
impl PostOffice {
    pub fn config(&self) -> Arc<Config> {
        todo!()
    }
    /// Route for mail that is in the spool: HOSTNAME, LOCAL_DOMAINS, any address listened on are local.
    pub fn route(&self, _to: &ForwardPath) -> Route {
        todo!()
    }
    /// A local copy, durable when Ok.
    pub fn deliver(&self, _mbox: &Path, _copy: Copy) -> Result<(), MailboxError> {
        todo!()
    }
    /// A report of our own from `<>`, through the same router as any mail; durable when Ok.
    pub fn submit(&self, _to: &ForwardPath, _content: Vec<u8>) -> std::io::Result<Id> {
        todo!()
    }
    /// Addresses listened on.
    pub fn listening(&self) -> Vec<std::net::SocketAddr> {
        todo!()
    }
}
