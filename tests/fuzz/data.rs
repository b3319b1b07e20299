//! Mail data: whole against split input agree, the end is where the RFC says, and what is sent is what is received.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd788::smtp::data::{DataReader, DataWriter};
use smtpd788::smtp::line::LineEnd;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else {
        return;
    };
    let piece = 1 + usize::from(choice >> 1);
    for end in [LineEnd::CrLf, LineEnd::Lf] {
        let whole = read(end, input, usize::MAX);
        let split = read(end, input, piece);
        assert_eq!(
            (whole.used, whole.done, whole.bad),
            (split.used, split.done, split.bad)
        );
        if !whole.bad {
            assert_eq!(whole.content, split.content);
            assert!(!whole.content.contains(&b'\r') || !whole.done);
        }
        if end == LineEnd::CrLf {
            let with_data_line = [b"\r\n", input].concat();
            let dot = with_data_line.windows(5).position(|at| at == b"\r\n.\r\n");
            assert_eq!(whole.done, dot.is_some());
            assert_eq!(whole.used, dot.map_or(input.len(), |at| at + 3));
        }
    }
    // Out and in again.
    let mut content: Vec<u8> = input
        .iter()
        .copied()
        .filter(|octet| *octet != b'\r')
        .collect();
    let (mut writer, mut sent) = (DataWriter::default(), Vec::new());
    for piece in content.chunks(piece) {
        writer.feed(piece, &mut sent);
    }
    writer.finish(&mut sent);
    if !content.is_empty() && !content.ends_with(b"\n") {
        content.push(b'\n');
    }
    let received = read(LineEnd::CrLf, &sent, piece);
    assert!(received.done && !received.bad && received.used == sent.len());
    assert_eq!(received.content, content);
});

struct Read {
    content: Vec<u8>,
    used: usize,
    done: bool,
    bad: bool,
}

fn read(end: LineEnd, input: &[u8], piece: usize) -> Read {
    let mut reader = DataReader::new(end);
    let (mut content, mut used, mut done) = (Vec::new(), 0, false);
    for piece in input.chunks(piece) {
        let progress = reader.feed(piece, &mut |slice| content.extend_from_slice(slice));
        used += progress.used;
        done = progress.done;
        if done {
            break;
        }
        assert_eq!(progress.used, piece.len());
    }
    let bad = reader.is_bad();
    Read {
        content,
        used,
        done,
        bad,
    }
}
