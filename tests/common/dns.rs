//! A real DNS server in the test process, on a free port of 127.0.0.1, over UDP and TCP. It answers what the test
//! lays down, authoritatively: `server.mx("example.org", 10, "mx.example.org")`, `server.misbehave("dead.example",
//! Misbehaviour::Silent)`. A name under which nothing was laid down is NXDOMAIN; one that has other records is NODATA.

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{CNAME, MX, NS, SOA};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a name gets instead of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Misbehaviour {
    ServFail,
    Refused,
    NotImplemented,
    /// No reply at all.
    Silent,
    /// Refers to other servers, as one that does not look further does.
    Refers,
}

/// The server; stops when dropped.
pub struct DnsServer {
    addr: SocketAddr,
    zones: Zones,
    stop: Box<dyn Fn() + Send + Sync>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Zones(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    records: HashMap<Name, Vec<RData>>,
    misbehaving: HashMap<(Name, Option<RecordType>), Misbehaviour>,
    asked: Vec<(Name, RecordType)>,
}

impl DnsServer {
    pub fn start() -> DnsServer {
        DnsServer::start_at("127.0.0.1:0")
    }

    pub fn start_at(addr: &str) -> DnsServer {
        let zones = Zones::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (udp, tcp) = runtime.block_on(bind(addr));
        let addr = udp.local_addr().unwrap();
        let mut server = {
            let _context = runtime.enter();
            let mut server = Server::new(zones.clone());
            server.register_socket(udp);
            server.register_listener(tcp, Duration::from_secs(10), 32);
            server
        };
        let token = server.shutdown_token().clone();
        let thread = thread::spawn(move || {
            let _ = runtime.block_on(server.block_until_done());
        });
        DnsServer {
            addr,
            zones,
            stop: Box::new(move || token.cancel()),
            thread: Some(thread),
        }
    }

    /// For NAMESERVER.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `exchange` may be `.`.
    pub fn mx(&self, domain: &str, preference: u16, exchange: &str) -> &DnsServer {
        self.add(domain, RData::MX(MX::new(preference, name(exchange))))
    }

    /// An A or AAAA record.
    pub fn address(&self, host: &str, ip: &str) -> &DnsServer {
        self.add(
            host,
            match ip.parse::<IpAddr>().unwrap() {
                IpAddr::V4(ip) => RData::A(ip.into()),
                IpAddr::V6(ip) => RData::AAAA(ip.into()),
            },
        )
    }

    pub fn cname(&self, alias: &str, target: &str) -> &DnsServer {
        self.add(alias, RData::CNAME(CNAME(name(target))))
    }

    /// Any record; a name with only a TXT or NS record is NODATA for everything else.
    pub fn add(&self, owner: &str, data: RData) -> &DnsServer {
        let mut zones = self.zones.lock();
        zones.records.entry(name(owner)).or_default().push(data);
        drop(zones);
        self
    }

    /// The name exists and has nothing that mail needs.
    pub fn exists(&self, owner: &str) -> &DnsServer {
        self.add(owner, RData::NS(NS(name("ns.test"))))
    }

    /// For all types.
    pub fn misbehave(&self, owner: &str, how: Misbehaviour) -> &DnsServer {
        self.zones
            .lock()
            .misbehaving
            .insert((name(owner), None), how);
        self
    }

    pub fn misbehave_for(&self, owner: &str, kind: RecordType, how: Misbehaviour) -> &DnsServer {
        self.zones
            .lock()
            .misbehaving
            .insert((name(owner), Some(kind)), how);
        self
    }

    /// Takes back everything laid down for a name.
    pub fn forget(&self, owner: &str) -> &DnsServer {
        let mut zones = self.zones.lock();
        zones.records.remove(&name(owner));
        zones.misbehaving.retain(|(who, _), _| *who != name(owner));
        drop(zones);
        self
    }

    /// How often this was asked.
    pub fn questions(&self, owner: &str, kind: RecordType) -> usize {
        let wanted = (name(owner), kind);
        self.zones
            .lock()
            .asked
            .iter()
            .filter(|asked| **asked == wanted)
            .count()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        (self.stop)();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The same port for both.
async fn bind(addr: &str) -> (tokio::net::UdpSocket, tokio::net::TcpListener) {
    loop {
        let tcp = tokio::net::TcpListener::bind(addr).await.unwrap();
        if let Ok(udp) = tokio::net::UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.').to_lowercase())).unwrap()
}

enum Answer {
    Records(Vec<Record>),
    Code(ResponseCode),
    Referral,
    Nothing,
}

impl Zones {
    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, asked: &Name, kind: RecordType) -> Answer {
        let mut content = self.lock();
        content.asked.push((asked.clone(), kind));
        let how = [Some(kind), None]
            .into_iter()
            .find_map(|kind| content.misbehaving.get(&(asked.clone(), kind)));
        match how {
            Some(Misbehaviour::ServFail) => return Answer::Code(ResponseCode::ServFail),
            Some(Misbehaviour::Refused) => return Answer::Code(ResponseCode::Refused),
            Some(Misbehaviour::NotImplemented) => return Answer::Code(ResponseCode::NotImp),
            Some(Misbehaviour::Silent) => return Answer::Nothing,
            Some(Misbehaviour::Refers) => return Answer::Referral,
            None => {}
        }
        // As a recursive server does, the whole chain of aliases in one answer.
        let mut found = Vec::new();
        let mut owner = asked.clone();
        while let Some(records) = content.records.get(&owner) {
            let record = |data: &RData| Record::from_rdata(owner.clone(), 60, data.clone());
            let wanted = records.iter().filter(|data| data.record_type() == kind);
            found.extend(wanted.map(record));
            let alias = records.iter().find_map(|data| match data {
                RData::CNAME(target) if kind != RecordType::CNAME => Some((data, target.0.clone())),
                _ => None,
            });
            match alias {
                Some((data, target)) if found.len() < 8 => {
                    found.push(record(data));
                    owner = target;
                }
                _ => return Answer::Records(found),
            }
        }
        match found.is_empty() {
            true => Answer::Code(ResponseCode::NXDomain),
            false => Answer::Records(found),
        }
    }
}

// Written out because the trait is an `async_trait`.
impl RequestHandler for Zones {
    fn handle_request<'a, 'b, 'c, R, T>(
        &'a self,
        request: &'b Request,
        mut reply: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'c>>
    where
        R: ResponseHandler + 'c,
        T: Time + 'c,
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.authoritative = true;
            metadata.recursion_available = true;
            let silence = ResponseInfo::from(Header {
                metadata,
                counts: HeaderCounts::default(),
            });
            let Ok(info) = request.request_info() else {
                return silence;
            };
            let asked = Name::from(info.query.name().clone());
            let mut answers = Vec::new();
            let mut authority = vec![soa()];
            match self.answer(&asked, info.query.query_type()) {
                Answer::Nothing => return silence,
                Answer::Code(code) => metadata.response_code = code,
                Answer::Records(records) => answers = records,
                Answer::Referral => {
                    let elsewhere = RData::NS(NS(name("elsewhere.test")));
                    authority = vec![Record::from_rdata(Name::root(), 60, elsewhere)];
                }
            }
            if !answers.is_empty() {
                authority.clear();
            }
            let response = MessageResponseBuilder::from_message_request(request).build(
                metadata,
                &answers,
                &authority,
                [],
                [],
            );
            reply.send_response(response).await.unwrap_or(silence)
        })
    }
}

/// What makes a negative answer last.
fn soa() -> Record {
    let data = SOA::new(name("ns.test"), name("root.test"), 1, 60, 60, 60, 60);
    Record::from_rdata(Name::root(), 60, RData::SOA(data))
}
