//! Loads the programs, pins what has to outlive the process, and attaches.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{DevMap, MapData, MapInfo, MapType, ProgramArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};
use rustix::system::uname;
use turnpike_fastpath::contract::{PORTS_MAX, PROGRAMS_MAX, VERSION, program, table};

use crate::config::{EngineConfig, XdpMode};
use crate::error::EngineError;
use crate::table::{Size, Tables, sizes};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-xdp"));

pub(crate) const KERNEL_NEEDED: &str = "5.15";
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
pub(crate) const BPF_FS: &str = "/sys/fs/bpf";
const MAPPED: u32 = 1 << 10;
/// Lines of the verifier's log that are shown.
const VERIFIER_LINES: usize = 30;

/// Where a map of this name is pinned.
pub(crate) fn map_path(pin_dir: &Path, name: &str) -> PathBuf {
    pin_dir.join("maps").join(name)
}

/// Where the link of this role is pinned.
pub(crate) fn link_path(pin_dir: &Path, role: &str) -> PathBuf {
    pin_dir.join("links").join(role)
}

/// Sees whether this kernel will do and makes the folder of pins. What is pinned there is taken over if it fits exactly, and refused
/// otherwise. Says whether there was something.
pub(crate) fn prepare(config: &EngineConfig, cpus: u32) -> Result<bool, EngineError> {
    let kernel = KernelVersion::current().map_err(|error| EngineError::Load { detail: error.to_string() })?;
    check_kernel(kernel, &uname().release().to_string_lossy())?;
    prepare_pin_dir(&config.pin_dir)?;
    check_pins(&config.pin_dir, &sizes(config, cpus))
}

/// Loads the object with the tables that are pinned, or pins new ones.
pub(crate) fn load(config: &EngineConfig, cpus: u32) -> Result<Ebpf, EngineError> {
    load_with(config, cpus, Some(&config.pin_dir))
}

/// Loads the object with tables that nobody else sees, and that end with it.
pub(crate) fn load_unpinned(config: &EngineConfig, cpus: u32) -> Result<Ebpf, EngineError> {
    load_with(config, cpus, None)
}

fn load_with(config: &EngineConfig, cpus: u32, pin_dir: Option<&Path>) -> Result<Ebpf, EngineError> {
    let mut loader = EbpfLoader::new();
    let sizes = sizes(config, cpus);
    for (name, entries, _) in sizes {
        loader.map_max_entries(name, entries);
    }
    if let Some(pin_dir) = pin_dir {
        for name in sizes.map(|size| size.0).into_iter().chain([table::DEVICES, table::PROGRAMS]) {
            loader.map_pin_path(name, map_path(pin_dir, name));
        }
    }
    let aggregates = config.aggregate_entries();
    loader.override_global("FLOWS_MAX", &config.flows_max, true).override_global("AGGREGATES_MAX", &aggregates, true);
    let mut object = loader.load(OBJECT).map_err(load_error)?;
    for name in program::AT.into_iter().chain([program::BOTH, program::CLOCK]) {
        xdp(&mut object, name)?.load().map_err(program_error)?;
    }
    set_programs(&mut object)?;
    Ok(object)
}

/// Tells programs where to go on. Under traffic each place is changed as a whole, and all of them follow the same contract.
fn set_programs(object: &mut Ebpf) -> Result<(), EngineError> {
    let detail = |error: &dyn ToString| EngineError::Load { detail: error.to_string() };
    let mut programs = Vec::new();
    for name in program::AT {
        let program = xdp(object, name)?.fd().map_err(program_error)?;
        programs.push(program.try_clone().map_err(EngineError::kernel("keeping a program"))?);
    }
    let map = object.map_mut(table::PROGRAMS).ok_or_else(|| detail(&"the object has no table of programs"))?;
    let mut places: ProgramArray<&mut MapData> = map.try_into().map_err(|error: aya::maps::MapError| detail(&error))?;
    for (place, program) in (0..).zip(&programs) {
        places.set(place, program, 0).map_err(|error| detail(&error))?;
    }
    Ok(())
}

/// The program of this name.
pub(crate) fn xdp<'o>(object: &'o mut Ebpf, name: &str) -> Result<&'o mut Xdp, EngineError> {
    object
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| EngineError::Load { detail: format!("the object has no program {name}") })
}

pub(crate) fn check_kernel(found: KernelVersion, release: &str) -> Result<(), EngineError> {
    // Compare-and-swap came with 5.12; what is older than the long-term kernel after it is not tried.
    if found < KernelVersion::new(5, 15, 0) {
        return Err(EngineError::KernelTooOld { found: release.to_owned(), needed: KERNEL_NEEDED });
    }
    Ok(())
}

/// Makes the folder of pins, and mounts the BPF file system at its usual place if nobody did.
fn prepare_pin_dir(pin_dir: &Path) -> Result<(), EngineError> {
    let error = |path: &Path, detail: String| EngineError::BpfFileSystem { path: path.to_owned(), detail };
    if pin_dir.starts_with(BPF_FS) && !is_bpf_fs(Path::new(BPF_FS)) {
        mount("bpf", BPF_FS, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None).map_err(
            |errno| match io::Error::from(errno) {
                errno if errno.kind() == io::ErrorKind::PermissionDenied => {
                    EngineError::NotPermitted { action: "mounting the BPF file system" }
                }
                errno => {
                    error(Path::new(BPF_FS), format!("cannot be mounted: {errno}; try `mount -t bpf bpf {BPF_FS}`"))
                }
            },
        )?;
    }
    for folder in [pin_dir.join("maps"), pin_dir.join("links")] {
        fs::create_dir_all(&folder).map_err(|errno| {
            if errno.kind() == io::ErrorKind::PermissionDenied {
                return EngineError::NotPermitted { action: "making the folder of pins" };
            }
            error(&folder, format!("cannot be made: {errno}; pin_dir must be on a BPF file system"))
        })?;
    }
    if is_bpf_fs(pin_dir) {
        return Ok(());
    }
    // Made on an ordinary file system: take it back.
    for folder in [pin_dir.join("maps"), pin_dir.join("links"), pin_dir.to_owned()] {
        if let Err(errno) = fs::remove_dir(&folder) {
            tracing::debug!(folder = %folder.display(), %errno, "left in place");
        }
    }
    Err(error(pin_dir, format!("is not on a BPF file system; use a folder of {BPF_FS}")))
}

#[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a magic number, 32 bits of any sign")]
pub(crate) fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|facts| facts.f_type as u32 as u64 == BPF_FS_MAGIC)
}

/// Compares what is pinned with what this program would make, attribute by attribute.
pub(crate) fn check_pins(pin_dir: &Path, sizes: &[Size]) -> Result<bool, EngineError> {
    let mut expected: Vec<_> =
        sizes.iter().map(|(name, entries, bytes)| (*name, MapType::Array, *entries, *bytes, MAPPED)).collect();
    expected.push((table::DEVICES, MapType::DevMap, PORTS_MAX, 8, 0));
    expected.push((table::PROGRAMS, MapType::ProgramArray, PROGRAMS_MAX, 4, 0));
    let mut found = 0;
    for (name, kind, entries, bytes, flags) in &expected {
        let path = map_path(pin_dir, name);
        if !path.exists() {
            continue;
        }
        found += 1;
        let refuse = |detail: String| EngineError::Pins { path: path.clone(), detail };
        let info = MapInfo::from_pin(&path).map_err(|error| refuse(error.to_string()))?;
        let has = (info.map_type().ok(), info.max_entries(), info.key_size(), info.value_size() as usize);
        let wants = (Some(*kind), *entries, 4, *bytes);
        if has != wants || info.map_flags() & flags != *flags {
            return Err(refuse(format!("type, entries, key and value bytes are {has:?}, and must be {wants:?}")));
        }
    }
    match found {
        0 => Ok(false),
        _ if found == expected.len() => Ok(true),
        _ => Err(EngineError::Pins {
            path: pin_dir.to_owned(),
            detail: format!("{found} of {} tables are there", expected.len()),
        }),
    }
}

/// Whether the tables that were taken over mean what this program means.
pub(crate) fn check_version(pin_dir: &Path, tables: &Tables) -> Result<(), EngineError> {
    check_contract(pin_dir, tables.config().version)
}

pub(crate) fn check_contract(pin_dir: &Path, version: u64) -> Result<(), EngineError> {
    match version {
        VERSION => Ok(()),
        // Pinned, but never set up: the process ended in between.
        0 => Ok(()),
        other => Err(EngineError::Pins {
            path: map_path(pin_dir, table::CONFIG),
            detail: format!("its contract has version {other}, and this program's {VERSION}"),
        }),
    }
}

/// What to attach where.
#[derive(Debug)]
pub(crate) struct Attachment<'a> {
    pub(crate) program: &'static str,
    pub(crate) role: &'static str,
    pub(crate) interface: &'a str,
    pub(crate) index: u32,
    /// The interface that a pinned link was made for; zero if there was none.
    pub(crate) index_before: u32,
}

/// Attaches a program, or puts it in the place of the one whose link is pinned: no packet is without a program in between.
pub(crate) fn attach(
    object: &mut Ebpf,
    attachment: &Attachment<'_>,
    config: &EngineConfig,
) -> Result<PinnedLink, EngineError> {
    let Attachment { interface: name, index, .. } = *attachment;
    let path = link_path(&config.pin_dir, attachment.role);
    let program = xdp(object, attachment.program)?;
    if path.exists() && attachment.index_before != index {
        tracing::warn!(interface = name, "the pinned link is of another interface; attaching anew");
        fs::remove_file(&path).map_err(EngineError::kernel("removing the link of another interface"))?;
    }
    if path.exists() {
        match replace(program, &path) {
            Ok(link) => return Ok(link),
            Err(error) => {
                // The interface was deleted meanwhile; its link is only a shell.
                tracing::warn!(interface = name, %error, "the pinned link is dead; attaching anew");
                fs::remove_file(&path).map_err(EngineError::kernel("removing a dead link"))?;
            }
        }
    }
    let modes: &[(AyaMode, &'static str)] = match config.xdp_mode {
        XdpMode::Native => &[(AyaMode::Driver, "native")],
        XdpMode::Generic => &[(AyaMode::Skb, "generic")],
        XdpMode::Auto => &[(AyaMode::Driver, "native"), (AyaMode::Skb, "generic")],
    };
    let mut last = None;
    for (mode, mode_name) in modes {
        match program.attach_to_if_index(index, *mode) {
            Ok(id) => return pin(program, id, &path),
            Err(error) => last = Some((*mode_name, program_error_detail(&error))),
        }
    }
    let (mode, detail) = last.unwrap_or(("no", String::new()));
    Err(EngineError::Attach {
        name: name.to_owned(),
        mode,
        detail: format!("{detail}; `ip link show dev {name}` tells whether another XDP program is there"),
    })
}

fn replace(program: &mut Xdp, path: &Path) -> Result<PinnedLink, Box<dyn Error>> {
    let link: FdLink = PinnedLink::from_pin(path)?.into();
    let id = program.attach_to_link(link.try_into()?)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    drop(link);
    Ok(PinnedLink::from_pin(path)?)
}

fn pin(program: &mut Xdp, id: XdpLinkId, path: &Path) -> Result<PinnedLink, EngineError> {
    let link: XdpLink = program.take_link(id).map_err(program_error)?;
    let link = FdLink::try_from(link).map_err(|error| EngineError::Load { detail: error.to_string() })?;
    link.pin(path).map_err(|error| EngineError::BpfFileSystem { path: path.to_owned(), detail: error.to_string() })
}

/// Puts a device into the device map.
pub(crate) fn set_device(object: &mut Ebpf, port: u32, ifindex: u32) -> Result<(), EngineError> {
    let detail = |error: &dyn ToString| EngineError::Load { detail: error.to_string() };
    let map = object.map_mut(table::DEVICES).ok_or_else(|| detail(&"the object has no device map"))?;
    let mut devices: DevMap<&mut MapData> = map.try_into().map_err(|error: aya::maps::MapError| detail(&error))?;
    devices.set(port, ifindex, None, 0).map_err(|error| detail(&error))
}

/// Attaches a program that passes everything, for as long as the returned value lives. A veth takes redirected frames only if its
/// far end has a program.
///
/// # Errors
/// [`EngineError::Attach`], or what keeps a program from loading.
pub fn attach_pass(interface: &str) -> Result<PassProgram, EngineError> {
    let mut object = EbpfLoader::new().load(OBJECT).map_err(load_error)?;
    let program = xdp(&mut object, program::PASS)?;
    program.load().map_err(program_error)?;
    program.attach(interface, AyaMode::Driver).map_err(|error| EngineError::Attach {
        name: interface.to_owned(),
        mode: "native",
        detail: program_error_detail(&error),
    })?;
    Ok(PassProgram { _object: object })
}

/// See [`attach_pass`].
#[derive(Debug)]
pub struct PassProgram {
    _object: Ebpf,
}

fn load_error(error: EbpfError) -> EngineError {
    explain(&error, "loading the XDP programs")
}

pub(crate) fn program_error(error: ProgramError) -> EngineError {
    // The verifier refuses with the same number as a missing permission, but says why.
    if let ProgramError::LoadError { verifier_log, .. } = &error {
        let log = verifier_log.to_string();
        let lines: Vec<_> = log.lines().collect();
        if !lines.is_empty() {
            let end = lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("\n");
            return EngineError::Load { detail: format!("the verifier of this kernel refuses them:\n{end}") };
        }
    }
    explain(&error, "loading an XDP program")
}

fn program_error_detail(error: &ProgramError) -> String {
    chain(error)
}

/// A permission that is missing anywhere below is the message.
fn explain(error: &(dyn Error + 'static), action: &'static str) -> EngineError {
    let mut cause = Some(error);
    while let Some(found) = cause {
        if found.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return EngineError::NotPermitted { action };
        }
        cause = found.source();
    }
    EngineError::Load { detail: chain(error) }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        text.push_str(": ");
        text.push_str(&found.to_string());
        cause = found.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_named() {
        let error = check_kernel(KernelVersion::new(5, 10, 223), "5.10.0-32-amd64").unwrap_err();
        assert_eq!(error.code(), "kernel_too_old");
        assert!(error.to_string().contains("5.10.0-32-amd64") && error.to_string().contains("5.15"), "{error}");
        check_kernel(KernelVersion::new(5, 15, 0), "5.15.0").unwrap();
    }
}
