//! Everything that calls out. RULE: only `spool` and `post` are above it.
mod crew;
mod desk;
mod link;
pub mod mx;
#[doc(hidden)] // the daemon's own, public for its tests
pub mod notice;
mod outside;
mod plan;
pub(crate) mod queue;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod queue_world;
mod retry;
mod round;
mod route;
pub mod sender;
mod sites;
