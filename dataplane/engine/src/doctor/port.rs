//! What is checked of the two interfaces.

use aya::util::KernelVersion;
use turnpike_fastpath::contract::program;
use turnpike_fastpath::wire::tag;

use super::ethtool::{Channels, Features, XDP_BASIC, XDP_REDIRECT};
use super::facts::{Far, Namespace, Port, Program, Seen};
use super::{Finding, Level, driver};
use crate::config::{EngineConfig, XdpMode};
use crate::netlink::Link;

/// What fits a page beside the room that drivers keep, for programs that take no fragments.
const NATIVE_MTU_MAX: u32 = 3_498;

const SLOW: &str = "Turnpike falls back to generic mode, which works but is several times slower";
const REFUSED: &str = "xdp_mode is native, so `turnpike serve` does not start";

pub(super) fn findings(
    port: &Port,
    config: &EngineConfig,
    kernel: Option<KernelVersion>,
    cpus_online: u32,
) -> Vec<Finding> {
    let mut findings = vec![interface(port)];
    let Ok(Some(link)) = &port.link else { return findings };
    if !link.interface.ethernet {
        return findings;
    }
    findings.push(native(port, config.xdp_mode, kernel));
    findings.extend(native_mtu(port, link, config.xdp_mode));
    findings.push(programs(port, config.xdp_mode));
    findings.push(queues(port, cpus_online));
    findings.push(offloads(&port.name, port.driver.as_deref(), &port.features));
    findings.extend(vlan_tags(port));
    // A veth that is down takes nothing whatever its far end does.
    let far = port.far.as_ref().filter(|_| link.interface.up && config.xdp_mode != XdpMode::Generic);
    findings.extend(far.map(|far| far_end(&port.name, far)));
    findings
}

fn interface(port: &Port) -> Finding {
    const CHECK: &str = "interface";
    const NEEDED: &str = "`turnpike serve` does not start without it";
    let Port { role, name, .. } = port;
    let link = match &port.link {
        Ok(Some(link)) => link,
        Ok(None) => {
            return Finding::problem(
                CHECK,
                format!("{role} {name} does not exist here"),
                "`turnpike serve` does not start without it; `ip link` lists what is there, perhaps in another network namespace",
            );
        }
        Err(reason) => return Finding::unseen(CHECK, &format!("{role} {name}"), reason),
    };
    if !link.interface.ethernet {
        let why = "its frames have no Ethernet header, so `turnpike serve` refuses it; use an Ethernet device";
        return Finding::problem(CHECK, format!("{role} {name} is no Ethernet device"), why);
    }
    if !link.interface.up {
        let finding = Finding::problem(CHECK, format!("{role} {name} is down"), NEEDED);
        return finding.fix(format!("ip link set dev {name} up"));
    }
    if !link.carrier {
        let why = "nothing is received or sent until the other end is up; look at cable, switch or far end";
        return Finding::warning(CHECK, format!("{role} {name} is up but has no carrier"), why);
    }
    Finding::ok(CHECK, format!("{role} {name} is up, MTU {}", link.interface.mtu))
}

/// Whether native mode is to be had.
fn native(port: &Port, mode: XdpMode, kernel: Option<KernelVersion>) -> Finding {
    const CHECK: &str = "driver";
    let name = &port.name;
    let driver = port.driver.as_deref().unwrap_or("unknown");
    if mode == XdpMode::Generic {
        return Finding::ok(CHECK, format!("{name}: {driver}; xdp_mode is generic, which needs nothing of it"));
    }
    let without = |found: String, hint: &str| {
        let finding = match mode {
            XdpMode::Native => Finding::problem(CHECK, found, REFUSED),
            XdpMode::Auto | XdpMode::Generic => Finding::warning(CHECK, found, SLOW),
        };
        let why = format!("{}{hint}", finding.why);
        finding.because(&why)
    };
    if let Some(features) = port.xdp_features {
        if features & (XDP_BASIC | XDP_REDIRECT) == XDP_BASIC | XDP_REDIRECT {
            return Finding::ok(CHECK, format!("{name}: {driver} has native XDP with redirection"));
        }
        let found = format!("{name}: {driver} has no native XDP with redirection as it is set up now");
        if driver == "veth" {
            return without(found, "; a veth needs as many receive queues as its far end has transmit queues")
                .fix(format!("ethtool -L {name} rx <transmit queues of the far end>"));
        }
        return without(found, "");
    }
    match driver::xdp(driver, kernel) {
        driver::Xdp::Native => Finding::ok(CHECK, format!("{name}: {driver} is known to have native XDP")),
        driver::Xdp::NativeSince(since) => {
            without(format!("{name}: {driver} has native XDP only from Linux {since} on"), "")
        }
        driver::Xdp::Generic => without(format!("{name}: {driver} has no native XDP"), ""),
        driver::Xdp::Unknown => Finding::warning(
            CHECK,
            format!("{name}: nothing is known of driver {driver}"),
            "it may lack native XDP or redirection; try, and see `turnpike status`",
        ),
    }
}

fn native_mtu(port: &Port, link: &Link, mode: XdpMode) -> Option<Finding> {
    // A veth's frames are as long as its far end makes them.
    let (name, mtu) = match &port.far {
        Some(far) => (far_name(far), far.mtu?),
        None => (port.name.as_str(), link.interface.mtu),
    };
    if mtu <= NATIVE_MTU_MAX || mode == XdpMode::Generic {
        return None;
    }
    let (level, why) = if mode == XdpMode::Native { (Level::Problem, REFUSED) } else { (Level::Warning, SLOW) };
    let found = format!("{name} has MTU {mtu}, and most drivers take at most {NATIVE_MTU_MAX} in native mode");
    let command = format!("ip link set dev {name} mtu {NATIVE_MTU_MAX}");
    let command = port.far.as_ref().map_or_else(|| command.clone(), |far| at_far_end(far, &command));
    Some(Finding { level, ..Finding::warning("native_mtu", found, why) }.fix(command))
}

fn programs(port: &Port, mode: XdpMode) -> Finding {
    const CHECK: &str = "xdp";
    let name = &port.name;
    let Some(found) = port.programs.iter().find(|program| !program.ours).or_else(|| port.programs.first()) else {
        return Finding::ok(CHECK, format!("{name}: no XDP program is attached"));
    };
    let Program { mode: attached, id, name: program_name, ours, link } = found;
    if *ours {
        let text = format!("{name}: Turnpike's program {id} is attached in {attached} mode");
        if *attached == "generic" && mode != XdpMode::Generic {
            return Finding::warning(CHECK, text, "generic mode is several times slower; see the driver's line");
        }
        return Finding::ok(CHECK, text);
    }
    let Ok(link) = link else {
        let found = format!("{name}: XDP program {id} is attached in {attached} mode, and only root sees whose it is");
        let why = "an interface takes one program; beside another's, `turnpike serve` does not start";
        return Finding::warning(CHECK, found, why).fix("sudo turnpike doctor".to_owned());
    };
    let whose = match program_name.as_deref() {
        Some(program::OUT | program::IN) => "a Turnpike of another pin_dir".to_owned(),
        Some(other) if !other.is_empty() => format!("{other:?}"),
        _ => "of unknown name".to_owned(),
    };
    let finding = Finding::problem(
        CHECK,
        format!("{name}: XDP program {id}, {whose}, is attached in {attached} mode"),
        "an interface takes one program, so `turnpike serve` does not start; stop whoever attached it, or take it off",
    );
    match link {
        None => {
            let kind = if *attached == "generic" { "xdpgeneric" } else { "xdp" };
            finding.fix(format!("ip link set dev {name} {kind} off"))
        }
        Some(link) => finding.fix(format!("bpftool link detach id {link}")),
    }
}

fn queues(port: &Port, cpus: u32) -> Finding {
    const CHECK: &str = "queues";
    let name = &port.name;
    // Virtual devices have none of their own.
    let Ok(Channels { rx, tx, combined, rx_max, combined_max }) = port.channels else {
        return Finding::ok(CHECK, format!("{name}: the driver has no queues to set"));
    };
    let receiving = rx.saturating_add(combined);
    let text =
        format!("{name}: {receiving} receive and {} transmit queues for {cpus} CPUs", tx.saturating_add(combined));
    // A veth's packets are handled where they were sent, and its queues cost memory at both ends.
    if receiving >= cpus || matches!(port.driver.as_deref(), Some("veth" | "tun")) {
        return Finding::ok(CHECK, text);
    }
    let (kind, max) = if combined_max > 0 { ("combined", combined_max) } else { ("rx", rx_max) };
    let wanted = cpus.min(max);
    if wanted <= receiving {
        return Finding::ok(CHECK, format!("{text}; the device has no more"));
    }
    Finding::warning(CHECK, text, "CPUs without a receive queue do not help with the packets")
        .fix(format!("ethtool -L {name} {kind} {wanted}"))
}

fn offloads(name: &str, driver: Option<&str>, features: &Seen<Features>) -> Finding {
    const CHECK: &str = "offloads";
    let features = match features {
        Ok(features) => features,
        Err(reason) => return Finding::unseen(CHECK, &format!("{name}: its offloads"), reason),
    };
    if features.has("rx-lro") {
        let finding = Finding::problem(
            CHECK,
            format!("{name}: large receive offload is on"),
            "it glues packets together before they are metered, and drivers refuse native XDP with it",
        );
        return if features.can_change("rx-lro") { finding.fix(format!("ethtool -K {name} lro off")) } else { finding };
    }
    if features.has("rx-gro-hw") {
        let why = "the device glues packets together, and some drivers refuse native XDP with it";
        let finding = Finding::warning(CHECK, format!("{name}: GRO in hardware is on"), why);
        if features.can_change("rx-gro-hw") {
            return finding.fix(format!("ethtool -K {name} rx-gro-hw off"));
        }
        if driver == Some("virtio_net") {
            return finding.because(&format!("{why}; only the hypervisor can turn it off (guest_tso4, guest_tso6)"));
        }
        return finding;
    }
    Finding::ok(CHECK, format!("{name}: neither LRO nor GRO in hardware"))
}

/// Whether the programs see the tags of the VLANs on a port.
fn vlan_tags(port: &Port) -> Option<Finding> {
    const CHECK: &str = "vlan_tags";
    const TAKEN_OUT: &str = "rx-vlan-hw-parse";
    let Port { name, features, vlans, .. } = port;
    let vlans = match vlans {
        Ok(vlans) if vlans.is_empty() => return None,
        Ok(vlans) => vlans.join(", "),
        Err(reason) => return Some(Finding::unseen(CHECK, &format!("{name}: the VLANs on it"), reason)),
    };
    // What there is to say of features that cannot be seen is said of the offloads.
    let features = features.as_ref().ok()?;
    if !features.has(TAKEN_OUT) {
        return Some(Finding::ok(CHECK, format!("{name}: frames of {vlans} keep their VLAN tags")));
    }
    let found = format!("{name}: VLAN tags are taken out of received frames, and {vlans} is on it");
    let why = "XDP then does not see which VLAN a packet is of, and takes it for one of the interface itself";
    let finding = Finding::problem(CHECK, found, why);
    Some(if features.can_change(TAKEN_OUT) { finding.fix(format!("ethtool -K {name} rxvlan off")) } else { finding })
}

fn far_end(name: &str, far: &Far) -> Finding {
    const CHECK: &str = "far_end";
    const WHY: &str = "a veth drops what XDP redirects into it unless its far end has GRO or an XDP program";
    let there = match &far.namespace {
        Namespace::Ours => far_name(far).to_owned(),
        Namespace::Named(namespace) => format!("{} in {namespace}", far_name(far)),
        Namespace::Unnamed => format!("{} in another network namespace", far_name(far)),
    };
    let command = at_far_end(far, &format!("ethtool -K {} gro on", far_name(far)));
    match far.takes_redirected {
        Some(true) => Finding::ok(CHECK, format!("{name}: its far end {there} takes redirected packets")),
        Some(false) => {
            let found = format!("{name}: its far end {there} has neither GRO nor an XDP program");
            Finding::problem(CHECK, found, WHY).fix(command)
        }
        None => {
            let found =
                format!("{name}: whether its far end {there} takes redirected packets cannot be seen from here");
            Finding::warning(CHECK, found, WHY).fix(command)
        }
    }
}

fn far_name(far: &Far) -> &str {
    far.name.as_deref().unwrap_or("<far end>")
}

fn at_far_end(far: &Far, command: &str) -> String {
    match &far.namespace {
        Namespace::Ours => command.to_owned(),
        Namespace::Named(namespace) => format!("ip netns exec {namespace} {command}"),
        Namespace::Unnamed => format!("nsenter --net --target <process there> {command}"),
    }
}

/// Whether the longest packets of the site fit the wan with their tag.
pub(super) fn tag_room(ports: &[Port]) -> Option<Finding> {
    const CHECK: &str = "tag_room";
    let link = |role| ports.iter().find(|port| port.role == role)?.link.as_ref().ok()?.as_ref();
    let (lan, wan) = (link("lan")?, link("wan")?);
    let tag_bytes = u32::from(tag::HEADER_LENGTH);
    let fits = wan.interface.mtu.saturating_sub(tag_bytes);
    let wanted = lan.interface.mtu.saturating_add(tag_bytes);
    let name = &wan.name;
    if wan.interface.mtu >= wanted {
        return Some(Finding::ok(CHECK, format!("{name}: packets up to {fits} bytes fit with their tag")));
    }
    let finding = Finding::warning(
        CHECK,
        format!(
            "{name}: packets up to {fits} bytes fit with their tag, and the lan brings up to {}",
            lan.interface.mtu
        ),
        "longer packets of flows are dropped as too_big; the whole path to the peers must carry the larger MTU",
    );
    if wan.mtu_max.is_some_and(|max| max < wanted) {
        let why =
            "longer packets of flows are dropped as too_big, and this device takes no larger MTU; lower the site's";
        return Some(finding.because(why));
    }
    Some(finding.fix(format!("ip link set dev {name} mtu {wanted}")))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, bad, fixed, good};
    use super::*;

    const KERNEL: Option<KernelVersion> = None;

    fn with(change: impl FnOnce(&mut Port)) -> Port {
        let mut port = sample::port("lan");
        change(&mut port);
        port
    }

    fn linked(change: impl FnOnce(&mut Link)) -> Port {
        with(|port| change(port.link.as_mut().unwrap().as_mut().unwrap()))
    }

    #[test]
    fn a_good_port_has_nothing_but_good_findings() {
        let findings = findings(&sample::port("lan"), &sample::config(), KERNEL, 2);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
        assert_eq!(findings.len(), 5);
    }

    #[test]
    fn the_interface_itself() {
        good(&interface(&sample::port("lan")));
        let missing = with(|port| port.link = Ok(None));
        bad(&interface(&missing), Level::Problem, "lan lan0 does not exist here");
        assert_eq!(findings(&missing, &sample::config(), KERNEL, 2).len(), 1);
        bad(&interface(&with(|port| port.link = Err("hidden".to_owned()))), Level::Warning, "hidden");
        let tunnel = linked(|link| link.interface.ethernet = false);
        bad(&interface(&tunnel), Level::Problem, "no Ethernet device");
        assert_eq!(findings(&tunnel, &sample::config(), KERNEL, 2).len(), 1);
        fixed(&interface(&linked(|link| link.interface.up = false)), Level::Problem, "ip link set dev lan0 up");
        bad(&interface(&linked(|link| link.carrier = false)), Level::Warning, "no carrier");
    }

    #[test]
    fn native_mode_is_the_kernels_word_or_else_the_tables() {
        let says = |xdp_features, driver: &str| {
            with(|port| {
                port.xdp_features = xdp_features;
                port.driver = Some(driver.to_owned());
            })
        };
        let seen = |port: &Port, mode| native(port, mode, KERNEL);
        good(&seen(&says(Some(3), "new_driver"), XdpMode::Native));
        bad(&seen(&says(Some(1), "new_driver"), XdpMode::Auto), Level::Warning, "no native XDP with redirection");
        bad(&seen(&says(Some(0), "new_driver"), XdpMode::Native), Level::Problem, "no native XDP with redirection");
        good(&seen(&says(Some(0), "new_driver"), XdpMode::Generic));
        let queues = "ethtool -L lan0 rx <transmit queues of the far end>";
        fixed(&seen(&says(Some(0), "veth"), XdpMode::Auto), Level::Warning, queues);
        good(&seen(&says(None, "igb"), XdpMode::Native));
        bad(&seen(&says(None, "e1000e"), XdpMode::Native), Level::Problem, "e1000e has no native XDP");
        bad(&seen(&says(None, "new_driver"), XdpMode::Native), Level::Warning, "nothing is known of driver new_driver");
        let old = native(&says(None, "vmxnet3"), XdpMode::Auto, Some(KernelVersion::new(6, 1, 0)));
        bad(&old, Level::Warning, "only from Linux 6.6 on");
    }

    #[test]
    fn a_large_mtu_costs_native_mode() {
        let seen = |port: &Port, mode| native_mtu(port, port.link.as_ref().unwrap().as_ref().unwrap(), mode);
        assert_eq!(seen(&sample::port("lan"), XdpMode::Native), None);
        let jumbo = linked(|link| link.interface.mtu = 9_000);
        fixed(&seen(&jumbo, XdpMode::Auto).unwrap(), Level::Warning, "ip link set dev lan0 mtu 3498");
        fixed(&seen(&jumbo, XdpMode::Native).unwrap(), Level::Problem, "ip link set dev lan0 mtu 3498");
        assert_eq!(seen(&jumbo, XdpMode::Generic), None);
        let veth = with(|port| port.far = Some(Far { mtu: Some(9_000), ..sample::far() }));
        fixed(&seen(&veth, XdpMode::Auto).unwrap(), Level::Warning, "ip link set dev site0 mtu 3498");
    }

    #[test]
    fn programs_that_sit_there() {
        let seen = |program: Program| programs(&with(|port| port.programs = vec![program]), XdpMode::Auto);
        let other = Program { mode: "native", id: 7, name: Some("lb".to_owned()), ours: false, link: Ok(None) };
        good(&programs(&sample::port("lan"), XdpMode::Auto));
        good(&seen(Program { ours: true, ..other.clone() }));
        bad(&seen(Program { ours: true, mode: "generic", ..other.clone() }), Level::Warning, "in generic mode");
        let found = seen(other.clone());
        bad(&found, Level::Problem, "XDP program 7, \"lb\", is attached in native mode");
        fixed(&found, Level::Problem, "ip link set dev lan0 xdp off");
        let generic = Program { mode: "generic", ..other.clone() };
        fixed(&seen(generic), Level::Problem, "ip link set dev lan0 xdpgeneric off");
        let linked = Program { link: Ok(Some(9)), ..other.clone() };
        fixed(&seen(linked), Level::Problem, "bpftool link detach id 9");
        let hidden = Program { name: None, link: Err("no".to_owned()), ..other.clone() };
        fixed(&seen(hidden), Level::Warning, "sudo turnpike doctor");
        bad(&seen(Program { name: None, ..other.clone() }), Level::Problem, "of unknown name");
        let twin = Program { name: Some(program::OUT.to_owned()), ..other };
        bad(&seen(twin), Level::Problem, "a Turnpike of another pin_dir");
    }

    #[test]
    fn queues_are_counted_against_cpus() {
        let seen = |driver: &str, channels| {
            let port = with(|port| {
                port.driver = Some(driver.to_owned());
                port.channels = channels;
            });
            queues(&port, 4)
        };
        let combined = |combined, combined_max| Channels { combined, combined_max, ..Channels::default() };
        good(&seen("ice", Ok(combined(4, 8))));
        good(&seen("ice", Ok(combined(2, 2))));
        good(&seen("veth", Ok(combined(1, 4))));
        good(&seen("dummy", Err("not supported".to_owned())));
        fixed(&seen("ice", Ok(combined(1, 8))), Level::Warning, "ethtool -L lan0 combined 4");
        let apart = Channels { rx: 1, tx: 1, rx_max: 3, ..Channels::default() };
        fixed(&seen("igb", Ok(apart)), Level::Warning, "ethtool -L lan0 rx 3");
    }

    #[test]
    fn offloads_that_glue_packets() {
        let seen = |driver, active: &[&str], changeable: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            offloads("lan0", driver, &Ok(Features { active: names(active), changeable: names(changeable) }))
        };
        good(&seen(None, &["rx-gro", "rx-checksum"], &["rx-lro"]));
        fixed(&seen(None, &["rx-lro"], &["rx-lro"]), Level::Problem, "ethtool -K lan0 lro off");
        bad(&seen(None, &["rx-lro"], &[]), Level::Problem, "large receive offload");
        fixed(&seen(None, &["rx-gro-hw"], &["rx-gro-hw"]), Level::Warning, "ethtool -K lan0 rx-gro-hw off");
        let virtio = seen(Some("virtio_net"), &["rx-gro-hw"], &[]);
        assert!(virtio.why.contains("hypervisor") && virtio.fix.is_none(), "{virtio:?}");
        bad(&offloads("lan0", None, &Err("old".to_owned())), Level::Warning, "old");
    }

    #[test]
    fn vlan_tags_have_to_stay_in_frames() {
        let seen = |vlans: &[&str], active: &[&str], changeable: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            vlan_tags(&with(|port| {
                port.vlans = Ok(names(vlans));
                port.features = Ok(Features { active: names(active), changeable: names(changeable) });
            }))
        };
        let parsed = ["rx-vlan-hw-parse"];
        assert_eq!(seen(&[], &parsed, &parsed), None);
        good(&seen(&["lan0.7"], &[], &parsed).unwrap());
        fixed(&seen(&["lan0.7"], &parsed, &parsed).unwrap(), Level::Problem, "ethtool -K lan0 rxvlan off");
        let stuck = seen(&["lan0.7", "lan0.8"], &parsed, &[]).unwrap();
        bad(&stuck, Level::Problem, "lan0.7, lan0.8 is on it");
        assert_eq!(stuck.fix, None);
        bad(&vlan_tags(&with(|port| port.vlans = Err("no".to_owned()))).unwrap(), Level::Warning, "no");
    }

    #[test]
    fn the_far_end_of_a_veth() {
        let seen = |takes_redirected, namespace| far_end("lan0", &Far { takes_redirected, namespace, ..sample::far() });
        good(&seen(Some(true), Namespace::Unnamed));
        fixed(&seen(Some(false), Namespace::Ours), Level::Problem, "ethtool -K site0 gro on");
        let named = seen(None, Namespace::Named("site-a".to_owned()));
        fixed(&named, Level::Warning, "ip netns exec site-a ethtool -K site0 gro on");
        let unnamed =
            far_end("lan0", &Far { name: None, takes_redirected: None, namespace: Namespace::Unnamed, mtu: None });
        fixed(&unnamed, Level::Warning, "nsenter --net --target <process there> ethtool -K <far end> gro on");
    }

    #[test]
    fn the_wan_needs_room_for_the_tag() {
        let seen = |lan_mtu, wan_mtu, mtu_max| {
            let mut ports = vec![sample::port("lan"), sample::port("wan")];
            for (port, mtu) in ports.iter_mut().zip([lan_mtu, wan_mtu]) {
                let link = port.link.as_mut().unwrap().as_mut().unwrap();
                link.interface.mtu = mtu;
                link.mtu_max = mtu_max;
            }
            tag_room(&ports)
        };
        good(&seen(1_500, 1_508, None).unwrap());
        let short = seen(1_500, 1_500, Some(9_000)).unwrap();
        bad(&short, Level::Warning, "up to 1492 bytes fit");
        fixed(&short, Level::Warning, "ip link set dev wan0 mtu 1508");
        assert_eq!(seen(1_500, 1_500, Some(1_500)).unwrap().fix, None);
        assert_eq!(tag_room(&[sample::port("lan")]), None);
    }
}
