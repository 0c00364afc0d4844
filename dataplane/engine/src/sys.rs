//! System calls that no library offers in a safe form.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Waits until no program that started before is still running: every XDP program runs inside an RCU read-side section, and the
/// kernel ends this call only after a grace period (`membarrier(2)`, `MEMBARRIER_CMD_GLOBAL`).
pub(crate) fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Refused where CPUs run tickless (nohz_full). A program runs for microseconds and cannot be preempted; a tenth of a second
        // stands for many times that.
        tracing::debug!(error = %io::Error::last_os_error(), "membarrier is refused; waiting instead");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// The interface that the XDP link pinned there is attached to; none if that is gone.
pub(crate) fn link_interface(pin: &Path) -> io::Result<Option<u32>> {
    let link = open_pin(pin)?;
    // The kernel writes it as text, too; no library knows this part of the link's information (`BPF_OBJ_GET_INFO_BY_FD`).
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let index = text.lines().find_map(|line| line.strip_prefix("ifindex:")?.trim().parse().ok());
    Ok(index.filter(|index| *index != 0))
}

/// Takes a pinned link's program off its interface and removes the pin. Removing the pin alone would do so a little later.
pub(crate) fn remove_link(pin: &Path) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_int = 34;
    let link = open_pin(pin)?;
    let number = link.as_raw_fd();
    // SAFETY: the attributes of this command are one descriptor, which is open until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const number, size_of::<RawFd>()) };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), pin = %pin.display(), "a link goes with its pin");
    }
    std::fs::remove_file(pin)
}

/// Opens what is pinned there (`bpf(2)`, `BPF_OBJ_GET`).
fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_int = 7;
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = Attributes { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the attributes are those of this command, whose size is given; they and the path live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<Attributes>()) };
    match RawFd::try_from(result) {
        // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
