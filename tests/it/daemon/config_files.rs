//! The configuration files: the pair that is shipped, those of pySMTPD, and bad ones.

use std::path::Path;

use smtpd788::config::{Config, ConfigError, MailConf, Place};

/// Loads the two texts from files in a folder of their own.
fn load(mail: &str, users: &str) -> Result<Config, Vec<ConfigError>> {
    let dir = tempfile::tempdir().unwrap();
    let (mail_conf, user_conf) = (dir.path().join("mail.conf"), dir.path().join("user.conf"));
    std::fs::write(&mail_conf, mail).unwrap();
    std::fs::write(&user_conf, users).unwrap();
    Config::load(&mail_conf, &user_conf)
}

fn shipped() -> (&'static Path, &'static Path) {
    let conf = |name| Path::new(name);
    (
        conf(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/mail.conf")),
        conf(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/user.conf")),
    )
}

#[test]
fn the_shipped_pair_runs_without_root() {
    let (mail_conf, user_conf) = shipped();
    let config = Config::load(mail_conf, user_conf).unwrap();
    assert_eq!(config.mail.hostname.to_string(), "localhost");
    assert!(config.mail.listen_port >= 1024 && config.mail.run_as.is_none());
    assert!(config.mail.spool_dir.is_relative());
    for user in ["john", "jack"] {
        let file = format!("mbox/{user}/mbox");
        assert_eq!(config.users.find(user), Some(&Place::Mbox(file.into())));
    }
    assert_eq!(config.users.iter().count(), 2);
}

/// `KEY = VALUE` of each line `#KEY = VALUE`.
fn commented(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let setting = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))?;
        setting.split_once(" = ").map(|(key, _)| (key, setting))
    })
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let text = std::fs::read_to_string(shipped().0).unwrap();
    let mut keys: Vec<&str> = commented(&text).map(|(key, _)| key).collect();
    keys.insert(0, "HOSTNAME");
    assert_eq!(keys, MailConf::KEYS);

    // These two have no default that could be written down: the lines are examples.
    let examples = ["NAMESERVER", "RUN_AS"];
    for (key, setting) in commented(&text).filter(|(key, _)| !examples.contains(key)) {
        let other = if key == "RETRY_MIN" {
            "RETRY_MAX = 365d"
        } else {
            ""
        };
        let config = load(&format!("HOSTNAME = localhost\n{setting}\n{other}"), "").unwrap();
        let mut expected = MailConf::new("localhost".parse().unwrap());
        if !other.is_empty() {
            expected.retry_max = config.mail.retry_max;
        }
        assert_eq!(config.mail, expected, "{setting}");
    }
}

#[test]
fn the_commented_lines_of_the_shipped_pair_are_valid() {
    let (mail_conf, user_conf) = shipped();
    let mail: Vec<_> = commented(&std::fs::read_to_string(mail_conf).unwrap())
        .map(|(_, setting)| setting.to_owned())
        .filter(|setting| !setting.starts_with("RUN_AS"))
        .collect();
    let users = std::fs::read_to_string(user_conf).unwrap();
    let users: Vec<&str> = users
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .collect();
    let mail = format!("HOSTNAME = localhost\n{}", mail.join("\n"));
    let config = load(&mail, &users.join("\n")).unwrap();
    assert_eq!(config.users.iter().count(), 5);
    assert!(matches!(config.users.find("jill"), Some(Place::Forward(_))));
    assert_eq!(
        config.users.find("x"),
        Some(&Place::Mbox("mbox/others/mbox".into()))
    );
    assert_eq!(config.mail.nameserver.len(), 2);
}

#[test]
fn the_files_of_pysmtpd_work_unchanged() {
    let mail = "MAX_CLIENTS = 10\nCLIENT_TIMEOUT = 100\nHOSTNAME = [10.0.0.4]\n\nRELAY_PORT = 25\n\n\
                LISTEN_ADDR = 0.0.0.0\nLISTEN_PORT = 25\n";
    let users = "honza:conf/mbox/honza/\njakub:conf/mbox/jakub/\n";
    for line_end in ["\n", "\r\n"] {
        let config = load(
            &mail.replace('\n', line_end),
            &users.replace('\n', line_end),
        )
        .unwrap();
        assert_eq!(config.mail.max_clients, 10);
        assert_eq!(config.mail.client_timeout.as_secs(), 100);
        assert_eq!(config.mail.hostname.to_string(), "[10.0.0.4]");
        assert_eq!(config.mail.relay_port, 25);
        assert_eq!(
            config.mail.listen_addr,
            ["0.0.0.0".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(config.mail.listen_port, 25);
        let files: Vec<_> = config.users.mailboxes().into_keys().collect();
        assert_eq!(
            files,
            [
                Path::new("conf/mbox/honza/mbox"),
                Path::new("conf/mbox/jakub/mbox")
            ]
        );
    }
}

#[test]
fn the_minimal_file_works() {
    let config = load("HOSTNAME = myemail.com\nLISTEN_ADDR = 0.0.0.0\n", "").unwrap();
    let mut expected = MailConf::new("myemail.com".parse().unwrap());
    expected.listen_addr = vec!["0.0.0.0".parse().unwrap()];
    assert_eq!(config.mail, expected);
    assert_eq!(config.mail.max_message_size, 25 * 1024 * 1024);
    assert_eq!(config.mail.queue_lifetime.as_secs(), 5 * 24 * 3600);
}

#[test]
fn every_fault_of_both_files_is_reported_with_its_line() {
    let mail = "HOSTNAME = here.example\nMAX_CLIENT = 5\n\nLISTEN_PORT = 99999\nnonsense\n\
                LISTEN_PORT = 25\nRETRY_MIN = 2h\nRETRY_MAX = 1h\n";
    let users = "john:/tmp/john/\n# fine\nJohn:/tmp/j2\n:x\nfred:<fred@HERE.example>\n";
    let errors = load(mail, users).unwrap_err();
    let shown: Vec<String> = errors
        .iter()
        .map(|error| {
            let text = error.to_string();
            text[text.rfind(".conf:").unwrap() - 4..].to_owned()
        })
        .collect();
    let expected = [
        "mail.conf:2: unknown key MAX_CLIENT: is MAX_CLIENTS meant?",
        "mail.conf:4: LISTEN_PORT: \"99999\" is no port: write a number up to 65535",
        "mail.conf:5: expected KEY = VALUE",
        "mail.conf:6: LISTEN_PORT is set already, on line 4",
        "mail.conf:8: RETRY_MIN (7200s) is above RETRY_MAX (3600s): change one of them",
        "user.conf:3: the user \"john\" is named already, on line 1",
        "user.conf:4: no name before the colon",
        "user.conf:5: <fred@HERE.example> is local itself: name the mailbox instead",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn what_is_no_text_is_a_fault_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (mail_conf, user_conf) = (dir.path().join("m"), dir.path().join("u"));
    std::fs::write(
        &mail_conf,
        b"\xef\xbb\xbfHOSTNAME = a\nMAX_CLIENTS = \xff\n\0\n",
    )
    .unwrap();
    std::fs::write(&user_conf, b"john\xff:/a\n\x80\xfe\njack:/m/j\0x\n").unwrap();
    let errors = Config::load(&mail_conf, &user_conf).unwrap_err();
    let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [1, 2, 3, 1, 2, 3]);
    assert!(errors.iter().all(|error| !error.to_string().contains('\n')));
}
