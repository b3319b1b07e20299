//! Where a `250` rests: mailboxes and the spool, each durable before it is acknowledged.

pub(crate) mod directory;
pub(crate) mod files;
pub(crate) mod group_commit;
pub mod mailbox;
pub mod spool;
pub(crate) mod writeback;
