//! Boots a guest and waits for it to end.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::kernel::{DRIVERS, Driver, Kernel};
use super::tools::Tools;

/// A guest that takes longer hangs.
const GUEST_MAX: Duration = Duration::from_secs(900);

/// Cards of a driver: two cables of two ends each.
const CARDS: u8 = 4;

/// How a guest ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) after: Duration,
    /// Why that was not by its own will.
    pub(crate) fault: Option<String>,
    /// Whether it was the emulator that failed.
    pub(crate) crashed: bool,
}

/// What the addresses of a driver's cards have in common: all but the last digit.
pub(crate) fn mac_start(driver: &Driver) -> String {
    format!("52:54:00:00:{:02x}:0", number(driver))
}

fn number(driver: &Driver) -> usize {
    DRIVERS.iter().position(|one| one.name == driver.name).unwrap_or_default()
}

/// Kills the guest if nobody waited for it.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a kernel with the cards of these drivers. What it writes goes into the folder `log`: `console` has everything, and `result`
/// what `init.sh` reports.
pub(crate) fn run(
    tools: &Tools,
    kernel: &Kernel,
    initramfs: &Path,
    drivers: &[&'static Driver],
    log: &Path,
) -> anyhow::Result<Ended> {
    std::fs::create_dir_all(log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut command = tools.qemu();
    // With a thread for each processor QEMU 10.0 now and then fails an assertion of its own while the guest boots.
    command.args(["-accel", "tcg,thread=single", "-cpu", "qemu64", "-M", "q35", "-smp", "2", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
    for end in ["console", "result"] {
        let file = log.join(end);
        File::create(&file).with_context(|| format!("cannot make {}", file.display()))?;
        command.arg("-serial").arg(format!("file:{}", file.display()));
    }
    command.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
    // Instructions that repeat (REP_GOOD, 112) are slow to emulate, and so is what keeps processors from telling secrets.
    let speed = "mitigations=off clearcpuid=112";
    command.arg("-append").arg(format!("console=ttyS0 loglevel=4 panic=-1 net.ifnames=0 {speed}"));
    for driver in drivers {
        let start = mac_start(driver);
        for card in 0..CARDS {
            let (id, hub) = (format!("{}{card}", driver.name), hub(driver, card));
            // Each behind a port of its own: igb takes several slots.
            let chassis = number(driver) * usize::from(CARDS) + usize::from(card) + 1;
            command.arg("-device").arg(format!("pcie-root-port,id=port-{id},chassis={chassis}"));
            command.arg("-netdev").arg(format!("hubport,id={id},hubid={hub}"));
            let place = format!("bus=port-{id},netdev={id},mac={start}{card},romfile=");
            command.arg("-device").arg(format!("{},{place}", driver.device));
        }
    }
    let errors = log.join("qemu");
    let errors_file = File::create(&errors).with_context(|| format!("cannot make {}", errors.display()))?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors_file).spawn();
    let mut guest = Guest(child.context("cannot start QEMU")?);
    let start = Instant::now();
    loop {
        if let Some(status) = guest.0.try_wait().context("cannot wait for QEMU")? {
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            let fault = (!status.success()).then(|| format!("QEMU ended with {status}: {}", said.trim()));
            return Ok(Ended { after: start.elapsed(), fault, crashed: status.code().is_none() });
        }
        if start.elapsed() > GUEST_MAX {
            let fault = format!("still running after {} s", GUEST_MAX.as_secs());
            return Ok(Ended { after: start.elapsed(), fault: Some(fault), crashed: false });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The cable that a card is plugged into.
fn hub(driver: &Driver, card: u8) -> usize {
    number(driver) * 2 + usize::from(card / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cards_share_a_cable_and_no_address() {
        let hubs: Vec<_> = DRIVERS.iter().flat_map(|driver| (0..CARDS).map(|card| hub(driver, card))).collect();
        assert_eq!(hubs, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
        assert_eq!(DRIVERS.iter().map(mac_start).collect::<Vec<_>>()[1], "52:54:00:00:01:0");
    }
}
