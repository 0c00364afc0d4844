//! From the site towards the peers: classify, meter, tag, send.

use zerocopy::network_endian::{U16, U32, U64};

use crate::checksum::Change;
use crate::classify::{Found, find_flow};
use crate::entry::{
    Aggregate, AggregateShare, Colour, Config, Flow, OUTER_V6, TERMINALS, UNADMITTED_DROP, UNADMITTED_LIMIT,
};
use crate::frame::{Frame, Wire};
use crate::meter::{FlowMeter, Size, charge_carrier, colour, forgotten};
use crate::parse::{Copied, Network, Packet, Parse, Parsed, link};
use crate::plain::outbound_plain;
use crate::tables::{Route, Tables, count};
use crate::verdict::{Detour, Direction, Reason, Stop, Verdict};
use crate::way::{Way, class, way};
use crate::wire::{ethernet, ipv4, ipv6, tag, udp};
use crate::write::{HOPS, Headers, Rewrite, Step, ipv4_from, ipv6_from, link_bytes, make_room, put, write_link};

/// Handles one frame that came from the site. Counts it once, under the reason for its verdict.
#[inline(always)]
pub fn outbound<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let verdict = outbound_plain(frame, tables)
        .or_else(|detour| if detour == Detour::OutV4 { outbound_v4(frame, tables) } else { Err(detour) });
    verdict.unwrap_or_else(|_| outbound_v6(frame, tables))
}

/// The part of [`outbound`] for everything but IPv6.
///
/// # Errors
/// It is IPv6.
#[inline(always)]
pub fn outbound_v4<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Detour> {
    let bytes = network_bytes(frame);
    let decided = decide_v4(frame, tables, bytes);
    finish(tables, bytes, decided)
}

/// The part of [`outbound`] for IPv6.
#[inline(always)]
pub fn outbound_v6<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let bytes = network_bytes(frame);
    let decided = decide_v6(frame, tables, bytes);
    finish(tables, bytes, decided).unwrap_or(Verdict::Drop)
}

#[inline(always)]
pub(crate) fn finish<T: Tables>(tables: &T, bytes: u64, decided: Result<Sent, Stop>) -> Result<Verdict, Detour> {
    let (verdict, reason) = match decided {
        Ok(Sent { port, by_route: false }) => (Verdict::Redirect(port), Reason::Tagged),
        Ok(Sent { port, by_route: true }) => (Verdict::Redirect(port), Reason::TaggedByRoute),
        Err(Stop::Reason(reason @ (Reason::Arp | Reason::Local | Reason::Unadmitted))) => (Verdict::Pass, reason),
        Err(Stop::Reason(reason)) => (Verdict::Drop, reason),
        Err(Stop::Detour(detour)) => return Err(detour),
    };
    if !count(tables, Direction::Out, reason, bytes) {
        return Ok(Verdict::Drop);
    }
    Ok(verdict)
}

/// Bytes behind the Ethernet header, as reasons count them.
#[inline(always)]
pub(crate) fn network_bytes<F: Frame>(frame: &F) -> u64 {
    frame.len().saturating_sub(ethernet::HEADER_BYTES) as u64
}

/// A packet that leaves.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) port: u32,
    pub(crate) by_route: bool,
}

#[inline(always)]
fn decide_v4<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<Sent, Stop> {
    let config = tables.config().ok_or(Reason::Internal)?;
    let link = link(frame, tables).ok_or(Reason::Truncated)?;
    match link.ether_type {
        ethernet::IPV4 => forward::<F, T, ipv4::Header>(frame, tables, config, link.bytes, bytes),
        ethernet::ARP => Err(Reason::Arp.into()),
        ethernet::IPV6 => Err(Stop::Detour(Detour::OutV6)),
        _ => Err(unadmitted::<F, T, ipv4::Header>(frame, tables, config, None, bytes).into()),
    }
}

#[inline(always)]
fn decide_v6<F: Frame, T: Tables>(frame: &mut F, tables: &T, bytes: u64) -> Result<Sent, Stop> {
    let config = tables.config().ok_or(Reason::Internal)?;
    let link = link(frame, tables).ok_or(Reason::Truncated)?;
    forward::<F, T, ipv6::Header>(frame, tables, config, link.bytes, bytes)
}

/// Sends a packet of an admitted flow; the others' policy decides on the rest.
#[inline(always)]
fn forward<F: Frame, T: Tables, H: Parse + Rewrite>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    at: usize,
    bytes: u64,
) -> Result<Sent, Stop> {
    let stray = 'stray: {
        let packet = match H::parse(frame, tables, at)? {
            Parsed::Udp(packet) => packet,
            Parsed::Fragment(header) => break 'stray Stray { header, at, fragment: true },
            Parsed::Other(header) => break 'stray Stray { header, at, fragment: false },
        };
        let found = find_flow(tables, config.hash_seed, config.bucket_mask, &*packet.header, &packet.udp);
        let Some(found) = found else {
            break 'stray Stray { header: packet.header, at, fragment: false };
        };
        let share = tables.flow_share(found.index).ok_or(Reason::Internal)?;
        let carried = carry(frame, tables, config, &found, &packet);
        share.account(u64::from(packet.total_length), carried.ok().map(|(_, colour)| colour));
        return Ok(carried?.0);
    };
    Err(unadmitted(frame, tables, config, Some(stray), bytes).into())
}

/// Meters and tags a flow's packet.
#[inline(always)]
fn carry<F: Frame, T: Tables, H: Rewrite>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    found: &Found<'_>,
    packet: &Packet<H>,
) -> Result<(Sent, Colour), Reason> {
    let flow = found.flow;
    let coarse_ns = tables.ticks() * config.tick_ns;
    if coarse_ns >= flow.expires_ns {
        return Err(Reason::Expired);
    }
    if packet.header.hops() <= 1 {
        return Err(Reason::TimeToLive);
    }
    let carrier = u32::from(flow.aggregate);
    let aggregate = tables.aggregate(carrier).ok_or(Reason::Internal)?;
    let outer_v6 = aggregate.flags & OUTER_V6 != 0;
    let form = Form::of(tables, packet, flow.tag);
    let wire_length = form.wire_length(packet, outer_v6).ok_or(Reason::TooBig)?;
    // What is rebuilt at the other end must be right here.
    if outer_v6 && !form.whole && !packet.header.is_intact() {
        return Err(Reason::BadChecksum);
    }
    let (source, destination) = (&aggregate.local, &aggregate.peer);
    let way = way(tables, aggregate.next_hop, || Route { source, destination, v6: outer_v6, class: aggregate.tos })?;
    if u32::from(wire_length) > way.port.mtu_bytes {
        return Err(Reason::TooBig);
    }
    let Flow { rate, due, flags, packet_bytes_min, .. } = flow;
    let meter = FlowMeter { rate, due, flags: *flags, packet_bytes_min: *packet_bytes_min };
    let extra_bytes = if form.whole { whole_extra_bytes::<H>(H::V6 != outer_v6) } else { 0 };
    let size = Size { length: packet.total_length, extra_bytes };
    let colour = colour(tables, meter, || tables.flow_detail(found.index), coarse_ns, size)?;
    let wire_bytes = u64::from(wire_length);
    let share = charge_carrier(tables, aggregate, carrier, colour, wire_bytes, Reason::AggregateOverRate)?;
    let colour = forgotten(tables, colour);
    let class = class(aggregate, &config.dscp_out, packet.header.class(), colour);
    let tagged = Tagged { found, aggregate, way: &way, form, class, wire_length };
    let written = if outer_v6 {
        tagged.write::<F, H, ipv6::Header>(frame, packet)
    } else {
        tagged.write::<F, H, ipv4::Header>(frame, packet)
    };
    settle(share, wire_bytes, written)?;
    Ok((Sent { port: way.port_index, by_route: way.by_route }, colour))
}

/// Ends an aggregate's account of a packet.
#[inline(always)]
pub(crate) fn settle(share: &AggregateShare, bytes: u64, written: Result<(), Reason>) -> Result<(), Reason> {
    share.tally.settle(bytes, written.is_ok());
    written
}

/// How a packet is tagged.
#[derive(Clone, Copy)]
struct Form {
    /// It travels whole, because there is more than headers can say.
    whole: bool,
    /// Bytes of the tag.
    tag_bytes: u16,
}

impl Form {
    #[inline(always)]
    fn of<T: Tables, H: Rewrite>(tables: &T, packet: &Packet<H>, tag: u64) -> Self {
        let whole = !packet.is_plain();
        let kind = if whole { tag::KIND_PACKET } else { tag::kind(tag) };
        let bytes = tag::bytes_of(kind).unwrap_or(tag::HEADER_LENGTH);
        #[allow(clippy::cast_possible_truncation, reason = "it was one")]
        let tag_bytes = tables.unknown(u64::from(bytes)) as u16;
        Self { whole, tag_bytes }
    }

    /// Bytes of the tagged IP packet; none if they are too many for its length field.
    #[inline(always)]
    fn wire_length<H: Rewrite>(self, packet: &Packet<H>, outer_v6: bool) -> Option<u16> {
        let outer = if outer_v6 { ipv6::HEADER_LENGTH } else { ipv4::HEADER_LENGTH };
        let kept = if self.whole {
            packet.total_length.checked_add(udp::HEADER_LENGTH)?
        } else {
            packet.total_length - H::BYTES
        };
        kept.checked_add(outer + self.tag_bytes)
    }
}

/// What a whole packet costs more than its flow was admitted for: the flow pays it, not its neighbours.
#[inline(always)]
pub(crate) const fn whole_extra_bytes<H: Network>(other_family: bool) -> u64 {
    // Its own headers are not replaced; the tag has no header word.
    let extra = H::BYTES + udp::HEADER_LENGTH;
    (if other_family { extra - 4 } else { extra }) as u64
}

/// A packet about to be tagged.
struct Tagged<'t> {
    found: &'t Found<'t>,
    aggregate: &'t Aggregate,
    way: &'t Way<'t>,
    form: Form,
    class: u8,
    wire_length: u16,
}

impl Tagged<'_> {
    #[inline(always)]
    fn write<F: Frame, H: Rewrite, O: Outer>(&self, frame: &mut F, packet: &Packet<H>) -> Result<(), Reason> {
        let Self { found, aggregate, way, form, class, wire_length } = *self;
        let link_bytes = link_bytes(way.port);
        let udp_at = link_bytes + usize::from(O::BYTES);
        let tag_at = udp_at + udp::HEADER_BYTES;
        let payload_at = tag_at + usize::from(form.tag_bytes);
        let replaced = if form.whole { packet.at } else { packet.udp_at + udp::HEADER_BYTES };
        let udp_length = wire_length - O::BYTES;
        let payload_length = udp_length - udp::HEADER_LENGTH - form.tag_bytes;
        let next_port = if found.next_port { tag::NEXT_PORT_VALUE } else { 0 };
        let flow = found.flow;
        let template = if form.whole { tag::for_packet(flow.tag) } else { flow.tag } | next_port;
        let word = packet.header.word();
        let checksum =
            if form.whole { [0, 0] } else { self.udp_change(payload_length, word).apply_udp(packet.udp.checksum) };
        let hops = if form.whole { HOPS } else { packet.header.hops().wrapping_sub(1) };
        let step = Step { class, total_length: wire_length, ip_change: flow.ip_change, hops };
        let headers = Headers {
            network: O::over(self, step, packet),
            udp: udp::Header {
                source_port: flow.entropy_port,
                destination_port: aggregate.tag_port,
                length: U16::new(udp_length),
                checksum,
            },
        };
        let ether_type = if O::V6 { ethernet::IPV6 } else { ethernet::IPV4 };
        make_room(frame, replaced, payload_at)?;
        write_link(frame, way.port, way.next_hop, ether_type)?;
        put(frame, link_bytes, headers)?;
        put(frame, tag_at, tag::Header(U64::new(tag::with_length(template, payload_length))))?;
        if form.whole {
            return packet.header.rewrite(
                frame,
                payload_at,
                packet.header.class(),
                packet.header.hops().wrapping_sub(1),
            );
        }
        if form.tag_bytes == tag::HEADER_LENGTH {
            return Ok(());
        }
        let word = U32::new(word);
        if flow.flags & TERMINALS == 0 {
            return put(frame, tag_at + tag::HEADER_BYTES, word);
        }
        packet.header.write_terminals(frame, tag_at + tag::HEADER_BYTES, word, &packet.udp)
    }

    /// What the UDP checksum changes by.
    #[inline(always)]
    fn udp_change(&self, payload_length: u16, word: u32) -> Change {
        let flow = self.found.flow;
        let mut change = Change::folded(flow.udp_change).plus(payload_length.to_be_bytes());
        if self.form.tag_bytes != tag::HEADER_LENGTH {
            change = change.plus_long(word.to_be_bytes());
        }
        if self.found.next_port {
            change = change.plus([tag::NEXT_PORT, 0]);
            if flow.flags & TERMINALS == 0 {
                change = change.minus([0, 1]).minus([0, 1]);
            }
        }
        change
    }
}

/// The network header of a tagged packet.
trait Outer: Network + Wire {
    fn over<H: Network>(tagged: &Tagged<'_>, step: Step, packet: &Packet<H>) -> Self;
}

impl Outer for ipv4::Header {
    #[inline(always)]
    fn over<H: Network>(tagged: &Tagged<'_>, step: Step, packet: &Packet<H>) -> Self {
        let ([.., a, b, c, d], [.., e, f, g, h]) = (tagged.aggregate.local, tagged.aggregate.peer);
        let (source, destination) = ([a, b, c, d], [e, f, g, h]);
        let word = u32::from(ipv4::DONT_FRAGMENT);
        if tagged.form.whole {
            let always = Change::NONE.plus([ipv4::VERSION_IHL, 0]).plus([0, ipv4::UDP]).plus_long(source);
            let ip_change = always.plus_long(destination).fold();
            return ipv4_from(None, Step { ip_change, ..step }, word, source, destination);
        }
        ipv4_from(packet.header.as_v4(), step, word, source, destination)
    }
}

impl Outer for ipv6::Header {
    #[inline(always)]
    fn over<H: Network>(tagged: &Tagged<'_>, step: Step, packet: &Packet<H>) -> Self {
        let kept = H::V6 && !tagged.form.whole;
        let entropy = u32::from(u16::from_be_bytes(tagged.found.flow.entropy_port));
        let flow_label = if kept { packet.header.word() } else { entropy };
        ipv6_from(step, flow_label, tagged.aggregate.local, tagged.aggregate.peer)
    }
}

/// A packet of no admitted flow.
pub(crate) struct Stray<H> {
    pub(crate) header: Copied<H>,
    pub(crate) at: usize,
    pub(crate) fragment: bool,
}

/// What becomes of a packet of no admitted flow.
#[inline(always)]
pub(crate) fn unadmitted<F: Frame, T: Tables, H: Rewrite>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    stray: Option<Stray<H>>,
    bytes: u64,
) -> Reason {
    // Groups are not routed: neighbour discovery, DHCP and routing protocols are between the site and the node.
    if frame.at::<ethernet::Header>(0).is_some_and(|header| header.destination[0] & ethernet::GROUP != 0) {
        return Reason::Local;
    }
    if let Some(Stray { header, fragment, .. }) = &stray {
        let destination = header.destination();
        for local in &config.local {
            if *local == destination {
                return Reason::Local;
            }
        }
        if *fragment && config.fragments_drop != 0 {
            return Reason::Fragment;
        }
    }
    if config.unadmitted == UNADMITTED_DROP {
        return Reason::UnadmittedRefused;
    }
    if config.unadmitted == UNADMITTED_LIMIT {
        let Some(aggregate) = tables.aggregate(config.best_effort) else { return Reason::Internal };
        let over_rate = Reason::UnadmittedOverRate;
        match charge_carrier(tables, aggregate, config.best_effort, Colour::Green, bytes, over_rate) {
            Ok(share) => share.tally.pass(bytes),
            Err(reason) => return reason,
        }
        // Reserved treatment is for admitted flows, whatever the sender wrote.
        if let Some(Stray { header, at, .. }) = stray
            && header.rewrite(frame, at, header.class() & ipv4::ECN_MASK, header.hops()).is_err()
        {
            return Reason::Internal;
        }
    }
    Reason::Unadmitted
}
