//! One mbox file: open it, lock it, make its end fit, append a batch, sync, or roll back. The states
//! of an append and the instant of commitment are in the table of `mailbox/mod.rs`.
//!
//! The path is followed anew for each batch (`file.rs`), the open file is kept for the next one. After
//! locking, the name is looked up: only if it still names the very file that is open and locked, a
//! regular file with one name, is anything written.

mod append;
pub(crate) mod journal;
mod quote;
#[cfg(test)]
mod tests;

use crate::store::directory::{Directory, id};
use crate::store::files::files_to_keep;
use crate::store::mailbox::delivery::{MailboxError, MailboxMessage, Stats};
use crate::store::mailbox::dotlock::Dotlocks;
use crate::store::mailbox::file::{Key, Open, Place, missing_end};
use crate::store::mailbox::lock::{Held, Wait, lock};
use crate::store::mailbox::mbox::append::{Append, PendingAppend};
use crate::store::mailbox::mbox::journal::{Entry, Journal, Slot};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Descriptors kept open between batches, over all mailboxes: of a file and its directory. Fewer where descriptors are
/// few: the next mailbox needs some before it closes another's.
const KEPT_OPEN: usize = 256;
/// How often the path may name another file after locking before the mailbox counts as busy.
const TRIES: usize = 10;

/// What all mailboxes of a daemon share.
pub(crate) struct Shared {
    journal: Option<Arc<Journal>>,
    dotlocks: Dotlocks,
    /// In milliseconds.
    pub(crate) patience: AtomicU64,
    /// Those with a file kept open, the one opened longest ago first.
    open: Mutex<VecDeque<Weak<Mbox>>>,
    kept_open: usize,
    batches: AtomicU64,
    messages: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        journal: Option<Arc<Journal>>,
        dotlocks: Dotlocks,
        patience: Duration,
    ) -> Shared {
        Shared {
            journal,
            dotlocks,
            patience: AtomicU64::new(patience.as_millis() as u64),
            open: Mutex::default(),
            kept_open: files_to_keep(KEPT_OPEN) / 2,
            batches: AtomicU64::new(0),
            messages: AtomicU64::new(0),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            batches: self.batches.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
        }
    }
}

/// One mbox file.
pub(crate) struct Mbox {
    shared: Arc<Shared>,
    pub(crate) key: Key,
    this: Weak<Mbox>,
    state: Mutex<State>,
}

struct State {
    open: Option<Open>,
    /// In `Shared::open`.
    listed: bool,
    /// Others held a lock all the time when it was last wanted. Whoever comes next has one quick look: the threads of
    /// clients shall not gather where one mailbox is locked for long.
    busy: bool,
    /// Nothing is appended before this is rolled back, or found to be whole.
    pending: Option<PendingAppend>,
}

/// The locks, the file, its length.
type Locked<'p> = (Held<'p>, Open, u64);
type Outcome = Result<(), MailboxError>;

impl Mbox {
    /// Touches no file.
    pub(crate) fn new(shared: Arc<Shared>, key: Key) -> Arc<Mbox> {
        Arc::new_cyclic(|this| {
            let state = State {
                open: None,
                listed: false,
                busy: false,
                pending: None,
            };
            Mbox {
                shared,
                key,
                this: this.clone(),
                state: Mutex::new(state),
            }
        })
    }

    /// Appends `batch` to the mailbox, which is at `place` now; an outcome for each copy, in order.
    pub(crate) fn append(&self, place: &Place, batch: &[MailboxMessage]) -> Vec<Outcome> {
        let mut state = self.state();
        match self.try_append(&mut state, place, batch) {
            Ok(outcomes) => outcomes,
            Err(error) => batch.iter().map(|_| Err(error.again())).collect(),
        }
    }

    /// Rolls back what a killed process left (`entry`, kept in `slot`): Some(a line for the log).
    /// An error leaves it pending, to be looked at before the next append.
    pub(crate) fn recover(
        &self,
        place: &Place,
        slot: Slot,
        entry: Entry,
        patience: Duration,
    ) -> Result<Option<String>, MailboxError> {
        let mut state = self.state();
        state.pending = Some(PendingAppend {
            slot: Some(slot),
            entry,
            ours: false,
        });
        match self.lock(&mut state, place, patience, false) {
            Ok((_held, open, size)) => Ok(self.roll_back(&mut state, place, &open, size)?.1),
            // The file is gone, or something else is in its place: there is nothing of ours to cut.
            Err(error) if matches!(&error, MailboxError::NotAFile(_)) || error.is_not_found() => {
                clear(&mut state);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The directory of the file that is kept open.
    pub(crate) fn directory(&self) -> Option<Arc<Directory>> {
        let state = self.state();
        state.open.as_ref().map(|open| Arc::clone(&open.directory))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // After a panic the state is whole: `pending` tells what was begun.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_append(
        &self,
        state: &mut State,
        place: &Place,
        batch: &[MailboxMessage],
    ) -> Result<Vec<Outcome>, MailboxError> {
        let patience = match state.busy {
            true => Duration::ZERO,
            false => Duration::from_millis(self.shared.patience.load(Ordering::Relaxed)),
        };
        let locked = self.lock(state, place, patience, true);
        state.busy = matches!(locked, Err(MailboxError::Busy));
        let (held, open, size) = locked?;
        let (from, report) = self.roll_back(state, place, &open, size)?;
        if let Some(report) = report {
            log::warn!("{report}");
        }
        let gap = missing_end(&open.file, from)?;
        let pending = state.pending.insert(PendingAppend {
            slot: self.shared.journal.as_ref().map(Journal::slot),
            entry: Entry {
                path: place.path.clone(),
                id: open.id,
                from,
                ends: Vec::new(),
                whole: false,
            },
            ours: true,
        });
        let mut append = Append::new(&open.file, pending, gap);
        let start = append.mark();
        let outcomes = self.write(&mut append, &open, batch);
        // If the file can't be cut now, the append stays pending, and its entry in the journal too.
        if outcomes.is_ok() || append.back_to(start).is_ok() {
            clear(state);
        }
        if outcomes.is_err() {
            // So that a power failure doesn't bring the torn end back; what matters was reported
            // before.
            let _ = open.file.sync_data();
        }
        drop(held);
        outcomes
    }

    /// Writes and syncs. On an error the append is still to be rolled back.
    fn write(
        &self,
        append: &mut Append<'_>,
        open: &Open,
        batch: &[MailboxMessage],
    ) -> Result<Vec<Outcome>, MailboxError> {
        let start = append.mark();
        let outcomes: Vec<Outcome> = match append.write(batch, true) {
            Ok(()) => batch.iter().map(|_| Ok(())).collect(),
            Err(error) if batch.len() == 1 || !append.back_to(start)? => return Err(error.into()),
            Err(_) => write_singly(append, batch)?,
        };
        // Never a second time: after a failed sync the system may have dropped what it could not
        // write.
        open.file.sync_data()?;
        let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        self.shared.batches.fetch_add(1, Ordering::Relaxed);
        (self.shared.messages).fetch_add(written as u64, Ordering::Relaxed);
        Ok(outcomes)
    }

    /// Opens, locks and checks the file; its length under the lock.
    fn lock<'p>(
        &self,
        state: &mut State,
        place: &'p Place,
        patience: Duration,
        create: bool,
    ) -> Result<Locked<'p>, MailboxError> {
        let mut wait = Wait::new(patience);
        for _ in 0..TRIES {
            let kept = match state.open.take() {
                Some(open) => Some(open),
                None => place.open(create)?,
            };
            let Some(mut open) = kept else { continue };
            let locked = lock(place, &open.file, &self.shared.dotlocks, &mut wait);
            if let Ok(_) | Err(MailboxError::Busy) = locked {
                self.keep_open(state, open.clone());
            }
            let held = locked?;
            let Some(found) = place.status()?.filter(|found| id(found) == open.id) else {
                state.open = None;
                continue;
            };
            if wait.has_waited() && !place.is_current() {
                return Err(io::Error::other("its directory was replaced meanwhile").into());
            }
            if !open.named {
                place.directory.sync()?;
                open.named = true;
                state.open = Some(open.clone());
            }
            return Ok((held, open, found.st_size.cast_unsigned()));
        }
        Err(MailboxError::Busy)
    }

    /// Keeps the file for the next batch; for each one too many, another mailbox's is closed.
    fn keep_open(&self, state: &mut State, open: Open) {
        state.open = Some(open);
        if std::mem::replace(&mut state.listed, true) {
            return;
        }
        let mut all = self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push_back(self.this.clone());
        for _ in self.shared.kept_open..all.len() {
            let Some(oldest) = all.pop_front() else { break };
            let Some(mbox) = oldest.upgrade() else {
                continue;
            };
            // One that is at work now is no candidate. (This one is locked too, by ourselves.)
            match mbox.state.try_lock() {
                Ok(mut other) => (other.open, other.listed) = (None, false),
                Err(_) => all.push_back(oldest),
            }
        }
    }

    /// Cuts back what is pending, if the file ends in it and in nothing else; the length of the file then, and a line
    /// for the log.
    fn roll_back(
        &self,
        state: &mut State,
        place: &Place,
        open: &Open,
        size: u64,
    ) -> Result<(u64, Option<String>), MailboxError> {
        let Some(PendingAppend { entry, ours, .. }) = &state.pending else {
            return Ok((size, None));
        };
        let (from, file) = (entry.from, &open.file);
        if !entry.explains(file, open.id, size, !ours)? {
            clear(state);
            return Ok((size, None));
        }
        file.set_len(from)?;
        file.sync_data()?;
        clear(state);
        let (path, cut) = (place.shown(), size - from);
        let report = format!("recovered mailbox={path} cut={cut} size={from}");
        Ok((from, Some(report)))
    }
}

/// The pending append is finished, or undone.
fn clear(state: &mut State) {
    if let Some(slot) = state.pending.take().and_then(|pending| pending.slot) {
        // An entry that stays by a fault of the disk is the first to be overwritten; till then it is
        // one of a whole append, or of octets that are no longer there.
        let _ = slot.clear();
    }
}

/// One by one, after the batch as a whole could not be written: the error of one huge message is
/// its own.
fn write_singly(append: &mut Append<'_>, batch: &[MailboxMessage]) -> io::Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(batch.len());
    for copy in batch {
        let before = append.mark();
        outcomes.push(match append.write(std::slice::from_ref(copy), false) {
            Ok(()) => Ok(()),
            Err(error) if append.back_to(before)? => Err(error.into()),
            Err(error) => return Err(error),
        });
    }
    append.whole()?;
    Ok(outcomes)
}
