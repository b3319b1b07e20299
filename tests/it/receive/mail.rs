//! The main job, on the real daemon: a message comes in and lies in the mbox, octet by octet as it should.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::thread;

use crate::common::daemon::{Client, Setup, command, messages, wait_until};
use crate::common::hop::nobody;

/// An mbox with its changing parts (date, id, port) replaced by fixed ones.
fn steady(mbox: &str) -> String {
    let mut steady = String::new();
    for line in mbox.lines() {
        if let Some(rest) = line.strip_prefix("From ") {
            let from = rest.split(' ').next().unwrap();
            let date = rest.split_once(' ').unwrap().1;
            assert_eq!(date.len(), "Sat Nov 21 22:30:01 2026".len(), "{date}");
            steady.push_str(&format!("From {from} DATE\n"));
        } else if line.starts_with("Received: ") {
            let (start, date) = line.rsplit_once("; ").unwrap();
            assert!(date.ends_with(" +0000"), "{date}");
            let (before, after) = start.split_once(" id ").unwrap();
            assert!(after.as_bytes()[..16].iter().all(u8::is_ascii_hexdigit));
            steady.push_str(&format!("{before} id ID{}; DATE\n", &after[16..]));
        } else {
            steady.push_str(&format!("{line}\n"));
        }
    }
    steady
}

#[test]
fn a_person_at_plain_netcat_gets_mail_into_the_mbox() {
    let daemon = Setup::default().start();
    let mut client = daemon.connect();
    client.send("HELO me\nMAIL FROM:<me@here>\nRCPT TO:<john@mail.example>\nDATA\n");
    client.send("Subject: hello\n\n..dot\nFrom me\n>From you\n.\nQUIT\n");
    let replies = client.rest();
    let codes: Vec<_> = replies.lines().map(|line| &line[..3]).collect();
    assert_eq!(
        codes,
        ["220", "250", "250", "250", "354", "250", "221"],
        "{replies}"
    );
    assert_eq!(
        steady(&daemon.read("john/mbox")),
        "From me@here DATE\nReturn-Path: <me@here>\nDelivered-To: <john@mail.example>\n\
         Received: from me ([127.0.0.1]) by mail.example with SMTP id ID for <john@mail.example>; DATE\n\
         Subject: hello\n\n.dot\n>From me\n>>From you\n\n"
    );
    let mode = |name: &str| {
        fs::metadata(daemon.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("john"), mode("john/mbox"), mode("spool")),
        (0o700, 0o600, 0o700)
    );
}

#[test]
fn everything_at_once_from_a_client_that_has_closed_its_side() {
    let daemon = Setup::default().start();
    let mut stream = TcpStream::connect(daemon.addr()).unwrap();
    let session = "HELO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<jack@mail.example>\r\nDATA\r\n\
                   8-bit: \u{e9}\r\n\r\n\r\n.\r\nMAIL FROM:<x@y>\r\nNOOP\r\n";
    stream.write_all(session.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    let codes: Vec<_> = replies.lines().map(|line| &line[..3]).collect();
    assert_eq!(
        codes,
        ["220", "250", "250", "250", "354", "250", "250", "250"],
        "{replies}"
    );
    let mbox = daemon.read("jack");
    assert!(mbox.starts_with("From MAILER-DAEMON "), "{mbox}");
    assert!(mbox.contains("\nReturn-Path: <>\n"), "{mbox}");
    assert!(mbox.ends_with("\n8-bit: \u{e9}\n\n\n\n"), "{mbox:?}");
}

#[test]
fn the_time_stamp_line_of_1981() {
    let daemon = Setup::with("TIME_STAMP = Mail-From\n").start();
    daemon.greeted().mail("a@b", "john@mail.example", "x\r\n");
    let mbox = daemon.read("john/mbox");
    let line = mbox
        .lines()
        .find(|line| line.starts_with("Mail-From: "))
        .unwrap();
    let (start, time) = line.rsplit_once(" at ").unwrap();
    assert_eq!(start, "Mail-From: client.example received by mail.example");
    assert_eq!(time.len(), "22-NOV-26 09:23:59-UT".len(), "{time}");
    assert!(
        time.ends_with("-UT") && time.to_uppercase() == time,
        "{time}"
    );
}

#[test]
fn one_copy_a_mailbox_and_the_recipient_named_only_if_alone() {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    for to in ["john", "JOHN", "\"john\"", "jack"] {
        client.command(&format!("RCPT TO:<{to}@mail.example>"), "250");
    }
    client.command("DATA", "354");
    client.send("once\r\n.\r\n");
    client.expect("250 OK id=");
    for (mbox, named) in [("john/mbox", &["john", "JOHN"][..]), ("jack", &["jack"])] {
        let text = daemon.read(mbox);
        assert_eq!(messages(&text).len(), 1, "{text}");
        assert!(!text.contains(" for <"), "{text}");
        let named = named.iter().map(|user| format!("<{user}@mail.example>"));
        assert_eq!(delivered_to(&text), named.collect::<Vec<_>>());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("Return-Path: ") && lines[2].starts_with("Delivered-To: "));
    }
}

/// The recipients that an mbox names in the lines above the trace line.
fn delivered_to(mbox: &str) -> Vec<String> {
    let trace = mbox
        .lines()
        .take_while(|line| !line.starts_with("Received: "));
    let to = trace.filter_map(|line| line.strip_prefix("Delivered-To: "));
    to.map(str::to_owned).collect()
}

#[test]
fn the_owner_of_a_catch_all_can_tell_its_recipients_apart() {
    let daemon = Setup::with("MAX_RECIPIENTS = 200\n")
        .users("*:{dir}/rest\n")
        .start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    let users: Vec<_> = (0..120)
        .map(|n| format!("<user {n}@mail.example>"))
        .collect();
    for to in &users {
        client.command(&format!("RCPT TO:{to}"), "250");
    }
    client.command("DATA", "354");
    client.command("Subject: x\r\n\r\nx\r\n.", "250 OK id=");
    let wanted: Vec<_> = (0..100)
        .map(|n| format!("<\"user {n}\"@mail.example>"))
        .collect();
    assert_eq!(delivered_to(&daemon.read("rest")), wanted, "100 at most");
}

#[test]
fn a_copy_that_had_to_wait_names_its_recipients_too() {
    let daemon = Setup::with("RETRY_MIN = 1h\n").start();
    let mbox = daemon.path("john/mbox");
    fs::create_dir(&mbox).unwrap();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    for to in ["john", "jack", "JOHN"] {
        client.command(&format!("RCPT TO:<{to}@mail.example>"), "250");
    }
    client.command("DATA", "354");
    let answer = client.command(" no header\r\n.", "250 OK id=");
    let of = answer.trim_end().replace("250 OK id=", " of=");
    // Its own file has another id, and says whose copy it is, in the log and in the listing.
    daemon.wait_for(&format!("to=<john@mail.example>{of}"));
    let listing = || {
        let output = command(&daemon.folder, "info").arg("-q").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = listing();
    assert_eq!(shown.matches(&of).count(), 2, "{shown}");
    fs::remove_dir(&mbox).unwrap();
    wait_until("the copy is delivered", || {
        daemon.signal(nix::sys::signal::Signal::SIGUSR1);
        thread::sleep(std::time::Duration::from_millis(20));
        !daemon.read("john/mbox").is_empty()
    });
    daemon.wait_for(&format!("to=<JOHN@mail.example>{of} mailbox="));
    let text = daemon.read("john/mbox");
    let wanted = ["<john@mail.example>", "<JOHN@mail.example>"];
    assert_eq!(delivered_to(&text), wanted);
    assert!(text.ends_with(" +0000\n\n no header\n\n"), "{text:?}");
    assert_eq!(delivered_to(&daemon.read("jack")), ["<jack@mail.example>"]);
}

#[test]
fn local_domains_literals_and_the_catch_all() {
    let daemon = Setup::with("LOCAL_DOMAINS = other.example, [10.1.2.3]\nRELAY_FROM = none\n")
        .users("john:{dir}/john/\n*:{dir}/rest\n")
        .start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    for ours in [
        "john@OTHER.example",
        "j\\ohn@[010.001.002.003]",
        "john@[127.0.0.1]",
        "x%y@mail.example",
    ] {
        client.command(&format!("RCPT TO:<{ours}>"), "250");
    }
    for theirs in [
        "john@[127.0.0.2]",
        "john@example.org",
        "john@sub.mail.example",
    ] {
        client.command(&format!("RCPT TO:<{theirs}>"), "550");
    }
}

#[test]
fn forty_clients_at_once_into_one_mbox() {
    let daemon = Setup::default().start();
    let addr = daemon.addr();
    thread::scope(|scope| {
        for number in 0..40 {
            scope.spawn(move || {
                let mut client = Client::connect(addr);
                client.expect("220");
                client.command("HELO c", "250");
                for turn in 0..5 {
                    let text = format!("n: {number}.{turn}\r\n\r\n{}\r\n", "x".repeat(3000));
                    client.mail("a@b", "john@mail.example", &text);
                }
                client.command("QUIT", "221");
            });
        }
    });
    let mbox = daemon.read("john/mbox");
    let all = messages(&mbox);
    assert_eq!(all.len(), 200);
    for number in 0..40 {
        for turn in 0..5 {
            let wanted = format!("\nn: {number}.{turn}\n\n{}\n\n", "x".repeat(3000));
            assert!(
                all.iter().any(|m| m.ends_with(&wanted)),
                "{number}.{turn} is missing"
            );
        }
    }
}

#[test]
fn fifty_large_messages_at_once_need_little_memory() {
    let daemon = Setup::with("MAX_CLIENTS = 60\n").start();
    let line = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ..\r\n";
    let part = line.repeat(1024 * 1024 / line.len());
    let mut clients: Vec<_> = (0..50).map(|_| daemon.greeted()).collect();
    for client in &mut clients {
        client.command("MAIL FROM:<a@b>", "250");
        client.command("RCPT TO:<john@mail.example>", "250");
        client.command("DATA", "354");
    }
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| (0..5).for_each(|_| client.send(&part)));
        }
    });
    // All are in the middle of their message.
    let peak = daemon.status_kib("VmHWM:");
    assert!(peak < 50 * 1024, "50 messages of 5 MiB took {peak} KiB");
    for client in &mut clients {
        client.send(".\r\n");
    }
    for client in &mut clients {
        client.expect("250 OK id=");
    }
    let content = line
        .replace("\r\n", "\n")
        .repeat(part.len() / line.len() * 5);
    let all = messages(&daemon.read("john/mbox"));
    assert_eq!(all.len(), 50);
    assert!(
        all.iter()
            .all(|message| message.ends_with(&format!("{content}\n")))
    );
}

#[test]
fn a_client_that_drops_in_mid_message_leaves_nothing_behind() {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    client.send("half a mess".repeat(100_000));
    drop(client);
    daemon.wait_for("disconnect client=");
    assert_eq!(daemon.read("john/mbox"), "");
    let left: Vec<_> = fs::read_dir(daemon.path("spool"))
        .unwrap()
        .flatten()
        .collect();
    let messages = left.iter().filter(|entry| entry.file_name().len() >= 16);
    assert_eq!(messages.count(), 0, "{left:?}");
}

#[test]
fn a_refused_message_is_read_to_its_end() {
    let daemon = Setup::with("MAX_MESSAGE_SIZE = 1K\n").start();
    let mut client = daemon.greeted();
    let cases = [
        (
            "552",
            format!("{}\r\n", "x\r\nQUIT\r\nRSET\r\n".repeat(100)),
        ),
        ("554", "bare\nline end\r\n".to_owned()),
        ("554", "bare\rCR\r\n".to_owned()),
        ("554", "\n.\r\n.\n\r\n".to_owned()),
        ("554", "x\r\n.\nMAIL FROM:<smuggled@example>\r\n".to_owned()),
    ];
    for (code, data) in &cases {
        client.command("MAIL FROM:<a@b>", "250");
        client.command("RCPT TO:<john@mail.example>", "250");
        client.command("DATA", "354");
        client.send(format!("{data}.\r\n"));
        client.expect(code);
        client.command("NOOP", "250");
    }
    assert_eq!(daemon.read("john/mbox"), "");
    let rejected = daemon.wait_for_count("rejected client=", cases.len());
    assert_eq!(rejected.len(), cases.len());
    client.mail(
        "a@b",
        "john@mail.example",
        &format!("{}\r\n", "x".repeat(1022)),
    );
}

#[test]
fn a_mail_loop_is_refused() {
    let daemon = Setup::with("").start();
    let mut client = daemon.greeted();
    let trace = "Received: from a by b\r\nMAIL-FROM: c received by d\r\n";
    client.mail(
        "a@b",
        "john@mail.example",
        &format!("{}\r\n{trace}\r\n", trace.repeat(50)),
    );
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    client.send(format!(
        "{}Received: one more\r\n\r\n.\r\n",
        trace.repeat(50)
    ));
    client.expect("554");
}

#[test]
fn the_log_has_one_line_an_event_and_nothing_forged() {
    let daemon = Setup::default().rust_log("debug").start();
    let mut client = daemon.connect();
    client.expect("220");
    client.command("HELO a\x1b[2J\x07b", "500");
    client.command("HELO a.example", "250");
    client.command("MAIL FROM:<\\\"x\\\" y@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("QUIT", "221");
    wait_until("the client is gone", || {
        !daemon.matching("disconnect client=").is_empty()
    });
    let shown = daemon.wait_for("command=HELO a.example ");
    assert!(shown.contains(" reply client=127.0.0.1:"), "{shown}");
    assert!(shown.ends_with(" answer=250 mail.example"), "{shown}");
    for line in daemon.log() {
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
        let time = &line[..24];
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
    }
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_the_mail() {
    let setup = Setup::default().rust_log("trace");
    let addr = nobody();
    let port = format!("LISTEN_PORT = {}", addr.port());
    let setup = Setup {
        mail: setup.mail.replace("LISTEN_PORT = 0", &port),
        ..setup
    };
    let mut command = setup.command();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap(); // nobody reads it; at half-time it is closed
    wait_until("it listens", || TcpStream::connect(addr).is_ok());
    let mut client = Client::connect(addr);
    client.expect("220");
    client.command("HELO c", "250");
    for _ in 0..300 {
        client.mail("a@b", "john@mail.example", "stalled\r\n");
    }
    drop(stdout);
    for _ in 0..10 {
        client.mail("a@b", "john@mail.example", "closed\r\n");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mbox = fs::read_to_string(setup.folder.path().join("john/mbox"));
    assert_eq!(messages(&mbox.unwrap()).len(), 310);
}

/// Lines that leave together are many here: none may be lost while somebody reads.
#[test]
fn a_message_to_very_many_is_logged_whole() {
    const MANY: usize = 3_000;
    let folder = "/a-folder-with-a-name-that-makes-each-line-longer".repeat(3);
    let setup = Setup::with(&format!("MAX_RECIPIENTS = {MANY}\n"));
    let users: Vec<String> = (0..MANY)
        .map(|n| format!("user{n}:{{dir}}{folder}/all\n"))
        .collect();
    let daemon = setup.users(&users.concat()).start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@client.test>", "250");
    for some in (0..MANY).collect::<Vec<_>>().chunks(100) {
        let rcpt = |n: &usize| format!("RCPT TO:<user{n}@mail.example>\r\n");
        client.send(some.iter().map(rcpt).collect::<String>());
        some.iter().for_each(|_| drop(client.expect("250")));
    }
    client.command("DATA", "354");
    client.command("Subject: x\r\n\r\nhello\r\n.", "250 OK id=");
    daemon.wait_for_count("INFO  delivered ", MANY);
    assert_eq!(daemon.wait_for_count("accepted ", 1).len(), 1);
    assert_eq!(daemon.matching("lost").len(), 0);
}

#[test]
fn the_size_limit_is_the_same_for_all_line_ends() {
    let daemon = Setup::with("MAX_MESSAGE_SIZE = 1K\n").start();
    for end in ["\r\n", "\n"] {
        let mut client = daemon.connect();
        client.expect("220");
        let mut say = |text: &str, code| {
            client.send(format!("{text}{end}"));
            client.expect(code);
        };
        say("HELO client.test", "250");
        for (size, code) in [(1024, "250"), (1025, "552"), (1026, "552")] {
            say("MAIL FROM:<a@b>", "250");
            say("RCPT TO:<john@mail.example>", "250");
            say("DATA", "354");
            let line = "x".repeat(size - end.len());
            say(&format!("{line}{end}."), code);
        }
    }
}
