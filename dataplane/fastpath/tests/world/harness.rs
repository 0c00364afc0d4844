//! What must hold for any bytes: run by the fuzzers, and over their corpora by every test run.

use turnpike_fastpath::buffer::{Buffer, FRAME_BYTES_MAX};
use turnpike_fastpath::entry::{Outer, changes_in};
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{Direction, Reason, Verdict, inbound, outbound};

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

/// A world at the other end: it takes what [`World::new`] sends on the flow of this port.
pub fn far_end(port: u16) -> World {
    let mut world = World::new();
    world.config.tag_address = PEER;
    world.add_label(7, NODE, LABEL_OUT, port);
    let ends = out_ends(port);
    let outer = Outer { source: NODE, destination: PEER, tag_port: TAG_PORT.to_be_bytes() };
    let (ip_change, udp_change) = changes_in(&ends, &outer, tag::template(LABEL_OUT));
    let label = &mut world.labels[7];
    (label.source, label.destination) = (ends.source, ends.destination);
    (label.source_port, label.destination_port) = (ends.source_port, ends.destination_port);
    (label.ip_change, label.udp_change) = (ip_change, udp_change);
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
        Verdict::Redirect(_) if direction == Direction::Out => assert_eq!(after.len(), frame.len() + 8),
        Verdict::Redirect(_) => assert_eq!(after.len() + 8, frame.len()),
    }
    for tally in world.flow_shares.iter().chain(&world.label_shares).map(|share| &share.tally) {
        assert_eq!(tally.offered_packets.get(), tally.passed_packets.get() + tally.dropped_packets.get());
        assert_eq!(tally.offered_bytes.get(), tally.passed_bytes.get() + tally.dropped_bytes.get());
    }
}

/// A packet of a flow arrives as it was sent, but for hop count, DSCP and link layer. Bytes: port, TOS, hop count, identification, whether
/// there is a UDP checksum, payload.
pub fn identity(data: &[u8]) {
    let Some(([port_high, port_low, tos, hops, id_high, id_low, checksum], payload)) = data.split_first_chunk() else {
        return;
    };
    let port = u16::from_be_bytes([*port_high, *port_low]).clamp(1, 65_534);
    let payload = &payload[..payload.len().min(usize::from(MTU) - 36)];
    let hops = (*hops).max(3);
    let mut near = World::new();
    near.add_flow(2, port, 1_000_000_000, 1 << 20);
    let mut sent = udp_frame(&out_ends(port), payload, *tos, hops);
    sent[18..20].copy_from_slice(&[*id_high, *id_low]);
    fix_checksums(&mut sent);
    if checksum & 1 == 0 {
        sent[40..42].fill(0);
    }
    let (verdict, tagged) = run(&near, Direction::Out, &sent);
    assert_eq!(verdict, Verdict::Redirect(1));
    assert!(checksums_hold(&tagged));
    let (verdict, restored) = run(&far_end(port), Direction::In, &tagged);
    assert_eq!(verdict, Verdict::Redirect(0));
    assert!(checksums_hold(&restored));
    let mut wanted = sent;
    wanted[..14].copy_from_slice(&restored[..14]);
    wanted[15] = 46 << 2 | (tos & 3);
    wanted[22] = hops - 2;
    wanted[24..26].fill(0);
    let ip = ip_checksum(&wanted[14..34]);
    wanted[24..26].copy_from_slice(&ip.to_be_bytes());
    assert_eq!(restored, wanted);
}
