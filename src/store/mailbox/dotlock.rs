//! The dotlock of an mbox file, `FILE.lock`: the half of the lock that works where fcntl locks
//! don't.
//!
//! It is made with link(2) from a file that already holds our process id, so it is never seen
//! empty. That file is `SPOOL_DIR/pid`, synced once at the start, so that a power cut leaves no empty lock
//! either; on another file system one without a name (`O_TMPFILE`), or where there are none such, one with
//! a name of its own. These two are not synced, which would cost each delivery as much as its mail: what a
//! power cut leaves of them is older than the boot. A process that dies leaves at most the dotlock behind.
//! Where the directory lets nobody like us make files, the fcntl lock alone has to do.
//!
//! A dotlock is stale, and removed, when
//!
//! - it is older than the boot, or than the start of the process whose id it holds (ids come again);
//! - that process is gone;
//! - it holds our own id (we never look at it while we hold it);
//! - it holds no id and is 5 minutes old.
//!
//! In a directory that everybody may write in, the lock of somebody who is neither root, nor we, nor the
//! mailbox's account does not count: it is removed, or passed over if it can't be.
//!
//! A dotlock is looked at, removed and let go under the fcntl lock, so two of us never remove each other's
//! new lock for an old one. What this cannot see: a process of another machine or process-id namespace.

use crate::store::directory::{Directory, id, kind};
use crate::store::mailbox::clock::Clock;
use crate::store::mailbox::file::Place;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, renameat};
use nix::sys::signal::kill;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::{Pid, linkat};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// The age at which a dotlock without a process id is stale: liblockfile has the same.
const STALE_AGE: Duration = Duration::from_secs(5 * 60);
/// Some programs go by the age of a dotlock (the least is 2 minutes, dovecot's), so its date is
/// kept fresh.
const FRESH: Duration = Duration::from_secs(30);

const PID_FILE: &str = "pid";

/// `SPOOL_DIR/pid`: our process id as text, ready to be linked.
#[derive(Debug)]
pub(crate) struct PidFile {
    /// SPOOL_DIR; by descriptor, so that a `pid` of somebody else in a folder that took its place is not linked.
    spool: Directory,
    file: File,
    dated: Mutex<Instant>,
}

impl PidFile {
    /// Replaces the file by a new one, for the old one may be somebody's dotlock still.
    pub(crate) fn create(spool: &Path) -> io::Result<PidFile> {
        let (spool, new) = (Directory::open(spool)?, OsStr::new("pid.new"));
        spool.remove(new)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = spool.open_file(new, flags, 0o644)?;
        write_id(&file)?;
        file.sync_all()?;
        renameat(&spool.fd, new, &spool.fd, PID_FILE)?;
        Ok(PidFile {
            spool,
            file,
            dated: Mutex::new(Instant::now()),
        })
    }

    fn keep_fresh(&self) {
        if let Ok(mut dated) = self.dated.try_lock()
            && dated.elapsed() > FRESH
        {
            // Only a courtesy: a lock with an old date is a lock all the same.
            let _ = self.file.set_modified(SystemTime::now());
            *dated = Instant::now();
        }
    }
}

/// Readable for all: who meets the dotlock wants to know whose it is.
fn write_id(mut file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o644))?;
    writeln!(file, "{}", std::process::id())
}

/// A dotlock that we have made.
#[derive(Debug)]
pub(crate) struct Made {
    /// Device and inode.
    pub(crate) id: (u64, u64),
    /// Keeps the inode's number from passing to the lock of somebody who has removed ours; `SPOOL_DIR/pid` is
    /// open anyway.
    _file: Option<File>,
}

/// The outcome of one try for the dotlock.
#[derive(Debug)]
pub(crate) enum Try {
    Made(Made),
    /// The directory does not allow it: the fcntl lock alone has to do.
    Without,
    /// By the process of this id, if it holds one.
    Taken(Option<Pid>),
    /// This source does not work here.
    Unsuited,
}

/// What all dotlocks of a daemon share.
#[derive(Debug)]
pub(crate) struct Dotlocks {
    pid_file: Option<PidFile>,
    clock: Clock,
}

enum Stale {
    Removed,
    No(Option<Pid>),
    CannotRemove,
}

impl Dotlocks {
    pub(crate) fn new(pid_file: Option<PidFile>) -> Dotlocks {
        Dotlocks {
            pid_file,
            clock: Clock::now(),
        }
    }

    /// One try for the lock of a mailbox whose fcntl lock is held; what is stale is removed.
    pub(crate) fn acquire(&self, place: &Place) -> io::Result<Try> {
        for _ in 0..3 {
            match self.make(place)? {
                Try::Taken(_) => match self.remove_stale(place)? {
                    Stale::Removed => {}
                    Stale::No(holder) => return Ok(Try::Taken(holder)),
                    Stale::CannotRemove => return Ok(Try::Without),
                },
                outcome => return Ok(outcome),
            }
        }
        Ok(Try::Taken(None))
    }

    /// Goes through the files that it can be linked from; one on another file system costs a call that fails.
    fn make(&self, place: &Place) -> io::Result<Try> {
        let mut outcome = self.link_spooled(place)?;
        for link in [link_nameless, link_named] {
            if matches!(outcome, Try::Unsuited) {
                outcome = link(place)?;
            }
        }
        Ok(match outcome {
            Try::Unsuited => Try::Without,
            outcome => outcome,
        })
    }

    fn link_spooled(&self, place: &Place) -> io::Result<Try> {
        let Some(source) = &self.pid_file else {
            return Ok(Try::Unsuited);
        };
        source.keep_fresh();
        let (at, lock) = (&place.directory.fd, place.lock.as_os_str());
        let linked = linkat(&source.spool.fd, PID_FILE, at, lock, AtFlags::empty());
        Ok(match linked {
            Ok(()) => Try::Made(Made {
                id: id(&fstat(&source.file)?),
                _file: None,
            }),
            Err(Errno::EEXIST) => Try::Taken(None),
            // Another file system, or no right to link, or to write here: the next source will
            // tell.
            Err(_) => Try::Unsuited,
        })
    }

    /// Removes the dotlock if it is stale. The caller holds the fcntl lock, and not the dotlock.
    fn remove_stale(&self, place: &Place) -> io::Result<Stale> {
        let seen = match place.directory.status(&place.lock) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stale::Removed),
            status => status?,
        };
        // The descriptor stays open till the end, so that the inode's number can't pass to a new lock
        // meanwhile. A link, or one that we may not read, goes by its age.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let file = place.directory.open_file(&place.lock, flags, 0);
        let file = file.ok().filter(|_| kind(&seen) == SFlag::S_IFREG);
        let holder = file.as_ref().and_then(holder);
        let foreign = !place.directory.admits(&place.name, seen.st_uid);
        if !foreign && !self.is_stale(place, holder, &seen) {
            return Ok(Stale::No(holder));
        }
        match place.directory.status(&place.lock) {
            Ok(now) if id(&now) != id(&seen) => return Ok(Stale::No(holder)),
            _ => {}
        }
        let removed = place.directory.remove(&place.lock);
        let path = place.shown();
        if foreign {
            let uid = seen.st_uid;
            let what = removed.as_ref().map_or("passed over", |()| "removed");
            log::warn!("{what} {path}.lock: user {uid} has no business with this mailbox");
        } else if removed.is_ok() {
            let holder = holder.map_or_else(|| "no process".into(), |pid| format!("process {pid}"));
            log::info!("removed {path}.lock: it was left behind, and names {holder}");
        }
        Ok(removed.map_or(Stale::CannotRemove, |()| Stale::Removed))
    }

    fn is_stale(&self, place: &Place, holder: Option<Pid>, seen: &FileStat) -> bool {
        let Some(made) = self.clock.made(seen, &place.directory) else {
            return true;
        };
        match holder {
            Some(pid) if pid == Pid::this() => true,
            Some(pid) if kill(pid, None) == Err(Errno::ESRCH) => true,
            Some(pid) => made.is_before_start_of(pid),
            None => made.age() >= STALE_AGE,
        }
    }
}

fn link_nameless(place: &Place) -> io::Result<Try> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY;
    let new = place.directory.open_file(OsStr::new("."), flags, 0o644);
    let file = match new.and_then(|file| write_id(&file).map(|()| file)) {
        Ok(file) => file,
        Err(error) => return refused(error),
    };
    let (name, lock) = (
        format!("/proc/self/fd/{}", file.as_raw_fd()),
        place.lock.as_os_str(),
    );
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    match linkat(AT_FDCWD, name.as_str(), &place.directory.fd, lock, follow) {
        Ok(()) => made(file),
        Err(Errno::EEXIST) => Ok(Try::Taken(None)),
        // No /proc, say.
        Err(_) => Ok(Try::Unsuited),
    }
}

fn link_named(place: &Place) -> io::Result<Try> {
    let at = &place.directory;
    let mut name = place.lock.clone();
    name.push(format!(".{}", std::process::id()));
    // One that is there was left by a process that had our id and died.
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let new = at
        .remove(&name)
        .and_then(|()| at.open_file(&name, flags, 0o644));
    let file = match new {
        Ok(file) => file,
        Err(error) => return refused(error),
    };
    let (from, to) = (name.as_os_str(), place.lock.as_os_str());
    let linked = write_id(&file)
        .and_then(|()| linkat(&at.fd, from, &at.fd, to, AtFlags::empty()).map_err(io::Error::from));
    at.remove(&name)?;
    match linked {
        Ok(()) => made(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Try::Taken(None)),
        Err(error) => refused(error),
    }
}

fn made(file: File) -> io::Result<Try> {
    Ok(Try::Made(Made {
        id: id(&fstat(&file)?),
        _file: Some(file),
    }))
}

/// What a source's error means: not here, not like this, or a fault to report.
fn refused(error: io::Error) -> io::Result<Try> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => Ok(Try::Without),
        Some(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {
            Ok(Try::Unsuited)
        }
        _ => Err(error),
    }
}

/// The process id in a dotlock; 0, signs and other text are none.
fn holder(mut file: &File) -> Option<Pid> {
    let mut text = [0; 32];
    let len = file.read(&mut text).ok()?;
    let text = str::from_utf8(&text[..len]).ok()?;
    let word = text.split_ascii_whitespace().next()?;
    let id: i32 = word
        .bytes()
        .all(|octet| octet.is_ascii_digit())
        .then(|| word.parse().ok())??;
    (id > 0).then(|| Pid::from_raw(id))
}

#[cfg(test)]
#[path = "dotlock_tests.rs"]
mod tests;
