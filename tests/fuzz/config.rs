//! Both configuration files, parted by a NUL in the input. Every fault is one line with a line number that
//! the file has; what is accepted is within its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd788::config::{Config, ConfigError};
use std::path::PathBuf;
use std::sync::LazyLock;

/// In memory where there is such a place.
static FILES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let dir = base.join(format!("smtpd788-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    [dir.join("mail.conf"), dir.join("user.conf")]
});

fuzz_target!(|input: &[u8]| {
    let mut texts = input.splitn(2, |octet| *octet == 0);
    let mail = texts.next().unwrap_or_default();
    let users = texts.next().unwrap_or_default();
    std::fs::write(&FILES[0], mail).unwrap();
    std::fs::write(&FILES[1], users).unwrap();
    match Config::load(&FILES[0], &FILES[1]) {
        Ok(config) => {
            assert!(config.mail.max_clients >= 1 && config.mail.max_recipients >= 1);
            assert!(config.mail.retry_min <= config.mail.retry_max);
            assert!(config.is_local(&config.mail.hostname));
            assert!(config.restart_needed(&config).is_empty());
            for (name, _) in config.users.iter() {
                assert!(config.users.find(name).is_some(), "{name}");
                assert!(
                    config.users.find(&name.to_ascii_uppercase()).is_some(),
                    "{name}"
                );
            }
            let again = Config::load(&FILES[0], &FILES[1]);
            assert_eq!(again.as_ref(), Ok(&config), "reading is repeatable");
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            let (ours, theirs): (Vec<_>, Vec<_>) =
                errors.iter().partition(|error| error.file == FILES[0]);
            check(&ours, mail);
            check(&theirs, users);
        }
    }
});

fn check(errors: &[&ConfigError], text: &[u8]) {
    let lines = text.split(|octet| *octet == b'\n').count();
    for error in errors {
        assert!((1..=lines).contains(&error.line), "{error}");
        assert!(!error.what.is_empty());
        let control = |c: char| c.is_control() && c != '\t'; // a blank, and quoted as it stands
        assert!(!error.what.contains(control), "{:?}", error.what);
    }
    assert!(errors.is_sorted_by_key(|error| error.line));
}
