//! Prints every mail until it is stopped: `cargo run --example console [ADDR:PORT]`.

use std::io::{self, Read};
use std::sync::Mutex;

use smtpd788::handler::{Client, Handler, Refusal, Verdict};
use smtpd788::message::Message;
use smtpd788::server::Server;
use smtpd788::smtp::address::{ForwardPath, ReversePath};

/// Takes mail for everybody but `nobody`.
struct Console(Mutex<io::Stdout>);

impl Handler for Console {
    type Transaction = ();

    fn begin(&self, _: &Client, _: &ReversePath) {}

    fn recipient(&self, _: &Client, (): &mut (), to: &ForwardPath) -> Verdict {
        if to.user() == "nobody" {
            Verdict::NoSuchUser
        } else {
            Verdict::Accept
        }
    }

    fn message(&self, client: &Client, (): (), message: Message) -> Result<(), Refusal> {
        let mut text = String::new();
        let body = message
            .body
            .reader()
            .take(1024 * 1024)
            .read_to_string(&mut text);
        body.map_err(|_| Refusal::LocalError)?;
        let envelope = &message.envelope;
        let to: Vec<_> = envelope.to.iter().map(ToString::to_string).collect();
        let mut out = self.0.lock().map_err(|_| Refusal::LocalError)?;
        let line = "-".repeat(72);
        let show = format!(
            "{line}\nid {} client {}\nfrom {} to {}\n\n{text}",
            envelope.id,
            client.peer,
            envelope.from,
            to.join(", ")
        );
        io::Write::write_all(&mut *out, show.as_bytes()).map_err(|_| Refusal::LocalError)
    }
}

fn main() -> io::Result<()> {
    let addr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let server = Server::bind(addr, Console(Mutex::new(io::stdout())))?;
    println!("send mail to {}, stop with ^C", server.addr());
    loop {
        std::thread::park();
    }
}
