//! The forwarding client against a next hop that refuses, hangs, drops, floods and drips at each step in turn.

use crate::common::hop::Act::{Close, Drip, Flood, Hang, Nothing, Reset, Say, SayAndClose};
use crate::common::hop::Step::{Data, Dot, Greeting, Helo, InData, Mail, Quit, Rcpt};
use crate::common::hop::{Act, Hop, Step, nobody};
use crate::common::sending::{IMPATIENT, PATIENT, open, paths, plain, send, target, told};
use smtpd788::message::Body;
use smtpd788::relay::client::{Connection, Fate};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn a_fault_at_each_step_in_turn() {
    const USABLE: bool = true;
    const LOST: bool = false;
    #[rustfmt::skip]
    let table: &[(Step, Act, &str, bool)] = &[
        (Mail, Say("450 busy\r\n"), "later later later: MX said at MAIL: 450 busy", USABLE),
        (Mail, Say("550 no\r\n"), "never never never: MX said at MAIL: 550 no", USABLE),
        (Mail, Say("421 bye\r\n"), "later later later: MX said at MAIL: 421 bye", LOST),
        (Mail, SayAndClose("550 no\r\n"), "never never never: MX said at MAIL: 550 no", USABLE),
        (Mail, Close, "later later later: connection to MX failed at MAIL: closed by the other side", LOST),
        (Mail, Hang, "later later later: connection to MX failed at MAIL: timed out", LOST),
        (Mail, Drip(b'2'), "later later later: connection to MX failed at MAIL: ", LOST),
        (Mail, Drip(b'\n'), "later later later: connection to MX failed at MAIL: ", LOST),
        (Mail, Flood("250-more\r\n"), "later later later: connection to MX failed at MAIL: ", LOST),
        (Mail, Flood("2"), "later later later: connection to MX failed at MAIL: ", LOST),
        (Mail, Say("hello\r\n"), "later later later: connection to MX failed at MAIL: ", LOST),
        (Mail, Say("\0\u{1b}\r\n"), "later later later: connection to MX failed at MAIL: ", LOST),
        (Mail, Say("354 well\r\n"), "later later later: MX said at MAIL: 354 well (out of turn)", LOST),
        (Mail, Say("250 OK\r\n250 OK\r\n"), "later later later: MX said at RCPT: 250 OK (out of turn)", LOST),
        (Mail, Say("\r\n\r\n250 OK\r\n"), "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Rcpt(1), Say("250 OK\r\n\r\n"), "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Rcpt(1), Say("250\tOK\r\n"), "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Mail, Flood("\r\n"), "later later later: connection to MX failed at MAIL: a reply has too many lines", LOST),
        (Mail, Say("250-several\r\n250-lines\r\n250 OK\r\n"), "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Rcpt(0), Say("550 no\r\n"), "never delivered delivered: MX said: 250 OK taken", USABLE),
        (Rcpt(1), Say("452 4.2.2 full\r\n"), "delivered later delivered: MX said: 250 OK taken", USABLE),
        (Rcpt(2), Say("550-no\r\n550 such user\r\n"), "delivered delivered never: MX said at RCPT: 550 no / such user", USABLE),
        (Rcpt(2), Say("251 User not local; will forward\r\n"), "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Rcpt(1), Say("421 bye\r\n"), "later later later: MX said at RCPT: 421 bye", LOST),
        (Rcpt(1), Close, "later later later: connection to MX failed at RCPT: closed by the other side", LOST),
        (Rcpt(1), Reset, "later later later: connection to MX failed at RCPT: Connection reset by peer", LOST),
        (Rcpt(1), Hang, "later later later: connection to MX failed at RCPT: timed out", LOST),
        (Data, Say("451 not now\r\n"), "later later later: MX said at DATA: 451 not now", USABLE),
        (Data, Say("554 no valid recipients\r\n"), "never never never: MX said at DATA: 554 no valid recipients", USABLE),
        (Data, Say("250 OK\r\n"), "later later later: MX said at DATA: 250 OK (out of turn)", LOST),
        (Data, Close, "later later later: connection to MX failed at DATA: closed by the other side", LOST),
        (Data, Hang, "later later later: connection to MX failed at DATA: timed out", LOST),
        (Data, Say("354 go on\r\n250 OK\r\n"), "later later later: MX said at the middle of the data: 250 OK (out of turn)", LOST),
        (Data, Say("354 go on\r\n552 too large\r\n"), "never never never: MX said at the middle of the data: 552 too large", LOST),
        (Dot, Say("452 full\r\n"), "later later later: MX said at the end of the data: 452 full", USABLE),
        (Dot, Say("554 spam\r\n"), "never never never: MX said at the end of the data: 554 spam", USABLE),
        (Dot, Say("354 more\r\n"), "later later later: MX said at the end of the data: 354 more (out of turn)", LOST),
        (Dot, Close, "later later later: connection to MX failed at the end of the data: closed by the other side", LOST),
        (Dot, Hang, "later later later: connection to MX failed at the end of the data: timed out", LOST),
        (Dot, Drip(b'-'), "later later later: connection to MX failed at the end of the data: ", LOST),
        (Dot, Flood("250-\r\n"), "later later later: connection to MX failed at the end of the data: ", LOST),
        (Quit, Say("500 no\r\n"), "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Quit, Close, "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Quit, Hang, "delivered delivered delivered: MX said: 250 OK taken", USABLE),
        (Quit, Flood("2"), "delivered delivered delivered: MX said: 250 OK taken", USABLE),
    ];
    for (step, act, expected, usable) in table {
        let row = format!("{step:?} {act:?}");
        let hop = Hop::scripted([(*step, *act)]);
        let waits = matches!(act, Hang | Drip(_));
        let started = Instant::now();
        let mut connection = open(&hop, if waits { IMPATIENT } else { PATIENT });
        let fates = send(&mut connection, &["a", "b", "c"], b"Subject: x\n\nx\n");
        let got = told(&fates, &hop);
        assert!(got.starts_with(expected), "{row}: {got}");
        assert_eq!(connection.is_usable(), *usable, "{row}");
        let in_doubt = *step == Dot && matches!(act, Close | Hang | Drip(_) | Flood(_));
        assert_eq!(connection.is_in_doubt(), in_doubt, "{row}");
        connection.quit();
        if waits {
            assert!(
                started.elapsed() < PATIENT,
                "{row}: a deadline is for the whole reply"
            );
        }
    }
}

#[test]
fn further_recipients_take_no_doubt_away() {
    let hop = Hop::scripted([(Dot, Close)]);
    let mut connection = open(&hop, PATIENT);
    let users: Vec<_> = (0..101).map(|n| format!("u{n}")).collect();
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    let fates = send(&mut connection, &users, b"Subject: x\n\nx\n");
    assert_eq!(fates.len(), 101);
    assert!(fates.iter().all(|fate| matches!(fate, Fate::Later(_))));
    assert!(!connection.is_usable() && connection.is_in_doubt());
}

#[test]
fn a_site_that_does_not_welcome_us() {
    #[rustfmt::skip]
    let table: &[(Step, Act, &str)] = &[
        (Greeting, Say("421 full\r\n"), "MX said at the greeting: 421 full"),
        (Greeting, Say("554 go away\r\n"), "MX said at the greeting: 554 go away"),
        (Greeting, Close, "connection to MX failed at the greeting: closed by the other side"),
        (Greeting, Hang, "connection to MX failed at the greeting: timed out"),
        (Greeting, Drip(b'2'), "connection to MX failed at the greeting: "),
        (Greeting, Flood("220-hello\r\n"), "connection to MX failed at the greeting: "),
        (Greeting, Say("SSH-2.0-OpenSSH_9.2\r\n"), "connection to MX failed at the greeting: "),
        (Greeting, Say("220 hi\r\n250 there\r\n"), "connection to MX failed at HELO: an answer without a question"),
        (Helo, Say("550 who?\r\n"), "MX said at HELO: 550 who?"),
        (Helo, Say("450 later\r\n"), "MX said at HELO: 450 later"),
        (Helo, Close, "connection to MX failed at HELO: closed by the other side"),
        (Helo, Hang, "connection to MX failed at HELO: timed out"),
    ];
    for (step, act, expected) in table {
        let hop = Hop::scripted([(*step, *act)]);
        let timeout = if matches!(act, Hang | Drip(_)) {
            IMPATIENT
        } else {
            PATIENT
        };
        let helo = "me.example".parse().unwrap();
        let trouble = Connection::open(&target(hop.addr()), &helo, timeout).unwrap_err();
        let got = plain(&trouble.to_string(), &hop);
        assert!(got.starts_with(expected), "{step:?} {act:?}: {got}");
    }
}

#[test]
fn a_site_that_is_not_there() {
    let helo = "me.example".parse().unwrap();
    let gone = nobody();
    let trouble = Connection::open(&target(gone), &helo, PATIENT).unwrap_err();
    let expected = format!(
        "connection to mx.test[{}]:{} failed: Connection refused",
        gone.ip(),
        gone.port()
    );
    assert_eq!(trouble.to_string(), expected);

    // A full backlog: the system drops what asks for more.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
        filling.push(stream);
    }
    let trouble = Connection::open(&target(addr), &helo, IMPATIENT).unwrap_err();
    assert!(
        trouble.to_string().ends_with("failed: timed out"),
        "{trouble}"
    );
}

#[test]
fn a_hop_that_refuses_or_hangs_in_the_middle_of_the_data() {
    #[rustfmt::skip]
    let table = [
        (Say("552 too large\r\n"), "never: MX said at the middle of the data: 552 too large"),
        (SayAndClose("552 too large\r\n"), "never: MX said at the middle of the data: 552 too large"),
        (Say("250 OK\r\n"), "later: MX said at the middle of the data: 250 OK (out of turn)"),
        (SayAndClose("421 stopping\r\n"), "later: MX said at the middle of the data: 421 stopping"),
        (Close, "later: connection to MX failed at the middle of the data: "),
        (Reset, "later: connection to MX failed at the middle of the data: "),
        (Hang, "later: connection to MX failed at the middle of the data: timed out"),
    ];
    let large = zeros(50_000_000);
    for (act, expected) in table {
        let hop = Hop::scripted([(InData, act), (Dot, Nothing)]);
        let timeout = if matches!(act, Hang) {
            IMPATIENT
        } else {
            PATIENT
        };
        let mut connection = open(&hop, timeout);
        let body = Body::from_file(large.try_clone().unwrap(), 0, 50_000_000);
        let fates = connection.send(&"<>".parse().unwrap(), &paths(&["a"]), &body);
        let got = told(&fates, &hop);
        assert!(got.starts_with(expected), "{act:?}: {got}");
        assert!(
            !connection.is_usable() && !connection.is_in_doubt(),
            "{act:?}"
        );
        drop(connection);
        let told = hop.wait_until(|told| told[0].ended);
        assert!(
            told[0]
                .data
                .iter()
                .all(|data| !data.ends_with(b"\r\n.\r\n")),
            "{act:?}: nothing partial is delivered"
        );
    }
}

/// A file with a hole, of that many octets.
fn zeros(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}
