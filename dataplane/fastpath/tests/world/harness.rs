//! What must hold for any bytes: run by the fuzzers, and over their corpora by every test run.

use turnpike_fastpath::buffer::{Buffer, FRAME_BYTES_MAX};
use turnpike_fastpath::plan::growth_bytes;
use turnpike_fastpath::{Direction, Reason, Verdict, inbound, outbound};

use super::check::layout;
use super::host::World;
use super::*;

/// Runs a frame through the packet logic on the host.
pub fn run(world: &World, direction: Direction, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut buffer = Buffer::new(frame).unwrap();
    let tables = world.tables();
    let verdict = match direction {
        Direction::Out => outbound(&mut buffer, &tables),
        Direction::In => inbound(&mut buffer, &tables),
    };
    (verdict, buffer.as_slice().to_vec())
}

/// A world at the other end: it takes what [`World::new`] sends on this flow.
pub fn far_end(flow: &FlowOut) -> World {
    let mut world = World::of(PEER, PEER6, [NODE, NODE6, OTHER_PEER]);
    for site in [SITE_B, SITE_B6] {
        world.routes.retain(|(destination, _)| *destination != wide(site));
        world.routes.push((wide(site), world.next_hops[1]));
    }
    let label = FlowIn {
        ends: (!flow.terminals).then_some(flow.ends),
        peer: node(flow.peer),
        label: LABEL_OUT,
        spent: false,
        excess: false,
        rtcp_next_port: flow.rtcp_next_port,
    };
    world.add_label_at(&label, flow.peer);
    world
}

/// Any frame ends once, for one reason, and is left alone unless it is carried. The first byte picks the direction.
pub fn any_frame(data: &[u8]) {
    let Some((direction, frame)) = data.split_first() else { return };
    let frame = &frame[..frame.len().min(FRAME_BYTES_MAX)];
    let direction = if direction & 1 == 0 { Direction::Out } else { Direction::In };
    let world = World::new();
    let (verdict, after) = run(&world, direction, frame);
    let ended: Vec<_> = Reason::ALL.iter().filter(|reason| world.counted(direction, **reason) > 0).collect();
    assert_eq!(ended.len(), 1, "counted for {ended:?}");
    assert_eq!(world.counted(direction, *ended[0]), 1);
    let action = match verdict {
        Verdict::Pass => "pass",
        Verdict::Drop => "drop",
        Verdict::Redirect(_) => "redirect",
    };
    assert_eq!(ended[0].action(), action);
    assert_ne!(*ended[0], Reason::Internal);
    match verdict {
        Verdict::Drop => assert_eq!(after, frame, "changed and dropped"),
        Verdict::Pass => assert_eq!(after.len(), frame.len()),
        Verdict::Redirect(_) => {}
    }
    for share in world.flow_shares.iter().chain(&world.label_shares) {
        let tally = &share.tally;
        assert_eq!(tally.offered_packets.get(), tally.passed_packets.get() + tally.dropped_packets.get());
        assert_eq!(tally.offered_bytes.get(), tally.passed_bytes.get() + tally.dropped_bytes.get());
        assert!(share.excess_packets.get() <= tally.passed_packets.get());
    }
    let both = world.aggregate_shares.iter().map(|share| &share.tally);
    for tally in both {
        assert_eq!(tally.offered_packets.get(), tally.passed_packets.get() + tally.dropped_packets.get());
    }
}

/// A packet of a flow arrives as it was sent, but for hop count, DSCP and link layer. Bytes: flow, what stands between the headers, TOS, hop
/// count, identification or flow label, whether there is a UDP checksum, payload.
pub fn identity(data: &[u8]) {
    let Some(([flow, between, tos, hops, id_high, id_low, checksum], payload)) = data.split_first_chunk() else {
        return;
    };
    let flows: Vec<_> = flows_out().into_iter().filter(|flow| !flow.spent).collect();
    let flow = &flows[usize::from(*flow) % flows.len()];
    let next_port = flow.rtcp_next_port && checksum & 2 != 0;
    let ends = if next_port { next(flow.ends) } else { flow.ends };
    let v6 = flow.ends.source.is_ipv6();
    let payload = &payload[..payload.len().min(1_300)];
    let mut build = Build::new(ends, payload).tos(*tos).hops((*hops).max(3));
    build.identification = u16::from_be_bytes([*id_high, *id_low]);
    build.flow_label = u32::from(build.identification) | u32::from(*between & 15) << 16;
    match (between >> 4, v6) {
        (1, false) => build = build.options(&[1, 1, 1, 0]),
        (2, false) => build = build.options(&[1; 40]),
        (3, true) => build = build.extension(60, 8),
        (4, true) => build = build.extension(0, 8).extension(43, 24).extension(60, 16),
        (5, _) => build = build.vlan(0x8100, 7),
        (6, _) => build = build.vlan(0x88a8, 7).vlan(0x8100, 8),
        _ => {}
    }
    let mut sent = build.frame();
    let at = layout(&sent).udp + 6;
    if checksum & 1 == 0 {
        sent[at..at + 2].fill(0);
    }
    let near = World::new();
    let (verdict, tagged) = run(&near, Direction::Out, &sent);
    assert_eq!(verdict, Verdict::Redirect(1));
    assert!(checksums_hold(&tagged));
    let bare = layout(&sent);
    let plain = build.between.is_empty();
    if plain {
        let growth = growth_bytes(v6, flow.peer.is_ipv6(), flow.terminals);
        assert_eq!(tagged.len() as i32 - 14, (sent.len() - bare.ip) as i32 + growth);
    }
    let (verdict, restored) = run(&far_end(flow), Direction::In, &tagged);
    assert_eq!(verdict, Verdict::Redirect(0));
    assert!(checksums_hold(&restored));
    // The link header is another; hop count and DSCP have changed.
    let mut wanted = sent[bare.ip..].to_vec();
    let hop_at = if v6 { 7 } else { 8 };
    wanted[hop_at] -= 2;
    let class = 46 << 2 | (tos & 3);
    if v6 {
        wanted[0] = 0x60 | class >> 4;
        wanted[1] = class << 4 | wanted[1] & 15;
    } else {
        wanted[1] = class;
        let checksum = {
            wanted[10..12].fill(0);
            check::ip_checksum(&wanted[..bare.udp - bare.ip])
        };
        wanted[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    assert_eq!(restored[14..], wanted);
}
