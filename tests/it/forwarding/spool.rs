//! The spool of a real daemon: who may have it, what lies in it, and what people see of it.

use super::world::{mx, queue, relaying, restart, taken, wait_for_empty_spool, waiting};
use crate::common::daemon::Setup;
use crate::common::daemon::command;
use crate::common::dns::DnsServer;
use crate::common::hop::{Act, Hop, Step};
use nix::sys::signal::Signal::SIGUSR1;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

#[test]
fn a_second_daemon_is_refused_with_71() {
    let daemon = Setup::default().start();
    let output = command(&daemon.folder, "info").output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    let errors = String::from_utf8_lossy(&output.stderr);
    let holder = format!(
        "is in use by another smtpd788 (process {})",
        daemon.child.id()
    );
    assert!(errors.contains(&holder), "{errors}");
    // The first goes on.
    daemon.greeted().mail("a@b", "john@mail.example", "x\r\n");
}

#[test]
fn damaged_files_are_set_aside_and_strangers_left_alone() {
    let setup = Setup::default();
    let dir = setup.folder.path().join("spool");
    fs::create_dir(&dir).unwrap();
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    write("00000000000000a1", "no spool file\n");
    write(
        "00000000000000a2",
        "smtpd788 spool 1\nid: 00000000000000a2\n",
    );
    write("00000000000000a3", "");
    write("00000000000000a4.new", "never acknowledged");
    write("notes.txt", "mine\n");
    write("\u{e9}\n", "a name with a line end\n");
    symlink("/etc/passwd", dir.join("00000000000000a5")).unwrap();
    fs::create_dir(dir.join("00000000000000a6")).unwrap();
    setup.write();
    let table = queue(&setup.folder);
    assert_eq!(table.matches("damaged: ").count(), 3, "{table}");
    let daemon = setup.start();
    daemon.wait_for_count("damaged, moved to ", 3);
    let strange = daemon.wait_for_count("left alone, not a message of ours: ", 4);
    assert!(
        strange.iter().any(|line| line.ends_with(" notes.txt")),
        "{strange:?}"
    );
    daemon.greeted().mail("a@b", "john@mail.example", "x\r\n");
    for name in ["00000000000000a1", "00000000000000a2", "00000000000000a3"] {
        assert!(
            !dir.join(name).exists() && dir.join("corrupt").join(name).exists(),
            "{name}"
        );
    }
    assert!(!dir.join("00000000000000a4.new").exists());
    assert_eq!(fs::read_to_string(dir.join("notes.txt")).unwrap(), "mine\n");
    assert!(dir.join("00000000000000a5").is_symlink() && dir.join("00000000000000a6").is_dir());
    assert!(dir.join("\u{e9}\n").exists());
    assert_eq!(queue(&daemon.folder), "queue is empty\n");
}

#[test]
fn the_table_is_the_same_with_and_without_a_daemon() {
    let dns = DnsServer::start();
    let hop = Hop::scripted([(Step::Rcpt(1), Act::Say("452 4.2.2 mailbox full\r\n"))]);
    mx(&dns, "b.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), "").start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<john@mail.example>", "250");
    for to in ["x@b.example", "y@b.example"] {
        client.command(&format!("RCPT TO:<{to}>"), "250");
    }
    client.command("DATA", "354");
    client.send("table\r\n.\r\n");
    let id = client.expect("250 OK id=").split_off("250 OK id=".len());
    daemon.wait_for("deferred id=");
    crate::common::daemon::wait_until("the next try is noted", || {
        !queue(&daemon.folder).contains("  now  ")
    });
    let check = |table: &str| {
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        let heads: Vec<_> = lines[0]
            .split("  ")
            .map(str::trim)
            .filter(|head| !head.is_empty())
            .collect();
        let all = [
            "ID",
            "AGE",
            "SIZE",
            "NEXT TRY",
            "SENDER",
            "WAITING FOR",
            "LAST ANSWER",
        ];
        assert_eq!(heads, all);
        let row: Vec<_> = lines[1]
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        assert_eq!(row.len(), 7, "{table}");
        let words: Vec<_> = lines[1].split_whitespace().take(6).collect();
        assert_eq!(words, row[..6], "as awk has it");
        assert_eq!(
            (row[0], row[4], row[5]),
            (&*id, "<john@mail.example>", "<y@b.example>")
        );
        assert!(
            row[1].ends_with('s') && row[2].parse::<u32>().unwrap() > 60,
            "{table}"
        );
        let minutes = row[3].split('m').next().unwrap();
        assert!(
            (4..=5).contains(&minutes.parse::<u32>().unwrap()),
            "{table}"
        );
        assert!(
            row[6].ends_with(" said at RCPT: 452 4.2.2 mailbox full"),
            "{table}"
        );
        assert_eq!(lines[2], "1 message, 1 recipient waiting");
    };
    check(&queue(&daemon.folder));
    // It reads well.
    let text = fs::read_to_string(&waiting(&daemon.folder)[0]).unwrap();
    assert!(text.starts_with(&format!(
        "smtpd788 spool 1\nid: {id}\nfrom: <john@mail.example>\n"
    )));
    assert!(
        text.contains("\nto: done    <x@b.example>\n") && text.ends_with("\ntable\n"),
        "{text}"
    );
    let folder = daemon.kill();
    check(&queue(&folder));
    let daemon = restart(&folder);
    hop.script([]);
    daemon.signal(SIGUSR1);
    wait_for_empty_spool(&daemon);
    let whom: Vec<_> = super::world::said(&hop.told(), "RCPT");
    assert_eq!(whom.iter().filter(|line| line.contains("<x@")).count(), 1);
    assert_eq!(taken(&hop.told()).len(), 2);
}

#[test]
fn a_restart_goes_on_with_the_spool() {
    let dns = DnsServer::start();
    let hop = Hop::scripted([(Step::Greeting, Act::Say("421 not now\r\n"))]);
    mx(&dns, "b.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), "RETRY_MIN = 1s\nRETRY_MAX = 2s\n").start();
    let mut client = daemon.greeted();
    for number in 0..30 {
        client.mail("a@b", "x@b.example", &format!("number {number}\r\n"));
    }
    daemon.wait_for("deferred id=");
    let folder = daemon.kill();
    assert_eq!(waiting(&folder).len(), 30);
    hop.script([]);
    let daemon = restart(&folder);
    wait_for_empty_spool(&daemon);
    let mut all = taken(&hop.told());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 30);
}

#[test]
fn files_that_serve_one_message_after_another_mix_none_and_do_not_stay() {
    let dns = DnsServer::start();
    let hop = Hop::good();
    mx(&dns, "b.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), "").start();
    let mut client = daemon.greeted();
    let spares = |folder: &crate::common::daemon::Folder| {
        let names = fs::read_dir(folder.path().join("spool")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.len() == 20 && name.ends_with(".new"))
            .count()
    };
    // Longer and shorter ones in turn, each when the last is done.
    let sizes = [10, 2_000, 10, 500, 5_000, 0, 7_000, 10];
    for (number, size) in sizes.into_iter().enumerate() {
        let text = format!("number {number} {}\r\n", "x".repeat(size));
        client.mail("a@b", "x@b.example", &text);
        daemon.wait_for_count("relayed id=", number + 1);
        wait_for_empty_spool(&daemon);
        assert_eq!(queue(&daemon.folder), "queue is empty\n");
    }
    // A second connection may have been opened for one of them.
    let mut all = taken(&hop.told());
    all.sort_by_key(|message| {
        message
            .split_once("\r\nnumber ")
            .map(|(_, end)| end.to_owned())
    });
    assert_eq!(all.len(), sizes.len());
    for (number, (message, size)) in all.iter().zip(sizes).enumerate() {
        let text = format!("\r\nnumber {number} {}\r\n.\r\n", "x".repeat(size));
        assert!(message.ends_with(&text), "{number}: {message}");
    }
    crate::common::daemon::wait_until("no file is kept when none is needed", || {
        spares(&daemon.folder) == 0
    });
    // Nor at an end.
    client.mail("a@b", "x@b.example", "the last\r\n");
    wait_for_empty_spool(&daemon);
    let folder = Arc::clone(&daemon.folder);
    assert!(daemon.stop().0.success());
    assert_eq!(spares(&folder), 0);
}
