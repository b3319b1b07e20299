//! smtpd788
#![forbid(unsafe_code)]
pub mod accept;
pub mod client;
pub mod clients;
pub mod config;
pub mod daemon;
pub mod handler;
pub mod log;
pub mod mailbox;
pub mod message;
pub mod post;
pub mod relay;
pub mod server;
pub mod smtp;
pub mod spool;
pub mod system;
pub mod wire;
