//! The session's table, its limits, and what clears a transaction.

use smtpd788::smtp::address::{ForwardPath, ReversePath};
use smtpd788::smtp::reply::closing;
use smtpd788::smtp::session::{Outcome, Session, Step, Transaction, Verdict};

fn session() -> Session {
    Session::new("BBN-UNIX".parse().unwrap(), 2)
}

/// Plays lines, every recipient accepted; the last step.
fn play(session: &mut Session, lines: &[&str]) -> Step {
    let mut last = Step::Reply(session.greeting());
    for line in lines {
        last = match session.line(line.as_bytes(), false) {
            Step::Recipient(to) => session.recipient(to, Verdict::Accept),
            step => step,
        };
    }
    last
}

fn code(step: &Step) -> u16 {
    step.reply().unwrap().code()
}

/// What the end of DATA hands out.
fn transaction(step: Step) -> Transaction {
    match step {
        Step::Data(reply, transaction) if reply.code() == 354 => transaction,
        other => panic!("{other:?}"),
    }
}

const HELO: &str = "HELO x";
const MAIL: &str = "MAIL FROM:<a@x>";
const RCPT: &str = "RCPT TO:<b@y>";

#[test]
fn the_table() {
    let states: [&[&str]; 4] = [&[], &[HELO], &[HELO, MAIL], &[HELO, MAIL, RCPT]];
    for (line, codes) in [
        (HELO, [250, 250, 250, 250]),
        (MAIL, [503, 250, 250, 250]),
        (RCPT, [503, 503, 250, 250]),
        ("DATA", [503, 503, 503, 354]),
        ("RSET", [250, 250, 250, 250]),
        ("NOOP", [250, 250, 250, 250]),
        ("QUIT", [221, 221, 221, 221]),
        // syntax before state
        ("HELO", [501, 501, 501, 501]),
        ("MAIL FROM:x", [501, 501, 501, 501]),
        ("RCPT TO:<>", [501, 501, 501, 501]),
        ("DATA x", [501, 501, 501, 501]),
        ("VRFY x", [502, 502, 502, 502]),
        ("EHLO x", [500, 500, 500, 500]),
    ] {
        for (before, expected) in states.iter().zip(codes) {
            let mut session = session();
            play(&mut session, before);
            let found = code(&play(&mut session, &[line]));
            assert_eq!(found, expected, "{line} after {before:?}");
        }
    }
}

#[test]
fn what_clears_a_transaction() {
    for (line, kept) in [
        (HELO, false),
        ("RSET", false),
        ("NOOP", true),
        ("HELO", true),        // refused
        ("MAIL FROM:x", true), // refused
        ("RCPT TO:<b@", true), // refused
        ("VRFY b", true),
        ("rubbish", true),
    ] {
        let mut session = session();
        play(&mut session, &[HELO, MAIL, RCPT, line]);
        assert_eq!(session.reverse_path().is_some(), kept, "{line}");
        let data = code(&play(&mut session, &["DATA"]));
        assert_eq!(data, if kept { 354 } else { 503 }, "{line}");
    }
}

#[test]
fn mail_begins_anew() {
    let mut session = session();
    play(&mut session, &[HELO, MAIL, RCPT, "MAIL FROM:<>"]);
    assert_eq!(code(&play(&mut session, &["DATA"])), 503);
    let transaction = transaction(play(&mut session, &["RCPT TO:<c@z>", "DATA"]));
    assert_eq!(transaction.helo.to_string(), "x");
    assert_eq!(transaction.from, ReversePath::Null);
    assert_eq!(transaction.to, ["<c@z>".parse().unwrap()]);
    assert_eq!(session.reverse_path(), None, "handed out");
}

#[test]
fn after_the_end_of_data_the_session_is_greeted() {
    for (outcome, expected) in [
        (Outcome::Stored("0123".into()), 250),
        (Outcome::LocalError, 451),
        (Outcome::NoSpace, 452),
        (Outcome::TooLarge, 552),
        (Outcome::BareLineEnd, 554),
        (Outcome::Loop, 554),
    ] {
        let mut session = session();
        assert!(matches!(
            play(&mut session, &[HELO, MAIL, RCPT, "DATA"]),
            Step::Data(..)
        ));
        assert_eq!(code(&session.finish(outcome)), expected);
        assert_eq!(code(&play(&mut session, &[RCPT])), 503);
        assert_eq!(code(&play(&mut session, &[MAIL, RCPT, "DATA"])), 354);
    }
}

#[test]
fn verdicts() {
    let forward: ForwardPath = "<Jones@USC-ISIA>".parse().unwrap();
    for (verdict, expected, counted) in [
        (Verdict::Accept, 250, 1),
        (Verdict::Forward(forward), 251, 1),
        (Verdict::NoSuchUser, 550, 0),
        (Verdict::RelayDenied, 550, 0),
        (Verdict::BareAddress, 550, 0),
        (Verdict::TooMany, 552, 0),
        (Verdict::TryLater, 451, 0),
    ] {
        let mut session = session();
        play(&mut session, &[HELO, MAIL, RCPT]);
        let Step::Recipient(to) = session.line(b"RCPT TO:<c@y>", false) else {
            panic!("asks");
        };
        assert_eq!(code(&session.recipient(to, verdict)), expected);
        let transaction = transaction(play(&mut session, &["DATA"]));
        assert_eq!(transaction.to.len(), 1 + counted);
    }
}

#[test]
fn recipients_are_limited_and_one_too_many_is_no_error() {
    let mut session = session();
    play(&mut session, &[HELO, MAIL, RCPT, RCPT]); // repeats count
    for _ in 0..100 {
        assert_eq!(code(&play(&mut session, &[RCPT])), 552);
    }
    assert!(!session.has_room());
    assert_eq!(transaction(play(&mut session, &["DATA"])).to.len(), 2);
}

#[test]
fn the_twentieth_error_in_a_row_closes() {
    let mut session = session();
    play(&mut session, &[HELO, MAIL]);
    play(&mut session, &["rubbish"; 19]);
    play(&mut session, &["NOOP"]); // resets
    assert_eq!(code(&play(&mut session, &["rubbish"; 18])), 500);
    // the 552 neither counts nor resets
    session.set_max_recipients(0);
    assert_eq!(code(&play(&mut session, &[RCPT])), 552);
    session.set_max_recipients(9);
    assert_eq!(code(&session.line(b"a\rb", true)), 500);
    let Step::Recipient(to) = session.line(RCPT.as_bytes(), false) else {
        panic!("asks");
    };
    let last = session.recipient(to, Verdict::NoSuchUser);
    assert!(
        matches!(&last, Step::Close(reply) if reply.code() == 421),
        "{last:?}"
    );
}

/// Each row is a session of its own: `lines` are played over and over after `before`, and the one after so many is 421.
#[test]
fn nothing_goes_on_for_ever_without_a_message() {
    use closing::{COMMANDS, ERRORS};
    const BAD: &str = "RCPT TO:<";
    type Row<'a> = (usize, &'a [&'a str], &'a [&'a str], usize, &'a str);
    let rows: [Row; 14] = [
        // the 100th command other than RCPT and DATA
        (2, &[], &["NOOP"], 99, COMMANDS),
        (2, &[], &["rset"], 99, COMMANDS),
        (2, &[], &[HELO], 99, COMMANDS),
        (2, &[HELO], &[MAIL], 98, COMMANDS),
        (2, &[HELO], &[MAIL, RCPT, "RSET"], 3 * 49, COMMANDS),
        (2, &[HELO, MAIL], &[RCPT, "NOOP"], 2 * 97 + 1, COMMANDS),
        (2, &[], &["FOO", "NOOP"], 99, COMMANDS),
        // the 20th error in a row
        (2, &[], &["FOO"], 19, ERRORS),
        (2, &[], &[""], 19, ERRORS),
        (2, &[HELO, MAIL], &["DATA"], 19, ERRORS),
        (
            2,
            &[HELO, MAIL, RCPT, RCPT],
            &[RCPT, BAD],
            2 * 19 + 1,
            ERRORS,
        ),
        // the 100th error
        (5_000, &[HELO, MAIL], &[RCPT, BAD], 2 * 99 + 1, ERRORS),
        // the 2,000th command, or twice MAX_RECIPIENTS
        (2, &[HELO, MAIL], &[RCPT], 1_997, COMMANDS),
        (1_500, &[HELO, MAIL], &[RCPT], 2_997, COMMANDS),
    ];
    for (max_recipients, before, lines, count, why) in rows {
        let mut session = session();
        session.set_max_recipients(max_recipients);
        play(&mut session, before);
        let mut steps = lines.iter().cycle().map(|line| play(&mut session, &[line]));
        let (answered, reply) = (0..10_000)
            .find_map(|count| match steps.next() {
                Some(Step::Close(reply)) => Some((count, reply)),
                _ => None,
            })
            .unwrap_or_else(|| panic!("{lines:?} go on for ever"));
        assert_eq!((answered, reply.code()), (count, 421), "{lines:?}");
        assert_eq!(reply.why(), Some(why), "{lines:?}");
        assert!(reply.text().contains(why), "{reply}");
    }
}

#[test]
fn only_a_stored_message_renews_the_budget() {
    let message = [MAIL, RCPT, "DATA"];
    let mut session = session();
    play(&mut session, &[HELO]);
    for _ in 0..5_000 {
        assert_eq!(code(&play(&mut session, &message)), 354);
        session.finish(Outcome::Stored("0".into()));
    }
    play(&mut session, &["NOOP"; 98]);
    assert_eq!(code(&play(&mut session, &["NOOP"])), 250);
    assert_eq!(code(&play(&mut session, &["QUIT"])), 221, "always");

    let mut session = self::session();
    play(&mut session, &[HELO]);
    for _ in 0..98 {
        assert_eq!(code(&play(&mut session, &message)), 354);
        assert_eq!(code(&session.finish(Outcome::TooLarge)), 552);
    }
    assert_eq!(code(&play(&mut session, &[MAIL])), 421);
}

#[test]
fn a_session_of_another_protocol_is_refused_and_only_at_its_beginning() {
    for opening in [
        "GET / HTTP/1.1",
        "PRI * HTTP/2.0",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 25",
        "PROXY UNKNOWN",
    ] {
        for fault in [false, true] {
            let step = session().line(opening.as_bytes(), fault);
            assert!(
                matches!(step, Step::Close(reply) if reply.code() == 421),
                "{opening}"
            );
        }
        let mut session = session();
        session.line(b"", false);
        assert_eq!(code(&session.line(opening.as_bytes(), false)), 500);
    }
    for (lines, codes) in [
        (&[&b""[..], b"", b"\0", b"QUIT"][..], &[500, 500, 421][..]),
        (&[b"", b"\0", b"", b"\0"], &[500, 500, 500, 500]),
        (&[b"\0", b"", b"", b"\0"], &[500, 500, 500, 500]),
        (&[b"", b"", b"", b"\0"], &[500, 500, 500, 500]),
        (&[b"", b"", b"NOOP", b"\0"], &[500, 500, 250, 500]),
    ] {
        let mut session = session();
        for (line, expected) in lines.iter().zip(codes) {
            let step = session.line(line, line.contains(&0));
            assert_eq!(code(&step), *expected, "{lines:?}");
            assert_eq!(matches!(step, Step::Close(_)), *expected == 421);
        }
    }
}
