//! A queue with a spool of its own and played neighbours.

use super::fakes::FakeEnvironment;
use crate::message::{Body, Id};
use crate::relay::queue::{Queue, QueueHandle, Route};
use crate::smtp::address::ForwardPath;
use crate::store::spool::{NewEntry, Origin, Queued, Spool};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

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
        world.state().max_relays = 8;
        let spool = Arc::new(Spool::open(temp.path()).unwrap());
        Bench {
            world,
            spool,
            handle: QueueHandle::default(),
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
        let world = Arc::new(self.world.clone());
        self.queue = Some(Queue::start(self.spool.clone(), world, &self.handle).unwrap());
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
                of: None,
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
        let queued = self.spool.load(id).unwrap().unwrap();
        let known = self.world.state().routes.clone();
        let route = |to: &ForwardPath| known.get(&to.to_string()).cloned();
        let recipients = queued.recipients.iter();
        let routes = recipients.map(|r| route(&r.to).unwrap_or(Route::Remote));
        let routes = routes.collect();
        self.handle.submit(queued, routes);
    }

    /// Waits until the message's file is gone.
    pub(super) fn gone(&self, id: Id) {
        self.file("gone", id, |queued| queued.is_none());
    }

    /// The same, told to try everything now. More than once, since what is in work just then is not told.
    pub(super) fn gone_by_retry(&self, id: Id) {
        self.file("gone", id, |queued| {
            self.handle.flush();
            queued.is_none()
        });
    }

    /// Waits until the message's file is so.
    pub(super) fn file(&self, what: &str, id: Id, so: impl Fn(Option<Queued>) -> bool) {
        let path = self.spool.dir().join(id.to_string());
        self.wait(what, || {
            let load = || self.spool.load(id).unwrap();
            so(path.exists().then(load).flatten())
        });
    }

    /// Waits until it is so.
    pub(super) fn wait(&self, what: &str, so: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !so() {
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
