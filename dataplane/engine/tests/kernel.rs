//! The kernel that the test runs on: it serves, or it is refused by name and nothing is left behind.
//!
//! `cargo xtask matrix` reads the lines that begin with `matrix:`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod host;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aya::maps::loaded_maps;
use aya::programs::loaded_programs;
use aya::util::KernelVersion;
use host::in_own_namespace;
use turnpike_engine::{Engine, EngineConfig};

#[test]
fn the_kernel_serves_or_is_refused_by_name() {
    in_own_namespace(|config| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let release = release.trim();
        let serves = KernelVersion::current().unwrap() >= KernelVersion::new(5, 15, 0);
        match Engine::start(config) {
            Ok(engine) => {
                assert!(serves, "{release} was to be refused");
                assert!(config.pin_dir.exists());
                for program in loaded_programs().filter_map(Result::ok) {
                    let name = String::from_utf8_lossy(program.name()).into_owned();
                    if let Some(count) = program.verified_instruction_count().filter(|_| name.starts_with("turnpike_"))
                    {
                        println!("matrix: program {name} verified {count}");
                    }
                }
                drop(engine);
                Engine::detach(&config.pin_dir).unwrap();
                println!("matrix: kernel serves {release}");
            }
            Err(error) => {
                assert!(!serves, "{release}: {error}");
                assert_eq!(error.code(), "kernel_too_old", "{error}");
                let text = error.to_string();
                assert!(text.contains(release) && text.contains("5.15"), "{text}");
                nothing_is_left(config);
                println!("matrix: kernel refused {} {text}", error.code());
            }
        }
        assert!(!config.pin_dir.exists());
        for interface in [&config.lan, &config.wan] {
            assert!(!attached(interface), "a program is left at {interface}");
        }
    });
}

/// Where no program can be, nobody else has one of our names.
fn nothing_is_left(config: &EngineConfig) {
    let parent = config.pin_dir.parent().unwrap();
    assert_eq!(std::fs::read_dir(parent).unwrap().count(), 0, "{} is not empty", parent.display());
    assert!(!Path::new(&config.pin_dir).exists());
    let programs = loaded_programs().filter_map(Result::ok).filter(|program| program.name().starts_with(b"turnpike"));
    assert_eq!(programs.count(), 0, "a program is left");
    let maps = loaded_maps().filter_map(Result::ok).filter(|map| map.name().starts_with(b"TP_"));
    assert_eq!(maps.count(), 0, "a table is left");
}

/// Whether it has a program and keeps it: the kernel takes its time to let go of a link.
fn attached(interface: &str) -> bool {
    (0..100).all(|_| {
        let output = Command::new("ip").args(["-o", "link", "show", "dev", interface]).output().unwrap();
        assert!(output.status.success());
        let attached = String::from_utf8_lossy(&output.stdout).contains("xdp");
        if attached {
            std::thread::sleep(Duration::from_millis(20));
        }
        attached
    })
}
