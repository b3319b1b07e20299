use super::*;
use crate::daemon::config::{MailConf, Place, RunAs, Users};
use std::os::unix::fs::{PermissionsExt, symlink};

fn config(files: &[&Path]) -> Config {
    let mut users = Users::default();
    for (number, file) in files.iter().enumerate() {
        users.insert(&format!("user{number}"), Place::Mbox(file.into()));
    }
    let mut mail = MailConf::new("example.org".parse().unwrap());
    mail.spool_dir = "spool-that-is-not-there".into();
    Config { mail, users }
}

fn files() -> Files {
    Files {
        mail_conf: "m".into(),
        user_conf: "u".into(),
    }
}

fn shown(errors: &[ConfigError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// What `check` finds.
fn found(config: &Config, check: fn(&Config, &Files, &mut Findings)) -> Findings {
    let mut findings = Findings::default();
    check(config, &files(), &mut findings);
    findings
}

fn faults(config: &Config) -> Vec<String> {
    shown(&found(config, Config::check_before).faults)
}

/// But for those that the tests themselves cause: root runs them, or users are not needed.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = found(config, Config::check_as_user).warnings;
    warnings.retain(|text| !text.contains("runs as root") && !text.contains("names no users"));
    warnings
}

fn refused(config: &Config) -> Vec<String> {
    let checks = [Config::check_before, Config::check_as_user];
    let found = checks.map(|check| shown(&found(config, check).refused));
    found.concat()
}

#[test]
fn directories_are_looked_at_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("file"), "").unwrap();
    symlink("nowhere", dir.join("link")).unwrap();
    let good = [
        dir.join("mbox"),
        dir.join("a/b/mbox"),
        dir.join("file"),
        "rel-nowhere/mbox".into(),
    ];
    for file in &good {
        assert!(faults(&config(&[file])).is_empty(), "{file:?}");
    }
    assert!(!dir.join("a").exists());
    for (file, reason) in [
        ("file/mbox", "/file is no directory"),
        ("file/x/mbox", "/file"),
        ("link/mbox", "/link"),
    ] {
        let found = faults(&config(&[&dir.join(file)]));
        assert!(
            found.len() == 1 && found[0].starts_with("u:1: "),
            "{found:?}"
        );
        assert!(found[0].contains(reason), "{found:?}");
    }
}

#[test]
fn a_spool_is_a_directory_of_our_own_or_can_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("file"), "").unwrap();
    symlink("nowhere", dir.join("link")).unwrap();
    for (name, mode) in [("open", 0o777), ("sticky", 0o1777), ("group", 0o770)] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut config = config(&[]);
    for (spool, reason) in [
        ("", None),
        ("a/spool", None),
        ("group", None),
        ("group/new", None),
        ("open/new", None),
        ("file", Some("/file is no directory")),
        ("file/x", Some("/file/x cannot be used: Not a directory")),
        ("link/x", Some("/link cannot be used: No such file")),
        ("open", Some("/open can be written to by everybody")),
        ("sticky", Some("/sticky can be written to by everybody")),
    ] {
        config.mail.spool_dir = dir.join(spool);
        let found = refused(&config);
        match reason {
            None => assert!(found.is_empty(), "{spool}: {found:?}"),
            Some(reason) => {
                assert_eq!(found.len(), 1, "{spool}: {found:?}");
                assert!(found[0].starts_with("m:1: SPOOL_DIR: "), "{found:?}");
                assert!(found[0].contains(reason), "{found:?}");
            }
        }
    }
    assert!(!dir.join("a").exists());
}

#[test]
fn a_spool_of_somebody_else_is_refused() {
    if !Uid::effective().is_root() {
        let found = check_spool_dir(Path::new("/etc"));
        assert!(found.unwrap_err().contains("cannot be written to"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (uid, good) in [(0, true), (4242, false)] {
        std::os::unix::fs::chown(dir.path(), Some(uid), None).unwrap();
        let found = check_spool_dir(dir.path());
        assert_eq!(found.is_ok(), good, "{found:?}");
        assert!(
            found
                .err()
                .is_none_or(|why| why.contains("belongs to user 4242"))
        );
    }
}

#[test]
fn no_mailbox_lies_in_another() {
    let (outer, inner) = (Path::new("/tmp/x"), Path::new("/tmp/x/mbox"));
    assert_eq!(
        faults(&config(&[outer, inner])),
        ["u:1: /tmp/x is a mailbox of line 1, not a directory"]
    );
    assert!(faults(&config(&[inner, inner])).is_empty());
}

#[test]
fn only_root_becomes_somebody_else() {
    let mut config = config(&[]);
    let me = Uid::effective();
    for (uid, good) in [(me.as_raw(), true), (me.as_raw() + 1, me.is_root())] {
        config.mail.run_as = Some(RunAs {
            user: "somebody".into(),
            uid,
            gid: 1,
        });
        let mut findings = Findings::default();
        assert_eq!(config.check_run_as(&files(), &mut findings), good, "{uid}");
        assert_eq!(findings.faults.is_empty(), good, "{uid}");
    }
}

#[test]
fn every_folder_is_made_whatever_becomes_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("file"), "").unwrap();
    let names = ["a/mbox", "file/mbox", "file/x/mbox", "b/c/mbox"].map(|name| dir.join(name));
    let mut config = config(&names.each_ref().map(|name| &**name));
    config.mail.spool_dir = dir.join("spool");
    let findings = found(&config, Config::make_folders);
    let found = shown(&findings.faults);
    assert!(findings.refused.is_empty() && found.len() == 2, "{found:?}");
    for (text, folder) in found.iter().zip(["/file", "/file/x"]) {
        assert!(text.starts_with("u:1: ") && text.contains(folder), "{text}");
        assert!(text.contains(" cannot be made: "), "{text}");
    }
    for made in ["a", "b/c", "spool"] {
        assert!(dir.join(made).is_dir(), "{made}");
    }
}

#[test]
fn limits_that_are_too_low_are_told() {
    assert_eq!(too_low(80, "open files", Some(80), "it"), None);
    assert_eq!(too_low(80, "open files", None, "it"), None);
    let warning = too_low(80, "open files", Some(79), "it").unwrap();
    assert!(warning.contains("80 open files") && warning.contains("it is 79"));
    assert_eq!(limits(1).count(), 0);
    // 100 million mappings are more than a default, whatever the files.
    let warnings: Vec<_> = limits(50_000_000).collect();
    let last = warnings.last().unwrap();
    assert!(
        last.contains(" 100001000 memory mappings, but vm.max_map_count is "),
        "{last}"
    );
}

#[test]
fn threads_are_those_of_clients_deliveries_and_relays() {
    let mut config = config(&[]);
    (config.mail.max_clients, config.mail.max_relays) = (100, 20);
    let rows = [(0, 120), (1, 120), (2, 220), (8, 820), (9, 820), (100, 820)];
    for (mailboxes, threads) in rows {
        assert_eq!(config.threads(mailboxes), threads, "{mailboxes}");
    }
}

#[test]
fn odd_mailboxes_and_open_relays_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = |name: &str| dir.join(name);
    fs::write(path("good"), "").unwrap();
    symlink("good", path("link")).unwrap();
    fs::create_dir(path("dir")).unwrap();
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(path("hard"), "").unwrap();
    fs::hard_link(path("hard"), path("hard2")).unwrap();
    assert!(warnings(&config(&[&path("good"), &path("new")])).is_empty());
    for (name, what) in [
        ("link", "a symbolic link"),
        ("dir", "a directory"),
        ("fifo", "a FIFO"),
        ("hard", "2 hard links"),
    ] {
        let warnings = warnings(&config(&[&path(name)]));
        assert!(
            warnings.len() == 1 && warnings[0].contains(what),
            "{warnings:?}"
        );
    }
    let mut config = config(&[&path("good")]);
    config.mail.relay_from.push("0.0.0.0/0".parse().unwrap());
    config.mail.spool_dir = dir.into();
    assert_eq!(warnings(&config).len(), 2, "{:?}", warnings(&config));
}

#[test]
fn no_users_and_root_are_told() {
    let mut config = config(&[]);
    let told = |config: &Config, what: &str| {
        let warnings = found(config, Config::check_as_user).warnings;
        warnings.iter().any(|text| text.contains(what))
    };
    assert!(told(&config, "u names no users"));
    config
        .users
        .insert("john", Place::Mbox("/tmp/nowhere/john".into()));
    assert!(!told(&config, "names no users"));
    assert_eq!(told(&config, "runs as root"), Uid::effective().is_root());
    config.mail.run_as = Some(RunAs {
        user: "me".into(),
        uid: Uid::effective().as_raw(),
        gid: 0,
    });
    assert!(!told(&config, "runs as root"));
}
