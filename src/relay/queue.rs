use crate::message::Id;
use crate::post::PostOffice;
use crate::relay::mx::Resolver;
use crate::spool::Spool;
use std::sync::Arc;
use std::time::Duration;
/// The forwarding side: threads of its own.
pub struct Queue {}
impl Queue {
    /// Starts scanning the spool and working. `inbox`: ids of newly spooled messages.
    pub fn start(
        _spool: Arc<Spool>,
        _post: Arc<PostOffice>,
        _resolver: Resolver,
        _inbox: &QueueHandle,
    ) -> std::io::Result<Queue> {
        Ok(Queue {})
    }
    /// Look-ups from now on go to this one.
    pub fn set_resolver(&self, _resolver: Resolver) {}
    /// SIGUSR1: everything is due now.
    pub fn retry_all(&self) {}
    /// Lets those past DATA finish, at most `grace`; ends the rest.
    pub fn stop(self, _grace: Duration) {}
}

/// temp
#[derive(Clone, Default)]
pub struct QueueHandle;
impl QueueHandle {
    /// x
    pub fn submit(&self, _id: Id) {}
}
