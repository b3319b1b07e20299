//! The daemon: the post office with its two flows, receiving and forwarding, started and stopped together.

pub mod cli;
pub mod config;
pub mod log;
mod preflight;
pub(crate) mod router;
pub mod system;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::log::{error, info, warn};

use crate::daemon::config::{Config, ConfigError};
use crate::daemon::router::Router;
use crate::receive::server::{self, Server};
use crate::relay::queue::{Queue, QueueHandle};
use crate::store::mailbox::Mailboxes;
use crate::store::spool::{Spool, SpoolError};

/// Why a daemon cannot start: the system refused something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address of LISTEN_ADDR cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The spool cannot be made or belongs to another daemon.
    #[error("cannot use the spool: {0}")]
    Spool(#[from] SpoolError),
    /// A mailbox's folder cannot be made.
    #[error("cannot make the folder of mailbox {0}: {1}")]
    Mailbox(PathBuf, io::Error),
    /// Anything else.
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

/// A running daemon.
pub struct Daemon {
    post: Arc<Router>,
    server: Server,
    queue: Queue,
}

/// Opens every listener of the configuration.
///
/// # Errors
/// The first address that the system refuses.
pub fn listen(config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let mail = &config.mail;
    let open = |ip: &_| {
        let addr = SocketAddr::new(*ip, mail.listen_port);
        server::listen(addr, mail.client_timeout).map_err(|e| StartError::Listen(addr, e))
    };
    mail.listen_addr.iter().map(open).collect()
}

impl Daemon {
    /// Takes the spool, mends what a crash left torn, and starts to receive and to forward.
    ///
    /// # Errors
    /// What the system refused; nothing runs then.
    pub fn start(config: Config, listeners: Vec<TcpListener>) -> Result<Daemon, StartError> {
        let spool = Arc::new(Spool::open(&config.mail.spool_dir)?);
        let (mailboxes, mended) = Mailboxes::open(Some(spool.dir()))
            .map_err(|e| StartError::System("use SPOOL_DIR for the mailboxes", e))?;
        for line in mended {
            warn!("{line}");
        }
        let inbox = QueueHandle::default();
        let tell = inbox.clone();
        let queued = move |queued| tell.submit(queued);
        let post = Arc::new(Router::new(config, mailboxes, Arc::clone(&spool), queued));
        post.prepare()
            .map_err(|(mbox, e)| StartError::Mailbox(mbox, e))?;
        let server = Server::start(listeners, Arc::clone(&post))
            .map_err(|e| StartError::System("start to receive", e))?;
        post.listens_on(server.addrs());
        let queue = Queue::start(spool, Arc::clone(&post), &inbox)
            .map_err(|e| StartError::System("start to forward", e))?;
        Ok(Daemon {
            post,
            server,
            queue,
        })
    }

    /// The addresses listened on, with the ports that the system chose.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.server.addrs()
    }

    /// SIGHUP: puts a configuration that was read again in force, or says what is wrong with it and goes on.
    pub fn reload(&self, read: Result<Config, Vec<ConfigError>>) {
        let next = match read {
            Ok(config) => config,
            Err(errors) => {
                for error in errors {
                    error!("the old settings stay: {error}");
                }
                return;
            }
        };
        let now = self.post.config();
        for key in now.restart_needed(&next) {
            warn!("a changed {key} needs a restart");
        }
        let next = now.reloaded(next);
        self.post.reconfigure(next);
        if let Err((mbox, error)) = self.post.prepare() {
            error!(
                "cannot make the folder of mailbox {}: {error}",
                mbox.display()
            );
        }
        self.queue.reloaded();
        info!("reloaded");
    }

    /// SIGUSR1: the whole spool is due now.
    pub fn retry_all(&self) {
        self.queue.retry_all();
    }

    /// Stops both flows; messages under way in either direction may end within `grace`.
    pub fn stop(self, grace: Duration) {
        let Daemon {
            post: _post,
            server,
            queue,
        } = self;
        server.stop();
        let queue = std::thread::spawn(move || queue.stop(grace));
        let left = server.join(grace);
        if left > 0 {
            warn!("{left} clients did not end their message in time");
        }
        let _ = queue.join();
    }
}
