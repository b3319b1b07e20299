//! Mailboxes and paths: the grammar of RFC 788 section 4.1.2, with RFC 821's quoted strings. Hosts are in
//! `host.rs`, and are named here too.
//!
//! * After parsing, an address is a type: no control and no 8-bit character is ever inside one, and it
//!   fits a command line, so it can be written to a peer, a log or a file as it is.
//! * What is written (`Display`) parses to the same value.
//! * A source route is checked and dropped: the last mailbox counts.
//! * A fault is an [`AddressError`], short and printable, made for the text of a `501`.

pub use super::host::{AddressError, Domain, Host, LABEL_MAX, NAME_MAX};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// Octets in a path, with its brackets, as received and as written (RFC 788 section 4.5.3). The user part has no limit
/// of its own: 4.5.3 wants at least 64 octets, and senders write longer ones.
pub const PATH_MAX: usize = 256;

/// A user at a host; the user part is kept unquoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    user: String,
    host: Host,
}

impl Mailbox {
    /// The mailbox of `user`, unquoted, at `host`.
    ///
    /// # Errors
    /// If the user part is empty or unprintable, or the written path would be too long.
    pub fn new(user: &str, host: Host) -> Result<Mailbox, AddressError> {
        if user.is_empty() {
            return Err(AddressError::NoUser);
        }
        if !is_printable(user) {
            return Err(AddressError::Character);
        }
        let user = user.to_owned();
        let mailbox = Mailbox { user, host };
        match "<>".len() + mailbox.to_string().len() {
            ..=PATH_MAX => Ok(mailbox),
            _ => Err(AddressError::PathTooLong),
        }
    }

    /// The user part, unquoted.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// `user@host`; the user part is quoted where RFC 5321 would not take it bare.
impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.user) {
            f.write_str(&self.user)?;
        } else {
            f.write_char('"')?;
            for c in self.user.chars() {
                if matches!(c, '"' | '\\') {
                    f.write_char('\\')?;
                }
                f.write_char(c)?;
            }
            f.write_char('"')?;
        }
        f.write_char('@')?;
        self.host.fmt(f)
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        if !is_printable(s) {
            return Err(AddressError::Character);
        }
        match take_mailbox(s)? {
            (mailbox, "") => Ok(mailbox),
            _ => Err(AddressError::Trailing),
        }
    }
}

/// Where failures are reported: `<>` (nowhere) or `<user@host>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: a report itself, which must not be answered by another.
    Null,
    /// The originator.
    Mailbox(Mailbox),
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => f.write_str("<>"),
            ReversePath::Mailbox(mailbox) => in_brackets(mailbox, f),
        }
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        Ok(parse_path(s)?.map_or(ReversePath::Null, ReversePath::Mailbox))
    }
}

/// A recipient: `<user@host>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardPath(pub Mailbox);

impl ForwardPath {
    /// The mailbox that the path leads to.
    pub fn mailbox(&self) -> &Mailbox {
        &self.0
    }

    /// The user part, unquoted.
    pub fn user(&self) -> &str {
        self.0.user()
    }

    /// The host.
    pub fn host(&self) -> &Host {
        self.0.host()
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        in_brackets(&self.0, f)
    }
}

fn in_brackets(mailbox: &Mailbox, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('<')?;
    fmt::Display::fmt(mailbox, f)?;
    f.write_char('>')
}

impl FromStr for ForwardPath {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        parse_path(s)?
            .map(ForwardPath)
            .ok_or(AddressError::NullForward)
    }
}

/// A whole path; `None` is `<>`.
fn parse_path(s: &str) -> Result<Option<Mailbox>, AddressError> {
    if !is_printable(s) {
        return Err(AddressError::Character);
    }
    let inner = s.strip_prefix('<').ok_or(match s.starts_with(' ') {
        true => AddressError::SpaceBefore,
        false => AddressError::Brackets,
    })?;
    let (mailbox, rest) = match inner.starts_with('>') {
        true => (None, inner),
        false => take_mailbox(skip_route(inner)?).map(|(mailbox, rest)| (Some(mailbox), rest))?,
    };
    match rest {
        ">" if s.len() > PATH_MAX => Err(AddressError::PathTooLong),
        ">" => Ok(mailbox),
        "" => Err(AddressError::Brackets),
        _ => Err(AddressError::Trailing),
    }
}

/// What follows `@A,@B,` (RFC 788) or `@A,@B:` (RFC 821), if there is such a route.
fn skip_route(s: &str) -> Result<&str, AddressError> {
    let mut rest = s;
    while let Some(host) = rest.strip_prefix('@') {
        let after = take_host(host)?.1;
        if let Some(mailbox) = after.strip_prefix(':') {
            return Ok(mailbox);
        }
        rest = after.strip_prefix(',').ok_or(AddressError::Route)?;
    }
    Ok(rest)
}

fn take_mailbox(s: &str) -> Result<(Mailbox, &str), AddressError> {
    let (user, rest) = match s.strip_prefix('"') {
        Some(quoted) => take_quoted_string(quoted)?,
        None => take_string(s)?,
    };
    let (host, rest) = take_host(rest)?;
    Ok((Mailbox::new(&user, host)?, rest))
}

/// RFC 788's string, up to and with the `@`.
fn take_string(s: &str) -> Result<(String, &str), AddressError> {
    let mut user = String::with_capacity(64);
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        match c {
            '@' => return Ok((user, chars.as_str())),
            '\\' => user.push(chars.next().ok_or(AddressError::Quoting)?),
            '>' => return Err(AddressError::NoHost),
            '<' | '(' | ')' | ',' | ';' | ':' | '"' => return Err(AddressError::Quoting),
            _ => user.push(c),
        }
    }
    Err(AddressError::NoHost)
}

/// The rest of RFC 821's quoted string, up to and with the `@` after it.
fn take_quoted_string(s: &str) -> Result<(String, &str), AddressError> {
    let mut user = String::new();
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let host = chars.as_str().strip_prefix('@');
                return Ok((user, host.ok_or(AddressError::Quoting)?));
            }
            '\\' => user.push(chars.next().ok_or(AddressError::Quoting)?),
            _ => user.push(c),
        }
    }
    Err(AddressError::Quoting)
}

/// A host, up to what cannot belong to it. A colon may belong to a literal.
fn take_host(s: &str) -> Result<(Host, &str), AddressError> {
    let end = if s.starts_with('[') {
        s.find(']').map(|at| at + 1).ok_or(AddressError::Literal)?
    } else {
        let end = s.bytes().position(|b| matches!(b, b',' | b':' | b'>'));
        end.unwrap_or(s.len())
    };
    let (host, rest) = s.split_at(end);
    Ok((host.parse()?, rest))
}

fn is_printable(s: &str) -> bool {
    s.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// Whether RFC 5321 (section 4.1.2, `Dot-string`) takes the user part bare.
fn is_dot_string(s: &str) -> bool {
    let atext = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
    s.as_bytes()
        .split(|&b| b == b'.')
        .all(|atom| !atom.is_empty() && atom.iter().copied().all(atext))
}
