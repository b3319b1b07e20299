//! Properties of everything that is read from files and from next hops, over generated input: nothing panics, every fault has
//! a place, what is written is read back, every split gives the same.

use crate::common::codes;
use crate::common::daemon::messages;
use proptest::collection::vec;
use proptest::prelude::*;
use smtpd788::config::{Config, ConfigError};
use smtpd788::mailbox::{MailboxMessage, Mailboxes};
use smtpd788::message::{Body, Id};
use smtpd788::smtp::address::{ForwardPath, ReversePath};
use smtpd788::smtp::line::{LineEnd, LineReader, LineStep};
use smtpd788::smtp::reply::{RemoteReply, ReplyError, ReplyReader};
use smtpd788::smtp::session::{Outcome, Session, Step, Verdict};
use smtpd788::spool::State;
use smtpd788::spool::format::{self, Fault};
use smtpd788::spool::{NewRecipient, Origin};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

// --- config files

fn setting() -> impl Strategy<Value = Vec<u8>> {
    let keys = smtpd788::config::MailConf::KEYS.to_vec();
    let value = prop_oneof![
        "[0-9]{1,21}[KMGsmhd]?",
        "[0-9a-f.:/, \\[\\]]{0,30}",
        "[a-z.]{1,12}(, ?[a-z.]{1,9})?",
        "\\PC{0,20}",
    ];
    prop_oneof![
        6 => (prop::sample::select(keys), "[ \t]{0,2}=[ \t]{0,2}", value)
            .prop_map(|(key, equals, value)| format!("{key}{equals}{value}").into_bytes()),
        2 => "[a-z*]{0,5}:(/tmp/[a-z/]{0,9}|<[a-z@.]{0,9}>|[ -~]{0,9})".prop_map(String::into_bytes),
        1 => "#?[ -~\t]{0,20}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..20),
    ]
}

fn config_text() -> impl Strategy<Value = Vec<u8>> {
    let line = (setting(), prop_oneof![Just("\n"), Just("\r\n")]);
    vec(line, 0..12).prop_map(|lines| {
        let lines = lines.into_iter().map(|(mut line, end)| {
            line.extend_from_slice(end.as_bytes());
            line
        });
        lines.collect::<Vec<_>>().concat()
    })
}

fn has_place(error: &ConfigError, text: &[u8]) -> bool {
    let lines = text.split(|octet| *octet == b'\n').count();
    let one_line = !error.what.contains(|c: char| c.is_control() && c != '\t');
    (1..=lines).contains(&error.line) && one_line && !error.what.is_empty()
}

// --- the spool

fn forward_path() -> impl Strategy<Value = ForwardPath> {
    "<[a-z]{1,9}@([a-z]{1,9}\\.)?[a-z]{2,9}>|<\"[ a-z@]{1,9}\"@\\[192\\.0\\.2\\.[1-9]\\]>"
        .prop_map(|path| path.parse().unwrap())
}

fn reverse_path() -> impl Strategy<Value = ReversePath> {
    prop_oneof![
        Just(ReversePath::Null),
        forward_path().prop_map(|path| ReversePath::Mailbox(path.0)),
    ]
}

/// Path, done, answer.
type Slots = Vec<(ForwardPath, bool, String)>;

/// An envelope with some recipients done, and its octets.
fn spool_file() -> impl Strategy<Value = (ReversePath, Slots, u32, Vec<u8>)> {
    let recipient = (forward_path(), any::<bool>(), "[ -~]{0,200}");
    (
        reverse_path(),
        vec(recipient, 1..5),
        any::<u32>(),
        any::<u64>(),
    )
        .prop_map(|(from, recipients, tries, size)| {
            let recipient = |(to, done, _): &(ForwardPath, bool, String)| NewRecipient {
                to: to.clone(),
                orig_to: done.then(|| to.clone()),
            };
            let to: Vec<_> = recipients.iter().map(recipient).collect();
            let received = UNIX_EPOCH + Duration::from_millis(1_795_300_201_123);
            let id = Id::parse("0001f2e3d4c5b6a7").unwrap();
            let of = (tries % 2 == 0).then_some(id);
            let (mut bytes, written) =
                format::envelope(id, of, &from, received, Origin::Report, &to, size);
            let fresh = format::parse(&bytes).unwrap();
            assert_eq!(written, fresh);
            let mut put =
                |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
            put(fresh.tries_at, &format::tries_field(tries));
            for (slot, (_, done, answer)) in fresh.recipients.iter().zip(&recipients) {
                let state = if *done { State::Done } else { State::Waiting };
                put(slot.state_at, format::state_field(state));
                put(slot.answer_at, &format::answer_field(answer));
            }
            (from, recipients, tries, bytes)
        })
}

// --- replies of next hops

fn hop() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => "[2-5][0-9]{2}[ -][ -~\t]{0,30}\r?\n".prop_map(String::into_bytes),
        1 => "[2-5][0-9]{2}\r?\n".prop_map(String::into_bytes),
        1 => (500usize..2200).prop_map(|n| [&vec![b'2'; 3][..], b"-", &vec![b'x'; n], b"\n"].concat()),
        1 => (90usize..110).prop_map(|n| b"250-x\n".repeat(n)),
        1 => vec(any::<u8>(), 0..9),
    ];
    vec(line, 0..6).prop_map(|lines| lines.concat())
}

fn replies(input: &[u8], size: usize) -> (Vec<RemoteReply>, Option<ReplyError>) {
    let (mut reader, mut replies) = (ReplyReader::default(), Vec::new());
    for mut piece in input.chunks(size) {
        while !piece.is_empty() {
            match reader.feed(piece) {
                Ok((used, reply)) => {
                    piece = &piece[used..];
                    replies.extend(reply);
                }
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

// --- the mailbox

fn content() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[>]{0,3}From [a-z]{0,5}\n".prop_map(String::into_bytes),
        "[>]{0,3}(F|Fr|Fro|From|from |FFrom )\n".prop_map(String::into_bytes),
        Just(b"\n".to_vec()),
        "[ -~\t]{0,30}\n".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..30).prop_map(|line| line
            .into_iter()
            .filter(|b| *b != b'\r')
            .chain([b'\n'])
            .collect()),
    ];
    vec(line, 0..12).prop_map(|lines| lines.concat())
}

/// One character an octet.
fn octets(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

// --- the session

fn command() -> impl Strategy<Value = Vec<u8>> {
    let good = prop::sample::select(vec![
        "HELO x",
        "HELO [127.0.0.1]",
        "MAIL FROM:<a@b>",
        "MAIL FROM:<>",
        "RCPT TO:<c@d>",
        "rcpt to:<@x:d@e>",
        "DATA",
        "RSET",
        "NOOP",
        "QUIT",
        "EHLO x",
        "VRFY x",
        "HELP",
        "",
    ]);
    let line = prop_oneof![
        12 => good.prop_map(|line| line.as_bytes().to_vec()),
        2 => "(HELO|MAIL|RCPT|DATA|RSET|NOOP|QUIT|TURN)[ :<>a-z@]{0,9}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..20),
        1 => (500usize..600).prop_map(|n| vec![b'x'; n]),
    ];
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    (line, end).prop_map(|(line, end)| [&line, end.as_bytes()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_fault_of_the_config_files_has_its_place(mail in config_text(), users in config_text()) {
        let dir = tempfile::tempdir().unwrap();
        let (mail_conf, user_conf) = (dir.path().join("mail.conf"), dir.path().join("user.conf"));
        std::fs::write(&mail_conf, &mail).unwrap();
        std::fs::write(&user_conf, &users).unwrap();
        match Config::load(&mail_conf, &user_conf) {
            Ok(config) => {
                prop_assert!(config.is_local(&config.mail.hostname));
                prop_assert!(config.users.iter().all(|(name, _)| config.users.find(name).is_some()));
            }
            Err(errors) => for error in errors {
                let text = if error.file == mail_conf { &mail } else { &users };
                prop_assert!(has_place(&error, text), "{:?}", error);
            }
        }
    }

    #[test]
    fn an_envelope_is_read_back((from, recipients, tries, bytes) in spool_file(), body in vec(any::<u8>(), 0..40)) {
        let whole = [&bytes[..], &body].concat();
        let read = format::parse(&whole).unwrap();
        prop_assert_eq!((read.from, read.tries, read.body_at), (from, tries, bytes.len()));
        let slots = read.recipients.into_iter().map(|slot| (slot.to, slot.state == State::Done, slot.last_answer));
        let wrote = recipients.into_iter().map(|(to, done, answer)| (to, done, answer.trim_end().to_owned()));
        prop_assert_eq!(slots.collect::<Vec<_>>(), wrote.collect::<Vec<_>>());
    }

    #[test]
    fn an_envelope_cut_short_is_never_whole((_, _, _, bytes) in spool_file(), cut in any::<prop::sample::Index>()) {
        let at = cut.index(bytes.len());
        prop_assert_eq!(format::parse(&bytes[..at]).unwrap_err(), Fault::Unfinished);
    }

    #[test]
    fn a_damaged_envelope_never_panics(
        (_, recipients, _, mut bytes) in spool_file(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for (at, octet) in damage {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        if let Ok(read) = format::parse(&bytes) {
            prop_assert!(read.body_at <= bytes.len());
            prop_assert!((1..=recipients.len()).contains(&read.recipients.len()));
        }
    }

    #[test]
    fn replies_are_the_same_however_split(input in hop(), size in 1usize..50) {
        let whole = replies(&input, usize::MAX);
        prop_assert_eq!(&replies(&input, size), &whole);
        for reply in whole.0 {
            prop_assert!(reply.lines.len() <= 100);
            prop_assert!(reply.lines.iter().all(|line| line.len() <= 512));
        }
    }

    #[test]
    fn every_command_gets_one_reply(commands in vec(command(), 0..40), size in 1usize..600) {
        let input = commands.concat();
        let mut session = Session::new("BBN-UNIX".parse().unwrap(), 2);
        let (mut lines, mut buffer) = (LineReader::default(), Vec::new());
        'all: for piece in input.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                let (line, fault, used) = match lines.next(&buffer) {
                    LineStep::Line { line, used, fault } => (line.to_vec(), fault, used),
                    LineStep::More { used } => {
                        buffer.drain(..used);
                        break;
                    }
                };
                buffer.drain(..used);
                let mut step = session.line(&line, fault);
                if let Step::Recipient(to) = step {
                    let verdict = if to.user() == "c" { Verdict::Accept } else { Verdict::RelayDenied };
                    step = session.recipient(to, verdict);
                }
                let reply = step.reply().unwrap().clone();
                let mut sent = Vec::new();
                reply.write(&mut sent);
                prop_assert!(codes::is_presentable(&sent), "{}", reply);
                prop_assert!(codes::allowed(&line, reply.code()), "{} to {:?}", reply, octets(&line));
                match step {
                    Step::Close(_) => break 'all,
                    Step::Data(..) => {
                        prop_assert!(lines.end().is_some_and(|end| matches!(end, LineEnd::CrLf | LineEnd::Lf)));
                        let step = session.finish(Outcome::Stored("1".to_owned()));
                        prop_assert!(codes::allowed_after_data(step.reply().unwrap().code()));
                    }
                    _ => {}
                }
            }
        }
    }
}

proptest! {
    // Each case writes to the disk, and waits for it.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_body_in_is_the_body_out(contents in vec(content(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mbox = dir.path().join("mbox");
        let (mailboxes, _) = Mailboxes::open(None).unwrap();
        for content in &contents {
            let heading = Arc::from(&b"From a@b Sat Nov 21 22:30:01 2026\n"[..]);
            let body = Arc::new(Body::from_bytes(content.clone()));
            mailboxes.deliver(&mbox, MailboxMessage { heading, body }).unwrap();
        }
        let read = messages(&octets(&std::fs::read(&mbox).unwrap()));
        let wrote: Vec<_> = contents.iter().map(|content| octets(content) + "\n").collect();
        prop_assert_eq!(read, wrote);
    }
}
