//! The second flow: what waits in the spool is sent to its next hop, or returned to its sender.

pub(crate) mod backscatter;
#[doc(hidden)] // the daemon's own, public for its tests
pub mod bounce;
pub mod client;
pub(crate) mod link;
pub mod mailer;
pub mod mx;
pub(crate) mod queue;
