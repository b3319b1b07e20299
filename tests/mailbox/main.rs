//! Local delivery on the library: what lies in the mbox file, octet by octet, whatever else happens
//! to it.

mod content;
mod crash;
mod files;
mod locks;
mod place;
