//! The real daemon in a folder of its own, and a client to talk to it. Waits are for conditions, with a bound.
#![allow(dead_code)] // each test file uses its part

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes that works, so that a slow machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds; panics with `what` if it never does.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A folder that is kept when the test fails.
pub struct Folder(Option<tempfile::TempDir>);

impl Folder {
    pub fn new() -> Folder {
        Folder(Some(tempfile::tempdir().unwrap()))
    }
    pub fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(dir) = self.0.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// The daemon's standard output: a file, so that what it wrote can be read at once, by whoever asks.
struct Log {
    file: File,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    octets: u64,
    lines: Vec<String>,
}

impl Log {
    /// What has been written by now, whole lines.
    fn lines(&self) -> MutexGuard<'_, Seen> {
        // Also after a panic of a thread that waited for a line.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        let mut piece = [0; 16 * 1024];
        loop {
            // The daemon writes at the descriptor's own place, which this leaves alone.
            let place = seen.octets + new.len() as u64;
            match self.file.read_at(&mut piece, place).unwrap() {
                0 => break,
                len => new.extend_from_slice(&piece[..len]),
            }
        }
        let whole = new.iter().rposition(|&octet| octet == b'\n');
        let whole = &new[..whole.map_or(0, |end| end + 1)];
        let text = str::from_utf8(whole).expect("a log in UTF-8");
        seen.octets += whole.len() as u64;
        seen.lines.extend(text.lines().map(str::to_owned));
        seen
    }
}

/// The program, without arguments.
pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_smtpd788"))
}

/// The command of a daemon with the files that are in `folder`.
pub fn command(folder: &Folder, rust_log: &str) -> Command {
    let mut command = program();
    command
        .args(["mail.conf", "user.conf"])
        .current_dir(folder.path())
        .env("RUST_LOG", rust_log);
    command
}

/// A running daemon.
pub struct Daemon {
    pub folder: Arc<Folder>,
    pub child: Child,
    log: Log,
}

/// What a daemon is started with; `{dir}` in the texts stands for the test's folder.
pub struct Setup {
    pub mail: String,
    pub users: String,
    pub rust_log: &'static str,
    pub folder: Arc<Folder>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            mail: "HOSTNAME = mail.example\nLISTEN_PORT = 0\nSPOOL_DIR = {dir}/spool\n".to_owned(),
            users: "john:{dir}/john/\njack:{dir}/jack\n".to_owned(),
            rust_log: "info",
            folder: Arc::new(Folder::new()),
        }
    }
}

impl Setup {
    /// The usual setup with further lines in mail.conf.
    pub fn with(lines: &str) -> Setup {
        let mut setup = Setup::default();
        setup.mail.push_str(lines);
        setup
    }

    pub fn users(mut self, users: &str) -> Setup {
        self.users = users.to_owned();
        self
    }

    pub fn rust_log(mut self, filter: &'static str) -> Setup {
        self.rust_log = filter;
        self
    }

    pub fn write(&self) {
        let dir = self.folder.path();
        let fill = |text: &str| text.replace("{dir}", dir.to_str().unwrap());
        fs::write(dir.join("mail.conf"), fill(&self.mail)).unwrap();
        fs::write(dir.join("user.conf"), fill(&self.users)).unwrap();
    }

    pub fn command(&self) -> Command {
        self.write();
        command(&self.folder, self.rust_log)
    }

    /// The same, begun by another program with `words`, which end where the command is to follow.
    pub fn command_after(&self, words: &[&str]) -> Command {
        let plain = self.command();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(self.folder.path())
            .env("RUST_LOG", self.rust_log);
        command
    }

    pub fn start(self) -> Daemon {
        let command = self.command();
        Daemon::run(command, self.folder)
    }
}

impl Daemon {
    /// Starts `command` and waits until it listens.
    pub fn run(command: Command, folder: Arc<Folder>) -> Daemon {
        let mut daemon = Daemon::launch(command, folder);
        if let Err(status) = daemon.wait_until_it_listens() {
            panic!("the daemon ended with {status}: {:?}", daemon.log());
        }
        daemon
    }

    /// Starts `command`, which may end before it listens.
    pub fn launch(mut command: Command, folder: Arc<Folder>) -> Daemon {
        let file = tempfile::tempfile().unwrap();
        command.stdout(file.try_clone().unwrap());
        let child = command.spawn().unwrap();
        let seen = Mutex::default();
        let log = Log { file, seen };
        Daemon { folder, child, log }
    }

    /// # Errors
    /// The status of a daemon that has ended instead.
    pub fn wait_until_it_listens(&mut self) -> Result<(), ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while self.matching("listening on ").is_empty() {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(status);
            }
            assert!(Instant::now() < deadline, "the daemon does not listen");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lines().lines.clone()
    }

    /// The log lines that contain `text`.
    pub fn matching(&self, text: &str) -> Vec<String> {
        let seen = self.log.lines();
        let found = seen.lines.iter().filter(|line| line.contains(text));
        found.cloned().collect()
    }

    /// Waits for the first log line that contains `text`.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_count(text, 1).remove(0)
    }

    /// Waits until `count` log lines contain `text`.
    pub fn wait_for_count(&self, text: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.matching(text);
            if found.len() >= count {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "the log never said {text:?}: {:#?}",
                self.log()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every address listened on.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        let lines = self.matching("listening on ");
        lines
            .iter()
            .map(|l| l.rsplit(' ').next().unwrap().parse().unwrap())
            .collect()
    }

    pub fn addr(&self) -> SocketAddr {
        self.addrs()[0]
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// A client that was greeted and has said HELO.
    pub fn greeted(&self) -> Client {
        let mut client = self.connect();
        client.expect("220 ");
        client.command("HELO client.example", "250 ");
        client
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_until("the daemon has ended", || self.has_ended());
        self.child.wait().unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM, and the status.
    pub fn stop(mut self) -> (ExitStatus, Vec<String>) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.wait();
        (status, self.log())
    }

    /// SIGKILL; the folder stays for the next start.
    pub fn kill(mut self) -> Arc<Folder> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Arc::clone(&self.folder)
    }

    /// Resident memory in KiB.
    pub fn status_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log: {:#?}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that speaks line by line.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Client {
        Client::over(TcpStream::connect(addr).unwrap())
    }

    /// One that calls from `source`.
    pub fn connect_from(source: &str, addr: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let source: SocketAddr = format!("{source}:0").parse().unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        Client::over(socket.into())
    }

    /// On a connection that is there already.
    pub fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Client { stream, reader }
    }

    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
    }

    /// The next reply, without its line end; empty at the end of the connection.
    pub fn reply(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap_or_default();
        assert!(
            line.is_empty() || line.ends_with("\r\n"),
            "a reply ends in CRLF: {line:?}"
        );
        line.trim_end_matches("\r\n").to_owned()
    }

    #[track_caller]
    pub fn expect(&mut self, start: &str) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(start), "wanted {start:?}, got {reply:?}");
        reply
    }

    #[track_caller]
    pub fn command(&mut self, line: &str, start: &str) -> String {
        self.send(format!("{line}\r\n"));
        let reply = self.reply();
        assert!(
            reply.starts_with(start),
            "{line}: wanted {start:?}, got {reply:?}"
        );
        reply
    }

    /// A whole transaction after HELO; `content` in CRLF lines, dots doubled. The id.
    #[track_caller]
    pub fn mail(&mut self, from: &str, to: &str, content: &str) -> String {
        self.command(&format!("MAIL FROM:<{from}>"), "250");
        self.command(&format!("RCPT TO:<{to}>"), "25");
        self.command("DATA", "354");
        self.send(format!("{content}.\r\n"));
        let reply = self.expect("250 OK id=");
        reply.trim_start_matches("250 OK id=").to_owned()
    }

    /// All that still comes.
    pub fn rest(mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Whether the daemon has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

/// The messages of an mbox file, by an independent reading of the format.
pub fn messages(mbox: &str) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for line in mbox.split_inclusive('\n') {
        if line.starts_with("From ") {
            messages.push(String::new());
        } else if let Some(message) = messages.last_mut() {
            let quoted = line.trim_start_matches('>').starts_with("From ");
            message.push_str(if quoted { &line[1..] } else { line });
        }
    }
    messages
}
