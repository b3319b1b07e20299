//! A real Postfix as our next hop and as our sender, with a bounce each way. It runs with its own configuration, queue and
//! mailboxes in the test's folder, on another loopback address; the system's own is not touched.
//!
//! ```text
//!  client -> smtpd788 (127.0.0.2, ours.test) <-> Postfix (127.0.0.3, postfix.test, far.test) -> Fred's mbox
//!                 |
//!                 +-> John's mbox
//! ```

use crate::common::daemon::{Client, Daemon, Folder, Setup, messages, wait_until};
use crate::common::dns::DnsServer;
use crate::common::programs::{crlf, letter, octets, program, run};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

const MAIN_CF: &str = "\
compatibility_level = 3.6
queue_directory = {dir}/postfix/queue
data_directory = {dir}/postfix/data
maillog_file_prefixes = {dir}
maillog_file = {dir}/postfix/log
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_bind_address = 127.0.0.3
myhostname = mx.postfix.test
myorigin = postfix.test
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_tls_security_level = none
smtp_tls_security_level = none
biff = no
transport_maps = inline:{ { ours.test = smtp:[127.0.0.2]:{ours} }, { far.test = smtp:[127.0.0.2]:{ours} } }
virtual_mailbox_domains = postfix.test
virtual_mailbox_base = {dir}/postfix/box
virtual_mailbox_maps = inline:{ fred@postfix.test=fred }
virtual_uid_maps = static:1788
virtual_gid_maps = static:1788
# As it came, not made 7-bit and folded.
disable_mime_output_conversion = yes
smtp_line_length_limit = 0
";

const MASTER_CF: &str = "\
127.0.0.3:{port} inet n - n - - smtpd
pickup  unix  n - n 60   1 pickup
cleanup unix  n - n -    0 cleanup
qmgr    unix  n - n 300  1 qmgr
rewrite unix  - - n -    - trivial-rewrite
bounce  unix  - - n -    0 bounce
defer   unix  - - n -    0 bounce
trace   unix  - - n -    0 bounce
verify  unix  - - n -    1 verify
proxymap unix - - n -    - proxymap
smtp    unix  - - n -    - smtp
showq   unix  n - n -    - showq
error   unix  - - n -    - error
retry   unix  - - n -    - error
discard unix  - - n -    - discard
virtual unix  - n n -    - virtual
anvil   unix  - - n -    1 anvil
scache  unix  - - n -    1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// A running Postfix; stopped when dropped, also by a panic.
struct Postfix {
    folder: Arc<Folder>,
    config: PathBuf,
    addr: SocketAddr,
}

impl Postfix {
    fn start(folder: &Arc<Folder>, addr: SocketAddr, ours: SocketAddr) -> Postfix {
        let dir = folder.path();
        // Its processes run as others than root.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let config = dir.join("postfix/config");
        for name in ["config", "queue", "data", "box"] {
            fs::create_dir_all(dir.join("postfix").join(name)).unwrap();
        }
        let owned = |name: &str, owner: &str| {
            let folder = dir.join("postfix").join(name);
            run(program("chown").arg(owner).arg(folder), None);
        };
        owned("data", "postfix");
        owned("box", "1788:1788");
        let fill = |text: &str| {
            text.replace("{dir}", dir.to_str().unwrap())
                .replace("{ours}", &ours.port().to_string())
                .replace("{port}", &addr.port().to_string())
        };
        fs::write(config.join("main.cf"), fill(MAIN_CF)).unwrap();
        fs::write(config.join("master.cf"), fill(MASTER_CF)).unwrap();
        let folder = Arc::clone(folder);
        let postfix = Postfix {
            folder,
            config,
            addr,
        };
        run(&mut postfix.command("start"), None);
        wait_until("Postfix listens", || TcpStream::connect(addr).is_ok());
        postfix
    }

    fn command(&self, word: &str) -> std::process::Command {
        let mut command = program("postfix");
        command.arg("-c").arg(&self.config).arg(word);
        command
    }

    /// A client that was greeted.
    fn greeted(&self) -> Client {
        let mut client = Client::connect(self.addr);
        client.expect("220 ");
        client.command("HELO client.example", "250 ");
        client
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("postfix/log")).unwrap_or_default()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("Postfix's log:\n{}", self.log());
        }
        let _ = self.command("stop").output();
    }
}

/// Both, with names for each other; dropped in this order.
struct World {
    postfix: Postfix,
    ours: Daemon,
    _dns: DnsServer,
}

impl World {
    fn new() -> World {
        World::relaying_for("127.0.0.1, 127.0.0.2")
    }

    fn relaying_for(relay_from: &str) -> World {
        let dns = DnsServer::start();
        for domain in ["postfix.test", "far.test"] {
            dns.mx(domain, 10, "mx.postfix.test");
        }
        dns.address("mx.postfix.test", "127.0.0.3");
        let free = TcpListener::bind("127.0.0.3:0").unwrap();
        let addr = free.local_addr().unwrap();
        let setup = Setup::with(&format!(
            "LISTEN_ADDR = 127.0.0.2\nLOCAL_DOMAINS = ours.test\nRELAY_FROM = {relay_from}\n\
             RELAY_PORT = {}\nNAMESERVER = {}\n",
            addr.port(),
            dns.addr()
        ));
        let ours = setup
            .users("john:{dir}/john/\njill:<fred@postfix.test>\njoe:<nobody@postfix.test>\n")
            .start();
        drop(free);
        let postfix = Postfix::start(&ours.folder, addr, ours.addr());
        World {
            postfix,
            ours,
            _dns: dns,
        }
    }

    /// Waits for the only message of a mailbox.
    fn only(&self, mbox: &str) -> String {
        let read = || octets(&fs::read(self.ours.path(mbox)).unwrap_or_default());
        // The end of the letter, or of a report's last part: written whole.
        wait_until(mbox, || {
            ["last line\n\n", "--\n\n"]
                .iter()
                .any(|end| read().ends_with(end))
        });
        let messages = messages(&read());
        assert_eq!(messages.len(), 1, "{messages:#?}");
        messages.into_iter().next().unwrap()
    }
}

/// What is sent is the letter without what Postfix's quoting cannot tell apart.
fn plain_letter() -> Vec<u8> {
    let text = octets(&letter()).replace(">From there\n", "");
    text.chars().map(|c| c as u8).collect()
}

#[track_caller]
fn send(client: &mut Client, from: &str, to: &str) {
    client.command(&format!("MAIL FROM:<{from}>"), "250");
    client.command(&format!("RCPT TO:<{to}>"), "25");
    client.command("DATA", "354");
    let dotted = octets(&crlf(&plain_letter())).replace("\r\n.", "\r\n..");
    client.send(dotted.chars().map(|c| c as u8).collect::<Vec<u8>>());
    client.send(".\r\n");
    client.expect("250 ");
}

#[track_caller]
fn assert_has_letter(message: &str) {
    let letter = octets(&plain_letter());
    assert!(
        message.contains(&letter),
        "{message}\nshould have\n{letter}"
    );
}

/// A report to `to` that says why.
#[track_caller]
fn assert_report(message: &str, to: &str, why: &[&str]) {
    for text in [
        "Return-Path: <>\n",
        "multipart/report; report-type=",
        "Action: failed\n",
    ] {
        assert!(message.contains(text), "{text}: {message}");
    }
    assert!(message.contains(&format!("To: {to}\n")) || message.contains(&format!("To: <{to}>\n")));
    for why in why {
        assert!(message.contains(why), "{why}: {message}");
    }
}

#[test]
#[ignore = "needs root and Postfix (Debian package postfix)"]
fn postfix_is_our_next_hop_and_our_sender() {
    let world = World::new();

    // To Fred through us: Postfix as the next hop.
    send(
        &mut world.ours.greeted(),
        "john@ours.test",
        "fred@postfix.test",
    );
    let got = world.only("postfix/box/fred");
    assert_has_letter(&got);
    assert!(
        got.contains("\nReturn-Path: <john@ours.test>\n")
            || got.starts_with("Return-Path: <john@ours.test>\n")
    );
    world.ours.wait_for("relayed ");

    // To John through Postfix: it is our client, its EHLO refused.
    send(
        &mut world.postfix.greeted(),
        "fred@postfix.test",
        "john@ours.test",
    );
    let got = world.only("john/mbox");
    assert_has_letter(&got);
    assert!(got.starts_with(
        "Return-Path: <fred@postfix.test>\nDelivered-To: <john@ours.test>\n\
         Received: from mx.postfix.test ([127.0.0.3])"
    ));
    wait_until("Postfix's word for it", || {
        world.postfix.log().contains("status=sent (250 OK id=")
    });
}

#[test]
#[ignore = "needs root and Postfix (Debian package postfix)"]
fn what_postfix_refuses_we_return() {
    let world = World::new();
    send(
        &mut world.ours.greeted(),
        "john@ours.test",
        "nobody@postfix.test",
    );
    let why = [
        "Final-Recipient: rfc822; nobody@postfix.test\n",
        "Status: 5.1.1\n",
        "Remote-MTA: dns; mx.postfix.test\n",
    ];
    assert_report(&world.only("john/mbox"), "john@ours.test", &why);
}

#[test]
#[ignore = "needs root and Postfix (Debian package postfix)"]
fn what_we_refuse_postfix_returns() {
    let world = World::new();
    send(
        &mut world.postfix.greeted(),
        "fred@postfix.test",
        "nobody@ours.test",
    );
    let why = [
        "Final-Recipient: rfc822; nobody@ours.test\n",
        "550 No such user here",
    ];
    assert_report(&world.only("postfix/box/fred"), "fred@postfix.test", &why);
}

/// Our mail for far.test goes to Postfix, whose relay for it is us, which deny it to Postfix's address: its report comes back from `<>`.
#[test]
#[ignore = "needs root and Postfix (Debian package postfix)"]
fn a_report_of_postfix_reaches_our_user() {
    let world = World::new();
    send(&mut world.ours.greeted(), "john@ours.test", "ann@far.test");
    let why = [
        "Final-Recipient: rfc822; ann@far.test\n",
        "550 Relaying denied",
    ];
    assert_report(&world.only("john/mbox"), "john@ours.test", &why);
}

/// Fred writes to Joe, who is forwarded to nobody: our report goes to Postfix. To an address of this machine such a report
/// goes only if no stranger caused it, so Postfix may relay through us here.
#[test]
#[ignore = "needs root and Postfix (Debian package postfix)"]
fn a_report_of_ours_reaches_a_user_of_postfix() {
    let world = World::relaying_for("127.0.0.1, 127.0.0.2, 127.0.0.3");
    send(
        &mut world.postfix.greeted(),
        "fred@postfix.test",
        "joe@ours.test",
    );
    let why = [
        // The name that Fred wrote to, not where its mail goes.
        "Final-Recipient: rfc822; joe@ours.test\n",
        "Status: 5.1.1\n",
    ];
    assert_report(&world.only("postfix/box/fred"), "fred@postfix.test", &why);
    // And 251: what Postfix sends for Jill comes back to it for Fred.
    fs::remove_file(world.ours.path("postfix/box/fred")).unwrap();
    send(
        &mut world.postfix.greeted(),
        "ann@postfix.test",
        "jill@ours.test",
    );
    assert_has_letter(&world.only("postfix/box/fred"));
}
