//! Sockets and names: what both flows need of the network.

pub(crate) mod crowd;
pub(crate) mod dns;
pub(crate) mod stream;
