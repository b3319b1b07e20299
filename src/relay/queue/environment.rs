//! What the queue needs of the rest of the daemon, as one trait, so that its tests can play the neighbours.

use crate::daemon::config::{Config, MailConf};
use crate::daemon::router::{Route, Router};
use crate::message::{Body, Id};
use crate::relay::client::{Connection, Fate, Trouble};
use crate::relay::mx::{Identity, Resolver, RouteError, Target};
use crate::relay::queue::destinations::Limits;
use crate::relay::queue::retry::BackOff;
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use crate::store::mailbox::{MailboxError, MailboxMessage};
use crate::store::spool::Origin;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The part of the configuration that the queue works by; asked for anew at each use.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) hostname: Host,
    pub(crate) limits: Limits,
    pub(crate) back_off: BackOff,
    pub(crate) lifetime: Duration,
}

impl From<&MailConf> for Settings {
    fn from(conf: &MailConf) -> Settings {
        Settings {
            hostname: conf.hostname.clone(),
            limits: Limits::new(conf.max_relays),
            back_off: BackOff {
                min: conf.retry_min,
                max: conf.retry_max,
            },
            lifetime: conf.queue_lifetime,
        }
    }
}

/// The neighbours.
pub(crate) trait Environment: Send + Sync + 'static {
    type Link: Link;
    fn settings(&self) -> Settings;
    fn route(&self, to: &ForwardPath) -> Route;
    fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError>;
    fn submit(&self, to: &ForwardPath, content: Vec<u8>, origin: Origin) -> io::Result<Id>;
    fn targets(&self, host: &Host) -> Result<Vec<Target>, RouteError>;
    fn open(&self, target: &Target) -> Result<Self::Link, Trouble>;
}

/// An open connection.
pub(crate) trait Link {
    /// One transaction: the fate of every recipient, in order.
    fn send(&mut self, from: &ReversePath, to: &[ForwardPath], body: &Body) -> Vec<Fate>;
    /// Whether another message may be sent.
    fn is_usable(&self) -> bool;
    /// The last message was sent whole and no reply came.
    fn is_in_doubt(&self) -> bool;
    fn quit(self);
    /// Ends the connection from another thread, unless it is past DATA.
    fn interrupter(&self) -> Box<dyn Fn() + Send>;
}

/// The bound on one look-up in the DNS.
const LOOKUP: Duration = Duration::from_secs(15);

/// The real ones.
pub(crate) struct DaemonEnvironment {
    post: Arc<Router>,
    /// With the name servers that it asks: a reload may name others.
    resolver: Mutex<(Vec<SocketAddr>, Arc<Resolver>)>,
}

impl DaemonEnvironment {
    pub(crate) fn new(post: Arc<Router>) -> Result<DaemonEnvironment, RouteError> {
        let nameservers = post.config().mail.nameserver.clone();
        let resolver = Arc::new(Resolver::new(&nameservers, LOOKUP)?);
        Ok(DaemonEnvironment {
            post,
            resolver: Mutex::new((nameservers, resolver)),
        })
    }

    /// The resolver for the configuration in force. No lock is held while it is asked.
    fn resolver(&self, config: &Config) -> Result<Arc<Resolver>, RouteError> {
        let wanted = &config.mail.nameserver;
        let mut current = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != *wanted {
            *current = (wanted.clone(), Arc::new(Resolver::new(wanted, LOOKUP)?));
        }
        Ok(Arc::clone(&current.1))
    }
}

impl Environment for DaemonEnvironment {
    type Link = Connection;

    fn settings(&self) -> Settings {
        Settings::from(&self.post.config().mail)
    }

    fn route(&self, to: &ForwardPath) -> Route {
        self.post.route(to)
    }

    fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError> {
        self.post.deliver(mbox, copy)
    }

    fn submit(&self, to: &ForwardPath, content: Vec<u8>, origin: Origin) -> io::Result<Id> {
        self.post.submit(to, content, origin)
    }

    fn targets(&self, host: &Host) -> Result<Vec<Target>, RouteError> {
        let config = self.post.config();
        let me = Identity {
            hostname: config.mail.hostname.clone(),
            listening: self.post.listening(),
        };
        self.resolver(&config)?
            .targets(host, config.mail.relay_port, &me)
    }

    fn open(&self, target: &Target) -> Result<Connection, Trouble> {
        let config = self.post.config();
        Connection::open(target, &config.mail.hostname, config.mail.relay_timeout)
    }
}

impl Link for Connection {
    fn send(&mut self, from: &ReversePath, to: &[ForwardPath], body: &Body) -> Vec<Fate> {
        Connection::send(self, from, to, body)
    }

    fn is_usable(&self) -> bool {
        Connection::is_usable(self)
    }

    fn is_in_doubt(&self) -> bool {
        Connection::is_in_doubt(self)
    }

    fn quit(self) {
        Connection::quit(self);
    }

    fn interrupter(&self) -> Box<dyn Fn() + Send> {
        let handle = self.handle();
        Box::new(move || {
            handle.interrupt_unless_past_data();
        })
    }
}
