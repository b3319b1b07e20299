//! smtpd788
#![forbid(unsafe_code)]
pub mod config;
pub mod log;
pub mod mailbox;
pub mod message;
pub mod post;
pub mod queue_table;
pub mod queued;
pub mod relay;
pub mod server;
pub mod smtp;
pub mod spool;
mod spool_folder;
pub mod spoolfile;
pub mod wire;
