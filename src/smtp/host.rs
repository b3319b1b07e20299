//! Hosts: names, `#number` (RFC 788 section 4.1.2) and address literals (RFC 5321 section 4.1.3).
//!
//! * Names are equal without regard to case, literals by value: `#1`, `[0.0.0.1]` and
//!   `[IPv6:::ffff:0.0.0.1]` are one host.
//! * What is written (`Display`) parses to the same value. A number is written as a literal, an IPv6
//!   literal with its tag.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// Octets in a host name, as DNS has it (RFC 1035 section 2.3.4).
pub const NAME_MAX: usize = 255;
/// Octets in one label of a host name (RFC 1035 section 2.3.4).
pub const LABEL_MAX: usize = 63;

/// What is wrong with an address; short, so that it fits the text of a `501`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// No `<` before it, or no `>` after it.
    #[error("brackets missing")]
    Brackets,
    /// A space before the `<`.
    #[error("a space after the colon")]
    SpaceBefore,
    /// Over [`PATH_MAX`](super::address::PATH_MAX).
    #[error("path too long")]
    PathTooLong,
    /// A control or an 8-bit character.
    #[error("control or 8-bit character")]
    Character,
    /// `<>` as a recipient.
    #[error("the path is empty")]
    NullForward,
    /// A source route that does not end in a mailbox, or is badly separated.
    #[error("bad source route")]
    Route,
    /// Nothing before the `@`.
    #[error("no user part")]
    NoUser,
    /// A special character that is not quoted, or a quote that is not ended.
    #[error("bad quoting in the user part")]
    Quoting,
    /// Nothing after the `@`, or no `@`.
    #[error("no host")]
    NoHost,
    /// Not a host name.
    #[error("bad host name")]
    Host,
    /// Over [`NAME_MAX`], or a label over [`LABEL_MAX`].
    #[error("host name too long")]
    HostTooLong,
    /// `#` without a decimal IPv4 address.
    #[error("bad host number")]
    Number,
    /// Brackets without an address.
    #[error("bad address literal")]
    Literal,
    /// Something follows the address.
    #[error("text after the address")]
    Trailing,
}

/// A host name: labels of letters, digits, hyphens and underscores. Its case is kept, and ignored in
/// comparisons.
#[derive(Clone, Debug)]
pub struct Domain(String);

impl Domain {
    /// `localhost`.
    pub fn localhost() -> Domain {
        Domain("localhost".to_owned())
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        if s.is_empty() {
            return Err(AddressError::NoHost);
        }
        if s.len() > NAME_MAX {
            return Err(AddressError::HostTooLong);
        }
        for label in s.as_bytes().split(|&b| b == b'.') {
            let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
            if label.len() > LABEL_MAX {
                return Err(AddressError::HostTooLong);
            }
            let hyphen = label.starts_with(b"-") || label.ends_with(b"-");
            if label.is_empty() || hyphen || !label.iter().all(plain) {
                return Err(AddressError::Host);
            }
        }
        Ok(Domain(s.to_owned()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Domain {}

impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for b in self.0.bytes() {
            state.write_u8(b.to_ascii_lowercase());
        }
        state.write_u8(0xff); // no name holds it: ("ab", "c") and ("a", "bc") differ
    }
}

/// A host: `name`, `#number` or `[literal]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, to be looked up.
    Name(Domain),
    /// An address, by value. Make it with [`Host::literal`], which keeps one form for each address.
    Literal(IpAddr),
}

impl Host {
    /// The literal of an address; `::ffff:a.b.c.d` is `a.b.c.d`.
    pub fn literal(ip: IpAddr) -> Host {
        Host::Literal(ip.to_canonical())
    }

    /// Digits and dots alone: an address whose brackets were forgotten. It is read as a name, because programs say such
    /// a HELO, but no domain has it.
    pub fn is_number(&self) -> bool {
        let digit = |b: u8| b.is_ascii_digit() || b == b'.';
        matches!(self, Host::Name(name) if name.as_str().bytes().all(digit))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Literal(ip) => {
                let tag = if ip.is_ipv4() { "" } else { "IPv6:" };
                write!(f, "[{tag}{ip}]")
            }
        }
    }
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        if let Some(number) = s.strip_prefix('#') {
            return parse_number(number).map(Host::literal);
        }
        if let Some(literal) = s.strip_prefix('[') {
            let inner = literal.strip_suffix(']').ok_or(AddressError::Literal)?;
            return parse_literal(inner).map(Host::literal);
        }
        s.parse().map(Host::Name)
    }
}

/// RFC 788's `#number`: the address as one decimal integer.
fn parse_number(s: &str) -> Result<IpAddr, AddressError> {
    if !s.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddressError::Number); // `parse` would take a sign
    }
    let number: u32 = s.parse().map_err(|_| AddressError::Number)?;
    Ok(Ipv4Addr::from_bits(number).into())
}

/// The inside of a literal's brackets. The tag is not needed to tell the two kinds apart.
fn parse_literal(s: &str) -> Result<IpAddr, AddressError> {
    let tag = "IPv6:".len();
    let tagged = s
        .get(..tag)
        .is_some_and(|t| t.eq_ignore_ascii_case("IPv6:"));
    if !tagged && !s.contains(':') {
        return parse_dotted(s).map(IpAddr::V4);
    }
    let v6 = if tagged { s.get(tag..) } else { Some(s) };
    let ip: Option<Ipv6Addr> = v6.and_then(|v6| v6.parse().ok());
    ip.map(IpAddr::V6).ok_or(AddressError::Literal)
}

/// RFC 788's `dotnum`. It wants three digits each; today's writers leave the zeros out. Always decimal.
fn parse_dotted(s: &str) -> Result<Ipv4Addr, AddressError> {
    let mut octets = [0; 4];
    let mut parts = s.split('.');
    for octet in &mut octets {
        let part = parts.next().ok_or(AddressError::Literal)?;
        if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddressError::Literal);
        }
        *octet = part.parse().map_err(|_| AddressError::Literal)?;
    }
    match parts.next() {
        None => Ok(octets.into()),
        Some(_) => Err(AddressError::Literal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(s: &str) -> Result<String, AddressError> {
        let host: Host = s.parse()?;
        assert_eq!(
            host.to_string().parse(),
            Ok(host.clone()),
            "{s} is read back"
        );
        Ok(host.to_string())
    }

    #[test]
    fn good_hosts() {
        let longest_label = "x".repeat(63);
        let longest_name = [longest_label.as_str(); 4].join(".");
        for (input, written) in [
            ("BBN-UNIX", "BBN-UNIX"),             // as the RFC writes hosts
            ("a", "a"),                           // one letter
            ("3com.com", "3com.com"),             // a digit first
            ("1.2.3.4", "1.2.3.4"),               // no literal without brackets
            ("_dmarc.x_y.org", "_dmarc.x_y.org"), // underscores
            ("a--b.c", "a--b.c"),                 // hyphens inside
            (longest_label.as_str(), longest_label.as_str()),
            (longest_name.as_str(), longest_name.as_str()),
            ("#0", "[0.0.0.0]"),
            ("#16909060", "[1.2.3.4]"),
            ("#0000000000016909060", "[1.2.3.4]"), // leading zeros
            ("#4294967295", "[255.255.255.255]"),
            ("[109.43.197.25]", "[109.43.197.25]"),
            ("[010.002.000.052]", "[10.2.0.52]"), // decimal, not octal
            ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
            ("[ipv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"), // tag and digits in any case
            ("[2001:db8::1]", "[IPv6:2001:db8::1]"),        // without the tag
            ("[IPv6:::ffff:1.2.3.4]", "[1.2.3.4]"),         // v4-mapped
            ("[::1]", "[IPv6:::1]"),
        ] {
            assert_eq!(read(input), Ok(written.to_owned()));
        }
    }

    #[test]
    fn bad_hosts() {
        use AddressError::{Host, HostTooLong, Literal, NoHost, Number};
        let long_label = "x".repeat(64);
        let long_name = [&long_label[..63]; 4].join(".") + ".x";
        for (input, fault) in [
            ("", NoHost),
            (".", Host),
            ("a.", Host),
            (".a", Host),
            ("a..b", Host),
            ("-a", Host),
            ("a-", Host),
            ("a.-b.c", Host),
            ("a b", Host),
            ("a@b", Host),
            ("a/b", Host),
            ("f\u{fc}r", Host),
            ("a\0", Host),
            (long_label.as_str(), HostTooLong),
            (long_name.as_str(), HostTooLong),
            ("#", Number),
            ("#+1", Number),
            ("#-1", Number),
            ("#0x10", Number),
            ("#4294967296", Number),
            ("[]", Literal),
            ("[1.2.3.4", Literal),
            ("[1.2.3]", Literal),
            ("[1.2.3.4.5]", Literal),
            ("[1.2.3.]", Literal),
            ("[1.2.3.256]", Literal),
            ("[1.2.3.0004]", Literal),
            ("[1.2.3.+4]", Literal),
            ("[ 1.2.3.4]", Literal),
            ("[a.b.c.d]", Literal),
            ("[IPv6:]", Literal),
            ("[IPv6:1.2.3.4]", Literal),
            ("[IPv6: ::1]", Literal),
            ("[fe80::1%eth0]", Literal),
            ("[2001:db8::1::2]", Literal),
            ("[1.2.3.4]x", Literal),
        ] {
            assert_eq!(read(input), Err(fault), "{input}");
        }
    }

    #[test]
    fn equal_hosts() {
        use std::collections::HashSet;
        let hosts =
            |all: &[&str]| -> HashSet<Host> { all.iter().map(|s| s.parse().unwrap()).collect() };
        assert_eq!(
            hosts(&["example.org", "EXAMPLE.org", "Example.ORG"]).len(),
            1
        );
        assert_eq!(hosts(&["#1", "[0.0.0.1]", "[::ffff:0.0.0.1]"]).len(), 1);
        assert_eq!(hosts(&["1.2.3.4", "[1.2.3.4]"]).len(), 2);
    }
}
