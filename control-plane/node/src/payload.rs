//! The largest payload that fits: what the ports' MTUs leave for a flow's packets, with the tag and without.

use std::sync::atomic::{AtomicU64, Ordering};

use turnpike_api::PayloadBytesMax;
use turnpike_broker::address::Family;
use turnpike_broker::payload_bytes_max;
use turnpike_broker::policy::Tag;

/// The MTUs of the ports, in IP bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtus {
    /// Towards the site.
    pub lan: u32,
    /// Towards the peers.
    pub wan: u32,
}

/// The last known MTUs, which any thread may read without waiting for the data plane's. Both in one word, so that they are of one moment;
/// 0 for what is not known.
#[derive(Debug, Default)]
pub(crate) struct LastMtus(AtomicU64);

impl LastMtus {
    pub(crate) fn set(&self, mtus: Option<Mtus>) {
        let word = mtus.map_or(0, |Mtus { lan, wan }| u64::from(lan) << 32 | u64::from(wan));
        self.0.store(word, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Option<Mtus> {
        let word = self.0.load(Ordering::Relaxed);
        let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).ok();
        let mtus = Mtus { lan: half(word >> 32)?, wan: half(word)? };
        (word != 0).then_some(mtus)
    }
}

/// What there is room for on the way to a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) mtus: Mtus,
    /// Of the tag addresses.
    pub(crate) tag_family: Family,
}

impl Room {
    /// For flows between endpoints of this family, with this kind of tag: UDP payload in bytes.
    pub(crate) fn of(self, family: Family, tag: Tag) -> u32 {
        payload_bytes_max(self.mtus.lan, self.mtus.wan, family, self.tag_family, tag)
    }

    pub(crate) fn of_both(self, tag: Tag) -> PayloadBytesMax {
        PayloadBytesMax { ipv4: self.of(Family::Ipv4, tag), ipv6: self.of(Family::Ipv6, tag) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mtus_are_what_was_set_last() {
        let last = LastMtus::default();
        assert_eq!(last.get(), None);
        let mtus = Mtus { lan: u32::MAX, wan: 1_280 };
        last.set(Some(mtus));
        assert_eq!(last.get(), Some(mtus));
        last.set(None);
        assert_eq!(last.get(), None);
    }
}
