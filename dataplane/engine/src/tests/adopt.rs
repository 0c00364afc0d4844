//! What a process left that died in the middle of an installation.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddrV4};

use turnpike_fastpath::Direction;
use turnpike_fastpath::entry::NextHop;

use super::host::{in_own_namespace, ip, load};
use super::world;
use crate::engine::Engine;
use crate::policy::{Meter, Policy, PolicyId};
use crate::table::{Note, Noted};

const AGGREGATE: PolicyId = 1;
const METER: Meter = Meter { rate_bps: 80_000, burst_bytes: 1_600, packet_bytes_min: 200, excess: None };

fn inward(terminal: u8, label: u64) -> Policy {
    let source = SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 10), 5_000);
    let destination = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, terminal), 4_000);
    load::inward(AGGREGATE, source, destination, label, METER)
}

fn is_delivered(engine: &mut Engine, label: u64) -> bool {
    let frame = world::tagged_frame(world::PEER, world::tag_bytes(1, 1, label, 172), &world::rtp());
    engine.trial(Direction::In, &frame).unwrap().action == 4
}

#[test]
fn what_died_while_it_was_installed_takes_nothing_with_it() {
    in_own_namespace(|config| {
        let carrier = load::aggregate_in(1_000_000, 65_536);
        let [first, second] = [0x11_1110_0003, 0x11_1110_0004];
        let mut engine = Engine::start(config).unwrap();
        engine.install(&[(AGGREGATE, carrier), (2, inward(10, first))]).unwrap();
        // The process died between the note and the entry, which still names the next hop of the flow before it,
        let (half_done, next_hop) = (77, 1);
        let mut stale = engine.tables.label(9);
        stale.next_hop = next_hop;
        engine.tables.set_label(9, stale);
        engine.tables.set_note(Noted::Label, 9, Note { policy: half_done, detail: 0 });
        // or between a next hop and the flow that was to use it.
        engine.tables.set_note(Noted::NextHop, 5, Note { policy: 0x2001_0db8, detail: 99 });
        engine.tables.set_next_hop(5, NextHop::new(0, [2, 0, 0, 0, 9, 9]));
        drop(engine);

        let mut engine = Engine::start(config).unwrap();
        assert_eq!(engine.adopted(), [AGGREGATE, 2, half_done]);
        assert_eq!(engine.tables.note(Noted::NextHop, 5), Note::default());
        assert_eq!(engine.tables.next_hop(5), NextHop::default());
        ip("neigh add 10.1.0.20 lladdr 02:00:00:00:03:20 dev lan nud permanent");
        engine.install(&[(3, inward(20, second))]).unwrap();
        assert_eq!(engine.tables.label(4).next_hop, next_hop, "the next hop that the half-done flow named");
        engine.deinstall(&[half_done]);
        engine.forget(&[half_done]);
        assert!(is_delivered(&mut engine, first) && is_delivered(&mut engine, second));
        engine.deinstall(&[AGGREGATE]);
        engine.forget(&[AGGREGATE, 2, 3]);
        let tables = engine.status().unwrap().tables;
        assert!(tables.iter().all(|table| table.used == 0 || table.name == "ports"), "{tables:?}");
    });
}
