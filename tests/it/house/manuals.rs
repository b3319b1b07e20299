//! The manual pages: well formed, and of one mind with the program and the README.

use smtpd788::config::MailConf;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PAGES: [&str; 3] = ["smtpd788.8", "mail.conf.5", "user.conf.5"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn page(name: &str) -> String {
    fs::read_to_string(path("conf/man").join(name)).unwrap()
}

#[test]
fn every_key_is_documented_in_order() {
    let manual = page("mail.conf.5");
    let keys: Vec<_> = manual
        .lines()
        .filter_map(|line| line.strip_prefix(".It Ic "))
        .collect();
    assert_eq!(keys, MailConf::KEYS, "mail.conf(5)");

    let readme = fs::read_to_string(path("README.md")).unwrap();
    let table = readme.split("\n## mail.conf\n").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let keys = rows.flat_map(|row| row.split('|').next().unwrap().split(','));
    let keys: Vec<_> = keys.map(|key| key.trim_matches([' ', '`'])).collect();
    assert_eq!(keys, MailConf::KEYS, "README.md");
}

#[test]
fn the_daemons_page_has_every_option_and_exit_status() {
    let manual = page("smtpd788.8");
    for word in [
        ".It Fl h , Fl -help",
        ".It Fl q , Fl -queue",
        ".It Fl t , Fl -test",
        ".It Fl V , Fl -version",
        ".It 0\n",
        ".It 64\n",
        ".It 71\n",
        ".It 78\n",
        ".It Dv SIGTERM , SIGINT",
        ".It Dv SIGHUP",
        ".It Dv SIGUSR1",
    ] {
        assert!(manual.contains(word), "{word}");
    }
}

#[test]
fn every_page_has_what_readers_look_for() {
    for name in PAGES {
        let manual = page(name);
        for section in [
            "DESCRIPTION",
            "FILES",
            "EXAMPLES",
            "SEE ALSO",
            "STANDARDS",
            "CAVEATS",
        ] {
            assert!(
                manual.contains(&format!("\n.Sh {section}\n")),
                "{name}: {section}"
            );
        }
    }
}

#[test]
#[ignore = "needs mandoc (Debian package mandoc)"]
fn mandoc_finds_no_fault() {
    for name in PAGES {
        let lint = Command::new("mandoc")
            .arg("-Tlint")
            .arg(path("conf/man").join(name))
            .output();
        let lint = lint.unwrap().stdout;
        let lint = String::from_utf8_lossy(&lint);
        // Whether the pages that are referred to are installed is no fault of ours.
        let faults: Vec<_> = lint
            .lines()
            .filter(|line| !line.contains("manual not found"))
            .collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }
}
