//! The lock of an mbox file, as Debian Policy 11.6 has it, so that mail readers and other MTAs can
//! share it.
//!
//! First an fcntl write lock on the whole file (an OFD lock: it belongs to the descriptor, so two
//! threads exclude each other too; POSIX fcntl locks of other programs conflict with it), then the
//! dotlock (`dotlock.rs`). Neither is ever waited for while the other is held: if one can't be had,
//! both are let go, and after a pause both are tried anew, so no order of locking elsewhere can
//! deadlock with this one.

use crate::store::directory::id;
use crate::store::files;
use crate::store::mailbox::delivery::MailboxError;
use crate::store::mailbox::dotlock::{Dotlocks, Made, Try};
use crate::store::mailbox::file::Place;
use nix::unistd::Pid;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a mailbox may be locked by others before its mail goes to the spool: longer than a mail
/// reader takes to write a mailbox back, shorter than a client waits for the reply to its final dot.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The pauses between tries: 1 ms, doubling to 100 ms, until the time is up.
pub(crate) struct Wait {
    patience: Duration,
    until: Option<Instant>,
    next: Duration,
}

impl Wait {
    pub(crate) fn new(patience: Duration) -> Wait {
        Wait {
            patience,
            until: None,
            next: Duration::from_millis(1),
        }
    }

    /// Whether time has passed since it began.
    pub(crate) fn has_waited(&self) -> bool {
        self.until.is_some()
    }

    fn pause(&mut self) -> Result<(), MailboxError> {
        let now = Instant::now();
        let until = *self.until.get_or_insert_with(|| now + self.patience);
        if now >= until {
            return Err(MailboxError::Busy);
        }
        std::thread::sleep(self.next.min(until - now));
        self.next = (self.next * 2).min(Duration::from_millis(100));
        Ok(())
    }
}

/// Both locks, held; dropping it lets them go.
pub(crate) struct Held<'p> {
    file: Arc<File>,
    place: &'p Place,
    dotlock: Option<Made>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Place {
            directory, lock, ..
        } = self.place;
        // Only one that is still ours: somebody may have taken it for stale. If it can't be removed now, it
        // will be stale: it holds our id and we don't hold it.
        if let Some(made) = &self.dotlock
            && directory.status(lock).is_ok_and(|now| id(&now) == made.id)
        {
            let _ = directory.remove(lock);
        }
        files::unlock(&self.file);
    }
}

/// Takes both locks of the mailbox that `file` is open on. If that is in vain, the log says who is in the way.
///
/// # Errors
/// [`MailboxError::Busy`] after the wait. `Io`: a lock call failed, and the descriptor is not to be used again.
pub(crate) fn lock<'p>(
    place: &'p Place,
    file: &Arc<File>,
    dotlocks: &Dotlocks,
    wait: &mut Wait,
) -> Result<Held<'p>, MailboxError> {
    loop {
        let holder = if files::try_lock(file)? {
            let mut held = Held {
                file: Arc::clone(file),
                place,
                dotlock: None,
            };
            match dotlocks.acquire(place)? {
                Try::Made(made) => {
                    held.dotlock = Some(made);
                    return Ok(held);
                }
                Try::Without => return Ok(held),
                Try::Taken(holder) => Some(holder.map(Pid::as_raw)),
                Try::Unsuited => Some(None),
            }
        } else {
            None
        };
        let Err(busy) = wait.pause() else { continue };
        if !wait.patience.is_zero() {
            report(place, file, holder);
        }
        return Err(busy);
    }
}

/// `dotlock`: the id that it holds; `None`: the fcntl lock is in the way.
fn report(place: &Place, file: &File, dotlock: Option<Option<i32>>) {
    let by = |pid: Option<i32>| match pid {
        Some(pid) => format!("process {pid}"),
        None => "a process that is not known".to_owned(),
    };
    let path = place.shown();
    match dotlock {
        Some(holder) => log::warn!(
            "mailbox={path} is locked: {path}.lock is held by {}",
            by(holder)
        ),
        None => {
            let holder = by(files::lock_holder(file));
            log::warn!("mailbox={path} is locked: an fcntl lock is held by {holder}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn a_held_fcntl_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mbox = folder.path().join("mbox");
        let other = File::create(&mbox).unwrap();
        let file = Arc::new(OpenOptions::new().write(true).open(&mbox).unwrap());
        let place = Place::find(&mbox, false).unwrap();
        let hold = |patience| {
            let dotlocks = Dotlocks::new(None);
            let mut wait = Wait::new(patience);
            lock(&place, &file, &dotlocks, &mut wait).map(drop)
        };
        assert!(files::try_lock(&other).unwrap());
        assert!(matches!(
            hold(Duration::from_millis(20)),
            Err(MailboxError::Busy)
        ));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| hold(Duration::from_secs(60)));
            files::unlock(&other);
            waiting.join().unwrap().unwrap();
        });
    }
}
