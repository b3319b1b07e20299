//! Every reply that we give, in one list (RFC 788 sections 4.2 and 4.3). Other hosts' replies are read in
//! `remote.rs`, and are named here too.

use super::address::{AddressError, ForwardPath, Host};
use super::line::LINE_MAX;
pub use super::remote::{RemoteReply, ReplyError, ReplyReader};
use std::borrow::Cow;
use std::fmt;

/// Octets in a reply line with code and `<CRLF>` (RFC 788 section 4.5.3).
pub const REPLY_MAX: usize = 512;

/// One reply of ours: one line, at most [`REPLY_MAX`] octets, printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    text: Cow<'static, str>,
    why: Option<&'static str>,
}

/// Why a client is sent away with `421`: the text in the reply's parentheses, and in the log.
pub mod closing {
    /// MAX_CLIENTS are served, or as many as one address may have.
    pub const FULL: &str = "too many clients, try again later";
    /// The daemon ends.
    pub const STOPPING: &str = "stopping";
    /// The client took too long.
    pub const TIMEOUT: &str = "timeout";
    /// Too many errors in a row, or in all.
    pub const ERRORS: &str = "too many errors";
    /// Too many commands without a message.
    pub const COMMANDS: &str = "too many commands without a message";
    /// Mail data that is refused already does not end.
    pub const DATA: &str = "too much mail data after an error";
    /// The session began with an HTTP request.
    pub const HTTP: &str = "an HTTP request";
    /// The session began with a header of the PROXY protocol.
    pub const PROXY: &str = "a PROXY header";
}

impl Reply {
    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The text after the code.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Why this `421` sends the client away; `None` for every other reply.
    pub fn why(&self) -> Option<&'static str> {
        self.why
    }

    /// 4yz or 5yz.
    pub fn is_error(&self) -> bool {
        self.code >= 400
    }

    /// Appends `CODE text<CRLF>`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let digit = |place| b'0' + (self.code / place % 10) as u8;
        out.extend([digit(100), digit(10), digit(1), b' ']);
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn new(code: u16, text: &'static str) -> Reply {
        let (text, why) = (Cow::Borrowed(text), None);
        Reply { code, text, why }
    }

    /// Text with something variable in it: kept printable and short, whatever came in.
    fn with(code: u16, text: fmt::Arguments<'_>) -> Reply {
        let room = REPLY_MAX - "250 \r\n".len();
        let mut text = text.to_string();
        if text.len() > room || !text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
            text = printable(text.as_bytes()).take(room).collect();
        }
        let (text, why) = (Cow::Owned(text), None);
        Reply { code, text, why }
    }
}

/// `CODE text`, without the line end: as the log has it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// The list, by code.
impl Reply {
    /// `220`: the greeting.
    pub fn ready(host: &Host) -> Reply {
        Reply::with(
            220,
            format_args!("{host} Simple Mail Transfer Service Ready"),
        )
    }

    /// `221`: to QUIT.
    pub fn closing(host: &Host) -> Reply {
        Reply::with(
            221,
            format_args!("{host} Service closing transmission channel"),
        )
    }

    /// `250`: done.
    pub fn ok() -> Reply {
        Reply::new(250, "OK")
    }

    /// `250` to HELO.
    pub fn hello(host: &Host) -> Reply {
        Reply::with(250, format_args!("{host}"))
    }

    /// `250` to the end of mail data: every copy is on stable storage.
    pub fn stored(id: impl fmt::Display) -> Reply {
        Reply::with(250, format_args!("OK id={id}"))
    }

    /// `251`: taken, for another path.
    pub fn will_forward(path: &ForwardPath) -> Reply {
        Reply::with(251, format_args!("User not local; will forward to {path}"))
    }

    /// `354`: to DATA.
    pub fn start_mail_input() -> Reply {
        Reply::new(354, "Start mail input; end with <CRLF>.<CRLF>")
    }

    /// `421`: the client is sent away; `why` is one of [`closing`].
    pub fn unavailable(host: &Host, why: &'static str) -> Reply {
        let text = "Service not available, closing transmission channel";
        let reply = Reply::with(421, format_args!("{host} {text} ({why})"));
        let why = Some(why);
        Reply { why, ..reply }
    }

    /// `451`: something failed here; the client may try again.
    pub fn local_error() -> Reply {
        Reply::new(451, "Requested action aborted: local error in processing")
    }

    /// `452`: the disk is full.
    pub fn no_space() -> Reply {
        Reply::new(
            452,
            "Requested action not taken: insufficient system storage",
        )
    }

    /// `500`: no such command.
    pub fn unrecognized() -> Reply {
        Reply::new(500, "Syntax error, command unrecognized")
    }

    /// `500`: a line that is none, as [`LineReader`](super::line::LineReader) hands it over; the text says why.
    pub fn bad_line(line: &[u8]) -> Reply {
        let text = match () {
            () if line.len() >= LINE_MAX => "Syntax error: line too long",
            () if line.contains(&b'\r') => "Syntax error: bare CR",
            () if !line.is_ascii() => "Syntax error: 8-bit character",
            () if line.iter().any(u8::is_ascii_control) => "Syntax error: control character",
            () => "Syntax error: bare LF",
        };
        Reply::new(500, text)
    }

    /// `500`: an argument where 4.3 lists no `501`.
    pub fn no_argument(form: &str) -> Reply {
        Reply::with(500, format_args!("Syntax: {form}"))
    }

    /// `501`: the form that was wanted, and what is wrong with the address.
    pub fn syntax(form: &str, why: Option<AddressError>) -> Reply {
        match why {
            Some(why) => Reply::with(501, format_args!("Syntax: {form} ({why})")),
            None => Reply::with(501, format_args!("Syntax: {form}")),
        }
    }

    /// `502`: outside the minimum implementation.
    pub fn not_implemented() -> Reply {
        Reply::new(
            502,
            "Command not implemented; try HELO MAIL RCPT DATA RSET NOOP QUIT",
        )
    }

    /// `503`: HELO comes first.
    pub fn need_helo() -> Reply {
        Reply::new(503, "Bad sequence of commands: HELO first")
    }

    /// `503`: MAIL comes first.
    pub fn need_mail() -> Reply {
        Reply::new(503, "Bad sequence of commands: MAIL first")
    }

    /// `503`: an accepted RCPT comes first.
    pub fn need_rcpt() -> Reply {
        Reply::new(503, "Bad sequence of commands: RCPT first")
    }

    /// `550`: unknown here.
    pub fn no_such_user() -> Reply {
        Reply::new(550, "No such user here")
    }

    /// `550`: neither ours nor from a client that we forward for.
    pub fn relay_denied() -> Reply {
        Reply::new(550, "Relaying denied")
    }

    /// `550`: digits and dots are no domain; shows how an address is written.
    pub fn bare_address(host: &Host) -> Reply {
        let literal = format!("[{host}]");
        let literal = match literal.parse::<Host>() {
            Ok(_) => &literal,
            Err(_) => "[192.0.2.1]",
        };
        let text = "is no domain; an address is written in brackets,";
        Reply::with(550, format_args!("{host} {text} <user@{literal}>"))
    }

    /// `552`: MAX_RECIPIENTS is reached; the words of Appendix F, scenario 10.
    pub fn too_many_recipients() -> Reply {
        Reply::new(
            552,
            "Recipient storage full, try again in another transaction",
        )
    }

    /// `552`: over MAX_MESSAGE_SIZE.
    pub fn too_large() -> Reply {
        Reply::new(552, "Too much mail data")
    }

    /// `554`: a bare CR or LF in the mail data.
    pub fn bare_line_end() -> Reply {
        Reply::new(554, "Transaction failed: bare CR or LF in mail data")
    }

    /// `554`: the message has been through too many hosts.
    pub fn mail_loop() -> Reply {
        Reply::new(554, "Transaction failed: mail loop")
    }
}

/// Octets as printable ASCII: a TAB is a space, whatever else is not printable is a question mark.
pub(super) fn printable(octets: &[u8]) -> impl Iterator<Item = char> {
    octets.iter().map(|octet| match octet {
        b' '..=b'~' => char::from(*octet),
        b'\t' => ' ',
        _ => '?',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_replies_are_one_short_printable_line() {
        let name = [
            "x".repeat(63),
            "y".repeat(63),
            "z".repeat(63),
            "a".repeat(63),
        ]
        .join(".");
        let host: Host = name.parse().unwrap();
        let path: ForwardPath = format!("<u@{}>", &name[..252]).parse().unwrap();
        for reply in [
            Reply::ready(&host),
            Reply::unavailable(&host, closing::COMMANDS),
            Reply::bare_address(&host),
            Reply::will_forward(&path),
            Reply::stored("x\r\n250 y\u{fc}".repeat(100)),
            Reply::bad_line(&[0xff; 600]),
            Reply::not_implemented(),
            Reply::syntax("MAIL FROM:<reverse-path>", Some(AddressError::Quoting)),
        ] {
            let mut out = Vec::new();
            reply.write(&mut out);
            assert!(out.len() <= REPLY_MAX, "{reply}");
            let line = out.strip_suffix(b"\r\n").unwrap();
            assert!(line.iter().all(|b| matches!(b, b' '..=b'~')), "{reply}");
        }
    }
}
