//! One mbox file: open it, lock it, make its end fit, append a batch, sync, or cut back. The states
//! of an append and the instant of commitment are in the table of `mailbox.rs`.
//!
//! The path is followed anew for each batch (`file.rs`), the open file is kept for the next one. After
//! locking, the name is looked up: only if it still names the very file that is open and locked, a
//! regular file with one name, is anything written.

use crate::store::directory::id;
use crate::store::mailbox::appending::{Note, Notes, Slot};
use crate::store::mailbox::dotlock::{Dotlocks, Source};
use crate::store::mailbox::file::{Key, Open, Place, missing_end};
use crate::store::mailbox::gather;
use crate::store::mailbox::lock::{Held, Wait, lock};
use crate::store::mailbox::{MailboxError, MailboxMessage, Stats};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Files kept open between batches, over all mailboxes: few beside the descriptors that clients
/// need.
const KEPT_OPEN: usize = 256;
/// How often the path may name another file after locking before the mailbox counts as busy.
const TRIES: usize = 10;

/// What all mailboxes of a daemon share.
pub(crate) struct Shared {
    pub(crate) notes: Option<Arc<Notes>>,
    dotlocks: Dotlocks,
    /// In milliseconds.
    pub(crate) patience: AtomicU64,
    /// Those with a file kept open, the one opened longest ago first.
    open: Mutex<VecDeque<Weak<Mbox>>>,
    batches: AtomicU64,
    messages: AtomicU64,
}

impl Shared {
    pub(crate) fn new(notes: Option<Arc<Notes>>, dotlocks: Dotlocks, patience: Duration) -> Shared {
        Shared {
            notes,
            dotlocks,
            patience: AtomicU64::new(patience.as_millis() as u64),
            open: Mutex::default(),
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
    source: Source,
    /// Others held a lock all the time when it was last wanted. Whoever comes next has one quick look: the threads of
    /// clients shall not gather where one mailbox is locked for long.
    busy: bool,
    /// An extension that is not known to be whole, nor to be cut back. Nothing is appended before
    /// that is settled.
    owed: Option<Owed>,
}

struct Owed {
    slot: Option<Slot>,
    note: Note,
    /// It is our own, so it must go even if it is whole: nobody was told that it is safe. One of a
    /// process that was killed stays if it is whole.
    ours: bool,
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
                source: Source::default(),
                busy: false,
                owed: None,
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

    /// Settles what a killed process left (`note`, kept in `slot`): Some(what was cut) for the log.
    /// An error leaves the matter open, to be settled before the next append.
    pub(crate) fn recover(
        &self,
        place: &Place,
        slot: Slot,
        note: Note,
        patience: Duration,
    ) -> Result<Option<String>, MailboxError> {
        let mut state = self.state();
        state.owed = Some(Owed {
            slot: Some(slot),
            note,
            ours: false,
        });
        match self.lock(&mut state, place, patience, false) {
            Ok((held, open, size)) => {
                let report = self.settle(&mut state, place, &open, size)?.1;
                drop(held);
                Ok(report)
            }
            // The file is gone, or something else is in its place: there is nothing of ours to cut.
            Err(error) if matches!(&error, MailboxError::NotAFile(_)) || error.is_not_found() => {
                self.strike_out(&mut state);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // After a panic the state is whole: `owed` tells what was begun.
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
        let (from, report) = self.settle(state, place, &open, size)?;
        if let Some(report) = report {
            log::warn!("{report}");
        }
        let gap = missing_end(&open.file, from)?;
        let most = from + gap.len() as u64 + gather::most_octets(batch);
        self.note(state, place, &open, from, most)?;

        let outcome = self.write(state, &open, from, gap, batch);
        if outcome.is_err() {
            self.cut_back(state, &open.file, from);
        } else {
            self.strike_out(state);
        }
        drop(held);
        outcome
    }

    /// Writes and syncs. On an error the file has still to be cut back.
    fn write(
        &self,
        state: &State,
        open: &Open,
        from: u64,
        gap: &'static [u8],
        batch: &[MailboxMessage],
    ) -> Result<Vec<Outcome>, MailboxError> {
        let (outcomes, end) = match gather::write_copies(&open.file, from, gap, batch) {
            Ok(end) => (batch.iter().map(|_| Ok(())).collect(), end),
            Err(error) if batch.len() == 1 => return Err(error.into()),
            Err(_) => write_singly(&open.file, from, gap, batch)?,
        };
        if let Some(Owed {
            slot: Some(slot),
            note,
            ..
        }) = &state.owed
            && note.to != end
        {
            // From here on the file is whole at its present length.
            slot.write(&Note {
                to: end,
                ..note.clone()
            })?;
        }
        // Never a second time: after a failed sync the system may have dropped what it could not
        // write.
        open.file.sync_data()?;
        self.shared.batches.fetch_add(1, Ordering::Relaxed);
        let written = outcomes
            .iter()
            .filter(|outcome: &&Outcome| outcome.is_ok())
            .count();
        self.shared
            .messages
            .fetch_add(written as u64, Ordering::Relaxed);
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
            let (dotlocks, source) = (&self.shared.dotlocks, &mut state.source);
            let locked = lock(place, &open.file, dotlocks, source, &mut wait);
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

    /// Keeps the file for the next batch; for one too many, another mailbox's is closed.
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
        if all.len() > KEPT_OPEN
            && let Some(oldest) = all.pop_front()
            && let Some(mbox) = oldest.upgrade()
        {
            // One that is at work now is no candidate. (This one is locked too, by ourselves.)
            match mbox.state.try_lock() {
                Ok(mut other) => (other.open, other.listed) = (None, false),
                Err(_) => all.push_back(oldest),
            }
        }
    }

    fn note(
        &self,
        state: &mut State,
        place: &Place,
        open: &Open,
        from: u64,
        to: u64,
    ) -> Result<(), MailboxError> {
        let note = Note {
            path: place.path.clone(),
            dev: open.id.0,
            ino: open.id.1,
            from,
            to,
        };
        let slot = self.shared.notes.as_ref().map(Notes::slot);
        if let Some(slot) = &slot {
            slot.write(&note)?;
        }
        state.owed = Some(Owed {
            slot,
            note,
            ours: true,
        });
        Ok(())
    }

    /// Cuts back what was not settled; the length of the file then, and what was cut.
    fn settle(
        &self,
        state: &mut State,
        place: &Place,
        open: &Open,
        size: u64,
    ) -> Result<(u64, Option<String>), MailboxError> {
        let Some(Owed { note, ours, .. }) = &state.owed else {
            return Ok((size, None));
        };
        let torn = note.from < size && (size < note.to || *ours && size == note.to);
        if (note.dev, note.ino) != open.id || !torn {
            self.strike_out(state);
            return Ok((size, None));
        }
        let from = note.from;
        open.file.set_len(from)?;
        open.file.sync_data()?;
        self.strike_out(state);
        let path = place.shown();
        Ok((
            from,
            Some(format!(
                "recovered mailbox={path} cut={} size={from}",
                size - from
            )),
        ))
    }

    /// After an error. If the file can't be cut now, it stays owed, and the note stays too.
    fn cut_back(&self, state: &mut State, file: &File, from: u64) {
        if file.set_len(from).is_ok() {
            // So that a power failure doesn't bring the torn end back; what matters was reported
            // before.
            let _ = file.sync_data();
            self.strike_out(state);
        }
    }

    fn strike_out(&self, state: &mut State) {
        if let Some(Owed {
            slot: Some(slot), ..
        }) = state.owed.take()
        {
            // A note that stays by a fault of the disk is the first to be overwritten; till then it
            // harms only if the file is cut by others to a length between these two.
            let _ = slot.clear();
        }
    }
}

/// One by one, after the batch as a whole could not be written: the error of one huge message is
/// its own.
fn write_singly(
    file: &File,
    from: u64,
    gap: &'static [u8],
    batch: &[MailboxMessage],
) -> io::Result<(Vec<Outcome>, u64)> {
    file.set_len(from)?;
    let mut end = from;
    let mut outcomes = Vec::with_capacity(batch.len());
    for copy in batch {
        let gap = if end == from { gap } else { b"" };
        match gather::write_copies(file, end, gap, std::slice::from_ref(copy)) {
            Ok(new_end) => {
                end = new_end;
                outcomes.push(Ok(()));
            }
            Err(error) => {
                file.set_len(end)?;
                outcomes.push(Err(error.into()));
            }
        }
    }
    Ok((outcomes, end))
}
