//! What both flows ask of the network: streams with deadlines, names, and which addresses are ours.

pub(crate) mod contention;
pub(crate) mod dns;
pub(crate) mod local;
mod resolv_conf;
pub(crate) mod stream;
