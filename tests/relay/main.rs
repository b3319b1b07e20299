//! Forwarding by the real daemon: over two of them and more, with a real DNS server, next hops that fail, a spool
//! that outlives its daemon.

#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../common/dns.rs"]
mod dns;
#[path = "../common/hop.rs"]
mod hop;
mod world;

mod cluster;
mod fallback;
mod faults;
mod journey;
mod killed;
mod returned;
mod spool;
mod stopping;
mod strangers;
