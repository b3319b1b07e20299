//! The receiver as a thing to start, ask, stop and join.
//!
//! ```
//! use smtpd788::server::Server;
//!
//! let (server, mail) = Server::channel("127.0.0.1:0")?;
//! println!("send mail to {}", server.addr());
//! server.stop();
//! server.join(std::time::Duration::from_secs(30));
//! assert!(mail.recv().is_err(), "the server has let go of the channel");
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use socket2::SockRef;

use crate::message::Message;
use crate::receive::handler::Handler;
use crate::receive::listener::Listeners;
pub use crate::receive::socket::listen;

/// Time can't be added without end.
const GRACE_MAX: Duration = Duration::from_secs(365 * 86_400);

/// A running receiver (RFC 788 section 3). Any number of them may run in one process; nothing is shared. Dropping it
/// stops it without waiting.
#[derive(Debug)]
pub struct Server {
    listeners: Arc<Listeners>,
}

impl Server {
    /// Listens on `addr` (port 0 lets the system choose) and hands every message to the channel. It takes mail for
    /// everyone and answers `250` once the message is in the channel.
    ///
    /// # Errors
    /// What the system reports, for instance that the address is in use.
    pub fn channel(addr: impl ToSocketAddrs) -> io::Result<(Server, Receiver<Message>)> {
        let (sender, receiver) = mpsc::channel();
        Ok((Server::bind(addr, sender)?, receiver))
    }

    /// Listens on every address that `addr` stands for and asks `handler`.
    ///
    /// # Errors
    /// What the system reports of one of the addresses.
    pub fn bind<H: Handler>(addr: impl ToSocketAddrs, handler: H) -> io::Result<Server> {
        let timeout = handler.settings().timeout();
        let listeners: io::Result<Vec<_>> = addr
            .to_socket_addrs()?
            .map(|addr| listen(addr, timeout))
            .collect();
        Server::start(listeners?, handler)
    }

    /// Takes clients from listeners that are open already: one's own, or a service manager's.
    ///
    /// # Errors
    /// `InvalidInput` without a listener, or for a socket that does not listen; else what the system reports of one.
    pub fn start<H: Handler>(listeners: Vec<TcpListener>, handler: H) -> io::Result<Server> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if listeners.is_empty() {
            return invalid("no address to listen on");
        }
        for listener in &listeners {
            // Such as the connection that a service manager with Accept=yes hands over.
            if !SockRef::from(listener).is_listener()? {
                return invalid("a socket that was handed over does not listen");
            }
        }
        let timeout = handler.settings().timeout();
        Ok(Server {
            listeners: Listeners::open(listeners, timeout, &Arc::new(handler))?,
        })
    }

    /// The first address listened on, with the port that the system chose.
    pub fn addr(&self) -> SocketAddr {
        self.listeners
            .addrs()
            .next()
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// All addresses listened on.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.listeners.addrs().collect()
    }

    /// Stops accepting. Clients that wait are answered `421`; a message that is being received or stored goes on.
    pub fn stop(&self) {
        self.listeners.stop();
    }

    /// Stops, and waits for clients and threads to end, for `grace` (a year at most). Returns how many clients were
    /// left: 0 if all have ended. Then the addresses are free and the handler is dropped.
    pub fn join(self, grace: Duration) -> usize {
        self.listeners.stop();
        self.listeners.wait(grace.min(GRACE_MAX))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listeners.stop();
    }
}
