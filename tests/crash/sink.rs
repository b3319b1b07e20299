//! A next hop that notes every whole letter before it says `250`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::letter;

/// Serves until the test's process ends.
#[derive(Clone)]
pub struct Sink {
    pub addr: SocketAddr,
    taken: Arc<Mutex<Vec<u64>>>,
    connections: Arc<AtomicUsize>,
}

impl Sink {
    /// On an address that no daemon of the tests listens on, so that its literal is no local one.
    pub fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.3:0").unwrap();
        let sink = Sink {
            addr: listener.local_addr().unwrap(),
            taken: Arc::default(),
            connections: Arc::default(),
        };
        let all = sink.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let one = all.clone();
                one.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    one.serve(&stream);
                    one.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        sink
    }

    pub fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }

    /// How many are connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let mut input = BufReader::new(stream);
        let mut output = stream;
        let mut say = |text: &str| output.write_all(text.as_bytes()).ok();
        say("220 sink.test\r\n")?;
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok().filter(|&n| n > 0)?;
            match &line[..4] {
                "DATA" => {
                    say("354 go on\r\n")?;
                    let mut data = String::new();
                    while !data.ends_with("\r\n.\r\n") {
                        input.read_line(&mut data).ok().filter(|&n| n > 0)?;
                    }
                    data.truncate(data.len() - 3);
                    let id = letter::known(&letter::unwire(&data)).expect("relayed whole");
                    self.taken.lock().unwrap().push(id);
                    say("250 taken\r\n")?;
                }
                "QUIT" => return say("221 bye\r\n"),
                _ => say("250 OK\r\n")?,
            }
        }
    }
}
