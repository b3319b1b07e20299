//! The library: servers started, asked, stopped and joined by a program of one's own, and the sending side.

use crate::common::dns::DnsServer;
use crate::common::hop::nobody;
use smtpd788::handler::{Client, Handler, Refusal, Settings, Verdict};
use smtpd788::message::Message;
use smtpd788::send::{self, Fate, Mailer, Resolver};
use smtpd788::server::Server;
use smtpd788::smtp::address::{ForwardPath, ReversePath};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENT: Duration = Duration::from_secs(20);

/// Refuses by the name of the recipient; counts what happens.
#[derive(Default)]
struct Picky {
    begun: AtomicUsize,
    taken: Mutex<Vec<(usize, Message)>>,
    settings: Arc<Settings>,
}

impl Handler for Picky {
    type Transaction = usize;

    fn begin(&self, client: &Client, _: &ReversePath) -> usize {
        assert!(client.peer.ip().is_loopback() && client.local.ip().is_loopback());
        self.begun.fetch_add(1, SeqCst);
        0
    }

    fn recipient(&self, _: &Client, decided: &mut usize, to: &ForwardPath) -> Verdict {
        *decided += 1;
        match to.user() {
            "nobody" => Verdict::NoSuchUser,
            "away" => Verdict::Forward("<away@elsewhere.example>".parse().unwrap()),
            "far" => Verdict::Forward(
                format!("<{}@far.example>", "x".repeat(200))
                    .parse()
                    .unwrap(),
            ),
            "foreign" => Verdict::RelayDenied,
            "busy" => Verdict::TryLater,
            "panic" => panic!("as the test wants it"),
            _ => Verdict::Accept,
        }
    }

    fn message(&self, _: &Client, decided: usize, message: Message) -> Result<(), Refusal> {
        match message.envelope.to[0].user() {
            "full" => return Err(Refusal::NoSpace),
            "broken" => return Err(Refusal::LocalError),
            _ => self.taken.lock().unwrap().push((decided, message)),
        }
        Ok(())
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings)
    }
}

fn mailer() -> Mailer {
    Mailer::new("client.example".parse().unwrap()).timeout(PATIENT)
}

fn paths(users: &[&str]) -> Vec<ForwardPath> {
    let path = |user| format!("<{user}@here.example>").parse().unwrap();
    users.iter().map(path).collect()
}

fn send(addr: SocketAddr, users: &[&str]) -> Vec<Fate> {
    let (from, body) = ("<a@client.example>".parse().unwrap(), send::content("Hi\n"));
    let to = paths(users);
    mailer().to_host(addr, &from, &to, &body.unwrap()).unwrap()
}

/// `+`, `later CODE`, `never CODE` a recipient.
fn told(fates: &[Fate]) -> String {
    let code = |text: &str| {
        text.split_once(" said")
            .unwrap()
            .1
            .split_once(": ")
            .unwrap()
            .1[..3]
            .to_owned()
    };
    let words: Vec<_> = fates
        .iter()
        .map(|fate| match fate {
            Fate::Delivered(_) => "+".to_owned(),
            Fate::Later(text) => format!("later {}", code(text)),
            Fate::Never(text) => format!("never {}", code(text)),
        })
        .collect();
    words.join(", ")
}

#[test]
fn a_handler_of_ones_own_decides() {
    let mut settings = Settings::default();
    settings.hostname = "here.example".parse().unwrap();
    settings.max_recipients = 3;
    let picky = Arc::new(Picky {
        settings: Arc::new(settings),
        ..Picky::default()
    });
    let server = Server::bind("127.0.0.1:0", Arc::clone(&picky)).unwrap();
    let fates = send(server.addr(), &["bob", "nobody", "away", "foreign", "busy"]);
    assert_eq!(told(&fates), "+, never 550, +, never 550, later 451");
    for (user, answer) in [("full", "later 452"), ("broken", "later 451")] {
        assert_eq!(told(&send(server.addr(), &[user])), answer);
    }
    let fates = send(server.addr(), &["a", "b", "c", "d"]);
    assert_eq!(told(&fates), "+, +, +, +", "the fourth follows at once");
    assert_eq!(server.join(PATIENT), 0);
    let picky = Arc::into_inner(picky).expect("the server has let go of its handler");
    assert_eq!(picky.begun.into_inner(), 5);
    let taken = picky.taken.into_inner().unwrap();
    let [(decided, first), (3, _), (1, _)] = &taken[..] else {
        panic!("{taken:?}")
    };
    assert_eq!(*decided, 5, "what the handler keeps of a transaction");
    let to: Vec<_> = first.envelope.to.iter().map(ForwardPath::user).collect();
    assert_eq!(to, ["bob", "away"]);
    assert_eq!(first.envelope.helo.to_string(), "client.example");
    assert_eq!(first.body.as_bytes(), Some(&b"Hi\n"[..]));
}

#[test]
fn two_servers_in_one_process() {
    let (one, mail_of_one) = Server::channel("127.0.0.1:0").unwrap();
    let both = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let (two, mail_of_two) = Server::channel(&both[..] as &[SocketAddr]).unwrap();
    assert_eq!((one.addrs().len(), two.addrs().len()), (1, 2));
    assert_eq!(told(&send(one.addr(), &["one"])), "+");
    one.stop();
    for addr in two.addrs() {
        assert_eq!(told(&send(addr, &["two"])), "+");
    }
    assert_eq!(one.join(Duration::MAX), 0);
    let users = |mail: &std::sync::mpsc::Receiver<Message>, n| -> Vec<String> {
        let next = |_| mail.recv_timeout(PATIENT).unwrap().envelope.to[0].clone();
        (0..n).map(next).map(|to| to.user().to_owned()).collect()
    };
    assert_eq!(users(&mail_of_one, 1), ["one"]);
    assert!(mail_of_one.recv().is_err());
    assert_eq!(users(&mail_of_two, 2), ["two", "two"]);
}

#[test]
fn a_dropped_receiver_is_a_local_error() {
    let (server, mail) = Server::channel("127.0.0.1:0").unwrap();
    drop(mail);
    assert_eq!(told(&send(server.addr(), &["bob"])), "later 451");
}

#[test]
fn a_joined_server_has_closed_its_port() {
    let (server, _mail) = Server::channel("127.0.0.1:0").unwrap();
    let addr = server.addr();
    let mut waiting = TcpStream::connect(addr).unwrap();
    let mut greeting = [0; 4];
    waiting.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ");
    assert_eq!(server.join(PATIENT), 0);
    assert!(TcpStream::connect(addr).is_err());
    TcpListener::bind(addr).expect("the address is free");
    let mut rest = String::new();
    waiting.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\r\n421 "), "{rest}");
}

#[test]
fn a_dropped_server_stops() {
    let (server, mail) = Server::channel("127.0.0.1:0").unwrap();
    drop(server);
    assert!(
        mail.recv().is_err(),
        "its threads end, and with them the channel"
    );
}

#[test]
fn a_panic_in_a_handler_ends_that_session_only() {
    let picky = Arc::new(Picky::default());
    let server = Server::bind("127.0.0.1:0", Arc::clone(&picky)).unwrap();
    let mut other = TcpStream::connect(server.addr()).unwrap();
    other.write_all(b"HELO other\r\n").unwrap();
    let fates = send(server.addr(), &["panic"]);
    assert!(
        matches!(&fates[..], [Fate::Later(why)] if why.contains("closed")),
        "{fates:?}"
    );
    assert_eq!(told(&send(server.addr(), &["bob"])), "+");
    other.write_all(b"QUIT\r\n").unwrap();
    let mut replies = String::new();
    other.read_to_string(&mut replies).unwrap();
    assert!(replies.contains("\r\n221 "), "{replies}");
    assert_eq!(server.join(PATIENT), 0);
    assert_eq!(picky.taken.lock().unwrap().len(), 1);
}

#[test]
fn a_client_timeout_without_end_is_taken() {
    let mut settings = Settings::default();
    settings.client_timeout = Duration::MAX;
    let picky = Arc::new(Picky {
        settings: Arc::new(settings),
        ..Picky::default()
    });
    let server = Server::bind("127.0.0.1:0", picky).unwrap();
    assert_eq!(told(&send(server.addr(), &["bob"])), "+");
}

/// Commands that are there already cost no wait, and each reply is taken in time: only the sum is too much.
#[test]
fn replies_taken_slowly_hold_no_place_beyond_four_timeouts() {
    const RCPTS: usize = 4_000;
    const LITTLE: usize = 4096; // for the buffers of both sockets
    let mut settings = Settings::default();
    settings.client_timeout = Duration::from_secs(1);
    settings.max_recipients = RCPTS;
    let settings = Arc::new(settings);
    let picky = Arc::new(Picky {
        settings,
        ..Picky::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let theirs = SockRef::from(&listener);
    theirs.set_send_buffer_size(LITTLE).unwrap();
    let _server = Server::start(vec![listener], picky).unwrap();

    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(LITTLE).unwrap();
    socket.set_tcp_mss(1000).unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let rcpts = "RCPT TO:<far@here>\r\n".repeat(RCPTS);
        let _ = write!(sender, "HELO c\r\nMAIL FROM:<>\r\n{rcpts}");
    });
    let (mut taken, mut piece) = (0, [0; 1024]);
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        taken += n;
        std::thread::sleep(Duration::from_millis(50));
    }
    sending.join().unwrap();
    // 20 KiB a second at most: for four seconds and one more flush, and what the buffers hold.
    assert!(taken > 2 * LITTLE, "{taken}");
    assert!(taken < 300 * 1024, "{taken} octets of replies");
}

#[test]
fn addresses_that_cannot_be_had() {
    let (server, _mail) = Server::channel("127.0.0.1:0").unwrap();
    let error = Server::channel(server.addr()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let error = Server::start(Vec::new(), Arc::new(Picky::default())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn to_a_host_that_is_not_there() {
    let free = nobody();
    let fates = send(free, &["a", "b"]);
    assert!(
        matches!(&fates[..], [Fate::Later(_), Fate::Later(_)]),
        "{fates:?}"
    );
    assert_eq!(send(free, &[]), []);
}

#[test]
fn to_the_mail_hosts_of_each_domain() {
    let (server, mail) = Server::channel("127.0.0.1:0").unwrap();
    let dns = DnsServer::start();
    dns.mx("two.test", 10, "dead.test")
        .mx("two.test", 20, "mx.test")
        .address("dead.test", "127.0.0.86")
        .address("mx.test", "127.0.0.1")
        .address("bare.test", "127.0.0.1")
        .mx("null.test", 0, ".");
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    let to = [
        "a@two.test",
        "b@null.test",
        "c@gone.test",
        "d@TWO.test",
        "e@bare.test",
    ];
    let mut to: Vec<ForwardPath> = to
        .iter()
        .map(|to| format!("<{to}>").parse().unwrap())
        .collect();
    to.push("<f@[127.0.0.1]>".parse().unwrap());
    let mailer = mailer().mx_port(server.addr().port());
    let body = send::content("Hi\r\n").unwrap();
    let fates = mailer.to_mx(&resolver, &ReversePath::Null, &to, &body);
    let words = fates.iter().map(|fate| match fate {
        Fate::Delivered(_) => '+',
        Fate::Later(_) => '?',
        Fate::Never(_) => '-',
    });
    assert_eq!(words.collect::<String>(), "+--+++", "{fates:?}");
    let first = mail.recv_timeout(PATIENT).unwrap();
    assert_eq!(first.envelope.to, [to[0].clone(), to[3].clone()]);
    assert_eq!(mail.try_iter().count(), 2);
}
