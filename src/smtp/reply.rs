use super::address::{ForwardPath, Host};
use std::borrow::Cow;
/// One reply of ours: one line, at most 512 octets with CRLF, printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    text: Cow<'static, str>,
}
impl Reply {
    pub fn code(&self) -> u16 {
        self.code
    }
    pub fn text(&self) -> &str {
        &self.text
    }
    /// 4yz or 5yz
    pub fn is_error(&self) -> bool {
        self.code >= 400
    }
    /// Appends "CODE text\r\n".
    pub fn write(&self, _out: &mut Vec<u8>) {
        todo!()
    }
    // every reply that we give, one constructor each, in one list, e.g.
    pub fn ready(_host: &Host) -> Reply {
        todo!("220 HOSTNAME Simple Mail Transfer Service Ready")
    }
    pub fn full(_host: &Host) -> Reply {
        todo!("421 HOSTNAME too many clients...")
    }
    pub fn stopping(_host: &Host) -> Reply {
        todo!("421")
    }
    pub fn timeout(_host: &Host) -> Reply {
        todo!("421")
    }
    pub fn will_forward(_path: &ForwardPath) -> Reply {
        todo!("251")
    }
    pub fn stored(_id: impl std::fmt::Display) -> Reply {
        todo!("250 OK id=ID")
    }
}
/// A reply of another host, read incrementally and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteReply {
    pub code: u16,
    pub lines: Vec<String>,
}
impl RemoteReply {
    /** the text in one line, lines joined by " / ", escaped printable */
    pub fn text(&self) -> String {
        todo!()
    }
}
#[derive(Debug, Default)]
pub struct ReplyReader {}
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    #[error("not a reply")]
    Malformed,
    #[error("a reply line is too long")]
    LineTooLong,
    #[error("a reply has too many lines")]
    TooManyLines,
}
impl ReplyReader {
    /// Takes bytes; returns how many it used and, once whole, the reply. Lenient on LF alone, "250" without text, "250-" lines.
    pub fn feed(&mut self, _input: &[u8]) -> Result<(usize, Option<RemoteReply>), ReplyError> {
        todo!()
    }
}
