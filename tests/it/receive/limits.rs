//! Every peer is bounded: in number, in recipients, in time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::daemon::{PATIENCE, Setup, wait_until};
use socket2::Type;

#[test]
fn one_client_too_many_is_told_421_and_a_place_is_given_back() {
    let daemon = Setup::with("MAX_CLIENTS = 2\n").start();
    let first = daemon.greeted();
    let _second = daemon.greeted();
    let mut third = daemon.connect();
    third.expect("421 mail.example ");
    assert!(third.is_closed());
    drop(first);
    wait_until("a place is free", || {
        daemon.connect().reply().starts_with("220 ")
    });
}

#[test]
fn a_client_that_has_quit_counts_no_more_even_if_it_lingers() {
    let daemon = Setup::with("MAX_CLIENTS = 1\n").start();
    for _ in 0..3 {
        let mut client = daemon.greeted();
        client.command("QUIT", "221 mail.example ");
        daemon.greeted().command("QUIT", "221"); // the first one's connection is still open
    }
}

#[test]
fn clients_of_one_address_are_limited_unless_they_may_relay() {
    let daemon = Setup::with("MAX_CLIENTS_PER_HOST = 2\nRELAY_FROM = none\n").start();
    let _held = (daemon.greeted(), daemon.greeted());
    daemon.connect().expect("421");
    let daemon = Setup::with("MAX_CLIENTS_PER_HOST = 2\n").start();
    let _held = (daemon.greeted(), daemon.greeted(), daemon.greeted());
}

#[test]
fn one_recipient_too_many_gets_552_and_the_rest_their_mail() {
    let daemon = Setup::with("MAX_RECIPIENTS = 3\n").start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    for code in ["250", "250", "250"].into_iter().chain(["552"; 30]) {
        client.command("RCPT TO:<john@mail.example>", code);
    }
    client.command("DATA", "354");
    client.send("x\r\n.\r\n");
    client.expect("250 OK id=");
}

#[test]
fn the_time_for_a_command_line_is_for_the_whole_line() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 1\n").start();
    let mut client = daemon.connect();
    client.expect("220");
    let begun = Instant::now();
    // Drips one octet at a time: each read is quick, the line never ends.
    let mut stream = client.stream.try_clone().unwrap();
    let drip = thread::spawn(move || {
        while begun.elapsed() < PATIENCE && stream.write_all(b"N").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    client.expect("421 mail.example ");
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(client);
    drip.join().unwrap();
}

#[test]
fn silence_is_answered_421_before_and_in_mail_data() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 1\n").start();
    let mut silent = daemon.greeted();
    let mut in_data = daemon.greeted();
    in_data.command("MAIL FROM:<a@b>", "250");
    in_data.command("RCPT TO:<john@mail.example>", "250");
    in_data.command("DATA", "354");
    in_data.send("begun\r\n");
    silent.expect("421 mail.example ");
    in_data.expect("421 mail.example ");
    assert!(silent.is_closed() && in_data.is_closed());
    assert_eq!(daemon.read("john/mbox"), "");
}

#[test]
fn mail_data_may_be_slow_but_not_for_ever() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 1\n").start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    let begun = Instant::now();
    let mut stream = client.stream.try_clone().unwrap();
    let drip = thread::spawn(move || {
        while begun.elapsed() < PATIENCE && stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    client.expect("421 mail.example ");
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(client);
    drip.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_its_replies_is_let_go() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 1\nMAX_RECIPIENTS = 1000000\n").start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<>", "250");
    client
        .stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let rcpt = "RCPT TO:<john@mail.example>\r\n".repeat(10_000);
    let mut stream = &client.stream;
    for _ in 0..1000 {
        if stream.write_all(rcpt.as_bytes()).is_err() {
            break; // its buffers and ours are full
        }
    }
    let gone = daemon.wait_for("disconnect client=");
    assert!(gone.ends_with("reason=timeout"), "{gone}");
}

#[test]
fn twenty_errors_in_a_row_end_it() {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    for _ in 0..19 {
        client.command("FOO", "500");
    }
    client.command("NOOP", "250");
    for _ in 0..19 {
        client.command("FOO", "500");
    }
    client.command("FOO", "421 mail.example ");
    assert!(client.is_closed());
    let mut browser = daemon.connect();
    browser.send("GET / HTTP/1.1\r\nHost: mail.example\r\n\r\n");
    browser.expect("220");
    browser.expect("421");
    assert_eq!(browser.rest(), "");
}

#[test]
fn no_reply_is_lost_when_the_client_has_sent_more_than_is_read() {
    let daemon = Setup::default().start();
    for _ in 0..20 {
        let mut client = daemon.connect();
        client.send(format!("QUIT\r\n{}", "NOOP\r\n".repeat(20_000)));
        client.expect("220");
        client.expect("221 mail.example ");
    }
}

#[test]
fn no_reply_is_lost_to_what_a_client_sends_after_quit() {
    let daemon = Setup::with("MAX_RECIPIENTS = 1\n").start();
    let addr = daemon.addr();
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), Type::STREAM, None);
    let socket = socket.unwrap();
    // It takes little at a time, so replies are on their way for long.
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut client = TcpStream::from(socket);
    let begin = "HELO a.b\r\nMAIL FROM:<>\r\nRCPT TO:<john@mail.example>\r\n";
    let more = 1990; // of the one recipient that there is room for
    let rcpt = "RCPT TO:<john@mail.example>\r\n".repeat(more);
    write!(client, "{begin}{rcpt}QUIT\r\n").unwrap();
    // Most likely QUIT has been answered by then, and what waits for the rest has not had its 2 s.
    thread::sleep(Duration::from_millis(200));
    client.write_all(b"\r\n").unwrap();
    thread::sleep(Duration::from_millis(100));
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    assert_eq!(replies.lines().count(), more + 5);
}
