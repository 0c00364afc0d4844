//! What arrived of a flow, counted by the kernel and by the same code on the host: every word of the entry is equal. It also runs the
//! atomic add of the eBPF target, whose fetching forms are silently wrong.

use std::sync::atomic::Ordering;

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use turnpike_fastpath::reception::{Reception, observe};
use turnpike_fastpath::wire::rtp;
use zerocopy::{FromBytes, IntoBytes, transmute};

use crate::contract::Headers;
use crate::host::monotonic_ns;
use crate::object::{self, Maps, Programs, bench_map};

const RTP_OFFSET: usize = size_of::<Headers>();
const PACKETS: u32 = 20_000;
const XDP_DROP: u32 = 1;

fn loaded() -> Option<(Programs, Maps)> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for BPF");
        return None;
    }
    let cpus = u32::try_from(aya::util::nr_cpus().unwrap()).unwrap();
    Some(object::load(cpus, object::FLOWS).unwrap())
}

fn observe_in_kernel(programs: &Programs, payload: &[u8]) {
    let frame = [&[0; RTP_OFFSET], payload].concat();
    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
    let result = programs.get("tb_observe").unwrap().test_run(options).unwrap();
    assert_eq!(result.return_value, XDP_DROP);
}

fn words(reception: &Reception) -> [u64; 8] {
    let Reception { window, jitter, lost, duplicated, reordered, gaps, not_rtp, rare } = reception;
    [window, jitter, lost, duplicated, reordered, gaps, not_rtp, rare].map(|word| word.load(Ordering::Relaxed))
}

fn header(source: u32, sequence: u16, timestamp: u32) -> rtp::Header {
    rtp::Header {
        flags: 0x80,
        marker_type: 0,
        sequence: sequence.into(),
        timestamp: timestamp.into(),
        source: source.into(),
    }
}

#[test]
fn the_kernel_counts_what_the_host_counts() {
    let Some((programs, maps)) = loaded() else { return };
    let world = crate::world::host::World::new();
    let tables = world.tables();
    let on_host = Reception::default();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut source, mut next) = (1, 65_000_u16);
    for _ in 0..PACKETS {
        let sequence = match random(100) {
            0..60 => next,
            60..75 => next.wrapping_add(u16::try_from(random(70)).unwrap()),
            75..95 => next.wrapping_sub(u16::try_from(random(40)).unwrap()),
            95..97 => next.wrapping_sub(u16::try_from(random(120)).unwrap()),
            97 => next.wrapping_add(u16::try_from(random(3_100)).unwrap()),
            98 => {
                source = u32::try_from(random(3)).unwrap();
                next
            }
            _ => u16::try_from(random(65_536)).unwrap(),
        };
        if sequence.wrapping_sub(next).cast_signed() >= 0 {
            next = sequence.wrapping_add(1);
        }
        let mut header = header(source, sequence, 0);
        match random(50) {
            0 => header.flags = 0x16,
            1 => header.marker_type = 200,
            _ => {}
        }
        // Some are too short, some have a payload.
        let bytes = [header.as_bytes(), &[0; 160]].concat();
        let length = if random(50) == 0 { 11 } else { 12 + usize::try_from(random(160)).unwrap() };
        let payload = &bytes[..length];
        let rtp = rtp::Header::ref_from_prefix(payload).ok().map(|(header, _)| header);
        observe(&tables, &on_host, rtp, 0, false);
        observe_in_kernel(&programs, payload);
        let in_kernel = maps.read::<8>(bench_map::RECEPTIONS, 0).unwrap();
        assert_eq!(in_kernel, words(&on_host), "{header:?}");
    }
    let counters = on_host.final_counters(0);
    // The run has something of everything.
    for count in [
        counters.lost_packets,
        counters.duplicated_packets,
        counters.reordered_packets,
        counters.unplaced_packets,
        counters.not_rtp_packets,
        counters.gaps,
        counters.restarts,
    ] {
        assert!(count > 20, "{counters:?}");
    }
}

#[test]
fn the_kernel_measures_jitter_by_its_clock() {
    let Some((programs, maps)) = loaded() else { return };
    let estimate = |maps: &Maps| {
        let reception: Reception = transmute!(maps.read::<8>(bench_map::RECEPTIONS, 1).unwrap());
        reception.counters(8_000).jitter_ns
    };
    assert_eq!(estimate(&maps), None);
    // The second packet says that it was taken 10 s after the first and comes at once: a sixteenth of that is the jitter.
    let before_ns = monotonic_ns().unwrap();
    observe_in_kernel(&programs, header(1, 1, 0).as_bytes());
    observe_in_kernel(&programs, header(1, 2, 80_000).as_bytes());
    let took_ns = monotonic_ns().unwrap() - before_ns;
    let jitter_ns = estimate(&maps).unwrap();
    let tick_ns = 1_000_000_000 / 8_000;
    assert!(jitter_ns <= (10_000_000_000 + tick_ns) / 16, "{jitter_ns}");
    assert!(jitter_ns >= (10_000_000_000 - took_ns - tick_ns) / 16, "{jitter_ns} {took_ns}");
    // Nothing else differs.
    let counters = |index| maps.read::<8>(bench_map::RECEPTIONS, index).unwrap();
    assert_eq!((counters(0)[0], &counters(0)[2..]), (counters(1)[0], &counters(1)[2..]));
}
