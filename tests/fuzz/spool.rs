//! The head of a spool file: any octets are an envelope or a fault; what is read and written again reads the same; a head
//! that is cut short is never taken for a whole one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd788::spool::format::{
    Envelope, Fault, NewRecipient, Recipient, answer_field, envelope, parse, state_field, tries_field,
};

fuzz_target!(|input: &[u8]| {
    let Ok(read) = parse(input) else {
        return;
    };
    assert!(read.body_at <= input.len() && !read.recipients.is_empty());
    let head = &input[..read.body_at];
    assert!(head.ends_with(b"\n\n"));
    for end in 0..head.len() {
        assert_eq!(parse(&head[..end]).unwrap_err(), Fault::Unfinished);
    }
    let again = written(&read);
    let reread = parse(&again).expect("what is written is read");
    assert_eq!(reread.body_at, again.len());
    assert_eq!(facts(&reread), facts(&read));
    assert_eq!(written(&reread), again);
});

/// As the spool would have written it.
fn written(read: &Envelope) -> Vec<u8> {
    let recipient = |slot: &Recipient| NewRecipient {
        to: slot.to.clone(),
        orig_to: slot.orig_to.clone(),
    };
    let to: Vec<_> = read.recipients.iter().map(recipient).collect();
    let (mut bytes, _) = envelope(
        read.id,
        read.of,
        &read.from,
        read.received,
        read.origin,
        &to,
        read.size,
    );
    let fresh = parse(&bytes).expect("a fresh envelope");
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(fresh.tries_at, &tries_field(read.tries));
    for (at, is) in fresh.recipients.iter().zip(&read.recipients) {
        put(at.state_at, state_field(is.state));
        put(at.answer_at, &answer_field(&is.last_answer));
    }
    bytes
}

fn facts(envelope: &Envelope) -> impl PartialEq + std::fmt::Debug {
    let recipients: Vec<_> = envelope
        .recipients
        .iter()
        // Not what an answer says: an octet that we would not have written is written as `?`.
        .map(|slot| {
            let answer = slot.last_answer.chars().count();
            (slot.to.clone(), slot.orig_to.clone(), slot.state, answer)
        })
        .collect();
    (
        envelope.id,
        envelope.from.clone(),
        envelope.origin.word(),
        envelope.tries,
        envelope.size,
        recipients,
    )
}
