//! The router: whether a recipient is ours or may be relayed to, and where the copies of a message go.
//!
//! A message is taken in this order, and `250` means that all of it is done:
//!
//! 1. recipients elsewhere: one durable spool file for all of them;
//! 2. mailboxes: one durable copy each, several mailboxes side by side;
//! 3. copies that a mailbox could not take now: one more spool file, to be retried from there.
//!
//! Only then does the queue learn of the spool files. If 3 fails too, the file of 1 is withdrawn before the client
//! is told to try again, so that nobody elsewhere gets the mail twice. A crash in between answers nothing: the client
//! sends the message again, and a copy may come twice, but never not at all.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Instant, SystemTime};

use log::{error, info, warn};

use crate::daemon::config::{Config, MailConf, Place};
use crate::message::{Body, Envelope, Id, Message, mbox_heading, time_stamp_line};
use crate::net::local::is_ours;
use crate::receive::handler::{Client, Handler, Refusal, Settings, Verdict};
use crate::relay::backscatter::Backscatter;
use crate::relay::queue::Route;
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use crate::store::mailbox::{MailboxError, MailboxMessage, Mailboxes};
use crate::store::spool::{NewEntry, NewRecipient, Origin, Queued, Spool};

/// The configuration in force, with the settings that sessions take from it.
#[derive(Debug)]
struct ActiveConfig {
    config: Arc<Config>,
    settings: Arc<Settings>,
}

/// Is given a new spool file, and where each of its recipients' mail goes.
type OnQueued = dyn Fn(Queued, Vec<Route>) + Send + Sync;

/// The router of one daemon; shared by the receiver and the queue.
pub struct Router {
    active: RwLock<ActiveConfig>,
    mailboxes: Mailboxes,
    spool: Arc<Spool>,
    queued: Box<OnQueued>,
    listening: OnceLock<Vec<SocketAddr>>,
    backscatter: Backscatter,
}

impl Router {
    /// `queued` is given every new spool file.
    pub fn new(
        config: Config,
        mailboxes: Mailboxes,
        spool: Arc<Spool>,
        queued: impl Fn(Queued, Vec<Route>) + Send + Sync + 'static,
    ) -> Router {
        Router {
            active: RwLock::new(ActiveConfig::new(config)),
            mailboxes,
            spool,
            queued: Box::new(queued),
            listening: OnceLock::new(),
            backscatter: Backscatter::default(),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&active.config)
    }

    /// Puts another configuration in force: sessions see it at their next HELO or MAIL.
    pub fn reconfigure(&self, config: Config) {
        let next = ActiveConfig::new(config);
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Says once which addresses are listened on: their literals are local for mail in the spool.
    pub fn listens_on(&self, addrs: Vec<SocketAddr>) {
        let _ = self.listening.set(addrs);
    }

    /// The addresses listened on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.get().cloned().unwrap_or_default()
    }

    /// Where mail that is in the spool goes: no client tells which address it reached.
    pub fn route(&self, to: &ForwardPath) -> Route {
        let ours = |ip| self.listening.get().is_some_and(|all| is_ours(ip, all));
        route(&self.config(), to, ours)
    }

    /// Puts one copy into a mailbox; it is on stable storage when this returns.
    ///
    /// # Errors
    /// Why the mailbox cannot take it now; nothing of it is left there.
    pub fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError> {
        self.mailboxes.deliver(mbox, copy)
    }

    /// Sends a report of our own from `<>` the way of all mail.
    ///
    /// # Errors
    /// Why it can be stored nowhere now.
    pub fn submit(&self, to: &ForwardPath, content: Vec<u8>, origin: Origin) -> io::Result<Id> {
        let from_outside = origin == Origin::Report;
        let config = self.config();
        let client = IpAddr::from([127, 0, 0, 1]);
        let hostname = config.mail.hostname.clone();
        let envelope = Envelope::new(hostname, client, ReversePath::Null, vec![to.clone()]);
        let id = envelope.id;
        let route = self.route(to);
        let refused = match &route {
            Route::NoSuchUser => Err("no such user".to_owned()),
            _ if from_outside => {
                let is_local = config.is_local(to.host());
                let now = Instant::now();
                self.backscatter.admit(to.mailbox(), is_local, now)
            }
            _ => Ok(()),
        };
        if let Err(why) = refused {
            warn!("dropped id={id} from=<> to={to}: {why}");
            return Ok(id);
        }
        // Where a user's mail is forwarded to is not the stranger's choice.
        let origin = match route {
            Route::Forward(_) => Origin::Inside,
            _ => origin,
        };
        let routes = vec![(to.clone(), route)];
        let message = Message::new(envelope, Body::from_bytes(content));
        let stored = self.store(message, routes, "", origin, None);
        if from_outside && stored.is_err() {
            self.backscatter.take_back(to.mailbox());
        }
        stored.map(|()| id)
    }

    /// Makes every copy safe, then says so. `client`: the one that brought it; a report of our own has none.
    fn store(
        &self,
        message: Message,
        routes: Vec<(ForwardPath, Route)>,
        time_stamp: &str,
        origin: Origin,
        client: Option<SocketAddr>,
    ) -> io::Result<()> {
        let Message { envelope, body } = message;
        let (id, body) = (envelope.id, Arc::new(body));
        let (from, received) = (&envelope.from, envelope.received);
        let spool = |file, to: &[NewRecipient]| {
            let entry = NewEntry {
                id: file,
                of: (file != id).then_some(id),
                from,
                received,
                origin,
                to,
                heading: time_stamp.as_bytes(),
                body: &body,
                next_try: SystemTime::now(),
            };
            self.spool.accept(&entry)
        };
        let (local, remote) = sort(routes);
        let mut in_the_spool = Vec::new();
        if !remote.is_empty() {
            in_the_spool.push(spool(id, &remote)?);
        }
        let failed = self.deliver_all(&local, |to| MailboxMessage {
            heading: mbox_heading(from, received, to, time_stamp)
                .into_bytes()
                .into(),
            body: Arc::clone(&body),
        });
        if !failed.is_empty() {
            let put_off = failed.keys().flat_map(|mbox| &local[*mbox]).cloned();
            let put_off: Vec<_> = put_off.map(NewRecipient::from).collect();
            let spooled = spool(Id::new(), &put_off);
            let word = if spooled.is_ok() {
                "deferred"
            } else {
                "cannot deliver"
            };
            for (mbox, error) in &failed {
                warn!("{word} id={id} mailbox={}: {error}", mbox.display());
            }
            if spooled.is_err() && !remote.is_empty() {
                self.spool.withdraw(id);
            }
            in_the_spool.push(spooled?);
        }
        let (size, client) = (body.len(), client.map(|peer| format!(" client={peer}")));
        let client = client.unwrap_or_default();
        info!("accepted id={id}{client} from={from} size={size}");
        let delivered = local.iter().filter(|(mbox, _)| !failed.contains_key(mbox));
        for (mbox, recipients) in delivered {
            for to in recipients {
                info!("delivered id={id} to={to} mailbox={}", mbox.display());
            }
        }
        for queued in &in_the_spool {
            let of = queued.log_of();
            for recipient in &queued.recipients {
                let (to, orig_to) = (&recipient.to, recipient.log_orig_to());
                info!("queued id={} to={to}{orig_to}{of}", queued.id);
            }
        }
        for file in in_the_spool {
            let recipients = file.recipients.iter();
            let routes = recipients.map(|recipient| self.route(&recipient.to));
            let routes = routes.collect();
            (self.queued)(file, routes);
        }
        Ok(())
    }

    /// One copy a mailbox, [`DELIVERIES`] side by side, so that their syncs overlap. Returns those that failed.
    fn deliver_all<'a>(
        &self,
        local: &'a BTreeMap<PathBuf, Vec<ForwardPath>>,
        copy: impl Fn(&[ForwardPath]) -> MailboxMessage + Sync,
    ) -> BTreeMap<&'a PathBuf, MailboxError> {
        let (left, failed) = (Mutex::new(local.iter()), Mutex::new(BTreeMap::new()));
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some((mbox, to)) = next() {
                let deliver = || self.mailboxes.deliver(mbox, copy(to));
                let panicked = |_| Err(io::Error::other("its delivery panicked").into());
                if let Err(error) = catch_unwind(AssertUnwindSafe(deliver)).unwrap_or_else(panicked)
                {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.insert(mbox, error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..local.len().min(DELIVERIES) {
                let thread = thread::Builder::new().stack_size(STACK);
                let _ = thread.spawn_scoped(scope, work); // without it the others have more to do
            }
            work();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deliveries of one message at a time, the client's own thread among them.
pub const DELIVERIES: usize = 8;

/// A delivery's thread needs little; what is not touched costs no memory.
const STACK: usize = 256 * 1024;

/// One mailbox gets one copy. Users who are forwarded to the same path stay apart: a report names each of them.
fn sort(
    routes: Vec<(ForwardPath, Route)>,
) -> (BTreeMap<PathBuf, Vec<ForwardPath>>, Vec<NewRecipient>) {
    let (mut local, mut remote) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
    for (to, route) in routes {
        let elsewhere = match route {
            Route::Mailbox(mbox) => {
                let recipients = local.entry(mbox).or_default();
                if !recipients.contains(&to) {
                    recipients.push(to);
                }
                continue;
            }
            Route::Forward(path) => NewRecipient {
                to: path,
                orig_to: Some(to),
            },
            // A user who went away since RCPT: the queue looks again and reports.
            Route::Remote | Route::NoSuchUser => NewRecipient::from(to),
        };
        if !remote.contains(&elsewhere) {
            remote.push(elsewhere);
        }
    }
    (local, remote)
}

/// Looks a forward-path up. `ours` tells whether an address literal is this host.
fn route(config: &Config, to: &ForwardPath, ours: impl Fn(IpAddr) -> bool) -> Route {
    let literal = matches!(to.host(), Host::Literal(ip) if ours(*ip));
    if !literal && !config.is_local(to.host()) {
        return Route::Remote;
    }
    match config.users.find(to.user()) {
        Some(Place::Mbox(path)) => Route::Mailbox(path.clone()),
        Some(Place::Forward(path)) => Route::Forward(path.clone()),
        None => Route::NoSuchUser,
    }
}

impl ActiveConfig {
    fn new(config: Config) -> ActiveConfig {
        let settings = Arc::new(settings(&config.mail));
        ActiveConfig {
            config: Arc::new(config),
            settings,
        }
    }
}

fn settings(mail: &MailConf) -> Settings {
    Settings {
        hostname: mail.hostname.clone(),
        max_clients: mail.max_clients,
        max_clients_per_host: mail.max_clients_per_host,
        uncounted: mail.relay_from.clone(),
        client_timeout: mail.client_timeout,
        max_message_size: mail.max_message_size,
        max_recipients: mail.max_recipients,
        spill_dir: mail.spool_dir.clone(),
    }
}

/// One transaction of a client: the configuration that it began with, and its recipients' routes.
#[derive(Debug)]
pub struct RoutedRecipients {
    config: Arc<Config>,
    routes: Vec<(ForwardPath, Route)>,
}

impl Handler for Router {
    type Transaction = RoutedRecipients;

    fn begin(&self, _: &Client, _: &ReversePath) -> RoutedRecipients {
        RoutedRecipients {
            config: self.config(),
            routes: Vec::new(),
        }
    }

    /// Who may relay is decided by the client's address alone.
    fn recipient(
        &self,
        client: &Client,
        routed: &mut RoutedRecipients,
        to: &ForwardPath,
    ) -> Verdict {
        let reached = client.local.ip();
        let route = route(&routed.config, to, |ip| ip == reached);
        let verdict = match &route {
            Route::Mailbox(_) => Verdict::Accept,
            Route::Forward(path) => Verdict::Forward(path.clone()),
            Route::Remote if to.host().is_number() => Verdict::BareAddress,
            Route::Remote if routed.config.may_relay(client.peer.ip()) => Verdict::Accept,
            Route::Remote => Verdict::RelayDenied,
            Route::NoSuchUser => Verdict::NoSuchUser,
        };
        if matches!(verdict, Verdict::Accept | Verdict::Forward(_)) {
            routed.routes.push((to.clone(), route));
        }
        verdict
    }

    fn message(
        &self,
        client: &Client,
        routed: RoutedRecipients,
        message: Message,
    ) -> Result<(), Refusal> {
        let RoutedRecipients { config, routes } = routed;
        let MailConf {
            time_stamp,
            hostname,
            ..
        } = &config.mail;
        let mut time_stamp = time_stamp_line(*time_stamp, hostname, &message.envelope);
        if !message.body.begins_with_header() {
            time_stamp.push('\n'); // an empty line, or the text would be a part of our line
        }
        let (id, peer) = (message.envelope.id, client.peer);
        let origin = match config.may_relay(peer.ip()) {
            true => Origin::Inside,
            false => Origin::Outside,
        };
        let stored = self.store(message, routes, &time_stamp, origin, Some(peer));
        stored.map_err(|error| {
            error!("cannot store id={id} client={peer}: {error}");
            Refusal::from(&error)
        })
    }

    fn settings(&self) -> Arc<Settings> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&active.settings)
    }
}
