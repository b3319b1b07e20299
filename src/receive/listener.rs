//! Listeners, and the threads that take clients from them.
//!
//! Every client has a thread of its own, and it is a listener's own `accept` that hands it over: idle threads of one
//! listener all wait in `accept`, the kernel wakes one of them with a client, and that thread serves it. Before it
//! does, it makes sure that another one is waiting (a new one if need be), and afterwards it goes back to wait unless
//! enough others do. So a client costs no switch between an accepting thread and its own, and no new thread while
//! old ones are idle.
//!
//! Accepting never ends and never spins: when the system is out of descriptors or memory, or refuses for any reason
//! that is not of one client, it pauses, 5 ms doubling to 1 s, and the log says so once a burst. When no thread can be started, the client is told `421`.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::contention::Contention;
use crate::receive::connection::Connection;
use crate::receive::handler::{Client, Handler, Settings};
use crate::receive::limits::{Clients, LimitReached};
use crate::receive::wire::Wire;
use crate::smtp::reply::Reply;

/// Connections that the kernel may hold until a thread accepts them; it has a limit of its own too.
const BACKLOG: i32 = 4096;
/// Threads of one listener that may wait for clients; more of them end.
const MAX_IDLE: usize = 32;
/// A session needs some 20 KiB; what is not touched costs no memory.
const STACK: usize = if cfg!(debug_assertions) {
    1024 * 1024
} else {
    256 * 1024
};
/// Memory that must be left when a thread starts: where it is limited, a client is refused before those who are served
/// lack a few octets, which would be the end of the process.
const RESERVE: usize = 32 * 1024 * 1024;
/// The pauses of an accept that the system refuses.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Trouble that comes again within this time is the same burst.
const BURST: Duration = Duration::from_secs(10);
/// How long a stop tries to wake the threads that wait for clients, and how long it waits for one of them.
const KNOCKS: Duration = Duration::from_secs(2);
const KNOCK: Duration = Duration::from_millis(500);
/// How long threads may take to end once their clients are gone.
const LAST: Duration = Duration::from_secs(3);
/// How long a client that is not served may take to read why.
const LINGER: Duration = Duration::from_secs(2);

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

fn prepare(listener: &TcpListener, timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))
}

/// A listener with its waiting threads.
#[derive(Debug)]
struct Listener {
    /// Taken out at the stop; closed when the last thread that waits in `accept` has let go of it.
    listener: Mutex<Option<Arc<TcpListener>>>,
    addr: SocketAddr,
    waiting: AtomicUsize,
}

impl Listener {
    fn open(&self) -> MutexGuard<'_, Option<Arc<TcpListener>>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts who asks as one who waits in `accept`, and gives the listener for it; nothing once the door is shut, or
    /// if `enough` wait already.
    fn place(&self, enough: usize) -> Option<Arc<TcpListener>> {
        // Under the lock: who is counted was so before the stop, and will be waiting when it knocks.
        let open = self.open();
        let listener = open.clone()?;
        if self.waiting.load(SeqCst) >= enough {
            return None;
        }
        self.waiting.fetch_add(1, SeqCst);
        Some(listener)
    }
}

/// What all threads of a server share.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<Listener>,
    clients: Clients,
    timeout: Duration,
    threads: Mutex<usize>,
    ended: Condvar,
    trouble: Mutex<Option<Instant>>,
    contention: Arc<Contention>,
}

impl Listeners {
    /// Takes listeners over and starts the first thread of each. `timeout` is what their clients inherit.
    ///
    /// # Errors
    /// What the system reports of a listener, or that it has no thread to give.
    pub fn open<H: Handler>(
        listeners: Vec<TcpListener>,
        timeout: Duration,
        handler: &Arc<H>,
    ) -> io::Result<Arc<Listeners>> {
        let mut opened = Vec::new();
        for listener in listeners {
            prepare(&listener, timeout)?;
            listener.set_nonblocking(false)?;
            let addr = listener.local_addr()?;
            opened.push(Listener {
                listener: Mutex::new(Some(Arc::new(listener))),
                addr,
                waiting: AtomicUsize::new(0),
            });
        }
        let all = Arc::new(Listeners {
            listeners: opened,
            clients: Clients::default(),
            timeout,
            threads: Mutex::new(0),
            ended: Condvar::new(),
            trouble: Mutex::new(None),
            contention: Arc::default(),
        });
        for (number, door) in all.listeners.iter().enumerate() {
            if let Err(error) = start_thread(&all, handler, number) {
                all.stop();
                return Err(error);
            }
            info!("listening on {}", door.addr);
        }
        Ok(all)
    }

    /// The addresses listened on, with the ports that the system chose.
    pub fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|door| door.addr)
    }

    /// Ends accepting; clients that wait are told `421`, a message under way goes on.
    pub fn stop(&self) {
        self.clients.stop();
        let give_up = Instant::now() + KNOCKS;
        for door in &self.listeners {
            // Only once: a second stop has nothing to add.
            if door.open().take().is_some() {
                self.wake(door, give_up);
            }
        }
    }

    /// Wakes the threads that wait in `accept`. A shutdown would wake them all, but also break a listener that others hold
    /// open (a service manager's): knock once for each instead, and not again before somebody has left. For what nobody
    /// takes stays in the queue of that listener, and much of it would fill it. (One may stay if a client comes first.)
    fn wake(&self, door: &Listener, give_up: Instant) {
        loop {
            let waiting = door.waiting.load(SeqCst);
            if waiting == 0 || Instant::now() >= give_up {
                return;
            }
            match TcpStream::connect_timeout(&reachable(door.addr), KNOCK) {
                Ok(_) => self.wait_for_fewer(door, waiting),
                Err(_) => thread::sleep(PAUSE_MIN),
            }
        }
    }

    /// Waits until fewer than `before` threads wait in `accept`, for a moment at most.
    fn wait_for_fewer(&self, door: &Listener, before: usize) {
        let as_many = |_: &mut usize| door.waiting.load(SeqCst) >= before;
        drop(
            self.ended
                .wait_timeout_while(self.threads(), KNOCK, as_many),
        );
    }

    /// One thread less waits in `accept`; how many it were.
    fn leave(&self, door: &Listener) -> usize {
        let before = door.waiting.fetch_sub(1, SeqCst);
        if self.clients.is_stopping() {
            // Who looks at the number does so under this lock.
            drop(self.threads());
            self.ended.notify_all();
        }
        before
    }

    fn threads(&self) -> MutexGuard<'_, usize> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every client is gone and every thread has ended, for `grace` at most; how many clients are left. (A
    /// thread whose listener cannot be called from here is not waited for as long.)
    pub fn wait(&self, grace: Duration) -> usize {
        let deadline = Instant::now() + grace;
        let left = self.clients.wait_until_gone(grace);
        if left == 0 {
            let grace = deadline.saturating_duration_since(Instant::now()).min(LAST);
            let some = |threads: &mut usize| *threads > 0;
            drop(self.ended.wait_timeout_while(self.threads(), grace, some));
        }
        left
    }

    /// Whether this is the first trouble of a burst.
    fn is_news(&self) -> bool {
        let mut last = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        last.replace(Instant::now())
            .is_none_or(|last| last.elapsed() > BURST)
    }
}

/// Where a listener on a wildcard address can be called.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let mut near = addr;
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => near.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => near.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    near
}

fn start_thread<H: Handler>(
    listeners: &Arc<Listeners>,
    handler: &Arc<H>,
    number: usize,
) -> io::Result<()> {
    // Asked for, and given back untouched: address space only.
    let mut reserve = Vec::<u8>::new();
    if std::hint::black_box(&mut reserve)
        .try_reserve_exact(RESERVE)
        .is_err()
    {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    drop(std::hint::black_box(reserve));
    let their_handler = Arc::clone(handler);
    let door = &listeners.listeners[number];
    let Some(listener) = door.place(usize::MAX) else {
        return Ok(());
    };
    *listeners.threads() += 1;
    let counted = Counted(Arc::clone(listeners));
    let thread = thread::Builder::new()
        .name("client".to_owned())
        .stack_size(STACK);
    let started = thread.spawn(move || {
        take_clients(&counted.0, &their_handler, number, listener);
        drop(their_handler);
    });
    if started.is_err() {
        listeners.leave(door);
    }
    started.map(drop)
}

/// A thread that is counted, until it ends, however it does.
struct Counted(Arc<Listeners>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.threads() -= 1;
        self.0.ended.notify_all();
    }
}

/// A thread's life: wait for a client, see to a successor, serve, come back.
fn take_clients<H: Handler>(
    listeners: &Arc<Listeners>,
    handler: &Arc<H>,
    number: usize,
    mut listener: Arc<TcpListener>,
) {
    let door = &listeners.listeners[number];
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = listener.accept();
        if listeners.clients.is_stopping() {
            listeners.leave(door);
            if let Ok((stream, _)) = accepted {
                refuse(&stream, &handler.settings(), Duration::ZERO);
            }
            return;
        }
        let (stream, peer) = match accepted {
            Ok(client) => client,
            Err(error) => {
                if !is_of_one_client(&error) {
                    if listeners.is_news() {
                        warn!("cannot accept clients on {}: {error}; waiting", door.addr);
                    }
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                continue;
            }
        };
        pause = PAUSE_MIN;
        // It is not kept open for as long as this client stays.
        drop(listener);
        let trouble = match listeners.leave(door) {
            1 => start_thread(listeners, handler, number).err(),
            _ => None,
        };
        let enough = if trouble.is_some() {
            usize::MAX
        } else {
            MAX_IDLE
        };
        let served = panic::catch_unwind(AssertUnwindSafe(|| match trouble {
            None => serve(listeners, handler.as_ref(), door.addr, stream, peer),
            Some(error) => {
                if listeners.is_news() {
                    warn!("cannot start a thread for a client: {error}");
                }
                refuse(&stream, &handler.settings(), Duration::ZERO);
            }
        }));
        if served.is_err() {
            error!("panic client={peer}: its session is over, the others go on");
        }
        let Some(place) = door.place(enough) else {
            return;
        };
        listener = place;
    }
}

/// Whether an accept failed only for a client that went away before, or because the wait had its time: the next may be
/// tried at once. (accept(2) hands on what the network reports of one connection.) All else may come again for ever.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, TimedOut,
        WouldBlock,
    };
    let kinds = [ConnectionAborted, HostUnreachable, Interrupted, NetworkDown];
    kinds.contains(&error.kind())
        || [NetworkUnreachable, TimedOut, WouldBlock].contains(&error.kind())
}

fn serve<H: Handler>(
    listeners: &Listeners,
    handler: &H,
    door: SocketAddr,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let settings = handler.settings();
    let local = match door.ip().is_unspecified() {
        true => stream.local_addr().unwrap_or(door),
        false => door,
    };
    let client = Client::new(peer, local);
    match listeners.clients.enter(stream, client.peer.ip(), &settings) {
        Ok(place) => {
            let connection = place.connection();
            let wire = Wire::new(
                connection.stream(),
                listeners.timeout,
                &listeners.contention,
            );
            Connection::new(handler, settings, client, place, wire).run();
        }
        Err((stream, why)) => {
            let leaving = listeners.clients.refuse();
            info!("rejected client={} answer=421 {why}", client.peer);
            let linger = if leaving.is_some() {
                LINGER
            } else {
                Duration::ZERO
            };
            refuse(&stream, &settings, linger);
        }
    }
}

/// Says `421` and closes.
fn refuse(stream: &TcpStream, settings: &Settings, linger: Duration) {
    let mut line = Vec::new();
    Reply::full(&settings.hostname).write(&mut line);
    let sent = stream
        .set_write_timeout(Some(PAUSE_MAX))
        .and_then(|()| (&*stream).write_all(&line));
    if sent.is_ok() {
        Wire::new(stream, PAUSE_MAX, &Arc::default()).close(PAUSE_MAX, linger);
    }
}

impl std::fmt::Display for LimitReached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LimitReached::All => "MAX_CLIENTS are being served",
            LimitReached::Host => "MAX_CLIENTS_PER_HOST of its address are being served",
            LimitReached::Stopping => "stopping",
        })
    }
}
