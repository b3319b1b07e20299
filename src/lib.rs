//! smtpd788
#![forbid(unsafe_code)]
pub mod accept;
pub mod cli;
pub mod client;
pub mod clients;
mod conf_value;
pub mod config;
pub mod daemon;
pub mod handler;
pub mod log;
mod mail_conf;
pub mod mailbox;
pub mod message;
pub mod post;
mod preflight;
pub mod relay;
mod run_as;
pub mod server;
pub mod smtp;
pub mod spool;
pub mod system;
mod user_conf;
pub mod wire;
