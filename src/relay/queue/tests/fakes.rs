//! The neighbours of the queue, played for its tests.

use crate::message::{Body, Id};
use crate::relay::client::{Fate, Trouble};
use crate::relay::mx::{RouteError, Target};
use crate::relay::queue::environment::Interrupter;
use crate::relay::queue::{BackOff, Environment, Link, Route, Settings};
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use crate::store::mailbox::{MailboxError, MailboxMessage};
use crate::store::spool::{Origin, Queued};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// What a played host does; by default it takes everything.
#[derive(Clone, Default)]
pub(super) struct Script {
    /// Connections are refused with this.
    pub(super) dead: Option<&'static str>,
    /// There is no route.
    pub(super) no_route: Option<RouteError>,
    /// Each connection is lost under its n-th message (from 1).
    pub(super) lost_at: Option<usize>,
    /// What it says to a user of this name.
    pub(super) says: HashMap<&'static str, Fate>,
    /// The name server, or the host, says nothing until the script changes.
    pub(super) silent_name: bool,
    pub(super) silent: bool,
    /// Sending hangs until interrupted, or until the script changes.
    pub(super) hangs: bool,
    /// Its address, if not one of its own.
    pub(super) at: Option<SocketAddr>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) hosts: HashMap<String, Script>,
    pub(super) routes: HashMap<String, Route>,
    pub(super) locked: HashSet<String>,
    pub(super) no_reports: bool,
    /// Reports take until this is taken back.
    pub(super) slow_reports: bool,
    /// `open HOST`, `quit HOST`.
    pub(super) calls: Vec<String>,
    /// `HOST PATHS` or `mbox PATH`, for each message taken.
    pub(super) taken: Vec<String>,
    pub(super) reports: Vec<(String, String)>,
    pub(super) open: HashMap<String, usize>,
    /// Hosts have addresses in the order in which they are asked for.
    numbers: HashMap<String, usize>,
    pub(super) most_open: usize,
    pub(super) lifetime: Duration,
    /// The step at which it panics, so often.
    pub(super) panics: Option<(&'static str, usize)>,
    pub(super) max_relays: usize,
    /// MAX_RELAYS changes to this once the settings have been read.
    pub(super) reload_to: Option<usize>,
    /// How far the wall clock was set forward.
    pub(super) leap: Duration,
}

/// The world around the queue: its own environment trait, played.
#[derive(Clone, Default)]
pub(super) struct FakeEnvironment(Arc<(Mutex<State>, Condvar)>);

impl FakeEnvironment {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Also after a panic, of which these tests have many.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    pub(super) fn script(&self, host: &str, script: Script) {
        self.change(|s| drop(s.hosts.insert(host.into(), script)));
    }

    /// Panics if the test wants it.
    fn step(&self, step: &str) {
        let mut state = self.state();
        if let Some((at, left)) = &mut state.panics
            && *at == step
            && *left > 0
        {
            *left -= 1;
            drop(state);
            self.change(|s| s.calls.push(format!("panic {step}")));
            panic!("as asked at {step}");
        }
    }

    /// Waits until it is so; the time is for a broken queue only.
    pub(super) fn until(&self, what: &str, so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let (state, timeout) = self
            .0
            .1
            .wait_timeout_while(self.state(), Duration::from_secs(20), |s| !so(s))
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "never: {what}; taken {:?}, calls {:?}",
            state.taken,
            state.calls
        );
        state
    }
}

impl Environment for FakeEnvironment {
    fn settings(&self) -> Settings {
        let mut state = self.state();
        let reloaded = state.reload_to.take().unwrap_or(state.max_relays);
        Settings {
            hostname: "relay.example".parse().unwrap(),
            max_relays: std::mem::replace(&mut state.max_relays, reloaded),
            back_off: BackOff {
                min: Duration::from_secs(1_000),
                max: Duration::from_secs(8_000),
            },
            lifetime: state.lifetime,
        }
    }

    fn route(&self, to: &ForwardPath) -> Route {
        self.step("route");
        self.state()
            .routes
            .get(&to.to_string())
            .cloned()
            .unwrap_or(Route::Remote)
    }

    fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError> {
        assert!(copy.heading.starts_with(b"From "));
        self.step("deliver");
        let mbox = mbox.display().to_string();
        if self.state().locked.contains(&mbox) {
            return Err(MailboxError::Busy);
        }
        self.change(|s| s.taken.push(format!("mbox {mbox}")));
        Ok(())
    }

    fn report(&self, to: &ForwardPath, content: Vec<u8>, _: Origin) -> io::Result<Id> {
        self.step("report");
        if self.state().no_reports {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.state().slow_reports {
            self.change(|s| s.calls.push("report".into()));
            drop(self.until("reports are fast", |s| !s.slow_reports));
        }
        let text = String::from_utf8(content).unwrap();
        self.change(|s| s.reports.push((to.to_string(), text)));
        Ok(Id::new())
    }

    fn look_up(&self, host: &Host) -> Result<Vec<Target>, RouteError> {
        self.step("look-up");
        let name = host.to_string();
        let script = self.state().hosts.get(&name).cloned().unwrap_or_default();
        if script.silent_name {
            self.change(|s| s.calls.push(format!("ask {name}")));
            drop(self.until("an answer", |s| !s.hosts[&name].silent_name));
        }
        if let Some(e) = script.no_route {
            return Err(e);
        }
        let mut state = self.state();
        let known = state.numbers.len();
        let number = *state.numbers.entry(name.clone()).or_insert(known);
        let own = SocketAddr::from(([127, 1, (number / 250) as u8, (number % 250) as u8], 25));
        let addr = script.at.unwrap_or(own);
        Ok(vec![Target { name, addr }])
    }

    fn open(&self, target: &Target) -> Result<Box<dyn Link>, Trouble> {
        self.step("open");
        let host = target.name.clone();
        self.change(|s| s.calls.push(format!("open {host}")));
        let script = self.state().hosts.get(&host).cloned().unwrap_or_default();
        if script.silent {
            drop(self.until("a greeting", |s| !s.hosts[&host].silent));
        }
        if let Some(why) = script.dead {
            return Err(Trouble(why.into()));
        }
        self.change(|s| {
            *s.open.entry(host.clone()).or_default() += 1;
            s.most_open = s.most_open.max(s.open.values().sum());
        });
        Ok(Box::new(FakeConnection {
            world: self.clone(),
            host,
            sent: 0,
            lost: false,
            cut: Arc::default(),
        }))
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now() + self.state().leap
    }

    fn record(&self, queued: &mut Queued, done: &[(usize, &str)]) -> io::Result<()> {
        self.step("record");
        queued.finish(done)
    }

    fn defer(&self, queued: &mut Queued, tries: u32, next_try: SystemTime) -> io::Result<()> {
        self.step("defer");
        queued.defer(tries, next_try)
    }

    fn recycle(&self, queued: Queued) -> Result<bool, (Box<Queued>, io::Error)> {
        self.step("remove");
        queued.recycle()
    }
}

pub(super) struct FakeConnection {
    pub(super) world: FakeEnvironment,
    host: String,
    sent: usize,
    lost: bool,
    cut: Arc<Mutex<bool>>,
}

impl Link for FakeConnection {
    fn send(&mut self, from: &ReversePath, to: &[ForwardPath], body: &Body) -> Vec<Fate> {
        self.sent += 1;
        assert!(!body.is_empty() && !to.is_empty() && !from.to_string().is_empty());
        let hangs = |s: &State| {
            s.hosts.get(&self.host).is_some_and(|h| h.hangs) && !*self.cut.lock().unwrap()
        };
        if hangs(&self.world.state()) {
            self.world
                .change(|s| s.calls.push(format!("hang {}", self.host)));
            drop(self.world.until("no more hanging", |s| !hangs(s)));
        }
        let script = self
            .world
            .state()
            .hosts
            .get(&self.host)
            .cloned()
            .unwrap_or_default();
        self.world.step("send");
        if *self.cut.lock().unwrap() || script.lost_at == Some(self.sent) {
            self.lost = true;
            return vec![Fate::Later("connection lost".into()); to.len()];
        }
        let ok = Fate::Delivered("250 OK".into());
        let fates: Vec<_> = to
            .iter()
            .map(|p| script.says.get(p.user()).unwrap_or(&ok).clone())
            .collect();
        let done = to
            .iter()
            .zip(&fates)
            .filter(|(_, f)| **f == ok)
            .map(|(p, _)| p.to_string());
        let taken = format!("{} {}", self.host, done.collect::<Vec<_>>().join(","));
        self.world.change(|s| s.taken.push(taken));
        fates
    }

    fn is_usable(&self) -> bool {
        !self.lost
    }

    fn is_in_doubt(&self) -> bool {
        false
    }

    fn quit(self: Box<Self>) {
        self.world
            .change(|s| s.calls.push(format!("quit {}", self.host)));
    }

    fn interrupter(&self) -> Interrupter {
        let (cut, world) = (self.cut.clone(), self.world.clone());
        Box::new(move || {
            *cut.lock().unwrap() = true;
            // From a thread of its own, as a signal on the wire would come.
            let world = world.clone();
            std::thread::spawn(move || world.change(|_| {}));
        })
    }
}

impl Drop for FakeConnection {
    fn drop(&mut self) {
        self.world
            .change(|s| *s.open.get_mut(&self.host).unwrap() -= 1);
    }
}
