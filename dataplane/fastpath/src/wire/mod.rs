//! Headers as they stand on the wire. Every field is a number; what it means is decided where it is used, so that no byte
//! of a packet can make an illegal value.

pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod rtp;
pub mod tag;
pub mod udp;
pub mod vlan;
