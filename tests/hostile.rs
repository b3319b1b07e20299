//! Peers that mean harm, and files that are swapped: the daemon goes on, nobody else is held up, the log stays its own.
//!
//! `SMTPD788_FULL=1` opens 10,000 connections instead of 500, and is longer at the rest.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/hop.rs"]
mod hop;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use daemon::{Client, Daemon, PATIENCE, Setup, wait_until};
use hop::{Act, Hop, Step};
use nix::sys::signal::Signal::SIGUSR1;
use socket2::{Domain, Socket, Type};

fn full() -> bool {
    std::env::var_os("SMTPD788_FULL").is_some_and(|value| value != "0")
}

/// A connection from an address of our choice.
fn connect_from(ip: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(ip.parse().unwrap(), 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// A client is served and its message arrives.
#[track_caller]
fn assert_serves(daemon: &Daemon) {
    let before = daemon::messages(&daemon.read("jack")).len();
    let mut client = Client::over(connect_from("127.0.0.9", daemon.addr()).unwrap());
    client.expect("220");
    client.command("HELO good.test", "250");
    client.mail("good@client.test", "jack@mail.example", "hello\r\n");
    assert_eq!(daemon::messages(&daemon.read("jack")).len(), before + 1);
    assert!(daemon.matching("panic").is_empty());
}

#[test]
fn thousands_of_connections_from_one_address_hold_up_no_other() {
    let count = if full() { 10_000 } else { 500 };
    let setup = "MAX_CLIENTS = 40\nMAX_CLIENTS_PER_HOST = 10\nRELAY_FROM = none\n";
    let daemon = Setup::with(setup).start();
    let idle = daemon.status_kib("VmRSS:");
    let addr = daemon.addr();
    let mut held: Vec<_> = (0..10)
        .map(|_| Client::over(connect_from("127.0.0.8", addr).unwrap()))
        .collect();
    held.iter_mut()
        .for_each(|client| drop(client.expect("220")));
    let mut most = 0;
    for number in 0..count {
        // Some read their refusal, some just stay, some go away at once; the kernel may refuse to queue more.
        let Ok(mut stream) = connect_from("127.0.0.8", addr) else {
            continue;
        };
        if number % 50 == 0 {
            let mut refusal = [0; 4];
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut refusal).unwrap();
            assert_eq!(&refusal, b"421 ");
            assert_serves(&daemon);
            most = most.max(daemon.status_kib("VmRSS:"));
        }
        if number % 3 > 0 && held.len() < 900 {
            held.push(Client::over(stream));
        }
    }
    assert_serves(&daemon);
    println!("{count} connections: {idle} KiB idle, at most {most} KiB");
    assert!(most < idle + 64 * 1024, "{most} KiB");
    held.truncate(10);
    held[9].command("HELO still.test", "250");
}

#[test]
fn a_hundred_slow_ones_hold_up_nobody() {
    let daemon = Setup::with("CLIENT_TIMEOUT = 2\nMAX_CLIENTS = 200\n").start();
    let mut slow = Vec::new();
    for number in 0..100 {
        let mut client = daemon.connect();
        match number % 4 {
            0 => {}
            1 => client.send("HEL"),
            2 => client
                .send("HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<john@mail.example>\r\nDATA\r\nbegun"),
            _ => client.send("GARBAGE\r\n"),
        }
        slow.push(client);
    }
    let begun = Instant::now();
    for _ in 0..10 {
        assert_serves(&daemon);
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    daemon.wait_for_count("disconnect client=", 110);
    assert_eq!(daemon.read("john/mbox"), "");
}

/// A deterministic noise (xorshift).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let octet = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(octet).take(len).collect()
}

#[test]
fn noise_and_other_protocols_end_in_a_refusal() {
    let daemon = Setup::default().start();
    let mut greetings: Vec<Vec<u8>> = vec![
        // A TLS 1.2 ClientHello, in its outline.
        [&b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03"[..], &noise(7, 185)].concat(),
        b"GET / HTTP/1.1\r\nHost: mail.example\r\n\r\n".to_vec(),
        b"POST /x HTTP/1.1\r\nContent-Length: 60\r\n\r\nHELO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<john@mail.example>\r\nDATA\r\nx\r\n.\r\n".to_vec(),
        b"\x05\x01\x00".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0; 100_000],
        vec![b'A'; 1 << 20],
        b"\n".repeat(10_000),
        b"\r".repeat(10_000),
        vec![0xff; 4096],
    ];
    greetings.extend((1..if full() { 2_000 } else { 60 }).map(|seed| noise(seed, 20_000)));
    for greeting in &greetings {
        let client = daemon.connect();
        // It may close, and reset, before it has read all of this.
        let _ = (&client.stream).write_all(greeting);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        let answers = client.rest();
        for line in answers.lines() {
            let code = &line[..3];
            assert!(
                ["220", "421", "500", "501", "503"].contains(&code),
                "{line:?}"
            );
            assert!(line.len() <= 510 && line.bytes().all(|octet| (b' '..=b'~').contains(&octet)));
        }
    }
    assert_eq!(daemon.read("john/mbox"), "", "HTTP smuggles no mail");
    assert_serves(&daemon);
}

/// Greeted, and a message for the hop accepted.
fn relaying(hop: &Hop, lines: &str) -> (Daemon, String) {
    let port = hop.addr().port();
    let setup = format!("RELAY_PORT = {port}\nRELAY_TIMEOUT = 1\nRETRY_MIN = 1h\n{lines}");
    let daemon = Setup::with(&setup).start();
    let id = daemon.greeted().mail(
        "a@mail.example",
        "mary@[127.0.0.3]",
        "Subject: x\r\n\r\nx\r\n",
    );
    (daemon, id)
}

fn hop(script: &[(Step, Act)]) -> Hop {
    Hop::bind("127.0.0.3:0".parse().unwrap(), script.iter().copied())
}

#[test]
fn a_hostile_next_hop_loses_no_message_and_takes_no_memory() {
    const LONG: &str = "250-a line of a reply that never ends, and goes on and on as if there were no tomorrow\r\n";
    let scripts: [&[(Step, Act)]; 11] = [
        &[(Step::Greeting, Act::Flood(LONG))],
        &[(
            Step::Greeting,
            Act::Flood("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        )],
        &[(Step::Greeting, Act::Drip(b'2'))],
        &[(Step::Greeting, Act::Hang)],
        &[(Step::Helo, Act::Say("250-a\r\n999 b\r\n"))],
        &[(Step::Mail, Act::Say("\0\x01\u{fffd}\r\n"))],
        &[(Step::Rcpt(0), Act::Flood("250-\r\n"))],
        &[(Step::Data, Act::Say("250 no need\r\n"))],
        &[(Step::Dot, Act::Close)],
        &[(Step::Dot, Act::Flood("250-"))],
        &[(
            Step::Greeting,
            Act::SayAndClose("250 x\r\n250 x\r\n250 x\r\n354 x\r\n250 x\r\n221 x\r\n"),
        )],
    ];
    for script in scripts {
        let hop = hop(script);
        let (daemon, id) = relaying(&hop, "");
        daemon.wait_for(&format!("deferred id={id}"));
        assert!(daemon.path(&format!("spool/{id}")).exists(), "{script:?}");
        assert!(
            daemon.status_kib("VmHWM:") < 60 * 1024,
            "{script:?}: {} KiB",
            daemon.status_kib("VmHWM:")
        );
        assert_serves(&daemon);
        // A good hop in its place gets it.
        hop.script([]);
        let delivered = || !daemon.path(&format!("spool/{id}")).exists();
        wait_until("the good hop has it", || {
            daemon.signal(SIGUSR1);
            thread::sleep(Duration::from_millis(20));
            delivered()
        });
        daemon.wait_for(&format!("relayed id={id}"));
    }
}

#[test]
fn a_next_hop_that_says_250_to_the_dot_and_closes_has_taken_the_message() {
    let hop = hop(&[(Step::Dot, Act::SayAndClose("250 taken\r\n"))]);
    let (daemon, id) = relaying(&hop, "");
    daemon.wait_for(&format!("relayed id={id}"));
    wait_until("the spool is empty", || {
        !daemon.path(&format!("spool/{id}")).exists()
    });
    assert_eq!(
        hop.told().iter().map(|told| told.data.len()).sum::<usize>(),
        1,
        "once"
    );
}

#[test]
fn what_peers_say_cannot_forge_a_log_line() {
    const FORGED: &str = "2026-11-22T00:00:00.000Z INFO  accepted id=forged";
    let hop = hop(&[(
        Step::Rcpt(0),
        Act::Say("550-no\x1b[2J\r\n550 no\r2026-11-22T00:00:00.000Z INFO  accepted id=forged\r\n"),
    )]);
    let port = hop.addr().port();
    let daemon = Setup::with(&format!("RELAY_PORT = {port}\nRETRY_MIN = 1h\n"))
        .rust_log("debug")
        .start();
    let fields = [
        "HELO a{}b",
        "HELO c",
        "MAIL FROM:<\"a{}b\"@c>",
        "MAIL FROM:<a{}b@c>",
        "MAIL FROM:<\"x \\\"{}\"@c>",
        "MAIL FROM:<john@mail.example>",
        "RCPT TO:<\"a{}b\"@mail.example>",
        "RCPT TO:<\"a\\\\nb {}\"@[127.0.0.3]>",
        "FOO {}",
        "NOOP {}",
    ];
    for field in fields {
        let mut client = daemon.connect();
        client.send("HELO c\r\nMAIL FROM:<john@mail.example>\r\n");
        for end in [
            "\r", "\x0b", "\x1b[2K", "\0", "\u{85}", "\u{2028}", "\\n", "\t", "",
        ] {
            client.send(field.replace("{}", &format!("{end}{FORGED}")) + "\r\n");
            client.send("NOOP\r\n");
        }
        client.send("QUIT\r\n");
        assert!(client.rest().contains("221 "), "all of it was answered");
    }
    daemon.wait_for_count("disconnect client=", fields.len());
    daemon
        .greeted()
        .mail("john@mail.example", "mary@[127.0.0.3]", "x\r\n");
    daemon.wait_for("bounced");
    daemon.wait_for_count("delivered", 1);
    for line in daemon.log() {
        assert!(!line.starts_with(FORGED), "{line:?}");
        assert!(
            line.len() <= 4096 && !line.contains(|c: char| c.is_control()),
            "{line:?}"
        );
        let (time, rest) = line.split_at(24);
        assert!(
            time.ends_with('Z') && rest.len() > 7 && time.starts_with("20"),
            "{line:?}"
        );
    }
}

/// What may be put in a mailbox's place between two messages.
#[test]
fn a_swapped_mailbox_is_never_written_through() {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    let (mbox, old, victim) = (
        daemon.path("john/mbox"),
        daemon.path("john/old"),
        daemon.path("victim"),
    );
    fs::write(&victim, "precious\n").unwrap();
    let swaps: [(&str, &dyn Fn()); 6] = [
        ("a link", &|| symlink(&victim, &mbox).unwrap()),
        ("a link to nothing", &|| {
            symlink(daemon.path("nothing"), &mbox).unwrap();
        }),
        ("a link to a device", &|| {
            symlink("/dev/null", &mbox).unwrap();
        }),
        ("a hard link", &|| fs::hard_link(&victim, &mbox).unwrap()),
        ("a FIFO", &|| {
            nix::unistd::mkfifo(&mbox, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("a directory", &|| fs::create_dir(&mbox).unwrap()),
    ];
    let mut count = 0;
    for (what, swap) in swaps {
        client.mail("a@b", "john@mail.example", &format!("before {what}\r\n"));
        fs::rename(&mbox, &old).unwrap();
        swap();
        let begun = Instant::now();
        client.mail("a@b", "john@mail.example", &format!("during {what}\r\n"));
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}");
        count += 2;
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious\n", "{what}");
        assert!(!daemon.path("nothing").exists());
        daemon.wait_for_count("queued id=", count / 2);
        assert_serves(&daemon);
        if mbox.is_dir() && !mbox.is_symlink() {
            fs::remove_dir(&mbox).unwrap();
        } else {
            fs::remove_file(&mbox).unwrap();
        }
        fs::rename(&old, &mbox).unwrap();
        wait_until(what, || {
            daemon.signal(SIGUSR1);
            thread::sleep(Duration::from_millis(20));
            daemon::messages(&daemon.read("john/mbox")).len() == count
        });
    }
}
