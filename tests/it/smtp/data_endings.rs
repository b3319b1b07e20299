//! The end of mail data, in every form seen in the wild: each row is read whole, octet by octet, and
//! split at every point, with commands after it that must be left alone.

use smtpd788::smtp::data::DataReader;
use smtpd788::smtp::line::LineEnd::{self, CrLf, Lf};

/// What a row's input does to a reader.
#[derive(Clone, Copy, Debug)]
enum Means {
    /// It ends the data; this is the content.
    Ends(&'static str),
    /// It ends the data of a bad message.
    EndsBad,
    /// It does not end the data: more is wanted.
    More,
    /// It does not end the data, and the message is bad.
    MoreBad,
}

use Means::{Ends, EndsBad, More, MoreBad};

/// Reason, line end of the session, input, meaning.
const ROWS: &[(&str, LineEnd, &str, Means)] = &[
    // The standard.
    ("empty message", CrLf, ".\r\n", Ends("")),
    ("one empty line", CrLf, "\r\n.\r\n", Ends("\n")),
    ("one line", CrLf, "a\r\n.\r\n", Ends("a\n")),
    (
        "header and body",
        CrLf,
        "a: b\r\n\r\nc\r\n.\r\n",
        Ends("a: b\n\nc\n"),
    ),
    ("dot inside a line", CrLf, "a.b.\r\n.\r\n", Ends("a.b.\n")),
    (
        "8-bit and NUL",
        CrLf,
        "\u{fc}\0\u{7f}\r\n.\r\n",
        Ends("\u{fc}\0\u{7f}\n"),
    ),
    // Transparency.
    ("two dots", CrLf, "..\r\n.\r\n", Ends(".\n")),
    (
        "two dots after a line",
        CrLf,
        "a\r\n..\r\n.\r\n",
        Ends("a\n.\n"),
    ),
    ("three dots", CrLf, "...\r\n.\r\n", Ends("..\n")),
    ("dot and text", CrLf, ".x\r\n.\r\n", Ends("x\n")),
    ("dot and space", CrLf, ". \r\n.\r\n", Ends(" \n")),
    ("dot and 8-bit", CrLf, ".\u{fc}\r\n.\r\n", Ends("\u{fc}\n")),
    ("NUL before the dot", CrLf, "\0.\r\n.\r\n", Ends("\0.\n")),
    ("NUL after the dot", CrLf, ".\0\r\n.\r\n", Ends("\0\n")),
    ("quit is text", CrLf, "quit\r\n.\r\n", Ends("quit\n")),
    // Not the end in a <CRLF> session.
    ("nothing", CrLf, "", More),
    ("a lone dot so far", CrLf, "a\r\n.", More),
    ("dot CR so far", CrLf, "a\r\n.\r", More),
    ("LF.LF", CrLf, "a\n.\n", MoreBad),
    ("LF.CRLF", CrLf, "a\n.\r\n", MoreBad),
    ("CRLF.LF", CrLf, "a\r\n.\n", MoreBad),
    ("CR.CR", CrLf, "a\r.\r", MoreBad),
    ("CR.CRLF", CrLf, "a\r.\r\n", MoreBad),
    ("CRLF.CR", CrLf, "a\r\n.\rb", MoreBad),
    ("CRLF.CR CR LF", CrLf, "a\r\n.\r\r\n", MoreBad),
    ("LF CR.CRLF", CrLf, "a\n\r.\r\n", MoreBad),
    ("LF first", CrLf, "\n.\r\n", MoreBad),
    ("dot LF first", CrLf, ".\n", MoreBad),
    ("dot CR CR LF first", CrLf, ".\r\r\n", MoreBad),
    ("space after the dot", CrLf, "a\r\n. \r\n", More),
    // Bad, and ended by the true end.
    ("LF.LF inside", CrLf, "a\n.\nb\r\n.\r\n", EndsBad),
    ("LF.CRLF inside", CrLf, "a\n.\r\nb\r\n.\r\n", EndsBad),
    ("CRLF.LF inside", CrLf, "a\r\n.\nb\r\n.\r\n", EndsBad),
    (
        "CRLF.CR CR LF inside",
        CrLf,
        "a\r\n.\r\r\nb\r\n.\r\n",
        EndsBad,
    ),
    ("CRLF.CR CRLF.CRLF", CrLf, "a\r\n.\r\r\n.\r\n", EndsBad),
    ("CR.CR inside", CrLf, "a\r.\rb\r\n.\r\n", EndsBad),
    ("CR before CRLF", CrLf, "a\r\r\n.\r\n", EndsBad),
    ("LF before CRLF", CrLf, "a\n\r\n.\r\n", EndsBad),
    ("CR inside", CrLf, "a\rb\r\n.\r\n", EndsBad),
    ("CR first", CrLf, "\rb\r\n.\r\n", EndsBad),
    ("CR CR LF first", CrLf, "\r\r\n.\r\n", EndsBad),
    // A session at plain netcat.
    ("empty message", Lf, ".\n", Ends("")),
    ("empty message, CRLF", Lf, ".\r\n", Ends("")),
    ("one empty line", Lf, "\n.\n", Ends("\n")),
    ("one line", Lf, "a\n.\n", Ends("a\n")),
    ("two lines", Lf, "a\nb\n.\n", Ends("a\nb\n")),
    ("two dots", Lf, "..\n.\n", Ends(".\n")),
    ("dot and text", Lf, "a\n.x\n.\n", Ends("a\nx\n")),
    ("LF.CRLF", Lf, "a\n.\r\n", Ends("a\n")),
    ("CRLF.LF", Lf, "a\r\n.\n", Ends("a\n")),
    ("CRLF.CRLF", Lf, "a\r\n.\r\n", Ends("a\n")),
    ("mixed", Lf, "a\r\nb\n\r\n.\n", Ends("a\nb\n\n")),
    ("8-bit and NUL", Lf, "\u{fc}\0\n.\n", Ends("\u{fc}\0\n")),
    ("a lone dot so far", Lf, "a\n.", More),
    ("dot CR so far", Lf, "a\n.\r", More),
    ("NUL before the dot", Lf, "a\n\0.\n", More),
    ("NUL after the dot", Lf, "a\n.\0\n", More),
    ("CR.CR", Lf, "a\r.\r", MoreBad),
    ("CR.LF", Lf, "a\r.\n", MoreBad),
    ("LF.CR CR LF", Lf, "a\n.\r\r\n", MoreBad),
    ("LF CR.LF", Lf, "a\n\r.\n", MoreBad),
    ("LF.CR text", Lf, "a\n.\rb\n", MoreBad),
    ("CR inside", Lf, "a\rb\n.\n", EndsBad),
    ("CR CR LF", Lf, "a\r\r\n.\n", EndsBad),
    ("dot CR CR LF", Lf, ".\r\r\n.\n", EndsBad),
];

/// Input that is not data any more.
const NEXT: &str = "QUIT\r\n";

/// Content, octets used, end reached, bad.
type Found = (Vec<u8>, usize, bool, bool);

fn read<'a>(end: LineEnd, pieces: impl Iterator<Item = &'a [u8]>) -> Found {
    let mut reader = DataReader::new(end);
    let (mut content, mut used, mut done) = (Vec::new(), 0, false);
    for piece in pieces {
        let progress = reader.feed(piece, &mut |slice| content.extend_from_slice(slice));
        used += progress.used;
        done = progress.done;
        assert!(
            done || progress.used == piece.len(),
            "all is used before the end"
        );
    }
    (content, used, done, reader.is_bad())
}

fn check(reason: &str, end: LineEnd, input: &[u8], means: Means) {
    let (ends, bad, content) = match means {
        Ends(content) => (true, false, Some(content.as_bytes())),
        EndsBad => (true, true, None),
        More => (false, false, None),
        MoreBad => (false, true, None),
    };
    let mut all = input.to_vec();
    if ends {
        all.extend_from_slice(NEXT.as_bytes());
    }
    let splits = (0..=all.len()).map(|at| {
        let (first, second) = all.split_at(at);
        read(end, [first, second].into_iter())
    });
    for found in [read(end, [&all[..]].into_iter()), read(end, all.chunks(1))]
        .into_iter()
        .chain(splits)
    {
        let expected = (input.len(), ends, bad);
        assert_eq!((found.1, found.2, found.3), expected, "{reason}, {end:?}");
        if let Some(content) = content {
            assert_eq!(found.0, content, "{reason}, {end:?}");
        }
    }
}

#[test]
fn every_ending() {
    for (reason, end, input, means) in ROWS {
        check(reason, *end, input.as_bytes(), *means);
    }
}

#[test]
fn long_lines() {
    let content: &'static str = format!("{}\n{}\n", "x".repeat(3000), ".".repeat(2000)).leak();
    let sent = format!("{}\r\n.{}\r\n.\r\n", "x".repeat(3000), ".".repeat(2000));
    check("long lines", CrLf, sent.as_bytes(), Ends(content));
    let sent = sent.replace('\r', "");
    check("long lines", Lf, sent.as_bytes(), Ends(content));
}
