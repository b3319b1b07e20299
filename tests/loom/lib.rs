//! The group commit of smtpd788, built over loom's threads and locks so that every order of events
//! is tried. A crate of its own, because `cfg(loom)` must not reach the daemon's dependencies:
//! `cargo test --manifest-path tests/loom/Cargo.toml`.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the callers of the group commit stay in the daemon")]

#[path = "../../src/store"]
mod store {
    mod group_commit;
}
