//! From the peers towards the site: check, meter, restore, deliver.

use zerocopy::network_endian::U16;

use crate::checksum::Change;
use crate::entry::{Config, LABEL_VALID, LabelEntry, PEERS_MAX, mac_of_bits};
use crate::frame::Frame;
use crate::meter::{charge_carrier, charge_flow};
use crate::tables::{Tables, count};
use crate::verdict::{Direction, Reason, Verdict};
use crate::wire::{Headers, TaggedHeaders, ethernet, ipv4, tag, udp};

/// Handles one frame that came from the WAN. Counts it once, under the reason for its verdict.
#[inline(always)]
pub fn inbound<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let bytes = frame.len().saturating_sub(ethernet::HEADER_BYTES) as u64;
    let (verdict, reason) = match decide(frame, tables, bytes) {
        Ok(port) => (Verdict::Redirect(port), Reason::Restored),
        Err(reason @ Reason::NotOurs) => (Verdict::Pass, reason),
        Err(reason) => (Verdict::Drop, reason),
    };
    if !count(tables, Direction::In, reason, bytes) {
        return Verdict::Drop;
    }
    verdict
}

/// The port that the restored frame leaves by, or why it does not.
#[inline(always)]
fn decide<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<u32, Reason> {
    let config = tables.config().ok_or(Reason::Internal)?;
    if frame.at::<ethernet::Header>(0).ok_or(Reason::NotOurs)?.ether_type != ethernet::IPV4 {
        return Err(Reason::NotOurs);
    }
    let ip = *frame.at::<ipv4::Header>(ipv4::OFFSET).ok_or(Reason::NotOurs)?;
    let fragment = ip.fragment.get();
    if ip.version_ihl != ipv4::VERSION_IHL
        || ip.protocol != ipv4::UDP
        || ip.destination != config.tag_address
        || fragment & ipv4::FRAGMENT_OFFSET_MASK != 0
    {
        return Err(Reason::NotOurs);
    }
    let udp = *frame.at::<udp::Header>(udp::OFFSET).ok_or(Reason::Truncated)?;
    if udp.destination_port != config.tag_port {
        return Err(Reason::NotOurs);
    }
    if fragment & ipv4::FRAGMENT_MASK != 0 {
        return Err(Reason::Fragment);
    }
    let total_length = ip.total_length.get();
    if u64::from(total_length) > bytes {
        return Err(Reason::Truncated);
    }
    let headers = *frame.at::<TaggedHeaders>(0).ok_or(Reason::Truncated)?;
    let value = headers.tag.0.get();
    if tag::version(value) != tag::VERSION {
        return Err(Reason::UnknownVersion);
    }
    if tag::kind(value) != tag::KIND_LABEL {
        return Err(Reason::UnknownKind);
    }
    let payload_bytes = tag::length(value);
    let udp_length = udp.length.get();
    if udp_length.checked_sub(tag::HEADER_LENGTH + udp::HEADER_LENGTH) != Some(payload_bytes)
        || total_length.checked_sub(ipv4::HEADER_LENGTH) != Some(udp_length)
    {
        return Err(Reason::BadLength);
    }
    let index = tag::index(value);
    let Some(label) = tables.label(index) else {
        return Err(refuse_label(config, ip.source, Reason::UnknownLabel));
    };
    let generation = tag::generation(value);
    if label.generation != generation | LABEL_VALID {
        // An entry that is not in force remembers whose it was last.
        let known = label.generation & LABEL_VALID != 0 || label.generation == generation && generation != 0;
        let reason = if known { Reason::StaleGeneration } else { Reason::UnknownLabel };
        return Err(refuse_label(config, ip.source, reason));
    }
    if label.peer != ip.source {
        return Err(refuse_label(config, ip.source, Reason::LabelOfOtherPeer));
    }
    let share = tables.label_share(index).ok_or(Reason::Internal)?;
    let inner_length = total_length - tag::HEADER_LENGTH;
    share.tally.offer(u64::from(inner_length));
    let delivered = deliver(frame, tables, config, label, &headers, total_length);
    share.tally.settle(u64::from(inner_length), delivered.is_ok());
    delivered
}

/// Who is no peer is a stranger, whatever else is wrong.
#[inline(always)]
fn refuse_label(config: &Config, source: [u8; 4], reason: Reason) -> Reason {
    for index in 0..PEERS_MAX {
        if index >= usize::from(config.peers_count) {
            break;
        }
        if config.peers[index] == source {
            return reason;
        }
    }
    Reason::Stranger
}

/// Meters and restores a flow's packet.
#[inline(always)]
fn deliver<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    label: &LabelEntry,
    tagged: &TaggedHeaders,
    total_length: u16,
) -> Result<u32, Reason> {
    let coarse_ns = tables.ticks() * config.tick_ns;
    if coarse_ns >= label.expires_ns {
        return Err(Reason::Expired);
    }
    let old = tagged.headers.ipv4;
    if old.time_to_live <= 1 {
        return Err(Reason::TimeToLive);
    }
    let inner_length = total_length - tag::HEADER_LENGTH;
    let next_hop = tables.next_hop(u32::from(label.next_hop)).ok_or(Reason::Internal)?;
    let port_index = next_hop.port().ok_or(Reason::NextHopUnresolved)?;
    let port = tables.port(port_index).ok_or(Reason::Internal)?;
    if u32::from(inner_length) > port.mtu_bytes {
        return Err(Reason::TooBig);
    }
    let counted = inner_length.max(label.packet_bytes_min);
    if !charge_flow(tables, &label.rate, &label.due, label.flags, coarse_ns, u64::from(counted)) {
        return Err(Reason::FlowOverRate);
    }
    let wire_bytes = u64::from(total_length);
    let share = charge_carrier(tables, u32::from(label.aggregate), wire_bytes, Reason::AggregateOverRate)?;
    let udp = tagged.headers.udp;
    let ip_change = Change::folded(label.ip_change);
    let udp_change =
        Change::folded(label.udp_change).minus(udp.source_port).minus(tag::length(tagged.tag.0.get()).to_be_bytes());
    let restored = Headers {
        ethernet: ethernet::Header {
            destination: next_hop.mac(),
            source: mac_of_bits(port.mac_bits),
            ether_type: ethernet::IPV4,
        },
        ipv4: ipv4::Header {
            total_length: U16::new(inner_length),
            time_to_live: old.time_to_live - 1,
            checksum: ip_change.apply(old.checksum),
            source: label.source,
            destination: label.destination,
            ..old
        },
        udp: udp::Header {
            source_port: label.source_port,
            destination_port: label.destination_port,
            length: U16::new(udp.length.get().wrapping_sub(tag::HEADER_LENGTH)),
            checksum: udp_change.apply_udp(udp.checksum),
        },
    };
    if frame.shrink_head(tag::HEADER_BYTES).is_err() {
        share.tally.drop(wire_bytes);
        return Err(Reason::Internal);
    }
    let Some(place) = frame.at_mut::<Headers>(0) else {
        share.tally.drop(wire_bytes);
        return Err(Reason::Internal);
    };
    *place = restored;
    share.tally.pass(wire_bytes);
    Ok(port_index)
}
