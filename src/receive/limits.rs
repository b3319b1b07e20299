//! Who is being served: the count against the limits, and a way to reach clients that wait when the server stops.
//!
//! A client is in one of three states: *served* (counts against MAX_CLIENTS), *closing* (has had its last reply;
//! its thread only sees to it that the reply arrives), gone. One lock, taken when a client comes, begins to close
//! and goes; never while it talks. At most [`MAX_CLOSING`] clients are closing, so the number of threads is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::receive::handler::Settings;

/// Clients that may be closing at once. One more counts until it is gone, and is not waited for.
const MAX_CLOSING: usize = 1000;
/// After the last reply, how long the client may take to see it.
const LINGER: Duration = Duration::from_secs(2);

/// Everyone who is connected.
#[derive(Debug, Default)]
pub struct Clients {
    all: Mutex<All>,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct All {
    served: HashMap<u64, Arc<ServedClient>>,
    by_host: HashMap<IpAddr, usize>,
    closing: usize,
    next: u64,
}

/// A served client's stream, shared with the thread that stops the server.
#[derive(Debug)]
pub struct ServedClient {
    /// The stream itself.
    pub stream: TcpStream,
    waiting: AtomicBool,
}

/// Why one more client is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// MAX_CLIENTS are served.
    All,
    /// MAX_CLIENTS_PER_HOST of its address are served.
    Host,
    /// The server is stopping.
    Stopping,
    /// No thread can be started for the next one.
    Threads,
}

/// The right of one client to be served; given back when dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    clients: &'a Clients,
    client: Arc<ServedClient>,
    number: u64,
    counted: Option<IpAddr>,
    closing: Option<Closing<'a>>,
}

impl Clients {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`stop`](Clients::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Lets the client be served, or hands the stream back.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter(
        &self,
        stream: TcpStream,
        peer: IpAddr,
        settings: &Settings,
    ) -> Result<Permit<'_>, (TcpStream, LimitReached)> {
        let exempt = settings.uncounted.iter().any(|net| net.contains(&peer));
        let counted = (!exempt).then(|| host_of(peer));
        let mut all = self.all();
        if self.is_stopping() {
            return Err((stream, LimitReached::Stopping));
        }
        if all.served.len() >= settings.max_clients {
            return Err((stream, LimitReached::All));
        }
        if let Some(host) = counted {
            let count = all.by_host.entry(host).or_default();
            if *count >= settings.max_clients_per_host {
                return Err((stream, LimitReached::Host));
            }
            *count += 1;
        }
        let number = all.next;
        all.next += 1;
        let client = Arc::new(ServedClient {
            stream,
            waiting: AtomicBool::new(false),
        });
        all.served.insert(number, Arc::clone(&client));
        Ok(Permit {
            clients: self,
            client,
            number,
            counted,
            closing: None,
        })
    }

    /// Counts a client that is not served as closing, until it has been told so.
    pub fn refuse(&self) -> Closing<'_> {
        self.closing(&mut self.all())
    }

    fn closing(&self, all: &mut All) -> Closing<'_> {
        let counted = all.closing < MAX_CLOSING;
        all.closing += usize::from(counted);
        let clients = self;
        Closing { clients, counted }
    }

    /// From now on no client is served any more, and those who wait for a command see the end of their input.
    pub fn stop(&self) {
        let all = self.all();
        self.stopping.store(true, SeqCst);
        for client in all.served.values() {
            if client.waiting.load(SeqCst) {
                let _ = client.stream.shutdown(Shutdown::Read);
            }
        }
    }

    /// How many are served or closing.
    pub fn count(&self) -> usize {
        let all = self.all();
        all.served.len() + all.closing
    }
}

/// What counts as one host: an IPv4 address, or the /64 network of an IPv6 one, since whoever has one address there has
/// all of them.
fn host_of(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

impl Permit<'_> {
    /// The client's stream, to be read and written while the permit is used.
    pub fn client(&self) -> Arc<ServedClient> {
        Arc::clone(&self.client)
    }

    /// Whether [`Clients::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.clients.is_stopping()
    }

    /// Marks a wait for a command line: [`Clients::stop`] may end it. False if it has stopped already.
    pub fn begin_wait(&self) -> bool {
        // Either stop() sees this mark, or the next line sees that it stopped: both are in one order.
        self.client.waiting.store(true, SeqCst);
        !self.clients.is_stopping()
    }

    /// The wait is over.
    pub fn end_wait(&self) {
        self.client.waiting.store(false, SeqCst);
    }

    /// The last reply is on its way: the client no longer counts against the limits. Returns how long to wait for the
    /// client to take the reply; no time if too many are waited for, and then this one still counts.
    pub fn leave(&mut self) -> Duration {
        let clients = self.clients;
        let mut all = clients.all();
        let closing = clients.closing(&mut all);
        if closing.counted {
            self.give_back(&mut all);
        }
        self.closing.insert(closing).linger()
    }

    fn give_back(&mut self, all: &mut All) {
        all.served.remove(&self.number);
        if let Some(host) = self.counted.take()
            && let Some(count) = all.by_host.get_mut(&host)
        {
            *count -= 1;
            if *count == 0 {
                all.by_host.remove(&host);
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let clients = self.clients;
        self.give_back(&mut clients.all());
    }
}

/// A client that has had its last reply, or is being told that it is not served; counted until dropped, if there was
/// room.
#[derive(Debug)]
pub struct Closing<'a> {
    clients: &'a Clients,
    counted: bool,
}

impl Closing<'_> {
    /// How long to wait for the client to take its last reply.
    pub fn linger(&self) -> Duration {
        LINGER * u32::from(self.counted)
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.clients.all().closing -= usize::from(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_ipv6_client_counts_by_its_network_of_64_bits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let settings = Settings {
            max_clients_per_host: 2,
            uncounted: vec!["2001:db8:0:9::/64".parse().unwrap()],
            ..Settings::default()
        };
        for (held, then, expected) in [
            (["2001:db8::1", "2001:db8::1"], "2001:db8::1", false),
            (
                ["2001:db8::1", "2001:db8::2"],
                "2001:db8::ffff:0:0:3",
                false,
            ),
            (
                ["2001:db8:0:1::1", "2001:db8:0:2::1"],
                "2001:db8:0:1::2",
                true,
            ),
            (
                ["2001:db8:0:1::1", "2001:db8:0:1::2"],
                "2001:db8:0:2::1",
                true,
            ),
            (
                ["2001:db8:0:9::1", "2001:db8:0:9::2"],
                "2001:db8:0:9::3",
                true,
            ),
            (["192.0.2.1", "192.0.2.2"], "192.0.2.3", true),
            (["192.0.2.1", "192.0.2.1"], "192.0.2.1", false),
        ] {
            let clients = Clients::default();
            let enter = |ip: &str| clients.enter(stream(), ip.parse().unwrap(), &settings);
            let permits = held.map(|ip| enter(ip).map_err(|(_, why)| why).unwrap());
            assert_eq!(enter(then).is_ok(), expected, "{then} beside {held:?}");
            drop(permits);
            assert!(enter(then).is_ok(), "{then} when the others are gone");
            assert!(clients.all().by_host.is_empty());
        }
    }

    #[test]
    fn a_client_that_is_one_too_many_to_wait_for_still_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let clients = Clients::default();
        let settings = Settings::default();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let mut permit = clients.enter(stream, peer, &settings).unwrap();
        let closing: Vec<_> = (0..MAX_CLOSING).map(|_| clients.refuse()).collect();
        assert!(closing.iter().all(|closing| closing.linger() == LINGER));
        assert_eq!(clients.refuse().linger(), Duration::ZERO);
        assert_eq!(permit.leave(), Duration::ZERO);
        assert_eq!(clients.all().served.len(), 1);
        drop((permit.closing.take(), closing));
        assert_eq!(permit.leave(), LINGER);
        assert!(clients.all().served.is_empty());
        assert_eq!(clients.all().closing, 1);
        drop(permit);
        assert_eq!(clients.count(), 0);
    }
}
