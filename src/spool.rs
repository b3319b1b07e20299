//! The spool: one durable file a message.
use crate::message::{Body, Id};
use crate::smtp::address::{ForwardPath, ReversePath};
use std::io;
use std::path::Path;
use std::time::SystemTime;
pub struct Spool {}
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    #[error("{0} is in use by another smtpd788 (process {1})")]
    InUse(std::path::PathBuf, String),
    #[error("{0}: {1}")]
    Io(std::path::PathBuf, io::Error),
}
/// A message to be accepted. `heading` is our time stamp line.
pub struct NewEntry<'a> {
    pub id: Id,
    pub from: &'a ReversePath,
    pub received: SystemTime,
    pub to: &'a [ForwardPath],
    pub heading: &'a [u8],
    pub body: &'a Body,
    pub next_try: SystemTime,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Done,
}
#[derive(Clone, Debug)]
pub struct Recipient {
    pub to: ForwardPath,
    pub state: State,
    pub last_answer: String,
}
/// A waiting message, read back.
pub struct Queued {
    pub id: Id,
    pub from: ReversePath,
    pub received: SystemTime,
    pub tries: u32,
    pub next_try: SystemTime,
    pub recipients: Vec<Recipient>, /* + file, offsets */
}
impl Spool {
    /// Makes the folder (0700), takes the lock, removes `.new` leftovers.
    pub fn open(_dir: &Path) -> Result<Spool, SpoolError> {
        todo!()
    }
    pub fn dir(&self) -> &Path {
        todo!()
    }
    /// Durable when it returns Ok: write, fsync, rename, fsync of the folder. On Err nothing is left.
    pub fn accept(&self, _entry: &NewEntry<'_>) -> io::Result<()> {
        todo!()
    }
    /// Takes back a message that was just accepted and that nobody was told of.
    pub fn withdraw(&self, _id: Id) {
        todo!()
    }
    /// Every waiting message and its next try, without opening it. Strangers are logged and left.
    pub fn scan(&self, _each: &mut dyn FnMut(Id, SystemTime)) -> io::Result<()> {
        todo!()
    }
    /// Reads a message's envelope. A damaged file is moved to corrupt/ and logged.
    pub fn load(&self, _id: Id) -> io::Result<Option<Queued>> {
        todo!()
    }
}
impl Queued {
    /// Heading and content as the file holds them, LF-ended.
    pub fn body(&self) -> io::Result<Body> {
        todo!()
    }
    /// Records a recipient's fate in place, durably (fdatasync).
    pub fn finish_recipient(&mut self, _index: usize, _answer: &str) -> io::Result<()> {
        todo!()
    }
    /// Notes the last answer (not synced: advice for --queue and the report).
    pub fn note(&mut self, _index: usize, _answer: &str) -> io::Result<()> {
        todo!()
    }
    /// One more try failed: number of tries and the next try (mtime).
    pub fn defer(&mut self, _tries: u32, _next_try: SystemTime) -> io::Result<()> {
        todo!()
    }
    /// All recipients are finished: gone for good.
    pub fn remove(self) -> io::Result<()> {
        todo!()
    }
}
/// `--queue`: the spool as a table, no daemon needed; None if there is none or it is empty.
pub fn table(_dir: &Path) -> io::Result<Option<String>> {
    todo!()
}
