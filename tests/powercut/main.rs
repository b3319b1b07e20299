//! Power cuts: the real daemon on a real file system, on a disk that loses what it was not told to keep.
//!
//! The usual size is 60 cuts, `SMTPD788_FULL=1` makes it 1,000.
//!
//!     sudo -E cargo test --test powercut -- --include-ignored --nocapture

#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../crash/letter.rs"]
mod letter;

mod cuts;
mod device;
mod disk;
mod fuse;
mod hops;
mod ledger;
mod load;
mod spill;
mod writers;

/// Whether the full size was asked for.
fn full() -> bool {
    std::env::var_os("SMTPD788_FULL").is_some_and(|value| value != "0")
}
