//! Colours: what flows lend each other of their aggregate, and that green packets never suffer from yellow ones.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use proptest::prelude::*;
use turnpike_fastpath::entry::Colour;
use turnpike_fastpath::memory::MemoryTables;
use world::host::World;
use world::meter::{Meters, Random, START_NS, Shared, bytes_in};

/// What a flow of the test had passed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Passed {
    green_bytes: u64,
    yellow_bytes: u64,
}

impl Passed {
    const fn bytes(self) -> u64 {
        self.green_bytes + self.yellow_bytes
    }
}

/// Sends a packet of a flow through both meters; false if it was green and its aggregate refused it.
fn send(
    tables: &MemoryTables<'_>,
    shared: &Shared,
    flow: &Meters,
    passed: &mut Passed,
    cpu: usize,
    bytes: u64,
) -> bool {
    let Some(colour) = flow.colour(tables, bytes) else { return true };
    let conforms = shared.charge(tables, cpu, colour, bytes);
    match colour {
        Colour::Green if conforms => passed.green_bytes += bytes,
        Colour::Yellow if conforms => passed.yellow_bytes += bytes,
        Colour::Green => return false,
        Colour::Yellow => {}
    }
    true
}

proptest! {
    /// Whatever greedy flows borrow: what the flows' own rates admit, together within the aggregate's rate and half of its burst, is never
    /// refused, and all together never exceeds the aggregate's rate and burst.
    #[test]
    fn green_never_suffers_from_yellow(
        rate_bps in 1_000_000_u64..10_000_000_000,
        cpus in 1_u32..5,
        spare in 1_u32..300_000,
        parts in proptest::collection::vec((1_u64..100, 1_u64..100, proptest::option::of(1_u64..400)), 1..6),
        packets in proptest::collection::vec((0_u64..40, 28_u64..1_508, 0_usize..6, 0_usize..4, 1_usize..20), 1..300),
    ) {
        let burst_bytes = 8 * cpus * 1_508 + spare;
        let shared = Shared::new(rate_bps, burst_bytes, cpus);
        let (rates, bursts) = parts.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        // What rounding a quantum to whole nanoseconds may cost is a byte in a quantum.
        let (rate_bps, half) = (rate_bps / 1_000 * 999, u64::from(burst_bytes / 2));
        let flows: Vec<_> = parts
            .iter()
            .map(|(rate, burst, excess)| {
                let excess = excess.map(|parts| (rate_bps * parts / 100, burst_bytes));
                Meters::new((rate_bps * rate / rates, (half * burst / bursts) as u32), excess)
            })
            .collect();
        let world = World::new();
        let tables = world.tables();
        let (mut now_ns, mut passed) = (START_NS, vec![Passed::default(); flows.len()]);
        // Gaps as parts of the time in which the burst comes back, so that pools are neither always full nor always empty.
        let gap_ns = u64::from(burst_bytes) * 8_000_000_000 / rate_bps / 40;
        for (gap, bytes, flow, cpu, count) in packets {
            now_ns += gap * gap / 40 * gap_ns / 20;
            tables.exact_ns.set(now_ns);
            let (flow, cpu) = (flow % flows.len(), cpu % cpus as usize);
            for _ in 0..count {
                let held = send(&tables, &shared, &flows[flow], &mut passed[flow], cpu, bytes);
                prop_assert!(held, "a green packet of flow {flow} was refused at {}", now_ns - START_NS);
            }
        }
        let all: u64 = passed.iter().map(|passed| passed.bytes()).sum();
        let allowed = bytes_in(rate_bps * 1_001 / 999, now_ns - START_NS) + u64::from(burst_bytes);
        prop_assert!(all + shared.credit_bytes() <= allowed + 1, "{all} > {allowed}");
    }
}

const MEGA: u64 = 1_000_000;

/// One sender: its flow's rate, its excess if it has one, and what it offers, in Mbit/s.
#[derive(Debug, Clone, Copy)]
struct Sender {
    rate: u64,
    excess: Option<u64>,
    offers: u64,
}

/// Lets senders send for four seconds into an aggregate of 100 Mbit/s, at random times; Mbit/s that each had passed in the last three.
fn share(senders: &[Sender], cpus: u32) -> Vec<f64> {
    const BYTES: u64 = 200;
    let world = World::new();
    let tables = world.tables();
    let shared = Shared::new(100 * MEGA, 100_000, cpus);
    let flows: Vec<_> = senders
        .iter()
        .map(|sender| Meters::new((sender.rate * MEGA, 10_000), sender.excess.map(|rate| (rate * MEGA, 10_000))))
        .collect();
    let offers: u64 = senders.iter().map(|sender| sender.offers).sum();
    let mut random = Random(0x5eed_0f7a_11ce_5a1d);
    let (mut now_ns, mut passed, mut before) = (START_NS, vec![Passed::default(); flows.len()], Vec::new());
    // Packets of all at once, so far apart in the mean; whose is drawn by what each offers.
    let gap_ns = BYTES * 8_000 / offers;
    while now_ns < START_NS + 4_000_000_000 {
        now_ns += random.below(2 * gap_ns);
        tables.exact_ns.set(now_ns);
        let mut drawn = random.below(offers);
        let flow = senders.iter().position(|sender| {
            let here = drawn < sender.offers;
            drawn = drawn.saturating_sub(sender.offers);
            here
        });
        let (flow, cpu) = (flow.unwrap(), random.below(cpus.into()) as usize);
        assert!(send(&tables, &shared, &flows[flow], &mut passed[flow], cpu, BYTES), "{senders:?}");
        if now_ns >= START_NS + 1_000_000_000 && before.is_empty() {
            before.clone_from(&passed);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "seconds of Mbit/s")]
    let rate = |(passed, before): (&Passed, &Passed)| (passed.bytes() - before.bytes()) as f64 * 8.0 / 3.0 / 1e6;
    passed.iter().zip(&before).map(rate).collect()
}

fn near(found: &[f64], wanted: &[f64], per_cent: f64) {
    for (found_one, wanted_one) in found.iter().zip(wanted) {
        assert!((found_one - wanted_one).abs() <= wanted_one * per_cent / 100.0, "{found:?} Mbit/s, not {wanted:?}");
    }
}

#[test]
fn a_greedy_flow_gets_its_rate_and_what_is_idle_up_to_its_excess() {
    let greedy = |excess| Sender { rate: 10, excess, offers: 300 };
    let other = |offers| Sender { rate: 60, excess: None, offers };
    for cpus in [1, 4] {
        near(&share(&[greedy(None)], cpus), &[10.0], 1.0);
        near(&share(&[greedy(Some(20))], cpus), &[30.0], 1.0);
        near(&share(&[greedy(Some(400))], cpus), &[100.0], 1.0);
        // Beside a flow that uses all of its own, half of it, or nothing.
        near(&share(&[greedy(Some(400)), other(59)], cpus), &[41.0, 59.0], 2.0);
        near(&share(&[greedy(Some(400)), other(30)], cpus), &[70.0, 30.0], 2.0);
        near(&share(&[greedy(Some(20)), other(30)], cpus), &[30.0, 30.0], 2.0);
    }
}

#[test]
fn two_greedy_flows_share_what_is_idle_by_what_they_offer_up_to_their_excess() {
    let greedy = |excess, offers| Sender { rate: 10, excess: Some(excess), offers };
    // The same of both.
    near(&share(&[greedy(400, 200), greedy(400, 200)], 2), &[50.0, 50.0], 5.0);
    // Beyond their own 10 Mbit/s they offer 290 and 90: of 80 idle they get as much in proportion.
    let proportional = [10.0 + 80.0 * 290.0 / 380.0, 10.0 + 80.0 * 90.0 / 380.0];
    near(&share(&[greedy(400, 300), greedy(400, 100)], 2), &proportional, 6.0);
    // Excess rates are what keeps one from taking more than another.
    near(&share(&[greedy(40, 300), greedy(40, 100)], 2), &[50.0, 50.0], 2.0);
}

#[test]
fn an_aggregate_without_room_beyond_its_reserve_lends_nothing() {
    let world = World::new();
    let tables = world.tables();
    tables.exact_ns.set(START_NS);
    let shared = Shared::new(100 * MEGA, 8 * 1_508, 2);
    assert_eq!(shared.rate.idle_bytes, 0);
    assert!(!shared.yellow(&tables, 200));
    let shared = Shared::new(100 * MEGA, 100_000, 2);
    let passed = (0..1_000).filter(|_| shared.yellow(&tables, 200)).count() as u64;
    assert!(passed * 200 <= shared.rate.idle_bytes && (passed + 2) * 200 > shared.rate.idle_bytes, "{passed}");
    // Half of the burst is still there for green ones, and the CPUs' credit.
    let passed = (0..1_000).filter(|packet| shared.green(&tables, packet % 2, 200)).count() as u64;
    assert!(passed * 200 >= 50_000, "{passed}");
}
