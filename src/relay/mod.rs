//! Everything that calls out. RULE: only `spool` and `post` are above it.
mod crew;
mod desk;
mod link;
pub mod mx;
pub mod notice;
mod outside;
pub mod plan;
pub mod queue;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod queue_world;
pub mod retry;
mod round;
mod route;
pub mod sender;
pub mod sites;
