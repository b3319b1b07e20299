//! Properties of the protocol over generated input: nothing panics, every split gives the same, what is
//! written is read back, and every line gets one reply that RFC 788 allows.

use crate::common::codes;
use proptest::collection::vec;
use proptest::prelude::*;
use smtpd788::smtp::address::{ForwardPath, Host, Mailbox, ReversePath};
use smtpd788::smtp::command::{Command, is_http};
use smtpd788::smtp::data::{DataReader, DataWriter};
use smtpd788::smtp::line::{LINE_MAX, LineEnd, LineReader, LineStep};
use smtpd788::smtp::reply::{Reply, ReplyReader};
use smtpd788::smtp::session::{Outcome, Session, Step, Verdict};

/// Octets rich in what matters to the readers.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        Just(b'\r'),
        Just(b'\n'),
        Just(b'.'),
        Just(b'a'),
        any::<u8>(),
    ];
    vec(octet, 0..80)
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Host::literal(ip.into())),
        any::<[u16; 8]>().prop_map(|ip| Host::literal(ip.into())),
        "[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,20}[a-zA-Z0-9_])?(\\.[a-z0-9]{1,9}){0,5}"
            .prop_map(|name| name.parse().unwrap()),
    ]
}

fn mailbox() -> impl Strategy<Value = Mailbox> {
    ("[ -~]{1,64}", host()).prop_map(|(user, host)| Mailbox::new(&user, host).unwrap())
}

/// A line that is close to a command.
fn line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("HELO x"),
        Just("MAIL FROM:<a@b>"),
        Just("MAIL FROM:<>"),
        Just("RCPT TO:<c@d>"),
        Just("DATA"),
        Just("RSET"),
        Just("NOOP"),
        Just("QUIT"),
        Just("VRFY x"),
        Just("EHLO x"),
        Just("GET / HTTP/1.1"),
        Just("RCPT TO:<"),
    ];
    prop_oneof![
        8 => word.prop_map(str::to_owned),
        1 => "[ -~]{0,40}",
        1 => "(mail from:|RCPT TO:)[<>@\\[\\]#:,.\"\\\\a-c1]{0,20}",
    ]
}

fn read_data(end: LineEnd, input: &[u8], at: usize) -> (Vec<u8>, usize, bool, bool) {
    let (mut reader, mut content, mut used) = (DataReader::new(end), Vec::new(), 0);
    let mut done = false;
    for piece in [&input[..at], &input[at..]] {
        let progress = reader.feed(piece, &mut |slice| content.extend_from_slice(slice));
        used += progress.used;
        done = progress.done;
    }
    (content, used, done, reader.is_bad())
}

fn read_lines(input: &[u8], size: usize) -> Vec<(Vec<u8>, bool)> {
    let (mut reader, mut buffer, mut lines) = (LineReader::default(), Vec::new(), Vec::new());
    for piece in input.chunks(size) {
        buffer.extend_from_slice(piece);
        loop {
            let (used, more) = match reader.next(&buffer) {
                LineStep::Line { line, used, fault } => {
                    lines.push((line.to_vec(), fault));
                    (used, false)
                }
                LineStep::More { used } => (used, true),
            };
            buffer.drain(..used);
            if more {
                break;
            }
        }
        assert!(buffer.len() < LINE_MAX);
    }
    lines
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut windows = haystack.windows(needle.len());
    windows.position(|window| window == needle)
}

fn is_presentable(reply: &Reply) -> bool {
    let mut out = Vec::new();
    reply.write(&mut out);
    codes::is_presentable(&out)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(mailbox in mailbox()) {
        let path = ForwardPath(mailbox.clone());
        prop_assert_eq!(mailbox.to_string().parse(), Ok(mailbox.clone()));
        prop_assert_eq!(path.to_string().parse(), Ok(path.clone()));
        let rcpt = format!("RCPT TO:{path}");
        prop_assert_eq!(Command::parse(rcpt.as_bytes()), Ok(Command::Rcpt(path)));
        let from = ReversePath::Mailbox(mailbox);
        let mail = format!("MAIL FROM:{from}");
        prop_assert_eq!(Command::parse(mail.as_bytes()), Ok(Command::Mail(from)));
    }

    #[test]
    fn backslashes_and_quotes_name_the_same_user(user in "[a-z.]{1,32}", host in host()) {
        let backslashed: String = user.chars().flat_map(|c| ['\\', c]).collect();
        let plain: Mailbox = format!("{user}@{host}").parse().unwrap();
        prop_assert_eq!(format!("{backslashed}@{host}").parse(), Ok(plain.clone()));
        prop_assert_eq!(format!("\"{user}\"@{host}").parse(), Ok(plain));
    }

    #[test]
    fn whatever_parses_is_written_clean(path in "<[<>@\\[\\]#:,.\"\\\\ a-c1]{0,20}>") {
        if let Ok(path) = path.parse::<ForwardPath>() {
            let written = path.to_string();
            prop_assert!(written.bytes().all(|b| matches!(b, b' '..=b'~')));
            prop_assert_eq!(written.parse(), Ok(path));
        }
    }

    #[test]
    fn no_line_panics_and_every_refusal_is_presentable(line in vec(any::<u8>(), 0..600)) {
        is_http(&line);
        if let Err(reply) = Command::parse(&line) {
            prop_assert!(is_presentable(&reply));
            prop_assert!((500..=502).contains(&reply.code()));
        }
    }

    #[test]
    fn lines_are_the_same_however_split(input in octets(), size in 1usize..9) {
        prop_assert_eq!(read_lines(&input, size), read_lines(&input, usize::MAX));
    }

    #[test]
    fn data_is_the_same_however_split(input in octets(), at in 0usize..80, lf in any::<bool>()) {
        let end = if lf { LineEnd::Lf } else { LineEnd::CrLf };
        let at = at.min(input.len());
        let (content, used, done, bad) = read_data(end, &input, input.len());
        let split = read_data(end, &input, at);
        prop_assert_eq!((split.1, split.2, split.3), (used, done, bad));
        if !bad {
            prop_assert_eq!(split.0, content);
        }
    }

    /// The definition itself: the first <CRLF>.<CRLF>, in the <CRLF> that ends the DATA line and the data.
    #[test]
    fn only_crlf_dot_crlf_ends_data(input in octets()) {
        let with_data_line = [b"\r\n", &input[..]].concat();
        let end = find(&with_data_line, b"\r\n.\r\n").map(|at| at + 3);
        let (_, used, done, bad) = read_data(LineEnd::CrLf, &input, input.len());
        prop_assert_eq!(done, end.is_some());
        prop_assert_eq!(used, end.unwrap_or(input.len()));
        let read = String::from_utf8_lossy(&input[..used]).replace("\r\n", "");
        let open = !done && input.ends_with(b"\r"); // may yet be half of a <CRLF>
        let bare = read.strip_suffix('\r').filter(|_| open).unwrap_or(&read);
        prop_assert_eq!(bad, bare.contains(['\r', '\n']));
    }

    #[test]
    fn what_is_sent_is_received(content in octets(), at in 0usize..80) {
        let mut content: Vec<u8> = content.into_iter().filter(|b| *b != b'\r').collect();
        let at = at.min(content.len());
        let (mut writer, mut sent) = (DataWriter::default(), Vec::new());
        writer.feed(&content[..at], &mut sent);
        writer.feed(&content[at..], &mut sent);
        writer.finish(&mut sent);
        if !content.is_empty() && !content.ends_with(b"\n") {
            content.push(b'\n');
        }
        let (received, used, done, bad) = read_data(LineEnd::CrLf, &sent, sent.len());
        prop_assert_eq!((used, done, bad), (sent.len(), true, false));
        prop_assert_eq!(received, content);
    }

    #[test]
    fn replies_of_others_never_panic(input in "([2-6][0-9]{2}[ -]?[a\\PC]{0,9}\r?\n){0,4}", extra in octets()) {
        let input = [input.as_bytes(), &extra].concat();
        let mut reader = ReplyReader::default();
        let mut used = 0;
        while let Ok((more, reply)) = reader.feed(&input[used..]) {
            used += more;
            let Some(reply) = reply else {
                prop_assert_eq!(used, input.len());
                break;
            };
            prop_assert!((200..600).contains(&reply.code));
            prop_assert!(reply.text().bytes().all(|b| matches!(b, b' '..=b'~')));
        }
    }

    #[test]
    fn every_line_gets_one_reply_that_the_rfc_allows(lines in vec(line(), 0..40)) {
        let mut session = Session::new("BBN-UNIX".parse().unwrap(), 2);
        for line in &lines {
            let mut step = session.line(line.as_bytes(), false);
            if let Step::Recipient(to) = step {
                let verdict = if to.user() == "c" { Verdict::Accept } else { Verdict::NoSuchUser };
                step = session.recipient(to, verdict);
            }
            let reply = step.reply().unwrap().clone();
            prop_assert!(is_presentable(&reply));
            prop_assert!(codes::allowed(line.as_bytes(), reply.code()), "{} to {}", reply, line);
            prop_assert_eq!(matches!(step, Step::Close(_)), matches!(reply.code(), 221 | 421));
            match step {
                Step::Close(_) => break,
                Step::Data(_, transaction) => {
                    prop_assert!((1..=2).contains(&transaction.to.len()));
                    let done = session.finish(Outcome::Stored("0".into()));
                    prop_assert_eq!(done.reply().unwrap().code(), 250);
                }
                _ => {}
            }
        }
    }
}
