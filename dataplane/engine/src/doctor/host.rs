//! What is checked of the host as a whole.

use aya::util::KernelVersion;

use super::Finding;
use super::facts::{Host, PinPlace, Pins, Seen, Trial};
use crate::program::{BPF_FS, KERNEL_NEEDED, check_kernel};

/// Numbers as in `capability.h`.
const CAPABILITIES: &[(&str, u32)] = &[("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = vec![
        kernel(host.kernel, &host.release),
        btf(host.btf),
        jit(host.jit, &host.trial),
        unprivileged_bpf(host.unprivileged_bpf),
        capabilities(&host.capabilities),
    ];
    findings.extend(memlock(host.kernel, host.memlock_bytes));
    findings.push(bpf_file_system(host));
    findings.push(pins(host));
    findings.extend(programs(&host.trial));
    findings.push(memory(host));
    findings
}

fn kernel(kernel: Option<KernelVersion>, release: &str) -> Finding {
    const CHECK: &str = "kernel";
    let Some(kernel) = kernel else {
        return Finding::unseen(CHECK, "the kernel's version", release);
    };
    match check_kernel(kernel, release) {
        Ok(()) => Finding::ok(CHECK, format!("Linux {release}; {KERNEL_NEEDED} or later is needed")),
        Err(_) => Finding::problem(
            CHECK,
            format!("Linux {release} is older than {KERNEL_NEEDED}"),
            "the programs need atomic operations in BPF; install a later kernel",
        ),
    }
}

fn btf(there: bool) -> Finding {
    const CHECK: &str = "btf";
    if there {
        return Finding::ok(CHECK, "the kernel describes its types".to_owned());
    }
    Finding::warning(
        CHECK,
        "/sys/kernel/btf/vmlinux is missing".to_owned(),
        "Turnpike runs without it, but tools that look into a data plane do not; use a kernel with CONFIG_DEBUG_INFO_BTF",
    )
}

fn jit(setting: Option<u64>, trial: &Trial) -> Finding {
    const CHECK: &str = "jit";
    let compiled = matches!(trial, Trial::Loaded { machine_code_bytes, .. } if *machine_code_bytes > 0);
    match setting {
        _ if compiled => Finding::ok(CHECK, "programs are compiled to machine code".to_owned()),
        Some(0) => Finding::warning(
            CHECK,
            "the BPF compiler is off".to_owned(),
            "every packet goes through an interpreter, several times slower",
        )
        .fix("sysctl -w net.core.bpf_jit_enable=1".to_owned()),
        Some(_) => Finding::ok(CHECK, "the BPF compiler is on".to_owned()),
        None => Finding::unseen(CHECK, "the BPF compiler's switch", "only root in the first network namespace sees it"),
    }
}

fn unprivileged_bpf(setting: Option<u64>) -> Finding {
    const CHECK: &str = "unprivileged_bpf";
    match setting {
        Some(0) => Finding::warning(
            CHECK,
            "every user may load BPF programs".to_owned(),
            "Turnpike does not need it, and it has been a way into kernels",
        )
        .fix("sysctl -w kernel.unprivileged_bpf_disabled=2".to_owned()),
        Some(_) => Finding::ok(CHECK, "only privileged users may load BPF programs".to_owned()),
        None => Finding::unseen(CHECK, "kernel.unprivileged_bpf_disabled", "this kernel does not show it"),
    }
}

fn capabilities(effective: &Seen<u64>) -> Finding {
    const CHECK: &str = "capabilities";
    let effective = match effective {
        Ok(effective) => *effective,
        Err(reason) => return Finding::unseen(CHECK, "this process's capabilities", reason),
    };
    let (has, lacks): (Vec<_>, Vec<_>) = CAPABILITIES.iter().partition(|(_, bit)| effective >> bit & 1 == 1);
    let names =
        |capabilities: &[&(&str, u32)]| capabilities.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if lacks.is_empty() {
        return Finding::ok(CHECK, format!("this process has {}", names(&has)));
    }
    Finding::problem(
        CHECK,
        format!("this process lacks {}", names(&lacks)),
        "`turnpike serve` run like this cannot load or attach programs, and some checks below see nothing",
    )
    .fix("sudo turnpike doctor".to_owned())
}

fn memlock(kernel: Option<KernelVersion>, limit_bytes: Option<u64>) -> Option<Finding> {
    // From 5.11 on, tables count against the control group's memory instead.
    let old = kernel.is_some_and(|kernel| kernel < KernelVersion::new(5, 11, 0));
    let limit_bytes = limit_bytes.filter(|_| old)?;
    let finding = Finding::warning(
        "memlock",
        format!("locked memory is limited to {}", mebibytes(limit_bytes)),
        "before 5.11 the tables count against this limit",
    );
    Some(finding.fix("ulimit -l unlimited".to_owned()))
}

fn bpf_file_system(host: &Host) -> Finding {
    const CHECK: &str = "bpf_file_system";
    let pin_dir = host.pin_dir.display();
    let dotted = host.pin_dir.file_name().is_some_and(|name| name.to_string_lossy().contains('.'));
    match host.pin_place {
        PinPlace::Bpf if dotted => Finding::problem(
            CHECK,
            format!("pin_dir {pin_dir} has a dot in its name"),
            "a BPF file system takes no such name, and says only that it is not permitted; choose another",
        ),
        PinPlace::Bpf => Finding::ok(CHECK, format!("{pin_dir} is on a BPF file system")),
        PinPlace::NotMounted => Finding::warning(
            CHECK,
            format!("no BPF file system is mounted at {BPF_FS}"),
            "reservations that outlive a restart are kept there; `turnpike serve` mounts it if it is permitted to",
        )
        .fix(format!("mount -t bpf bpf {BPF_FS}")),
        PinPlace::Other => Finding::problem(
            CHECK,
            format!("pin_dir {pin_dir} is not on a BPF file system"),
            "`turnpike serve` refuses it; use a folder of /sys/fs/bpf",
        ),
    }
}

fn pins(host: &Host) -> Finding {
    const CHECK: &str = "pins";
    let pin_dir = host.pin_dir.display();
    match &host.pins {
        Pins::None => Finding::ok(CHECK, format!("nothing is pinned at {pin_dir}; a first start makes everything new")),
        Pins::Fit => Finding::ok(CHECK, format!("the data plane pinned at {pin_dir} would be taken over")),
        Pins::Moves(how) => Finding::ok(
            CHECK,
            format!("the data plane pinned at {pin_dir} would be taken over, its tables moved to other sizes: {how}"),
        ),
        Pins::Refused(reason) => Finding::problem(
            CHECK,
            reason.clone(),
            "`turnpike serve` refuses what it does not understand; sessions still in force there end with a detach",
        )
        .fix("turnpike detach --config <file>".to_owned()),
        Pins::Unseen(reason) => Finding::unseen(CHECK, &format!("what is pinned at {pin_dir}"), reason),
    }
}

fn programs(trial: &Trial) -> Vec<Finding> {
    const LOAD: &str = "programs";
    const CLOCK: &str = "clock";
    match trial {
        Trial::Loaded { tick_ns, .. } => {
            let clock = match tick_ns {
                Ok(tick_ns) => {
                    let ticks = 1_000_000_000 / tick_ns.max(&1);
                    Finding::ok(CLOCK, format!("the kernel ticks {ticks} times a second, as measured"))
                }
                Err(reason) => Finding::problem(CLOCK, reason.clone(), "flows are metered by the kernel's tick"),
            };
            vec![Finding::ok(LOAD, "this kernel accepts the XDP programs".to_owned()), clock]
        }
        Trial::NotPermitted(reason) => vec![
            Finding::unseen(LOAD, "whether this kernel accepts the XDP programs", reason),
            Finding::unseen(CLOCK, "the length of the kernel's tick", "it is measured by a program"),
        ],
        Trial::Refused(reason) => {
            vec![Finding::problem(LOAD, reason.clone(), "without its programs there is no data plane")]
        }
    }
}

fn memory(host: &Host) -> Finding {
    const CHECK: &str = "memory";
    let needed = mebibytes(host.memory_needed_bytes);
    if host.pins == Pins::Fit {
        return Finding::ok(CHECK, format!("the tables have their {needed}"));
    }
    let available = match &host.memory_available_bytes {
        Ok(available) => *available,
        Err(reason) => return Finding::unseen(CHECK, "free memory", reason),
    };
    let found = format!("the tables take {needed} of {} available", mebibytes(available));
    if host.memory_needed_bytes > available {
        return Finding::problem(
            CHECK,
            found,
            "`turnpike serve` cannot make them; lower limits.flows_max or limits.aggregates_max",
        );
    }
    if host.memory_needed_bytes > available / 2 {
        return Finding::warning(CHECK, found, "little is left for anything else; perhaps lower limits.flows_max");
    }
    Finding::ok(CHECK, found)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{bad, fixed, good};
    use super::super::{Level, sample};
    use super::*;

    fn version(major: u8, minor: u8) -> Option<KernelVersion> {
        Some(KernelVersion::new(major, minor, 0))
    }

    #[test]
    fn a_good_host_has_nothing_but_good_findings() {
        let findings = findings(&sample::host());
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
        assert_eq!(findings.len(), 10);
    }

    #[test]
    fn the_kernel() {
        good(&kernel(version(5, 15), "5.15.0"));
        bad(&kernel(version(5, 10), "5.10.0-32-amd64"), Level::Problem, "5.10.0-32-amd64 is older than 5.15");
        bad(&kernel(None, "odd"), Level::Warning, "could not be looked at");
        bad(&btf(false), Level::Warning, "vmlinux is missing");
    }

    #[test]
    fn the_compiler_is_judged_by_what_it_does() {
        let loaded = |machine_code_bytes| Trial::Loaded { machine_code_bytes, tick_ns: Ok(4_000_000) };
        good(&jit(Some(0), &loaded(900)));
        good(&jit(None, &loaded(900)));
        good(&jit(Some(1), &Trial::NotPermitted(String::new())));
        fixed(&jit(Some(0), &loaded(0)), Level::Warning, "sysctl -w net.core.bpf_jit_enable=1");
        bad(&jit(None, &Trial::NotPermitted(String::new())), Level::Warning, "could not be looked at");
    }

    #[test]
    fn privileges() {
        good(&capabilities(&Ok(u64::MAX)));
        good(&capabilities(&Ok(1 << 39 | 1 << 12 | 1 << 21)));
        let lacking = capabilities(&Ok(1 << 12));
        bad(&lacking, Level::Problem, "lacks CAP_BPF, CAP_SYS_ADMIN");
        fixed(&lacking, Level::Problem, "sudo turnpike doctor");
        bad(&capabilities(&Err("hidden".to_owned())), Level::Warning, "hidden");
        good(&unprivileged_bpf(Some(2)));
        fixed(&unprivileged_bpf(Some(0)), Level::Warning, "sysctl -w kernel.unprivileged_bpf_disabled=2");
        bad(&unprivileged_bpf(None), Level::Warning, "could not be looked at");
    }

    #[test]
    fn locked_memory_matters_only_before_5_11() {
        assert_eq!(memlock(version(5, 15), Some(65_536)), None);
        assert_eq!(memlock(version(5, 10), None), None);
        fixed(&memlock(version(5, 10), Some(65_536)).unwrap(), Level::Warning, "ulimit -l unlimited");
    }

    #[test]
    fn the_place_of_the_pins_and_what_is_there() {
        let at = |pin_place| bpf_file_system(&Host { pin_place, ..sample::host() });
        good(&at(PinPlace::Bpf));
        fixed(&at(PinPlace::NotMounted), Level::Warning, "mount -t bpf bpf /sys/fs/bpf");
        bad(&at(PinPlace::Other), Level::Problem, "is not on a BPF file system");
        let dotted = Host { pin_dir: "/sys/fs/bpf/turnpike.1".into(), ..sample::host() };
        bad(&bpf_file_system(&dotted), Level::Problem, "has a dot in its name");
        let there = |found| pins(&Host { pins: found, ..sample::host() });
        good(&there(Pins::None));
        good(&there(Pins::Fit));
        fixed(&there(Pins::Refused("other sizes".to_owned())), Level::Problem, "turnpike detach --config <file>");
        bad(&there(Pins::Unseen("no".to_owned())), Level::Warning, "could not be looked at: no");
    }

    #[test]
    fn programs_and_their_clock() {
        let [load, clock] = &programs(&Trial::NotPermitted("run as root".to_owned()))[..] else { panic!("two") };
        bad(load, Level::Warning, "run as root");
        bad(clock, Level::Warning, "could not be looked at");
        let findings = programs(&Trial::Loaded { machine_code_bytes: 1, tick_ns: Err("odd tick".to_owned()) });
        good(&findings[0]);
        bad(&findings[1], Level::Problem, "odd tick");
        bad(&programs(&Trial::Refused("verifier".to_owned()))[0], Level::Problem, "verifier");
    }

    #[test]
    fn the_tables_need_memory_unless_they_have_it() {
        let with = |needed, available, pins| {
            let host = sample::host();
            memory(&Host { memory_needed_bytes: needed, memory_available_bytes: Ok(available), pins, ..host })
        };
        good(&with(1 << 20, 1 << 30, Pins::None));
        bad(&with(3 << 20, 4 << 20, Pins::None), Level::Warning, "3 MiB of 4 MiB");
        bad(&with(5 << 20, 4 << 20, Pins::None), Level::Problem, "5 MiB of 4 MiB");
        good(&with(5 << 20, 4 << 20, Pins::Fit));
        let unseen = Host { memory_available_bytes: Err("hidden".to_owned()), ..sample::host() };
        bad(&memory(&unseen), Level::Warning, "hidden");
    }
}
