//! The life of policies in the kernel: in force, counted, taken over by the next process, out of force, refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use host::{in_own_namespace, ip};
use turnpike_engine::policy::{Counters, Meter, Policy, PolicyId};
use turnpike_engine::{Engine, EngineConfig, EngineError, Survey, Takeover, XdpMode};
use turnpike_fastpath::entry::{Config, Inner};
use turnpike_fastpath::{Direction, Reason};
use world::*;

const OUT: PolicyId = 1;
const IN: PolicyId = 2;
const FLOW_OUT: PolicyId = 3;
const FLOW_IN: PolicyId = 4;

const METER: Meter = Meter { rate_bps: 80_000, burst_bytes: 1_600, packet_bytes_min: 200 };

fn address(ip: [u8; 4], port: [u8; 2]) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(ip), u16::from_be_bytes(port))
}

fn flow_out(ends: &Inner) -> Policy {
    let (source, destination) =
        (address(ends.source, ends.source_port), address(ends.destination, ends.destination_port));
    Policy::FlowOut { aggregate: OUT, source, destination, label: LABEL_OUT, meter: METER }
}

fn flow_in(ends: &Inner, label: u64) -> Policy {
    let (source, destination) =
        (address(ends.source, ends.source_port), address(ends.destination, ends.destination_port));
    Policy::FlowIn { aggregate: IN, source, destination, label, meter: METER }
}

fn aggregates() -> [(PolicyId, Policy); 2] {
    let peer = Ipv4Addr::from(PEER);
    [
        (OUT, Policy::AggregateOut { peer, rate_bps: 1_000_000, burst_bytes: 65_536, dscp: 46 }),
        (IN, Policy::AggregateIn { peer, rate_bps: 1_000_000, burst_bytes: 65_536 }),
    ]
}

fn call() -> [(PolicyId, Policy); 2] {
    [(FLOW_OUT, flow_out(&out_ends(FREE))), (FLOW_IN, flow_in(&in_ends(FREE), LABEL_IN))]
}

fn start(config: &EngineConfig) -> Engine {
    let mut engine = Engine::start(config).unwrap();
    engine.install(&aggregates()).unwrap();
    engine.install(&call()).unwrap();
    engine
}

fn sent() -> Vec<u8> {
    udp_frame(&out_ends(FREE), &rtp(), 0, 64)
}

fn received() -> Vec<u8> {
    tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 172), &rtp())
}

fn redirected(engine: &mut Engine, direction: Direction, frame: &[u8]) -> bool {
    engine.trial(direction, frame).unwrap().action == 4
}

fn packets(count: u64, dropped: u64) -> Counters {
    Counters {
        offered_packets: count,
        offered_bytes: 200 * count,
        passed_packets: count - dropped,
        passed_bytes: 200 * (count - dropped),
        dropped_packets: dropped,
        dropped_bytes: 200 * dropped,
    }
}

#[test]
fn a_policy_counts_while_it_is_in_force_and_reports_its_final_counters() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        // Eight packets of 200 bytes are the burst; one more is allowed for the clock's tick, and the rest is above the rate.
        let passed = (0..12).filter(|_| redirected(&mut engine, Direction::Out, &sent())).count() as u64;
        assert!((8..=9).contains(&passed), "{passed}");
        assert!(redirected(&mut engine, Direction::In, &received()));
        let wanted = [packets(12, 12 - passed), packets(1, 0)];
        assert_eq!([FLOW_OUT, FLOW_IN].map(|id| engine.counters(id).unwrap()), wanted);
        assert_eq!(engine.counters(OUT).unwrap().passed_bytes, 208 * passed);
        assert_eq!(engine.deinstall(&[FLOW_OUT, FLOW_IN, 99]), [wanted[0], wanted[1], Counters::default()]);
        engine.forget(&[FLOW_OUT, FLOW_IN]);
        assert_eq!(engine.counters(FLOW_OUT), None);

        assert!(!redirected(&mut engine, Direction::Out, &sent()));
        assert!(!redirected(&mut engine, Direction::In, &received()));
        assert_eq!(
            engine.verdict(Direction::Out, Reason::Unadmitted).0
                + engine.verdict(Direction::Out, Reason::UnadmittedOverRate).0,
            1
        );
        assert_eq!(
            engine.verdict(Direction::In, Reason::StaleGeneration).0,
            1,
            "a late packet is known for what it is"
        );
    });
}

#[test]
fn what_fails_half_way_leaves_nothing_in_force() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        let other = out_ends(FREE + 10);
        let error = engine.install(&[(20, flow_out(&other)), (21, flow_out(&out_ends(FREE)))]).unwrap_err();
        assert!(matches!(error, EngineError::EndpointsInUse(FLOW_OUT)), "{error}");
        assert_eq!(engine.counters(20), None);
        assert!(!redirected(&mut engine, Direction::Out, &udp_frame(&other, &rtp(), 0, 64)));
        engine.install(&[(22, flow_out(&other))]).unwrap();
        assert!(redirected(&mut engine, Direction::Out, &udp_frame(&other, &rtp(), 0, 64)));
    });
}

#[test]
fn the_next_process_takes_over_policies_and_counters() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        assert!(redirected(&mut engine, Direction::Out, &sent()));
        assert!(redirected(&mut engine, Direction::In, &received()));
        drop(engine);
        let mut engine = Engine::start(config).unwrap();
        assert_eq!(engine.adopted(), [OUT, IN, FLOW_OUT, FLOW_IN]);
        assert!(redirected(&mut engine, Direction::Out, &sent()));
        assert!(redirected(&mut engine, Direction::In, &received()));
        assert_eq!(engine.counters(FLOW_OUT), Some(packets(2, 0)));
        assert_eq!(engine.counters(FLOW_IN), Some(packets(2, 0)));
        let error = engine.install(&call()).unwrap_err();
        assert!(matches!(error, EngineError::PolicyExists(FLOW_OUT)), "{error}");
        engine.deinstall(&[FLOW_OUT, FLOW_IN, OUT, IN]);
        engine.forget(&[FLOW_OUT, FLOW_IN, OUT, IN]);
        engine.install(&aggregates()).unwrap();
        engine.install(&call()).unwrap();
        assert_eq!(engine.counters(FLOW_OUT), Some(Counters::default()), "an entry's next use starts at zero");
    });
}

#[test]
fn final_counters_outlive_the_process_until_they_are_forgotten() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        assert!(redirected(&mut engine, Direction::Out, &sent()));
        assert!(redirected(&mut engine, Direction::In, &received()));
        let all = [FLOW_OUT, FLOW_IN, OUT, IN];
        let readings = engine.deinstall(&all);
        assert_eq!(readings[..2], [packets(1, 0), packets(1, 0)]);
        drop(engine);
        let mut engine = Engine::start(config).unwrap();
        assert_eq!(engine.adopted().len(), 4);
        assert!(!redirected(&mut engine, Direction::Out, &sent()), "out of force stays out of force");
        assert!(!redirected(&mut engine, Direction::In, &received()));
        assert_eq!(engine.deinstall(&all), readings);
        let error = engine.install(&[(50, flow_in(&in_ends(FREE), LABEL_IN))]).unwrap_err();
        assert_eq!(error.code(), "label", "an index is not used again before it is forgotten");
        engine.forget(&all);
        drop(engine);
        let mut engine = Engine::start(config).unwrap();
        assert_eq!(engine.adopted(), [0_u64; 0]);
        engine.install(&aggregates()).unwrap();
        engine.install(&call()).unwrap();
        assert_eq!(engine.counters(FLOW_IN), Some(Counters::default()));
    });
}

/// Puts another table's pin in the place of one.
fn replace_pin(config: &EngineConfig, name: &str, other: &str) -> MapData {
    let path = |name: &str| config.pin_dir.join("maps").join(name);
    let ours = MapData::from_pin(path(name)).unwrap();
    std::fs::remove_file(path(name)).unwrap();
    MapData::from_pin(path(other)).unwrap().pin(path(name)).unwrap();
    ours
}

#[test]
fn pins_of_another_shape_are_refused_and_left_alone() {
    in_own_namespace(|config| {
        drop(start(config));
        // Entries of another length, another kind of map, and a number of entries that does not go with the others.
        let cases = [
            ("TP_FLOWS", "TP_PORTS", "value bytes"),
            ("TP_DEVICES", "TP_FLOWS", "type"),
            ("TP_LABELS", "TP_POOLS", "sizes"),
        ];
        for (name, other, word) in cases {
            let ours = replace_pin(config, name, other);
            let path = config.pin_dir.join("maps").join(name);
            for config in [config, &EngineConfig { flows_max: 512, ..config.clone() }] {
                let error = Engine::start(config).unwrap_err();
                assert_eq!(error.code(), "pins_mismatch", "{name}: {error}");
                assert!(error.to_string().contains(word) && error.to_string().contains("turnpike detach"), "{error}");
            }
            std::fs::remove_file(&path).unwrap();
            let error = Engine::start(config).unwrap_err();
            assert!(error.to_string().contains("14 of 15 tables"), "{error}");
            ours.pin(&path).unwrap();
        }
        assert_eq!(Engine::start(config).unwrap().adopted().len(), 4);
    });
}

#[test]
fn pins_of_another_version_are_refused_and_left_alone() {
    in_own_namespace(|config| {
        drop(start(config));
        let map = Map::Array(MapData::from_pin(config.pin_dir.join("maps/TP_CONFIG")).unwrap());
        let mut table: Array<_, [u64; size_of::<Config>() / 8]> = Array::try_from(map).unwrap();
        let ours = table.get(&0, 0).unwrap();
        let mut other = ours;
        other[0] += 1;
        table.set(0, other, 0).unwrap();
        for config in [config, &EngineConfig { flows_max: 512, ..config.clone() }] {
            let error = Engine::start(config).unwrap_err();
            assert_eq!(error.code(), "pins_mismatch", "{error}");
            assert!(error.to_string().contains("version") && error.to_string().contains("turnpike detach"), "{error}");
        }
        table.set(0, ours, 0).unwrap();
        assert_eq!(Engine::start(config).unwrap().adopted().len(), 4);
    });
}

#[test]
fn an_interface_made_anew_gets_its_program_again() {
    in_own_namespace(|config| {
        drop(start(config));
        ip("link del lan");
        ip("link add lan type veth peer name site");
        ip("link set lan up");
        let mut engine = Engine::start(config).unwrap();
        let status = engine.status().unwrap();
        assert!(status.interfaces.iter().all(|interface| interface.xdp_mode == "native"), "{:?}", status.interfaces);
    });
}

#[test]
fn next_hops_and_ports_follow_the_network() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        let destination = |engine: &mut Engine| {
            let trial = engine.trial(Direction::Out, &sent()).unwrap();
            assert_eq!(trial.action, 4);
            trial.frame[..6].to_vec()
        };
        assert_eq!(destination(&mut engine), [2, 0, 0, 0, 2, 1]);
        ip("neigh replace 198.18.0.2 lladdr 02:00:00:00:09:09 dev wan nud permanent");
        engine.follow_network().unwrap();
        assert_eq!(destination(&mut engine), [2, 0, 0, 0, 9, 9], "the peer's MAC address changed");
        ip("route replace 198.18.0.2/32 via 198.18.0.3 dev wan");
        engine.follow_network().unwrap();
        assert_eq!(destination(&mut engine), [2, 0, 0, 0, 2, 3], "the route to the peer changed");
        ip("neigh del 198.18.0.3 dev wan");
        engine.follow_network().unwrap();
        assert_eq!(destination(&mut engine), [2, 0, 0, 0, 2, 3], "what is not known any more stays in use");
        ip("link set wan mtu 1000");
        engine.follow_network().unwrap();
        let large = udp_frame(&out_ends(FREE), &vec![0; 1_000 - 28 - 7], 0, 64);
        assert!(!redirected(&mut engine, Direction::Out, &large));
        assert_eq!(engine.verdict(Direction::Out, Reason::TooBig).0, 1, "the port's MTU changed");
    });
}

#[test]
fn the_mode_asked_for_is_the_mode_reported() {
    in_own_namespace(|config| {
        let generic = EngineConfig { xdp_mode: XdpMode::Generic, ..config.clone() };
        let status = Engine::start(&generic).unwrap().status().unwrap();
        assert!(status.interfaces.iter().all(|interface| interface.xdp_mode == "generic"), "{:?}", status.interfaces);
        assert_eq!(
            status.interfaces.iter().map(|interface| interface.packet_bytes_max).collect::<Vec<_>>(),
            [1_500, 1_492]
        );
    });
}

#[test]
fn a_full_table_refuses_and_counts() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(&EngineConfig { flows_max: 8, ..config.clone() }).unwrap();
        engine.install(&aggregates()).unwrap();
        for number in 0..8 {
            engine.install(&[(100 + number, flow_out(&out_ends(FREE + 2 * number as u16)))]).unwrap();
        }
        let error = engine.install(&[(200, flow_out(&out_ends(FREE + 100)))]).unwrap_err();
        assert_eq!(error.code(), "table_full", "{error}");
        let outside = flow_in(&in_ends(FREE), 0x12_3450_0008);
        assert_eq!(engine.install(&[(201, outside)]).unwrap_err().code(), "table_full");
        let status = engine.status().unwrap();
        let flows = status.tables.iter().find(|table| table.name == "flows").unwrap();
        assert_eq!((flows.used, flows.max, flows.full), (8, 8, 1));
    });
}

#[test]
fn a_flow_table_filled_to_the_brim_finds_every_flow() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(&EngineConfig { flows_max: 2_048, ..config.clone() }).unwrap();
        let peer = Ipv4Addr::from(PEER);
        let wide = Policy::AggregateOut { peer, rate_bps: 1_000_000_000, burst_bytes: 1 << 22, dscp: 46 };
        engine.install(&[(OUT, wide)]).unwrap();
        let ends = |number: u64| out_ends(1_000 + 2 * number as u16);
        let flows: Vec<_> = (0..2_048).map(|number| (100 + number, flow_out(&ends(number)))).collect();
        engine.install(&flows).unwrap();
        for number in 0..2_048 {
            assert!(redirected(&mut engine, Direction::Out, &udp_frame(&ends(number), &rtp(), 0, 64)), "flow {number}");
        }
    });
}

#[test]
fn policies_lapse_unless_they_are_renewed() {
    in_own_namespace(|config| {
        let mut engine = start(&EngineConfig { lapse_after: Duration::from_secs(4), ..config.clone() });
        std::thread::sleep(Duration::from_millis(2_500));
        engine.renew();
        std::thread::sleep(Duration::from_millis(2_500));
        assert!(redirected(&mut engine, Direction::Out, &sent()));
        assert!(redirected(&mut engine, Direction::In, &received()));
        std::thread::sleep(Duration::from_millis(2_000));
        assert!(!redirected(&mut engine, Direction::Out, &sent()));
        assert!(!redirected(&mut engine, Direction::In, &received()));
        assert_eq!(engine.verdict(Direction::Out, Reason::Expired).0, 1);
        assert_eq!(engine.verdict(Direction::In, Reason::Expired).0, 1);
    });
}

#[test]
fn a_survey_tells_what_the_next_start_would_take_over() {
    in_own_namespace(|config| {
        let config = &EngineConfig { lapse_after: Duration::from_secs(4), ..config.clone() };
        assert_eq!(Engine::survey(config).unwrap().takeover, Takeover::Nothing);
        assert!(!config.pin_dir.exists(), "somebody who looks makes nothing");
        let mut engine = start(config);
        assert!(redirected(&mut engine, Direction::Out, &sent()));
        engine.deinstall(&[FLOW_IN]);
        drop(engine);
        let survey = Engine::survey(config).unwrap();
        assert_eq!((&survey.takeover, survey.memory_bytes), (&Takeover::AsItIs, config.memory_bytes().unwrap()));
        let facts: Vec<_> = survey.policies.iter().map(|policy| (policy.id, policy.kind, policy.in_force)).collect();
        let wanted = [
            (OUT, "aggregate_out", true),
            (IN, "aggregate_in", true),
            (FLOW_OUT, "flow_out", true),
            (FLOW_IN, "flow_in", false),
        ];
        assert_eq!(facts, wanted);
        assert_eq!((survey.policies[2].counters, survey.policies[3].counters), (packets(1, 0), Counters::default()));
        assert!(survey.links.iter().all(|link| link.interface.is_some_and(|index| index > 1)), "{:?}", survey.links);
        let lapses_in = |survey: &Survey| survey.policies[2].lapses_in.unwrap();
        let first = lapses_in(&survey);
        assert!((Duration::from_millis(1_500)..=Duration::from_secs(4)).contains(&first), "{first:?}");
        std::thread::sleep(Duration::from_secs(1));
        let second = lapses_in(&Engine::survey(config).unwrap());
        assert!(first - second >= Duration::from_millis(900), "{first:?}, a second later {second:?}");
        std::thread::sleep(second + Duration::from_millis(20));
        assert_eq!(lapses_in(&Engine::survey(config).unwrap()), Duration::ZERO);

        let larger = EngineConfig { flows_max: 512, ..config.clone() };
        assert_eq!(Engine::survey(&larger).unwrap().takeover, Takeover::Moves("256 flows become 512".to_owned()));
        ip("link del lan");
        assert_eq!(Engine::survey(config).unwrap().links[0].interface, None);
        let ours = replace_pin(config, "TP_LABELS", "TP_POOLS");
        let takeover = Engine::survey(config).unwrap().takeover;
        assert!(matches!(takeover, Takeover::Refused("pins_mismatch", _)), "{takeover:?}");
        drop(ours);
    });
}

#[test]
fn the_rest_of_the_link_is_what_unadmitted_traffic_gets() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        let stray = udp_frame(&out_ends(NONE), &vec![0; 1_000], 0, 64);
        let passed = |engine: &mut Engine| {
            (0..200).filter(|_| engine.trial(Direction::Out, &stray).unwrap().action == 2).count()
        };
        assert_eq!(passed(&mut engine), 0, "nothing before it is set");
        engine.set_best_effort_rate(1_000_000).unwrap();
        let burst = passed(&mut engine);
        assert!((5..=14).contains(&burst), "{burst} packets at once");
        std::thread::sleep(Duration::from_millis(100));
        // 12.5 kilobytes came back, of which the pool holds its depth.
        let refilled = passed(&mut engine);
        assert!((5..=14).contains(&refilled), "{refilled} packets after 100 ms");
        for _ in 0..20 {
            engine.set_best_effort_rate(2_000_000).unwrap();
            engine.set_best_effort_rate(1_000_000).unwrap();
        }
        assert!(passed(&mut engine) < 150, "changing the rate gives bursts away");
        engine.set_best_effort_rate(0).unwrap();
        assert_eq!(passed(&mut engine), 0);
    });
}

#[test]
fn refusals_have_codes_and_change_nothing() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        let (source, destination) = (SocketAddrV4::new(SITE_A.into(), 5), SocketAddrV4::new(SITE_B.into(), 6));
        let out = |aggregate, meter, label| Policy::FlowOut { aggregate, source, destination, label, meter };
        let aggregate = |peer: [u8; 4], rate_bps, burst_bytes, dscp| Policy::AggregateOut {
            peer: peer.into(),
            rate_bps,
            burst_bytes,
            dscp,
        };
        let cases = [
            ("unknown_aggregate", out(77, METER, 1)),
            ("unknown_aggregate", out(IN, METER, 1)),
            ("label", out(OUT, METER, 1 << 40)),
            ("rate", out(OUT, Meter { rate_bps: 0, ..METER }, 1)),
            ("rate", out(OUT, Meter { rate_bps: 500_000_000_000, ..METER }, 1)),
            ("rate", out(OUT, Meter { burst_bytes: 199, ..METER }, 1)),
            ("label", flow_in(&in_ends(FREE + 50), LABEL_IN ^ 1 << 25)),
            ("rate", aggregate(PEER, 1_000_000, 100, 46)),
            ("rate", aggregate(PEER, 0, 65_536, 46)),
            ("rate", aggregate(PEER, 1_000_000, 65_536, 64)),
            ("next_hop_unresolved", aggregate([192, 0, 2, 1], 1_000_000, 65_536, 46)),
            ("next_hop_unresolved", aggregate([198, 18, 0, 99], 1_000_000, 65_536, 46)),
            ("policy_exists", aggregate(PEER, 1_000_000, 65_536, 46)),
        ];
        let before = engine.status().unwrap().tables;
        for (number, (code, policy)) in cases.into_iter().enumerate() {
            let id = if code == "policy_exists" { OUT } else { 50 };
            let error = engine.install(&[(id, policy)]).unwrap_err();
            assert_eq!(error.code(), code, "case {number}: {error}");
        }
        assert_eq!(engine.status().unwrap().tables, before);
        assert!(redirected(&mut engine, Direction::Out, &sent()));
    });
}

#[test]
fn a_configuration_that_cannot_work_is_refused_before_anything_is_made() {
    in_own_namespace(|config| {
        let missing = EngineConfig { wan: "nowhere0".to_owned(), ..config.clone() };
        let loopback = EngineConfig { lan: "lo".to_owned(), ..config.clone() };
        let same = EngineConfig { wan: "lan".to_owned(), ..config.clone() };
        let odd = EngineConfig { flows_max: 1_000, ..config.clone() };
        let elsewhere = EngineConfig { pin_dir: std::env::temp_dir().join("turnpike-pins"), ..config.clone() };
        let cases = [
            ("interface_missing", &missing),
            ("interface_unfit", &loopback),
            ("config", &same),
            ("config", &odd),
            ("bpf_file_system", &elsewhere),
        ];
        for (code, config) in cases {
            let error = Engine::start(config).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(!config.pin_dir.exists(), "{code}: pins were left behind");
        }
        ip("link set lan down");
        let error = Engine::start(config).unwrap_err();
        assert_eq!(error.code(), "interface_unfit", "{error}");
    });
}

#[test]
fn a_program_of_somebody_else_is_not_pushed_aside() {
    in_own_namespace(|config| {
        let _other = turnpike_engine::attach_pass("wan").unwrap();
        let error = Engine::start(config).unwrap_err();
        assert_eq!(error.code(), "attach_failed", "{error}");
        assert!(!config.pin_dir.exists(), "pins were left behind");
    });
}

#[test]
fn the_programs_keep_their_size() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(config).unwrap();
        for (direction, instructions_max, verified_max) in [(Direction::Out, 1_760, 2_660), (Direction::In, 930, 4_800)]
        {
            let size = engine.program_size(direction).unwrap();
            println!("{}: {size:?}", direction.name());
            assert!(size.instructions <= instructions_max, "{}: {size:?}", direction.name());
            assert!(size.verified_instructions <= verified_max, "{}: {size:?}", direction.name());
        }
    });
}
