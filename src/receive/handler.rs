//! What a program that embeds the receiver provides: decisions on recipients, and where messages go.
//!
//! The daemon is one such program (`daemon/router.rs`); a [`std::sync::mpsc::Sender`] of messages is the smallest. This one
//! keeps a list of subjects, and refuses mail for everybody but `bob`:
//!
//! ```
//! use smtpd788::handler::{Client, Handler, Refusal, Verdict};
//! use smtpd788::message::Message;
//! use smtpd788::server::Server;
//! use smtpd788::smtp::address::{ForwardPath, ReversePath};
//! use std::io::{BufRead, BufReader};
//! use std::sync::{Arc, Mutex};
//!
//! struct Subjects(Arc<Mutex<Vec<String>>>);
//!
//! impl Handler for Subjects {
//!     type Transaction = ();
//!
//!     fn begin(&self, _: &Client, _: &ReversePath) {}
//!
//!     fn recipient(&self, _: &Client, (): &mut (), to: &ForwardPath) -> Verdict {
//!         if to.user() == "bob" { Verdict::Accept } else { Verdict::NoSuchUser }
//!     }
//!
//!     fn message(&self, _: &Client, (): (), message: Message) -> Result<(), Refusal> {
//!         for line in BufReader::new(message.body.reader()).lines() {
//!             let line = line.map_err(|error| Refusal::from(&error))?;
//!             if let Some(subject) = line.strip_prefix("Subject: ") {
//!                 self.0.lock().unwrap().push(subject.to_owned());
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let list = Arc::default();
//! let server = Server::bind("127.0.0.1:0", Subjects(Arc::clone(&list)))?;
//! # use smtpd788::send::{self, Fate, Mailer};
//! # let (from, to) = ("<>".parse()?, ["<bob@x>".parse()?, "<ann@x>".parse()?]);
//! # let body = send::content("Subject: hello\n")?;
//! # let fates = Mailer::new("me".parse()?).to_host(server.addr(), &from, &to, &body)?;
//! # assert!(matches!(&fates[..], [Fate::Delivered(_), Fate::Never(_)]), "{fates:?}");
//! # assert_eq!(*list.lock().unwrap(), ["hello"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

pub use ipnet::IpNet;

use crate::message::Message;
use crate::smtp::address::{Domain, ForwardPath, Host, ReversePath};
pub use crate::smtp::session::Verdict;

/// The two ends of a client's connection; an IPv4-mapped address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Client {
    /// The client's own address.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}

impl Client {
    /// Names the two ends.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Client {
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        Client {
            peer: canonical(peer),
            local: canonical(local),
        }
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Answered `451`: something went wrong here; the client may try again.
    #[error("local error")]
    LocalError,
    /// Answered `452`: no room now; the client may try again.
    #[error("no space")]
    NoSpace,
}

impl From<&io::Error> for Refusal {
    /// No room on the disk, in the quota or under the file size limit is [`Refusal::NoSpace`].
    fn from(error: &io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Refusal::NoSpace,
            _ => Refusal::LocalError,
        }
    }
}

/// The longest client timeout: longer ones are for ever anyway, and time can't be added without end.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Decides on recipients and takes messages. One handler serves all clients, each from its own thread. A method that
/// panics ends that client's session, is logged, and is of no consequence to the others.
pub trait Handler: Send + Sync + 'static {
    /// What the handler keeps about one transaction; `()` if nothing.
    type Transaction: Send;

    /// A transaction begins with MAIL (RFC 788 3.1). One that is reset is dropped without further notice.
    fn begin(&self, client: &Client, from: &ReversePath) -> Self::Transaction;

    /// Decides on one recipient. What the client says must not sway who may relay; its address may.
    fn recipient(
        &self,
        client: &Client,
        transaction: &mut Self::Transaction,
        to: &ForwardPath,
    ) -> Verdict;

    /// Takes the message; returns only when every copy is safe, because `250` follows at once.
    ///
    /// # Errors
    /// The refusal that the client is told.
    fn message(
        &self,
        client: &Client,
        transaction: Self::Transaction,
        message: Message,
    ) -> Result<(), Refusal>;

    /// The limits in force, asked when a client connects and at its every HELO and MAIL.
    fn settings(&self) -> Arc<Settings> {
        Arc::default()
    }
}

/// Takes everything for everyone; `451` once the receiver of the channel is gone.
impl Handler for Sender<Message> {
    type Transaction = ();

    fn begin(&self, _: &Client, _: &ReversePath) {}

    fn recipient(&self, _: &Client, (): &mut (), _: &ForwardPath) -> Verdict {
        Verdict::Accept
    }

    fn message(&self, _: &Client, (): (), message: Message) -> Result<(), Refusal> {
        self.send(message).map_err(|_| Refusal::LocalError)
    }
}

/// A handler that the program keeps hold of.
impl<H: Handler> Handler for Arc<H> {
    type Transaction = H::Transaction;

    fn begin(&self, client: &Client, from: &ReversePath) -> H::Transaction {
        H::begin(self, client, from)
    }

    fn recipient(
        &self,
        client: &Client,
        transaction: &mut H::Transaction,
        to: &ForwardPath,
    ) -> Verdict {
        H::recipient(self, client, transaction, to)
    }

    fn message(
        &self,
        client: &Client,
        transaction: H::Transaction,
        message: Message,
    ) -> Result<(), Refusal> {
        H::message(self, client, transaction, message)
    }

    fn settings(&self) -> Arc<Settings> {
        H::settings(self)
    }
}

/// A handler's name and limits.
///
/// ```
/// let mut settings = smtpd788::handler::Settings::default();
/// settings.hostname = "mail.example.org".parse()?;
/// settings.max_message_size = 1024 * 1024;
/// # Ok::<(), smtpd788::smtp::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The name in greeting and replies (RFC 788 4.3).
    pub hostname: Host,
    /// Clients served at once; one more gets `421`.
    pub max_clients: usize,
    /// Clients served at once from one address, or from one /64 network of IPv6.
    pub max_clients_per_host: usize,
    /// Networks whose clients are not counted by address.
    pub uncounted: Vec<IpNet>,
    /// For a whole command line, or the next piece of mail data; a year at most. Without a stored message a client may
    /// spend four times as long outside mail data.
    pub client_timeout: Duration,
    /// Octets of mail data as sent; more gets `552`, and as many again `421`.
    pub max_message_size: u64,
    /// Accepted recipients a transaction; one more gets `552` (RFC 788 4.5.3 wants 100).
    pub max_recipients: usize,
    /// Where the unnamed file of a large message is made.
    pub spill_dir: PathBuf,
}

impl Default for Settings {
    /// `localhost`, and the limits of a `mail.conf` that names none; only that one address may have all clients.
    fn default() -> Settings {
        Settings {
            hostname: Host::Name(Domain::localhost()),
            max_clients: 100,
            max_clients_per_host: 100,
            uncounted: Vec::new(),
            client_timeout: Duration::from_secs(300),
            max_message_size: 25 * 1024 * 1024,
            max_recipients: 100,
            spill_dir: std::env::temp_dir(),
        }
    }
}

impl Settings {
    /// `client_timeout`, within what clocks can count.
    pub(crate) fn timeout(&self) -> Duration {
        self.client_timeout.min(TIMEOUT_MAX)
    }
}
