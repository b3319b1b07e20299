//! The replies of a next hop: every split gives the same replies and the same fault; all of it bounded and printable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd788::smtp::reply::{REPLY_MAX, RemoteReply, ReplyError, ReplyReader};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else {
        return;
    };
    let whole = read(input, usize::MAX);
    assert_eq!(whole, read(input, 1 + usize::from(choice)));
    assert_eq!(whole, read(input, 1));
});

fn read(input: &[u8], piece: usize) -> (Vec<RemoteReply>, Option<ReplyError>) {
    let (mut reader, mut replies) = (ReplyReader::default(), Vec::new());
    for mut piece in input.chunks(piece) {
        while !piece.is_empty() {
            let (used, reply) = match reader.feed(piece) {
                Ok(step) => step,
                Err(error) => return (replies, Some(error)),
            };
            assert!(reply.is_some() || used == piece.len(), "it stands still");
            piece = &piece[used..];
            replies.extend(reply);
        }
    }
    for reply in &replies {
        assert!((200..600).contains(&reply.code));
        assert!((1..=100).contains(&reply.lines.len()));
        assert!(reply.lines.iter().all(|line| line.len() <= REPLY_MAX));
        let shown = reply.to_string();
        assert!(shown.bytes().all(|octet| matches!(octet, b' '..=b'~')));
    }
    (replies, None)
}
