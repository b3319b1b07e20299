//! The next hops: one takes every letter and notes it before it says `250`, one puts everybody off, one refuses everybody.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::ledger::{HOPS, Ledger};
use crate::letter;

/// They serve until the test's process ends.
pub struct Hops {
    pub port: u16,
    net: u8,
    connections: Arc<AtomicUsize>,
}

impl Hops {
    /// On 127.0.`net`.3 and so on, one port for all.
    pub fn start(net: u8, ledger: &Arc<Mutex<Ledger>>) -> Hops {
        let bound = |port: u16| {
            let hop = |number| TcpListener::bind(format!("127.0.{net}.{}:{port}", 3 + number));
            (0..HOPS.len()).map(hop).collect::<Result<Vec<_>, _>>()
        };
        let listeners = (20_000 + u16::from(net) * 100..).find_map(|port| bound(port).ok());
        let listeners = listeners.expect("a port that is free on all three");
        let hops = Hops {
            port: listeners[0].local_addr().unwrap().port(),
            net,
            connections: Arc::default(),
        };
        for (listener, answer) in listeners.into_iter().zip(["250 OK", "451 later", "550 no"]) {
            let (ledger, connections) = (Arc::clone(ledger), Arc::clone(&hops.connections));
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let (ledger, connections) = (Arc::clone(&ledger), Arc::clone(&connections));
                    connections.fetch_add(1, Ordering::SeqCst);
                    thread::spawn(move || {
                        serve(&stream, answer, &ledger);
                        connections.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        }
        hops
    }

    /// The address of one of them.
    pub fn path(&self, user: &str) -> String {
        let number = HOPS.iter().position(|hop| *hop == user).unwrap();
        format!("{user}@[127.0.{}.{}]", self.net, 3 + number)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(stream: &TcpStream, rcpt: &str, ledger: &Mutex<Ledger>) -> Option<()> {
    let mut input = BufReader::new(stream);
    let mut output = stream;
    let mut say = |text: &str| output.write_all(format!("{text}\r\n").as_bytes()).ok();
    let mut users = Vec::new();
    let mut taken = None;
    say("220 hop.test")?;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|&len| len > 0)?;
        if let Some(id) = taken.take() {
            ledger.lock().unwrap().gone_on(id);
        }
        match &line[..4] {
            "MAIL" => {
                users.clear();
                say("250 OK")?;
            }
            "RCPT" => {
                let user = line.split(['<', '@']).nth(1).unwrap_or_default();
                users.push(user.to_owned());
                say(rcpt)?;
            }
            "DATA" => {
                say("354 go on")?;
                let mut data = String::new();
                while !data.ends_with("\r\n.\r\n") {
                    input.read_line(&mut data).ok().filter(|&len| len > 0)?;
                }
                data.truncate(data.len() - 3);
                let known = letter::known_on_the_wire(&data);
                taken = known.as_ref().ok().copied();
                ledger.lock().unwrap().taken(known, &users);
                say("250 taken")?;
            }
            "QUIT" => return say("221 bye"),
            _ => say("250 OK")?,
        }
    }
}
