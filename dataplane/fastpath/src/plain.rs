//! The short way of plain packets, which most are: IPv4 without options and VLAN, carried over IPv4 by a label alone.
//!
//! It decides nothing in another way than [`crate::outbound_v4`] and [`crate::inbound_v4`] do, and what it is not sure of goes on to them; a test
//! holds it to that, frame by frame. What it has is its shape, which is what a packet costs: headers at places that are known, read
//! where they are used and not carried along, one check of bounds for all of them, and all tables asked before a word is written.

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Change;
use crate::classify::{FlowKey, look_up};
use crate::entry::{
    Aggregate, AggregateShare, Config, EVERY_PACKET, Flow, INNER_V6, LABEL_VALID, LabelEntry, NextHop, OUTER_V6, Port,
    TERMINALS, is_mapped, mapped,
};
use crate::frame::Frame;
use crate::inbound::{self, is_peer};
use crate::meter::{FlowMeter, charge_share, plain_colour};
use crate::outbound::{self, Sent, Stray, settle, unadmitted};
use crate::parse::Copied;
use crate::reception::observe;
use crate::tables::Tables;
use crate::verdict::{Detour, Reason, Stop, Verdict};
use crate::way::{Way, class, plain_way};
use crate::wire::{ethernet, ipv4, rtp, tag, udp, vlan};
use crate::write::Headers;

/// Network, UDP and tag headers.
const HEADERS_LENGTH: u16 = ipv4::HEADER_LENGTH + udp::HEADER_LENGTH;
/// By how much a packet grows on its way out.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "eight")]
const GROWTH: i32 = tag::HEADER_BYTES as i32;
/// Where the payload of a tagged packet is.
const PAYLOAD_AT: usize = size_of::<TaggedFrame>();

/// A packet from the site.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
struct PlainFrame {
    link: Link,
    headers: Headers<ipv4::Header>,
}

/// The same packet where a tag's room is before it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
struct RoomyFrame {
    room: [u8; tag::HEADER_BYTES],
    plain: PlainFrame,
}

/// A packet from a peer.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
struct TaggedFrame {
    link: Link,
    headers: Headers<ipv4::Header>,
    tag: tag::Header,
}

/// An Ethernet header in as few words as it can be written by.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
struct Link {
    /// The destination, and two bytes of the source.
    first: U64,
    /// The rest of the source.
    second: U32,
    ether_type: [u8; 2],
}

const _: () = assert!(size_of::<Link>() == ethernet::HEADER_BYTES);
const _: () = assert!(size_of::<RoomyFrame>() == size_of::<TaggedFrame>());

impl Link {
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
    const fn to(next_hop: NextHop, port: &Port) -> Self {
        let first = next_hop.0 << 16 | port.mac_bits >> 32;
        Self { first: U64::new(first), second: U32::new(port.mac_bits as u32), ether_type: ethernet::IPV4 }
    }
}

/// The part of [`crate::outbound`] for plain packets.
///
/// # Errors
/// Where the frame has to go on.
#[inline(always)]
pub fn outbound_plain<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Detour> {
    // A frame that is shorter goes on and is not counted here.
    let bytes = frame.len().wrapping_sub(ethernet::HEADER_BYTES) as u64;
    let decided = send(frame, tables, bytes);
    outbound::finish(tables, bytes, decided)
}

#[inline(always)]
fn send<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<Sent, Stop> {
    const ELSEWHERE: Stop = Stop::Detour(Detour::OutV4);
    let plain = frame.at::<PlainFrame>(0).ok_or(ELSEWHERE)?;
    let Headers { network: ip, udp } = &plain.headers;
    if plain.link.ether_type != ethernet::IPV4 {
        return Err(Stop::Detour(if plain.link.ether_type == ethernet::IPV6 { Detour::OutV6 } else { Detour::OutV4 }));
    }
    let total_length = ip.total_length.get();
    if ip.version_ihl != ipv4::VERSION_IHL || total_length < HEADERS_LENGTH || u64::from(total_length) > bytes {
        return Err(ELSEWHERE);
    }
    let config = tables.config().ok_or(ELSEWHERE)?;
    let fragment = ip.fragment.get() & ipv4::FRAGMENT_MASK != 0;
    if !fragment && ip.protocol == ipv4::UDP {
        if udp.length.get() != total_length - ipv4::HEADER_LENGTH {
            return Err(ELSEWHERE);
        }
        let key = FlowKey::of(ip, udp);
        if let Some((index, flow)) = look_up(tables, config.hash_seed, config.bucket_mask, &key)
            && flow.addresses == key.addresses
            && flow.ports == key.ports
        {
            if flow.flags & (INNER_V6 | TERMINALS) != 0 {
                return Err(ELSEWHERE);
            }
            let share = tables.flow_share(index).ok_or(ELSEWHERE)?;
            tables.touch(share);
            let carried = match admit(tables, config, flow, ip, total_length) {
                Ok(admitted) => {
                    let written = write_tagged(frame, config, flow, &admitted);
                    admitted.settle(written)
                }
                Err(Stop::Reason(reason)) => Err(reason),
                Err(Stop::Detour(detour)) => return Err(Stop::Detour(detour)),
            };
            share.account_plain(u64::from(total_length), carried.is_ok());
            return Ok(carried?);
        }
        // It may be on the next ports of a flow.
        if u16::from_be_bytes(udp.destination_port) & 1 != 0 {
            return Err(ELSEWHERE);
        }
    }
    let stray = Stray { header: Copied(*ip), at: ethernet::HEADER_BYTES, fragment };
    Err(unadmitted(frame, tables, config, Some(stray), bytes).into())
}

/// A packet that both meters let go.
struct Admitted<'t> {
    aggregate: &'t Aggregate,
    share: &'t AggregateShare,
    way: Way<'t>,
    /// Bytes of the tagged packet.
    wire_bytes: u64,
}

impl Admitted<'_> {
    /// Ends the aggregate's account of the packet.
    #[inline(always)]
    fn settle(&self, written: Result<(), Reason>) -> Result<Sent, Reason> {
        settle(self.share, self.wire_bytes, written)?;
        Ok(Sent { port: self.way.port_index, by_route: false })
    }
}

/// Meters a flow's packet from the site.
#[inline(always)]
fn admit<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    flow: &Flow,
    ip: &ipv4::Header,
    total_length: u16,
) -> Result<Admitted<'t>, Stop> {
    const ELSEWHERE: Stop = Stop::Detour(Detour::OutV4);
    let carrier = u32::from(flow.aggregate);
    let aggregate = tables.aggregate(carrier).ok_or(ELSEWHERE)?;
    let share = tables.aggregate_share(carrier).ok_or(ELSEWHERE)?;
    tables.touch(share);
    if aggregate.flags & OUTER_V6 != 0 {
        return Err(ELSEWHERE);
    }
    let way = plain_way(tables, aggregate.next_hop, Detour::OutV4)?;
    let coarse_ns = tables.ticks() * config.tick_ns;
    if coarse_ns >= flow.expires_ns {
        return Err(Reason::Expired.into());
    }
    if ip.time_to_live <= 1 {
        return Err(Reason::TimeToLive.into());
    }
    let wire_bytes = u64::from(total_length) + u64::from(tag::HEADER_LENGTH);
    if wire_bytes > u64::from(way.port.mtu_bytes) {
        return Err(Reason::TooBig.into());
    }
    let Flow { rate, due, flags, packet_bytes_min, .. } = flow;
    let meter = FlowMeter { rate, due, flags: *flags, packet_bytes_min: *packet_bytes_min };
    let counted = u64::from(total_length.max(*packet_bytes_min));
    let colour = plain_colour(tables, meter, coarse_ns, counted, Detour::OutV4)?;
    charge_share(tables, aggregate, carrier, share, colour, wire_bytes, Reason::AggregateOverRate)?;
    Ok(Admitted { aggregate, share, way, wire_bytes })
}

#[inline(always)]
fn write_tagged<F: Frame>(frame: &mut F, config: &Config, flow: &Flow, admitted: &Admitted<'_>) -> Result<(), Reason> {
    let Admitted { aggregate, ref way, .. } = *admitted;
    frame.grow_head(GROWTH).map_err(|_| Reason::Internal)?;
    let Headers { network: old, udp } = frame.at::<RoomyFrame>(0).ok_or(Reason::Internal)?.plain.headers;
    let total_length = old.total_length.get();
    let payload_length = total_length.wrapping_sub(HEADERS_LENGTH);
    let change = Change::folded(flow.udp_change).plus(payload_length.to_be_bytes());
    let ([.., a, b, c, d], [.., e, f, g, h]) = (aggregate.local, aggregate.peer);
    let class = class(aggregate, &config.dscp_out, old.tos, crate::entry::Colour::Green);
    *frame.at_mut(0).ok_or(Reason::Internal)? = TaggedFrame {
        link: Link::to(way.next_hop, way.port),
        headers: Headers {
            network: step(
                old,
                class,
                total_length.wrapping_add(tag::HEADER_LENGTH),
                flow.ip_change,
                [a, b, c, d],
                [e, f, g, h],
            ),
            udp: udp::Header {
                source_port: flow.entropy_port,
                destination_port: aggregate.tag_port,
                length: U16::new(payload_length.wrapping_add(udp::HEADER_LENGTH + tag::HEADER_LENGTH)),
                checksum: change.apply_udp(udp.checksum),
            },
        },
        tag: tag::Header(U64::new(tag::with_length(flow.tag, payload_length))),
    };
    Ok(())
}

/// The network header of a packet that has gone one hop.
#[inline(always)]
fn step(
    old: ipv4::Header,
    class: u8,
    total_length: u16,
    ip_change: u16,
    source: [u8; 4],
    destination: [u8; 4],
) -> ipv4::Header {
    // Growth, hop and addresses are in `ip_change`.
    let change = Change::folded(ip_change).minus([0, old.tos]).plus([0, class]);
    ipv4::Header {
        version_ihl: ipv4::VERSION_IHL,
        tos: class,
        total_length: U16::new(total_length),
        time_to_live: old.time_to_live.wrapping_sub(1),
        protocol: ipv4::UDP,
        checksum: change.apply(old.checksum),
        source,
        destination,
        ..old
    }
}

/// The part of [`crate::inbound`] for plain packets.
///
/// # Errors
/// Where the frame has to go on.
#[inline(always)]
pub fn inbound_plain<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Detour> {
    // A frame that is shorter goes on and is not counted here.
    let bytes = frame.len().wrapping_sub(ethernet::HEADER_BYTES) as u64;
    let decided = receive(frame, tables, bytes);
    inbound::finish(tables, bytes, decided)
}

#[inline(always)]
fn receive<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<Sent, Stop> {
    const ELSEWHERE: Stop = Stop::Detour(Detour::InV4);
    let tagged = frame.at::<TaggedFrame>(0).ok_or(ELSEWHERE)?;
    let Headers { network: outer, udp } = &tagged.headers;
    let ether_type = tagged.link.ether_type;
    if ether_type != ethernet::IPV4 {
        let in_vlan = ether_type == vlan::CUSTOMER || ether_type == vlan::SERVICE;
        return Err(match ether_type == ethernet::IPV6 {
            true => Stop::Detour(Detour::InV6),
            false if in_vlan => ELSEWHERE,
            false => Reason::NotOurs.into(),
        });
    }
    let config = tables.config().ok_or(ELSEWHERE)?;
    if outer.destination != config.tag_address_v4
        || outer.version_ihl != ipv4::VERSION_IHL
        || outer.protocol != ipv4::UDP
        || outer.fragment.get() & ipv4::FRAGMENT_OFFSET_MASK != 0
        || udp.destination_port != config.tag_port
    {
        return Err(Reason::NotOurs.into());
    }
    let total_length = u32::from(outer.total_length.get());
    let tag = tagged.tag.0.get();
    if tag >> 56 != u64::from(tag::VERSION << 4 | tag::KIND_LABEL)
        || outer.fragment.get() & ipv4::FRAGMENT_MASK != 0
        || u64::from(total_length) > bytes
        || u32::from(udp.length.get()) + u32::from(ipv4::HEADER_LENGTH) != total_length
        || u32::from(tag::length(tag)) + u32::from(HEADERS_LENGTH + tag::HEADER_LENGTH) != total_length
    {
        return Err(ELSEWHERE);
    }
    let index = tag::index(tag);
    let refused = 'refused: {
        let Some(label) = tables.label(index) else {
            break 'refused Reason::UnknownLabel;
        };
        let share = tables.label_share(index).ok_or(ELSEWHERE)?;
        let reception = tables.reception(index).ok_or(ELSEWHERE)?;
        tables.touch(share);
        tables.touch(reception);
        let generation = tag::generation(tag);
        if label.generation != generation | LABEL_VALID {
            // An entry that is not in force remembers whose it was last.
            let known = label.generation & LABEL_VALID != 0 || label.generation == generation && generation != 0;
            break 'refused if known { Reason::StaleGeneration } else { Reason::UnknownLabel };
        }
        let aggregate = tables.aggregate(u32::from(label.aggregate)).ok_or(ELSEWHERE)?;
        if !is_mapped(&aggregate.peer, outer.source) {
            break 'refused Reason::LabelOfOtherPeer;
        }
        if label.flags & (TERMINALS | INNER_V6) != 0 {
            return Err(ELSEWHERE);
        }
        let inner_bytes = u64::from(total_length) - u64::from(tag::HEADER_LENGTH);
        let delivered = match accept(tables, config, label, aggregate, outer, inner_bytes) {
            Ok(admitted) => {
                // What follows the packet in its frame is not its payload.
                let is_long = inner_bytes >= u64::from(HEADERS_LENGTH + rtp::HEADER_LENGTH);
                let rtp = if is_long { frame.at::<rtp::Header>(PAYLOAD_AT) } else { None };
                observe(tables, reception, rtp, label.clock_factor, label.flags & EVERY_PACKET != 0);
                let written = write_restored(frame, config, label, &admitted);
                admitted.settle(written)
            }
            Err(Stop::Reason(reason)) => Err(reason),
            Err(Stop::Detour(detour)) => return Err(Stop::Detour(detour)),
        };
        share.account_plain(inner_bytes, delivered.is_ok());
        return Ok(delivered?);
    };
    // Who is no peer is a stranger, whatever else is wrong.
    Err(Stop::Reason(if is_peer(config, &mapped(outer.source)) { refused } else { Reason::Stranger }))
}

/// Meters a flow's packet from a peer.
#[inline(always)]
fn accept<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    label: &LabelEntry,
    aggregate: &'t Aggregate,
    outer: &ipv4::Header,
    inner_bytes: u64,
) -> Result<Admitted<'t>, Stop> {
    const ELSEWHERE: Stop = Stop::Detour(Detour::InV4);
    let carrier = u32::from(label.aggregate);
    let share = tables.aggregate_share(carrier).ok_or(ELSEWHERE)?;
    tables.touch(share);
    let way = plain_way(tables, label.next_hop, Detour::InV4)?;
    let coarse_ns = tables.ticks() * config.tick_ns;
    if coarse_ns >= label.expires_ns {
        return Err(Reason::Expired.into());
    }
    if outer.time_to_live <= 1 {
        return Err(Reason::TimeToLive.into());
    }
    if inner_bytes > u64::from(way.port.mtu_bytes) {
        return Err(Reason::TooBig.into());
    }
    let LabelEntry { rate, due, flags, packet_bytes_min, .. } = label;
    let meter = FlowMeter { rate, due, flags: *flags, packet_bytes_min: *packet_bytes_min };
    let counted = inner_bytes.max(u64::from(*packet_bytes_min));
    let colour = plain_colour(tables, meter, coarse_ns, counted, Detour::InV4)?;
    let wire_bytes = inner_bytes + u64::from(tag::HEADER_LENGTH);
    charge_share(tables, aggregate, carrier, share, colour, wire_bytes, Reason::AggregateOverRate)?;
    Ok(Admitted { aggregate, share, way, wire_bytes })
}

#[inline(always)]
fn write_restored<F: Frame>(
    frame: &mut F,
    config: &Config,
    label: &LabelEntry,
    admitted: &Admitted<'_>,
) -> Result<(), Reason> {
    let Admitted { aggregate, ref way, .. } = *admitted;
    let Headers { network: old, udp } = frame.at::<TaggedFrame>(0).ok_or(Reason::Internal)?.headers;
    let LabelEntry { source, destination, source_port, destination_port, ip_change, udp_change, .. } = *label;
    let total_length = old.total_length.get();
    let payload_length = total_length.wrapping_sub(HEADERS_LENGTH + tag::HEADER_LENGTH);
    let change = Change::folded(udp_change).minus(udp.source_port).minus(payload_length.to_be_bytes());
    let class = class(aggregate, &config.dscp_in, old.tos, crate::entry::Colour::Green);
    frame.at_mut::<RoomyFrame>(0).ok_or(Reason::Internal)?.plain = PlainFrame {
        link: Link::to(way.next_hop, way.port),
        headers: Headers {
            network: step(old, class, total_length.wrapping_sub(tag::HEADER_LENGTH), ip_change, source, destination),
            udp: udp::Header {
                source_port,
                destination_port,
                length: U16::new(payload_length.wrapping_add(udp::HEADER_LENGTH)),
                checksum: change.apply_udp(udp.checksum),
            },
        },
    };
    frame.grow_head(-GROWTH).map_err(|_| Reason::Internal)
}
