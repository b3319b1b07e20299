//! When a file was made, in the time since the boot: what a dotlock's date is worth.
//!
//! A file's date is of the wall clock, which may leap (a board without a battery begins in 1970 until NTP
//! sets it). So the date is read with the clock as it is now, and as it was when this process began: a file
//! that was made in this boot by either of them is of this boot. Where the clock leapt before this process
//! began, a lock that is held across that leap is taken for an older one.

use crate::store::directory::Directory;
use nix::sys::stat::FileStat;
use nix::sys::statfs::{NFS_SUPER_MAGIC, fstatfs};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;

/// All times here are in milliseconds; a moment is counted from the boot, suspended time included.
type Millis = i64;

/// How far a date and a start may be off: both are rounded, a date to some 10 ms.
const SLACK: Millis = 1000;
/// How far the clock of a file server may be off.
const SERVER_SLACK: Millis = 60_000;
/// A date that lies ahead by more was not set by this boot's clock.
const AHEAD: Millis = 300_000;

/// How the wall clock stands to the boot's, as this process has seen it first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    boot: Millis,
}

/// When a file was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    at: Millis,
    slack: Millis,
}

impl Clock {
    pub(crate) fn now() -> Clock {
        Clock {
            boot: boot_by_wall_clock(),
        }
    }

    /// As if the wall clock had been set since.
    #[cfg(test)]
    pub(crate) fn leapt(self, by: Millis) -> Clock {
        Clock {
            boot: self.boot + by,
        }
    }

    /// When a file in `directory` was last written; `None`: before the boot.
    pub(crate) fn made(self, status: &FileStat, directory: &Directory) -> Option<Made> {
        let served = fstatfs(&directory.fd).is_ok_and(|fs| fs.filesystem_type() == NFS_SUPER_MAGIC);
        let slack = if served { SERVER_SLACK } else { SLACK };
        let date = status.st_mtime.saturating_mul(1000) + status.st_mtime_nsec / 1_000_000;
        let moments = [self.boot, boot_by_wall_clock()].map(|boot| date.saturating_sub(boot));
        let now = since_boot();
        let here = moments
            .into_iter()
            .filter(|at| (-slack..=now + AHEAD).contains(at));
        let at = here.max()?.clamp(0, now);
        Some(Made { at, slack })
    }
}

impl Made {
    pub(crate) fn age(self) -> std::time::Duration {
        let age = since_boot().saturating_sub(self.at);
        std::time::Duration::from_millis(age.max(0).cast_unsigned())
    }

    /// Whether the process began after that; false if it cannot be known.
    pub(crate) fn is_before_start_of(self, pid: Pid) -> bool {
        start_of(pid).is_some_and(|start| start > self.at + self.slack)
    }
}

/// When a process began: field 22 of proc_pid_stat(5).
fn start_of(pid: Pid) -> Option<Millis> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program is in parentheses and may hold anything.
    let end = text.iter().rposition(|&octet| octet == b')')?;
    let text = str::from_utf8(&text[end + 1..]).ok()?;
    let ticks: i64 = text.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let a_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    ticks.checked_mul(1000)?.checked_div(a_second)
}

fn since_boot() -> Millis {
    millis(ClockId::CLOCK_BOOTTIME)
}

fn boot_by_wall_clock() -> Millis {
    millis(ClockId::CLOCK_REALTIME).saturating_sub(since_boot())
}

fn millis(clock: ClockId) -> Millis {
    // Neither clock can be missing on Linux.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000)
}
