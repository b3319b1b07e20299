//! Receives one mail in a test, sends it itself, and ends: `cargo run --example channel`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use smtpd788::server::Server;

fn main() -> std::io::Result<()> {
    // A server on a port of the system's choice; every message comes out of `mail`.
    let (server, mail) = Server::channel("127.0.0.1:0")?;

    // What the program under test would do: send a mail.
    let mut client = TcpStream::connect(server.addr())?;
    client.write_all(
        b"HELO test.example\r\n\
          MAIL FROM:<ann@test.example>\r\n\
          RCPT TO:<bob@test.example>\r\n\
          DATA\r\n\
          Subject: hello\r\n\
          \r\n\
          How are you?\r\n\
          .\r\n\
          QUIT\r\n",
    )?;
    client.shutdown(Shutdown::Write)?;
    let mut replies = String::new();
    client.read_to_string(&mut replies)?;
    print!("{replies}");

    // What the test looks at.
    let message = mail.recv_timeout(Duration::from_secs(10)).expect("a mail");
    assert_eq!(message.envelope.from.to_string(), "<ann@test.example>");
    assert_eq!(message.envelope.to[0].user(), "bob");
    let mut text = String::new();
    message.body.reader().read_to_string(&mut text)?;
    assert_eq!(text, "Subject: hello\n\nHow are you?\n");

    server.join(Duration::from_secs(10));
    println!("received as sent");
    Ok(())
}
