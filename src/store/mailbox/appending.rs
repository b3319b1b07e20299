//! `SPOOL_DIR/appending`: notes of which mbox file is about to grow from which length to which.
//!
//! A process can be killed in the middle of a write, and then nobody is left to cut the file back.
//! So each extension is noted before its first octet is written, and struck out before the mailbox
//! is unlocked. The next start finds the notes that were not struck out. Notes are never synced:
//! what a killed process wrote is in the system's page cache, and it is only there for that. (After
//! a power failure a note may be missing; the mailbox then ends in a torn message, which no sender
//! was told is safe.)
//!
//! One slot of a page for each extension in progress, so a note is never torn itself, and the file
//! never larger than the most mailboxes ever written at once. A slot reads `+ DEV INODE FROM TO
//! LENGTH PATH`; a note struck out has `-` for its `+`. What follows the path is left over from
//! older notes.

use crate::store::files::read_full;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The smallest page there is, so no slot lies on two.
const SLOT: u64 = 4096;

/// One mbox file that is about to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Absolute, its directory without links.
    pub(crate) path: PathBuf,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    /// The file's length before.
    pub(crate) from: u64,
    /// Its length after; while it is being written, the most that this can come to.
    pub(crate) to: u64,
}

impl Note {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let path = self.path.as_os_str().as_bytes();
        let mut text = Vec::with_capacity(path.len() + 96);
        write!(
            text,
            "+ {} {} {} {} {} ",
            self.dev,
            self.ino,
            self.from,
            self.to,
            path.len()
        )?;
        text.extend_from_slice(path);
        text.push(b'\n');
        if text.len() as u64 > SLOT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidFilename,
                "the path is too long to be noted",
            ));
        }
        Ok(text)
    }

    /// None if the note is struck out, or is none.
    fn decode(slot: &[u8]) -> Option<Note> {
        let mut words = slot.strip_prefix(b"+ ")?.splitn(6, |&octet| octet == b' ');
        let mut number = || str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
        let [dev, ino, from, to, len] = [number()?, number()?, number()?, number()?, number()?];
        let path = words.next()?.get(..usize::try_from(len).ok()?)?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        Some(Note {
            path,
            dev,
            ino,
            from,
            to,
        })
    }
}

/// A note that was not struck out, kept in its slot until it is.
pub(crate) type Found = (Slot, Note);

/// The open file of notes.
pub(crate) struct Notes {
    file: File,
    slots: Mutex<Slots>,
}

struct Slots {
    free: Vec<u64>,
    count: u64,
}

impl Notes {
    /// Opens or makes the file in `spool`, and returns what was not struck out, each note in its
    /// slot.
    pub(crate) fn open(spool: &Path) -> io::Result<(Arc<Notes>, Vec<Found>)> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
        let file = options.open(spool.join("appending"))?;
        let count = file.metadata()?.len().div_ceil(SLOT);
        let notes = Arc::new(Notes {
            file,
            slots: Mutex::new(Slots {
                free: Vec::new(),
                count,
            }),
        });
        let mut found = Vec::new();
        let mut text = vec![0; SLOT as usize];
        for index in 0..count {
            let len = read_full(&notes.file, index * SLOT, &mut text)?;
            // One that holds no note is free again when it is dropped here.
            let slot = Slot {
                notes: Arc::clone(&notes),
                index,
            };
            if let Some(note) = Note::decode(&text[..len]) {
                found.push((slot, note));
            }
        }
        Ok((notes, found))
    }

    /// A slot for one extension; a struck out one if there is any.
    pub(crate) fn slot(self: &Arc<Notes>) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.count += 1;
            slots.count - 1
        });
        Slot {
            notes: Arc::clone(self),
            index,
        }
    }
}

/// The place of one note; free for another when dropped.
pub(crate) struct Slot {
    notes: Arc<Notes>,
    index: u64,
}

impl Slot {
    /// Puts `note` in the place of what was there.
    pub(crate) fn write(&self, note: &Note) -> io::Result<()> {
        self.notes
            .file
            .write_all_at(&note.encode()?, self.index * SLOT)
    }

    /// Strikes the note out.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.notes.file.write_all_at(b"-", self.index * SLOT)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.notes
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free
            .push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(path: &[u8], from: u64) -> Note {
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        Note {
            path,
            dev: 7,
            ino: u64::MAX,
            from,
            to: from + 10,
        }
    }

    #[test]
    fn what_is_not_struck_out_is_found_again_in_its_slot() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, found) = Notes::open(folder.path()).unwrap();
        assert!(found.is_empty());
        let all = [
            note(b"/a very much longer path", 1),
            note(b"/b b\n\xff", 2),
            note(b"/c", 3),
        ];
        let slots: Vec<Slot> = all.iter().map(|_| notes.slot()).collect();
        for (slot, note) in slots.iter().zip(&all) {
            slot.write(note).unwrap();
        }
        slots[0].clear().unwrap();
        drop((slots, notes));
        let (notes, found) = Notes::open(folder.path()).unwrap();
        assert!(found.iter().map(|(_, note)| note).eq(&all[1..]));
        // The slot that was struck out is taken before a new one, and a shorter path leaves no
        // trace of the longer.
        let slot = notes.slot();
        assert_eq!(slot.index, 0);
        slot.write(&all[2]).unwrap();
        assert_eq!(notes.slot().index, 3);
        drop((slot, found, notes));
        assert_eq!(Notes::open(folder.path()).unwrap().1[0].1, all[2]);
    }

    #[test]
    fn what_is_no_note_is_none() {
        for text in [
            &b""[..],
            b"+",
            b"- 1 2 3 4 2 /a\n",
            b"+ 1 2 3 4 9 /a\n",
            b"+ 1 2 3 4 /a\n",
            b"+ 1 x 3 4 2 /a\n",
        ] {
            assert_eq!(Note::decode(text), None);
        }
        assert!(note(&[b'/'; 4096], 1).encode().is_err());
    }
}
