//! Addresses, paths and command lines: what is parsed is written clean, short, and parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd788::smtp::address::{ForwardPath, Host, Mailbox, PATH_MAX, ReversePath};
use smtpd788::smtp::command::{Command, is_http};
use std::fmt::{Debug, Display};
use std::str::FromStr;

fuzz_target!(|input: &[u8]| {
    is_http(input);
    match Command::parse(input) {
        Ok(Command::Mail(path)) => same(&path),
        Ok(Command::Rcpt(path)) => same(&path),
        Ok(Command::Helo(host)) => same(&host),
        Ok(_) => {}
        Err(reply) => assert!((500..=502).contains(&reply.code())),
    }
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    if let Ok(host) = text.parse::<Host>() {
        same(&host);
    }
    if let Ok(mailbox) = text.parse::<Mailbox>() {
        same(&mailbox);
        assert!((1..=PATH_MAX).contains(&mailbox.user().len()));
        // The parts make the whole.
        let again = Mailbox::new(mailbox.user(), mailbox.host().clone());
        assert_eq!(again.as_ref(), Ok(&mailbox));
        // A path is the mailbox in brackets, and a command holds it.
        let path = ForwardPath(mailbox.clone());
        assert_eq!(path.to_string(), format!("<{mailbox}>"));
        let line = format!("rcpt to:{path}");
        assert_eq!(Command::parse(line.as_bytes()), Ok(Command::Rcpt(path)));
    }
    if let Ok(path) = text.parse::<ForwardPath>() {
        same(&path);
    }
    if let Ok(path) = text.parse::<ReversePath>() {
        same(&path);
    }
});

fn same<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(value: &T) {
    let written = value.to_string();
    assert!(written.len() <= PATH_MAX, "{written}");
    assert!(written.bytes().all(|octet| matches!(octet, b' '..=b'~')));
    assert_eq!(&written.parse::<T>().unwrap(), value, "{written}");
}
