//! What is known of drivers, for kernels that do not tell (before 6.3).

use aya::util::KernelVersion;

/// What a driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Xdp {
    /// Native programs and redirection, both ways.
    Native,
    /// Native programs from a later kernel on.
    NativeSince(&'static str),
    /// Generic mode only.
    Generic,
    /// Not in the table.
    Unknown,
}

/// Drivers with native XDP that sends and takes redirected frames. Empty: since 5.15 or before.
const NATIVE: &[(&str, &str)] = &[
    ("bnxt_en", ""),
    ("ena", ""),
    ("i40e", ""),
    ("ice", ""),
    ("igb", ""),
    ("igc", ""),
    ("ixgbe", ""),
    ("mlx5_core", ""),
    ("mvneta", ""),
    ("mvpp2", ""),
    ("stmmac", ""),
    ("tun", ""),
    ("veth", ""),
    ("virtio_net", ""),
    ("gve", "6.4"),
    ("vmxnet3", "6.6"),
];

/// Drivers and kinds of interfaces without native XDP.
const GENERIC: &[&str] = &["bridge", "dummy", "e1000", "e1000e", "ipvlan", "macvlan", "r8169", "tg3", "vlan"];

pub(crate) fn xdp(driver: &str, kernel: Option<KernelVersion>) -> Xdp {
    if GENERIC.contains(&driver) {
        return Xdp::Generic;
    }
    let Some((_, since)) = NATIVE.iter().find(|(name, _)| *name == driver) else { return Xdp::Unknown };
    let first = since.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let early = first.zip(kernel).is_some_and(|((major, minor), kernel)| kernel < KernelVersion::new(major, minor, 0));
    if early { Xdp::NativeSince(since) } else { Xdp::Native }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_known_by_kernel() {
        let kernel = |major, minor| Some(KernelVersion::new(major, minor, 0));
        assert_eq!(xdp("veth", kernel(5, 15)), Xdp::Native);
        assert_eq!(xdp("vmxnet3", kernel(6, 1)), Xdp::NativeSince("6.6"));
        assert_eq!(xdp("vmxnet3", kernel(6, 12)), Xdp::Native);
        assert_eq!(xdp("e1000e", kernel(6, 12)), Xdp::Generic);
        assert_eq!(xdp("other", kernel(6, 12)), Xdp::Unknown);
    }
}
