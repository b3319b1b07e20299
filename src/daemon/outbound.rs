//! What the queue needs of the daemon: the configuration in force, routes, mailboxes, DNS and connections.

use crate::daemon::config::Config;
use crate::daemon::router::Router;
use crate::message::Id;
use crate::relay::client::{Connection, Trouble};
use crate::relay::mx::{Identity, Resolver, RouteError, Target};
use crate::relay::queue::{BackOff, Environment, Link, Route, Settings};
use crate::smtp::address::{ForwardPath, Host};
use crate::store::mailbox::{MailboxError, MailboxMessage};
use crate::store::spool::Origin;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The bound on one look-up in the DNS.
const LOOKUP: Duration = Duration::from_secs(15);

/// The daemon, as its queue sees it.
pub(crate) struct Outbound {
    router: Arc<Router>,
    /// With the name servers that it asks: a reload may name others.
    resolver: Mutex<(Vec<SocketAddr>, Arc<Resolver>)>,
}

impl Outbound {
    /// # Errors
    /// There can be no resolver.
    pub(crate) fn new(router: Arc<Router>) -> Result<Outbound, RouteError> {
        let nameservers = router.config().mail.nameserver.clone();
        let resolver = Arc::new(Resolver::new(&nameservers, LOOKUP)?);
        Ok(Outbound {
            router,
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

impl Environment for Outbound {
    fn settings(&self) -> Settings {
        let mail = &self.router.config().mail;
        Settings {
            hostname: mail.hostname.clone(),
            max_relays: mail.max_relays,
            back_off: BackOff {
                min: mail.retry_min,
                max: mail.retry_max,
            },
            lifetime: mail.queue_lifetime,
        }
    }

    fn route(&self, to: &ForwardPath) -> Route {
        self.router.route(to)
    }

    fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError> {
        self.router.deliver(mbox, copy)
    }

    fn report(&self, to: &ForwardPath, content: Vec<u8>, origin: Origin) -> io::Result<Id> {
        self.router.submit(to, content, origin)
    }

    fn look_up(&self, host: &Host) -> Result<Vec<Target>, RouteError> {
        let config = self.router.config();
        let me = Identity {
            hostname: config.mail.hostname.clone(),
            listening: self.router.listening(),
        };
        self.resolver(&config)?
            .targets(host, config.mail.relay_port, &me)
    }

    fn open(&self, target: &Target) -> Result<Box<dyn Link>, Trouble> {
        let mail = &self.router.config().mail;
        let connection = Connection::open(target, &mail.hostname, mail.relay_timeout)?;
        Ok(Box::new(connection))
    }
}
