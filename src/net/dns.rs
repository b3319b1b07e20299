//! Where a domain's mail goes. The only file that knows DNS, and the only one that knows `async`.
//!
//! [`Resolver::targets`] asks for the MX records, then for the IPv6 and IPv4 addresses of those hosts; `route` next
//! door decides what to make of the answers. What DNS says, and what becomes of the mail:
//!
//! | answer | then |
//! | --- | --- |
//! | MX records | those hosts |
//! | the name exists, without MX records (NODATA) | the domain's own addresses |
//! | a null MX (RFC 7505), NXDOMAIN, neither MX nor addresses | never |
//! | SERVFAIL, REFUSED, any other code, a referral, no answer, no network, no usable resolv.conf | later |
//!
//! Any number of threads may ask at once: the lookups are tasks on one thread that does nothing else, started at the
//! first question and stopped when the resolver is dropped. The caller waits for his own answer, in bounded time; no
//! lock is held meanwhile. Names are always taken as complete: no search list, no hosts file, and `1.2.3.4` without
//! brackets is a name. Answers are cached as long as their time to live says, an hour at most.

pub use crate::relay::mx::{Identity, RouteError, Target};

use crate::relay::mx::{self, Addresses, Exchanger};
use crate::smtp::address::Host;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime};
use std::{fs, io, thread};
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
use trust_dns_resolver::system_conf::read_system_conf;

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

/// Shared by all threads.
#[derive(Debug)]
pub struct Resolver {
    /// Asks the name servers that were given; without it, the system's.
    given: Option<TokioResolver>,
    timeout: Duration,
    engine: Mutex<Option<Engine>>,
}

impl Resolver {
    /// `nameservers`: asked over UDP, and over TCP for what does not fit; none means the system's. `timeout`: for a
    /// whole call of [`targets`](Self::targets). Starts nothing yet.
    ///
    /// # Errors
    /// The DNS library does not take these name servers.
    pub fn new(nameservers: &[SocketAddr], timeout: Duration) -> Result<Resolver, RouteError> {
        let given = match nameservers {
            [] => None,
            given => {
                let servers = given.iter().map(|addr| nameserver(*addr)).collect();
                let client = client(servers, timeout);
                Some(client.map_err(|error| RouteError::Later(error.to_string()))?)
            }
        };
        Ok(Resolver {
            given,
            timeout,
            engine: Mutex::new(None),
        })
    }

    /// The addresses to call for mail to `host`, in the order to try, at least one, at most five. Blocks, at most
    /// `timeout` and a second.
    ///
    /// # Errors
    /// `Never` if the mail must go back, a loop among the reasons; `Later` if DNS could not say.
    pub fn targets(
        &self,
        host: &Host,
        port: u16,
        me: &Identity,
    ) -> Result<Vec<Target>, RouteError> {
        let domain = match host {
            Host::Literal(ip) => return mx::literal(*ip, port, me),
            Host::Name(domain) => domain.as_str().trim_end_matches('.'),
        };
        let Ok(name) = Name::from_ascii(format!("{domain}.")) else {
            return Err(RouteError::Never(format!(
                "{domain} is too long for a domain name"
            )));
        };
        let later = |why: &dyn std::fmt::Display| {
            RouteError::Later(format!("DNS lookup of {domain} failed: {why}"))
        };
        let (runtime, client) = self.engine().map_err(|error| later(&error))?;
        let (answer, wait) = mpsc::sync_channel(1);
        let deadline = Instant::now() + self.timeout;
        runtime.spawn(async move {
            answer
                .send(exchangers(&client, name, deadline).await)
                .is_ok()
        });
        let exchangers = wait
            .recv_timeout(self.timeout + GRACE)
            .map_err(|error| later(&error))??;
        mx::choose(domain, exchangers, port, me)
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
        let changed = fs::metadata(RESOLV_CONF)?.modified()?;
        if let Some((then, client)) = &self.system
            && *then == changed
        {
            return Ok(client.clone());
        }
        let (config, _) = read_system_conf().map_err(io::Error::other)?;
        let (_, _, servers) = config.into_parts();
        let client = client(servers, timeout)?;
        self.system = Some((changed, client.clone()));
        Ok(client)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.lifetime.abort();
    }
}

fn client(servers: Vec<NameServerConfig>, timeout: Duration) -> io::Result<TokioResolver> {
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

fn nameserver(addr: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
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
) -> Result<Vec<Exchanger>, RouteError> {
    let never = |what: &str| Err(RouteError::Never(format!("{} {what}", plain(&domain))));
    let mut hosts: Vec<(u16, Name)> =
        match lookup(client, domain.clone(), RecordType::MX, deadline).await {
            Answer::Records(records) => records.into_iter().filter_map(as_mx).collect(),
            // An implicit MX (RFC 5321 5.1): the domain is its own mail host.
            Answer::NoData => {
                let addresses = addresses(client, domain.clone(), deadline).await;
                if let Addresses::None = addresses {
                    return never("has neither MX nor address records");
                }
                return Ok(vec![Exchanger {
                    name: plain(&domain),
                    preference: 0,
                    addresses,
                }]);
            }
            Answer::NoName => return never("does not exist (NXDOMAIN)"),
            Answer::Unknown(why) => return Err(RouteError::Later(why)),
        };
    // A null MX stands alone; beside others it is a mistake, and not a host.
    hosts.retain(|(_, host)| !host.is_root());
    if hosts.is_empty() {
        return never("does not accept mail (null MX)");
    }
    mx::shuffle(&mut hosts, |(preference, _)| *preference);
    hosts.truncate(MAX_HOSTS);
    let asked: Vec<_> = hosts
        .into_iter()
        .map(|(preference, host)| {
            let (client, name) = (client.clone(), plain(&host));
            let asked = tokio::spawn(async move { addresses(&client, host, deadline).await });
            (name, preference, asked)
        })
        .collect();
    let mut exchangers = Vec::with_capacity(asked.len());
    for (name, preference, asked) in asked {
        let failed = |error| Addresses::Unknown(format!("DNS lookup of {name} failed: {error}"));
        let addresses = asked.await.unwrap_or_else(failed);
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
    let error = match timeout_at(deadline, client.lookup(name, kind)).await {
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
