//! Prints every mail until it is stopped: `cargo run --example console [ADDR:PORT]`.

use std::io::{self, Write};

use smtpd788::handler::{Client, Handler, Refusal, Verdict};
use smtpd788::message::Message;
use smtpd788::server::Server;
use smtpd788::smtp::address::{ForwardPath, ReversePath};

/// Takes mail for everybody but `nobody`.
struct Console;

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

    /// The client hears `250` only once its mail is printed.
    fn message(&self, client: &Client, (): (), message: Message) -> Result<(), Refusal> {
        print(client, &message).map_err(|error| Refusal::from(&error))
    }
}

/// As it came: mail data need not be UTF-8.
fn print(client: &Client, message: &Message) -> io::Result<()> {
    let envelope = &message.envelope;
    let mut out = io::stdout().lock();
    writeln!(out, "{:-<72}", "")?;
    writeln!(out, "id {} client {}", envelope.id, client.peer)?;
    write!(out, "from {} to", envelope.from)?;
    for to in &envelope.to {
        write!(out, " {to}")?;
    }
    writeln!(out, "\n")?;
    io::copy(&mut message.body.reader(), &mut out)?;
    out.flush()
}

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1);
    let addr = addr.as_deref().unwrap_or("127.0.0.1:2525");
    let server = Server::bind(addr, Console)?;
    println!("send mail to {}, stop with ^C", server.addr());
    loop {
        std::thread::park();
    }
}
