//! Tests of the format: what is written is read back, and no damage goes unseen.

use super::*;
use std::time::{Duration, UNIX_EPOCH};

fn sample() -> Vec<u8> {
    let path = |s: &str| s.parse::<ForwardPath>().unwrap();
    let to = [
        NewRecipient::from(path("<mary@example.net>")),
        NewRecipient {
            to: path("<\"a b\"@[192.0.2.1]>"),
            orig_to: Some(path("<\"> <\"@example.com>")),
        },
    ];
    let received = UNIX_EPOCH + Duration::from_millis(1_795_300_201_123);
    envelope(
        Id::parse("0001f2e3d4c5b6a7").unwrap(),
        Id::parse("0001f2e3d4c5b6a6"),
        &"<john@example.org>".parse().unwrap(),
        received,
        Origin::Report,
        &to,
        12,
    )
    .0
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[test]
fn what_is_written_reads_back() {
    let mut bytes = sample();
    let length = bytes.len();
    bytes.extend_from_slice(b"Subject: x\n\n");
    let read = parse(&bytes).unwrap();
    assert_eq!(read.id.to_string(), "0001f2e3d4c5b6a7");
    assert_eq!(read.from.to_string(), "<john@example.org>");
    assert_eq!(
        read.received,
        UNIX_EPOCH + Duration::from_millis(1_795_300_201_123)
    );
    assert_eq!((read.tries, read.size, read.body_at), (0, 12, length));
    assert_eq!(read.origin, Origin::Report);
    assert_eq!(read.log_of(), " of=0001f2e3d4c5b6a6");
    assert_eq!(read.recipients[0].orig_to, None);
    assert_eq!(read.recipients[1].to.to_string(), "<\"a b\"@[192.0.2.1]>");
    let orig_to = read.recipients[1].orig_to.as_ref().unwrap();
    assert_eq!(orig_to.to_string(), "<\"> <\"@example.com>");
    assert!(
        read.recipients
            .iter()
            .all(|r| r.state == State::Waiting && r.last_answer.is_empty())
    );
}

#[test]
fn a_file_without_an_origin_is_from_outside() {
    let text = String::from_utf8(sample()).unwrap();
    for (line, origin) in [
        ("", Origin::Outside),
        ("origin: inside\n", Origin::Inside),
        ("origin: outside\n", Origin::Outside),
    ] {
        let text = text.replacen("origin: report\n", line, 1);
        let read = parse(text.as_bytes()).unwrap();
        assert_eq!((read.origin, read.recipients.len()), (origin, 2), "{line}");
    }
}

#[test]
fn a_file_that_is_no_copy_names_no_other() {
    let text = String::from_utf8(sample()).unwrap();
    let text = text.replacen("of: 0001f2e3d4c5b6a6\n", "", 1);
    assert_eq!(parse(text.as_bytes()).unwrap().log_of(), "");
    let bad = text.replacen("from: ", "of: 1\nfrom: ", 1);
    assert_eq!(parse(bad.as_bytes()), Err(Fault::Line("of")));
}

#[test]
fn fields_are_rewritten_in_place() {
    let mut bytes = sample();
    let read = parse(&bytes).unwrap();
    put(&mut bytes, read.tries_at, &tries_field(u32::MAX));
    put(
        &mut bytes,
        read.recipients[1].state_at,
        state_field(State::Done),
    );
    put(
        &mut bytes,
        read.recipients[1].answer_at,
        &answer_field("mx said: 250 \u{e9}\n"),
    );
    let again = parse(&bytes).unwrap();
    assert_eq!(again.tries, u32::MAX);
    assert_eq!(
        (again.recipients[0].state, again.recipients[1].state),
        (State::Waiting, State::Done)
    );
    assert_eq!(again.recipients[1].last_answer, "mx said: 250 ??");
    assert_eq!(answer_field(&"x".repeat(999)).len(), ANSWER_WIDTH);
}

#[test]
fn a_torn_state_is_waiting() {
    let clean = sample();
    let at = parse(&clean).unwrap().recipients[0].state_at;
    for cut in 0..7 {
        for (first, second) in [(WAITING, DONE), (DONE, WAITING)] {
            let mut bytes = clean.clone();
            put(&mut bytes, at, &first[..cut]);
            put(&mut bytes, at + cut, &second[cut..]);
            let done = parse(&bytes).unwrap().recipients[0].state == State::Done;
            assert_eq!(done, cut == 0 && second == DONE, "torn after {cut}");
        }
    }
}

#[test]
fn every_cut_is_unfinished() {
    let bytes = sample();
    for cut in 0..bytes.len() {
        assert_eq!(
            parse(&bytes[..cut]).unwrap_err(),
            Fault::Unfinished,
            "cut at {cut}"
        );
    }
}

#[test]
fn damage_is_named() {
    let rows: &[(&str, &str, Fault)] = &[
        ("spool 1", "spool 2", Fault::Magic),
        (
            "id: 0001f2e3d4c5b6a7",
            "id: 0001F2E3D4C5B6A7",
            Fault::Line("id"),
        ),
        ("from: <john", "from: <jo<n", Fault::Line("from")),
        ("2026-11-2", "2026-19-2", Fault::Line("received")),
        ("tries: 0", "tries: x", Fault::Line("tries")),
        ("size: 0", "size: -", Fault::Line("size")),
        (
            "size: 00000000000000000012",
            "size: 99999999999999999999",
            Fault::Line("size"),
        ),
        ("origin: r", "origin: R", Fault::Line("origin")),
        ("orig_to: <", "orig_to: (", Fault::Line("orig_to")),
        ("to: waiting", "to: wasting", Fault::Line("to")),
        ("to: waiting <m", "to: waiting\t<m", Fault::Line("to")),
        ("  answer: ", "  answer; ", Fault::Line("answer")),
        (
            "<mary@example.net>",
            "<mary@@xample.net>",
            Fault::Line("to"),
        ),
    ];
    let good = String::from_utf8(sample()).unwrap();
    for (from, to, fault) in rows {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert_eq!(parse(bad.as_bytes()).unwrap_err(), *fault, "{to}");
    }
    let end = parse(good.as_bytes()).unwrap().recipients[0].state_at - "to: ".len();
    let nobody = format!("{}\n", &good[..end]);
    assert_eq!(parse(nobody.as_bytes()).unwrap_err(), Fault::Line("to"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_change_is_survived(at in 0usize..700, byte: u8) {
        let mut bytes = sample();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(read) = parse(&bytes) {
            assert!(read.body_at <= bytes.len());
        }
    }
}
