//! Values of the configuration: text in, a typed value or a reason out.
//!
//! A reason says what the value should look like; the caller puts the key and the line before it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::message::TimeStamp;
use crate::smtp::address::Host;

/// The longest time that a key takes: ten years, so that no sum of times overflows.
const SECONDS_MAX: u64 = 3650 * 86_400;

/// The largest size that a key takes: 1 TiB, so that no sum of sizes overflows.
const SIZE_MAX: u64 = 1 << 40;

/// The largest count that a key takes.
const COUNT_MAX: u64 = 1_000_000;

/// A count, at least 1.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    let count = number(text).filter(|count| (1..=COUNT_MAX).contains(count));
    let count = count.and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| format!("\"{text}\" is no number from 1 to {COUNT_MAX}"))
}

/// Octets, with `K`, `M`, `G` for powers of 1,024; at least 1.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)];
    scaled(text, &units, SIZE_MAX).ok_or_else(|| {
        format!("\"{text}\" is no size: write octets, or like 500K, 25M, 1G (to 1024G)")
    })
}

/// Seconds, or with `s`, `m`, `h`, `d`; at least one second.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let seconds = scaled(text, &units, SECONDS_MAX);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        format!("\"{text}\" is no time: write seconds, or like 90s, 5m, 4h, 5d (1s to 3650d)")
    })
}

fn scaled(text: &str, units: &[(char, u64)], max: u64) -> Option<u64> {
    let unit = units.iter().find(|(letter, _)| text.ends_with(*letter));
    let digits = if unit.is_some() {
        &text[..text.len() - 1]
    } else {
        text
    };
    let value = number(digits)?.checked_mul(unit.map_or(1, |(_, factor)| *factor))?;
    (1..=max).contains(&value).then_some(value)
}

/// Digits only: no sign, no space.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|octet| octet.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// A port; 0 is none.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    match port_or_0(text)? {
        0 => Err("0 is no port to call: write 1 to 65535".into()),
        port => Ok(port),
    }
}

/// A port, or 0 for one of the system's choice.
pub(crate) fn port_or_0(text: &str) -> Result<u16, String> {
    let port = number(text).and_then(|port| u16::try_from(port).ok());
    port.ok_or_else(|| format!("\"{text}\" is no port: write a number up to 65535"))
}

/// How an entry of a list is read.
type Entry<T> = fn(&str) -> Result<T, String>;

/// Every entry of a list that is separated by commas.
pub(crate) fn list<T: PartialEq>(text: &str, entry: Entry<T>) -> Result<Vec<T>, String> {
    let mut values = Vec::new();
    for text in text.split(',').map(str::trim) {
        if text.is_empty() {
            return Err("an empty entry between, before or after commas".into());
        }
        let value = entry(text)?;
        if values.contains(&value) {
            return Err(format!("\"{text}\" is given twice"));
        }
        values.push(value);
    }
    Ok(values)
}

/// The same for a list that may be empty: then it is the word `none`, or nothing.
pub(crate) fn list_or_none<T: PartialEq>(text: &str, entry: Entry<T>) -> Result<Vec<T>, String> {
    if text.is_empty() || text.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    list(text, entry)
}

/// A form of the trace line.
pub(crate) fn time_stamp(text: &str) -> Result<TimeStamp, String> {
    match text.to_ascii_lowercase().as_str() {
        "received" => Ok(TimeStamp::Received),
        "mail-from" => Ok(TimeStamp::MailFrom),
        _ => Err(format!("\"{text}\" is neither Received nor Mail-From")),
    }
}

/// A domain or a literal in brackets. A bare address would read as a domain of odd labels, which
/// nobody means.
pub(crate) fn host(text: &str) -> Result<Host, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(format!(
            "an address is written as a literal: {}",
            Host::literal(address)
        ));
    }
    text.parse::<Host>()
        .map_err(|_| format!("\"{text}\" is neither a domain nor a literal such as [192.0.2.1]"))
}

/// An address, bare or in brackets; v4-mapped becomes v4.
pub(crate) fn ip(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(format!(
            "\"{text}\" is no IP address, such as 192.0.2.1 or 2001:db8::1"
        )),
    }
}

/// `ADDRESS` or `ADDRESS/BITS`. Host bits are dropped; a v4-mapped network becomes the v4 one.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let wrong =
        || format!("\"{text}\" is no network, such as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1");
    let network = match text.parse::<IpNet>() {
        Ok(network) => network.trunc(),
        Err(_) => ip(text).map_err(|_| wrong())?.into(),
    };
    // Clients are compared as v4 when they are v4-mapped, so such a network has to be v4 too.
    match (
        network.addr().to_canonical(),
        network.prefix_len().checked_sub(96),
    ) {
        (address @ IpAddr::V4(_), Some(bits)) if network.addr().is_ipv6() => {
            IpNet::new(address, bits).map_err(|_| wrong())
        }
        _ => Ok(network),
    }
}

/// A DNS server: an address, with a port if it is not 53.
pub(crate) fn nameserver(text: &str) -> Result<SocketAddr, String> {
    let server = ip(text).map(|address| SocketAddr::new(address, 53));
    match server.or_else(|_| text.parse::<SocketAddr>()) {
        Ok(server) if server.port() != 0 => {
            Ok(SocketAddr::new(server.ip().to_canonical(), server.port()))
        }
        _ => Err(format!(
            "\"{text}\" is no server, such as 192.0.2.53, 192.0.2.53:5353 or [::1]:5353"
        )),
    }
}

/// A path, without the mistakes that would make an odd file instead of an error.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with(['"', '\'']) {
        return Err("a path is written without quotes".into());
    }
    if text.starts_with('~') {
        return Err("~ means nothing here: write the whole path".into());
    }
    if text.contains(" #") || text.contains("\t#") {
        return Err("a comment needs a line of its own".into());
    }
    // The same file by the same name: `./a//b` is `a/b`.
    let path: PathBuf = Path::new(text).components().collect();
    match path.strip_prefix(".") {
        Ok(rest) if rest != Path::new("") => Ok(rest.into()),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_sizes_and_times() {
        assert_eq!(count("1"), Ok(1));
        assert_eq!(count("0010"), Ok(10));
        let sizes = [
            ("1", 1),
            ("500K", 512_000),
            ("25M", 26_214_400),
            ("1024G", SIZE_MAX),
        ];
        for (text, octets) in sizes {
            assert_eq!(size(text), Ok(octets), "{text}");
        }
        for (text, time) in [
            ("100", 100),
            ("90s", 90),
            ("5m", 300),
            ("4h", 14_400),
            ("5d", 432_000),
        ] {
            assert_eq!(seconds(text), Ok(Duration::from_secs(time)), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "1.5",
            "1_000",
            "0x10",
            "ten",
            "99999999999999999999",
            "٣",
        ] {
            assert!(
                count(text).is_err() && size(text).is_err() && seconds(text).is_err(),
                "{text}"
            );
        }
        for text in ["K", "25 M", "25m", "25MB", "25MiB", "1025G", "17179869184G"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in [
            "m",
            "5M",
            "5min",
            "5 m",
            "1d12h",
            "0d",
            "3651d",
            "213503982334602d",
            "5é",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(count("10K").is_err(), "a count is no size");
    }

    #[test]
    fn ports() {
        assert_eq!(port("65535"), Ok(65535));
        assert_eq!(port_or_0("0"), Ok(0));
        assert!(port("0").is_err() && port("65536").is_err() && port("smtp").is_err());
    }

    #[test]
    fn lists() {
        assert_eq!(list("0.0.0.0,  [::] ,::1", ip).unwrap().len(), 3);
        for text in [
            "",
            ",",
            "::,",
            "::1 ::2",
            "::1, 0:0::1",
            "1.2.3.4, ::ffff:1.2.3.4",
        ] {
            assert!(list(text, ip).is_err(), "{text}");
        }
        for text in [
            "localhost",
            "*",
            "1.2.3",
            "010.0.0.1",
            "1.2.3.4:25",
            "[1.2.3.4",
            "fe80::1%lo",
        ] {
            assert!(ip(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts() {
        for text in [
            "example.org",
            "localhost",
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
        ] {
            assert_eq!(host(text).unwrap().to_string(), text);
        }
        for text in [
            "a b",
            "-a.example",
            "a..b",
            "[a.example]",
            "\"a.example\"",
            "",
        ] {
            assert!(host(text).unwrap_err().contains("neither"), "{text}");
        }
        assert!(
            host("10.0.0.4")
                .unwrap_err()
                .ends_with("literal: [10.0.0.4]")
        );
        assert!(host("::1").unwrap_err().ends_with("literal: [IPv6:::1]"));
    }

    #[test]
    fn networks_are_canonical() {
        let rows = [
            ("127.0.0.0/8", "127.0.0.0/8"),
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("::1", "::1/128"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::ffff:10.9.9.9", "10.9.9.9/32"),
            ("::ffff:10.9.9.9/104", "10.0.0.0/8"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ];
        for (text, shown) in rows {
            assert_eq!(network(text).unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "10.0.0.0/33",
            "10.0.0.0/",
            "10/8",
            "10.0.0.0/255.0.0.0",
            "::/129",
            "/8",
            "a/8",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nameservers() {
        let rows = [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
        ];
        for (text, server) in rows {
            assert_eq!(nameserver(text).unwrap().to_string(), server);
        }
        for text in [
            "dns.example",
            "192.0.2.53:0",
            "192.0.2.53:",
            "192.0.2.53:65536",
            ":53",
        ] {
            assert!(nameserver(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths() {
        for (text, cleaned) in [
            ("/a//b/./c/", "/a/b/c"),
            ("./a/b", "a/b"),
            ("../a", "../a"),
            (".", "."),
        ] {
            assert_eq!(path(text).unwrap().as_os_str(), cleaned);
        }
        for text in ["\"/a\"", "~/mbox", "/a # the spool"] {
            assert!(path(text).is_err(), "{text}");
        }
    }
}
