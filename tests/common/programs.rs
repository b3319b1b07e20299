//! Other people's programs: run with a bound on their time, and a letter that is hard on them.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// A message, LF-ended, that brings out what a program on the way gets wrong: leading dots, a lone dot, lines like an mbox
/// separator, octets over 127 in two encodings, a long line, blank lines, blanks at the end of a line.
pub fn letter() -> Vec<u8> {
    let mut letter = b"Date: Sat, 21 Nov 2026 22:30:01 +0000\nFrom: <mary@example.com>\nTo: <john@mail.example>\n\
        Message-ID: <letter@example.com>\nSubject: hard on clients\n\
        Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n\
        .one leading dot\n..two\n.\n...\n\nFrom here on\n>From there\n  From the middle\n\
        gr\xc3\xbc\xc3\x9fe in UTF-8, gr\xfc\xdfe in Latin-1\nblanks at the end  \n"
        .to_vec();
    letter.extend_from_slice("long and ".repeat(555).as_bytes());
    letter.extend_from_slice(b"end\n\n\nlast line\n");
    letter
}

/// With `<CRLF>`.
pub fn crlf(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|octet| *octet == b'\n');
    let ended = lines.map(|line| match line.strip_suffix(b"\n") {
        Some(line) => [line, b"\r\n"].concat(),
        None => line.to_vec(),
    });
    ended.collect::<Vec<_>>().concat()
}

/// Octets as text, one character an octet, so that content of any encoding can be compared and shown.
pub fn octets(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// A program that is ended after a minute.
pub fn program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["60", name]);
    command
}

/// Runs a command line at a terminal of its own, where nobody types (`script` would type the end of its input).
#[track_caller]
pub fn run_at_terminal(command: &str, home: &Path) {
    let mut script = program("script");
    script.args(["-qec", command, "/dev/null"]);
    script.env("TERM", "xterm").env("HOME", home);
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let keyboard = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(keyboard);
    let said = octets(&output.stdout);
    assert!(
        output.status.success(),
        "{command}: {}\n{said}",
        output.status
    );
}

/// What it printed on both outputs; panics unless it ended with success.
#[track_caller]
pub fn run(command: &mut Command, stdin: Option<&Path>) -> String {
    let stdin = stdin.map_or(Stdio::null(), |file| File::open(file).unwrap().into());
    let output = command.stdin(stdin).output().unwrap();
    let said = octets(&[&output.stdout[..], &output.stderr].concat());
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}",
        output.status
    );
    said
}
