//! SIGTERM while mail goes out: what is past DATA finishes, everything else waits for the next start.

use super::world::{beside, mx, relaying, restart, taken, wait_for_empty_spool, waiting};
use crate::common::daemon::{Daemon, wait_until};
use crate::common::dns::DnsServer;
use crate::common::hop::{Act, Hop, Step};
use nix::sys::signal::Signal::SIGTERM;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_message_past_data_is_waited_for() {
    let dns = DnsServer::start();
    mx(&dns, "b.example", "127.0.0.1");
    let hop = Hop::scripted([(Step::Dot, Act::Wait)]);
    let mut daemon = relaying(&dns, hop.addr().port(), "").start();
    let mut client = daemon.greeted();
    client.mail("a@b", "x@b.example", "first\r\n");
    hop.wait_until(|told| told.iter().any(|told| !told.data.is_empty()));
    client.mail("a@b", "y@b.example", "second\r\n");
    daemon.signal(SIGTERM);
    daemon.wait_for(" stopping");
    client.expect("421");
    assert!(daemon.child.try_wait().unwrap().is_none());
    hop.script([]);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.wait_for("relayed id=");
    daemon.wait_for(" stopped");
    // The other one, if it was not begun before the signal reached the queue, waits for the next start.
    let relayed = daemon.matching("relayed id=").len();
    assert_eq!(waiting(&daemon.folder).len() + relayed, 2);
}

/// Each with a hop that hangs before DATA.
#[test]
fn a_hop_that_hangs_before_data_does_not_delay_the_stop() {
    for step in [Step::Greeting, Step::Helo, Step::Mail, Step::Rcpt(0)] {
        let (dns, hop) = (DnsServer::start(), Hop::scripted([(step, Act::Hang)]));
        mx(&dns, "b.example", "127.0.0.1");
        let daemon = relaying(&dns, hop.addr().port(), "").start();
        daemon.greeted().mail("a@b", "x@b.example", "x\r\n");
        hop.wait_until(|told| {
            told.len() == 1 && (step == Step::Greeting || !told[0].commands.is_empty())
        });
        let folder = Arc::clone(&daemon.folder);
        stop_soon(daemon);
        assert_eq!(waiting(&folder).len(), 1, "{step:?}");
        hop.script([]);
        let daemon = restart(&folder);
        wait_for_empty_spool(&daemon);
        assert_eq!(taken(&hop.told()).len(), 1, "{step:?}");
    }
}

#[test]
fn hops_that_owe_the_reply_to_a_quit_do_not_delay_the_stop() {
    let (dns, first) = (DnsServer::start(), Hop::scripted([(Step::Quit, Act::Hang)]));
    let more = (41..=45).map(|n| beside(&first, &format!("127.0.0.{n}")));
    let more: Vec<_> = more.collect();
    let daemon = relaying(&dns, first.addr().port(), "").start();
    let mut client = daemon.greeted();
    for hop in &more {
        hop.script([(Step::Quit, Act::Hang)]);
        client.mail("a@b", &format!("x@[{}]", hop.addr().ip()), "x\r\n");
    }
    daemon.wait_for_count("relayed id=", more.len());
    stop_soon(daemon);
}

#[test]
fn a_silent_name_server_does_not_delay_the_stop() {
    let dns = DnsServer::start();
    dns.misbehave("b.example", crate::common::dns::Misbehaviour::Silent);
    let daemon = relaying(&dns, 9, "").start();
    daemon.greeted().mail("a@b", "x@b.example", "x\r\n");
    wait_until("it is asked", || {
        dns.questions("b.example", hickory_server::proto::rr::RecordType::MX) > 0
    });
    stop_soon(daemon);
}

/// Far sooner than any timeout of ours.
fn stop_soon(daemon: Daemon) {
    let begun = Instant::now();
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{log:#?}");
}
