//! Listeners, and the threads that take clients from them.
//!
//! Every client has a thread of its own, and it is a listener's own `accept` that hands it over: idle threads of one
//! listener all wait in `accept`, the kernel wakes one of them with a client, and that thread serves it. Before it
//! does, it makes sure that another one is waiting (a new one if need be), and afterwards it goes back to wait unless
//! enough others do. So a client costs no switch between an accepting thread and its own, and no new thread while
//! old ones are idle.
//!
//! Accepting never ends and never spins: when the system is out of descriptors or memory, or refuses for any reason
//! that is not of one client, the thread pauses, 5 ms doubling to 1 s, and the log says so once a burst. When no thread
//! can be started, the client is told `421`.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};

use crate::net::contention::Contention;
use crate::receive::connection::Connection;
use crate::receive::handler::{Client, Handler, Settings};
use crate::receive::limits::{Clients, LimitReached};
use crate::receive::socket::{is_of_one_client, prepare, reachable};
use crate::receive::wire::Wire;
use crate::smtp::reply::{Reply, closing};
use crate::store::files::files_to_keep;

/// Threads of one listener that may wait for clients; more of them end. Each holds a descriptor that shows nowhere:
/// accept(2) takes it before it waits. So they are fewer where few files may be open.
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
/// A warning is not repeated while its cause comes again within this time.
const QUIET: Duration = Duration::from_secs(10);
/// How long a stop tries to wake the threads that wait for clients, and how long it waits for one of them.
const WAKE: Duration = Duration::from_secs(2);
const WAKE_ONE: Duration = Duration::from_millis(500);
/// How long threads may take to end once their clients are gone.
const LAST: Duration = Duration::from_secs(3);

/// A listener with its waiting threads.
#[derive(Debug)]
struct Listener {
    /// Taken out at the stop; closed when the last thread that waits in `accept` has let go of it.
    socket: Mutex<Option<Arc<TcpListener>>>,
    addr: SocketAddr,
    waiting: AtomicUsize,
}

impl Listener {
    fn socket(&self) -> MutexGuard<'_, Option<Arc<TcpListener>>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the calling thread as one that waits in `accept`, and returns the socket for it; `None` after the stop,
    /// or if `enough` threads wait already.
    fn register(&self, enough: usize) -> Option<Arc<TcpListener>> {
        // Under the lock: a thread that is registered was so before the stop, and waits when the stop wakes it.
        let socket = self.socket();
        let open = socket.clone()?;
        if self.waiting.load(SeqCst) >= enough {
            return None;
        }
        self.waiting.fetch_add(1, SeqCst);
        Some(open)
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
    /// When accepting or a new thread last failed.
    failed: Mutex<Option<Instant>>,
    contention: Arc<Contention>,
}

impl Listeners {
    /// Takes listeners over and starts the first thread of each. `timeout` is what their clients inherit.
    ///
    /// # Errors
    /// What the system reports of a listener, or that it has no thread to give.
    pub fn open<H: Handler>(
        sockets: Vec<TcpListener>,
        timeout: Duration,
        handler: &Arc<H>,
    ) -> io::Result<Arc<Listeners>> {
        let mut listeners = Vec::new();
        for socket in sockets {
            prepare(&socket, timeout)?;
            socket.set_nonblocking(false)?;
            listeners.push(Listener {
                addr: socket.local_addr()?,
                socket: Mutex::new(Some(Arc::new(socket))),
                waiting: AtomicUsize::new(0),
            });
        }
        let all = Arc::new(Listeners {
            listeners,
            clients: Clients::default(),
            timeout,
            threads: Mutex::new(0),
            ended: Condvar::new(),
            failed: Mutex::new(None),
            contention: Arc::default(),
        });
        for (number, listener) in all.listeners.iter().enumerate() {
            if let Err(error) = start_thread(&all, handler, number) {
                all.stop();
                return Err(error);
            }
            info!("listening on {}", listener.addr);
        }
        Ok(all)
    }

    /// The addresses listened on, with the ports that the system chose.
    pub fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|listener| listener.addr)
    }

    /// Ends accepting; clients that wait are told `421`, a message under way goes on.
    pub fn stop(&self) {
        self.clients.stop();
        let give_up = Instant::now() + WAKE;
        for listener in &self.listeners {
            // Only once: a second stop has nothing to add.
            if listener.socket().take().is_some() {
                self.wake(listener, give_up);
            }
        }
    }

    /// Wakes the threads that wait in `accept`. A shutdown would wake them all, but also break a listener that others hold
    /// open (a service manager's): this connects once for each thread instead, and not again before a thread has left.
    /// For what nobody takes stays in the queue of that listener, and much of it would fill it. (One connection may stay
    /// if a client comes first.)
    fn wake(&self, listener: &Listener, give_up: Instant) {
        loop {
            let waiting = listener.waiting.load(SeqCst);
            if waiting == 0 || Instant::now() >= give_up {
                return;
            }
            match TcpStream::connect_timeout(&reachable(listener.addr), WAKE_ONE) {
                Ok(_) => self.wait_for_fewer(listener, waiting),
                Err(_) => thread::sleep(PAUSE_MIN),
            }
        }
    }

    /// Waits until fewer than `before` threads wait in `accept`, for a moment at most.
    fn wait_for_fewer(&self, listener: &Listener, before: usize) {
        let as_many = |_: &mut usize| listener.waiting.load(SeqCst) >= before;
        let threads = self.threads();
        drop(self.ended.wait_timeout_while(threads, WAKE_ONE, as_many));
    }

    /// The calling thread no longer waits in `accept`; returns how many did before.
    fn leave(&self, listener: &Listener) -> usize {
        let before = listener.waiting.fetch_sub(1, SeqCst);
        if self.clients.is_stopping() {
            // The thread that looks at the number does so under this lock.
            drop(self.threads());
            self.ended.notify_all();
        }
        before
    }

    fn threads(&self) -> MutexGuard<'_, usize> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every client is gone and every thread has ended, for `grace` at most; returns how many clients are
    /// left. (A thread whose listener cannot be called from here is not waited for as long.)
    pub fn wait(&self, grace: Duration) -> usize {
        let deadline = Instant::now() + grace;
        // A client's thread ends after it, and says so.
        let served = |_: &mut usize| self.clients.count() > 0;
        drop(self.ended.wait_timeout_while(self.threads(), grace, served));
        let left = self.clients.count();
        if left == 0 {
            let grace = deadline.saturating_duration_since(Instant::now()).min(LAST);
            let some = |threads: &mut usize| *threads > 0;
            drop(self.ended.wait_timeout_while(self.threads(), grace, some));
        }
        left
    }

    /// Warns that `what` failed, if it is the first failure of a burst.
    fn warn(&self, what: &str, error: &io::Error) {
        let mut last = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.replace(Instant::now());
        if last.is_none_or(|last| last.elapsed() > QUIET) {
            warn!("cannot {what}: {error}");
        }
    }

    /// Says why to a client that is not served, and closes.
    fn refuse(&self, stream: &TcpStream, reply: &Reply, linger: Duration) {
        let mut wire = Wire::new(stream, self.timeout, &self.contention);
        if wire.reply(reply, PAUSE_MAX).is_ok() {
            wire.close(PAUSE_MAX, linger);
        }
    }
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
    let listener = &listeners.listeners[number];
    let Some(socket) = listener.register(usize::MAX) else {
        return Ok(());
    };
    *listeners.threads() += 1;
    let counted = Counted(Arc::clone(listeners));
    let thread = thread::Builder::new()
        .name("client".to_owned())
        .stack_size(STACK);
    let started = thread.spawn(move || {
        take_clients(&counted.0, &their_handler, number, socket);
        drop(their_handler);
    });
    if started.is_err() {
        listeners.leave(listener);
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
    mut socket: Arc<TcpListener>,
) {
    let listener = &listeners.listeners[number];
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = socket.accept();
        if listeners.clients.is_stopping() {
            listeners.leave(listener);
            if let Ok((stream, _)) = accepted {
                // It may be what woke this thread: no line in the log.
                let reply = unavailable(&handler.settings(), closing::STOPPING);
                listeners.refuse(&stream, &reply, Duration::ZERO);
            }
            return;
        }
        let (stream, peer) = match accepted {
            Ok(client) => client,
            Err(error) => {
                if !is_of_one_client(&error) {
                    listeners.warn(&format!("accept clients on {}", listener.addr), &error);
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                continue;
            }
        };
        pause = PAUSE_MIN;
        // It is not kept open for as long as this client stays.
        drop(socket);
        let failed = listeners.leave(listener) == 1
            && start_thread(listeners, handler, number)
                .inspect_err(|error| listeners.warn("start a thread for a client", error))
                .is_err();
        let enough = if failed {
            usize::MAX
        } else {
            files_to_keep(MAX_IDLE).max(1)
        };
        let client = client(&stream, peer, listener.addr);
        let served = panic::catch_unwind(AssertUnwindSafe(|| {
            serve(listeners, handler.as_ref(), stream, client, failed);
        }));
        if served.is_err() {
            let peer = client.peer;
            error!("panic client={peer}: its session is over, the others go on");
        }
        match listener.register(enough) {
            Some(again) => socket = again,
            None => return,
        }
    }
}

/// The two ends of a connection; only a listener on a wildcard address does not know its own.
fn client(stream: &TcpStream, peer: SocketAddr, listening: SocketAddr) -> Client {
    let local = match listening.ip().is_unspecified() {
        true => stream.local_addr().unwrap_or(listening),
        false => listening,
    };
    Client::new(peer, local)
}

/// Serves a client, or tells it why not; `failed`: no other thread waits, and none could be started.
fn serve<H: Handler>(
    listeners: &Listeners,
    handler: &H,
    stream: TcpStream,
    client: Client,
    failed: bool,
) {
    let (clients, settings, peer) = (&listeners.clients, handler.settings(), client.peer);
    let permit = match failed {
        true => Err((stream, LimitReached::Threads)),
        false => clients.enter(stream, peer.ip(), &settings),
    };
    let (stream, limit) = match permit {
        Ok(permit) => {
            let served = permit.client();
            let wire = Wire::new(&served.stream, listeners.timeout, &listeners.contention);
            return Connection::new(handler, settings, client, permit, wire).run();
        }
        Err(refused) => refused,
    };
    let closing = clients.refuse();
    let (why, limit, linger) = match limit {
        LimitReached::All => (closing::FULL, " limit=MAX_CLIENTS", closing.linger()),
        LimitReached::Host => (
            closing::FULL,
            " limit=MAX_CLIENTS_PER_HOST",
            closing.linger(),
        ),
        LimitReached::Threads => (closing::FULL, " limit=threads", Duration::ZERO),
        LimitReached::Stopping => (closing::STOPPING, "", Duration::ZERO),
    };
    let reply = unavailable(&settings, why);
    info!("rejected client={peer}{limit} answer={reply}");
    listeners.refuse(&stream, &reply, linger);
}

fn unavailable(settings: &Settings, why: &'static str) -> Reply {
    Reply::unavailable(&settings.hostname, why)
}
