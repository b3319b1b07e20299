//! Mailboxes and paths: good, torture and bad rows side by side, one reason a row.

use smtpd788::smtp::address::{AddressError, ForwardPath, Mailbox, ReversePath};

fn read(s: &str) -> Result<(String, String), AddressError> {
    let path: ForwardPath = s.parse()?;
    let written = path.to_string();
    assert_eq!(written.parse(), Ok(path.clone()), "{s} is read back");
    assert_eq!(
        path.mailbox().to_string().parse(),
        Ok(path.0.clone()),
        "{s}"
    );
    assert_eq!(s.parse(), Ok(ReversePath::Mailbox(path.0.clone())), "{s}");
    Ok((path.user().to_owned(), written))
}

#[test]
fn good_paths() {
    for (input, user, written) in [
        ("<john@example.org>", "john", "<john@example.org>"),
        // one user, three ways to write it
        (r#"<"john"@x>"#, "john", "<john@x>"),
        (r"<j\ohn@x>", "john", "<john@x>"),
        // what RFC 788 allows bare and RFC 5321 does not
        ("<Account.Person@x>", "Account.Person", "<Account.Person@x>"),
        ("<a b@x>", "a b", r#"<"a b"@x>"#),
        ("< @x>", " ", r#"<" "@x>"#),
        ("<.a..b.@x>", ".a..b.", r#"<".a..b."@x>"#),
        ("<[a]@x>", "[a]", r#"<"[a]"@x>"#),
        (
            "<!#$%&'*+-/=?^_`{|}~@x>",
            "!#$%&'*+-/=?^_`{|}~",
            "<!#$%&'*+-/=?^_`{|}~@x>",
        ),
        // the specials, only after a backslash
        (r"<Joe\,Smith@x>", "Joe,Smith", r#"<"Joe,Smith"@x>"#),
        (
            r#"<\<\>\(\)\\\,\;\:\@\"@x>"#,
            r#"<>()\,;:@""#,
            r#"<"<>()\\,;:@\""@x>"#,
        ),
        (
            r#"<"a@b\"c\\d e"@x>"#,
            r#"a@b"c\d e"#,
            r#"<"a@b\"c\\d e"@x>"#,
        ),
        // old ways to route are plain users
        ("<user%host@x>", "user%host", "<user%host@x>"),
        ("<host!user@x>", "host!user", "<host!user@x>"),
        // source routes are dropped
        ("<@A,u@C>", "u", "<u@C>"),
        ("<@A,@B,u@C>", "u", "<u@C>"),
        ("<@A,@B:u@C>", "u", "<u@C>"),
        ("<@[IPv6:2001:db8::1],@#1:u@C>", "u", "<u@C>"),
        (r#"<@A,"@B,u"@C>"#, "@B,u", r#"<"@B,u"@C>"#),
        // every kind of host
        ("<u@#1>", "u", "<u@[0.0.0.1]>"),
        ("<u@[010.002.000.052]>", "u", "<u@[10.2.0.52]>"),
        ("<u@[2001:db8::1]>", "u", "<u@[IPv6:2001:db8::1]>"),
    ] {
        let expected = Ok((user.to_owned(), written.to_owned()));
        assert_eq!(read(input), expected, "{input}");
    }
}

#[test]
fn bad_paths() {
    use AddressError::*;
    for (input, fault) in [
        ("", Brackets),
        ("u@x", Brackets),
        ("<u@x", Brackets),
        ("u@x>", Brackets),
        (" <u@x>", SpaceBefore),
        (" ", SpaceBefore),
        ("<<u@x>>", Quoting),
        ("<u@x> ", Trailing),
        ("<u@x>>", Trailing),
        ("<u@x> SIZE=1", Trailing),
        ("<> SIZE=1", Trailing),
        ("<>>", Trailing),
        ("<>x", Trailing),
        ("<u@x:y>", Trailing),
        ("<u>", NoHost),
        ("<u@>", NoHost),
        ("<@>", NoHost),
        ("<u@x@y>", Host),
        ("<u@x y>", Host),
        ("<@x>", Route),
        ("<@A@B,u@C>", Host),
        ("<@A;u@C>", Host),
        ("<@A,@B>", Route),
        ("<@-A,u@C>", Host),
        ("<@[1.2.3.4]u@C>", Route),
        ("<@A,@u@C>", Host),
        ("<@A:@B:u@C>", NoUser),
        ("<@A,:u@C>", Quoting),
        (r#"<""@x>"#, NoUser),
        (r#"<"u@x>"#, Quoting),
        (r#"<"u"v@x>"#, Quoting),
        (r#"<u"v"@x>"#, Quoting),
        (r#"<"a"."b"@x>"#, Quoting),
        (r"<u\@x>", NoHost),
        ("<u,v@x>", Quoting),
        ("<u(v)@x>", Quoting),
        ("<u\t@x>", Character),
        ("<\\\u{1}@x>", Character),
        ("<f\u{fc}r@x>", Character),
        ("<u@x\r\nDATA>", Character),
        ("<u@[1.2.3>", Literal),
        ("<u@[1.2.3]>", Literal),
        ("<u@#x>", Number),
    ] {
        assert_eq!(read(input), Err(fault), "{input}");
    }
}

#[test]
fn limits() {
    let host = |n: usize| ["x"; 128].join(".")[..n].to_owned();
    let user = |n: usize| "u".repeat(n);
    // the user part has no limit of its own
    for n in [64, 65, 70, 252] {
        assert!(read(&format!("<{}@x>", user(n))).is_ok());
    }
    assert!(read(&format!("<{}@x>", r"\u".repeat(126))).is_ok());
    let over = read(&format!("<{}@x>", user(253)));
    assert_eq!(over, Err(AddressError::PathTooLong));
    // the path counts as received, with brackets and route
    assert!(read(&format!("<u@{}>", host(251) + "x")).is_ok());
    let over = read(&format!("<u@{}>", host(253)));
    assert_eq!(over, Err(AddressError::PathTooLong));
    let over = read(&format!("<@{},u@x>", host(251)));
    assert_eq!(over, Err(AddressError::PathTooLong));
    // but a path that is short is not too long for what stands beside it
    let beside = user(300);
    for (input, fault) in [
        (format!("<u@x> {beside}"), AddressError::Trailing),
        (format!(" <u@x>{beside}"), AddressError::SpaceBefore),
        (beside, AddressError::Brackets),
    ] {
        assert_eq!(read(&input), Err(fault), "{input}");
    }
    // and as written, here with quotes
    let over = read(&format!("<.@{}>", host(251) + "x"));
    assert_eq!(over, Err(AddressError::PathTooLong));
}

#[test]
fn the_null_path_is_only_a_reverse_path() {
    assert_eq!("<>".parse(), Ok(ReversePath::Null));
    assert_eq!(ReversePath::Null.to_string(), "<>");
    let forward: Result<ForwardPath, _> = "<>".parse();
    assert_eq!(forward, Err(AddressError::NullForward));
    assert_eq!("< >".parse::<ReversePath>(), Err(AddressError::NoHost));
}

#[test]
fn mailboxes_compare_user_exactly_and_host_without_case() {
    let mailbox = |s: &str| -> Mailbox { s.parse().unwrap() };
    assert_eq!(mailbox("john@Example.org"), mailbox("john@example.ORG"));
    assert_ne!(mailbox("john@x"), mailbox("John@x"));
    assert_eq!("john@x>".parse::<Mailbox>(), Err(AddressError::Trailing));
    assert_eq!("@a:john@x".parse::<Mailbox>(), Err(AddressError::NoUser));
}
