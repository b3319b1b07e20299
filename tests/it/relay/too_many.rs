//! A next hop that takes only so many recipients in one transaction: the rest follows at once, as long as each brings mail
//! to somebody.

use crate::common::hop::Act::{Close, Say, SayAndClose};
use crate::common::hop::Step::{Data, Dot, Mail, Rcpt, Rset};
use crate::common::hop::{Act, Hop, Step};
use crate::common::sending::{PATIENT, open, paths};
use smtpd788::message::Body;
use smtpd788::relay::client::Fate;
use smtpd788::send::{self, Mailer};

const FULL: Act = Say("552 Too many recipients\r\n");

/// The hop's script, the number of recipients, what becomes of each, and the messages that the hop takes.
type Row = (&'static [(Step, Act)], usize, &'static str, usize);

/// `D`, `L` or `N` a recipient: delivered, later, never.
fn letters(fates: &[Fate]) -> String {
    let letter = |fate: &Fate| match fate {
        Fate::Delivered(_) => 'D',
        Fate::Later(_) => 'L',
        Fate::Never(_) => 'N',
    };
    fates.iter().map(letter).collect()
}

#[test]
fn the_rest_follows_at_once() {
    #[rustfmt::skip]
    let table: &[Row] = &[
        // Both codes, with and without an enhanced one, and the numbers around the limit.
        (&[(Rcpt(2), FULL)], 2, "DD", 1),
        (&[(Rcpt(2), FULL)], 3, "DDD", 2),
        (&[(Rcpt(2), FULL)], 4, "DDDD", 2),
        (&[(Rcpt(2), FULL)], 5, "DDDDD", 3),
        (&[(Rcpt(2), Say("452 Too many recipients\r\n"))], 5, "DDDDD", 3),
        (&[(Rcpt(2), Say("452 4.5.3 Too many\r\n"))], 5, "DDDDD", 3),
        (&[(Rcpt(2), Say("552-5.5.3 Too\r\n552 5.5.3 many\r\n"))], 5, "DDDDD", 3),
        (&[(Rcpt(1), FULL)], 4, "DDDD", 4),
        // About one mailbox: the first of a transaction, or said so.
        (&[(Rcpt(0), FULL)], 3, "NDD", 1),
        (&[(Rcpt(0), Say("452 full\r\n"))], 3, "LDD", 1),
        (&[(Rcpt(1), Say("552 5.2.2 Mailbox full\r\n"))], 3, "DND", 1),
        (&[(Rcpt(1), Say("452 4.2.2 Mailbox full\r\n"))], 3, "DLD", 1),
        (&[(Rcpt(0), FULL), (Rcpt(1), FULL), (Rcpt(2), FULL)], 3, "NNN", 0),
        (&[(Rcpt(0), Say("550 no\r\n")), (Rcpt(1), FULL)], 3, "NND", 1),
        // Other codes are about the recipient.
        (&[(Rcpt(1), Say("550 no\r\n")), (Rcpt(2), FULL)], 4, "DNDN", 2),
        (&[(Rcpt(1), Say("451 no\r\n"))], 3, "DLD", 1),
        // No progress, or no connection: later.
        (&[(Rcpt(2), FULL), (Dot, Say("451 no\r\n"))], 5, "LLLLL", 1),
        (&[(Rcpt(2), FULL), (Dot, Say("554 no\r\n"))], 5, "NNLLL", 1),
        (&[(Rcpt(2), FULL), (Data, Say("451 no\r\n"))], 5, "LLLLL", 0),
        (&[(Rcpt(2), FULL), (Dot, SayAndClose("421 bye\r\n"))], 5, "LLLLL", 1),
        (&[(Rcpt(2), FULL), (Dot, Close)], 5, "LLLLL", 1),
        (&[(Rcpt(2), FULL), (Dot, SayAndClose("250 OK\r\n"))], 5, "DDLLL", 1),
        (&[(Rcpt(2), FULL), (Mail, Say("450 no\r\n"))], 5, "LLLLL", 0),
        (&[(Rcpt(1), FULL), (Rset, Say("500 no\r\n"))], 3, "DDD", 3),
    ];
    let users: Vec<String> = (0..5).map(|n| format!("u{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    for (script, count, expected, data) in table {
        let hop = Hop::scripted(script.iter().copied());
        let from = "<from@me.example>".parse().unwrap();
        let body = Body::from_bytes(b"Subject: x\n\nx\n".to_vec());
        let mut connection = open(&hop, PATIENT);
        let fates = connection.send(&from, &paths(&users[..*count]), &body);
        assert_eq!(letters(&fates), *expected, "{script:?} {count}: {fates:?}");
        drop(connection);
        let told = hop.wait_until(|told| told[0].ended);
        assert_eq!(told[0].data.len(), *data, "{script:?} {count}: {told:?}");
        assert_eq!(told.len(), 1, "all on one connection");
        // Nobody is named twice to a hop that has accepted them.
        let mail = told[0]
            .commands
            .iter()
            .filter(|line| line.starts_with("MAIL"))
            .count();
        assert!(mail <= (*data).max(1), "{script:?} {count}: {told:?}");
    }
}

#[test]
fn what_is_left_names_the_reason() {
    let hop = Hop::scripted([(Rcpt(1), FULL), (Dot, Say("451 no\r\n"))]);
    let from = "<from@me.example>".parse().unwrap();
    let body = Body::from_bytes(Vec::new());
    let fates = open(&hop, PATIENT).send(&from, &paths(&["a", "b"]), &body);
    let [Fate::Later(first), Fate::Later(second)] = &fates[..] else {
        panic!("{fates:?}")
    };
    assert!(
        first.ends_with(" said at the end of the data: 451 no"),
        "{first}"
    );
    assert!(
        second.ends_with(" said at RCPT: 552 Too many recipients"),
        "{second}"
    );
}

#[test]
fn the_library_s_mailer_does_the_same() {
    let hop = Hop::scripted([(Rcpt(40), FULL)]);
    let users: Vec<String> = (0..250).map(|n| format!("u{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let content = send::content("Subject: x\n\nx\n").unwrap();
    let from = "<from@me.example>".parse().unwrap();
    let mailer = Mailer::new("me.example".parse().unwrap());
    let fates = mailer
        .to_host(hop.addr(), &from, &paths(&users), &content)
        .unwrap();
    assert_eq!(letters(&fates), "D".repeat(250));
    assert_eq!(hop.told()[0].data.len(), 7);

    // A hop with room for all is sent a hundred at a time, which is what every receiver must take.
    let hop = Hop::good();
    let fates = mailer
        .to_host(hop.addr(), &from, &paths(&users), &content)
        .unwrap();
    assert_eq!(letters(&fates), "D".repeat(250));
    assert_eq!(hop.told()[0].data.len(), 3);
}
