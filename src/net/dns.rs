//! What DNS knows of a domain's mail hosts. The only file that knows DNS, and the only one that knows `async`.
//!
//! [`Resolver::exchangers`] asks for the MX records, then for the IPv6 and IPv4 addresses of those hosts. What the
//! answers mean for the mail:
//!
//! | answer | then |
//! | --- | --- |
//! | MX records | those hosts |
//! | the name exists, without MX records (NODATA) | the domain's own addresses |
//! | a null MX (RFC 7505), NXDOMAIN, neither MX nor addresses | never |
//! | SERVFAIL, REFUSED, any other code, a referral, no answer, no network, no usable resolv.conf | later |
//! | a chain of aliases (CNAME), or a list of hosts, that is too long to follow | later |
//!
//! Any number of threads may ask at once: the lookups are tasks on one thread that does nothing else, started at the
//! first question and stopped when the resolver is dropped. The caller waits for its own answer, in bounded time; no
//! lock is held meanwhile. Names are always taken as complete: no search list, no hosts file. Answers are cached as
//! long as their time to live says, an hour at most.

use crate::net::resolv_conf;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime};
use std::{io, thread};
use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use trust_dns_resolver::TokioResolver;
use trust_dns_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig,
};
use trust_dns_resolver::net::runtime::TokioRuntimeProvider;
use trust_dns_resolver::net::{DnsError, NetError};
use trust_dns_resolver::proto::op::ResponseCode;
use trust_dns_resolver::proto::rr::{Name, RData, RecordType};

/// MX hosts whose addresses are asked for: a list of hundreds must not become hundreds of questions.
const MAX_HOSTS: usize = 16;
/// Answers kept.
const CACHE_SIZE: u64 = 1024;
/// Nothing is believed longer than this, so that a corrected mistake is noticed.
const MAX_TTL: Duration = Duration::from_secs(3600);
/// How much later than its own deadline a lookup may answer.
const GRACE: Duration = Duration::from_secs(1);
/// The system's name servers; read again when it changes.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A host that takes a domain's mail.
#[derive(Debug)]
pub(crate) struct Exchanger {
    /// Printable ASCII, without the last dot.
    pub name: String,
    /// Lower is better.
    pub preference: u16,
    pub addresses: Addresses,
}

#[derive(Debug)]
pub(crate) enum Addresses {
    /// IPv6 and IPv4 in any order.
    Known(Vec<IpAddr>),
    /// DNS says that there are none.
    None,
    /// DNS did not say; why.
    Unknown(String),
}

/// Why no mail host of a domain is known; the text is a whole clause.
#[derive(Debug)]
pub(crate) enum LookupError {
    /// DNS says that there is none.
    None(String),
    /// DNS did not say.
    Unknown(String),
}

/// Shared by all threads.
#[derive(Debug)]
pub(crate) struct Resolver {
    /// Asks the name servers that were given; without it, the system's.
    given: Option<TokioResolver>,
    timeout: Duration,
    engine: Mutex<Option<Engine>>,
}

impl Resolver {
    /// `nameservers`: asked over UDP, and over TCP for what does not fit; none means the system's. `timeout`: for a
    /// whole call of [`exchangers`](Self::exchangers). Starts nothing yet.
    ///
    /// # Errors
    /// The DNS library does not take these name servers.
    pub fn new(nameservers: &[SocketAddr], timeout: Duration) -> io::Result<Resolver> {
        let given = match nameservers {
            [] => None,
            given => Some(client(given, false, timeout)?),
        };
        Ok(Resolver {
            given,
            timeout,
            engine: Mutex::new(None),
        })
    }

    /// The hosts that take mail for `domain`, at least one: best first, equal ones in random order. Blocks, at most
    /// `timeout` and a second.
    ///
    /// # Errors
    /// DNS knows of none, or could not say.
    pub fn exchangers(&self, domain: &str) -> Result<Vec<Exchanger>, LookupError> {
        let Ok(name) = Name::from_ascii(format!("{domain}.")) else {
            return Err(LookupError::None(format!(
                "{domain} is too long for a domain name"
            )));
        };
        let unknown = |why: &dyn std::fmt::Display| {
            LookupError::Unknown(format!("DNS lookup of {domain} failed: {why}"))
        };
        let (runtime, client) = self.engine().map_err(|error| unknown(&error))?;
        let (answer, wait) = mpsc::sync_channel(1);
        let deadline = Instant::now() + self.timeout;
        runtime.spawn(async move {
            answer
                .send(exchangers(&client, name, deadline).await)
                .is_ok()
        });
        wait.recv_timeout(self.timeout + GRACE)
            .map_err(|error| unknown(&error))?
    }

    /// The thread's handle and a client, both cheap to clone. Starts the thread if there is none.
    fn engine(&self) -> io::Result<(Handle, TokioResolver)> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = match &mut *engine {
            Some(engine) => engine,
            none => none.insert(Engine::start()?),
        };
        let client = match &self.given {
            Some(client) => client.clone(),
            None => engine.system_client(self.timeout)?,
        };
        Ok((engine.runtime.clone(), client))
    }
}

/// Sorts by preference, equal ones in random order.
pub(crate) fn shuffle<T>(items: &mut [T], preference: impl Fn(&T) -> u16) {
    // Every RandomState has other keys: a random number each, without a crate for it.
    items.sort_by_cached_key(|item| (preference(item), RandomState::new().hash_one(0)));
}

/// The thread that drives the lookups.
#[derive(Debug)]
struct Engine {
    runtime: Handle,
    /// What the thread waits for; it ends when this is aborted.
    lifetime: AbortHandle,
    /// Made from the resolv.conf of that time.
    system: Option<(SystemTime, TokioResolver)>,
}

impl Engine {
    fn start() -> io::Result<Engine> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let lifetime = runtime.spawn(std::future::pending::<()>());
        let abort = lifetime.abort_handle();
        thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || runtime.block_on(lifetime).is_ok())?;
        Ok(Engine {
            runtime: handle,
            lifetime: abort,
            system: None,
        })
    }

    /// Asks the system's name servers: those of now, because a host may be moved to another network.
    fn system_client(&mut self, timeout: Duration) -> io::Result<TokioResolver> {
        let named = |error| io::Error::other(format!("{RESOLV_CONF}: {error}"));
        let changed = fs::metadata(RESOLV_CONF).and_then(|file| file.modified());
        let changed = changed.map_err(named)?;
        if let Some((then, client)) = &self.system
            && *then == changed
        {
            return Ok(client.clone());
        }
        let text = fs::read(RESOLV_CONF).map_err(named)?;
        let (config, faults) = resolv_conf::parse(&String::from_utf8_lossy(&text));
        for fault in faults {
            log::warn!("{RESOLV_CONF}:{fault}");
        }
        if config.servers.is_empty() {
            return Err(named(io::Error::other(
                "none of its name servers can be used",
            )));
        }
        let client = client(&config.servers, config.only_tcp, timeout)?;
        self.system = Some((changed, client.clone()));
        Ok(client)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.lifetime.abort();
    }
}

fn client(servers: &[SocketAddr], only_tcp: bool, timeout: Duration) -> io::Result<TokioResolver> {
    let servers = servers
        .iter()
        .map(|addr| nameserver(*addr, only_tcp))
        .collect();
    let config = ResolverConfig::from_name_servers(servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    // Two attempts fit in; within an attempt, UDP is sent again by itself.
    options.timeout = timeout / 2;
    options.attempts = 1;
    options.cache_size = CACHE_SIZE;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_TTL);
    options.use_hosts_file = ResolveHosts::Never;
    // CNAMEs are followed, and of no further interest.
    options.preserve_intermediates = false;
    builder.build().map_err(io::Error::other)
}

fn nameserver(addr: SocketAddr, only_tcp: bool) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::tcp()];
    if !only_tcp {
        connections.insert(0, ConnectionConfig::udp());
    }
    for connection in &mut connections {
        connection.port = addr.port();
    }
    NameServerConfig::new(addr.ip(), true, connections)
}

/// The hosts that take mail for `domain`, best first, with their addresses.
async fn exchangers(
    client: &TokioResolver,
    domain: Name,
    deadline: Instant,
) -> Result<Vec<Exchanger>, LookupError> {
    let none = |what: &str| Err(LookupError::None(format!("{} {what}", plain(&domain))));
    let mut hosts: Vec<(u16, Name)> =
        match lookup(client, domain.clone(), RecordType::MX, deadline).await {
            Answer::Records(records) => records.into_iter().filter_map(as_mx).collect(),
            // An implicit MX (RFC 5321 5.1): the domain is its own mail host.
            Answer::NoData => {
                let addresses = addresses(client, domain.clone(), deadline).await;
                if let Addresses::None = addresses {
                    return none("has neither MX nor address records");
                }
                return Ok(vec![Exchanger {
                    name: plain(&domain),
                    preference: 0,
                    addresses,
                }]);
            }
            Answer::NoName => return none("does not exist (NXDOMAIN)"),
            Answer::Unknown(why) => return Err(LookupError::Unknown(why)),
        };
    // A null MX stands alone; beside others it is a mistake, and not a host.
    hosts.retain(|(_, host)| !host.is_root());
    if hosts.is_empty() {
        return none("does not accept mail (null MX)");
    }
    shuffle(&mut hosts, |(preference, _)| *preference);
    let asked: Vec<_> = hosts
        .iter()
        .take(MAX_HOSTS)
        .map(|(_, host)| {
            let (client, host) = (client.clone(), host.clone());
            tokio::spawn(async move { addresses(&client, host, deadline).await })
        })
        .collect();
    let mut asked = asked.into_iter();
    let mut exchangers = Vec::with_capacity(hosts.len());
    for (preference, host) in hosts {
        let name = plain(&host);
        let failed = |why: &dyn std::fmt::Display| {
            Addresses::Unknown(format!("DNS lookup of {name} failed: {why}"))
        };
        let addresses = match asked.next() {
            Some(asked) => asked.await.unwrap_or_else(|error| failed(&error)),
            None => failed(&"the list of mail hosts is too long"),
        };
        exchangers.push(Exchanger {
            name,
            preference,
            addresses,
        });
    }
    Ok(exchangers)
}

/// Both kinds at once. One kind is enough: that the other is unknown then does not matter.
async fn addresses(client: &TokioResolver, host: Name, deadline: Instant) -> Addresses {
    let (other, name) = (client.clone(), host.clone());
    let v4 = tokio::spawn(async move { lookup(&other, name, RecordType::A, deadline).await });
    let v6 = lookup(client, host, RecordType::AAAA, deadline).await;
    let v4 = v4
        .await
        .unwrap_or_else(|error| Answer::Unknown(error.to_string()));
    let mut ips = Vec::new();
    let mut unknown = None;
    for answer in [v6, v4] {
        match answer {
            Answer::Records(records) => {
                ips.extend(records.into_iter().filter_map(|data| data.ip_addr()));
            }
            Answer::NoData | Answer::NoName => {}
            Answer::Unknown(why) => unknown = unknown.or(Some(why)),
        }
    }
    match (ips.is_empty(), unknown) {
        (false, _) => Addresses::Known(ips),
        (true, Some(why)) => Addresses::Unknown(why),
        (true, None) => Addresses::None,
    }
}

/// What DNS says of one name and type.
enum Answer {
    /// At least one, all of the type asked for.
    Records(Vec<RData>),
    /// The name exists, without such records.
    NoData,
    /// NXDOMAIN.
    NoName,
    /// No answer to rely on; the text says of which name and why.
    Unknown(String),
}

async fn lookup(client: &TokioResolver, name: Name, kind: RecordType, deadline: Instant) -> Answer {
    let asked = plain(&name);
    let unknown = |why: &dyn std::fmt::Display| {
        Answer::Unknown(format!("DNS lookup of {asked} {kind} failed: {why}"))
    };
    let error = match timeout_at(deadline, client.lookup(name.clone(), kind)).await {
        Ok(Ok(answer)) => {
            let records = answer.answers().iter().map(|record| record.data.clone());
            let records: Vec<_> = records.filter(|data| data.record_type() == kind).collect();
            return match records.is_empty() {
                true => Answer::NoData,
                false => Answer::Records(records),
            };
        }
        Ok(Err(error)) => error,
        Err(_) => NetError::Timeout,
    };
    match error {
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => match nothing.response_code {
            ResponseCode::NXDomain => Answer::NoName,
            // A server that does not look further itself; that is no answer (RFC 2308 2.2).
            ResponseCode::NoError if nothing.soa.is_none() && nothing.ns.is_some() => {
                unknown(&"the name server only refers to others")
            }
            // The library also says so of a chain of aliases that it gave up; then it shows no SOA record.
            ResponseCode::NoError
                if nothing.soa.is_none() && is_alias(client, name, deadline).await =>
            {
                unknown(&"the chain of aliases is too long")
            }
            ResponseCode::NoError => Answer::NoData,
            code => unknown(&code),
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => unknown(&"SERVFAIL"),
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => unknown(&"REFUSED"),
        NetError::Dns(DnsError::ResponseCode(code)) => unknown(&code),
        NetError::Timeout => unknown(&"timed out"),
        error => unknown(&error),
    }
}

async fn is_alias(client: &TokioResolver, name: Name, deadline: Instant) -> bool {
    let found = timeout_at(deadline, client.lookup(name, RecordType::CNAME)).await;
    found.is_ok_and(|found| found.is_ok())
}

fn as_mx(data: RData) -> Option<(u16, Name)> {
    match data {
        RData::MX(mx) => Some((mx.preference, mx.exchange)),
        _ => None,
    }
}

/// Printable ASCII, without the last dot.
fn plain(name: &Name) -> String {
    let mut name = name.to_ascii();
    if name.ends_with('.') {
        name.pop();
    }
    name
}
