//! The life of policies in the kernel: in force, counted, taken over by the next process, out of force, refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use host::{in_own_namespace, ip, write};
use turnpike_engine::policy::{Counters, Dscp, Excess, Media, Meter, Policy, PolicyId};
use turnpike_engine::reception::Reception;
use turnpike_engine::{Engine, EngineConfig, EngineError, Survey, Takeover, XdpMode};
use turnpike_fastpath::entry::Config;
use turnpike_fastpath::plan::Ends;
use turnpike_fastpath::{Direction, Reason};
use world::*;

const OUT: PolicyId = 1;
const IN: PolicyId = 2;
const FLOW_OUT: PolicyId = 3;
const FLOW_IN: PolicyId = 4;

const METER: Meter = Meter { rate_bps: 80_000, burst_bytes: 1_600, packet_bytes_min: 200, excess: None };

fn flow_out(ends: &Ends) -> Policy {
    let Ends { source, destination } = *ends;
    let (rtcp_next_port, terminals) = (false, false);
    Policy::FlowOut { aggregate: OUT, source, destination, label: LABEL_OUT, meter: METER, rtcp_next_port, terminals }
}

fn flow_in(ends: &Ends, label: u64) -> Policy {
    let Ends { source, destination } = *ends;
    let (rtcp_next_port, media) = (false, Media::default());
    Policy::FlowIn { aggregate: IN, source, destination, label, meter: METER, rtcp_next_port, media }
}

fn aggregate_out(peer: IpAddr, rate_bps: u64, burst_bytes: u32) -> Policy {
    Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp: Dscp::Set(46), excess_dscp: None }
}

fn aggregate_in(peer: IpAddr, rate_bps: u64, burst_bytes: u32) -> Policy {
    Policy::AggregateIn { peer, rate_bps, burst_bytes, dscp: Dscp::Copy }
}

fn aggregates() -> [(PolicyId, Policy); 2] {
    [(OUT, aggregate_out(PEER, 1_000_000, 65_536)), (IN, aggregate_in(PEER, 1_000_000, 65_536))]
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
        ..Counters::default()
    }
}

/// The same with what the packets' RTP headers say: all are the same packet.
fn arrived(count: u64) -> Counters {
    let reception = Reception { duplicated_packets: count - 1, ..Reception::default() };
    Counters { reception: Some(reception), ..packets(count, 0) }
}

#[test]
fn a_policy_counts_while_it_is_in_force_and_reports_its_final_counters() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        // Eight packets of 200 bytes are the burst; one more is allowed for the clock's tick, and the rest is above the rate.
        let passed = (0..12).filter(|_| redirected(&mut engine, Direction::Out, &sent())).count() as u64;
        assert!((8..=9).contains(&passed), "{passed}");
        assert!(redirected(&mut engine, Direction::In, &received()));
        let wanted = [packets(12, 12 - passed), arrived(1)];
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
        assert_eq!(engine.counters(FLOW_IN), Some(arrived(2)));
        let error = engine.install(&call()).unwrap_err();
        assert!(matches!(error, EngineError::PolicyExists(FLOW_OUT)), "{error}");
        engine.deinstall(&[FLOW_OUT, FLOW_IN, OUT, IN]);
        engine.forget(&[FLOW_OUT, FLOW_IN, OUT, IN]);
        engine.install(&aggregates()).unwrap();
        engine.install(&call()).unwrap();
        assert_eq!(engine.counters(FLOW_OUT), Some(Counters::default()), "an entry's next use starts at zero");
        let nothing = Counters { reception: Some(Reception::default()), ..Counters::default() };
        assert_eq!(engine.counters(FLOW_IN), Some(nothing), "an entry's next use starts at zero");
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
        assert_eq!(readings[..2], [packets(1, 0), arrived(1)]);
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
        let nothing = Counters { reception: Some(Reception::default()), ..Counters::default() };
        assert_eq!(engine.counters(FLOW_IN), Some(nothing));
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
            assert!(error.to_string().contains(" tables are there"), "{error}");
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
        engine.install(&[(OUT, aggregate_out(PEER, 1_000_000_000, 1 << 22))]).unwrap();
        let ends = |number: u64| out_ends(1_000 + 2 * number as u16);
        let flows: Vec<_> = (0..2_048).map(|number| (100 + number, flow_out(&ends(number)))).collect();
        engine.install(&flows).unwrap();
        for number in 0..2_048 {
            assert!(redirected(&mut engine, Direction::Out, &udp_frame(&ends(number), &rtp(), 0, 64)), "flow {number}");
        }
    });
}

/// What did not arrive is counted when the flow ends; what ended in a meter is lost too.
#[test]
fn what_arrived_is_told_with_the_final_counters() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        let packet = |sequence: u16| {
            let mut payload = rtp();
            payload[2..4].copy_from_slice(&sequence.to_be_bytes());
            tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 172), &payload)
        };
        // 100 to 107, but for 103 and 104; 106 before 105, and 107 twice.
        for sequence in [100, 101, 102, 106, 105, 107, 107] {
            assert!(redirected(&mut engine, Direction::In, &packet(sequence)));
        }
        let report = tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 32), &frames::rtcp());
        assert!(redirected(&mut engine, Direction::In, &report));
        let so_far = engine.counters(FLOW_IN).unwrap().reception.unwrap();
        assert_eq!((so_far.lost_packets, so_far.reordered_packets, so_far.duplicated_packets), (0, 1, 1));
        let last = engine.deinstall(&[FLOW_IN])[0].reception.unwrap();
        let wanted = Reception { lost_packets: 2, gaps: 1, not_rtp_packets: 1, ..so_far };
        assert_eq!(last, wanted);
    });
}

/// A tag that tells its terminals needs no flow at the receiver; what it reaches are terminals of the site alone.
#[test]
fn terminals_in_the_tag_are_reached_by_the_kernels_routes() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(config).unwrap();
        engine.install(&aggregates()).unwrap();
        engine.install(&[(7, Policy::TerminalsIn { aggregate: IN, label: LABEL_IN, meter: METER })]).unwrap();
        let to = |terminal: IpAddr| {
            let (IpAddr::V4(from), IpAddr::V4(to)) = (SITE_B, terminal) else { panic!("IPv4") };
            let behind = [&[0, 1, 0x40, 0][..], &from.octets(), &to.octets(), &[1, 2, 3, 4], &rtp()].concat();
            tagged_frame(PEER, tag_bytes(1, 2, LABEL_IN, 172), &behind)
        };
        let trial = engine.trial(Direction::In, &to(SITE_A)).unwrap();
        assert_eq!((trial.action, &trial.frame[..6]), (4, &[2, 0, 0, 0, 2, 2][..]));
        assert!(checksums_hold(&trial.frame));
        assert!(!redirected(&mut engine, Direction::In, &to(SITE_B)), "back to the WAN");
        assert!(!redirected(&mut engine, Direction::In, &to(SILENT)));
        assert_eq!(engine.verdict(Direction::In, Reason::NoTerminal).0, 1);
        assert_eq!(engine.verdict(Direction::In, Reason::NextHopUnresolved).0, 1);
        let counters = engine.deinstall(&[7])[0];
        assert_eq!((counters.passed_packets, counters.dropped_packets, counters.reception), (1, 2, None));
        assert!(!redirected(&mut engine, Direction::In, &to(SITE_A)));
    });
}

/// Before a session is answered, the receiver of such an aggregate knows that its terminals can be reached.
#[test]
fn terminals_in_the_tag_are_looked_for_and_what_keeps_them_is_said() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(config).unwrap();
        engine.reach(&[SITE_A, SITE_A6]).unwrap();
        let fails = |engine: &mut Engine, terminal, part: &str| {
            let error = engine.reach(&[SITE_A, terminal]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!((error.code(), error.is_of_request()), ("next_hop_unresolved", true));
        };
        fails(&mut engine, SITE_B, "leaves by the wan");
        fails(&mut engine, "192.0.2.77".parse().unwrap(), "there is no route");
        fails(&mut engine, SILENT, "does not answer");
        write("net/ipv4/conf/wan/forwarding", "0");
        fails(&mut engine, SITE_A, "`sysctl -w net.ipv4.ip_forward=1`");
        engine.reach(&[SITE_A6]).unwrap();
        write("net/ipv6/conf/wan/forwarding", "0");
        fails(&mut engine, SITE_A6, "IPv4 forwarding is off on wan");
        write("net/ipv4/conf/wan/forwarding", "1");
        fails(&mut engine, SITE_A6, "`sysctl -w net.ipv6.conf.all.forwarding=1`");
    });
}

/// One port for both sides: frames of either direction end as they do on two.
#[test]
fn one_interface_can_be_both_sides() {
    in_own_namespace(|config| {
        for command in ["addr add 198.18.0.1/24 dev lan", "addr del 198.18.0.1/24 dev wan"] {
            ip(command);
        }
        for command in ["neigh replace 198.18.0.2 lladdr 02:00:00:00:02:01 dev lan nud permanent", "link set wan down"]
        {
            ip(command);
        }
        let config = EngineConfig { wan: "lan".to_owned(), tag_addresses: vec![NODE], ..config.clone() };
        let mut engine = start(&config);
        let modes: Vec<_> = engine.status().unwrap().interfaces.into_iter().map(|port| port.xdp_mode).collect();
        assert_eq!(modes, ["native", "native"]);
        let out = engine.trial_both(&sent()).unwrap();
        assert_eq!((out.action, &out.frame[..6]), (4, &[2, 0, 0, 0, 2, 1][..]));
        let inward = engine.trial_both(&received()).unwrap();
        assert_eq!((inward.action, &inward.frame[..6]), (4, &[2, 0, 0, 0, 2, 2][..]));
        engine.set_best_effort_rate(1_000_000_000).unwrap();
        let stray = engine.trial_both(&udp_frame(&out_ends(NONE), &rtp(), 0, 64)).unwrap();
        assert_eq!(stray.action, 2);
        assert_eq!(engine.verdict(Direction::Out, Reason::Tagged).0, 1);
        assert_eq!(engine.verdict(Direction::In, Reason::Restored).0, 1);
        assert_eq!(engine.verdict(Direction::In, Reason::NotOurs).0, 0);
        drop(engine);
        let engine = Engine::start(&config).unwrap();
        assert_eq!(engine.adopted().len(), 4);
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
        let config = &EngineConfig { lapse_after: Duration::from_secs(60), ..config.clone() };
        assert_eq!(Engine::survey(config).unwrap().takeover, Takeover::Nothing);
        assert!(!config.pin_dir.exists(), "somebody who looks makes nothing");
        let mut engine = start(config);
        assert!(redirected(&mut engine, Direction::Out, &sent()));
        engine.deinstall(&[FLOW_IN]);
        engine.install(&[(7, Policy::TerminalsIn { aggregate: IN, label: 0x12_3450_00ff, meter: METER })]).unwrap();
        drop(engine);
        let survey = Engine::survey(config).unwrap();
        assert_eq!((&survey.takeover, survey.memory_bytes), (&Takeover::AsItIs, config.memory_bytes().unwrap()));
        let facts: Vec<_> = survey.policies.iter().map(|policy| (policy.id, policy.kind, policy.in_force)).collect();
        let wanted = [
            (OUT, "aggregate_out", true),
            (IN, "aggregate_in", true),
            (FLOW_OUT, "flow_out", true),
            (FLOW_IN, "flow_in", false),
            (7, "terminals_in", true),
        ];
        assert_eq!(facts, wanted);
        assert_eq!((survey.policies[2].counters, survey.policies[3].counters), (packets(1, 0), Counters::default()));
        assert!(survey.links.iter().all(|link| link.interface.is_some_and(|index| index > 1)), "{:?}", survey.links);
        let lapses_in = |survey: &Survey| survey.policies[2].lapses_in.unwrap();
        let first = lapses_in(&survey);
        assert!((Duration::from_secs(30)..=Duration::from_secs(60)).contains(&first), "{first:?}");
        std::thread::sleep(Duration::from_secs(1));
        let second = lapses_in(&Engine::survey(config).unwrap());
        assert!(first - second >= Duration::from_millis(900), "{first:?}, a second later {second:?}");
        let soon = EngineConfig { lapse_after: Duration::from_secs(4), ..config.clone() };
        drop(Engine::start(&soon).unwrap());
        std::thread::sleep(soon.lapse_after + Duration::from_millis(20));
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
        let (source, destination) = (SocketAddr::new(SITE_A, 5), SocketAddr::new(SITE_B, 6));
        let (rtcp_next_port, terminals) = (false, false);
        let out = |aggregate, meter, label| Policy::FlowOut {
            aggregate,
            source,
            destination,
            label,
            meter,
            rtcp_next_port,
            terminals,
        };
        let between = |source: SocketAddr, destination: SocketAddr, rtcp_next_port| Policy::FlowOut {
            aggregate: OUT,
            source,
            destination,
            label: 1,
            meter: METER,
            rtcp_next_port,
            terminals,
        };
        let marked = |dscp, excess_dscp| Policy::AggregateOut {
            peer: PEER,
            rate_bps: 1_000_000,
            burst_bytes: 65_536,
            dscp,
            excess_dscp,
        };
        let at = |address: IpAddr, port| SocketAddr::new(address, port);
        let mapped: IpAddr = "::ffff:10.1.0.10".parse().unwrap();
        let excess = Some(Excess { rate_bps: 100_000, burst_bytes: 400 });
        // The smallest burst leaves nothing idle.
        engine.install(&[(60, aggregate_out(PEER, 1_000_000, 12_000))]).unwrap();
        engine.install(&[(61, between(at(SITE_A, PAIR), at(SITE_B, PAIR + 2_000), true))]).unwrap();
        let cases = [
            ("unknown_aggregate", out(77, METER, 1)),
            ("unknown_aggregate", out(IN, METER, 1)),
            ("label", out(OUT, METER, 1 << 40)),
            ("rate", out(OUT, Meter { rate_bps: 0, ..METER }, 1)),
            ("rate", out(OUT, Meter { rate_bps: 500_000_000_000, ..METER }, 1)),
            ("rate", out(OUT, Meter { burst_bytes: 199, ..METER }, 1)),
            ("label", flow_in(&in_ends(FREE + 50), LABEL_IN ^ 1 << 25)),
            ("rate", out(OUT, Meter { excess: Some(Excess { rate_bps: 0, burst_bytes: 400 }), ..METER }, 1)),
            ("rate", out(OUT, Meter { excess: Some(Excess { rate_bps: 100_000, burst_bytes: 199 }), ..METER }, 1)),
            ("rate", out(60, Meter { excess, ..METER }, 1)),
            ("family", between(at(SITE_A, 5), at(SITE_B6, 6), false)),
            ("family", between(at(SITE_A6, 5), at([224, 0, 0, 9].into(), 6), false)),
            ("family", between(at(mapped, 5), at(SITE_B6, 6), false)),
            ("family", between(at([0, 0, 0, 0].into(), 5), at(SITE_B, 6), false)),
            ("family", between(at(SITE_A, 5), at(SITE_B, 7), true)),
            ("family", between(at(SITE_A, u16::MAX), at(SITE_B, 8), true)),
            ("endpoints_in_use", flow_out(&out_ends(FREE))),
            ("endpoints_in_use", between(at(SITE_A, PAIR + 1), at(SITE_B, PAIR + 2_001), false)),
            ("rate", aggregate_out(PEER, 1_000_000, 100)),
            ("rate", aggregate_out(PEER, 0, 65_536)),
            ("rate", aggregate_out(PEER, 400, 65_536)),
            ("rate", marked(Dscp::Set(64), None)),
            ("rate", marked(Dscp::Set(46), Some(64))),
            ("next_hop_unresolved", aggregate_out([192, 0, 2, 1].into(), 1_000_000, 65_536)),
            ("next_hop_unresolved", aggregate_out([198, 18, 0, 99].into(), 1_000_000, 65_536)),
            ("policy_exists", aggregate_out(PEER, 1_000_000, 65_536)),
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
        let homeless = EngineConfig { tag_addresses: Vec::new(), ..config.clone() };
        let two = EngineConfig { tag_addresses: vec![NODE, PEER], ..config.clone() };
        let marked = EngineConfig { dscp_map_in: [64; 64], ..config.clone() };
        let odd = EngineConfig { flows_max: 1_000, ..config.clone() };
        let elsewhere = EngineConfig { pin_dir: std::env::temp_dir().join("turnpike-pins"), ..config.clone() };
        let cases = [
            ("interface_missing", &missing),
            ("interface_unfit", &loopback),
            ("config", &homeless),
            ("config", &two),
            ("config", &marked),
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
    /// Instructions after the verifier's rewriting, and those that it looked at, with a few per cent of room.
    const BUDGETS: [(&str, u32, u32); 7] = [
        ("turnpike_out", 1_570, 3_030),
        ("turnpike_in", 1_330, 5_090),
        ("turnpike_out_v4", 3_710, 36_700),
        ("turnpike_out_v6", 3_600, 35_800),
        ("turnpike_in_v4", 5_860, 103_400),
        ("turnpike_in_v6", 5_840, 49_000),
        ("turnpike_both", 154, 328),
    ];
    in_own_namespace(|config| {
        let mut engine = Engine::start(config).unwrap();
        let mut over = Vec::new();
        for (name, instructions_max, verified_max) in BUDGETS {
            let size = engine.program_size(name).unwrap();
            println!("{name}: {size:?}");
            if size.instructions > instructions_max || size.verified_instructions > verified_max {
                over.push(name);
            }
        }
        assert!(over.is_empty(), "over the budget: {over:?}");
    });
}
