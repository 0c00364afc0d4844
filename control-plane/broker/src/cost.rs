//! What a flow costs on the wire, where every packet has other headers and a tag.

use crate::address::Family;
use crate::policy::{Meter, Tag};

const UDP_HEADER_BYTES: u16 = 8;

/// Bytes of the tag between UDP header and payload: longer where the headers around it cannot say what those of the flow were, and where
/// it tells both terminals.
const fn tag_bytes(inner: Family, outer: Family, tag: Tag) -> u16 {
    match (tag, inner, outer) {
        (Tag::Label, Family::Ipv4, Family::Ipv4) | (Tag::Label, Family::Ipv6, Family::Ipv6) => 8,
        (Tag::Label, Family::Ipv4, Family::Ipv6) | (Tag::Label, Family::Ipv6, Family::Ipv4) => 12,
        (Tag::Terminals, Family::Ipv4, _) => 24,
        (Tag::Terminals, Family::Ipv6, _) => 48,
    }
}

/// Bytes by which a tagged packet is longer than the packet as its sender made it; less than 0 where it is shorter. `inner` is the family of
/// the flow's endpoints, `outer` that of the tag addresses.
#[must_use]
pub const fn overhead_bytes(inner: Family, outer: Family, tag: Tag) -> i32 {
    outer.header_bytes() as i32 - inner.header_bytes() as i32 + tag_bytes(inner, outer, tag) as i32
}

/// The largest UDP payload of a flow that fits both the LAN as it is and the WAN with its tag; 0 if none does. MTUs count IP bytes.
#[must_use]
pub fn payload_bytes_max(lan_mtu: u32, wan_mtu: u32, inner: Family, outer: Family, tag: Tag) -> u32 {
    let lan = inner.header_bytes() + UDP_HEADER_BYTES;
    let wan = outer.header_bytes() + UDP_HEADER_BYTES + tag_bytes(inner, outer, tag);
    lan_mtu.saturating_sub(lan.into()).min(wan_mtu.saturating_sub(wan.into()))
}

/// The smallest packet of a family: an IP and a UDP header.
pub(crate) const fn packet_bytes_min(family: Family) -> u16 {
    family.header_bytes() + UDP_HEADER_BYTES
}

/// What one flow takes from a pool, in IP bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes at once.
    pub burst_bytes: u64,
}

impl Cost {
    /// The most that packets within `meter` can be once they are tagged, but for its excess, which nothing is reserved for. Where tagged packets
    /// are longer, that is when all are of the smallest counted size; where they are shorter, the larger a packet is the less that
    /// matters, and nothing is taken off. Rounded up. `None` if the size is 0 or the numbers do not fit.
    #[must_use]
    pub fn of(meter: &Meter, overhead_bytes: i32) -> Option<Self> {
        let packet = u128::from(meter.packet_bytes_min);
        if packet == 0 {
            return None;
        }
        let tagged = packet + longer_by(overhead_bytes);
        let wire = |value: u64| Some(u128::from(value).checked_mul(tagged)?.div_ceil(packet));
        Some(Self {
            rate_bps: u64::try_from(wire(meter.rate_bps)?).ok()?,
            burst_bytes: u64::try_from(wire(meter.burst_bytes.into())?).ok()?,
        })
    }
}

impl Cost {
    /// Both together.
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            rate_bps: self.rate_bps.saturating_add(other.rate_bps),
            burst_bytes: self.burst_bytes.saturating_add(other.burst_bytes),
        }
    }
}

/// The largest flow rate whose cost is at most `wire_bps`: what [`Cost::of`] inverts.
#[must_use]
pub fn rate_that_fits(wire_bps: u64, packet_bytes_min: u16, overhead_bytes: i32) -> u64 {
    let packet = u128::from(packet_bytes_min);
    let rate = (u128::from(wire_bps) * packet).checked_div(packet + longer_by(overhead_bytes));
    rate.map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

fn longer_by(overhead_bytes: i32) -> u128 {
    u128::try_from(overhead_bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
    const TAGS: [Tag; 2] = [Tag::Label, Tag::Terminals];

    fn meter(rate_bps: u64, packet_bytes_min: u16) -> Meter {
        Meter { rate_bps, burst_bytes: 400, packet_bytes_min, excess: None }
    }

    #[test]
    fn the_overhead_is_that_of_the_headers_and_the_tag() {
        let overheads = |tag| FAMILIES.map(|inner| FAMILIES.map(|outer| overhead_bytes(inner, outer, tag)));
        assert_eq!(overheads(Tag::Label), [[8, 32], [-8, 8]]);
        assert_eq!(overheads(Tag::Terminals), [[24, 44], [28, 48]]);
    }

    #[test]
    fn a_voice_flow_costs_its_rate_and_the_tags() {
        let costs = [8, 32, -8].map(|overhead| Cost::of(&meter(80_000, 200), overhead).unwrap());
        assert_eq!(costs.map(|cost| (cost.rate_bps, cost.burst_bytes)), [(83_200, 416), (92_800, 464), (80_000, 400)]);
    }

    #[test]
    fn a_voice_flow_costs_more_where_its_tags_tell_its_terminals() {
        let costs = [24, 44, 28, 48].map(|overhead| Cost::of(&meter(80_000, 200), overhead).unwrap().rate_bps);
        assert_eq!(costs, [89_600, 97_600, 91_200, 99_200]);
    }

    #[test]
    fn a_cost_is_rounded_up() {
        assert_eq!(Cost::of(&meter(1, 200), 8).map(|c| c.rate_bps), Some(2));
    }

    #[test]
    fn a_cost_beyond_64_bits_is_none() {
        assert_eq!(Cost::of(&meter(u64::MAX, 28), 8), None);
        assert_eq!(Cost::of(&meter(1, 0), 8), None);
    }

    #[test]
    fn the_largest_payload_fits_the_narrower_side() {
        use Family::{Ipv4, Ipv6};
        let cases = [
            ((1500, 1500, Ipv4, Ipv4, Tag::Label), 1464),
            ((1500, 1500, Ipv6, Ipv6, Tag::Label), 1444),
            ((1500, 1500, Ipv4, Ipv6, Tag::Label), 1440),
            ((1500, 1500, Ipv6, Ipv4, Tag::Label), 1452),
            ((1500, 9000, Ipv4, Ipv4, Tag::Label), 1472),
            ((9000, 1500, Ipv6, Ipv4, Tag::Label), 1460),
            ((1500, 20, Ipv4, Ipv4, Tag::Label), 0),
            ((1500, 1500, Ipv4, Ipv4, Tag::Terminals), 1448),
            ((1500, 1500, Ipv6, Ipv4, Tag::Terminals), 1424),
            ((1500, 1500, Ipv6, Ipv6, Tag::Terminals), 1404),
            ((1500, 9000, Ipv4, Ipv6, Tag::Terminals), 1472),
        ];
        for ((lan, wan, inner, outer, tag), bytes) in cases {
            assert_eq!(payload_bytes_max(lan, wan, inner, outer, tag), bytes, "{lan} {wan} {inner} {outer} {tag}");
        }
    }

    proptest! {
        #[test]
        fn the_rate_that_fits_fits_and_one_more_does_not(
            wire in 0u64..1 << 60,
            packet in 28u16..=9000,
            inner in 0usize..2,
            outer in 0usize..2,
            tag in 0usize..2,
        ) {
            let overhead = overhead_bytes(FAMILIES[inner], FAMILIES[outer], TAGS[tag]);
            let rate = rate_that_fits(wire, packet, overhead);
            let cost = |rate| Cost::of(&meter(rate, packet), overhead).map(|c| c.rate_bps);
            prop_assert!(cost(rate).is_some_and(|c| c <= wire));
            prop_assert!(cost(rate + 1).is_some_and(|c| c > wire));
        }

        #[test]
        fn no_packets_of_a_flow_are_more_on_the_wire_than_it_costs(
            packets in prop::collection::vec(48u32..=1500, 1..50),
            packet_bytes_min in 48u16..=1500,
            inner in 0usize..2,
            outer in 0usize..2,
            tag in 0usize..2,
        ) {
            let overhead = overhead_bytes(FAMILIES[inner], FAMILIES[outer], TAGS[tag]);
            // As the flow's meter counts them: all of its burst.
            let burst_bytes = packets.iter().map(|bytes| (*bytes).max(packet_bytes_min.into())).sum();
            let cost = Cost::of(&Meter { burst_bytes, ..meter(1, packet_bytes_min) }, overhead).unwrap();
            let wire: i64 = packets.iter().map(|bytes| i64::from(*bytes) + i64::from(overhead)).sum();
            prop_assert!(u64::try_from(wire).unwrap() <= cost.burst_bytes);
        }
    }
}
