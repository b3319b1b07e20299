//! Reports that a stranger can cause (backscatter), and where they must not go.
//!
//! Whoever sends mail to a forwarded user from outside RELAY_FROM chooses the reverse-path, and so whom this daemon calls
//! if the next hop refuses. Without a bound a stranger could have reports sent into networks that only this host reaches,
//! to services of this machine, or in masses to somebody else. A report about such mail is therefore dropped when it is for
//!
//! * a literal of a loopback, link-local or private network, or an address of this machine;
//! * a domain or literal that was sent 60 within the last hour;
//! * a name whose mail hosts all have loopback or link-local addresses or addresses of this machine: what DNS says can
//!   change, so [`keep_away`] looks at the addresses that are about to be called.

use crate::net::local::{is_near, is_private};
use crate::relay::mx::{RouteError, Target};
use crate::smtp::address::{Host, Mailbox};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reports to one domain or literal within an hour.
const MOST: usize = 60;
const HOUR: Duration = Duration::from_secs(3600);

/// Counts the reports that strangers cause.
#[derive(Debug, Default)]
pub(crate) struct Backscatter(Mutex<Sent>);

#[derive(Debug, Default)]
struct Sent {
    /// When reports were sent to each host in the last hour, oldest first.
    times: HashMap<Host, VecDeque<Instant>>,
    /// When hosts without a report in the last hour were last removed.
    swept: Option<Instant>,
}

impl Backscatter {
    /// Whether a report that a stranger causes may go to `to`; if so it counts as sent. `is_local`: it stays in a mailbox
    /// of this host, whatever its address looks like.
    ///
    /// # Errors
    /// Why not, as a clause.
    pub fn admit(&self, to: &Mailbox, is_local: bool, now: Instant) -> Result<(), String> {
        if let Host::Literal(ip) = *to.host()
            && !is_local
            && (is_near(ip) || is_private(ip))
        {
            return Err("no report to this network about mail from outside RELAY_FROM".to_owned());
        }
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |time: &Instant| now.saturating_duration_since(*time) >= HOUR;
        if sent.swept.is_none_or(|swept| is_old(&swept)) {
            sent.times
                .retain(|_, times| times.back().is_some_and(|time| !is_old(time)));
            sent.swept = Some(now);
        }
        let times = sent.times.entry(to.host().clone()).or_default();
        while times.front().is_some_and(is_old) {
            times.pop_front();
        }
        if times.len() >= MOST {
            return Err(format!(
                "{MOST} reports about mail from outside RELAY_FROM within an hour"
            ));
        }
        times.push_back(now);
        Ok(())
    }

    /// The report that was admitted last for this host could not be stored and will be tried again: it does not count.
    pub fn take_back(&self, to: &Mailbox) {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.times.get_mut(to.host()).map(VecDeque::pop_back);
    }
}

/// The addresses that a report which a stranger caused may be sent to.
///
/// # Errors
/// `Never` if none is left.
pub(crate) fn keep_away(host: &Host, mut targets: Vec<Target>) -> Result<Vec<Target>, RouteError> {
    targets.retain(|target| !is_near(target.addr.ip()));
    match targets.is_empty() {
        true => Err(RouteError::Never(format!(
            "no report to an address of this machine or link, which {host} names, about mail from outside RELAY_FROM"
        ))),
        false => Ok(targets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> Mailbox {
        text.parse().unwrap()
    }

    #[test]
    fn a_literal_of_a_near_or_private_network_is_refused() {
        let (backscatter, now) = (Backscatter::default(), Instant::now());
        for host in [
            "[127.0.0.1]",
            "[127.0.0.22]",
            "[10.1.2.3]",
            "[172.16.0.1]",
            "[172.31.255.1]",
            "[192.168.1.1]",
            "[100.64.0.1]",
            "[169.254.1.1]",
            "[0.0.0.0]",
            "[0.1.2.3]",
            "[IPv6:::1]",
            "[IPv6:fe80::1]",
            "[IPv6:fd00::1]",
            "[IPv6:fc00::1]",
            "[IPv6:::ffff:10.1.2.3]",
            "[IPv6:::ffff:127.0.0.1]",
            "[IPv6:::]",
            "#2130706433",
        ] {
            let admitted = backscatter.admit(&to(&format!("any@{host}")), false, now);
            assert!(admitted.is_err(), "{host}");
        }
        for host in [
            "[192.0.2.1]",
            "[172.32.0.1]",
            "[172.15.0.1]",
            "[100.128.0.1]",
            "[IPv6:2001:db8::1]",
            "a.example",
        ] {
            backscatter
                .admit(&to(&format!("any@{host}")), false, now)
                .unwrap();
        }
    }

    #[test]
    fn sixty_within_any_hour_to_one_host() {
        let (backscatter, start) = (Backscatter::default(), Instant::now());
        let minute = |n| start + Duration::from_secs(60) * n;
        let admit = |to: &str, n| {
            backscatter
                .admit(&to.parse().unwrap(), false, minute(n))
                .is_ok()
        };
        for n in 0..60 {
            let name = if n % 2 == 0 { "A.example" } else { "a.Example" };
            assert!(admit(&format!("u{n}@{name}"), n / 2), "{n}");
        }
        // Minutes 0 to 29 have two each.
        for (name, n, expected) in [
            ("a.example", 30, false),
            ("b.example", 30, true),
            ("[192.0.2.1]", 30, true),
            ("a.example", 59, false),
            ("a.example", 60, true),
            ("a.example", 60, true),
            ("a.example", 60, false),
            ("a.example", 61, true),
        ] {
            assert_eq!(admit(&format!("x@{name}"), n), expected, "{name} {n}");
        }
        backscatter.take_back(&to("x@a.example"));
        assert!(admit("x@a.example", 61) && admit("x@a.example", 61));
        assert!(!admit("x@a.example", 61));
    }

    #[test]
    fn what_is_no_longer_of_use_is_forgotten() {
        let (backscatter, start) = (Backscatter::default(), Instant::now());
        for n in 0..500 {
            backscatter
                .admit(&to(&format!("x@d{n}.example")), false, start)
                .unwrap();
        }
        backscatter
            .admit(&to("x@last.example"), false, start + HOUR)
            .unwrap();
        assert_eq!(backscatter.0.lock().unwrap().times.len(), 1);
    }

    #[test]
    fn a_name_that_leads_here_is_not_called() {
        let host = "a.example".parse().unwrap();
        let targets = |ips: &[&str]| -> Vec<Target> {
            let addr = |ip: &&str| Target::from(std::net::SocketAddr::new(ip.parse().unwrap(), 25));
            ips.iter().map(addr).collect()
        };
        for near in [
            "127.0.0.22",
            "::1",
            "fe80::1",
            "169.254.1.1",
            "::ffff:127.0.0.1",
        ] {
            assert!(
                matches!(
                    keep_away(&host, targets(&[near])),
                    Err(RouteError::Never(_))
                ),
                "{near}"
            );
            let left = keep_away(&host, targets(&[near, "192.0.2.1", "10.1.2.3"])).unwrap();
            assert_eq!(left, targets(&["192.0.2.1", "10.1.2.3"]), "{near}");
        }
    }
}
