use super::{
    address::{ForwardPath, Host, ReversePath},
    reply::Reply,
};
/// One of the seven commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Helo(Host),
    Mail(ReversePath),
    Rcpt(ForwardPath),
    Data,
    Rset,
    Noop,
    Quit,
}
impl Command {
    /// `line` without its line end. Err: the reply that its fault deserves.
    pub fn parse(_line: &[u8]) -> Result<Command, Reply> {
        todo!()
    }
}
/// Whether a first line is an HTTP request line.
pub fn is_http(_line: &[u8]) -> bool {
    todo!()
}
