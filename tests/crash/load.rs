//! Clients that send letters of mixed sizes to everywhere until told to stop or the daemon is gone.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::daemon::PATIENCE;
use crate::ledger::{Aim, Ledger};
use crate::letter;

/// A generator that can be started anew from its seed (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    /// 1 kB to 8 MB: mostly small, some beyond what is kept in memory, some large.
    pub fn size(&mut self) -> usize {
        let (least, most) = match self.below(100) {
            0..65 => (1 << 10, 20 << 10),
            65..90 => (100 << 10, 600 << 10),
            _ => (1 << 20, letter::LARGEST as u64),
        };
        (least + self.below(most - least)) as usize
    }
}

/// One client; ends when `stop` is set, the daemon is gone or refuses.
pub fn client(addr: SocketAddr, ledger: &Mutex<Ledger>, seed: u64, stop: &AtomicBool) {
    let _ = send_all(addr, ledger, Dice(seed | 1), stop);
}

fn send_all(
    addr: SocketAddr,
    ledger: &Mutex<Ledger>,
    mut dice: Dice,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(&stream);
    let mut wanted = |start: &str| -> std::io::Result<()> {
        let mut reply = String::new();
        input.read_line(&mut reply)?;
        match reply.starts_with(start) {
            true => Ok(()),
            false => Err(std::io::Error::other(reply)),
        }
    };
    let mut output = &stream;
    wanted("220")?;
    output.write_all(b"HELO load.test\r\n")?;
    wanted("250")?;
    while !stop.load(Ordering::SeqCst) {
        let aim = Aim::ALL[dice.below(Aim::ALL.len() as u64) as usize];
        let size = dice.size();
        let id = ledger.lock().unwrap().begin(aim);
        let wire = letter::wire(id, size);
        let mut commands = "MAIL FROM:<load@client.test>\r\n".to_owned();
        for to in aim.paths() {
            commands.push_str(&format!("RCPT TO:<{to}>\r\n"));
        }
        output.write_all(format!("{commands}DATA\r\n").as_bytes())?;
        wanted("250")?;
        for _ in aim.paths() {
            wanted("250")?;
        }
        wanted("354")?;
        output.write_all(&wire)?;
        output.write_all(b".\r\n")?;
        wanted("250")?;
        ledger.lock().unwrap().promised(id);
    }
    output.write_all(b"QUIT\r\n")?;
    wanted("221")
}
