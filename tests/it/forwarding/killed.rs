//! The whole daemon is killed with SIGKILL, at any moment, while messages flow in and out: whatever it has answered
//! `250` for arrives, at the next hop and in the mailbox.

use super::world::{mx, relaying, restart, taken, wait_for_empty_spool};
use crate::common::daemon::{messages, wait_until};
use crate::common::dns::DnsServer;
use crate::common::hop::Hop;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const ROUNDS: usize = 10;

/// Sends numbered messages until the daemon is gone; notes those that it answered for.
fn send(addr: SocketAddr, next: &AtomicUsize, acknowledged: &Mutex<Vec<usize>>) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    let mut replies = BufReader::new(stream.try_clone()?).lines();
    let mut expect = |codes: &[&str]| {
        for code in codes {
            let line = replies
                .next()
                .unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
            assert!(line.starts_with(code), "{line}");
        }
        Ok::<_, io::Error>(())
    };
    stream.write_all(b"HELO c\r\n")?;
    expect(&["220", "250"])?;
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        // Some are larger than a page, so that a kill can tear them.
        let filling = "x".repeat(if number.is_multiple_of(7) {
            300_000
        } else {
            100
        });
        stream.write_all(
            b"MAIL FROM:<a@b>\r\nRCPT TO:<x@b.example>\r\nRCPT TO:<y@b.example>\r\n\
              RCPT TO:<john@mail.example>\r\nDATA\r\n",
        )?;
        expect(&["250", "250", "250", "250", "354"])?;
        stream.write_all(format!("{filling}\r\nnumber {number}\r\n.\r\n").as_bytes())?;
        expect(&["250 OK id="])?;
        acknowledged.lock().unwrap().push(number);
    }
}

/// The numbers of whole messages, each with how often it came.
fn count(all: &[String], end: &str) -> BTreeMap<usize, usize> {
    let mut numbers = BTreeMap::new();
    for message in all {
        let (_, text) = message.rsplit_once("number ").unwrap_or_default();
        if let Some(Ok(number)) = text.strip_suffix(end).map(str::parse) {
            *numbers.entry(number).or_default() += 1;
        }
    }
    numbers
}

#[test]
fn what_was_answered_for_arrives_however_often_it_is_killed() {
    let (dns, hop) = (DnsServer::start(), Hop::good());
    mx(&dns, "b.example", "127.0.0.1");
    let lines = "RETRY_MIN = 1s\nRETRY_MAX = 1s\n";
    let mut daemon = relaying(&dns, hop.addr().port(), lines).start();
    let (next, acknowledged) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    for round in 0..ROUNDS {
        let before = taken(&hop.told()).len();
        let folder = thread::scope(|scope| {
            let addr = daemon.addr();
            for _ in 0..3 {
                let (next, acknowledged) = (&next, &acknowledged);
                scope.spawn(move || send(addr, next, acknowledged).unwrap_err());
            }
            let goal = before + 3 + round * 2;
            wait_until("some have gone out", || taken(&hop.told()).len() >= goal);
            daemon.kill()
        });
        daemon = restart(&folder);
    }
    wait_for_empty_spool(&daemon);
    let acknowledged = acknowledged.into_inner().unwrap();
    let outside = count(&taken(&hop.told()), "\r\n.\r\n");
    let inside = count(&messages(&daemon.read("john/mbox")), "\n\n");
    assert!(acknowledged.len() > ROUNDS);
    for (where_to, arrived) in [("the hop", &outside), ("the mailbox", &inside)] {
        let is_lost = |number: &&usize| !arrived.contains_key(number);
        let lost: Vec<_> = acknowledged.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "lost on the way to {where_to}: {lost:?}");
        let more: usize = arrived.values().map(|copies| copies - 1).sum();
        let (n, kills) = (acknowledged.len(), ROUNDS);
        println!("{kills} kills, {n} answered for, second copies at {where_to}: {more}");
        // No more than can be under way at a kill: five connections, three clients.
        assert!(more <= kills * 5, "{more} second copies at {where_to}");
    }
    assert_eq!(daemon.matching("damaged").len(), 0);
}
