//! No client holds a place for ever, whatever it does, and none makes many threads.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::daemon::{Client, Daemon, PATIENCE, Setup, wait_until};

/// Why the daemon said that the client named in `line` went.
fn reason(line: &str) -> &str {
    line.split_once(" reason=").map_or("", |(_, reason)| reason)
}

/// Sends `lines` over and over until the 421, and returns it.
fn go_on(client: &mut Client, lines: &[&str]) -> String {
    for line in lines.iter().cycle().take(3_000) {
        client.send(format!("{line}\r\n"));
        let reply = client.reply();
        if reply.starts_with("421 ") {
            assert!(client.is_closed());
            return reply;
        }
        assert!(!reply.is_empty(), "{line}: closed without a word");
    }
    panic!("{lines:?} go on for ever");
}

#[test]
fn no_command_holds_a_place_for_ever() {
    let daemon = Setup::with("MAX_CLIENTS = 1\nMAX_RECIPIENTS = 1\n").start();
    for (lines, why) in [
        (&["NOOP"][..], "too many commands without a message"),
        (&["RSET"], "too many commands without a message"),
        (&["HELO again"], "too many commands without a message"),
        (&["MAIL FROM:<a@b>"], "too many commands without a message"),
        (
            &["RCPT TO:<john@mail.example>"],
            "too many commands without a message",
        ),
        (
            &["RCPT TO:<nobody@mail.example>", "NOOP"],
            "too many errors",
        ),
        (&["EHLO x", "NOOP"], "too many commands without a message"),
        (&["VRFY john"], "too many errors"),
    ] {
        let mut client = daemon.connect();
        client.expect("220 "); // the one place is free again
        client.command("HELO c", "250");
        client.command("MAIL FROM:<a@b>", "250");
        if lines[0].starts_with("RCPT TO:<nobody") {
            let twenty = go_on(&mut client, &lines[..1]);
            assert!(twenty.ends_with("(too many errors)"), "{twenty}");
        } else {
            client.command("RCPT TO:<john@mail.example>", "250");
            let reply = go_on(&mut client, lines);
            assert!(reply.ends_with(&format!("({why})")), "{lines:?}: {reply}");
        }
    }
    let gone = daemon.wait_for_count("disconnect client=", 8);
    assert!(gone.iter().all(|line| !reason(line).is_empty()), "{gone:?}");
}

#[test]
fn time_outside_mail_data_ends_however_lively_the_client_is() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 1\nMAX_RECIPIENTS = 1000\n").start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    let begun = Instant::now();
    // Each line comes in time, and RCPTs are many before they are too many.
    let reply = loop {
        client.send("RCPT TO:<john@mail.example>\r\n");
        match client.reply() {
            reply if reply.starts_with("250") => thread::sleep(Duration::from_millis(100)),
            reply => break reply,
        }
        assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
    };
    assert!(reply.ends_with("(timeout)"), "{reply}");
    assert_eq!(reason(&daemon.wait_for("disconnect client=")), "timeout");
}

#[test]
fn a_client_that_brings_mail_may_stay() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 3\n").start();
    let mut client = daemon.greeted();
    let begun = Instant::now();
    while begun.elapsed() < 5 * Duration::from_secs(3) {
        client.mail("a@b", "john@mail.example", "Subject: x\r\n\r\n");
        thread::sleep(Duration::from_millis(200));
    }
    client.command("QUIT", "221");
}

/// In mail data.
fn in_data(daemon: &Daemon) -> Client {
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    client
}

#[test]
fn data_that_is_refused_already_does_not_go_on_for_ever() {
    let daemon = Setup::with("MAX_MESSAGE_SIZE = 100K\n").start();
    let line = "QUIT as a line of mail data that is as good as any other\r\n";
    let trace = "Received: from a by b\r\n".repeat(101);
    for (fault, code) in [
        (line.repeat(2_000), "552"), // 116,000 octets
        ("bare\nLF\r\n".to_owned(), "554"),
        ("bare\rCR\r\n".to_owned(), "554"),
        (trace, "554"),
    ] {
        let mut client = in_data(&daemon);
        client.send(format!("{fault}{line}.\r\n"));
        client.expect(code);
        client.command("NOOP", "250");

        let mut client = in_data(&daemon);
        client.send(&fault);
        let mut stream = client.stream.try_clone().unwrap();
        let more = line.repeat(1_000);
        let endless = thread::spawn(move || {
            let begun = Instant::now();
            while stream.write_all(more.as_bytes()).is_ok() {
                assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
            }
        });
        let reply = client.expect("421 ");
        assert!(
            reply.ends_with("(too much mail data after an error)"),
            "{reply}"
        );
        drop(client);
        endless.join().unwrap();
    }
    assert_eq!(daemon.read("john/mbox"), "");
}

#[test]
fn one_message_to_many_mailboxes_takes_few_threads() {
    const MAILBOXES: usize = 60;
    let users: String = (0..MAILBOXES)
        .map(|n| format!("user{n}:{{dir}}/{n}\n"))
        .collect();
    let daemon = Setup::default().users(&users).start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    let locks: Vec<_> = (0..MAILBOXES)
        .map(|n| daemon.path(&format!("{n}.lock")))
        .collect();
    for (n, lock) in locks.iter().enumerate() {
        client.command(&format!("RCPT TO:<user{n}@mail.example>"), "250");
        fs::write(lock, std::process::id().to_string()).unwrap();
    }
    client.command("DATA", "354");
    let threads = || daemon.status_kib("Threads:");
    let before = threads();
    client.send("Subject: x\r\n\r\nx\r\n.\r\n");
    wait_until("several deliveries wait for their lock", || {
        threads() >= before + 7
    });
    let most = (0..40).map(|_| {
        thread::sleep(Duration::from_millis(5));
        threads()
    });
    assert_eq!(
        most.max(),
        Some(before + 7),
        "eight, the client's own among them"
    );
    locks.iter().for_each(|lock| fs::remove_file(lock).unwrap());
    client.expect("250 OK id=");
    daemon.wait_for_count("INFO  delivered ", MAILBOXES);
    assert!((0..MAILBOXES).all(|n| daemon.read(&n.to_string()).contains("\nSubject: x\n")));
}
