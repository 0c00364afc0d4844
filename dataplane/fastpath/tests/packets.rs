//! What becomes of single packets: named frames, the tagged bytes themselves, and the identity of tagging and restoring.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use std::cell::Cell;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use turnpike_fastpath::buffer::Buffer;
use turnpike_fastpath::entry::{Tally, UNADMITTED_DROP, UNADMITTED_PASS};
use turnpike_fastpath::{Direction, Reason, Verdict, both, outbound};
use world::harness::{any_frame, far_end, identity, run};
use world::host::{START_TICKS, TICK_NS, World};
use world::meter::Hooked;
use world::*;

#[test]
fn every_named_frame_ends_for_its_reason_and_is_counted_once() {
    for case in cases() {
        let world = World::new();
        let (verdict, after) = run(&world, case.direction, &case.frame);
        let action = match verdict {
            Verdict::Pass => "pass",
            Verdict::Drop => "drop",
            Verdict::Redirect(_) => "redirect",
        };
        assert_eq!(world.counted(case.direction, case.reason), 1, "{}: not counted for its reason", case.name);
        assert_eq!(action, case.reason.action(), "{}", case.name);
        let all: u64 = world.reasons.iter().map(|row| row.packets.get()).sum();
        assert_eq!(all, 1, "{}: counted more than once", case.name);
        if verdict == Verdict::Drop || matches!(case.reason, Reason::NotOurs | Reason::Arp | Reason::Local) {
            assert_eq!(after, case.frame, "{}: changed although it was not carried", case.name);
        }
        for tally in world.flow_shares.iter().chain(&world.label_shares).map(|share| &share.tally) {
            assert_eq!(
                tally.offered_packets.get(),
                tally.passed_packets.get() + tally.dropped_packets.get(),
                "{}",
                case.name
            );
        }
    }
}

/// Which reasons the named frames do not reach: those that need another state of the tables, tested below.
#[test]
fn every_reason_has_a_frame_or_a_test_of_its_own() {
    let elsewhere = [
        Reason::UnadmittedRefused,
        Reason::UnadmittedOverRate,
        Reason::AggregateOverRate,
        Reason::Expired,
        Reason::TaggedByRoute,
        Reason::RestoredByRoute,
        Reason::Internal,
        Reason::Contended,
    ];
    for reason in Reason::ALL {
        let framed = cases().iter().any(|case| case.reason == *reason);
        assert_ne!(framed, elsewhere.contains(reason), "{}", reason.name());
    }
}

#[test]
fn the_tagged_packet_is_the_documented_bytes() {
    let world = World::new();
    let (verdict, after) = run(&world, Direction::Out, &udp_frame(&out_ends(FREE), b"media", 0x03, 64));
    assert_eq!(verdict, Verdict::Redirect(1));
    let wanted = [
        // Ethernet: next hop, port, IPv4.
        &[2, 0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 1, 8, 0][..],
        // IPv4: EF with the packet's own ECN, 41 bytes, its identification and flags, one hop less, UDP.
        &[0x45, 0xbb, 0, 41, 0x12, 0x34, 0x40, 0, 63, 17, 0x9c, 0xad, 198, 18, 0, 1, 198, 18, 0, 2],
        // UDP: entropy port, tag port, 21 bytes.
        &[0xc1, 0x23, 0xba, 0x54, 0, 21, after[40], after[41]],
        // Tag: version 1, kind 1, label 0xabcde00007, 5 bytes.
        &[0x11, 0xab, 0, 5, 0xcd, 0xe0, 0, 7],
        b"media",
    ]
    .concat();
    assert!(checksums_hold(&after));
    assert_eq!(after, wanted);
}

#[test]
fn a_lapsed_policy_refuses_in_both_directions() {
    let mut world = World::new();
    world.flows[0].expires_ns = START_TICKS * TICK_NS;
    world.labels[5].expires_ns = world.flows[0].expires_ns;
    let (out, _) = run(&world, Direction::Out, &udp_frame(&out_ends(FREE), &rtp(), 0, 64));
    let tagged = tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 172), &rtp());
    let (inbound, _) = run(&world, Direction::In, &tagged);
    assert_eq!((out, inbound), (Verdict::Drop, Verdict::Drop));
    assert_eq!(world.counted(Direction::Out, Reason::Expired), 1);
    assert_eq!(world.counted(Direction::In, Reason::Expired), 1);
}

#[test]
fn an_unresolved_next_hop_refuses_unless_the_kernel_knows_the_way() {
    let mut world = World::new();
    world.next_hops[0].0 = 0;
    let routes = std::mem::take(&mut world.routes);
    let frame = udp_frame(&out_ends(FREE), &rtp(), 0, 64);
    assert_eq!(run(&world, Direction::Out, &frame).0, Verdict::Drop);
    assert_eq!(world.counted(Direction::Out, Reason::NextHopUnresolved), 1);

    world.routes = routes;
    let (_, wanted) = run(&World::new(), Direction::Out, &frame);
    assert_eq!(run(&world, Direction::Out, &frame), (Verdict::Redirect(1), wanted));
    assert_eq!(world.counted(Direction::Out, Reason::TaggedByRoute), 1);

    world.next_hops[1].0 = 0;
    let tagged = tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 172), &rtp());
    assert_eq!(run(&world, Direction::In, &tagged).0, Verdict::Redirect(0));
    assert_eq!(world.counted(Direction::In, Reason::RestoredByRoute), 1);
}

/// The figures of what the tag costs, from the packets themselves.
#[test]
fn a_flow_is_charged_for_headers_that_only_some_of_its_packets_have() {
    let world = World::new();
    let spent = |world: &World| world.flows[0].due.load(Ordering::Relaxed) - ((START_TICKS * TICK_NS) << 4);
    run(&world, Direction::Out, &udp_frame(&out_ends(FREE), &[7; 72], 0, 64));
    let plain = spent(&world);
    run(&world, Direction::Out, &Build::new(out_ends(FREE), &[7; 72]).options(&[1; 4]).frame());
    // 100 bytes at a gigabit are 800 ns; the option's four and the second pair of headers' 28 are 256.
    assert_eq!((plain, spent(&world) - plain), (800 << 4, (800 + 32 + 224) << 4));
    let tally = &world.aggregate_shares[usize::from(host::OUT)].tally;
    assert_eq!(tally.passed_bytes.get(), 108 + 140);
}

#[test]
fn a_yellow_packet_is_marked_and_counted_and_leaves_the_reserve_alone() {
    let frame = udp_frame(&out_ends(EXCESS), &rtp(), 3, 64);
    let mut world = World::new();
    let aggregate = &mut world.aggregates[usize::from(host::OUT)];
    aggregate.flags |= turnpike_fastpath::entry::EXCESS_REMARK;
    aggregate.tos_excess = 10 << 2;
    let (verdict, after) = run(&world, Direction::Out, &frame);
    assert_eq!((verdict, after[15]), (Verdict::Redirect(1), 10 << 2 | 3));
    assert!(checksums_hold(&after));
    let share = &world.flow_shares[5];
    assert_eq!((share.excess_packets.get(), share.excess_bytes.get()), (1, 200));

    // What is left of the pool is what green packets may need.
    world.pools[usize::from(host::OUT)].reserve_ns = world.aggregates[usize::from(host::OUT)].depth_ns;
    assert_eq!(run(&world, Direction::Out, &frame).0, Verdict::Drop);
    assert_eq!(world.counted(Direction::Out, Reason::AggregateOverRate), 1);
    assert_eq!(run(&world, Direction::Out, &udp_frame(&out_ends(FREE), &rtp(), 0, 64)).0, Verdict::Redirect(1));
}

#[test]
fn dscp_is_set_copied_or_mapped_in_both_directions_and_families() {
    use turnpike_fastpath::entry::{DSCP_COPY, DSCP_MAP};
    let class = |frame: &[u8]| if frame[12] == 8 { frame[15] } else { frame[14] << 4 | frame[15] >> 4 };
    for (flags, wanted) in [(0, 46 << 2), (DSCP_COPY, 12 << 2), (DSCP_MAP, (63 - 12) << 2)] {
        let mut world = World::new();
        for aggregate in &mut world.aggregates {
            aggregate.flags |= flags;
        }
        for ends in [out_ends(FREE), out_ends6(FREE_66)] {
            let (_, after) = run(&world, Direction::Out, &udp_frame(&ends, &rtp(), 12 << 2 | 1, 64));
            assert_eq!(class(&after), wanted | 1);
            assert!(checksums_hold(&after));
        }
        for (peer, label) in [(PEER, LABEL_IN), (PEER6, LABEL_IN_66)] {
            let tagged = [&tag_bytes(1, 1, label, 172)[..], &rtp()].concat();
            let tagged = Build::new(frames::tagged_ends(peer), &tagged).tos(12 << 2 | 1).frame();
            let (_, after) = run(&world, Direction::In, &tagged);
            assert_eq!(class(&after), wanted | 1);
            assert!(checksums_hold(&after));
        }
    }
}

#[test]
fn fragments_are_dropped_where_the_policy_says_so() {
    let mut world = World::new();
    world.config.fragments_drop = 1;
    let mut frame = udp_frame(&out_ends(FREE), &rtp(), 0, 64);
    frame[20] = 0x20;
    assert_eq!(run(&world, Direction::Out, &frame).0, Verdict::Drop);
    let mut frame = Build::new(out_ends6(FREE_66), &rtp()).extension(60, 8).frame();
    frame[20] = 44;
    assert_eq!(run(&world, Direction::Out, &frame).0, Verdict::Drop);
    assert_eq!(world.counted(Direction::Out, Reason::Fragment), 2);
}

/// Where the frame leaves is in its link header: no tag, one, two.
#[test]
fn frames_leave_with_the_vlan_tags_of_their_port() {
    let world = World::new();
    let one = tagged_frame(PEER, tag_bytes(1, 1, LABEL_VLAN, 172), &rtp());
    let (verdict, after) = run(&world, Direction::In, &one);
    assert_eq!(verdict, Verdict::Redirect(2));
    assert_eq!(after[..18], [2, 0, 0, 0, 2, 3, 2, 0, 0, 0, 1, 0, 0x81, 0, 0, 100, 8, 0]);
    assert!(checksums_hold(&after));
    let two = tagged_frame(PEER, tag_bytes(1, 5, LABEL_QINQ, 172), &[&[0, 5, 0x43, 0x21][..], &rtp()].concat());
    let (verdict, after) = run(&world, Direction::In, &two);
    assert_eq!(verdict, Verdict::Redirect(3));
    assert_eq!(after[12..22], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 30, 0x86, 0xdd]);
    assert!(checksums_hold(&after));
}

/// At a port that is both sides', every frame ends as it does at its own side's.
#[test]
fn one_port_for_both_sides_does_what_two_do() {
    for case in cases() {
        if case.reason == Reason::NotOurs {
            continue;
        }
        let (world, apart) = (World::new(), World::new());
        let mut buffer = Buffer::new(&case.frame).unwrap();
        let verdict = both(&mut buffer, &world.tables());
        let wanted = run(&apart, case.direction, &case.frame);
        assert_eq!((verdict, buffer.as_slice()), (wanted.0, wanted.1.as_slice()), "{}", case.name);
        assert_eq!(world.counted(case.direction, case.reason), 1, "{}", case.name);
    }
}

#[test]
fn a_table_that_is_too_small_is_a_fault_and_refuses() {
    let mut world = World::new();
    world.aggregates.truncate(2);
    let (verdict, _) = run(&world, Direction::Out, &udp_frame(&out_ends(FREE), &rtp(), 0, 64));
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(world.counted(Direction::Out, Reason::Internal), 1);
}

#[test]
fn the_policy_for_unadmitted_packets_is_obeyed() {
    let frame = udp_frame(&out_ends(NONE), &rtp(), 0xb8 | 2, 64);
    let mut world = World::new();
    let (verdict, after) = run(&world, Direction::Out, &frame);
    assert_eq!((verdict, after[15]), (Verdict::Pass, 2), "best effort loses its DSCP and keeps its ECN");
    assert!(checksums_hold(&after));

    world.config.unadmitted = UNADMITTED_PASS;
    assert_eq!(run(&world, Direction::Out, &frame), (Verdict::Pass, frame.clone()));

    world.config.unadmitted = UNADMITTED_DROP;
    assert_eq!(run(&world, Direction::Out, &frame), (Verdict::Drop, frame.clone()));
    assert_eq!(world.counted(Direction::Out, Reason::UnadmittedRefused), 1);
}

#[test]
fn unadmitted_packets_get_no_more_than_the_link_has_left() {
    let mut world = World::new();
    world.aggregates[0].quantum_bytes = 0;
    let (verdict, _) = run(&world, Direction::Out, &udp_frame(&out_ends(NONE), &rtp(), 0, 64));
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(world.counted(Direction::Out, Reason::UnadmittedOverRate), 1);
}

#[test]
fn an_aggregate_without_credit_refuses_what_its_flow_may_send() {
    let mut world = World::new();
    world.aggregates[2].depth_ns = 0;
    let (verdict, _) = run(&world, Direction::Out, &udp_frame(&out_ends(FREE), &rtp(), 0, 64));
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(world.counted(Direction::Out, Reason::AggregateOverRate), 1);
    let Tally { offered_packets, dropped_packets, .. } = &world.aggregate_shares[2].tally;
    assert_eq!((offered_packets.get(), dropped_packets.get()), (1, 1));
}

/// A plain packet has its tries twice, because it goes on to where there are more.
#[test]
fn a_packet_that_loses_all_tries_for_a_meter_is_counted_as_contended() {
    let frame = udp_frame(&out_ends(FREE), &rtp(), 0, 64);
    for (lost, verdict) in [(11, Verdict::Redirect(1)), (12, Verdict::Drop), (1_000, Verdict::Drop)] {
        let world = World::new();
        let mut buffer = Buffer::new(&frame).unwrap();
        let tables = Hooked { inner: world.tables(), lost: Cell::new(lost), before: || () };
        assert_eq!(outbound(&mut buffer, &tables), verdict, "{lost} lost");
        let dropped = u64::from(verdict == Verdict::Drop);
        assert_eq!(world.counted(Direction::Out, Reason::Contended), dropped);
        let Tally { offered_packets, passed_packets, dropped_packets, .. } = &world.flow_shares[0].tally;
        assert_eq!([offered_packets, passed_packets, dropped_packets].map(Cell::get), [1, 1 - dropped, dropped]);
    }
    // At the aggregate alone: another packet comes before each of its tries.
    let world = World::new();
    let tries = Cell::new(0);
    let race = || {
        tries.set(tries.get() + 1);
        if tries.get() > 1 {
            world.pools[2].spent_ns.fetch_add(1, Ordering::Relaxed);
        }
    };
    let tables = Hooked { inner: world.tables(), lost: Cell::new(0), before: race };
    let mut buffer = Buffer::new(&frame).unwrap();
    assert_eq!((outbound(&mut buffer, &tables), tries.get()), (Verdict::Drop, 7));
    assert_eq!(world.counted(Direction::Out, Reason::Contended), 1);
    let Tally { offered_packets, dropped_packets, .. } = &world.aggregate_shares[2].tally;
    assert_eq!((offered_packets.get(), dropped_packets.get()), (1, 1));
}

proptest! {
    /// What arrives is what was sent, but for the hop count, the DSCP of the aggregate and the link layer.
    #[test]
    fn tagging_then_restoring_is_the_identity(data in proptest::collection::vec(any::<u8>(), 7..1_471)) {
        identity(&data);
    }

    /// A wrong checksum is not made right on the way: the receiver still sees that the packet was damaged.
    #[test]
    fn a_damaged_packet_stays_damaged(at in 42_usize..214, bit in 0_u8..8) {
        let mut sent = udp_frame(&out_ends(FREE), &rtp(), 0, 64);
        sent[at] ^= 1 << bit;
        let (_, tagged) = run(&World::new(), Direction::Out, &sent);
        prop_assert!(!checksums_hold(&tagged));
        let (verdict, restored) = run(&far_end(&flows_out()[0]), Direction::In, &tagged);
        prop_assert_eq!(verdict, Verdict::Redirect(0));
        prop_assert!(!checksums_hold(&restored));
    }

    /// No bytes at all make the packet logic panic, forget to count, or count twice.
    #[test]
    fn any_bytes_are_counted_once(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        any_frame(&data);
    }
}
