//! Messages that are known again, octet by octet, wherever they turn up: in a mailbox, in the spool, at the next hop.

use std::sync::LazyLock;

/// The largest body.
pub const LARGEST: usize = 8 << 20;
/// A letter's body begins at a line below this: letters that follow each other have nothing in the same place.
const STARTS: usize = 4096;

/// A long text to cut bodies from, every line another one.
static PLAIN: LazyLock<Text> = LazyLock::new(|| {
    // Lines that need quoting in an mbox, dots that need doubling on the wire, blank ones, octets over 127.
    const LINES: [&str; 8] = [
        "a line of text among others, to be found again as it was, and long enough to be one of few",
        "From the first line of a message it looks like",
        ">From was quoted once",
        ".",
        "..",
        ".dot",
        "",
        "\u{e9}\u{e8} and other octets above 127",
    ];
    let (mut text, mut number) = (String::new(), 0);
    while text.len() < LARGEST + STARTS * 100 {
        text += &format!("{number}\n");
        for line in LINES {
            text += line;
            text += "\n";
        }
        number += 1;
    }
    Text::of(text)
});

/// The same lines as they are on the wire.
static WIRE: LazyLock<Text> = LazyLock::new(|| {
    PLAIN.changed(|line| {
        let dot = if line.starts_with('.') { "." } else { "" };
        format!("{dot}{line}\r\n")
    })
});

/// The same lines as they are in an mbox.
static QUOTED: LazyLock<Text> = LazyLock::new(|| {
    PLAIN.changed(|line| {
        let from = line.trim_start_matches('>').starts_with("From ");
        format!("{}{line}\n", if from { ">" } else { "" })
    })
});

struct Text {
    octets: String,
    /// Where each line begins, and the end.
    lines: Vec<usize>,
}

impl Text {
    fn of(octets: String) -> Text {
        let ends = octets.match_indices('\n').map(|(at, _)| at + 1);
        let lines = [0].into_iter().chain(ends).collect();
        Text { octets, lines }
    }

    fn changed(&self, change: impl Fn(&str) -> String) -> Text {
        Text::of(self.octets.lines().map(change).collect())
    }

    /// The body of letter `id`; nothing if the text has not so many lines.
    fn body(&self, id: u64, lines: usize) -> Option<&str> {
        let first = id as usize % STARTS;
        let end = *self.lines.get(first.checked_add(lines)?)?;
        Some(&self.octets[self.lines[first]..end])
    }
}

/// A letter of about `size` octets, as it goes over the wire, without the final dot.
pub fn wire(id: u64, size: usize) -> Vec<u8> {
    let first = id as usize % STARTS;
    let end = PLAIN.lines[first] + size.min(LARGEST);
    let lines = PLAIN.lines.partition_point(|&line| line <= end) - 1 - first;
    let head = format!("X-Id: {id}\r\nX-Lines: {lines}\r\n\r\n");
    (head + WIRE.body(id, lines).unwrap()).into_bytes()
}

/// The id and the body's lines, if `header` is a letter's own.
fn numbers(header: &str) -> Option<(u64, usize)> {
    let (id, lines) = header.split_once('\n')?;
    let id = id.trim_end().strip_prefix("X-Id: ")?.parse().ok()?;
    let lines = lines.trim().strip_prefix("X-Lines: ")?.parse().ok()?;
    Some((id, lines))
}

/// The id of the letter at the start of `text`, and what follows it; the reason if it is not whole.
fn first<'a>(form: &Text, text: &'a str) -> Result<(u64, &'a str), String> {
    let blank = ["\n\n", "\r\n\r\n"]
        .map(|blank| Some(find(text.as_bytes(), blank.as_bytes())? + blank.len()));
    let body = blank
        .into_iter()
        .flatten()
        .min()
        .ok_or("torn in its header")?;
    let (header, body) = text.split_at(body);
    let (id, lines) = numbers(header).ok_or_else(|| format!("no letter's header: {header:?}"))?;
    let wanted = form
        .body(id, lines)
        .ok_or_else(|| format!("letter {id} has no {lines} lines"))?;
    let rest = body
        .strip_prefix(wanted)
        .ok_or_else(|| format!("letter {id} is not what it was"))?;
    Ok((id, rest))
}

/// The id of the letter at the end of `text`, whatever was put on top of it; the reason if it is not whole.
pub fn known(text: &str) -> Result<u64, String> {
    let start = find(text.as_bytes(), b"X-Id: ").ok_or("no letter of ours")?;
    alone(first(&PLAIN, &text[start..])?)
}

/// The same of what came over the wire, without the final dot.
pub fn known_on_the_wire(text: &str) -> Result<u64, String> {
    let start = find(text.as_bytes(), b"X-Id: ").ok_or("no letter of ours")?;
    alone(first(&WIRE, &text[start..])?)
}

fn alone((id, rest): (u64, &str)) -> Result<u64, String> {
    match rest {
        "" => Ok(id),
        _ => Err(format!("letter {id} has {} octets more", rest.len())),
    }
}

/// The letters of an mbox, by an independent reading of the format. Whatever is not a whole letter is an error.
pub fn letters(mbox: &str) -> Result<Vec<u64>, String> {
    let (ids, _, torn) = leading_letters(mbox);
    torn.map_or(Ok(ids), Err)
}

/// The letters that an mbox begins with, and what follows them, with the reason why it is no whole letter.
pub fn leading_letters(mbox: &str) -> (Vec<u64>, &str, Option<String>) {
    let (mut ids, mut rest) = (Vec::new(), mbox);
    while !rest.is_empty() {
        match one(rest) {
            Ok((id, after)) => (ids.push(id), rest = after).0,
            Err(why) => {
                let why = format!("message {}: {why}", ids.len());
                return (ids, rest, Some(why));
            }
        }
    }
    (ids, rest, None)
}

/// The first message of an mbox, and what follows it.
fn one(mbox: &str) -> Result<(u64, &str), String> {
    let start = find(mbox.as_bytes(), b"X-Id: ").ok_or("no letter of ours")?;
    let mut heading = mbox[..start].lines();
    if !heading.next().is_some_and(|line| line.starts_with("From ")) {
        return Err("no From line first".to_owned());
    }
    let whole = |line: &&str| {
        let known = [
            "Return-Path: <",
            "Delivered-To: <",
            "Received: from ",
            "\t",
            " ",
        ];
        known.iter().any(|start| line.starts_with(start)) && !line.contains("From ")
    };
    if let Some(line) = heading.find(|line| !whole(line)) {
        return Err(format!("torn in its heading: {line:?}"));
    }
    let (id, rest) = first(&QUOTED, &mbox[start..])?;
    let rest = rest
        .strip_prefix('\n')
        .ok_or(format!("no blank line after letter {id}"))?;
    Ok((id, rest))
}

/// Searches the first kilobytes only: what is looked for is in a header.
pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(&text[..text.len().min(16 << 10)], what)
}

#[test]
fn a_letter_is_known_again_and_a_torn_one_is_not() {
    let sent = String::from_utf8(wire(7, 100_000)).unwrap();
    assert!((99_000..110_000).contains(&sent.len()), "{}", sent.len());
    assert_eq!(known_on_the_wire(&sent), Ok(7));
    assert!(known_on_the_wire(&sent[..sent.len() - 2]).is_err());
    let plain = |line: &str| line.strip_prefix('.').unwrap_or(line).to_owned() + "\n";
    let letter: String = sent.lines().map(plain).collect();
    assert_eq!(known(&letter), Ok(7));
    assert_eq!(known(&format!("D on top\n{letter}")), Ok(7));
    assert!(known(&letter[..letter.len() - 1]).is_err());
    assert!(known(&(letter.clone() + "\n")).is_err());
    let other = letter.replacen("X-Id: 7", "X-Id: 8", 1);
    assert!(known(&other).is_err(), "the body of another");
    let quote = |line: &str| match line.trim_start_matches('>').starts_with("From ") {
        true => format!(">{line}"),
        false => line.to_owned(),
    };
    let quoted: String = letter.split_inclusive('\n').map(quote).collect();
    let mbox = format!("From a@b\nReturn-Path: <a@b>\n{quoted}\n");
    assert_eq!(letters(&mbox.repeat(3)), Ok(vec![7; 3]));
    for cut in [1, 2, 70, 50_000, quoted.len(), mbox.len() - 12] {
        let torn = &mbox[..mbox.len() - cut];
        assert!(letters(torn).is_err(), "{cut}");
        assert!(letters(&format!("{torn}{mbox}")).is_err(), "{cut}");
        assert!(letters(&mbox[cut..]).is_err(), "{cut}");
    }
    assert!(letters(&mbox.replacen(">From the", "From the", 1)).is_err());
}
