//! The rule of `src/smtp/`: bytes in, values out. No socket, file, clock, thread or print, and nothing
//! that panics by design. Only its own modules, value types of the standard library, `memchr` and
//! `thiserror` are imported.

use std::fs;
use std::path::Path;

/// What may follow `use `, `pub use ` or stand as `std::...` in the code.
const IMPORTS: [&str; 8] = [
    "super::",
    "core::net::{IpAddr",
    "std::borrow::",
    "std::fmt",
    "std::hash::",
    "std::mem",
    "std::str::",
    "memchr::",
];

/// Names that have no business here, whatever their path.
const FORBIDDEN: [&str; 22] = [
    "std::net",
    "std::io",
    "std::fs",
    "std::thread",
    "std::time",
    "std::process",
    "std::env",
    "std::sync",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "SocketAddr",
    "UnixStream",
    "SystemTime",
    "Instant",
    "crate::",
    "log::",
    "nix::",
    "print!",
    "println!",
    "dbg!",
    "unsafe",
];

/// What must not be outside tests: the protocol never panics.
const PANICS: [&str; 6] = [
    ".unwrap()",
    ".expect(",
    "panic!",
    "todo!",
    "unreachable!",
    "unimplemented!",
];

#[test]
fn smtp_is_pure() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/smtp");
    let mut files = 0;
    let mut faults = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        files += 1;
        faults.extend(check(&name, &text));
    }
    assert!(files >= 7, "the files are found");
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn impurities_are_found() {
    for code in [
        "use std::net::TcpStream;",
        "let s = core::net::SocketAddr::new();",
        "use std::{fs, fmt};",
        "fn f() { std::thread::spawn(|| ()); }",
        "use std::time::Instant;",
        "println!(\"x\");",
        "    eprintln!(\"x\");",
        "log::info!(\"x\");",
        "use crate::config::Config;",
        "x.unwrap();",
        "use std::collections::HashMap;",
        "use rand::random;",
    ] {
        assert_eq!(check("x", code).len(), 1, "{code}");
    }
    for code in [
        "// no std::net here",
        "use super::address::Host;",
        "use core::net::{IpAddr, Ipv4Addr};",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    x.unwrap();",
    ] {
        assert_eq!(check("x", code).len(), 0, "{code}");
    }
}

/// One fault for each bad line.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut in_tests = false;
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        in_tests |= line == "#[cfg(test)]";
        let code = line.split("//").next().unwrap().trim();
        let import = code.trim_start_matches("pub ").strip_prefix("use ");
        let foreign = import.is_some_and(|path| !IMPORTS.iter().any(|ok| path.starts_with(ok)));
        let foreign = foreign && !in_tests && !code.starts_with("use State::");
        let forbidden = FORBIDDEN.iter().any(|word| code.contains(word));
        let panics = !in_tests && PANICS.iter().any(|word| code.contains(word));
        if foreign || forbidden || panics {
            faults.push(format!("{name}:{number}: {code}"));
        }
    }
    faults
}
