//! The rules of the tree of `src`, checked on every path of this crate that a file names outside its tests:
//!
//! ```text
//! main > daemon > {receive, relay} > store > {message, net} > smtp
//! ```
//!
//! Imports point down; receive and relay never name each other, nor do message and net. No files or folders import each
//! other, directly or in a ring. Only `daemon/log` prints; only `net/dns.rs` is async. A folder has at most nine entries,
//! a file at most 400 lines.
//!
//! A folder's `mod.rs` may hand on what its files have (`pub use`); who imports it from there imports it from its file.

use super::source::{Edge, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// From the bottom.
const LAYERS: [&[&str]; 6] = [
    &["smtp"],
    &["message", "net"],
    &["store"],
    &["receive", "relay"],
    &["daemon"],
    &["main.rs"],
];
/// Top-level folders and files of which one imports the other, at most.
const PAIRS: usize = 25;
const ENTRIES: usize = 9;
const LINES: usize = 400;

static SOURCE: LazyLock<Source> = LazyLock::new(Source::read);

/// Entries of one folder, of which the first imports the second, and a place where it does.
type Siblings = BTreeMap<(PathBuf, PathBuf), String>;

/// Says what names what.
fn place(source: &Source, edge: &Edge) -> String {
    let (from, to) = (&source.files[edge.from], &source.files[edge.to]);
    let (from, to) = (from.path.display(), to.path.display());
    format!("src/{from}:{} names src/{to}", edge.line)
}

/// The layer of a file, and its folder at the top.
fn layer(path: &Path) -> (Option<usize>, &str) {
    let top = path.iter().next().unwrap().to_str().unwrap();
    (LAYERS.iter().position(|layer| layer.contains(&top)), top)
}

fn upward(source: &Source) -> Vec<String> {
    let mut edges = source.edges();
    edges.retain(|edge| {
        let (from, to) = (&source.files[edge.from].path, &source.files[edge.to].path);
        let ((from, from_top), (to, to_top)) = (layer(from), layer(to));
        from_top != to_top && (from.is_none() || to.is_none() || from <= to)
    });
    let places: BTreeSet<_> = edges.iter().map(|edge| place(source, edge)).collect();
    places.into_iter().collect()
}

/// The imports as its folder sees them: between the entries of the folder that holds both.
fn siblings(source: &Source) -> Siblings {
    let mut found = BTreeMap::new();
    for edge in source.edges() {
        let (from, to) = (&source.files[edge.from].path, &source.files[edge.to].path);
        let common = from
            .iter()
            .zip(to.iter())
            .take_while(|(a, b)| a == b)
            .count();
        let entry = |path: &Path| path.iter().take(common + 1).collect::<PathBuf>();
        let pair = (entry(from), entry(to));
        found.entry(pair).or_insert_with(|| place(source, &edge));
    }
    found
}

/// What is imported, directly or through others.
fn reached_from<'a>(siblings: &'a Siblings, start: &'a PathBuf) -> BTreeSet<&'a PathBuf> {
    let (mut reached, mut new) = (BTreeSet::new(), vec![start]);
    while let Some(one) = new.pop() {
        let next = siblings.keys().filter(|(from, _)| from == one);
        new.extend(next.map(|(_, to)| to).filter(|to| reached.insert(*to)));
    }
    reached
}

/// Every import that is part of a ring: whom it imports leads back to who imports.
fn rings(siblings: &Siblings) -> Vec<String> {
    let is_of_a_ring = |(from, to): &(PathBuf, PathBuf)| reached_from(siblings, to).contains(from);
    let found = siblings.iter().filter(|(pair, _)| is_of_a_ring(pair));
    found.map(|(_, place)| place.clone()).collect()
}

/// The places outside tests and outside `home` that have one of the `words`.
fn words(source: &Source, home: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in source
        .files
        .iter()
        .filter(|file| !file.is_test && !file.path.starts_with(home))
    {
        let of_them = file
            .code
            .iter()
            .filter(|token| words.contains(&&*token.text));
        let path = file.path.display();
        found.extend(of_them.map(|token| format!("src/{path}:{}: {}", token.line, token.text)));
    }
    found
}

/// Files and folders that are too large.
fn large(source: &Source) -> Vec<PathBuf> {
    let mut entries: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for file in &source.files {
        let with_folders = file.path.ancestors();
        for (entry, folder) in with_folders.zip(with_folders.skip(1)) {
            entries.entry(folder).or_default().insert(entry);
        }
    }
    let long = source.files.iter().filter(|file| file.lines > LINES);
    let full = entries
        .iter()
        .filter(|(_, entries)| entries.len() > ENTRIES);
    let full = full.map(|(folder, _)| folder.to_path_buf());
    long.map(|file| file.path.clone()).chain(full).collect()
}

#[test]
fn imports_point_down() {
    let source = &*SOURCE;
    assert_eq!(upward(source), [""; 0]);
    let siblings = siblings(source);
    let at_the_top = siblings.keys().filter(|(from, _)| from.iter().count() == 1);
    let pairs: BTreeSet<_> = at_the_top
        .map(|(a, b)| if a < b { (a, b) } else { (b, a) })
        .collect();
    assert!(pairs.len() <= PAIRS, "{}: {pairs:#?}", pairs.len());
    assert!(
        pairs.len() >= LAYERS.len(),
        "the imports are found: {pairs:#?}"
    );
}

#[test]
fn nothing_imports_what_imports_it() {
    let siblings = siblings(&SOURCE);
    assert!(siblings.len() > 50, "the imports are found");
    assert_eq!(rings(&siblings), [""; 0]);
}

#[test]
fn only_the_log_prints() {
    const WORDS: [&str; 7] = [
        "print", "println", "eprint", "eprintln", "dbg", "stdout", "stderr",
    ];
    let source = &*SOURCE;
    assert_eq!(words(source, "daemon/log", &WORDS), [""; 0]);
    assert!(!words(source, "nowhere", &WORDS).is_empty());
}

#[test]
fn only_dns_is_async() {
    const WORDS: [&str; 4] = ["async", "await", "tokio", "trust_dns_resolver"];
    let source = &*SOURCE;
    assert_eq!(words(source, "net/dns.rs", &WORDS), [""; 0]);
    assert!(!words(source, "nowhere", &WORDS).is_empty());
}

#[test]
fn files_and_folders_are_small() {
    let source = &*SOURCE;
    let large = large(source);
    assert!(large.is_empty(), "too large: {large:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert!(fs::read_dir(root).unwrap().count() <= ENTRIES);
}

/// A tree in which each rule is broken once.
#[test]
fn what_breaks_a_rule_is_found_with_its_line() {
    let files = [
        (
            "lib.rs",
            "pub mod daemon; pub mod smtp; pub use store::spool;",
        ),
        ("main.rs", "use smtpd788::{daemon::run, spool::Spool};"),
        (
            "daemon/mod.rs",
            "mod log; mod other; pub use log::line; pub fn run() { other::f() }",
        ),
        ("daemon/log.rs", "fn line() { println!() }"),
        (
            "daemon/other.rs",
            "// use crate::daemon::run;\npub fn f() { super::line() }\nuse super::run;",
        ),
        ("store/mod.rs", "pub mod spool;"),
        (
            "store/spool.rs",
            "const A: &str = \"crate::daemon\"; use std::fs;\n\nfn f(x: &'a u8) { crate::daemon::run() }",
        ),
        (
            "receive/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::relay::Queue;\n}\nuse crate::{\n    smtp::*,\n    relay::{self, Queue},\n};",
        ),
        (
            "relay/mod.rs",
            "use super::smtp::Reply; #[cfg(test)] mod fakes; async fn f() {}",
        ),
        ("relay/fakes.rs", "use crate::receive::Handler;"),
        (
            "smtp/mod.rs",
            "fn f() -> char { '\"' } fn g(c: b'\\'') { crate::smtp::f() }",
        ),
    ];
    let file = |(path, text): (&str, &str)| (PathBuf::from(path), text.to_owned());
    let source = Source::of(files.map(file).into());
    assert_eq!(
        upward(&source),
        [
            "src/receive/mod.rs:7 names src/relay/mod.rs",
            "src/store/spool.rs:3 names src/daemon/mod.rs",
        ]
    );
    let found = siblings(&source);
    assert_eq!(
        found.values().collect::<Vec<_>>(),
        [
            "src/daemon/mod.rs:1 names src/daemon/other.rs",
            "src/daemon/other.rs:2 names src/daemon/log.rs",
            "src/daemon/other.rs:3 names src/daemon/mod.rs",
            "src/main.rs:1 names src/daemon/mod.rs",
            "src/main.rs:1 names src/store/spool.rs",
            "src/receive/mod.rs:7 names src/relay/mod.rs",
            "src/receive/mod.rs:6 names src/smtp/mod.rs",
            "src/relay/mod.rs:1 names src/smtp/mod.rs",
            "src/store/spool.rs:3 names src/daemon/mod.rs",
        ]
    );
    assert_eq!(
        rings(&found),
        [
            "src/daemon/mod.rs:1 names src/daemon/other.rs",
            "src/daemon/other.rs:3 names src/daemon/mod.rs",
        ]
    );
    assert_eq!(
        words(&source, "daemon/log.rs", &["println", "async"]),
        ["src/relay/mod.rs:1: async"]
    );
}
