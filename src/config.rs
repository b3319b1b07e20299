use crate::smtp::address::{ForwardPath, Host};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
/// Both files, read and checked. `Clone + PartialEq` so that a reload can be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub mail: MailConf,
    pub users: Users,
}
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MailConf {
    pub hostname: Host,
    pub local_domains: Vec<Host>,
    pub listen_addr: Vec<IpAddr>,
    pub listen_port: u16,
    pub max_clients: usize,
    /// default a quarter of MAX_CLIENTS, never below 10 (key MAX_CLIENTS_PER_HOST)
    pub max_clients_per_host: usize,
    pub client_timeout: Duration,
    pub max_message_size: u64,
    pub max_recipients: usize,
    pub time_stamp: TimeStamp,
    pub relay_from: Vec<ipnet::IpNet>,
    pub relay_port: u16,
    pub max_relays: usize,
    pub relay_timeout: Duration,
    pub spool_dir: PathBuf,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub queue_lifetime: Duration,
    /// empty: the system's
    pub nameserver: Vec<SocketAddr>,
    pub run_as: Option<RunAs>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStamp {
    Received,
    MailFrom,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    pub user: String,
    pub uid: u32,
    pub gid: u32,
}
/// Where mail for a local name goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /** the mbox file itself, `mbox` already added for a directory */
    Mbox(PathBuf),
    Forward(ForwardPath),
}
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Users {}
impl Users {
    /// Ignores case; `*` last.
    pub fn find(&self, _user: &str) -> Option<&Place> {
        todo!()
    }
    /// Every distinct mbox file.
    pub fn mailboxes(&self) -> impl Iterator<Item = &Path> {
        std::iter::empty()
    }
}
/// One fault: `FILE:LINE: what is wrong`.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {what}", file = file.display())]
pub struct ConfigError {
    pub file: PathBuf,
    pub line: usize,
    pub what: String,
}
impl Config {
    /// Reads both files; every fault of both.
    pub fn load(_mail_conf: &Path, _user_conf: &Path) -> Result<Config, Vec<ConfigError>> {
        todo!()
    }
    /// HOSTNAME or one of LOCAL_DOMAINS.
    pub fn is_local(&self, _host: &Host) -> bool {
        todo!()
    }
    /// RELAY_FROM holds this client (v4-mapped is v4).
    pub fn may_relay(&self, _client: IpAddr) -> bool {
        todo!()
    }
}
