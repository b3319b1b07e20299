//! Everything that calls out. RULE: only `spool` and `post` are above it.

mod link;
pub mod mx;
pub mod notice;
pub mod queue;
mod route;
pub mod sender;
