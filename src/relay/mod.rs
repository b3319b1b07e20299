//! Everything that calls out. RULE: only `spool` and `post` are above it.

pub mod mx;
pub mod notice;
pub mod queue;
mod route;
pub mod sender;
