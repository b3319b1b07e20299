//! Who is being served: the count against the limits, and a way to reach clients that wait when the server stops.
//!
//! A client is in one of three states: *served* (counts against MAX_CLIENTS), *leaving* (has had its last reply;
//! its thread only sees to it that the reply arrives), gone. One lock, taken when a client comes, begins to leave
//! and goes; never while it talks.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::receive::handler::Settings;

/// Clients that may leave slowly at once; beyond that the connection is closed without waiting for them.
const MAX_LEAVING: usize = 1000;

/// Everyone who is connected.
#[derive(Debug, Default)]
pub struct Clients {
    all: Mutex<All>,
    gone: Condvar,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct All {
    served: HashMap<u64, Arc<Connection>>,
    by_host: HashMap<IpAddr, usize>,
    leaving: usize,
    next: u64,
}

/// One client's connection, as the server sees it.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    waiting: AtomicBool,
}

impl Connection {
    /// The stream itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
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
}

/// A client's place among the served; given back when dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    clients: &'a Clients,
    connection: Arc<Connection>,
    number: u64,
    counted: Option<IpAddr>,
    leaving: bool,
}

impl Clients {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`stop`](Clients::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Gives the client a place, or hands the stream back with the reason why there is none.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter(
        &self,
        stream: TcpStream,
        peer: IpAddr,
        settings: &Settings,
    ) -> Result<Permit<'_>, (TcpStream, LimitReached)> {
        let counted = (!settings.uncounted.iter().any(|net| net.contains(&peer))).then_some(peer);
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
        let connection = Arc::new(Connection {
            stream,
            waiting: AtomicBool::new(false),
        });
        all.served.insert(number, Arc::clone(&connection));
        Ok(Permit {
            clients: self,
            connection,
            number,
            counted,
            leaving: false,
        })
    }

    /// A client without a place that is to get its refusal: whether there is time to be polite about it.
    pub fn refuse(&self) -> Option<Closing<'_>> {
        let mut all = self.all();
        if all.leaving >= MAX_LEAVING {
            return None;
        }
        all.leaving += 1;
        Some(Closing(self))
    }

    /// From now on nobody gets a place, and those who wait for a command see the end of their input.
    pub fn stop(&self) {
        let all = self.all();
        self.stopping.store(true, SeqCst);
        for connection in all.served.values() {
            if connection.waiting.load(SeqCst) {
                let _ = connection.stream.shutdown(Shutdown::Read);
            }
        }
    }

    /// Waits until everyone is gone, for `grace` at most; how many are left.
    pub fn wait_until_gone(&self, grace: Duration) -> usize {
        let deadline = Instant::now() + grace;
        let mut all = self.all();
        while all.served.len() + all.leaving > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let wait = self.gone.wait_timeout(all, left);
            all = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        all.served.len() + all.leaving
    }

    fn notify(&self) {
        if self.is_stopping() {
            self.gone.notify_all();
        }
    }
}

impl Permit<'_> {
    /// The connection, to be read and written beside the place.
    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// Whether [`Clients::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.clients.is_stopping()
    }

    /// Marks a wait for a command line: [`Clients::stop`] may end it. False if it has stopped already.
    pub fn begin_wait(&self) -> bool {
        // Either stop() sees this mark, or the next line sees that it stopped: both are in one order.
        self.connection.waiting.store(true, SeqCst);
        !self.clients.is_stopping()
    }

    /// The wait is over.
    pub fn end_wait(&self) {
        self.connection.waiting.store(false, SeqCst);
    }

    /// The last reply is on its way: no longer counts against the limits. Whether to wait for the client to take it.
    pub fn leave(&mut self) -> bool {
        let mut all = self.clients.all();
        self.give_back(&mut all);
        self.leaving = all.leaving < MAX_LEAVING;
        all.leaving += usize::from(self.leaving);
        self.leaving
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
        let mut all = self.clients.all();
        self.give_back(&mut all);
        all.leaving -= usize::from(self.leaving);
        drop(all);
        self.clients.notify();
    }
}

/// A client without a place that is being told so.
#[derive(Debug)]
pub struct Closing<'a>(&'a Clients);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.all().leaving -= 1;
        self.0.notify();
    }
}
