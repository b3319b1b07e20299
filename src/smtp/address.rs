use std::fmt;
use std::net::IpAddr;
/// A domain name as SPEC "Paths" has it. Case kept, compared without.
#[derive(Clone, Debug)]
pub struct Domain(String);
impl Domain {
    /// `localhost`.
    pub fn localhost() -> Domain {
        Domain("localhost".to_owned())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl PartialEq for Domain {
    fn eq(&self, o: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&o.0)
    }
}
impl Eq for Domain {}
impl std::hash::Hash for Domain {
    fn hash<H: std::hash::Hasher>(&self, _h: &mut H) {
        todo!()
    }
}
/// name | #number | [literal]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Name(Domain),
    Literal(IpAddr),
}
impl Host {
    pub fn literal(_ip: IpAddr) -> Host {
        todo!("canonical: v4-mapped becomes v4")
    }
}
impl fmt::Display for Host {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("name, [1.2.3.4], [IPv6:2001:db8::1]")
    }
}
impl std::str::FromStr for Host {
    type Err = AddressError;
    fn from_str(_s: &str) -> Result<Self, AddressError> {
        todo!()
    }
}
/// user@host; user unquoted inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    user: String,
    host: Host,
}
impl Mailbox {
    /// `user` unquoted.
    pub fn new(_user: &str, _host: Host) -> Result<Mailbox, AddressError> {
        todo!()
    }
    pub fn user(&self) -> &str {
        &self.user
    }
    pub fn host(&self) -> &Host {
        &self.host
    }
}
// Display: user@host, quoted where RFC 5321 would not take the user part bare. FromStr: the same back.
impl fmt::Display for Mailbox {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
impl std::str::FromStr for Mailbox {
    type Err = AddressError;
    fn from_str(_s: &str) -> Result<Self, AddressError> {
        todo!()
    }
}
/// `<>` or `<user@host>`; a source route is read and dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    Null,
    Mailbox(Mailbox),
}
impl fmt::Display for ReversePath {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
impl std::str::FromStr for ReversePath {
    type Err = AddressError;
    fn from_str(_s: &str) -> Result<Self, AddressError> {
        todo!()
    }
}
/// `<user@host>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardPath(pub Mailbox);
impl ForwardPath {
    pub fn mailbox(&self) -> &Mailbox {
        &self.0
    }
    pub fn user(&self) -> &str {
        self.0.user()
    }
    pub fn host(&self) -> &Host {
        self.0.host()
    }
}
impl fmt::Display for ForwardPath {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
impl std::str::FromStr for ForwardPath {
    type Err = AddressError;
    fn from_str(_s: &str) -> Result<Self, AddressError> {
        todo!()
    }
}
/// What is wrong with an address; short, fits after "501 ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    #[error("syntax")]
    Syntax,
}
