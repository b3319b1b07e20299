//! What was received.
use crate::config::TimeStamp;
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::time::SystemTime;
/// 16 lower-case hex digits; unique in a process, ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);
impl Id {
    pub fn new() -> Id {
        todo!()
    }
    pub fn parse(_s: &str) -> Option<Id> {
        todo!()
    }
}
impl std::fmt::Display for Id {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Envelope {
    pub id: Id,
    pub helo: Host,
    pub client: IpAddr,
    pub from: ReversePath,
    pub to: Vec<ForwardPath>,
    pub received: SystemTime,
}
#[derive(Debug)]
#[non_exhaustive]
pub struct Message {
    pub envelope: Envelope,
    pub body: Body,
}
/// LF-ended content, in memory or a region of a file. Shareable between threads (reads by pread).
#[derive(Debug)]
pub struct Body(Content);
#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    File { file: File, offset: u64, len: u64 },
}
impl Body {
    pub fn from_bytes(bytes: Vec<u8>) -> Body {
        Body(Content::Memory(bytes))
    }
    /// `len` octets at `offset` of `file`.
    pub fn from_file(file: File, offset: u64, len: u64) -> Body {
        Body(Content::File { file, offset, len })
    }
    pub fn len(&self) -> u64 {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Some(content) if it is in memory.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        todo!()
    }
    /// Some((file, offset)) if it is a region of a file: for sendfile.
    pub fn as_file(&self) -> Option<(&File, u64)> {
        todo!()
    }
    /// Whether some line may match `^>*From ` (false is certain, true is a perhaps).
    pub fn may_need_quoting(&self) -> bool {
        todo!()
    }
    /// Reads at most `buf.len()` octets at `at`.
    pub fn read_at(&self, _at: u64, _buf: &mut [u8]) -> io::Result<usize> {
        todo!()
    }
    /// A reader of the whole content from the start.
    pub fn reader(&self) -> impl io::Read + '_ {
        io::empty()
    }
}
/// The time stamp line (RFC 788 4.1.2 or `Received:`), LF-ended; `for` only with one recipient.
pub fn time_stamp_line(_style: TimeStamp, _hostname: &Host, _envelope: &Envelope) -> String {
    todo!()
}
/// mbox: `From ` line and Return-Path line, LF-ended. (`MAILER-DAEMON` for `<>`.)
pub fn mbox_heading(_from: &ReversePath, _now: SystemTime) -> String {
    todo!()
}
