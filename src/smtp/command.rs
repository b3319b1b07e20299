//! One command line to one [`Command`], or to the reply that its fault deserves (RFC 788 section 4.1.2).
//!
//! Syntax only: whether the command may come now is for the session to say. Which code a fault gets is
//! RFC 788 section 4.3's choice for that command: `501` where it lists one, else `500`.

use super::address::{AddressError, ForwardPath, Host, ReversePath};
use super::reply::Reply;
use std::str::FromStr;

/// One of the seven commands of the minimum implementation (RFC 788 section 4.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// `HELO domain`.
    Helo(Host),
    /// `MAIL FROM:<reverse-path>`.
    Mail(ReversePath),
    /// `RCPT TO:<forward-path>`.
    Rcpt(ForwardPath),
    /// `DATA`.
    Data,
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
}

/// How a word's argument becomes a command.
type Parse = fn(&str) -> Result<Command, Reply>;

/// Every word that RFC 788 defines. A new command is a new row.
const TABLE: [(&str, Parse); 13] = [
    ("HELO", |arg| {
        let why = |why| Some(why).filter(|_| !arg.is_empty());
        let host = arg
            .parse()
            .map_err(|error| Reply::syntax("HELO domain", why(error)))?;
        Ok(Command::Helo(host))
    }),
    ("MAIL", |arg| {
        path("MAIL FROM:<reverse-path>", "FROM:", arg).map(Command::Mail)
    }),
    ("RCPT", |arg| {
        path("RCPT TO:<forward-path>", "TO:", arg).map(Command::Rcpt)
    }),
    ("DATA", |arg| {
        bare(arg, Command::Data, || Reply::syntax("DATA", None))
    }),
    ("RSET", |arg| {
        bare(arg, Command::Rset, || Reply::syntax("RSET", None))
    }),
    // 4.3 lists no 501 for these two.
    ("NOOP", |arg| {
        bare(arg, Command::Noop, || Reply::no_argument("NOOP"))
    }),
    ("QUIT", |arg| {
        bare(arg, Command::Quit, || Reply::no_argument("QUIT"))
    }),
    ("SEND", not_implemented),
    ("SOML", not_implemented),
    ("SAML", not_implemented),
    ("VRFY", not_implemented),
    ("EXPN", not_implemented),
    ("HELP", not_implemented),
];

impl Command {
    /// Parses a line without its line end.
    ///
    /// # Errors
    /// The reply that the line's fault deserves: `500`, `501` or `502`.
    pub fn parse(line: &[u8]) -> Result<Command, Reply> {
        let printable = |line: &&str| line.bytes().all(|b| matches!(b, b' '..=b'~'));
        let text = str::from_utf8(line).ok().filter(printable);
        let line = text.ok_or_else(|| Reply::bad_line(line))?;
        let line = line.trim_end_matches(' ');
        let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
        let row = TABLE.iter().find(|row| row.0.eq_ignore_ascii_case(word));
        let (_, parse) = row.ok_or_else(Reply::unrecognized)?;
        parse(argument.trim_start_matches(' '))
    }
}

/// Whether a session's first line is an HTTP request line: a browser or a proxy was talked into calling
/// us, and what follows is somebody else's text. The line may be cut short.
pub fn is_http(line: &[u8]) -> bool {
    const METHODS: [&str; 10] = [
        "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE", "PRI",
    ];
    METHODS.iter().any(|method| {
        let rest = line.strip_prefix(method.as_bytes());
        rest.and_then(|rest| rest.strip_prefix(b" "))
            .is_some_and(|target| {
                target.starts_with(b"/") || target.windows(6).any(|at| at == b" HTTP/")
            })
    })
}

/// A path after its keyword. No space follows the colon.
fn path<P>(form: &'static str, keyword: &str, argument: &str) -> Result<P, Reply>
where
    P: FromStr<Err = AddressError>,
{
    let found = argument.split_at_checked(keyword.len());
    match found.filter(|(found, _)| found.eq_ignore_ascii_case(keyword)) {
        Some((_, "")) | None => Err(Reply::syntax(form, None)),
        Some((_, path)) => path.parse().map_err(|why| Reply::syntax(form, Some(why))),
    }
}

fn bare(argument: &str, command: Command, fault: fn() -> Reply) -> Result<Command, Reply> {
    if argument.is_empty() {
        Ok(command)
    } else {
        Err(fault())
    }
}

fn not_implemented(_: &str) -> Result<Command, Reply> {
    Err(Reply::not_implemented())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helo(host: &str) -> Command {
        Command::Helo(host.parse().unwrap())
    }
    fn mail(path: &str) -> Command {
        Command::Mail(path.parse().unwrap())
    }
    fn rcpt(path: &str) -> Command {
        Command::Rcpt(path.parse().unwrap())
    }

    #[test]
    fn good_lines() {
        for (line, command) in [
            ("HELO USC-ISIF", helo("USC-ISIF")),
            ("helo [10.0.0.1]", helo("[10.0.0.1]")),
            ("HELO   x   ", helo("x")), // spaces after the word and at the end
            ("MAIL FROM:<Smith@Alpha>", mail("<Smith@Alpha>")),
            ("mAIl   fRoM:<Smith@Alpha>", mail("<Smith@Alpha>")),
            ("MAIL FROM:<>", mail("<>")),
            ("MAIL FROM:<a b@x>  ", mail("<a b@x>")),
            ("RCPT TO:<@A,@B,Jones@Beta>", rcpt("<Jones@Beta>")),
            ("rcpt to:<Jones@Beta>", rcpt("<Jones@Beta>")),
            ("DATA", Command::Data),
            ("data ", Command::Data),
            ("RSET", Command::Rset),
            ("NOOP  ", Command::Noop),
            ("Quit", Command::Quit),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn bad_lines() {
        let mail = "Syntax: MAIL FROM:<reverse-path>";
        let rcpt = "Syntax: RCPT TO:<forward-path>";
        for (line, code, text) in [
            ("", 500, "Syntax error, command unrecognized"),
            (" ", 500, "Syntax error, command unrecognized"),
            (" NOOP", 500, "Syntax error, command unrecognized"),
            ("EHLO x", 500, "Syntax error, command unrecognized"),
            ("MAILFROM:<>", 500, "Syntax error, command unrecognized"),
            ("QUITE", 500, "Syntax error, command unrecognized"),
            ("NO\tOP", 500, "Syntax error: "),
            ("NOOP \u{fc}", 500, "Syntax error: "),
            ("HELO", 501, "Syntax: HELO domain"),
            ("HELO a b", 501, "Syntax: HELO domain (bad host name)"),
            (
                "HELO [1.2.3]",
                501,
                "Syntax: HELO domain (bad address literal)",
            ),
            ("MAIL", 501, mail),
            ("MAIL FROM", 501, mail),
            ("MAIL FROM:", 501, mail),
            ("MAIL FROM: <>", 501, mail),
            ("MAIL FROM :<>", 501, mail),
            ("MAIL FROM<>", 501, mail),
            ("MAIL TO:<>", 501, mail),
            ("MAIL FROM:a@b", 501, mail),
            ("MAIL FROM:<a@b> SIZE=1", 501, mail),
            ("MAIL FROM:<a@b_.->", 501, mail),
            ("RCPT TO:", 501, rcpt),
            ("RCPT TO: <a@b>", 501, rcpt),
            ("RCPT TO:<>", 501, rcpt),
            ("RCPT FROM:<a@b>", 501, rcpt),
            ("DATA now", 501, "Syntax: DATA"),
            ("RSET now", 501, "Syntax: RSET"),
            ("NOOP now", 500, "Syntax: NOOP"),
            ("QUIT now", 500, "Syntax: QUIT"),
        ] {
            let reply = Command::parse(line.as_bytes()).unwrap_err();
            assert_eq!(reply.code(), code, "{line}");
            assert!(reply.text().starts_with(text), "{line}: {}", reply.text());
        }
    }

    #[test]
    fn lines_outside_the_minimum_implementation() {
        for word in ["SEND", "SOML", "saml", "Vrfy", "EXPN", "HELP"] {
            for argument in ["", " ", " x", " FROM:<a@b>"] {
                let reply = Command::parse(format!("{word}{argument}").as_bytes()).unwrap_err();
                assert_eq!(reply.code(), 502);
                for known in ["HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT"] {
                    assert!(reply.text().contains(known), "{known}");
                }
            }
        }
    }

    #[test]
    fn http() {
        for line in [
            "GET / HTTP/1.1",
            "POST /x",
            "CONNECT a:25 HTTP/1.1",
            "OPTIONS * HTTP/1.0",
        ] {
            assert!(is_http(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "GET",
            "GETS / HTTP/1.1",
            "HELO HTTP/1.1",
            "get x",
            "PUT it",
        ] {
            assert!(!is_http(line.as_bytes()), "{line}");
        }
    }
}
