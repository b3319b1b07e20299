//! Which addresses to call, in which order, once DNS has answered (RFC 5321 5.1, RFC 7505). Pure but for one
//! question to the kernel: is this address ours?
//!
//! * Preferences ascending, equal ones shuffled; every address of a host before the next host; at most five in all,
//!   one of them kept for each further preference.
//! * A list that holds this host is cut there: only strictly better preferences remain, so mail never goes in circles.
//! * A host whose addresses are not known now is passed over while another one has some; only if none has any does
//!   its trouble decide: [`RouteError::Later`] if one of them is unknown, [`RouteError::Never`] if all are known to be none.

use crate::net::dns::{self, Addresses, Exchanger, LookupError, shuffle};
use crate::net::local::is_on_this_machine;
use crate::smtp::address::Host;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Addresses called in one try: enough to get past dead hosts, few enough that a try ends.
const MAX_TARGETS: usize = 5;

/// One address to call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The MX host's name without its last dot, or the literal; printable.
    pub name: String,
    /// Where to connect.
    pub addr: SocketAddr,
}

impl Target {
    /// `addr`, known as `host` to log lines and answers.
    pub fn new(host: &Host, addr: SocketAddr) -> Target {
        let name = host.to_string().trim_end_matches('.').to_owned();
        Target { name, addr }
    }
}

/// A host that has no name but its address.
impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Target {
        Target::new(&Host::literal(addr.ip()), addr)
    }
}

/// Why there is nothing to call; the text is a whole clause, for the log and the report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No try will ever succeed: the mail goes back to its sender.
    #[error("{0}")]
    Never(String),
    /// Not known now: try again.
    #[error("{0}")]
    Later(String),
}

/// Who we are, so that mail does not go in circles.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Identity {
    /// HOSTNAME.
    pub hostname: Host,
    /// Every address and port that a listener of ours is bound to.
    pub listening: Vec<SocketAddr>,
}

impl Identity {
    /// A host of this name that listens on these addresses; none for a program that only sends.
    pub fn new(hostname: Host, listening: Vec<SocketAddr>) -> Identity {
        Identity {
            hostname,
            listening,
        }
    }
}

/// Asks DNS where mail goes. Any number of threads may share one.
#[derive(Debug)]
pub struct Resolver(dns::Resolver);

impl Resolver {
    /// `nameservers`: asked over UDP, and over TCP for what does not fit; none means the system's. `timeout`: for a
    /// whole call of [`targets`](Self::targets). Starts nothing yet.
    ///
    /// # Errors
    /// The DNS library does not take these name servers.
    pub fn new(nameservers: &[SocketAddr], timeout: Duration) -> Result<Resolver, RouteError> {
        dns::Resolver::new(nameservers, timeout)
            .map(Resolver)
            .map_err(|error| RouteError::Later(error.to_string()))
    }

    /// The addresses to call for mail to `host`, in the order to try, at least one, at most five. Blocks, at most
    /// `timeout` and a second.
    ///
    /// # Errors
    /// `Never` if the mail must go back, a loop among the reasons; `Later` if DNS could not say.
    pub fn targets(
        &self,
        host: &Host,
        port: u16,
        me: &Identity,
    ) -> Result<Vec<Target>, RouteError> {
        let domain = match host {
            Host::Literal(ip) => return literal(*ip, port, me),
            Host::Name(domain) => domain.as_str().trim_end_matches('.'),
        };
        if domain.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(RouteError::Never(format!(
                "{domain} is no domain; an address is written as [{domain}]"
            )));
        }
        let exchangers = self.0.exchangers(domain).map_err(|error| match error {
            LookupError::None(why) => RouteError::Never(why),
            LookupError::Unknown(why) => RouteError::Later(why),
        })?;
        choose(domain, exchangers, port, me)
    }
}

/// Mail for an address literal: that address alone.
fn literal(ip: IpAddr, port: u16, me: &Identity) -> Result<Vec<Target>, RouteError> {
    let name = Host::literal(ip).to_string();
    if !is_callable(ip) {
        return Err(RouteError::Never(format!(
            "{name} is not the address of one host"
        )));
    }
    if me.is_at(ip, port) {
        return Err(RouteError::Never(format!("mail loop: {name} is this host")));
    }
    let addr = SocketAddr::new(ip.to_canonical(), port);
    Ok(vec![Target { name, addr }])
}

/// Mail for `domain`, whose `exchangers` come in the order to try. Not for an empty list.
fn choose(
    domain: &str,
    mut exchangers: Vec<Exchanger>,
    port: u16,
    me: &Identity,
) -> Result<Vec<Target>, RouteError> {
    if let Some(own) = exchangers
        .iter()
        .filter(|host| me.is(host, port))
        .map(|host| host.preference)
        .min()
    {
        exchangers.retain(|host| host.preference < own);
        if exchangers.is_empty() {
            return Err(RouteError::Never(format!(
                "mail loop: mail for {domain} comes back to this host"
            )));
        }
    }
    let mut unknown = None;
    // The addresses of each preference that has some.
    let mut ranks: Vec<(u16, Vec<Target>)> = Vec::new();
    for host in exchangers {
        let ips = match host.addresses {
            Addresses::Known(ips) => ordered(ips),
            Addresses::None => continue,
            Addresses::Unknown(why) => {
                unknown = unknown.or(Some(why));
                continue;
            }
        };
        let targets = ips.into_iter().map(|ip| Target {
            name: host.name.clone(),
            addr: SocketAddr::new(ip, port),
        });
        match ranks.last_mut() {
            Some((preference, rank)) if *preference == host.preference => rank.extend(targets),
            _ => ranks.push((host.preference, targets.collect())),
        }
    }
    ranks.retain(|(_, rank)| !rank.is_empty());
    let mut targets = Vec::with_capacity(MAX_TARGETS);
    let mut further = ranks.len();
    for (_, rank) in ranks {
        further -= 1;
        let room = MAX_TARGETS - targets.len();
        targets.extend(
            rank.into_iter()
                .take(room.saturating_sub(further).max(1).min(room)),
        );
    }
    match (targets.is_empty(), unknown) {
        (false, _) => Ok(targets),
        (true, Some(why)) => Err(RouteError::Later(why)),
        (true, None) => Err(RouteError::Never(format!(
            "no mail host of {domain} has an address that can be called"
        ))),
    }
}

/// IPv6 and IPv4 in turn, so that a host with many of one kind, which may not work from here, does not use up the
/// try; within a kind shuffled, because a cached answer would otherwise send all mail to the first.
fn ordered(ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut v6, mut v4): (Vec<IpAddr>, Vec<IpAddr>) = ips
        .into_iter()
        .map(|ip| ip.to_canonical())
        .filter(|ip| is_callable(*ip))
        .partition(IpAddr::is_ipv6);
    shuffle(&mut v6, |_| 0);
    shuffle(&mut v4, |_| 0);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut ips = Vec::with_capacity(v6.len() + v4.len());
    while v6.len() + v4.len() > 0 {
        ips.extend(v6.next());
        ips.extend(v4.next());
    }
    ips
}

/// An address of one host. The unspecified one would reach this very host, whatever it is.
fn is_callable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !(ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST))
}

impl Identity {
    fn is(&self, host: &Exchanger, port: u16) -> bool {
        let by_name = matches!(&self.hostname, Host::Name(me) if me.as_str().eq_ignore_ascii_case(&host.name));
        by_name
            || matches!(&host.addresses, Addresses::Known(ips) if ips.iter().any(|ip| self.is_at(*ip, port)))
    }

    /// Whether calling this address and port would reach this daemon.
    fn is_at(&self, ip: IpAddr, port: u16) -> bool {
        let ip = ip.to_canonical();
        let mut listeners = self
            .listening
            .iter()
            .filter(|addr| addr.port() == port)
            .map(SocketAddr::ip);
        listeners.any(|listener| {
            listener.to_canonical() == ip
                // The literal that we go by may be that of a router that passes the port on to us.
                || self.hostname == Host::Literal(ip)
                || (listener.is_unspecified() && listener.is_ipv6() == ip.is_ipv6() && is_on_this_machine(ip))
        })
    }
}

#[cfg(test)]
#[path = "mx_tests.rs"]
mod tests;
