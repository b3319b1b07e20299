//! The session's table, its limits, and what clears a transaction.

use smtpd788::smtp::address::{ForwardPath, ReversePath};
use smtpd788::smtp::session::{Outcome, Session, Step, Verdict};

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
        assert_eq!(session.in_transaction(), kept, "{line}");
        let data = code(&play(&mut session, &["DATA"]));
        assert_eq!(data, if kept { 354 } else { 503 }, "{line}");
    }
}

#[test]
fn mail_begins_anew() {
    let mut session = session();
    play(&mut session, &[HELO, MAIL, RCPT, "MAIL FROM:<>"]);
    assert_eq!(code(&play(&mut session, &["DATA"])), 503);
    play(&mut session, &["RCPT TO:<c@z>", "DATA"]);
    let transaction = session.take().unwrap();
    assert_eq!(transaction.helo.to_string(), "x");
    assert_eq!(transaction.from, ReversePath::Null);
    assert_eq!(transaction.to, ["<c@z>".parse().unwrap()]);
    assert!(session.take().is_none());
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
            Step::Data(_)
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
        (Verdict::TryLater, 451, 0),
    ] {
        let mut session = session();
        play(&mut session, &[HELO, MAIL, RCPT]);
        let Step::Recipient(to) = session.line(b"RCPT TO:<c@y>", false) else {
            panic!("asks");
        };
        assert_eq!(code(&session.recipient(to, verdict)), expected);
        play(&mut session, &["DATA"]);
        assert_eq!(session.take().unwrap().to.len(), 1 + counted);
    }
}

#[test]
fn recipients_are_limited_and_one_too_many_is_no_error() {
    let mut session = session();
    play(&mut session, &[HELO, MAIL, RCPT, RCPT]); // repeats count
    for _ in 0..100 {
        assert_eq!(code(&play(&mut session, &[RCPT])), 552);
    }
    assert_eq!(code(&play(&mut session, &["DATA"])), 354);
    assert_eq!(session.take().unwrap().to.len(), 2);
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

#[test]
fn http_is_refused_on_the_first_line_only() {
    let get = b"GET / HTTP/1.1";
    assert!(matches!(session().line(get, false), Step::Close(reply) if reply.code() == 421));
    assert!(matches!(session().line(get, true), Step::Close(reply) if reply.code() == 421));
    let mut session = session();
    session.line(b"", false);
    assert_eq!(code(&session.line(get, false)), 500);
}
