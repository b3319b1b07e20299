//! Session transcripts: files in the RFC's own notation that a postmaster could write.
//!
//! ```text
//! # A comment. Settings come first; each has a default.
//! HOSTNAME = BBN-UNIX              our name                          (BBN-UNIX)
//! USERS = Jones, Brown             local users                       (none)
//! FORWARD = fred <Jones@USC-ISIA>  a user who has moved; repeatable  (none)
//! RELAY = yes                      may the client send elsewhere?    (no)
//! MAX_RECIPIENTS = 1                                                 (100)
//! MAX_MESSAGE_SIZE = 100           octets                            (25M)
//! LINES = LF                       what ends the S: lines            (CRLF)
//!
//! R: 220 BBN-UNIX Simple Mail Transfer Service Ready
//! S: HELO USC-ISIF
//! R: 250
//! S: NOOP
//! R: 250 O...
//! M: <Smith@USC-ISIF> <Jones@BBN-UNIX> <Brown@BBN-UNIX>
//! M| Blah blah blah...
//! ```
//!
//! `S:` is a line that the client sends, `R:` one that it must get: the code, and the text if there is
//! any, where `...` stands for any text. In an `S:` line `\r`, `\n`, `\t`, `\\` and `\xNN` are octets,
//! `{600}` after `\xNN` repeats it, and a `\c` at the end keeps the line end away; any other backslash is
//! itself. An `R: 221` or `R: 421` must be followed by a close, and no other reply may be.
//! `M:` is a message that was taken, reverse-path and forward-paths, followed by its lines, with the same
//! escapes; if a file has any, it has all. A message is taken for each `250 OK id=...`, and for no other.

use std::path::Path;

/// A whole file.
#[derive(Debug)]
pub struct Transcript {
    /// The file's name, for failures.
    pub name: String,
    pub settings: Settings,
    /// What is sent, and the replies that it must get, in order. The first step sends nothing.
    pub steps: Vec<Step>,
    /// The messages that were taken, if the file says so.
    pub messages: Option<Vec<Message>>,
}

/// The receiver that the transcript wants to play with.
#[derive(Debug)]
pub struct Settings {
    pub hostname: String,
    pub users: Vec<String>,
    /// User and path.
    pub forward: Vec<(String, String)>,
    pub relay: bool,
    pub max_recipients: usize,
    pub max_message_size: u64,
    line_end: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            hostname: "BBN-UNIX".into(),
            users: Vec::new(),
            forward: Vec::new(),
            relay: false,
            max_recipients: 100,
            max_message_size: 25 << 20,
            line_end: "\r\n",
        }
    }
}

#[derive(Debug, Default)]
pub struct Step {
    pub send: Vec<u8>,
    pub expect: Vec<Expect>,
}

/// One reply line.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Its line in the file.
    pub line: usize,
    pub code: u16,
    /// None: any text.
    pub text: Option<String>,
}

/// A message as it was taken; also what a runner reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Reverse-path and forward-paths, as written, with a space between.
    pub envelope: String,
    /// LF-ended, as [`text`] shows it.
    pub content: String,
}

/// Octets as text, one character each, so that nothing is lost and failures are readable.
pub fn text(octets: &[u8]) -> String {
    octets.iter().copied().map(char::from).collect()
}

impl Transcript {
    /// Reads a file. Panics with its name and line if it is not one.
    pub fn read(path: &Path) -> Transcript {
        let file = std::fs::read_to_string(path).unwrap();
        Transcript::parse(&path.file_name().unwrap().to_string_lossy(), &file)
    }

    /// Parses a file's text.
    pub fn parse(name: &str, file: &str) -> Transcript {
        let mut settings = Settings::default();
        let mut steps = vec![Step::default()];
        let mut messages: Vec<Message> = Vec::new();
        for (number, line) in (1..).zip(file.lines()) {
            let at = format!("{name}:{number}");
            let last = steps.last_mut().unwrap();
            if let Some(sent) = field(line, "S:") {
                let octets = unescape(&at, sent, settings.line_end);
                if last.expect.is_empty() && !last.send.is_empty() {
                    last.send.extend(octets);
                } else {
                    let send = octets;
                    let expect = Vec::new();
                    steps.push(Step { send, expect });
                }
            } else if let Some(reply) = field(line, "R:") {
                last.expect.push(expectation(&at, number, reply));
            } else if let Some(envelope) = field(line, "M:") {
                let envelope = envelope.to_owned();
                let content = String::new();
                messages.push(Message { envelope, content });
            } else if let Some(content) = field(line, "M|") {
                let message = messages.last_mut();
                let message = message.unwrap_or_else(|| panic!("{at}: M| without M:"));
                message.content += &text(&unescape(&at, content, "\n"));
            } else if !line.starts_with('#') && !line.trim().is_empty() {
                assert!(steps.len() == 1, "{at}: settings come first");
                settings.set(&at, line);
            }
        }
        Transcript {
            name: name.to_owned(),
            settings,
            steps,
            messages: (!messages.is_empty()).then_some(messages),
        }
    }

    /// Every octet that the client sends.
    pub fn input(&self) -> Vec<u8> {
        let sent = self.steps.iter().map(|step| step.send.as_slice());
        sent.collect::<Vec<_>>().concat()
    }

    /// Compares everything that was received, from the greeting on, and whether the receiver closed.
    /// Panics with the file's line.
    pub fn check(&self, how: &str, received: &[u8], closed: bool) {
        let expected: Vec<_> = self.steps.iter().flat_map(|step| &step.expect).collect();
        self.compare(how, &expected, received);
        let closes = |expect: &&Expect| matches!(expect.code, 221 | 421);
        let last = expected.last().is_some_and(closes);
        assert_eq!(closed, last, "{}, {how}: closed", self.name);
    }

    /// Compares what was received since one step began. Panics with the file's line.
    pub fn check_step(&self, how: &str, step: &Step, received: &[u8]) {
        self.compare(how, &step.expect.iter().collect::<Vec<_>>(), received);
    }

    /// Compares the messages that were taken; only their number if the file does not name them.
    pub fn check_messages(&self, how: &str, taken: &[Message]) {
        if let Some(messages) = &self.messages {
            assert_eq!(taken, messages, "{}, {how}: messages", self.name);
        }
        let expected = self.steps.iter().flat_map(|step| &step.expect);
        let stored =
            |expect: &&Expect| matches!(&expect.text, Some(text) if text.starts_with("OK id="));
        assert_eq!(
            taken.len(),
            expected.filter(stored).count(),
            "{}, {how}: messages",
            self.name
        );
    }

    fn compare(&self, how: &str, expected: &[&Expect], received: &[u8]) {
        let text = str::from_utf8(received).expect("replies are ASCII");
        let mut lines = text.split_inclusive("\r\n");
        for expect in expected {
            let at = format!("{}:{}, {how}", self.name, expect.line);
            let line = lines.next().unwrap_or_else(|| panic!("{at}: no reply"));
            let line = line.strip_suffix("\r\n").expect("a whole reply line");
            assert!(expect.matches(line), "{at}: got {line:?}, not {expect:?}");
        }
        let extra: Vec<_> = lines.collect();
        assert!(extra.is_empty(), "{}, {how}: then {extra:?}", self.name);
    }
}

impl Settings {
    fn set(&mut self, at: &str, line: &str) {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{at}: no ="));
        let value = value.trim();
        let number = || value.parse().unwrap_or_else(|_| panic!("{at}: no number"));
        match (key.trim(), value) {
            ("HOSTNAME", _) => self.hostname = value.into(),
            ("USERS", _) => self.users = value.split(',').map(|u| u.trim().into()).collect(),
            ("FORWARD", _) => {
                let (user, path) = value.split_once(' ').expect("user and path");
                self.forward.push((user.into(), path.trim().into()));
            }
            ("RELAY", "yes") => self.relay = true,
            ("RELAY", "no") => self.relay = false,
            ("MAX_RECIPIENTS", _) => self.max_recipients = number(),
            ("MAX_MESSAGE_SIZE", _) => self.max_message_size = number() as u64,
            ("LINES", "LF") => self.line_end = "\n",
            ("LINES", "CRLF") => self.line_end = "\r\n",
            _ => panic!("{at}: unknown setting"),
        }
    }
}

impl Expect {
    /// Whether a reply line, without its end, is the one expected.
    pub fn matches(&self, line: &str) -> bool {
        let Some((code, text)) = line.split_once(' ') else {
            return false;
        };
        let text_matches = match &self.text {
            None => true,
            Some(wanted) => matches(wanted, text),
        };
        code.parse() == Ok(self.code) && text_matches
    }
}

/// Whether `...` in `wanted`, standing for any text, makes it `text`.
fn matches(wanted: &str, text: &str) -> bool {
    match wanted.split_once("...") {
        None => wanted == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let mut ends = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
            ends.any(|at| matches(rest, &text[at..]))
        }),
    }
}

/// What follows a mark and one space.
fn field<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(mark)?;
    Some(rest.strip_prefix(' ').unwrap_or(rest))
}

fn expectation(at: &str, line: usize, reply: &str) -> Expect {
    let (code, text) = match reply.split_once(' ') {
        Some((code, text)) => (code, Some(text.to_owned())),
        None => (reply, None),
    };
    let code = code.parse().unwrap_or_else(|_| panic!("{at}: no code"));
    Expect { line, code, text }
}

/// The octets of an `S:` line.
fn unescape(at: &str, sent: &str, line_end: &str) -> Vec<u8> {
    let (sent, line_end) = match sent.strip_suffix("\\c") {
        Some(sent) => (sent, ""),
        None => (sent, line_end),
    };
    let mut octets = Vec::new();
    let mut rest = sent;
    while let Some(c) = rest.chars().next() {
        let escape = rest.get(..2).unwrap_or("");
        let octet = match escape {
            "\\r" => Some(b'\r'),
            "\\n" => Some(b'\n'),
            "\\t" => Some(b'\t'),
            "\\\\" => Some(b'\\'),
            _ => None,
        };
        if let Some(octet) = octet {
            octets.push(octet);
            rest = &rest[2..];
        } else if escape == "\\x" {
            let hex = rest.get(2..4).unwrap_or("");
            let octet = u8::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{at}: \\xNN"));
            rest = &rest[4..];
            let mut times = 1;
            if let Some((count, after)) = rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
                times = count.parse().unwrap_or_else(|_| panic!("{at}: no count"));
                rest = after;
            }
            octets.extend(std::iter::repeat_n(octet, times));
        } else {
            octets.extend(c.to_string().as_bytes());
            rest = &rest[c.len_utf8()..];
        }
    }
    octets.extend(line_end.as_bytes());
    octets
}
