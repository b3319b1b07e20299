//! What `cargo package` carries.

use std::process::Command;

#[test]
fn the_package_is_whole_and_lean() {
    let output = Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let files: Vec<&str> = list.lines().collect();
    for wanted in [
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "conf/mail.conf",
        "conf/man/mail.conf.5",
        "conf/man/smtpd788.8",
        "conf/man/user.conf.5",
        "conf/smtpd788.service",
        "conf/smtpd788.socket",
        "conf/user.conf",
        "examples/channel.rs",
        "examples/netcat.sh",
        "src/lib.rs",
        "src/main.rs",
        "tests/common/daemon.rs",
        "tests/it/main.rs",
        "tests/bench/clients.svg",
        "tests/transcripts/helo.txt",
    ] {
        assert!(files.contains(&wanted), "{wanted} is missing: {list}");
    }
    let kept_out = [
        ".ci/",
        "target/",
        "tests/bench/bench.py",
        "tests/fuzz/",
        "tests/loom/",
    ];
    let wrong = files
        .iter()
        .find(|file| kept_out.iter().any(|dir| file.starts_with(dir)));
    assert_eq!(wrong, None);
}
