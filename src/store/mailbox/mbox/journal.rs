//! `SPOOL_DIR/appending`, the append journal: which mbox file is being extended, from which length, by what.
//!
//! A process can be killed in the middle of a write, and then nobody is left to cut the file back. So each write has an
//! entry here before its first octet is written, and the entry is cleared before the mailbox is unlocked. The next
//! start finds the entries that were not cleared. The journal is never synced: what a killed process wrote is in the
//! system's page cache, and it is only there for that. After a power failure an entry may be missing, and the mailbox
//! may end in a torn message, which no sender was told is safe; or an entry may be there that was cleared long ago. So
//! an entry proves something only in the boot that it was made in.
//!
//! What it proves is that the file ends in a part of our append and in nothing else. The system copies a write page by
//! page, so a killed one ends where a page of the file ends. For each length that the write under way can leave, the
//! entry holds a checksum of all that was appended up to there. A file with any other length, or with other octets
//! behind the old length, is left as it is: another program has written to it since.
//!
//! There is one slot of a page for each append under way, so an entry is never torn itself, and the file is never larger
//! than the most mailboxes ever written at once. A slot reads `+ BOOT DEV INODE FROM WHOLE PATH-LENGTH ENDS PATH`, with
//! `LENGTH:CHECKSUM,` for each end; a cleared one has `-` for its `+`. What follows the path is left over from older
//! entries.

use crate::store::files::read_full;
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The file's name in SPOOL_DIR.
pub(crate) const NAME: &str = "appending";
/// Slots that have room on the disk from the start.
const PREPARED: u64 = 16;
/// The smallest page there is, so no slot lies on two, and every larger page ends where one of these does.
const PAGE: u64 = 4096;

/// A length of the file, and the checksum of what was appended up to there.
pub(crate) type End = (u64, u64);

/// The checksum of what is appended, as far as it is appended: Fletcher's sums over the file's words of eight octets.
/// It tells texts apart that nobody has made to be alike, and a megabyte costs about an eighth of a millisecond.
#[derive(Clone)]
pub(crate) struct Sum {
    /// The file's length so far.
    pub(crate) at: u64,
    sum: u64,
    sum_of_sums: u64,
    /// The octets of the last word, which is not full.
    word: u64,
}

impl Sum {
    /// Nothing is appended yet to a file of this length.
    pub(crate) fn new(from: u64) -> Sum {
        Sum {
            at: from,
            // Not 0, so that words of nothing but 0 count.
            sum: 1,
            sum_of_sums: 0,
            word: 0,
        }
    }

    /// Goes on by what is in `parts`, `most` octets of it at most; returns where a killed write of it can end.
    pub(crate) fn advance(&mut self, parts: &[IoSlice<'_>], mut most: usize) -> Vec<End> {
        let mut ends = vec![self.end()];
        for part in parts {
            let mut rest = &part[..part.len().min(most)];
            most -= rest.len();
            while !rest.is_empty() {
                let to_page_end = (PAGE - self.at % PAGE) as usize;
                let (now, later) = rest.split_at(rest.len().min(to_page_end));
                self.add(now);
                if self.at.is_multiple_of(PAGE) {
                    ends.push(self.end());
                }
                rest = later;
            }
        }
        ends.push(self.end());
        ends
    }

    pub(crate) fn end(&self) -> End {
        (
            self.at,
            self.sum ^ self.sum_of_sums.rotate_left(32) ^ self.word,
        )
    }

    fn add(&mut self, octets: &[u8]) {
        let to_word_end = (self.at.wrapping_neg() % 8) as usize;
        let (head, rest) = octets.split_at(octets.len().min(to_word_end));
        let (words, tail) = rest.as_chunks();
        self.add_octets(head);
        for word in words {
            self.add_word(u64::from_le_bytes(*word));
        }
        self.at += words.len() as u64 * 8;
        self.add_octets(tail);
    }

    fn add_octets(&mut self, octets: &[u8]) {
        for &octet in octets {
            self.word |= u64::from(octet) << (self.at % 8 * 8);
            self.at += 1;
            if self.at.is_multiple_of(8) {
                let word = std::mem::take(&mut self.word);
                self.add_word(word);
            }
        }
    }

    fn add_word(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word);
        self.sum_of_sums = self.sum_of_sums.wrapping_add(self.sum);
    }
}

/// One append to an mbox file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Absolute, its directory without links.
    pub(crate) path: PathBuf,
    /// Device and inode.
    pub(crate) id: (u64, u64),
    /// The file's length before.
    pub(crate) from: u64,
    /// Where the write under way can end, in ascending order; the last is where it is done.
    pub(crate) ends: Vec<End>,
    /// The append is whole once this write is done.
    pub(crate) whole: bool,
}

impl Entry {
    /// Whether `file`, with `id` and of `size` octets, ends in what was appended and in nothing else; for a `torn` one
    /// only if it is not whole.
    pub(crate) fn explains(
        &self,
        file: &File,
        id: (u64, u64),
        size: u64,
        torn: bool,
    ) -> io::Result<bool> {
        let Some(&end) = self.ends.iter().find(|end| end.0 == size) else {
            return Ok(false);
        };
        let is_whole = self.whole && self.ends.last() == Some(&end);
        if id != self.id || size <= self.from || torn && is_whole {
            return Ok(false);
        }
        let mut sum = Sum::new(self.from);
        let mut chunk = vec![0; 64 * 1024];
        while sum.at < size {
            let most = chunk.len().min((size - sum.at) as usize);
            let len = read_full(file, sum.at, &mut chunk[..most])?;
            if len == 0 {
                return Ok(false);
            }
            sum.advance(&[IoSlice::new(&chunk[..len])], len);
        }
        Ok(sum.end() == end)
    }

    fn encode(&self, boot: &str) -> io::Result<Vec<u8>> {
        let path = self.path.as_os_str().as_bytes();
        let mut text = Vec::with_capacity(PAGE as usize);
        let (dev, ino) = self.id;
        let (from, whole, len) = (self.from, u8::from(self.whole), path.len());
        write!(text, "+ {boot} {dev} {ino} {from} {whole} {len} ")?;
        for (length, checksum) in &self.ends {
            write!(text, "{length}:{checksum:x},")?;
        }
        text.push(b' ');
        text.extend_from_slice(path);
        text.push(b'\n');
        match text.len() as u64 <= PAGE {
            true => Ok(text),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidFilename,
                "the path is too long for the append journal",
            )),
        }
    }

    /// None if the slot is cleared, holds no entry, or one of another boot.
    fn decode(slot: &[u8], boot: &str) -> Option<Entry> {
        let mut words = slot.strip_prefix(b"+ ")?.splitn(8, |&octet| octet == b' ');
        let mut word = || str::from_utf8(words.next()?).ok();
        if boot.is_empty() || word()? != boot {
            return None;
        }
        let mut number = || word()?.parse::<u64>().ok();
        let [dev, ino, from, whole, len] = [number()?, number()?, number()?, number()?, number()?];
        let mut ends = Vec::new();
        for end in word()?.split_terminator(',') {
            let (length, checksum) = end.split_once(':')?;
            ends.push((
                length.parse().ok()?,
                u64::from_str_radix(checksum, 16).ok()?,
            ));
        }
        let path = words.next()?.get(..usize::try_from(len).ok()?)?;
        Some(Entry {
            path: PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())),
            id: (dev, ino),
            from,
            ends,
            whole: whole == 1,
        })
    }
}

/// An entry that was not cleared, kept in its slot until it is.
pub(crate) type Found = (Slot, Entry);

/// The open journal.
pub(crate) struct Journal {
    file: File,
    /// The id of this boot; empty if the system does not tell it: then nothing is ever proved.
    boot: String,
    /// The slots in use.
    taken: Mutex<BTreeSet<u64>>,
    path: PathBuf,
    reported: AtomicBool,
}

impl Journal {
    /// Opens or makes the journal in `spool`, and returns the entries of this boot that were not cleared, each with its
    /// slot.
    pub(crate) fn open(spool: &Path) -> io::Result<(Arc<Journal>, Vec<Found>)> {
        // proc_sys_kernel(5): a random text for each boot.
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
        let file = options.truncate(false).open(spool.join(NAME))?;
        // So that the first slots can be written even when the disk is full; where it can't be done, they may fail.
        let ahead = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _ = fallocate(&file, ahead, 0, (PREPARED * PAGE).cast_signed());
        let journal = Arc::new(Journal {
            file,
            boot: boot.trim().to_owned(),
            taken: Mutex::default(),
            path: spool.join(NAME),
            reported: AtomicBool::new(false),
        });
        let mut found = Vec::new();
        let mut text = vec![0; PAGE as usize];
        for index in 0.. {
            let len = read_full(&journal.file, index * PAGE, &mut text)?;
            if len == 0 {
                break;
            }
            if let Some(entry) = Entry::decode(&text[..len], &journal.boot) {
                journal.taken().insert(index);
                let journal = Arc::clone(&journal);
                found.push((Slot { journal, index }, entry));
            }
        }
        Ok((journal, found))
    }

    /// A slot for one append: the first that is free.
    pub(crate) fn slot(self: &Arc<Journal>) -> Slot {
        let mut taken = self.taken();
        let free = (0..).find(|index| !taken.contains(index));
        let index = free.unwrap_or_default();
        taken.insert(index);
        Slot {
            journal: Arc::clone(self),
            index,
        }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of one entry; free for another when dropped.
pub(crate) struct Slot {
    journal: Arc<Journal>,
    index: u64,
}

impl Slot {
    /// Puts `entry` in the place of what was there.
    pub(crate) fn write(&self, entry: &Entry) -> io::Result<()> {
        let text = entry.encode(&self.journal.boot)?;
        self.journal.file.write_all_at(&text, self.index * PAGE)
    }

    /// Says once that an entry could not be written.
    pub(crate) fn report(&self, error: &io::Error) {
        if !self.journal.reported.swap(true, Ordering::Relaxed) {
            let path = self.journal.path.display();
            log::error!("cannot write {path}, mailboxes are written without: {error}");
        }
    }

    /// The append is finished, or undone.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.journal.file.write_all_at(b"-", self.index * PAGE)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.journal.taken().remove(&self.index);
    }
}
