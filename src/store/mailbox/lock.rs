//! The lock of an mbox file, as Debian Policy 11.6 has it, so that mail readers and other MTAs can
//! share it.
//!
//! First an fcntl write lock on the whole file (an OFD lock: it belongs to the descriptor, so two
//! threads exclude each other too; POSIX fcntl locks of other programs conflict with it), then the
//! dotlock (`dotlock.rs`). Neither is ever waited for while the other is held: if one can't be had,
//! both are let go, and after a pause both are tried anew, so no order of locking elsewhere can
//! deadlock with this one.

use crate::store::files;
use crate::store::mailbox::MailboxError;
use crate::store::mailbox::dotlock::{Dotlock, Try};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a mailbox may be locked by others before its mail goes to the spool: longer than a mail
/// reader takes to write a mailbox back, shorter than a client waits for the reply to its final dot
/// (SPEC section 6).
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
pub(crate) struct Held {
    file: Arc<File>,
    dotlock: Option<Arc<Path>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(path) = &self.dotlock {
            // If it can't be removed now it will be stale: it holds our id and we don't hold it.
            let _ = fs::remove_file(path);
        }
        files::unlock(&self.file);
    }
}

/// Takes both locks of the mailbox that `file` is open on.
pub(crate) fn lock(
    dotlock: &mut Dotlock,
    file: &Arc<File>,
    wait: &mut Wait,
) -> Result<Held, MailboxError> {
    loop {
        if files::try_lock(file)? {
            let mut held = Held {
                file: Arc::clone(file),
                dotlock: None,
            };
            match dotlock.acquire()? {
                Try::Made => {
                    held.dotlock = Some(Arc::clone(dotlock.path()));
                    return Ok(held);
                }
                Try::Without => return Ok(held),
                Try::Taken | Try::Unsuited => drop(held),
            }
        }
        wait.pause()?;
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
        let hold = |patience| {
            lock(
                &mut Dotlock::new(&mbox, None),
                &file,
                &mut Wait::new(patience),
            )
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
