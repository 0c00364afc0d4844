//! Breaks a host thing by thing: each time exactly one finding appears, and the command that it names makes it go away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod host;

use std::process::Command;

use aya::maps::MapData;
use aya::programs::Xdp;
use aya::{EbpfLoader, include_bytes_aligned};
use host::{in_own_namespace, ip};
use turnpike_engine::doctor::{Finding, Level, Scope, examine};
use turnpike_engine::{Engine, EngineConfig, XdpMode, attach_pass};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-xdp"));

fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn faults(config: &EngineConfig) -> Vec<Finding> {
    examine(config, Scope::All).into_iter().filter(|finding| finding.level != Level::Ok).collect()
}

/// The one finding that is there now and was not before.
#[track_caller]
fn only_new(config: &EngineConfig, before: &[Finding], check: &str, level: Level) -> Finding {
    let now = faults(config);
    let new: Vec<_> = now.into_iter().filter(|finding| !before.contains(finding)).collect();
    let [finding] = &new[..] else { panic!("one finding of {check} was to appear: {new:#?}") };
    assert_eq!((finding.check, finding.level), (check, level), "{finding:#?}");
    finding.clone()
}

/// Breaks, finds, runs what the finding says, and finds nothing more.
#[track_caller]
fn broken_and_fixed(config: &EngineConfig, command: &str, check: &str, level: Level) {
    let before = faults(config);
    run(command);
    let finding = only_new(config, &before, check, level);
    run(&finding.fix.expect("a command"));
    assert_eq!(faults(config), before, "after {check}");
}

/// With a host that is as it should be, as far as the namespace goes, and one peer.
fn on_a_sound_host(test: impl FnOnce(&EngineConfig) + Send + 'static) {
    in_own_namespace(|config| {
        for command in ["ethtool -K site gro on", "ethtool -K far gro on", "sysctl -qw net.ipv4.ip_forward=1"] {
            run(command);
        }
        ip("link set wan mtu 1508");
        let config = EngineConfig { peers: config.peers[..1].to_vec(), ..config.clone() };
        // What is left is the machine's, not the namespace's.
        let machine = ["kernel", "btf", "jit", "unprivileged_bpf", "memory", "programs", "clock"];
        let left = faults(&config);
        assert!(left.iter().all(|finding| machine.contains(&finding.check)), "{left:#?}");
        test(&config);
    });
}

#[test]
fn an_interface_that_is_down() {
    on_a_sound_host(|config| broken_and_fixed(config, "ip link set dev lan down", "interface", Level::Problem));
}

#[test]
fn an_interface_that_is_not_there() {
    on_a_sound_host(|config| {
        let before = faults(config);
        let absent = EngineConfig { lan: "nowhere".to_owned(), ..config.clone() };
        let finding = only_new(&absent, &before, "interface", Level::Problem);
        assert!(finding.found.contains("nowhere does not exist"), "{finding:?}");
        let long = EngineConfig { lan: "x".repeat(99), ..config.clone() };
        assert!(faults(&long).iter().any(|finding| finding.check == "interface"));
    });
}

#[test]
fn a_wan_without_room_for_the_tag() {
    on_a_sound_host(|config| broken_and_fixed(config, "ip link set dev wan mtu 1500", "tag_room", Level::Warning));
}

#[test]
fn a_far_end_that_sends_too_long_frames() {
    on_a_sound_host(|config| {
        let command = "ip link set dev site mtu 9000";
        broken_and_fixed(config, command, "native_mtu", Level::Warning);
        let native = EngineConfig { xdp_mode: XdpMode::Native, ..config.clone() };
        broken_and_fixed(&native, command, "native_mtu", Level::Problem);
    });
}

#[test]
fn a_program_of_somebody_else() {
    on_a_sound_host(|config| {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let program: &mut Xdp = object.program_mut("turnpike_pass").unwrap().try_into().unwrap();
        program.load().unwrap();
        let pin = format!("{}-other", config.pin_dir.display());
        program.pin(&pin).unwrap();
        for kind in ["xdp", "xdpgeneric"] {
            broken_and_fixed(config, &format!("ip link set dev lan {kind} pinned {pin}"), "xdp", Level::Problem);
        }
        run(&format!("rm {pin}"));

        let before = faults(config);
        let held = attach_pass("wan").unwrap();
        let finding = only_new(config, &before, "xdp", Level::Problem);
        assert!(finding.found.contains("turnpike_pass"), "{finding:?}");
        assert!(finding.fix.unwrap().starts_with("bpftool link detach id "));
        drop(held);
        assert_eq!(faults(config), before);
    });
}

#[test]
fn forwarding_that_is_off() {
    on_a_sound_host(|config| {
        broken_and_fixed(config, "sysctl -w net.ipv4.ip_forward=0", "forwarding", Level::Problem);
    });
}

#[test]
fn a_peer_without_a_route_or_with_a_wrong_one() {
    on_a_sound_host(|config| {
        broken_and_fixed(config, "ip route del 198.18.0.0/24 dev wan", "peer_route", Level::Problem);
        run("ip neigh add 198.18.0.2 lladdr 02:00:00:00:02:01 dev lan nud permanent");
        broken_and_fixed(config, "ip route replace 198.18.0.2/32 dev lan", "peer_route", Level::Problem);
    });
}

#[test]
fn strict_filtering_where_the_way_back_is_another() {
    on_a_sound_host(|config| {
        run("ip neigh add 198.18.0.2 lladdr 02:00:00:00:02:01 dev lan nud permanent");
        run("ip route add 198.18.0.2/32 dev lan");
        broken_and_fixed(config, "sysctl -w net.ipv4.conf.wan.rp_filter=1", "rp_filter", Level::Warning);
        broken_and_fixed(
            config,
            "sysctl -w net.ipv4.conf.wan.rp_filter=0 net.ipv4.conf.all.rp_filter=1",
            "rp_filter",
            Level::Warning,
        );
    });
}

#[test]
fn a_next_hop_that_nobody_has_asked_for() {
    on_a_sound_host(|config| {
        let before = faults(config);
        ip("neigh del 198.18.0.2 dev wan");
        let finding = only_new(config, &before, "peer_neighbour", Level::Warning);
        assert_eq!(finding.fix.as_deref(), Some("ping -c 1 -I wan 198.18.0.2"));
        // Nothing was asked on the wire: looking changes nothing.
        assert_eq!(output("ip neigh show to 198.18.0.2"), "");
    });
}

#[test]
fn a_tag_address_that_is_nobodys() {
    on_a_sound_host(|config| {
        let elsewhere = EngineConfig { tag_addresses: vec![[198, 18, 0, 9].into()], ..config.clone() };
        let finding = only_new(&elsewhere, &faults(config), "tag_address", Level::Problem);
        run(&finding.fix.unwrap());
        assert_eq!(faults(&elsewhere), faults(config));
    });
}

#[test]
fn a_far_end_that_takes_nothing() {
    on_a_sound_host(|config| {
        broken_and_fixed(config, "ethtool -K far gro off", "far_end", Level::Problem);
        broken_and_fixed(config, "ethtool -K site gro off", "far_end", Level::Problem);
        run("ethtool -K far gro off");
        let held = attach_pass("far").unwrap();
        assert!(faults(config).iter().all(|finding| finding.check != "far_end"), "a program there will do, too");
        drop(held);
        let generic = EngineConfig { xdp_mode: XdpMode::Generic, ..config.clone() };
        assert!(faults(&generic).iter().all(|finding| finding.check != "far_end"), "generic mode does not need it");
    });
}

#[test]
fn a_far_end_in_another_namespace_is_named() {
    struct Namespace(String);
    impl Drop for Namespace {
        fn drop(&mut self) {
            run(&format!("ip netns del {}", self.0));
        }
    }
    on_a_sound_host(|config| {
        let name = format!("turnpike-test-{}", std::process::id());
        ip(&format!("netns add {name}"));
        let _namespace = Namespace(name.clone());
        ip(&format!("link set far netns {name}"));
        let there = format!("ip netns exec {name}");
        run(&format!("{there} ip link set far up; {there} ethtool -K far gro on"));
        let seen = |finding: &Finding| (finding.level, finding.fix.clone());
        let look = || examine(config, Scope::All).iter().rfind(|found| found.check == "far_end").map(seen);
        let Some((Level::Ok, None)) = look() else {
            println!("skipped: this kernel does not tell of a far end in another namespace");
            return;
        };
        broken_and_fixed(config, &format!("{there} ethtool -K far gro off"), "far_end", Level::Problem);
    });
}

#[test]
fn a_data_plane_in_force_is_known_as_ours() {
    on_a_sound_host(|config| {
        let before = faults(config);
        let engine = Engine::start(config).unwrap();
        assert_eq!(faults(config), before);
        let found: Vec<_> = examine(config, Scope::All).into_iter().map(|finding| finding.found).collect();
        assert_eq!(found.iter().filter(|found| found.contains("Turnpike's program")).count(), 2, "{found:#?}");
        assert!(found.iter().any(|found| found.contains("would be taken over")), "{found:#?}");
        let larger = EngineConfig { flows_max: 512, ..config.clone() };
        assert_eq!(faults(&larger), before);
        let pins = |config| examine(config, Scope::All).into_iter().find(|finding| finding.check == "pins").unwrap();
        let found = pins(&larger).found;
        assert!(found.contains("256 flows become 512"), "{found}");
        drop(engine);
        let table = config.pin_dir.join("maps/TP_CLOCK");
        let ours = MapData::from_pin(&table).unwrap();
        std::fs::remove_file(&table).unwrap();
        let finding = only_new(config, &before, "pins", Level::Problem);
        assert!(finding.fix.unwrap().contains("turnpike detach"));
        ours.pin(&table).unwrap();
        let elsewhere = EngineConfig { pin_dir: "/sys/fs/bpf/turnpike-test-none".into(), ..config.clone() };
        let strangers: Vec<_> = faults(&elsewhere).into_iter().filter(|finding| !before.contains(finding)).collect();
        assert!(
            strangers.iter().all(|finding| finding.found.contains("a Turnpike of another pin_dir")),
            "{strangers:#?}"
        );
        assert_eq!(strangers.len(), 2);
    });
}

#[test]
fn looking_changes_nothing() {
    on_a_sound_host(|config| {
        let picture = || {
            let state = "ip -d address; ip route show table all; ip neigh; ip rule; ethtool -k lan; ethtool -k far";
            let pins = output(&format!("ls -R {}*", config.pin_dir.display()));
            output(&format!("{state}; cat /proc/sys/net/ipv4/ip_forward")) + &pins
        };
        let before = picture();
        for scope in [Scope::Host, Scope::Interfaces, Scope::All] {
            assert!(!examine(config, scope).is_empty());
        }
        assert_eq!(picture(), before);
    });
}

#[test]
fn less_is_looked_at_where_less_is_given() {
    on_a_sound_host(|config| {
        let checks = |scope| examine(config, scope).into_iter().map(|finding| finding.check).collect::<Vec<_>>();
        let (host, interfaces, all) = (checks(Scope::Host), checks(Scope::Interfaces), checks(Scope::All));
        assert!(!host.contains(&"interface") && interfaces.contains(&"interface"));
        assert!(!interfaces.contains(&"peer_route") && all.contains(&"peer_route"));
    });
}
