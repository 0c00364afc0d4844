//! Two real nodes, `turnpike serve` on both, between two sites: every kind of packet, tag and policy, compared byte for byte, with every packet
//! counted.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod bench;
mod booking;
mod families;
mod marking;
mod network;
mod one_arm;
mod packet;
mod rates;
mod shapes;
mod sizes;
mod terminals;
mod vlan;
mod wire;
