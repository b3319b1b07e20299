//! The sockets that are listened on: how they are opened, called from here, and what their errors mean.

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

/// Connections that the kernel may hold until a thread accepts them; it has a limit of its own too.
const BACKLOG: i32 = 4096;

/// Opens a listener. Clients inherit `timeout` for their reads and writes.
///
/// # Errors
/// What the system reports, for instance that the address is in use.
pub fn listen(addr: SocketAddr, timeout: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    let listener = TcpListener::from(socket);
    prepare(&listener, timeout)?;
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

/// Sets what clients of the listener inherit.
pub(crate) fn prepare(listener: &TcpListener, timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))
}

/// Where a listener on a wildcard address can be called.
pub(crate) fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}

/// Whether an accept failed only for a client that went away before, or because the wait had its time: the next may be
/// tried at once. (accept(2) hands on what the network reports of one connection.) All else may come again for ever.
pub(crate) fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::HostUnreachable
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::Interrupted
            | Kind::TimedOut
            | Kind::WouldBlock
    )
}
