//! A scripted next hop: an SMTP receiver on a free port of 127.0.0.1 that is good until a step for which the test
//! scripted something else, and remembers what it was told.

#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Where in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Greeting,
    Helo,
    Mail,
    /// The nth RCPT of a transaction, from 0.
    Rcpt(usize),
    Data,
    /// After the first octets of mail data.
    InData,
    Dot,
    Rset,
    Quit,
}

/// What the hop does at a step instead of its good answer.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Octets as they are, line end included; then goes on.
    Say(&'static str),
    /// These, then closes.
    SayAndClose(&'static str),
    Close,
    /// Closes with a reset, as a process that died with unread input does.
    Reset,
    /// Neither reads nor writes until the other side hangs up.
    Hang,
    /// Nothing until the test scripts something else for this step, or nothing; then does that.
    Wait,
    /// The same octets for ever.
    Flood(&'static str),
    /// One octet every 20 ms, for ever.
    Drip(u8),
    /// Nothing: not even the good answer.
    Nothing,
}

/// What one connection was told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Command lines without their ends.
    pub commands: Vec<String>,
    /// Mail data as it was on the wire, the dot line included, one a message.
    pub data: Vec<Vec<u8>>,
    pub ended: bool,
}

/// An address of 127.0.0.1 where nobody listens.
pub fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// The hop; stops when dropped.
pub struct Hop {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    /// What is noted of mail data.
    digest: fn(Vec<u8>) -> Vec<u8>,
    script: Mutex<HashMap<Step, Act>>,
    rescripted: Condvar,
    told: Mutex<Vec<Told>>,
    changed: Condvar,
    stopping: AtomicBool,
}

impl Hop {
    /// One that is good at every step.
    pub fn good() -> Hop {
        Hop::scripted([])
    }

    pub fn scripted(script: impl IntoIterator<Item = (Step, Act)>) -> Hop {
        Hop::bind("127.0.0.1:0".parse().unwrap(), script)
    }

    pub fn bind(addr: SocketAddr, script: impl IntoIterator<Item = (Step, Act)>) -> Hop {
        Hop::start(addr, script, |data| data)
    }

    /// A good one that notes only the `digest` of mail data, before it answers the dot.
    pub fn digesting(addr: SocketAddr, digest: fn(Vec<u8>) -> Vec<u8>) -> Hop {
        Hop::start(addr, [], digest)
    }

    fn start(
        addr: SocketAddr,
        script: impl IntoIterator<Item = (Step, Act)>,
        digest: fn(Vec<u8>) -> Vec<u8>,
    ) -> Hop {
        let listener = TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            digest,
            script: Mutex::new(script.into_iter().collect()),
            rescripted: Condvar::new(),
            told: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = shared.clone();
            thread::spawn(move || shared.accept(&listener))
        };
        Hop {
            addr,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on.
    pub fn script(&self, script: impl IntoIterator<Item = (Step, Act)>) {
        *lock(&self.shared.script) = script.into_iter().collect();
        self.shared.rescripted.notify_all();
    }

    /// What each connection has told so far, in the order of their beginnings.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.shared.told).clone()
    }

    /// Waits until it holds of what was told.
    pub fn wait_until(&self, condition: impl Fn(&[Told]) -> bool) -> Vec<Told> {
        let told = lock(&self.shared.told);
        let limit = Duration::from_secs(20);
        let (told, late) = self
            .shared
            .changed
            .wait_timeout_while(told, limit, |told| !condition(told))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!late.timed_out(), "the hop was told only {told:#?}");
        told.clone()
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.script([]);
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn accept(self: &Arc<Shared>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let number = {
                let mut told = lock(&self.told);
                told.push(Told::default());
                self.changed.notify_all();
                told.len() - 1
            };
            let shared = self.clone();
            thread::spawn(move || {
                let _ = Visit {
                    shared: &shared,
                    number,
                    input: BufReader::new(stream.try_clone().unwrap()),
                    output: stream,
                }
                .receive();
                shared.note(number, |told| told.ended = true);
            });
        }
    }

    fn note(&self, number: usize, what: impl FnOnce(&mut Told)) {
        what(&mut lock(&self.told)[number]);
        self.changed.notify_all();
    }
}

struct Visit<'a> {
    shared: &'a Shared,
    number: usize,
    input: BufReader<TcpStream>,
    output: TcpStream,
}

/// The visit is over.
struct Over;

impl Visit<'_> {
    fn receive(&mut self) -> Result<(), Over> {
        self.act(Step::Greeting, "220 hop.test ready\r\n")?;
        let mut recipients = 0;
        loop {
            let command = self.line()?;
            self.shared
                .note(self.number, |told| told.commands.push(command.clone()));
            let word = command.split(' ').next().unwrap_or_default();
            match word {
                "HELO" => self.act(Step::Helo, "250 hop.test\r\n")?,
                "MAIL" => {
                    recipients = 0;
                    self.act(Step::Mail, "250 OK\r\n")?;
                }
                "RCPT" => {
                    self.act(Step::Rcpt(recipients), "250 OK\r\n")?;
                    recipients += 1;
                }
                "DATA" => {
                    let scripted = lock(&self.shared.script).contains_key(&Step::Data);
                    self.act(Step::Data, "354 go on\r\n")?;
                    if !scripted {
                        self.data()?;
                        self.act(Step::Dot, "250 OK taken\r\n")?;
                    }
                }
                "RSET" => self.act(Step::Rset, "250 OK\r\n")?,
                "QUIT" => {
                    self.act(Step::Quit, "221 bye\r\n")?;
                    return Ok(());
                }
                _ => self.say("500 what?\r\n")?,
            }
        }
    }

    fn line(&mut self) -> Result<String, Over> {
        let mut line = Vec::new();
        match self.input.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {
                assert!(line.ends_with(b"\r\n"), "{line:?}");
                line.truncate(line.len() - 2);
                Ok(String::from_utf8(line).unwrap())
            }
            // It hung up, perhaps in the middle of a line.
            Ok(_) | Err(_) => Err(Over),
        }
    }

    /// Up to the dot line.
    fn data(&mut self) -> Result<(), Over> {
        let mut data = Vec::new();
        let _ = self.input.fill_buf();
        self.act(Step::InData, "")?;
        while !(data.ends_with(b"\r\n.\r\n") || data == b".\r\n") {
            let before = data.len();
            let _ = self.input.read_until(b'\n', &mut data);
            if data.len() == before {
                self.note_data(data);
                return Err(Over);
            }
        }
        self.note_data(data);
        Ok(())
    }

    fn note_data(&self, data: Vec<u8>) {
        let data = (self.shared.digest)(data);
        self.shared.note(self.number, |told| told.data.push(data));
    }

    fn act(&mut self, step: Step, good: &'static str) -> Result<(), Over> {
        let waits = |script: &mut HashMap<Step, Act>| matches!(script.get(&step), Some(Act::Wait));
        let script = lock(&self.shared.script);
        let script = self.shared.rescripted.wait_while(script, waits);
        let act = script
            .unwrap_or_else(PoisonError::into_inner)
            .get(&step)
            .copied();
        match act.unwrap_or(Act::Say(good)) {
            Act::Wait => unreachable!("waited for"),
            Act::Say(text) => self.say(text),
            Act::Nothing => Ok(()),
            Act::SayAndClose(text) => {
                self.say(text)?;
                self.close()
            }
            Act::Close => self.close(),
            Act::Reset => {
                let socket = socket2::SockRef::from(&self.output);
                let _ = socket.set_linger(Some(Duration::ZERO));
                Err(Over)
            }
            Act::Hang => {
                // Until it hangs up; what it sends is left in the socket.
                let mut events = [nix::poll::PollFd::new(
                    std::os::fd::AsFd::as_fd(&self.output),
                    // POLLRDHUP, which nix does not name.
                    nix::poll::PollFlags::from_bits_retain(0x2000),
                )];
                let _ = nix::poll::poll(&mut events, nix::poll::PollTimeout::NONE);
                Err(Over)
            }
            Act::Flood(text) => loop {
                self.say(text)?;
            },
            Act::Drip(octet) => loop {
                self.output.write_all(&[octet]).map_err(|_| Over)?;
                thread::sleep(Duration::from_millis(20));
            },
        }
    }

    fn say(&mut self, text: &str) -> Result<(), Over> {
        self.output.write_all(text.as_bytes()).map_err(|_| Over)
    }

    /// In good order: what was said arrives.
    fn close(&mut self) -> Result<(), Over> {
        let _ = self.output.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut self.input, &mut std::io::sink());
        Err(Over)
    }
}
