//! Out of descriptors, of threads, of memory for threads: it answers or waits, never spins, never ends, never loses,
//! says so once a burst, and recovers.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::daemon::{Client, Daemon, Setup, wait_until};
use crate::faults::{johns, send};
use crate::limits::started_after;
use crate::strace::Fault;

const LOCAL: &str = "john@mail.example";

/// The processor time used so far, in hundredths of a second.
fn processor_time(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Two seconds of it: a thread that spins would take most of them.
fn assert_idle(daemon: &Daemon) {
    let before = processor_time(daemon);
    thread::sleep(Duration::from_secs(2));
    let used = processor_time(daemon) - before;
    assert!(used < 30, "spins: {used} of 200");
}

fn crowd(daemon: &Daemon, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| TcpStream::connect(daemon.addr()).unwrap())
        .collect()
}

/// Serves a new client and delivers, `250` or not promised.
fn assert_recovers(daemon: &Daemon, mut promised: Vec<u64>) {
    wait_until("a client is served again", || {
        let mut client = Client::connect(daemon.addr());
        client.reply().starts_with("220") && {
            client.command("HELO again.test", "250");
            send(&mut client, LOCAL, 1_000, 2_000) == "250"
        }
    });
    promised.push(1_000);
    let found = johns(daemon);
    for id in &promised {
        assert!(found.contains(id), "{id} was promised");
    }
    assert!(daemon.matching("panic").is_empty());
}

#[test]
fn out_of_descriptors_it_waits_and_recovers() {
    let setup = Setup::with("MAX_CLIENTS = 1000\n");
    let daemon = started_after("ulimit -n 40", setup);
    let mut client = daemon.greeted();
    assert_eq!(send(&mut client, LOCAL, 1, 2_000), "250");
    let others = crowd(&daemon, 200);
    daemon.wait_for("cannot accept clients");
    assert_idle(&daemon);
    // Those who are served hear something, and a 250 is true.
    let mut promised = vec![1];
    for id in 2..6 {
        let size = if id % 2 == 0 { 2_000 } else { 500_000 };
        match send(&mut client, LOCAL, id, size).as_str() {
            "250" => promised.push(id),
            answer => assert!(answer == "451" || answer == "452", "{answer}"),
        }
    }
    assert_eq!(
        daemon.matching("cannot accept clients").len(),
        1,
        "once a burst"
    );
    drop(others);
    assert_recovers(&daemon, promised);
}

/// Files of mailboxes that are kept open leave enough for all else.
#[test]
fn more_mailboxes_than_descriptors_all_get_their_mail() {
    let users: String = (0..150).map(|n| format!("user{n}:boxes/{n}\n")).collect();
    let daemon = started_after("ulimit -n 100", Setup::with("").users(&users));
    let mut client = daemon.greeted();
    for n in 0..150 {
        let to = format!("user{n}@mail.example");
        assert_eq!(send(&mut client, &to, n, 2_000), "250", "{n}");
        assert!(fs::metadata(daemon.path(&format!("boxes/{n}"))).is_ok_and(|f| f.len() > 2_000));
    }
}

#[test]
#[ignore = "needs strace (Debian package strace)"]
fn out_of_threads_it_says_421_and_recovers() {
    for (fault, count) in [
        ("clone,clone3:error=EAGAIN", 100),
        ("clone,clone3:error=ENOMEM", 10),
    ] {
        let daemon = Setup::with("MAX_CLIENTS = 1000\n").start();
        let held = Fault::begin(&daemon, fault, None);
        // One is served by the thread that waited, unless its successor cannot be started.
        let mut answers: Vec<_> = crowd(&daemon, count)
            .into_iter()
            .map(Client::over)
            .collect();
        for client in &mut answers {
            client.expect("421");
        }
        daemon.wait_for("cannot start a thread");
        assert_eq!(
            daemon.matching("cannot start a thread").len(),
            1,
            "once a burst"
        );
        assert_idle(&daemon);
        drop(held);
        assert_recovers(&daemon, vec![]);
    }
}

/// Several mailboxes are written by a thread each, and forwarding has its own.
#[test]
#[ignore = "needs strace (Debian package strace)"]
fn out_of_threads_those_who_are_served_are_served_well() {
    let daemon = Setup::with("NAMESERVER = 127.0.0.1:9\n").start();
    let mut client = daemon.greeted();
    let held = Fault::begin(&daemon, "clone,clone3:error=EAGAIN", None);
    for id in 1..4 {
        client.command("MAIL FROM:<a@client.test>", "250");
        for to in [LOCAL, "jack@mail.example", "mary@far.test"] {
            client.command(&format!("RCPT TO:<{to}>"), "250");
        }
        client.command("DATA", "354");
        client.send(crate::letter::wire(id, 5_000));
        client.send(".\r\n");
        client.expect("250");
    }
    assert_eq!(johns(&daemon), [1, 2, 3]);
    assert_eq!(
        crate::letter::letters(&daemon.read("jack")).unwrap(),
        [1, 2, 3]
    );
    assert_idle(&daemon);
    drop(held);
    // The queue asks for its worker again.
    daemon.wait_for_count("deferred", 1);
}

/// An accept that fails for a reason of its own (a security module, a protocol error) is no reason to spin either.
#[test]
#[ignore = "needs strace (Debian package strace)"]
fn an_accept_that_fails_for_whatever_reason_is_not_repeated_in_haste() {
    for error in ["EPERM", "EIO", "ENOMEM", "EINVAL"] {
        let daemon = Setup::default().start();
        // The first client ends the accept that was begun before the fault.
        let held = Fault::begin(&daemon, &format!("accept4:error={error}"), None);
        let _client = crowd(&daemon, 3);
        daemon.wait_for("cannot accept clients");
        assert_idle(&daemon);
        assert_eq!(
            daemon.matching("cannot accept clients").len(),
            1,
            "{error}: once a burst"
        );
        drop(held);
        assert_recovers(&daemon, vec![]);
    }
}

/// Stacks that do not fit: the threads that it has go on.
#[test]
fn out_of_address_space_it_says_421_and_recovers() {
    let setup = Setup::with("MAX_CLIENTS = 2000\n");
    let daemon = started_after("ulimit -v 400000", setup);
    let mut client = daemon.greeted();
    assert_eq!(send(&mut client, LOCAL, 1, 2_000), "250");
    let mut others: Vec<_> = crowd(&daemon, 600).into_iter().map(Client::over).collect();
    daemon.wait_for("cannot start a thread");
    assert_idle(&daemon);
    assert_eq!(send(&mut client, LOCAL, 2, 2_000), "250");
    let refused = others
        .iter_mut()
        .filter_map(|client| client.reply().starts_with("421").then_some(()))
        .count();
    assert!(refused > 0);
    drop(others);
    assert_recovers(&daemon, vec![1, 2]);
}
