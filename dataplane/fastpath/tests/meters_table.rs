//! Both meters at every rate from 8 kbit/s to 400 Gbit/s, packet size and offer, on one CPU and on two.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use std::sync::atomic::AtomicU64;

use turnpike_fastpath::Tables;
use turnpike_fastpath::entry::EXACT_CLOCK;
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::meter::{Charge, charge_flow, flow_rate};
use world::host::World;
use world::meter::{START_NS, Shared, bytes_in};

const RATES_BPS: [u64; 8] =
    [8_000, 64_000, 1_000_000, 100_000_000, 1_000_000_000, 10_000_000_000, 100_000_000_000, 400_000_000_000];
const SIZES: [u64; 3] = [64, 200, 1_500];
/// Of the rate, in halves.
const OFFERS: [u64; 4] = [1, 2, 4, 20];
/// What one CPU's clock may be behind the other's.
const SKEW_NS: u64 = 300;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
struct Row {
    rate_bps: u64,
    bytes: u64,
    halves: u64,
    cpus: u64,
    packets: u64,
}

#[derive(Debug)]
struct Found {
    passed_bytes: u64,
    /// At the last packet.
    duration_ns: u64,
}

impl Row {
    fn all(packets: u64) -> impl Iterator<Item = Self> {
        let rows = RATES_BPS.into_iter().flat_map(|rate_bps| SIZES.map(|bytes| (rate_bps, bytes)));
        rows.flat_map(|row| OFFERS.map(|halves| (row, halves))).flat_map(move |((rate_bps, bytes), halves)| {
            // As much time at the rate, whatever the offer.
            [1, 2].map(|cpus| Self { rate_bps, bytes, halves, cpus, packets: packets * halves.max(2) / 2 })
        })
    }

    /// Time of a packet at the rate, in nanoseconds times 2^24.
    fn packet_time(&self) -> u128 {
        u128::from(self.bytes) * (8_000_000_000 << 24) / u128::from(self.rate_bps)
    }

    /// Offers packets, one CPU after the other; what this says conforms.
    fn offer(&self, tables: &MemoryTables<'_>, conforms: impl Fn(usize) -> bool) -> Found {
        let mut found = Found { passed_bytes: 0, duration_ns: 0 };
        for packet in 0..self.packets {
            let cpu = packet % self.cpus;
            found.duration_ns = ((u128::from(packet) * self.packet_time() * 2 / u128::from(self.halves)) >> 24) as u64;
            // Never before the first packet, which is where the time starts that the bound is for.
            let behind_ns = if cpu == 1 { SKEW_NS.min(found.duration_ns) } else { 0 };
            tables.exact_ns.set(START_NS + found.duration_ns - behind_ns);
            if conforms(cpu as usize) {
                found.passed_bytes += self.bytes;
            }
        }
        found
    }

    /// Sees to it that at most `most` bytes beyond the rate passed, and at least what conforms where a packet's time is stretched by so many
    /// parts in a million, with so many bytes to spare before that loses one.
    fn check(&self, found: &Found, most: u64, stretch_ppm: u64, spare: u64) {
        let Found { passed_bytes, duration_ns } = *found;
        let earned = bytes_in(self.rate_bps, duration_ns);
        assert!(passed_bytes <= earned + most, "{self:?}: {passed_bytes} > {earned} + {most}");
        let offered = self.packets * self.bytes;
        let least = if self.halves <= 2 {
            // All of it, unless rounding has eaten what there is to spare; then whole packets.
            let eaten = (offered * stretch_ppm / 1_000_000).saturating_sub(spare);
            offered - eaten.div_ceil(self.bytes) * self.bytes
        } else {
            let in_full = earned + spare;
            in_full - in_full * stretch_ppm / 1_000_000 - 2 * self.bytes
        };
        assert!(passed_bytes >= least, "{self:?}: {passed_bytes} < {least} of {offered}");
    }
}

#[test]
fn a_flow_gets_its_rate_by_the_exact_clock() {
    let world = World::new();
    let tables = world.tables();
    for row in Row::all(20_000) {
        let burst_bytes = 8 * row.bytes + bytes_in(row.rate_bps, SKEW_NS);
        let rate = flow_rate(row.rate_bps, burst_bytes as u32, 0).unwrap();
        let due = AtomicU64::new(0);
        let found =
            row.offer(&tables, |_| charge_flow(&tables, &rate, &due, EXACT_CLOCK, 0, row.bytes) == Charge::Conforms);
        // A packet's time is rounded up to a sixteenth of a nanosecond, and a byte's to 2^-24 of one.
        let stretch_ppm = (((1 << 20) + u128::from(row.bytes)) * 1_000_000 / row.packet_time()) as u64 + 1;
        assert!(row.packet_time() >> 24 < 63 || stretch_ppm <= 1_000, "{row:?}: {stretch_ppm}");
        row.check(&found, burst_bytes + 1, stretch_ppm, 7 * row.bytes);
    }
}

#[test]
fn a_flow_gets_its_rate_by_the_coarse_clock() {
    let world = World::new();
    let tables = world.tables();
    for row in Row::all(20_000) {
        // A tick of four milliseconds, or as many packets at rates where the test is shorter than that.
        let tick_ns = 4_000_000.min(((row.packet_time() * 40) >> 24) as u64).max(1);
        let burst_bytes = bytes_in(row.rate_bps, 8 * tick_ns) + 8 * row.bytes + bytes_in(row.rate_bps, SKEW_NS);
        let rate = flow_rate(row.rate_bps, burst_bytes as u32, tick_ns).unwrap();
        let due = AtomicU64::new(0);
        let found = row.offer(&tables, |_| {
            let coarse_ns = tables.exact_ns() / tick_ns * tick_ns;
            charge_flow(&tables, &rate, &due, 0, coarse_ns, row.bytes) == Charge::Conforms
        });
        let stretch_ppm = (((1 << 20) + u128::from(row.bytes)) * 1_000_000 / row.packet_time()) as u64 + 1;
        // One tick is allowed for, and by one the clock is late at first.
        let most = burst_bytes + bytes_in(row.rate_bps, 2 * tick_ns) + 2;
        let spare = burst_bytes - row.bytes - bytes_in(row.rate_bps, SKEW_NS);
        row.check(&found, most, stretch_ppm, spare - bytes_in(row.rate_bps, tick_ns));
    }
}

#[test]
fn an_aggregate_gets_its_rate_on_one_cpu_and_on_two() {
    let world = World::new();
    let tables = world.tables();
    for row in Row::all(20_000) {
        let burst_bytes = 4 * 2 * 1_508 + 16 * bytes_in(row.rate_bps, SKEW_NS);
        let shared = Shared::new(row.rate_bps, burst_bytes as u32, row.cpus as u32);
        let found = row.offer(&tables, |cpu| shared.green(&tables, cpu, row.bytes));
        // A quantum of 1,508 bytes or more may be short of one.
        row.check(&found, burst_bytes + 1, 664, burst_bytes / 2 - bytes_in(row.rate_bps, SKEW_NS));
        // What CPUs hold was taken off the pool.
        let Found { passed_bytes, duration_ns } = found;
        let all = passed_bytes + shared.credit_bytes();
        assert!(all <= bytes_in(row.rate_bps, duration_ns) + burst_bytes + 1, "{row:?}: {all}");
    }
}

#[test]
fn an_hour_of_silence_buys_one_burst_at_every_rate() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let world = World::new();
    let tables = world.tables();
    for (rate_bps, bytes) in RATES_BPS.into_iter().flat_map(|rate_bps| SIZES.map(|bytes| (rate_bps, bytes))) {
        let burst_bytes = 40 * bytes as u32;
        let rate = flow_rate(rate_bps, burst_bytes, 0).unwrap();
        let due = AtomicU64::new(0);
        let shared: [Shared; 2] = [1, 2].map(|cpus| Shared::new(rate_bps, 12_064 * cpus, cpus));
        for hour in 0..3 {
            tables.exact_ns.set(START_NS + hour * HOUR_NS);
            let passed = (0..100)
                .filter(|_| charge_flow(&tables, &rate, &due, EXACT_CLOCK, 0, bytes) == Charge::Conforms)
                .count();
            // The cost of each packet is rounded up, which at the highest rates takes one off the burst.
            assert!((39..=40).contains(&passed), "{rate_bps} bit/s, {bytes} bytes: {passed} in hour {hour}");
            for shared in &shared {
                let cpus = shared.shares.len();
                let passed: u64 =
                    (0..2_000).filter(|packet| shared.green(&tables, packet % cpus, bytes)).count() as u64;
                let burst_bytes = 12_064 * cpus as u64;
                assert!(passed * bytes <= burst_bytes, "{rate_bps} bit/s, {cpus} CPUs: {passed} × {bytes}");
                assert!(passed * bytes >= burst_bytes / 2, "{rate_bps} bit/s, {cpus} CPUs: {passed} × {bytes}");
            }
        }
    }
}
