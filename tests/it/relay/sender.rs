//! The forwarding client: what it says, what it tells of it, and how it is stopped. (Faults: `sender_faults.rs`.)

use crate::common::hop::Act::{Close, Hang, Say, Wait};
use crate::common::hop::Hop;
use crate::common::hop::Step::{Data, Dot, Mail, Rcpt, Rset};
use crate::common::sending::{PATIENT, open, paths, send, told};
use smtpd788::message::{Body, BodyWriter};
use smtpd788::relay::client::{Connection, Fate, Target};
use std::io::Write;
use std::thread;

#[test]
fn what_was_decided_stays_decided() {
    let refusals = [
        (Rcpt(0), Say("550 no\r\n")),
        (Rcpt(1), Say("450 later\r\n")),
        (Rcpt(2), Close),
    ];
    let hop = Hop::scripted(refusals);
    let mut connection = open(&hop, PATIENT);
    let fates = send(&mut connection, &["a", "b", "c", "d"], b"x\n");
    assert_eq!(
        told(&fates, &hop),
        "never later later later: connection to MX failed at RCPT: closed by the other side"
    );
    // Nothing more is tried on a lost connection.
    let fates = send(&mut connection, &["a"], b"x\n");
    assert!(matches!(&fates[..], [Fate::Later(_)]), "{fates:?}");
}

#[test]
fn several_messages_over_one_connection() {
    let refused = [
        (Rcpt(0), Say("550 no\r\n")),
        (Rcpt(1), Say("450 later\r\n")),
    ];
    let hop = Hop::scripted(refused);
    let mut connection = open(&hop, PATIENT);
    let fates = send(&mut connection, &["a", "b"], b"never sent\n");
    assert_eq!(
        told(&fates, &hop),
        "never later: MX said at RCPT: 450 later"
    );
    hop.script([]);
    for content in [&b"one\n"[..], b"two\n", b""] {
        let fates = send(&mut connection, &["a"], content);
        assert_eq!(told(&fates, &hop), "delivered: MX said: 250 OK taken");
    }
    connection.quit();
    let told = hop.wait_until(|told| told[0].ended);
    let mail = ["MAIL FROM:<from@me.example>", "RCPT TO:<a@d.test>"];
    let mut expected = vec![
        "HELO me.example",
        mail[0],
        mail[1],
        "RCPT TO:<b@d.test>",
        "RSET",
    ];
    for _ in 0..3 {
        expected.extend([mail[0], mail[1], "DATA"]);
    }
    expected.push("QUIT");
    assert_eq!(told[0].commands, expected);
    assert_eq!(
        told[0].data,
        [&b"one\r\n.\r\n"[..], b"two\r\n.\r\n", b".\r\n"]
    );
}

#[test]
fn a_refused_reset_says_nothing_of_the_next_message() {
    let hop = Hop::scripted([(Data, Say("554 no\r\n")), (Rset, Say("550 no\r\n"))]);
    let mut connection = open(&hop, PATIENT);
    send(&mut connection, &["a"], b"x\n");
    let fates = send(&mut connection, &["a"], b"x\n");
    assert_eq!(told(&fates, &hop), "later: MX said at RSET: 550 no");
    assert!(!connection.is_usable());
}

#[test]
fn mail_data_is_carried_unchanged() {
    let mut long = vec![b'.'];
    long.extend(
        (0..1_000_000u32).map(|n| match n.wrapping_mul(2_654_435_761) as u8 {
            b'\n' | b'\r' => 0xff,
            octet => octet,
        }),
    );
    long.push(b'\n');
    let mut dots = Vec::new();
    while dots.len() < 300_000 {
        dots.extend_from_slice(b".\n..\n...x\nFrom \n\n.x y\n");
    }
    let table: [(&[u8], Vec<u8>); 6] = [
        (b"a\n.\nb\n", b"a\r\n..\r\nb\r\n.\r\n".to_vec()),
        (b".\n", b"..\r\n.\r\n".to_vec()),
        (b"..a\n\n\n", b"...a\r\n\r\n\r\n.\r\n".to_vec()),
        (b"no line end", b"no line end\r\n.\r\n".to_vec()),
        (&long, wire(&long)),
        (&dots, wire(&dots)),
    ];
    let hop = Hop::good();
    let mut connection = open(&hop, PATIENT);
    let from = "<>".parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (content, expected) in &table {
        // From memory, from a region of a file, and as it is received: if it is large, the beginning from a file.
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        file.write_all(content).unwrap();
        file.write_all(b"after\n").unwrap();
        let region = Body::from_file(file, 7, content.len() as u64);
        let mut received = BodyWriter::new(folder.path());
        received.push(content);
        let received = received.finish().unwrap();
        for body in [Body::from_bytes(content.to_vec()), region, received] {
            let fates = connection.send(&from, &paths(&["a"]), &body);
            assert!(matches!(&fates[..], [Fate::Delivered(_)]), "{fates:?}");
            let got = hop.told().pop().unwrap().data.pop().unwrap();
            assert!(
                got == *expected,
                "{} octets, not {}",
                got.len(),
                expected.len()
            );
        }
    }
}

/// CRLF and doubled dots, the slow and obvious way.
fn wire(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line[0] == b'.' {
            out.push(b'.');
        }
        out.extend_from_slice(&line[..line.len() - 1]);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[test]
fn a_body_that_cannot_be_read_is_not_delivered_in_part() {
    let hop = Hop::good();
    let mut connection = open(&hop, PATIENT);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[b'x'; 200_000]).unwrap();
    let body = Body::from_file(file, 0, 300_000);
    let fates = connection.send(&"<>".parse().unwrap(), &paths(&["a"]), &body);
    assert!(
        told(&fates, &hop).starts_with("later: cannot read the message: "),
        "{fates:?}"
    );
    assert!(!connection.is_usable());
    let told = hop.wait_until(|told| told[0].ended);
    assert!(!told[0].data[0].ends_with(b".\r\n"));
}

#[test]
fn another_thread_can_cut_the_connection() {
    let hop = Hop::scripted([(Rcpt(0), Hang)]);
    let mut connection = open(&hop, PATIENT);
    let handle = connection.handle();
    let fates = thread::scope(|scope| {
        scope.spawn(|| {
            hop.wait_until(|told| told[0].commands.len() == 3);
            assert!(handle.interrupt_unless_past_data());
        });
        send(&mut connection, &["a"], b"x\n")
    });
    assert_eq!(
        told(&fates, &hop),
        "later: connection to MX failed at RCPT: interrupted by our own stop"
    );
    drop(connection);
    assert!(
        handle.interrupt_unless_past_data(),
        "a handle outlives its connection"
    );
}

#[test]
fn nobody_cuts_it_between_354_and_the_last_reply() {
    let hop = Hop::scripted([(Dot, Wait)]);
    let mut connection = open(&hop, PATIENT);
    let handle = connection.handle();
    let fates = thread::scope(|scope| {
        scope.spawn(|| {
            hop.wait_until(|told| !told[0].data.is_empty());
            assert!(!handle.interrupt_unless_past_data());
            hop.script([]);
        });
        send(&mut connection, &["a"], b"x\n")
    });
    assert!(matches!(&fates[..], [Fate::Delivered(_)]), "{fates:?}");
    assert!(!connection.is_usable(), "the interrupt is remembered");
    connection.quit();
}

#[test]
fn what_the_hop_says_is_bounded_and_printable() {
    let hop = Hop::scripted([(Mail, Say("550 \u{1b}[2J caf\u{e9}\t\r\n"))]);
    let mut connection = open(&hop, PATIENT);
    let fates = send(&mut connection, &["a"], b"x\n");
    let [Fate::Never(text)] = &fates[..] else {
        panic!("{fates:?}")
    };
    assert!(
        text.bytes().all(|octet| (b' '..=b'~').contains(&octet)),
        "{text:?}"
    );

    let long = "550-many words, many words, many words, many words\r\n".repeat(20) + "550 end\r\n";
    let hop = Hop::scripted([(Mail, Say(long.leak()))]);
    let fates = send(&mut open(&hop, PATIENT), &["a"], b"x\n");
    let [Fate::Never(text)] = &fates[..] else {
        panic!("{fates:?}")
    };
    assert!(text.len() <= 400 && text.ends_with("..."), "{text:?}");
}

#[test]
fn a_literal_is_named_once() {
    let hop = Hop::good();
    let target = Target::from(hop.addr());
    let helo = "[IPv6:2001:db8::1]".parse().unwrap();
    let mut connection = Connection::open(&target, &helo, PATIENT).unwrap();
    let fates = send(&mut connection, &["a"], b"x\n");
    let expected = format!("[127.0.0.1]:{} said: 250 OK taken", hop.addr().port());
    assert_eq!(fates, [Fate::Delivered(expected)]);
    assert_eq!(hop.told()[0].commands[0], "HELO [IPv6:2001:db8::1]");
}
