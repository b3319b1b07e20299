//! Messages that carry a checksum of themselves: made, sent, and known again wherever they turn up.

use std::hash::{DefaultHasher, Hasher};
use std::sync::LazyLock;

/// The largest body.
pub const LARGEST: usize = 8 << 20;

/// Text to cut bodies from: lines that need quoting in an mbox, dots that need doubling on the wire.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let lines = "a line of text among others, to be found again as it was, and long enough to be one of few\n\
        From the first line of a message it looks like\n>From was quoted once\n.\n..\n.dot\n\
        \n\u{e9}\u{e8} and other octets above 127\n";
    lines.repeat(LARGEST / lines.len())
});

/// A whole message with LF line ends, of about `size` octets.
pub fn letter(id: u64, size: usize) -> String {
    let cut = &TEXT.as_bytes()[..size.min(TEXT.len())];
    let end = cut.iter().rposition(|&octet| octet == b'\n');
    let body = &TEXT[..end.map_or(0, |end| end + 1)];
    format!(
        "X-Id: {id}\nX-Size: {}\nX-Sum: {:016x}\n\n{body}",
        body.len(),
        sum(id, body)
    )
}

/// As it goes over the wire, without the final dot.
pub fn wire(letter: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(letter.len() + letter.len() / 20);
    for line in letter.split_terminator('\n') {
        if line.starts_with('.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// The opposite.
pub fn unwire(wire: &str) -> String {
    let mut letter = String::with_capacity(wire.len());
    for line in wire.split_terminator('\n') {
        let line = line.strip_prefix('.').unwrap_or(line);
        letter.push_str(line.strip_suffix('\r').unwrap_or(line));
        letter.push('\n');
    }
    letter
}

/// The id of the letter at the end of `text`, whatever was put on top of it; the reason if it is not whole.
pub fn known(text: &str) -> Result<u64, String> {
    let start = find(text.as_bytes(), b"X-Id: ").ok_or("no letter of ours")?;
    let letter = &text[start..];
    let (head, body) = letter.split_once("\n\n").ok_or("torn in its header")?;
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned).ok_or(format!("no {name} in it"))
    };
    let id: u64 = field("X-Id: ")?.parse().map_err(|_| "a torn id")?;
    if field("X-Size: ")? != body.len().to_string() {
        return Err(format!("letter {id} has {} octets: {head}", body.len()));
    }
    if field("X-Sum: ")? != format!("{:016x}", sum(id, body)) {
        return Err(format!("letter {id} is not what it was"));
    }
    Ok(id)
}

/// The letters of an mbox, by an independent reading of the format. Whatever is not a whole letter is an error.
pub fn letters(mbox: &str) -> Result<Vec<u64>, String> {
    let mut messages: Vec<String> = Vec::new();
    for line in mbox.split_inclusive('\n') {
        if line.starts_with("From ") {
            messages.push(String::new());
        }
        let message = messages.last_mut().ok_or("no From line first")?;
        let quoted = line.starts_with('>') && line.trim_start_matches('>').starts_with("From ");
        message.push_str(if quoted { &line[1..] } else { line });
    }
    let one = |(number, message): (usize, &String)| {
        let whole = message.strip_suffix('\n').ok_or("no line end".to_owned());
        whole
            .and_then(known)
            .map_err(|why| format!("message {number}: {why}"))
    };
    messages.iter().enumerate().map(one).collect()
}

fn sum(id: u64, body: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(id);
    hasher.write(body.as_bytes());
    hasher.finish()
}

/// Searches the first kilobytes only: what is looked for is in a header.
pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text[..text.len().min(16 << 10)]
        .windows(what.len())
        .position(|found| found == what)
}

#[test]
fn a_letter_is_known_again_and_a_torn_one_is_not() {
    let letter = letter(7, 100_000);
    assert_eq!(
        known(&unwire(std::str::from_utf8(&wire(&letter)).unwrap())),
        Ok(7)
    );
    assert!(known(&letter[..letter.len() - 1]).is_err());
    let quote = |line: &str| match line.trim_start_matches('>').starts_with("From ") {
        true => format!(">{line}"),
        false => line.to_owned(),
    };
    let quoted: String = letter.split_inclusive('\n').map(quote).collect();
    let mbox = format!("From a@b\nReturn-Path: <a@b>\n{quoted}\n");
    assert_eq!(letters(&mbox.repeat(3)), Ok(vec![7; 3]));
    for cut in [1, 2, 70, 50_000] {
        assert!(letters(&mbox[..mbox.len() - cut]).is_err(), "{cut}");
    }
}
