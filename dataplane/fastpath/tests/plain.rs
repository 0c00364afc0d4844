//! The short way of plain packets does what the long way does: the same frame, verdict and tables, for every frame that it takes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use proptest::prelude::*;
use turnpike_fastpath::buffer::Buffer;
use turnpike_fastpath::entry::{DSCP_COPY, DSCP_MAP, EXACT_CLOCK, UNADMITTED_DROP, UNADMITTED_LIMIT, UNADMITTED_PASS};
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::{Detour, Direction, Verdict, inbound_plain, inbound_v4, outbound_plain, outbound_v4};
use world::host::World;
use world::*;

/// Everything that a packet can change.
fn state(world: &World) -> String {
    let World { flows, flow_details, flow_shares, labels, label_details, label_shares, receptions, .. } = world;
    let World { pools, aggregate_shares, reasons, .. } = world;
    format!(
        "{flows:?} {flow_details:?} {flow_shares:?} {labels:?} {label_details:?} {label_shares:?} {receptions:?} {pools:?} \
         {aggregate_shares:?} {reasons:?}"
    )
}

type Way = fn(&mut Buffer, &MemoryTables<'_>) -> Result<Verdict, Detour>;

/// Whether the short way takes the frame; if so, it must be as the long way is.
fn takes(make: &dyn Fn() -> World, direction: Direction, frame: &[u8]) -> bool {
    let (short, long): (Way, Way) = match direction {
        Direction::Out => (|frame, tables| outbound_plain(frame, tables), |frame, tables| outbound_v4(frame, tables)),
        Direction::In => (|frame, tables| inbound_plain(frame, tables), |frame, tables| inbound_v4(frame, tables)),
    };
    let run = |way: Way| {
        let (world, mut buffer) = (make(), Buffer::new(frame).unwrap());
        let verdict = way(&mut buffer, &world.tables());
        (verdict, buffer.as_slice().to_vec(), state(&world))
    };
    let (verdict, after, changed) = run(short);
    if verdict.is_err() {
        assert_eq!(after, frame, "changed and sent on");
        assert_eq!(changed, state(&make()), "counted and sent on");
        return false;
    }
    assert_eq!((verdict, after, changed), run(long));
    true
}

#[test]
fn the_short_way_is_the_long_way_for_every_named_frame() {
    let mut taken = 0;
    for case in cases() {
        println!("{}", case.name);
        taken += usize::from(takes(&World::new, case.direction, &case.frame));
    }
    assert!(taken > 50, "only {taken} frames are plain");
}

/// Nodes with other policies and aggregates.
fn node_of(choice: u16) -> World {
    let mut world = World::new();
    world.config.unadmitted = [UNADMITTED_PASS, UNADMITTED_LIMIT, UNADMITTED_DROP][usize::from(choice % 3)];
    world.config.dscp_in.rotate_left(5);
    world.config.fragments_drop = choice >> 2 & 1;
    for aggregate in &mut world.aggregates {
        aggregate.flags |= [0, DSCP_COPY, DSCP_MAP, DSCP_COPY][usize::from(choice >> 3 & 3)];
    }
    for (flow, label) in world.flows.iter_mut().zip(&mut world.labels) {
        flow.flags |= EXACT_CLOCK * (choice >> 5 & 1);
        label.flags |= EXACT_CLOCK * (choice >> 5 & 1);
        if choice >> 6 & 7 == 7 {
            (flow.expires_ns, label.expires_ns) = (1, 1);
        }
        label.clock_factor = u32::from(choice >> 9 & 1) * 34_360;
    }
    if choice >> 10 & 7 == 7 {
        world.pools.iter().for_each(|pool| pool.spent_ns.store(u64::MAX >> 1, std::sync::atomic::Ordering::Relaxed));
    }
    if choice >> 13 & 7 == 7 {
        world.next_hops[0].0 = 0;
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn the_short_way_is_the_long_way_for_damaged_frames_at_other_nodes(
        which in any::<prop::sample::Index>(),
        choice in any::<u16>(),
        changes in proptest::collection::vec((0_usize..64, any::<u8>()), 0..3),
        length in 14_usize..240,
    ) {
        let cases = cases();
        let case = &cases[which.index(cases.len())];
        let mut frame = case.frame.clone();
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if choice & 0x8001 == 0x8001 {
            frame.truncate(length);
        }
        takes(&|| node_of(choice), case.direction, &frame);
    }
}
