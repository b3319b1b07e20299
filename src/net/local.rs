//! Which addresses are this machine's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Whether `ip` is an address of this machine.
///
/// The kernel calls an address of this machine from that same address. Nothing is sent. (Whether it can be bound
/// says less: with `ip_nonlocal_bind` any address can.)
pub(crate) fn is_on_this_machine(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || source().is_ok_and(|source| source.ip() == ip)
}

/// Whether `ip` leads to this machine or to its own link only.
pub(crate) fn is_near(ip: IpAddr) -> bool {
    let of_a_link = match ip.to_canonical() {
        // All of 0.0.0.0/8 is "this network" (RFC 1122 3.2.1.3).
        IpAddr::V4(ip) => ip.is_link_local() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified(),
    };
    of_a_link || is_on_this_machine(ip.to_canonical())
}

/// Whether `ip` belongs to a private network (RFC 1918, RFC 6598, RFC 4193).
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Whether `ip` is listened on; under a wildcard, whether it is this machine's at all.
pub(crate) fn is_ours(ip: IpAddr, listening: &[SocketAddr]) -> bool {
    let ip = ip.to_canonical();
    listening
        .iter()
        .map(|addr| addr.ip().to_canonical())
        .any(|listened| {
            let wildcard = listened.is_unspecified() && listened.is_ipv4() == ip.is_ipv4();
            listened == ip || wildcard && is_on_this_machine(ip)
        })
}
