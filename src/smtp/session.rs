use super::{
    address::{ForwardPath, Host, ReversePath},
    reply::Reply,
};
/// What the session's driver does next.
#[derive(Debug)]
pub enum Step {
    /// Send it, go on.
    Reply(Reply),
    /// HELO was accepted with this host; send the reply. The driver refreshes its settings here.
    Greeted(Reply),
    /// A transaction begins (any earlier one is gone). Send the reply.
    Begin(Reply),
    /// Decide on this recipient, then call `recipient`.
    Recipient(ForwardPath),
    /// The transaction was reset by RSET or HELO... send the reply, drop what was kept.
    Reset(Reply),
    /// Send 354, read mail data, then call `finish`.
    Data(Reply),
    /// Send, then close.
    Close(Reply),
}
/// The decision on one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    Accept,
    Forward(ForwardPath),
    NoSuchUser,
    RelayDenied,
    TryLater,
}
/// How the end of mail data is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    Stored(String),
    LocalError,
    NoSpace,
    TooLarge,
    BareLineEnd,
    Loop,
}
/// What a transaction collected.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub helo: Host,
    pub from: ReversePath,
    pub to: Vec<ForwardPath>,
}
#[derive(Debug)]
pub struct Session {}
impl Session {
    pub fn new(_hostname: Host, _max_recipients: usize) -> Session {
        todo!()
    }
    /// New settings, at HELO or MAIL (called by the driver before it passes the line on).
    pub fn set_max_recipients(&mut self, _n: usize) {
        todo!()
    }
    pub fn reverse_path(&self) -> Option<&ReversePath> {
        todo!()
    }
    pub fn greeting(&self) -> Reply {
        todo!()
    }
    /// One command line without its end; `fault` as LineStep has it.
    pub fn line(&mut self, _line: &[u8], _fault: bool) -> Step {
        todo!()
    }
    /// The answer to `Step::Recipient`. (May itself be the 20th error in a row: then Close.)
    pub fn recipient(&mut self, _to: ForwardPath, _verdict: Verdict) -> Step {
        todo!()
    }
    /// After `Step::Data`: the transaction, for the message's envelope. The session is back in the greeted state.
    pub fn take(&mut self) -> Option<Transaction> {
        todo!()
    }
    /// After the end of data.
    pub fn finish(&mut self, _outcome: Outcome) -> Step {
        todo!()
    }
}
