//! The daemon: the router with its two flows, receiving and forwarding, started and stopped together.

pub mod cli;
pub mod config;
pub mod log;
mod outbound;
pub mod preflight;
pub(crate) mod router;
pub mod start;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::log::{error, info, warn};

use crate::daemon::config::Files;
use crate::daemon::outbound::Outbound;
use crate::daemon::preflight::Findings;
use crate::daemon::router::Router;
use crate::daemon::start::StartError;
use crate::receive::server::Server;
use crate::relay::queue::{Queue, QueueHandle};
use crate::store::mailbox::Mailboxes;
use crate::store::spool::{Spool, SpoolError};

/// A running daemon.
pub struct Daemon {
    files: Files,
    router: Arc<Router>,
    server: Server,
    queue: Queue,
}

impl Daemon {
    /// Takes the spool, mends what a crash left torn, and starts to receive and to forward.
    ///
    /// # Errors
    /// Faults of the files, and what the system refused; nothing runs then.
    pub fn start(files: &Files) -> Result<Daemon, StartError> {
        let (config, listeners) = start::prepare(files)?;
        let spool = Arc::new(Spool::open(&config.mail.spool_dir)?);
        let (mailboxes, mended) = Mailboxes::open(Some(spool.dir()))
            .map_err(|error| SpoolError::Io(spool.dir().to_owned(), error))?;
        for line in mended {
            warn!("{line}");
        }
        let inbox = QueueHandle::default();
        let tell = inbox.clone();
        let queued = move |queued, routes| tell.submit(queued, routes);
        let router = Arc::new(Router::new(config, mailboxes, Arc::clone(&spool), queued));
        let server = Server::start(listeners, Arc::clone(&router))
            .map_err(|e| StartError::System("start to receive", e))?;
        router.listens_on(server.addrs());
        let forward = |e| StartError::System("start to forward", e);
        let outbound = Outbound::new(Arc::clone(&router)).map_err(io::Error::other);
        let outbound = Arc::new(outbound.map_err(forward)?);
        let queue = Queue::start(spool, outbound, &inbox).map_err(forward)?;
        Ok(Daemon {
            files: files.clone(),
            router,
            server,
            queue,
        })
    }

    /// The addresses listened on, with the ports that the system chose.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.server.addrs()
    }

    /// SIGHUP: reads both files again. What a start would refuse is logged, and the old settings stay.
    pub fn reload(&self) {
        match self.try_reload() {
            Ok(()) => info!("reloaded"),
            Err(errors) => {
                for line in errors.to_string().lines() {
                    error!("the old settings stay: {line}");
                }
            }
        }
    }

    /// The checks and warnings of a start, in its order.
    fn try_reload(&self) -> Result<(), StartError> {
        let (files, now) = (&self.files, self.router.config());
        let next = start::read(files)?;
        let mut findings = Findings::default();
        next.check_before(files, &mut findings);
        if now.mail.run_as.is_none() {
            // Else root is given up, and nothing tells what root could become.
            next.check_run_as(files, &mut findings);
        }
        next.check_as_user(files, &mut findings);
        findings.log_and_judge()?;
        let changed = now.restart_needed(&next);
        let next = now.reloaded(next);
        next.make_folders(files, &mut findings);
        findings.judge()?;
        for key in changed {
            warn!("a changed {key} needs a restart");
        }
        self.router.reconfigure(next);
        self.queue.reloaded();
        Ok(())
    }

    /// SIGUSR1: the whole spool is due now.
    pub fn retry_all(&self) {
        self.queue.flush();
    }

    /// Stops both flows; messages under way in either direction may end within `grace`.
    pub fn stop(self, grace: Duration) {
        let Daemon { server, queue, .. } = self;
        server.stop();
        let queue = std::thread::spawn(move || queue.stop(grace));
        let left = server.join(grace);
        if left > 0 {
            warn!("{left} clients did not end their message in time");
        }
        let _ = queue.join();
    }
}
