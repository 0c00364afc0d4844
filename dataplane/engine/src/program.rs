//! Loads the programs, pins what has to outlive the process, and attaches.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{DevMap, Map, MapData, ProgramArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};
use rustix::system::uname;
use turnpike_fastpath::contract::{PORTS_MAX, program, table};

use crate::config::{EngineConfig, XdpMode};
use crate::error::EngineError;
use crate::generation::{self, Left, Pinned, Place};
use crate::layout::{LAYOUTS, Shape};
use crate::migrate;
use crate::ports::{LAN, WAN};
use crate::sys::{link_interface, remove_link};

pub(crate) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-xdp"));

pub(crate) const KERNEL_NEEDED: &str = "5.15";
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
pub(crate) const BPF_FS: &str = "/sys/fs/bpf";
/// Lines of the verifier's log that are shown.
const VERIFIER_LINES: usize = 30;

/// Which program is attached where: by the port's number, the role that names its link, and the program.
pub(crate) type Role = (u16, &'static str, &'static str);

/// The roles of two interfaces, or of one that is both.
pub(crate) const fn roles(one: bool) -> &'static [Role] {
    if one { &[(LAN, "lan", program::BOTH)] } else { &[(LAN, "lan", program::OUT), (WAN, "wan", program::IN)] }
}

/// Where the link of this role is pinned.
pub(crate) fn link_path(pin_dir: &Path, role: &str) -> PathBuf {
    pin_dir.join("links").join(role)
}

/// What there is to go on from.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// Nothing.
    Nothing,
    /// Tables that are pinned.
    Pinned,
    /// An object that was loaded with them already.
    Loaded(Ebpf),
}

/// Sees whether this kernel will do and makes the folder of pins. What is pinned there is taken over: as it is if it fits exactly, moved to
/// new tables if only sizes differ; anything else is refused.
pub(crate) fn prepare(config: &EngineConfig, shape: Shape) -> Result<Prepared, EngineError> {
    let kernel = KernelVersion::current().map_err(|error| EngineError::Load { detail: error.to_string() })?;
    check_kernel(kernel, &uname().release().to_string_lossy())?;
    prepare_pin_dir(&config.pin_dir)?;
    if generation::tidy(&config.pin_dir)? == Left::Both {
        migrate::resume(&config.pin_dir)?;
    }
    match generation::look(&Place::Current.folder(&config.pin_dir))? {
        Pinned::None => Ok(Prepared::Nothing),
        Pinned::Tables(found) if found == shape => Ok(Prepared::Pinned),
        Pinned::Tables(found) => migrate::migrate(&config.pin_dir, found, shape).map(Prepared::Loaded),
    }
}

/// Loads the object with the tables that are pinned in a folder.
pub(crate) fn load_pinned(folder: &Path, shape: Shape) -> Result<Ebpf, EngineError> {
    load_with(shape, Some(folder))
}

/// Loads the object with tables that nobody else sees, and that end with it.
pub(crate) fn load_unpinned(shape: Shape) -> Result<Ebpf, EngineError> {
    load_with(shape, None)
}

/// Loads nothing but what reads the clock, with tables that nobody else sees.
pub(crate) fn load_clock(shape: Shape) -> Result<Ebpf, EngineError> {
    let mut object = make_tables(shape, None)?;
    xdp(&mut object, program::CLOCK)?.load().map_err(program_error)?;
    Ok(object)
}

fn load_with(shape: Shape, folder: Option<&Path>) -> Result<Ebpf, EngineError> {
    let mut object = make_tables(shape, folder)?;
    for name in program::AT.into_iter().chain([program::BOTH, program::CLOCK]) {
        xdp(&mut object, name)?.load().map_err(program_error)?;
    }
    set_programs(&mut object)?;
    Ok(object)
}

fn make_tables(shape: Shape, folder: Option<&Path>) -> Result<Ebpf, EngineError> {
    let mut loader = EbpfLoader::new();
    for layout in LAYOUTS {
        loader.map_max_entries(layout.name, shape.entries(layout));
    }
    if let Some(folder) = folder {
        for name in generation::names() {
            loader.map_pin_path(name, folder.join(name));
        }
    }
    loader.override_global("FLOWS_MAX", &shape.flows, true).override_global("AGGREGATES_MAX", &shape.aggregates, true);
    loader.load(OBJECT).map_err(load_error)
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
    let folder = pin_dir.join("links");
    fs::create_dir_all(&folder).map_err(|errno| {
        if errno.kind() == io::ErrorKind::PermissionDenied {
            return EngineError::NotPermitted { action: "making the folder of pins" };
        }
        error(&folder, format!("cannot be made: {errno}; pin_dir must be on a BPF file system"))
    })?;
    if is_bpf_fs(pin_dir) {
        return Ok(());
    }
    // Made on an ordinary file system: take it back.
    for folder in [folder, pin_dir.to_owned()] {
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

/// What to attach where.
#[derive(Debug)]
pub(crate) struct Attachment<'a> {
    pub(crate) program: &'static str,
    pub(crate) role: &'static str,
    pub(crate) interface: &'a str,
    pub(crate) index: u32,
}

/// Attaches a program, or puts it in the place of the one whose link is pinned: no packet is without a program in between.
///
/// # Errors
/// The driver refuses, or another program is there.
pub(crate) fn attach(
    object: &mut Ebpf,
    attachment: &Attachment<'_>,
    config: &EngineConfig,
    mode: XdpMode,
) -> Result<PinnedLink, EngineError> {
    let Attachment { interface: name, index, .. } = *attachment;
    let path = link_path(&config.pin_dir, attachment.role);
    let program = xdp(object, attachment.program)?;
    if let Some(link) = pinned_link(&path)? {
        let attached = link_interface(&path).map_err(EngineError::kernel("looking at a pinned link"))?;
        if attached == Some(index)
            && let Some(link) = replace(program, link, &path)?
        {
            return Ok(link);
        }
        tracing::warn!(
            interface = name,
            index,
            ?attached,
            "the pinned link is of an interface that is no more this port"
        );
        remove_link(&path).map_err(EngineError::kernel("removing the link of another interface"))?;
    }
    let (aya_mode, mode) = match mode {
        XdpMode::Native | XdpMode::Auto => (AyaMode::Driver, "native"),
        XdpMode::Generic => (AyaMode::Skb, "generic"),
    };
    let id = program.attach_to_if_index(index, aya_mode).map_err(|error| {
        let detail = program_error_detail(&error);
        EngineError::Attach {
            name: name.to_owned(),
            mode,
            detail: format!("{detail}; `ip link show dev {name}` tells whether another XDP program is there"),
        }
    })?;
    pin(program, id, &path)
}

/// Attaches all of them in one mode, and says in which: what leaves a port in native mode is lost on a driver that takes no redirected frames.
///
/// # Errors
/// See [`attach`].
pub(crate) fn attach_all(
    object: &mut Ebpf,
    attachments: &[Attachment<'_>],
    config: &EngineConfig,
) -> Result<(XdpMode, Vec<PinnedLink>), EngineError> {
    let mut all = |mode| {
        let links = attachments.iter().map(|attachment| attach(object, attachment, config, mode));
        links.collect::<Result<Vec<_>, _>>().map(|links| (mode, links))
    };
    if config.xdp_mode != XdpMode::Auto {
        return all(config.xdp_mode);
    }
    let native = all(XdpMode::Native);
    let Err(EngineError::Attach { name, detail, .. }) = &native else { return native };
    tracing::warn!(interface = name, detail, "no native mode; all ports get the generic one");
    for attachment in attachments {
        let path = link_path(&config.pin_dir, attachment.role);
        if path.exists() {
            remove_link(&path).map_err(EngineError::kernel("removing a link of another mode"))?;
        }
    }
    all(XdpMode::Generic)
}

/// Takes all programs off their interfaces. Says what was removed.
pub(crate) fn remove_links(pin_dir: &Path) -> Result<Vec<String>, EngineError> {
    let mut removed = Vec::new();
    for (_, role, _) in roles(false) {
        let path = link_path(pin_dir, role);
        if path.exists() {
            remove_link(&path).map_err(EngineError::kernel("removing a link"))?;
            removed.push(path.display().to_string());
        }
    }
    removed.extend(generation::remove(&pin_dir.join("links"))?);
    Ok(removed)
}

/// Takes links away that are not of these roles and interfaces, so that nothing of an earlier configuration stands in the way.
pub(crate) fn drop_other_links(pin_dir: &Path, wanted: &[(&str, u32)]) -> Result<(), EngineError> {
    for (_, role, _) in roles(false) {
        let path = link_path(pin_dir, role);
        if !path.exists() {
            continue;
        }
        let attached = link_interface(&path).map_err(EngineError::kernel("looking at a pinned link"))?;
        if !wanted.iter().any(|(wanted, index)| wanted == role && attached == Some(*index)) {
            tracing::warn!(
                role,
                interface = attached,
                "a pinned link is of no interface that is this port; removing it"
            );
            remove_link(&path).map_err(EngineError::kernel("removing the link of another interface"))?;
        }
    }
    Ok(())
}

/// Puts a program of the object in the place of the one whose link is pinned for this role. A link whose interface is gone stays as it is.
pub(crate) fn exchange(object: &mut Ebpf, pin_dir: &Path, role: &str, program: &str) -> Result<(), EngineError> {
    let path = link_path(pin_dir, role);
    if let Some(link) = pinned_link(&path)? {
        replace(xdp(object, program)?, link, &path)?;
    }
    Ok(())
}

/// Why a pin cannot be used. What may not be opened is not what cannot be understood.
pub(crate) fn pin_error(path: &Path, error: &(dyn Error + 'static)) -> EngineError {
    let error = explain(error, "opening what is pinned");
    if let EngineError::Load { detail } = error {
        return EngineError::Pins { path: path.to_owned(), detail };
    }
    error
}

/// The link that is pinned there, if there is one.
pub(crate) fn pinned_link(path: &Path) -> Result<Option<FdLink>, EngineError> {
    if !path.exists() {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(path).map_err(|error| pin_error(path, &error))?;
    Ok(Some(link.into()))
}

/// Exchanges the program of a link; none if the link's interface is gone.
fn replace(program: &mut Xdp, link: FdLink, path: &Path) -> Result<Option<PinnedLink>, EngineError> {
    let link = XdpLink::try_from(link).map_err(|error| EngineError::Load { detail: error.to_string() })?;
    let id = match program.attach_to_link(link) {
        Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOLINK) => {
            return Ok(None);
        }
        id => id.map_err(program_error)?,
    };
    // The program would take the link down with it.
    drop(program.take_link(id).map_err(program_error)?);
    let link = PinnedLink::from_pin(path).map_err(|error| pin_error(path, &error))?;
    Ok(Some(link))
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

/// The devices of pinned tables, by port.
pub(crate) fn pinned_devices(folder: &Path) -> Result<Vec<(u32, u32)>, EngineError> {
    let path = folder.join(table::DEVICES);
    let map = Map::DevMap(MapData::from_pin(&path).map_err(|error| pin_error(&path, &error))?);
    let devices = DevMap::try_from(map).map_err(|error| pin_error(&path, &error))?;
    Ok((0..PORTS_MAX).filter_map(|port| Some((port, devices.get(port, 0).ok()?.if_index))).collect())
}

/// The device in the device map, if there is one: the kernel takes out what is deleted.
pub(crate) fn device(object: &Ebpf, port: u32) -> Option<u32> {
    let devices: DevMap<&MapData> = object.map(table::DEVICES)?.try_into().ok()?;
    Some(devices.get(port, 0).ok()?.if_index)
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
