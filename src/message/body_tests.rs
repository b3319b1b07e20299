//! Bodies in memory and in files, in pieces of any size.

use super::*;

/// Pushes `content` in pieces of `size`.
fn written(content: &[u8], size: usize) -> Body {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = BodyWriter::new(folder.path());
    content.chunks(size).for_each(|piece| writer.push(piece));
    writer.finish().unwrap()
}

fn read(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.reader().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn of_what_is_larger_than_memory_the_beginning_is_in_a_file() {
    let content: Vec<u8> = (0..MEMORY_LIMIT * 3 + 7).map(|i| (i % 251) as u8).collect();
    for len in [
        0,
        1,
        BUFFER_MAX + 1,
        MEMORY_LIMIT - 1,
        MEMORY_LIMIT,
        MEMORY_LIMIT + 1,
        content.len(),
    ] {
        for size in [100, 65_536, content.len()] {
            let body = written(&content[..len], size);
            assert!(read(&body) == content[..len], "{len} in pieces of {size}");
            assert_eq!(body.len(), len as u64);
            assert_eq!(body.as_bytes().is_some(), len <= MEMORY_LIMIT);
            assert!(body.rest.capacity() <= MEMORY_LIMIT);
            assert!(!body.may_need_quoting());
        }
    }
}

#[test]
fn a_line_to_be_quoted_is_seen_wherever_the_content_is_cut() {
    let len = MEMORY_LIMIT + 1000;
    for at in [
        0,
        SPILL - 5,
        SPILL - 4,
        SPILL - 1,
        SPILL,
        MEMORY_LIMIT - 3,
        MEMORY_LIMIT,
        len - 5,
    ] {
        let mut content = vec![b'\n'; len];
        content[at..at + 5].copy_from_slice(b"From ");
        for size in [79, 65_536] {
            assert!(written(&content, size).may_need_quoting(), "at {at}");
        }
    }
}

#[test]
fn what_begins_a_header_and_what_does_not() {
    let long = |n: usize| format!("{}: x\n", "x".repeat(n));
    let all_name = "x".repeat(2 * MEMORY_LIMIT);
    for (content, expected) in [
        ("Subject: x\n", true),
        ("Subject:\n", true),
        ("Subject : x\n", true),
        ("Subject \t : x\n", true),
        ("!#$~: x\n", true),
        (":\n", false),
        ("\nSubject: x\n", true),
        ("\n", true),
        ("", true),
        (&long(997), true),
        (&long(998), false),
        (&all_name, false),
        (" (text)\n", false),
        ("\tid x: y\n", false),
        (" : x\n", false),
        ("Subject\n: x\n", false),
        ("Subject x: y\n", false),
        ("From a@b Sat Nov 21 22:30:01 2026\nSubject: x\n", false),
        (">From a@b Sat Nov 21 22:30:01 2026\n", false),
        ("From: a@b\n", true),
        ("hello\n", false),
        ("S\u{fc}bject: x\n", false),
        ("Sub\0ject: x\n", false),
        ("Sub\x7fject: x\n", false),
    ] {
        for size in [1, 7, usize::MAX] {
            let found = written(content.as_bytes(), size).begins_with_header();
            assert_eq!(found, expected, "{content:.40?}");
        }
    }
    let large = format!("a: b\n{}", "x".repeat(2 * MEMORY_LIMIT));
    assert!(written(large.as_bytes(), 1000).begins_with_header());
    assert!(written(large.as_bytes(), 1000).region.is_some());
}

#[test]
fn a_failed_write_is_told_at_the_end() {
    let mut writer = BodyWriter::new(Path::new("/nowhere"));
    for _ in 0..3 {
        writer.push(&[b'x'; MEMORY_LIMIT]);
    }
    assert_eq!(writer.buffer.capacity(), 0, "nothing is kept for nothing");
    assert_eq!(writer.finish().unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_the_device_forgot_is_never_read_as_content() {
    let content: Vec<u8> = (0..MEMORY_LIMIT * 3 + 7).map(|i| (i % 251) as u8).collect();
    for (at, len) in [(0, 1), (SPILL - 1, 1), (SPILL, 4096), (4 * SPILL, SPILL)] {
        let body = written(&content, 65_536);
        let region = body.region.as_ref().unwrap();
        assert_eq!(region.len as usize, 5 * SPILL);
        let file = &region.file;
        file.write_all_at(&vec![0xff; len], at as u64).unwrap();
        let mut got = Vec::new();
        body.reader().read_to_end(&mut got).unwrap_err();
        assert!(got == content[..at - at % SPILL], "{len} octets at {at}");
    }
}
