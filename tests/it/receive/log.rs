//! What the log says of a session: each refusal with the reply as sent, how it ended, one `client=` on every line.

use std::fs;

use crate::common::daemon::{Client, Daemon, Setup};

/// The log lines of a client, after ` client=IP:PORT`, once it is gone.
fn lines_of(daemon: &Daemon, client: Client) -> Vec<String> {
    let name = format!(" client={}", client.stream.local_addr().unwrap());
    drop(client);
    daemon.wait_for(&format!("disconnect{name}"));
    let lines = daemon.matching(&name);
    let short = |line: &String| line.get(31..).unwrap_or_default().replacen(&name, "", 1);
    lines.iter().map(short).collect()
}

const HELO: &str = "HELO c\r\n";
const MAIL: &str = "HELO c\r\nMAIL FROM:<a@b>\r\n";
const RCPT: &str = "HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<john@mail.example>\r\n";
const FULL: &str = "421 mail.example Service not available, closing transmission channel";

#[test]
fn every_refusal_is_a_line_with_the_reply_as_sent() {
    let lines =
        "MAX_RECIPIENTS = 1\nMAX_MESSAGE_SIZE = 1K\nRELAY_FROM = none\nMAX_CLIENTS_PER_HOST = 9\n";
    let daemon = Setup::with(lines).start();
    let large = format!("DATA\r\n{}\r\n.\r\n", "x".repeat(1100));
    for (before, sent, about) in [
        ("", "HELO\r\n", ""),
        ("", "EHLO c\r\n", ""),
        ("", "MAIL FROM:<a@b>\r\n", ""),
        ("", "NO\tOP\r\n", ""),
        ("", "GET / HTTP/1.1\r\n", ""),
        ("", "PROXY UNKNOWN\r\n", ""),
        (HELO, "MAIL FROM:<a@b> SIZE=1\r\n", ""),
        (HELO, "VRFY john\r\n", ""),
        (HELO, "RCPT TO:<john@mail.example>\r\n", ""),
        (MAIL, "RCPT TO: <john@mail.example>\r\n", ""),
        (
            MAIL,
            "RCPT TO:<nobody@mail.example>\r\n",
            " from=<a@b> to=<nobody@mail.example>",
        ),
        (
            MAIL,
            "RCPT TO:<john@else.example>\r\n",
            " from=<a@b> to=<john@else.example>",
        ),
        (
            MAIL,
            "RCPT TO:<john@10.0.0.1>\r\n",
            " from=<a@b> to=<john@10.0.0.1>",
        ),
        (
            RCPT,
            "RCPT TO:<jack@mail.example>\r\n",
            " from=<a@b> to=<jack@mail.example>",
        ),
        (RCPT, &large, " id= from=<a@b>"),
        (RCPT, "DATA\r\nbare\rCR\r\n.\r\n", " id= from=<a@b>"),
    ] {
        let mut client = daemon.connect();
        client.send(format!("{before}{sent}"));
        let reply = loop {
            let reply = client.reply();
            if reply.as_bytes()[0] >= b'4' {
                break reply;
            }
        };
        let lines = lines_of(&daemon, client);
        let rejected: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("rejected"))
            .collect();
        let [rejected] = rejected[..] else {
            panic!("{sent}: {lines:?}");
        };
        let (found, answer) = rejected.split_once(" answer=").unwrap();
        assert_eq!(answer, reply, "{sent}");
        let mut found = found.trim_start_matches("rejected").to_owned();
        if let Some(at) = found.find(" id=") {
            found.replace_range(at + 4..at + 20, "");
        }
        assert_eq!(found, about, "{sent}");
    }
}

#[test]
fn the_end_of_a_session_says_why_unless_it_quit() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 1\n").start();
    for (sent, ended) in [
        ("QUIT\r\n", "disconnect"),
        ("NOOP\r\nQUIT\r\n", "disconnect"),
        ("NOOP\r\n", "disconnect reason=closed by the client"),
        ("", "disconnect reason=closed by the client"),
        ("HEAD / HTTP/1.1\r\n", "disconnect reason=an HTTP request"),
        ("\r\n\r\n\0\r\nQUIT\n", "disconnect reason=a PROXY header"),
    ] {
        let mut client = daemon.connect();
        client.send(sent);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        while !client.reply().is_empty() {}
        assert_eq!(lines_of(&daemon, client).last().unwrap(), ended, "{sent:?}");
    }
    let mut errors = daemon.connect();
    errors.send("FOO\r\n".repeat(20));
    while !errors.reply().is_empty() {}
    let lines = lines_of(&daemon, errors);
    assert_eq!(lines.last().unwrap(), "disconnect reason=too many errors");
    assert!(
        lines[20].ends_with(" closing transmission channel (too many errors)"),
        "{lines:?}"
    );

    let mut silent = daemon.connect();
    silent.expect("220");
    silent.expect("421");
    let lines = lines_of(&daemon, silent);
    let refused = format!("rejected answer={FULL} (timeout)");
    assert_eq!(lines, ["connect", &refused, "disconnect reason=timeout"]);

    let mut dropped = daemon.connect();
    dropped.send(format!("{RCPT}DATA\r\nhalf"));
    for code in ["220", "250", "250", "250", "354"] {
        dropped.expect(code);
    }
    let lines = lines_of(&daemon, dropped);
    assert_eq!(
        lines,
        [
            "connect",
            "disconnect reason=closed by the client in mail data"
        ]
    );
}

#[test]
fn a_session_that_ends_later_is_not_blamed_on_what_was_answered_before() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 1\n")
        .rust_log("debug")
        .start();
    for (sent, answers) in [
        (format!("{RCPT}DATA\r\nSubject: x\r\n\r\n.\r\n"), 6),
        (format!("{MAIL}RCPT TO:<nobody@mail.example>\r\n"), 4),
        (format!("{RCPT}DATA\r\nbare\nLF\r\n.\r\n"), 6),
        (HELO.to_owned(), 2),
    ] {
        let mut client = daemon.connect();
        client.send(&sent);
        for _ in 0..answers {
            client.reply();
        }
        client.expect("421 ");
        let lines = lines_of(&daemon, client);
        let [.., reply, rejected, _] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(*reply, format!("reply answer={FULL} (timeout)"), "{sent:?}");
        let answer = format!("rejected answer={FULL} (timeout)");
        assert_eq!(*rejected, answer, "{sent:?}");
    }
}

#[test]
fn after_twenty_refusals_of_a_session_the_rest_is_a_number() {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    for _ in 0..25 {
        client.command("DATA", "503");
        client.command("NOOP", "250");
    }
    client.command("QUIT", "221");
    let lines = lines_of(&daemon, client);
    let rejected = lines.iter().filter(|line| line.starts_with("rejected "));
    assert_eq!(rejected.count(), 20);
    assert_eq!(lines.last().unwrap(), "disconnect further_rejected=5");
}

#[test]
fn a_client_that_finds_no_place_is_logged_with_its_limit() {
    for (lines, limit) in [
        ("MAX_CLIENTS = 1\n", "MAX_CLIENTS"),
        (
            "RELAY_FROM = none\nMAX_CLIENTS_PER_HOST = 1\n",
            "MAX_CLIENTS_PER_HOST",
        ),
    ] {
        let daemon = Setup::with(lines).start();
        let _first = daemon.greeted();
        let mut second = daemon.connect();
        let reply = second.expect(FULL);
        let name = second.stream.local_addr().unwrap();
        daemon.wait_for(&format!(
            "rejected client={name} limit={limit} answer={reply}"
        ));
    }
}

#[test]
fn a_message_has_its_client_and_its_id_on_every_line() {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    let id = client.mail("a@b", "john@mail.example", "Subject: x\r\n\r\n");
    let name = client.stream.local_addr().unwrap();
    daemon.wait_for(&format!(
        "accepted id={id} client={name} from=<a@b> size=12"
    ));
    daemon.wait_for(&format!("delivered id={id} to=<john@mail.example> "));
}

#[test]
fn a_message_that_is_refused_is_not_called_deferred() {
    let daemon = Setup::default().start();
    fs::create_dir(daemon.path("john/mbox")).unwrap();
    fs::remove_dir_all(daemon.path("spool")).unwrap();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    client.command("Subject: x\r\n\r\n.", "451");
    let rejected = daemon.wait_for("rejected client=");
    let id = &rejected.split_once(" id=").unwrap().1[..16];
    daemon.wait_for(&format!("cannot deliver id={id} mailbox="));
    daemon.wait_for(&format!("cannot store id={id} client="));
    assert!(daemon.matching("deferred").is_empty());
}
