//! Every file in `tests/transcripts`, played against the real daemon over a socket: in dialogue, octet by octet, and
//! all at once by a client that then closes its side.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use crate::common::daemon::{Daemon, PATIENCE, Setup, messages};
use crate::common::transcript::{Transcript, text};
use smtpd788::smtp::address::Mailbox;

fn start(transcript: &Transcript) -> Daemon {
    let settings = &transcript.settings;
    let mail = format!(
        "HOSTNAME = {}\nLISTEN_PORT = 0\nSPOOL_DIR = {{dir}}/spool\nMAX_RECIPIENTS = {}\n\
         MAX_MESSAGE_SIZE = {}\nRELAY_FROM = {}\nNAMESERVER = 127.0.0.1:1\n",
        settings.hostname,
        settings.max_recipients,
        settings.max_message_size,
        if settings.relay {
            "127.0.0.0/8"
        } else {
            "none"
        },
    );
    let mut users = String::new();
    for user in &settings.users {
        users += &format!("{user}:{{dir}}/{}/\n", user.to_lowercase());
    }
    for (user, path) in &settings.forward {
        users += &format!("{user}:{path}\n");
    }
    Setup {
        mail,
        users,
        ..Setup::default()
    }
    .start()
}

/// The mboxes hold what `M:` says, no more and no less.
fn check_mboxes(how: &str, transcript: &Transcript, daemon: &Daemon) {
    let Some(wanted) = &transcript.messages else {
        return;
    };
    for user in &transcript.settings.users {
        let host = transcript.settings.hostname.parse().unwrap();
        let address = Mailbox::new(user, host).unwrap().to_string();
        let address = format!("<{}@", address.rsplit_once('@').unwrap().0).to_lowercase();
        let wanted: Vec<String> = (wanted.iter())
            .filter(|m| {
                m.envelope
                    .split_once(' ')
                    .unwrap()
                    .1
                    .to_lowercase()
                    .contains(&address)
            })
            .map(|m| match begins_with_header(&m.content) {
                true => m.content.clone(),
                false => format!("\n{}", m.content),
            })
            .collect();
        let mbox = fs::read(daemon.path(&user.to_lowercase()).join("mbox")).unwrap_or_default();
        let found: Vec<String> = messages(&text(&mbox))
            .iter()
            .map(|message| {
                let trace = message.lines().take_while(|line| is_trace(line)).count();
                let content: String = message.split_inclusive('\n').skip(trace).collect();
                content
                    .strip_suffix('\n')
                    .expect("an empty line at the end")
                    .to_owned()
            })
            .collect();
        assert_eq!(
            found, wanted,
            "{how}: {}: the mbox of {user}",
            transcript.name
        );
    }
}

fn is_trace(line: &str) -> bool {
    ["Return-Path: ", "Delivered-To: <", "Received: from "]
        .iter()
        .any(|start| line.starts_with(start))
}

/// Read from RFC 5322, not from our code: what an empty line must stand before begins otherwise.
fn begins_with_header(content: &str) -> bool {
    let line = content.lines().next().unwrap_or_default();
    let name = line.split(':').next().unwrap_or_default().trim_end();
    let printable = name.chars().all(|c| ('!'..='~').contains(&c));
    line.is_empty() || line.contains(':') && !name.is_empty() && printable
}

fn play_all(how: &str, play: impl Fn(&Transcript, &mut TcpStream) -> Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let transcript = Transcript::read(&entry.unwrap().path());
        let daemon = start(&transcript);
        let mut stream = TcpStream::connect(daemon.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut received = play(&transcript, &mut stream);
        // Whether the daemon closes by itself is seen only before the client does.
        let closes = matches!(received.split(|&b| b == b'\n').rev().nth(1), Some(last) if last.starts_with(b"221") || last.starts_with(b"421"));
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut received);
        transcript.check(how, &received, closes);
        check_mboxes(how, &transcript, &daemon);
        files += 1;
    }
    assert!(files >= 20, "the files are found");
}

/// Reads until `count` lines are there or the daemon closes.
fn read_lines(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut received = Vec::new();
    let mut octet = [0; 1];
    while received.iter().filter(|&&b| b == b'\n').count() < count {
        match stream.read(&mut octet) {
            Ok(1) => received.push(octet[0]),
            _ => break,
        }
    }
    received
}

#[test]
fn in_dialogue() {
    play_all("in dialogue", |transcript, stream| {
        let mut received = Vec::new();
        for step in &transcript.steps {
            let _ = stream.write_all(&step.send);
            let replies = read_lines(stream, step.expect.len());
            transcript.check_step("in dialogue", step, &replies);
            received.extend(replies);
        }
        received
    });
}

#[test]
fn octet_by_octet() {
    play_all("octet by octet", |transcript, stream| {
        for octet in transcript.input() {
            if stream.write_all(&[octet]).is_err() {
                break;
            }
        }
        let count = transcript.steps.iter().map(|step| step.expect.len()).sum();
        read_lines(stream, count)
    });
}

#[test]
fn all_at_once() {
    play_all("all at once", |transcript, stream| {
        let _ = stream.write_all(&transcript.input());
        let _ = stream.shutdown(Shutdown::Write);
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received);
        received
    });
}
