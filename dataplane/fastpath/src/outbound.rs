//! From the site towards the peers: classify, meter, tag, send.

use zerocopy::network_endian::{U16, U64};

use crate::checksum::Change;
use crate::classify::find_flow;
use crate::entry::{Aggregate, Config, Flow, Inner, NextHop, Port, UNADMITTED_DROP, UNADMITTED_LIMIT, mac_of_bits};
use crate::frame::Frame;
use crate::meter::{charge_carrier, charge_flow};
use crate::tables::{Tables, count};
use crate::verdict::{Direction, Reason, Verdict};
use crate::wire::{Headers, TaggedHeaders, ethernet, ipv4, tag, udp};

/// The IP and UDP headers of a flow's packet.
const IP_UDP_LENGTH: u16 = ipv4::HEADER_LENGTH + udp::HEADER_LENGTH;

/// Handles one frame that came from the site. Counts it once, under the reason for its verdict.
#[inline(always)]
pub fn outbound<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let bytes = frame.len().saturating_sub(ethernet::HEADER_BYTES) as u64;
    let (verdict, reason) = match decide(frame, tables, bytes) {
        Ok(port) => (Verdict::Redirect(port), Reason::Tagged),
        Err(reason @ (Reason::Arp | Reason::Local | Reason::Unadmitted)) => (Verdict::Pass, reason),
        Err(reason) => (Verdict::Drop, reason),
    };
    if !count(tables, Direction::Out, reason, bytes) {
        return Verdict::Drop;
    }
    verdict
}

/// The port that the tagged frame leaves by, or why it does not.
#[inline(always)]
fn decide<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<u32, Reason> {
    let config = tables.config().ok_or(Reason::Internal)?;
    let ether_type = frame.at::<ethernet::Header>(0).ok_or(Reason::Truncated)?.ether_type;
    if ether_type == ethernet::ARP {
        return Err(Reason::Arp);
    }
    if ether_type != ethernet::IPV4 {
        return Err(unadmitted(frame, tables, config, None, bytes));
    }
    let ip = *frame.at::<ipv4::Header>(ipv4::OFFSET).ok_or(Reason::Truncated)?;
    let total_length = ip.total_length.get();
    let header_bytes = u16::from(ip.version_ihl & 0xf) * 4;
    if ip.version_ihl >> 4 != 4 || usize::from(header_bytes) < ipv4::HEADER_BYTES || total_length < header_bytes {
        return Err(Reason::BadLength);
    }
    if u64::from(total_length) > bytes {
        return Err(Reason::Truncated);
    }
    let plain =
        ip.version_ihl == ipv4::VERSION_IHL && ip.protocol == ipv4::UDP && ip.fragment.get() & ipv4::FRAGMENT_MASK == 0;
    if !plain {
        return Err(unadmitted(frame, tables, config, Some(ip), bytes));
    }
    let headers = *frame.at::<Headers>(0).ok_or(Reason::Truncated)?;
    let Some(udp_length) = total_length.checked_sub(ipv4::HEADER_LENGTH) else {
        return Err(Reason::BadLength);
    };
    if headers.udp.length.get() != udp_length || usize::from(udp_length) < udp::HEADER_BYTES {
        return Err(Reason::BadLength);
    }
    let ends = Inner {
        source: ip.source,
        destination: ip.destination,
        source_port: headers.udp.source_port,
        destination_port: headers.udp.destination_port,
    };
    let Some((index, flow)) = find_flow(tables, config.hash_seed, config.bucket_mask, &ends) else {
        return Err(unadmitted(frame, tables, config, Some(ip), bytes));
    };
    let share = tables.flow_share(index).ok_or(Reason::Internal)?;
    share.tally.offer(u64::from(total_length));
    let carried = carry(frame, tables, config, flow, &headers, total_length);
    share.tally.settle(u64::from(total_length), carried.is_ok());
    carried
}

/// Meters and tags a flow's packet.
#[inline(always)]
fn carry<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    flow: &Flow,
    headers: &Headers,
    total_length: u16,
) -> Result<u32, Reason> {
    let coarse_ns = tables.ticks() * config.tick_ns;
    if coarse_ns >= flow.expires_ns {
        return Err(Reason::Expired);
    }
    if headers.ipv4.time_to_live <= 1 {
        return Err(Reason::TimeToLive);
    }
    let carrier = u32::from(flow.aggregate);
    let aggregate = tables.aggregate(carrier).ok_or(Reason::Internal)?;
    let next_hop = tables.next_hop(u32::from(aggregate.next_hop)).ok_or(Reason::Internal)?;
    let port_index = next_hop.port().ok_or(Reason::NextHopUnresolved)?;
    let port = tables.port(port_index).ok_or(Reason::Internal)?;
    let tagged_length = total_length.checked_add(tag::HEADER_LENGTH).ok_or(Reason::TooBig)?;
    if u32::from(tagged_length) > port.mtu_bytes {
        return Err(Reason::TooBig);
    }
    let counted = total_length.max(flow.packet_bytes_min);
    if !charge_flow(tables, &flow.rate, &flow.due, flow.flags, coarse_ns, u64::from(counted)) {
        return Err(Reason::FlowOverRate);
    }
    let wire_bytes = u64::from(tagged_length);
    let share = charge_carrier(tables, carrier, wire_bytes, Reason::AggregateOverRate)?;
    let tagged = tag_headers(flow, aggregate, port, next_hop, headers, total_length);
    if frame.grow_head(tag::HEADER_BYTES).is_err() {
        share.tally.drop(wire_bytes);
        return Err(Reason::Internal);
    }
    let Some(place) = frame.at_mut::<TaggedHeaders>(0) else {
        share.tally.drop(wire_bytes);
        return Err(Reason::Internal);
    };
    *place = tagged;
    share.tally.pass(wire_bytes);
    Ok(port_index)
}

/// The headers of the tagged packet.
#[inline(always)]
fn tag_headers(
    flow: &Flow,
    aggregate: &Aggregate,
    port: &Port,
    next_hop: NextHop,
    headers: &Headers,
    total_length: u16,
) -> TaggedHeaders {
    let old = headers.ipv4;
    let tos = aggregate.tos | (old.tos & ipv4::ECN_MASK);
    let payload_bytes = total_length.wrapping_sub(IP_UDP_LENGTH);
    let ip_change = Change::folded(flow.ip_change).minus([old.version_ihl, old.tos]).plus([old.version_ihl, tos]);
    let udp_change = Change::folded(flow.udp_change).plus(payload_bytes.to_be_bytes());
    TaggedHeaders {
        headers: Headers {
            ethernet: ethernet::Header {
                destination: next_hop.mac(),
                source: mac_of_bits(port.mac_bits),
                ether_type: ethernet::IPV4,
            },
            ipv4: ipv4::Header {
                tos,
                total_length: U16::new(total_length.wrapping_add(tag::HEADER_LENGTH)),
                time_to_live: old.time_to_live.wrapping_sub(1),
                checksum: ip_change.apply(old.checksum),
                source: aggregate.local,
                destination: aggregate.peer,
                ..old
            },
            udp: udp::Header {
                source_port: flow.entropy_port,
                destination_port: aggregate.tag_port,
                length: U16::new(headers.udp.length.get().wrapping_add(tag::HEADER_LENGTH)),
                checksum: udp_change.apply_udp(headers.udp.checksum),
            },
        },
        tag: tag::Header(U64::new(tag::with_length(flow.tag, payload_bytes))),
    }
}

/// A packet of no admitted flow.
#[inline(always)]
fn unadmitted<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    ip: Option<ipv4::Header>,
    bytes: u64,
) -> Reason {
    // Groups are not routed: neighbour discovery, DHCP and routing protocols are between the site and the node.
    if frame.at::<ethernet::Header>(0).is_some_and(|header| header.destination[0] & ethernet::GROUP != 0) {
        return Reason::Local;
    }
    if let Some(ip) = ip {
        for local in config.local {
            if local == ip.destination && local != [0; 4] {
                return Reason::Local;
            }
        }
    }
    if config.unadmitted == UNADMITTED_DROP {
        return Reason::UnadmittedRefused;
    }
    if config.unadmitted == UNADMITTED_LIMIT {
        match charge_carrier(tables, config.best_effort, bytes, Reason::UnadmittedOverRate) {
            Ok(share) => share.tally.pass(bytes),
            Err(reason) => return reason,
        }
        // Reserved treatment is for admitted flows, whatever the sender wrote.
        if let Some(ip) = ip
            && let Some(place) = frame.at_mut::<ipv4::Header>(ipv4::OFFSET)
        {
            let tos = ip.tos & ipv4::ECN_MASK;
            let change = Change::NONE.minus([ip.version_ihl, ip.tos]).plus([ip.version_ihl, tos]);
            place.tos = tos;
            place.checksum = change.apply(ip.checksum);
        }
    }
    Reason::Unadmitted
}
