//! Every file in `tests/transcripts`, played against the receiver. A bug report becomes a new file.

use crate::common::transcript::{Message, Settings, Transcript, text};
use smtpd788::smtp::address::{ForwardPath, Host};
use smtpd788::smtp::data::DataReader;
use smtpd788::smtp::line::{LineReader, LineStep};
use smtpd788::smtp::reply::Reply;
use smtpd788::smtp::session::{Outcome, Session, Step, Transaction, Verdict};
use std::fs;
use std::path::Path;

/// A receiver in memory: the pure session with the smallest driver there can be.
struct Receiver<'a> {
    settings: &'a Settings,
    hostname: Host,
    session: Session,
    lines: LineReader,
    buffer: Vec<u8>,
    data: Option<Incoming>,
    sent: Vec<u8>,
    closed: bool,
    taken: Vec<Message>,
}

/// A message in reception.
struct Incoming {
    reader: DataReader,
    transaction: Transaction,
    content: Vec<u8>,
}

impl<'a> Receiver<'a> {
    fn new(settings: &'a Settings) -> Self {
        let hostname: Host = settings.hostname.parse().unwrap();
        let session = Session::new(hostname.clone(), settings.max_recipients);
        let mut sent = Vec::new();
        session.greeting().write(&mut sent);
        Receiver {
            settings,
            hostname,
            session,
            lines: LineReader::default(),
            buffer: Vec::new(),
            data: None,
            sent,
            closed: false,
            taken: Vec::new(),
        }
    }

    fn feed(&mut self, input: &[u8]) {
        self.buffer.extend_from_slice(input);
        while !self.closed && self.advance() {}
    }

    /// Uses some of the buffer; false if it wants more.
    fn advance(&mut self) -> bool {
        if let Some(mut data) = self.data.take() {
            let content = &mut data.content;
            let keep = &mut |piece: &[u8]| content.extend_from_slice(piece);
            let progress = data.reader.feed(&self.buffer, keep);
            self.buffer.drain(..progress.used);
            if progress.done {
                self.finish(data);
            } else {
                self.data = Some(data);
            }
            return progress.done;
        }
        let (step, used) = match self.lines.next(&self.buffer) {
            LineStep::More { used } => {
                self.buffer.drain(..used);
                return false;
            }
            LineStep::Line { line, used, fault } => (self.session.line(line, fault), used),
        };
        self.buffer.drain(..used);
        self.act(step);
        true
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Recipient(to) => {
                let verdict = self.decide(&to);
                let step = self.session.recipient(to, verdict);
                self.act(step);
            }
            Step::Data(reply, transaction) => {
                self.send(&reply);
                self.data = Some(Incoming {
                    reader: DataReader::new(self.lines.end().unwrap()),
                    transaction,
                    content: Vec::new(),
                });
            }
            Step::Close(reply) => {
                self.send(&reply);
                self.closed = true;
            }
            Step::Reply(reply) | Step::Greeted(reply) | Step::Begin(reply) | Step::Reset(reply) => {
                self.send(&reply);
            }
        }
    }

    fn send(&mut self, reply: &Reply) {
        reply.write(&mut self.sent);
    }

    fn decide(&self, to: &ForwardPath) -> Verdict {
        let is = |user: &str| user.eq_ignore_ascii_case(to.user());
        let moved = self.settings.forward.iter().find(|(user, _)| is(user));
        let localhost: Host = "localhost".parse().unwrap();
        if *to.host() != self.hostname && *to.host() != localhost {
            return match to.host() {
                host if host.is_number() => Verdict::BareAddress,
                _ if self.settings.relay => Verdict::Accept,
                _ => Verdict::RelayDenied,
            };
        }
        if let Some((_, path)) = moved {
            return Verdict::Forward(path.parse().unwrap());
        }
        match self.settings.users.iter().any(|user| is(user)) {
            true => Verdict::Accept,
            false => Verdict::NoSuchUser,
        }
    }

    fn finish(&mut self, data: Incoming) {
        let outcome = if data.reader.is_bad() {
            Outcome::BareLineEnd
        } else if data.content.len() as u64 > self.settings.max_message_size {
            Outcome::TooLarge
        } else {
            let mut envelope = data.transaction.from.to_string();
            for to in &data.transaction.to {
                envelope += &format!(" {to}");
            }
            let content = text(&data.content);
            self.taken.push(Message { envelope, content });
            Outcome::Stored("0123456789abcdef".into())
        };
        let step = self.session.finish(outcome);
        self.act(step);
    }
}

/// Plays every file, in pieces that `pieces` makes of a step or of all input.
fn play_all(how: &str, play: impl Fn(&Transcript, &mut Receiver)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let transcript = Transcript::read(&entry.unwrap().path());
        let mut receiver = Receiver::new(&transcript.settings);
        play(&transcript, &mut receiver);
        transcript.check(how, &receiver.sent, receiver.closed);
        transcript.check_messages(how, &receiver.taken);
        files += 1;
    }
    assert!(files >= 20, "the files are found");
}

#[test]
fn all_at_once_in_memory() {
    play_all("all at once", |transcript, receiver| {
        receiver.feed(&transcript.input());
    });
}

#[test]
fn byte_by_byte_in_memory() {
    play_all("byte by byte", |transcript, receiver| {
        for octet in transcript.input() {
            receiver.feed(&[octet]);
        }
    });
}

#[test]
fn step_by_step_in_memory() {
    play_all("step by step", |transcript, receiver| {
        let mut before = 0;
        for step in &transcript.steps {
            receiver.feed(&step.send);
            transcript.check_step("step by step", step, &receiver.sent[before..]);
            before = receiver.sent.len();
        }
    });
}

#[test]
fn the_notation() {
    let file = "# x\nLINES = LF\nR: 220\nS: a\\r\\x41{3}\\,\\\\\nS:  b\\c\nR: 250 O...d=...\nM: <> <a@b>\nM|\n";
    let transcript = Transcript::parse("x", file);
    assert_eq!(transcript.input(), b"a\rAAA\\,\\\n b");
    let expect = &transcript.steps[1].expect[0];
    assert!(expect.matches("250 OK id=1"));
    assert!(!expect.matches("250 OK"));
    assert!(!expect.matches("251 OK id=1"));
    assert_eq!(transcript.messages.unwrap()[0].content, "\n");
}
