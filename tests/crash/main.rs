//! The promises of the README, on the real daemon: what was answered `250` is never lost, a mailbox is never torn,
//! trouble of the system is answered and recovered from.
//!
//! The usual size takes under a minute. `SMTPD788_FULL=1` is the full one: over 300 kill points, some minutes.
//!
//!     cargo test --test crash
//!     SMTPD788_FULL=1 cargo test --test crash -- --include-ignored --nocapture --test-threads=1

#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../common/hop.rs"]
mod hop;

mod agent;
mod faults;
mod kill;
mod ledger;
mod letter;
mod limits;
mod load;
mod order;
mod shortage;
mod strace;

/// Whether the full size was asked for.
fn full() -> bool {
    std::env::var_os("SMTPD788_FULL").is_some_and(|value| value != "0")
}
