//! The system's name servers, from the text of a resolv.conf (resolv.conf(5)).
//!
//! Only `nameserver` and `options` lines are read: names are always taken as complete, so `domain`, `search` and
//! `sortlist` mean nothing here, and nothing in them can be a fault.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port that name servers are asked at.
const PORT: u16 = 53;
/// The words of an `options` line in use, without their numbers.
const OPTIONS: &str = "attempts debug edns0 inet6 ip6-bytestring ip6-dotint ndots no-aaaa no-check-names no-ip6-dotint \
     no-reload no-tld-query no_tld_query rotate single-request single-request-reopen timeout trust-ad use-vc";

/// What is used of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// In the order of the file; the name server of this machine if no line names one; empty if none can be used.
    pub servers: Vec<SocketAddr>,
    /// They are asked over TCP alone (`options use-vc`). No other option changes anything here.
    pub only_tcp: bool,
}

/// Reads what can be read, and says of the rest, as `LINE: what is wrong`, that it was passed over.
pub(crate) fn parse(text: &str) -> (ResolvConf, Vec<String>) {
    let (mut servers, mut only_tcp, mut faults, mut named) = (Vec::new(), false, Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        let mut fault = |what: String| faults.push(format!("{}: {what}", number + 1));
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                named = true;
                let word = words.next().unwrap_or_default();
                match word.parse::<IpAddr>() {
                    Ok(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
                        fault(format!("{word}: an address of one link cannot be asked"));
                    }
                    Ok(ip) => servers.push(SocketAddr::new(ip, PORT)),
                    Err(_) if word.contains('%') => {
                        fault(format!("{word}: an address of one link cannot be asked"));
                    }
                    Err(_) => fault(format!("{word:?} is not the address of a name server")),
                }
            }
            Some("options") => {
                for word in words {
                    only_tcp |= word == "use-vc";
                    let name = word.split(':').next().unwrap_or_default();
                    if !OPTIONS.split_ascii_whitespace().any(|known| known == name) {
                        fault(format!("{word:?} is not an option"));
                    }
                }
            }
            _ => {}
        }
    }
    if !named {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    (ResolvConf { servers, only_tcp }, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_line_spoils_no_other() {
        let long = format!("search {}.example\nnameserver 192.0.2.1", "x".repeat(64));
        let link = "1: fe80::1%eth0: an address of one link cannot be asked";
        for (text, servers, faults) in [
            (
                "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
                "192.0.2.1:53 [2001:db8::1]:53",
                "",
            ),
            ("domain .local\nnameserver 192.0.2.1", "192.0.2.1:53", ""),
            ("search home..lan\nnameserver 192.0.2.1", "192.0.2.1:53", ""),
            ("search a$b\r\nnameserver 192.0.2.1\r\n", "192.0.2.1:53", ""),
            (&long, "192.0.2.1:53", ""),
            (
                "search \u{fffd}\nnameserver\t192.0.2.1 # first",
                "192.0.2.1:53",
                "",
            ),
            (
                "nameserver 192.0.2.256\nnameserver 192.0.2.1",
                "192.0.2.1:53",
                "1: \"192.0.2.256\" is not the address of a name server",
            ),
            (
                "nameserver\nnameserver 192.0.2.1",
                "192.0.2.1:53",
                "1: \"\" is not the address of a name server",
            ),
            (
                "nameserver fe80::1%eth0\nnameserver 192.0.2.1",
                "192.0.2.1:53",
                link,
            ),
            ("nameserver fe80::1%eth0", "", link),
            (
                "nameserver fe80::1",
                "",
                "1: fe80::1: an address of one link cannot be asked",
            ),
            (
                "options ndots:2 sortof use-vc\nnameserver 192.0.2.1",
                "192.0.2.1:53",
                "1: \"sortof\" is not an option",
            ),
            (
                "# nameserver 192.0.2.9\n; nameserver 192.0.2.9\n\nsearch lan\n",
                "127.0.0.1:53",
                "",
            ),
            ("", "127.0.0.1:53", ""),
        ] {
            let (read, told) = parse(text);
            let found: Vec<_> = read.servers.iter().map(SocketAddr::to_string).collect();
            assert_eq!(
                (found.join(" ").as_str(), told.join("; ").as_str()),
                (servers, faults),
                "{text:?}"
            );
            assert_eq!(read.only_tcp, text.contains("use-vc"), "{text:?}");
        }
    }
}
