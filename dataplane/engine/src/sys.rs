//! System calls that no library offers in a safe form.

use std::io;

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
