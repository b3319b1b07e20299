//! The neighbours of the queue, played for its tests, and a bench to put it on.

use crate::daemon::router::Route;
use crate::message::{Body, Id};
use crate::relay::client::{Fate, Trouble};
use crate::relay::mx::{RouteError, Target};
use crate::relay::queue::destinations::Limits;
use crate::relay::queue::environment::{Environment, Link, Settings};
use crate::relay::queue::retry::BackOff;
use crate::relay::queue::{Queue, QueueHandle};
use crate::smtp::address::{ForwardPath, Host, ReversePath};
use crate::store::mailbox::{MailboxError, MailboxMessage};
use crate::store::spool::{NewEntry, Origin, Spool};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

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
    /// Sending hangs until interrupted, or until the script changes.
    pub(super) hangs: bool,
    pub(super) panics: bool,
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
    pub(super) most_open: usize,
    pub(super) lifetime: Duration,
}

/// The world around the queue.
#[derive(Clone, Default)]
pub(super) struct FakeEnvironment(Arc<(Mutex<State>, Condvar)>);

impl FakeEnvironment {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    pub(super) fn script(&self, host: &str, script: Script) {
        self.change(|s| drop(s.hosts.insert(host.into(), script)));
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
    type Link = Line;

    fn settings(&self) -> Settings {
        Settings {
            hostname: "relay.example".parse().unwrap(),
            limits: Limits::new(8),
            back_off: BackOff {
                min: Duration::from_secs(1_000),
                max: Duration::from_secs(8_000),
            },
            lifetime: self.state().lifetime,
        }
    }

    fn route(&self, to: &ForwardPath) -> Route {
        self.state()
            .routes
            .get(&to.to_string())
            .cloned()
            .unwrap_or(Route::Remote)
    }

    fn deliver(&self, mbox: &Path, copy: MailboxMessage) -> Result<(), MailboxError> {
        assert!(copy.heading.starts_with(b"From "));
        let mbox = mbox.display().to_string();
        if self.state().locked.contains(&mbox) {
            return Err(MailboxError::Busy);
        }
        self.change(|s| s.taken.push(format!("mbox {mbox}")));
        Ok(())
    }

    fn submit(&self, to: &ForwardPath, content: Vec<u8>, _: Origin) -> io::Result<Id> {
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

    fn targets(&self, host: &Host) -> Result<Vec<Target>, RouteError> {
        let name = host.to_string();
        let script = self.state().hosts.get(&name).cloned().unwrap_or_default();
        if let Some(e) = script.no_route {
            return Err(e);
        }
        Ok(vec![Target {
            name,
            addr: ([127, 0, 0, 1], 25).into(),
        }])
    }

    fn open(&self, target: &Target) -> Result<Line, Trouble> {
        let host = target.name.clone();
        self.change(|s| s.calls.push(format!("open {host}")));
        let script = self.state().hosts.get(&host).cloned().unwrap_or_default();
        if let Some(why) = script.dead {
            return Err(Trouble(why.into()));
        }
        self.change(|s| {
            *s.open.entry(host.clone()).or_default() += 1;
            s.most_open = s.most_open.max(s.open.values().sum());
        });
        Ok(Line {
            world: self.clone(),
            host,
            sent: 0,
            lost: false,
            cut: Arc::default(),
        })
    }
}

pub(super) struct Line {
    pub(super) world: FakeEnvironment,
    host: String,
    sent: usize,
    lost: bool,
    cut: Arc<Mutex<bool>>,
}

impl Link for Line {
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
        assert!(!script.panics, "as asked");
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

    fn quit(self) {
        self.world
            .change(|s| s.calls.push(format!("quit {}", self.host)));
    }

    fn interrupter(&self) -> Box<dyn Fn() + Send> {
        let (cut, world) = (self.cut.clone(), self.world.clone());
        Box::new(move || {
            *cut.lock().unwrap() = true;
            // From a thread of its own, as a signal on the wire would come.
            let world = world.clone();
            std::thread::spawn(move || world.change(|_| {}));
        })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.world
            .change(|s| *s.open.get_mut(&self.host).unwrap() -= 1);
    }
}

pub(super) struct Bench {
    pub(super) world: FakeEnvironment,
    pub(super) spool: Arc<Spool>,
    pub(super) handle: QueueHandle,
    pub(super) queue: Option<Queue>,
    pub(super) _temp: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let temp = tempfile::tempdir().unwrap();
        let world = FakeEnvironment::default();
        world.state().lifetime = Duration::from_secs(100_000);
        let spool = Arc::new(Spool::open(temp.path()).unwrap());
        Bench {
            world,
            spool,
            handle: QueueHandle::new(),
            queue: None,
            _temp: temp,
        }
    }

    pub(super) fn started() -> Bench {
        let mut bench = Bench::new();
        bench.start();
        bench
    }

    pub(super) fn start(&mut self) {
        self.queue =
            Some(Queue::run(self.spool.clone(), self.world.clone(), &self.handle).unwrap());
    }

    pub(super) fn stored(
        &self,
        from: &str,
        to: &[&str],
        received: SystemTime,
        next_try: SystemTime,
    ) -> Id {
        let id = Id::new();
        let path = |s: &&str| s.parse::<ForwardPath>().unwrap().into();
        let to: Vec<_> = to.iter().map(path).collect();
        let body = Body::from_bytes(b"Subject: hello\nX: y\n\nbody\n".to_vec());
        let (from, heading) = (from.parse().unwrap(), b"Received: x\n");
        self.spool
            .accept(&NewEntry {
                id,
                from: &from,
                received,
                origin: Origin::Inside,
                to: &to,
                heading,
                body: &body,
                next_try,
            })
            .unwrap();
        id
    }

    pub(super) fn mail(&self, to: &[&str]) -> Id {
        let now = SystemTime::now();
        let id = self.stored("<sender@example.org>", to, now, now);
        self.submit(id);
        id
    }

    /// The queue hears of a message.
    pub(super) fn submit(&self, id: Id) {
        self.handle.submit(self.spool.load(id).unwrap().unwrap());
    }

    /// Waits until the message's file is gone.
    pub(super) fn gone(&self, id: Id) {
        self.file("gone", id, |queued| queued.is_none());
    }

    /// The same, told to try everything now. More than once, since what is in work just then is not told.
    pub(super) fn gone_by_retry(&self, id: Id) {
        self.file("gone", id, |queued| {
            self.handle.retry_all();
            queued.is_none()
        });
    }

    /// Waits until the message's file is so.
    pub(super) fn file(
        &self,
        what: &str,
        id: Id,
        so: impl Fn(Option<crate::store::spool::Queued>) -> bool,
    ) {
        let path = self.spool.dir().join(id.to_string());
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let queued = if path.exists() {
                self.spool.load(id).unwrap()
            } else {
                None
            };
            if so(queued) {
                return;
            }
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn deferred(&self, id: Id, tries: u32) {
        self.file("deferred", id, |q| {
            q.is_some_and(|q| {
                q.tries == tries && q.next_try > SystemTime::now() + Duration::from_secs(800)
            })
        });
    }
}
