//! Who uses the disk: clients of the daemon, another delivery agent, a reader that empties mailboxes, a busy sync.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::daemon::PATIENCE;
use crate::disk::Dice;
use crate::hops::Hops;
use crate::ledger::{HOPS, Ledger, MAILBOXES, Target};
use crate::letter;

/// What a client chooses from.
const AIMS: [&[Target]; 12] = [
    &["john"],
    &["john"],
    &["jack"],
    &["jack"],
    &["carl"],
    &["john", "jack", "carl"],
    &["hop"],
    &["hop"],
    &["jack", "hop"],
    &["hop", "far"],
    &["far"],
    &["bad"],
];

fn size(dice: &mut Dice) -> usize {
    let (least, most) = match dice.below(100) {
        0..75 => (1 << 10, 8 << 10),
        75..90 => (50 << 10, 300 << 10),
        _ => (1 << 20, 5 << 19),
    };
    (least + dice.below(most - least)) as usize
}

/// A session with the daemon.
pub struct Client<'a> {
    stream: TcpStream,
    input: BufReader<TcpStream>,
    hops: &'a Hops,
}

impl<'a> Client<'a> {
    pub fn connect(addr: SocketAddr, hops: &'a Hops) -> io::Result<Client<'a>> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let input = BufReader::new(stream.try_clone()?);
        let mut client = Client {
            stream,
            input,
            hops,
        };
        client.wanted("220")?;
        client.stream.write_all(b"HELO load.test\r\n")?;
        client.wanted("250")?;
        Ok(client)
    }

    fn wanted(&mut self, start: &str) -> io::Result<()> {
        let mut reply = String::new();
        self.input.read_line(&mut reply)?;
        match reply.starts_with(start) {
            true => Ok(()),
            false => Err(io::Error::other(reply)),
        }
    }

    /// One letter; an error if it was not answered 250.
    pub fn send(&mut self, id: u64, aim: &[Target], size: usize) -> io::Result<()> {
        let mut commands = "MAIL FROM:<ann@mail.example>\r\n".to_owned();
        for user in aim {
            let path = match HOPS.contains(user) {
                true => self.hops.path(user),
                false => format!("{user}@mail.example"),
            };
            commands.push_str(&format!("RCPT TO:<{path}>\r\n"));
        }
        self.stream
            .write_all(format!("{commands}DATA\r\n").as_bytes())?;
        for _ in 0..=aim.len() {
            self.wanted("250")?;
        }
        self.wanted("354")?;
        let mut wire = letter::wire(id, size);
        wire.extend_from_slice(b".\r\n");
        self.stream.write_all(&wire)?;
        self.wanted("250")
    }
}

/// Sends letters of mixed sizes to everywhere until told to stop or the daemon is gone.
pub fn client(
    addr: SocketAddr,
    hops: &Hops,
    ledger: &Mutex<Ledger>,
    mut dice: Dice,
    stop: &AtomicBool,
) {
    let Ok(mut client) = Client::connect(addr, hops) else {
        return;
    };
    while !stop.load(Ordering::SeqCst) {
        let aim = AIMS[dice.below(AIMS.len() as u64) as usize];
        let id = ledger.lock().unwrap().begin(aim);
        let answer = client.send(id, aim, size(&mut dice));
        match answer {
            Ok(()) => ledger.lock().unwrap().promised(id),
            Err(error) if stop.load(Ordering::SeqCst) || !error.to_string().starts_with('4') => {
                return;
            }
            Err(error) => {
                let text = format!("odd: letter {id} was answered {error}");
                return ledger.lock().unwrap().faults.push(text);
            }
        }
    }
}

/// The mailbox, if it is there, under the lock that the daemon takes first.
fn locked(mbox: &Path) -> Option<File> {
    let file = File::options().read(true).append(true).open(mbox).ok()?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole)).unwrap();
    Some(file)
}

/// The other agent puts a letter into the mailbox of `user`, durably, and ends an unfinished line before it.
pub fn append(disk: &Path, user: Target, size: usize, ledger: &Mutex<Ledger>) -> Option<()> {
    let (at, aim): (usize, &'static [Target]) = match user {
        "john" => (0, &["john"]),
        _ => (1, &["jack"]),
    };
    let mut file = locked(&disk.join(MAILBOXES[at].1))?;
    let id = ledger.lock().unwrap().begin(aim);
    let mut mbox = Vec::new();
    file.read_to_end(&mut mbox).unwrap();
    let mut text = if mbox.is_empty() || mbox.ends_with(b"\n\n") {
        ""
    } else {
        "\n\n"
    }
    .to_owned();
    text.push_str(
        "From agent@other.test Mon Nov 30 20:00:00 2026\nReturn-Path: <agent@other.test>\n",
    );
    for line in String::from_utf8(letter::wire(id, size)).unwrap().lines() {
        let line = line.strip_prefix('.').unwrap_or(line);
        let from = line.trim_start_matches('>').starts_with("From ");
        text += &format!("{}{line}\n", if from { ">" } else { "" });
    }
    text.push('\n');
    file.write_all(text.as_bytes()).unwrap();
    file.sync_data().unwrap();
    ledger.lock().unwrap().others(id);
    Some(())
}

/// The reader takes all mail out of a mailbox.
pub fn empty(disk: &Path, mailbox: usize, ledger: &Mutex<Ledger>) -> Option<()> {
    let (user, mbox) = MAILBOXES[mailbox];
    let mut file = locked(&disk.join(mbox))?;
    let mut mail = Vec::new();
    file.read_to_end(&mut mail).unwrap();
    let keys = ledger.lock().unwrap().reading(user, &mail);
    file.set_len(0).unwrap();
    file.sync_all().unwrap();
    ledger.lock().unwrap().settled(keys);
    Some(())
}

/// The other agent, the reader, and who syncs all the time, in turn until told to stop.
pub fn others(disk: &Path, ledger: &Mutex<Ledger>, mut dice: Dice, syncs: bool, stop: &AtomicBool) {
    let until_stopped = |pause: u64, work: &mut dyn FnMut()| {
        while !stop.load(Ordering::SeqCst) {
            work();
            thread::sleep(Duration::from_millis(pause));
        }
    };
    let mut reader = Dice(dice.below(u64::MAX) | 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            until_stopped(5, &mut || {
                let user = if dice.percent(50) { "john" } else { "jack" };
                append(disk, user, 500 + dice.below(20_000) as usize, ledger);
            });
        });
        scope.spawn(|| {
            until_stopped(40, &mut || {
                empty(disk, reader.below(MAILBOXES.len() as u64) as usize, ledger);
            });
        });
        if syncs {
            let folder = File::open(disk).unwrap();
            until_stopped(3, &mut || nix::unistd::syncfs(&folder).unwrap());
        }
    });
}
