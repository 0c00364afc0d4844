//! What a flow costs on the wire, where every packet is longer by the tag.

use crate::policy::Meter;

/// Bytes by which a tagged packet is longer than the packet as its sender made it.
pub const TAG_BYTES: u16 = 8;

/// What one flow takes from a pool, in IP bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes at once.
    pub burst_bytes: u64,
}

impl Cost {
    /// The most that packets within `meter` can be once they are tagged: all of them of the smallest counted size,
    /// rounded up. `None` if the size is 0 or the numbers do not fit.
    #[must_use]
    pub fn of(meter: &Meter) -> Option<Self> {
        Some(Self {
            rate_bps: tagged(meter.rate_bps, meter.packet_bytes_min)?,
            burst_bytes: tagged(u64::from(meter.burst_bytes), meter.packet_bytes_min)?,
        })
    }
}

fn tagged(value: u64, packet_bytes_min: u16) -> Option<u64> {
    let packet = u128::from(packet_bytes_min);
    let wire = u128::from(value).checked_mul(packet + u128::from(TAG_BYTES))?;
    if packet == 0 { None } else { u64::try_from(wire.div_ceil(packet)).ok() }
}

/// The largest flow rate whose cost is at most `wire_bps`: what [`Cost::of`] inverts.
#[must_use]
pub fn rate_that_fits(wire_bps: u64, packet_bytes_min: u16) -> u64 {
    let packet = u128::from(packet_bytes_min);
    let rate = u128::from(wire_bps) * packet / (packet + u128::from(TAG_BYTES));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meter(rate_bps: u64, packet_bytes_min: u16) -> Meter {
        Meter { rate_bps, burst_bytes: 400, packet_bytes_min }
    }

    #[test]
    fn a_voice_flow_costs_its_rate_and_the_tags() {
        let cost = Cost::of(&meter(80_000, 200));
        assert_eq!(cost, Some(Cost { rate_bps: 83_200, burst_bytes: 416 }));
    }

    #[test]
    fn a_cost_is_rounded_up() {
        assert_eq!(Cost::of(&meter(1, 200)).map(|c| c.rate_bps), Some(2));
    }

    #[test]
    fn a_cost_beyond_64_bits_is_none() {
        assert_eq!(Cost::of(&meter(u64::MAX, 28)), None);
        assert_eq!(Cost::of(&meter(1, 0)), None);
    }

    proptest! {
        #[test]
        fn the_rate_that_fits_fits_and_one_more_does_not(wire in 0u64..1 << 60, packet in 28u16..=9000) {
            let rate = rate_that_fits(wire, packet);
            let cost = |rate| Cost::of(&meter(rate, packet)).map(|c| c.rate_bps);
            prop_assert!(cost(rate).is_some_and(|c| c <= wire));
            prop_assert!(cost(rate + 1).is_some_and(|c| c > wire));
        }
    }
}
