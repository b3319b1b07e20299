//! One waiting message of the spool, opened: its envelope read, its fields ready to be written over.
//!
//! Two of these may be open on one file at once, as long as they work on different recipients: each
//! writes only its own recipients' fields, and one of them at the end the number of tries.
//!
//! A recipient is finished by a state and an answer written in place and an fdatasync. When everybody is
//! finished the file is unlinked or renamed, which spares the last of these (states 7 and 8 of `spool/mod.rs`).

use super::folder::{Folder, InUse};
use super::format::{self, Envelope, FIRST_READ, Fault, NewRecipient, Origin, State};
use super::owner::is_our_user;
use super::recycled::Recycled;
use crate::message::{Body, Id};
use crate::smtp::address::ReversePath;
use crate::store::directory::denied;
use crate::store::files::read_full;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::SystemTime;

/// A message to be accepted.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// Names the file.
    pub id: Id,
    /// The message that this is a copy of, if another file or a mailbox has its id.
    pub of: Option<Id>,
    /// Where reports go.
    pub from: &'a ReversePath,
    /// When its end was received; QUEUE_LIFETIME counts from here.
    pub received: SystemTime,
    /// Who sent it.
    pub origin: Origin,
    /// At least one.
    pub to: &'a [NewRecipient],
    /// Our time stamp line, LF-ended.
    pub heading: &'a [u8],
    /// The content, LF-ended.
    pub body: &'a Body,
    /// When it is due first.
    pub next_try: SystemTime,
}

/// A waiting message, read back.
#[derive(Debug)]
pub struct Queued {
    envelope: Envelope,
    /// When it was due, as the file has it.
    pub next_try: SystemTime,
    folder: Arc<Folder>,
    file: File,
    /// The first octets of the file.
    head: Vec<u8>,
    /// While this is there, the file is not recycled by another.
    _in_use: InUse,
}

/// A message reads like its envelope.
impl Deref for Queued {
    type Target = Envelope;

    fn deref(&self) -> &Envelope {
        &self.envelope
    }
}

/// Why a file was not opened.
#[derive(Debug)]
pub(crate) enum LoadError {
    Vanished,
    /// The text says how.
    Damaged(String),
    Io(io::Error),
}

impl From<io::Error> for LoadError {
    fn from(e: io::Error) -> LoadError {
        LoadError::Io(e)
    }
}

impl Queued {
    pub(crate) fn open(folder: &Arc<Folder>, id: Id) -> Result<Queued, LoadError> {
        let in_use = folder.use_message(id, false);
        let name = id.to_string();
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        let file = match folder.directory.open_file(name.as_ref(), flags, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LoadError::Vanished);
            }
            file => file?,
        };
        if !is_our_user(file.metadata()?.uid()) {
            return Err(LoadError::Io(denied("the file belongs to somebody else")));
        }
        let (head, envelope, next_try) = read_envelope(&file, id)?;
        Ok(Queued {
            envelope,
            next_try,
            folder: Arc::clone(folder),
            file,
            head,
            _in_use: in_use,
        })
    }

    /// One that was just written, without reading it back.
    pub(crate) fn accepted(
        folder: &Arc<Folder>,
        file: File,
        mut head: Vec<u8>,
        envelope: Envelope,
        entry: &NewEntry<'_>,
        in_use: InUse,
    ) -> Queued {
        if let Some(content) = entry.body.as_bytes()
            && head.len() as u64 + envelope.size <= FIRST_READ as u64
        {
            head.extend_from_slice(entry.heading);
            head.extend_from_slice(content);
        }
        Queued {
            envelope,
            next_try: entry.next_try,
            folder: Arc::clone(folder),
            file,
            head,
            _in_use: in_use,
        }
    }

    /// Heading and content as the file holds them, LF-ended.
    pub fn body(&self) -> io::Result<Body> {
        match self.head.get(self.body_at..) {
            Some(content) if content.len() as u64 == self.size => {
                Ok(Body::from_bytes(content.to_vec()))
            }
            _ => Ok(Body::from_file(
                self.file.try_clone()?,
                self.body_at as u64,
                self.size,
            )),
        }
    }

    /// Whether nobody waits any more.
    pub fn is_finished(&self) -> bool {
        self.recipients.iter().all(|r| r.state == State::Done)
    }

    /// Records a recipient's fate in place, durably.
    pub fn finish_recipient(&mut self, index: usize, answer: &str) -> io::Result<()> {
        self.finish(&[(index, answer)])
    }

    /// The same for several, with one sync. An index that is none is passed over.
    pub fn finish(&mut self, fates: &[(usize, &str)]) -> io::Result<()> {
        for (index, answer) in fates {
            self.note(*index, answer)?;
            if let Some(recipient) = self.recipients.get(*index) {
                self.write(format::state_field(State::Done), recipient.state_at)?;
            }
        }
        self.file.sync_data()?;
        for (index, _) in fates {
            if let Some(recipient) = self.envelope.recipients.get_mut(*index) {
                recipient.state = State::Done;
            }
        }
        Ok(())
    }

    /// Notes the last answer; not synced, it is for people.
    pub fn note(&mut self, index: usize, answer: &str) -> io::Result<()> {
        let Some(recipient) = self.envelope.recipients.get_mut(index) else {
            return Ok(());
        };
        recipient.last_answer = answer.to_owned();
        let at = recipient.answer_at;
        self.write(&format::answer_field(answer), at)
    }

    fn write(&self, field: &[u8], at: usize) -> io::Result<()> {
        self.file.write_all_at(field, at as u64)
    }

    /// Sets the number of tries and the next one. The last write of a round, since every write sets the
    /// modification time; not synced: at worst the next try comes early.
    pub fn defer(&mut self, tries: u32, next_try: SystemTime) -> io::Result<()> {
        if tries != self.tries {
            self.write(&format::tries_field(tries), self.tries_at)?;
        }
        self.file.set_modified(next_try)?;
        (self.envelope.tries, self.next_try) = (tries, next_try);
        Ok(())
    }

    /// Everybody is served: the file goes, durably, and that is the record of those who were not recorded before.
    pub fn remove(&self) -> io::Result<()> {
        self.folder.remove(self.id)
    }

    /// The same, but a small file that nobody else has open is recycled. `true`: it is the first such file, and somebody
    /// should [`purge`](super::Spool::purge) in a while. If it fails, the message is given back.
    pub fn recycle(self) -> Result<bool, (Box<Queued>, io::Error)> {
        let len = self.body_at as u64 + self.size;
        match self.folder.recycle(self.id, len) {
            Ok(None) => Ok(false),
            Ok(Some(name)) => {
                let file = self.file;
                Ok(self.folder.recycled.put(Recycled { file, name }))
            }
            Err(error) => Err((Box::new(self), error)),
        }
    }
}

/// Reads as much of a file as its envelope needs and checks it against the name and the length.
pub(crate) fn read_envelope(
    file: &File,
    id: Id,
) -> Result<(Vec<u8>, Envelope, SystemTime), LoadError> {
    let status = file.metadata()?;
    let damaged = |why: &dyn std::fmt::Display| LoadError::Damaged(why.to_string());
    if !status.is_file() {
        return Err(damaged(&"it is not a regular file"));
    }
    let mut head = Vec::new();
    let length = usize::try_from(status.len()).unwrap_or(usize::MAX);
    let mut want = FIRST_READ;
    let envelope = loop {
        let whole = !read_up_to(file, &mut head, want.min(length))? || want >= length;
        match format::parse(&head) {
            Ok(envelope) => break envelope,
            Err(Fault::Unfinished) if !whole && want < format::MAX_ENVELOPE => want *= 4,
            Err(fault) => return Err(damaged(&fault)),
        }
    };
    if envelope.id != id {
        return Err(damaged(&format_args!(
            "it says that its id is {}",
            envelope.id
        )));
    }
    let found = status.len().saturating_sub(envelope.body_at as u64);
    if found != envelope.size {
        let why =
            format_args!("it has {found} octets of message, not {}", envelope.size).to_string();
        return Err(damaged(&why));
    }
    Ok((head, envelope, status.modified()?))
}

/// Extends `head` to `want` octets of the file; false if the file ends before.
fn read_up_to(file: &File, head: &mut Vec<u8>, want: usize) -> io::Result<bool> {
    let filled = head.len();
    head.resize(want, 0);
    let more = read_full(file, filled as u64, &mut head[filled..])?;
    head.truncate(filled + more);
    Ok(filled + more == want)
}
