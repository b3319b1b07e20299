//! A whole connection: the input is what a client sends, in pieces. One reply a line, its code in RFC 788's list for the
//! command, printable, short; every split of the same octets gets the same replies; a transaction is never empty.
#![no_main]

#[path = "../common/codes.rs"]
mod codes;

use libfuzzer_sys::fuzz_target;
use smtpd788::smtp::data::DataReader;
use smtpd788::smtp::line::{LINE_MAX, LineEnd, LineReader, LineStep};
use smtpd788::smtp::reply::Reply;
use smtpd788::smtp::session::{Outcome, Session, Step, Verdict};

const MAX_RECIPIENTS: usize = 3;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, sent)) = input.split_first() else {
        return;
    };
    let whole = connection(choice, sent, usize::MAX);
    let split = connection(choice, sent, 1 + usize::from(choice % 61));
    assert_eq!(whole, split, "the pieces matter");
});

/// Every reply of a connection, checked.
fn connection(choice: u8, sent: &[u8], piece: usize) -> Vec<String> {
    let mut session = Session::new("BBN-UNIX".parse().unwrap(), MAX_RECIPIENTS);
    let mut replies = Vec::new();
    said(&mut replies, &session.greeting());
    let (mut lines, mut input) = (LineReader::default(), Vec::new());
    let mut data: Option<DataReader> = None;
    for piece in sent.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            if let Some(reader) = &mut data {
                let progress = reader.feed(&input, &mut |_| {});
                input.drain(..progress.used);
                if !progress.done {
                    assert!(input.is_empty(), "mail data is used as it comes");
                    break;
                }
                let bad = reader.is_bad();
                data = None;
                let step = session.finish(if bad {
                    Outcome::BareLineEnd
                } else {
                    outcome(choice)
                });
                let reply = step.reply().expect("one reply to the end of mail data");
                assert!(codes::allowed_after_data(reply.code()), "{reply} to data");
                said(&mut replies, reply);
                if matches!(step, Step::Close(_)) {
                    return replies;
                }
            }
            let (line, fault, used) = match lines.next(&input) {
                LineStep::Line { line, used, fault } => (line.to_vec(), fault, used),
                LineStep::More { used } => {
                    input.drain(..used);
                    assert!(input.len() < LINE_MAX, "a line is bounded");
                    break;
                }
            };
            input.drain(..used);
            let mut step = session.line(&line, fault);
            if let Step::Recipient(to) = step {
                let verdict = verdict(to.user());
                step = session.recipient(to, verdict);
            }
            let reply = step.reply().expect("one reply a line").clone();
            assert!(
                codes::allowed(&line, reply.code()),
                "{reply} to {}",
                line.escape_ascii()
            );
            assert!(!fault || reply.code() >= 400, "{reply} to a faulty line");
            said(&mut replies, &reply);
            match step {
                Step::Close(_) => return replies,
                Step::Data(_, transaction) => {
                    assert!((1..=MAX_RECIPIENTS).contains(&transaction.to.len()));
                    data = Some(DataReader::new(lines.end().unwrap_or(LineEnd::CrLf)));
                }
                _ => {}
            }
        }
    }
    replies
}

fn said(replies: &mut Vec<String>, reply: &Reply) {
    let mut line = Vec::new();
    reply.write(&mut line);
    assert!(codes::is_presentable(&line), "{reply}");
    replies.push(reply.to_string());
}

fn verdict(user: &str) -> Verdict {
    match user.len() % 5 {
        0 => Verdict::Forward("<mary@example.net>".parse().unwrap()),
        1 | 2 => Verdict::Accept,
        3 => Verdict::BareAddress,
        _ => Verdict::TryLater,
    }
}

fn outcome(choice: u8) -> Outcome {
    match choice % 5 {
        0 => Outcome::LocalError,
        1 => Outcome::NoSpace,
        2 => Outcome::TooLarge,
        3 => Outcome::Loop,
        _ => Outcome::Stored("0001f2e3d4c5b6a7".to_owned()),
    }
}
