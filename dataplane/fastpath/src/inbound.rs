//! From the peers towards the site: check, meter, restore, deliver.

use zerocopy::network_endian::U16;

use crate::checksum::Change;
use crate::entry::{
    Aggregate, Colour, Config, Detail, EVERY_PACKET, INNER_V6, LABEL_VALID, LabelEntry, PEERS_MAX, RTCP_NEXT_PORT,
    TERMINALS, mapped,
};
use crate::frame::{Frame, Wire};
use crate::meter::{FlowMeter, Size, charge_carrier, colour, forgotten};
use crate::outbound::{Sent, network_bytes, outbound, settle, whole_extra_bytes};
use crate::parse::{Copied, Network, Packet, Parse, Parsed, link};
use crate::plain::inbound_plain;
use crate::reception::observe;
use crate::tables::{Route, Tables, count};
use crate::verdict::{Detour, Direction, Reason, Stop, Verdict};
use crate::way::{Way, class, way};
use crate::wire::{ethernet, ipv4, ipv6, rtp, tag, udp};
use crate::write::{Headers, Rewrite, Step, ipv4_from, ipv6_from, link_bytes, make_room, put, write_link};

/// Handles one frame that came from the WAN. Counts it once, under the reason for its verdict.
#[inline(always)]
pub fn inbound<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let verdict = inbound_plain(frame, tables)
        .or_else(|detour| if detour == Detour::InV4 { inbound_v4(frame, tables) } else { Err(detour) });
    verdict.unwrap_or_else(|_| inbound_v6(frame, tables))
}

/// The part of [`inbound`] for everything but packets tagged in IPv6.
///
/// # Errors
/// It is IPv6.
#[inline(always)]
pub fn inbound_v4<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Detour> {
    let bytes = network_bytes(frame);
    let decided = decide_v4(frame, tables);
    finish(tables, bytes, decided)
}

/// The part of [`inbound`] for packets tagged in IPv6.
#[inline(always)]
pub fn inbound_v6<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let bytes = network_bytes(frame);
    let decided = decide_v6(frame, tables);
    finish(tables, bytes, decided).unwrap_or(Verdict::Drop)
}

/// Handles one frame at a port that is both the site's and the WAN's: what is not tagged for this node comes from the site. Counts it once.
#[inline(always)]
pub fn both<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    if is_tagged(frame, tables) { inbound(frame, tables) } else { outbound(frame, tables) }
}

/// Whether [`inbound`] has something to do with a frame.
#[inline(always)]
pub fn is_tagged<F: Frame, T: Tables>(frame: &F, tables: &T) -> bool {
    let Some((config, link)) = tables.config().zip(link(frame, tables)) else { return false };
    match link.ether_type {
        ethernet::IPV4 => is_to_tag_port::<F, ipv4::Header>(frame, config, link.bytes),
        ethernet::IPV6 => is_to_tag_port::<F, ipv6::Header>(frame, config, link.bytes),
        _ => false,
    }
}

#[inline(always)]
fn is_to_tag_port<F: Frame, O: Outer>(frame: &F, config: &Config, at: usize) -> bool {
    let udp_at = at + usize::from(O::BYTES);
    let to_port = |udp: &udp::Header| udp.destination_port == config.tag_port;
    // What ends before its port is `inbound`'s: it counts that.
    frame.at::<O>(at).is_some_and(|outer| outer.is_ours(config)) && frame.at(udp_at).is_none_or(to_port)
}

#[inline(always)]
pub(crate) fn finish<T: Tables>(tables: &T, bytes: u64, decided: Result<Sent, Stop>) -> Result<Verdict, Detour> {
    let (verdict, reason) = match decided {
        Ok(Sent { port, by_route: false }) => (Verdict::Redirect(port), Reason::Restored),
        Ok(Sent { port, by_route: true }) => (Verdict::Redirect(port), Reason::RestoredByRoute),
        Err(Stop::Reason(reason @ Reason::NotOurs)) => (Verdict::Pass, reason),
        Err(Stop::Reason(reason)) => (Verdict::Drop, reason),
        Err(Stop::Detour(detour)) => return Err(detour),
    };
    if !count(tables, Direction::In, reason, bytes) {
        return Ok(Verdict::Drop);
    }
    Ok(verdict)
}

#[inline(always)]
fn decide_v4<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Sent, Stop> {
    let config = tables.config().ok_or(Reason::Internal)?;
    let link = link(frame, tables).ok_or(Reason::NotOurs)?;
    match link.ether_type {
        ethernet::IPV4 => receive::<F, T, ipv4::Header>(frame, tables, config, link.bytes),
        ethernet::IPV6 => Err(Stop::Detour(Detour::InV6)),
        _ => Err(Reason::NotOurs.into()),
    }
}

#[inline(always)]
fn decide_v6<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Sent, Stop> {
    let config = tables.config().ok_or(Reason::Internal)?;
    let link = link(frame, tables).ok_or(Reason::NotOurs)?;
    receive::<F, T, ipv6::Header>(frame, tables, config, link.bytes)
}

/// The network header of a tagged packet.
trait Outer: Network + Wire {
    /// Whether it is a UDP packet to the tag address, or the first fragment of one.
    fn is_ours(&self, config: &Config) -> bool;
    /// Whether it is a fragment.
    fn is_fragment(&self) -> bool;
    /// Bytes of the packet; none if they cannot be.
    fn total_length(&self) -> Option<u16>;
}

impl Outer for ipv4::Header {
    #[inline(always)]
    fn is_ours(&self, config: &Config) -> bool {
        self.version_ihl == ipv4::VERSION_IHL
            && self.protocol == ipv4::UDP
            && self.destination == config.tag_address_v4
            && self.fragment.get() & ipv4::FRAGMENT_OFFSET_MASK == 0
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        self.fragment.get() & ipv4::FRAGMENT_MASK != 0
    }

    #[inline(always)]
    fn total_length(&self) -> Option<u16> {
        Some(self.total_length.get())
    }
}

impl Outer for ipv6::Header {
    #[inline(always)]
    fn is_ours(&self, config: &Config) -> bool {
        self.first.get() >> 28 == 6 && self.next_header == ipv4::UDP && self.destination == config.tag_address_v6
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        false
    }

    #[inline(always)]
    fn total_length(&self) -> Option<u16> {
        self.payload_length.get().checked_add(ipv6::HEADER_LENGTH)
    }
}

/// A packet with a tag whose label is in force and its sender's.
struct Tagged<'t, O> {
    outer: Copied<O>,
    udp: Copied<udp::Header>,
    tag_at: usize,
    tag: u64,
    tag_bytes: u16,
    total_length: u16,
    index: u32,
    label: &'t LabelEntry,
    aggregate: &'t Aggregate,
}

#[inline(always)]
fn receive<F: Frame, T: Tables, O: Outer>(frame: &mut F, tables: &T, config: &Config, at: usize) -> Result<Sent, Stop> {
    let outer = Copied(*frame.at::<O>(at).ok_or(Reason::NotOurs)?);
    if !outer.is_ours(config) {
        return Err(Reason::NotOurs.into());
    }
    let udp_at = at + usize::from(O::BYTES);
    let udp = Copied(*frame.at::<udp::Header>(udp_at).ok_or(Reason::Truncated)?);
    if udp.destination_port != config.tag_port {
        return Err(Reason::NotOurs.into());
    }
    if outer.is_fragment() {
        return Err(Reason::Fragment.into());
    }
    let total_length = outer.total_length().ok_or(Reason::Truncated)?;
    if at + usize::from(total_length) > frame.len() {
        return Err(Reason::Truncated.into());
    }
    let tag_at = udp_at + udp::HEADER_BYTES;
    let tag = frame.at::<tag::Header>(tag_at).ok_or(Reason::Truncated)?.0.get();
    if tag::version(tag) != tag::VERSION {
        return Err(Reason::UnknownVersion.into());
    }
    let tag_bytes = tag::bytes_of(tag::kind(tag)).ok_or(Reason::UnknownKind)?;
    #[allow(clippy::cast_possible_truncation, reason = "it was one")]
    let tag_bytes = tables.unknown(u64::from(tag_bytes)) as u16;
    let udp_length = udp.length.get();
    if udp_length.checked_sub(tag_bytes + udp::HEADER_LENGTH) != Some(tag::length(tag))
        || total_length.checked_sub(O::BYTES) != Some(udp_length)
    {
        return Err(Reason::BadLength.into());
    }
    let index = tag::index(tag);
    let refused = 'refused: {
        let Some(label) = tables.label(index) else {
            break 'refused Reason::UnknownLabel;
        };
        let generation = tag::generation(tag);
        if label.generation != generation | LABEL_VALID {
            // An entry that is not in force remembers whose it was last.
            let known = label.generation & LABEL_VALID != 0 || label.generation == generation && generation != 0;
            break 'refused if known { Reason::StaleGeneration } else { Reason::UnknownLabel };
        }
        let aggregate = tables.aggregate(u32::from(label.aggregate)).ok_or(Reason::Internal)?;
        if aggregate.peer != outer.source() {
            break 'refused Reason::LabelOfOtherPeer;
        }
        let tagged = Tagged { outer, udp, tag_at, tag, tag_bytes, total_length, index, label, aggregate };
        let inner_v6 = if label.flags & TERMINALS == 0 {
            label.flags & INNER_V6 != 0
        } else if tag::kind(tag) == tag::KIND_PACKET {
            frame.at::<u8>(tag_at + tag::HEADER_BYTES).is_some_and(|first| first >> 4 == 6)
        } else {
            tag::kind(tag) == tag::KIND_TERMINALS_V6
        };
        return if inner_v6 {
            tagged.deliver::<F, T, ipv6::Header>(frame, tables, config)
        } else {
            tagged.deliver::<F, T, ipv4::Header>(frame, tables, config)
        };
    };
    // Who is no peer is a stranger, whatever else is wrong.
    Err(Stop::Reason(if is_peer(config, &outer.source()) { refused } else { Reason::Stranger }))
}

#[inline(always)]
pub(crate) fn is_peer(config: &Config, source: &[u8; 16]) -> bool {
    for index in 0..PEERS_MAX {
        if index >= usize::from(config.peers_count) {
            break;
        }
        if config.peers[index] == *source {
            return true;
        }
    }
    false
}

/// The ends of a packet that is restored.
#[derive(Clone, Copy, PartialEq)]
#[repr(C, align(8))]
struct Ends<A> {
    source: A,
    destination: A,
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// The network header of a packet that is restored.
trait Inner: Parse + Rewrite + Wire {
    type Address: Copy + PartialEq;
    type Terminals: Wire;
    /// The kind of tag that tells its terminals.
    const TERMINALS: u8;

    /// The ends of the label's flow.
    fn ends<'t>(label: &LabelEntry, detail: impl FnOnce() -> Option<&'t Detail>) -> Option<Ends<Self::Address>>;
    /// Header word and ends that stand in a tag.
    fn told(terminals: &Self::Terminals) -> (u32, Ends<Self::Address>);
    /// The packet's own ends.
    fn own(packet: &Packet<Self>) -> Ends<Self::Address>;
    /// Adds the addresses to a sum that the network header's checksum is made of.
    fn summed(change: Change, ends: &Ends<Self::Address>) -> Change;
    /// Whether a header word can be one of a whole packet.
    fn is_whole(word: u32) -> bool;
    fn wide(address: Self::Address) -> [u8; 16];
    /// The header that follows from the outer one.
    fn restored<O: Outer>(outer: &O, step: Step, word: u32, ends: &Ends<Self::Address>) -> Self;
}

impl Inner for ipv4::Header {
    type Address = [u8; 4];
    type Terminals = tag::TerminalsV4;
    const TERMINALS: u8 = tag::KIND_TERMINALS_V4;

    #[inline(always)]
    fn ends<'t>(label: &LabelEntry, _: impl FnOnce() -> Option<&'t Detail>) -> Option<Ends<[u8; 4]>> {
        let LabelEntry { source, destination, source_port, destination_port, .. } = *label;
        Some(Ends { source, destination, source_port, destination_port })
    }

    #[inline(always)]
    fn told(terminals: &tag::TerminalsV4) -> (u32, Ends<[u8; 4]>) {
        let tag::TerminalsV4 { word, source, destination, source_port, destination_port } = *terminals;
        (word.get(), Ends { source, destination, source_port, destination_port })
    }

    #[inline(always)]
    fn own(packet: &Packet<Self>) -> Ends<[u8; 4]> {
        let Self { source, destination, .. } = *packet.header;
        let udp::Header { source_port, destination_port, .. } = *packet.udp;
        Ends { source, destination, source_port, destination_port }
    }

    #[inline(always)]
    fn summed(change: Change, ends: &Ends<[u8; 4]>) -> Change {
        change.plus_long(ends.source).plus_long(ends.destination)
    }

    #[inline(always)]
    fn is_whole(word: u32) -> bool {
        word & u32::from(ipv4::FRAGMENT_MASK) == 0
    }

    #[inline(always)]
    fn wide(address: [u8; 4]) -> [u8; 16] {
        mapped(address)
    }

    #[inline(always)]
    fn restored<O: Outer>(outer: &O, step: Step, word: u32, ends: &Ends<[u8; 4]>) -> Self {
        ipv4_from(outer.as_v4(), step, word, ends.source, ends.destination)
    }
}

impl Inner for ipv6::Header {
    type Address = [u8; 16];
    type Terminals = tag::TerminalsV6;
    const TERMINALS: u8 = tag::KIND_TERMINALS_V6;

    #[inline(always)]
    fn ends<'t>(label: &LabelEntry, detail: impl FnOnce() -> Option<&'t Detail>) -> Option<Ends<[u8; 16]>> {
        let LabelEntry { source_port, destination_port, .. } = *label;
        let Detail { source, destination, .. } = *detail()?;
        Some(Ends { source, destination, source_port, destination_port })
    }

    #[inline(always)]
    fn told(terminals: &tag::TerminalsV6) -> (u32, Ends<[u8; 16]>) {
        let tag::TerminalsV6 { word, source, destination, source_port, destination_port } = *terminals;
        (word.get(), Ends { source, destination, source_port, destination_port })
    }

    #[inline(always)]
    fn own(packet: &Packet<Self>) -> Ends<[u8; 16]> {
        let Self { source, destination, .. } = *packet.header;
        let udp::Header { source_port, destination_port, .. } = *packet.udp;
        Ends { source, destination, source_port, destination_port }
    }

    #[inline(always)]
    fn summed(change: Change, _: &Ends<[u8; 16]>) -> Change {
        change
    }

    #[inline(always)]
    fn is_whole(_: u32) -> bool {
        true
    }

    #[inline(always)]
    fn wide(address: [u8; 16]) -> [u8; 16] {
        address
    }

    #[inline(always)]
    fn restored<O: Outer>(outer: &O, step: Step, word: u32, ends: &Ends<[u8; 16]>) -> Self {
        let flow_label = if O::V6 { outer.word() } else { word };
        ipv6_from(step, flow_label, ends.source, ends.destination)
    }
}

/// What stands behind the tag: a payload, or a whole packet. Every field is set either way, because kernels before 6.3 refuse a program that
/// might read a word of its stack that one way left unset.
struct Chunk<A> {
    /// Where the payload begins.
    payload_at: usize,
    /// What the packet's ends are.
    ends: Ends<A>,
    /// The header word; zero where there is none.
    word: u32,
    /// DSCP and ECN as they arrived.
    class: u8,
    /// Hops left as they arrived.
    hops: u8,
}

impl<O: Outer> Tagged<'_, O> {
    /// Counts, meters and restores a flow's packet.
    #[inline(always)]
    fn deliver<F: Frame, T: Tables, H: Inner>(&self, frame: &mut F, tables: &T, config: &Config) -> Result<Sent, Stop> {
        let payload_length = tag::length(self.tag);
        let whole = tag::kind(self.tag) == tag::KIND_PACKET;
        let headers = if whole { 0 } else { H::BYTES + udp::HEADER_LENGTH };
        let inner_length = payload_length.checked_add(headers).ok_or(Reason::BadLength)?;
        let share = tables.label_share(self.index).ok_or(Reason::Internal)?;
        let restored = self.restore::<F, T, H>(frame, tables, config, inner_length);
        share.account(u64::from(inner_length), restored.ok().map(|(_, colour)| colour));
        Ok(restored?.0)
    }

    #[inline(always)]
    fn restore<F: Frame, T: Tables, H: Inner>(
        &self,
        frame: &mut F,
        tables: &T,
        config: &Config,
        inner_length: u16,
    ) -> Result<(Sent, Colour), Reason> {
        let Self { ref outer, label, aggregate, .. } = *self;
        let coarse_ns = tables.ticks() * config.tick_ns;
        if coarse_ns >= label.expires_ns {
            return Err(Reason::Expired);
        }
        let whole = tag::kind(self.tag) == tag::KIND_PACKET;
        let Chunk { payload_at, ends, word, class: old_class, hops: old_hops } =
            self.chunk::<F, T, H>(frame, tables, inner_length)?;
        if old_hops <= 1 {
            return Err(Reason::TimeToLive);
        }
        let (source, destination) = (H::wide(ends.source), H::wide(ends.destination));
        let way = way(tables, label.next_hop, || Route {
            source: &source,
            destination: &destination,
            v6: H::V6,
            class: old_class,
        })?;
        // A peer may name any terminal, but only of the site.
        if label.flags & TERMINALS != 0 && !way.port.is_lan() {
            return Err(Reason::NoTerminal);
        }
        if u32::from(inner_length) > way.port.mtu_bytes {
            return Err(Reason::TooBig);
        }
        let LabelEntry { rate, due, flags, packet_bytes_min, .. } = label;
        let meter = FlowMeter { rate, due, flags: *flags, packet_bytes_min: *packet_bytes_min };
        let extra_bytes = if whole { whole_extra_bytes::<H>(H::V6 != O::V6) } else { 0 };
        let size = Size { length: inner_length, extra_bytes: tables.unknown(extra_bytes) };
        let colour = colour(tables, meter, || tables.label_detail(self.index), coarse_ns, size)?;
        let wire_bytes = u64::from(self.total_length);
        let carrier = u32::from(label.aggregate);
        let share = charge_carrier(tables, aggregate, carrier, colour, wire_bytes, Reason::AggregateOverRate)?;
        let colour = forgotten(tables, colour);
        if label.flags & TERMINALS == 0 && !tag::next_port(self.tag) {
            self.observe(frame, tables, payload_at);
        }
        let class = class(aggregate, &config.dscp_in, old_class, colour);
        let hops = old_hops.wrapping_sub(1);
        let written = if whole {
            self.unwrap::<F, H>(frame, &way, class, hops)
        } else {
            let step = Step { class, total_length: inner_length, ip_change: self.ip_change::<H>(&ends), hops };
            let headers = Headers {
                network: H::restored(&**outer, step, word, &ends),
                udp: udp::Header {
                    source_port: ends.source_port,
                    destination_port: ends.destination_port,
                    length: U16::new(inner_length.wrapping_sub(H::BYTES)),
                    checksum: self.udp_change(word).apply_udp(self.udp.checksum),
                },
            };
            self.write(frame, &way, headers)
        };
        settle(share, wire_bytes, written)?;
        Ok((Sent { port: way.port_index, by_route: way.by_route && label.flags & TERMINALS == 0 }, colour))
    }

    /// Takes note of a packet that is delivered. What follows the packet in its frame is not its payload.
    #[inline(always)]
    fn observe<F: Frame, T: Tables>(&self, frame: &F, tables: &T, payload_at: usize) {
        let Some(reception) = tables.reception(self.index) else { return };
        let end = self.tag_at + usize::from(self.tag_bytes) + usize::from(tag::length(self.tag));
        let rtp = if payload_at + rtp::HEADER_BYTES <= end { frame.at::<rtp::Header>(payload_at) } else { None };
        let LabelEntry { clock_factor, flags, .. } = *self.label;
        observe(tables, reception, rtp, clock_factor, flags & EVERY_PACKET != 0);
    }

    /// What stands behind the tag, if the label's flow may have it there.
    #[inline(always)]
    fn chunk<F: Frame, T: Tables, H: Inner>(
        &self,
        frame: &F,
        tables: &T,
        inner_length: u16,
    ) -> Result<Chunk<H::Address>, Reason> {
        let Self { label, tag, tag_at, .. } = *self;
        let (kind, behind) = (tag::kind(tag), tag_at + tag::HEADER_BYTES);
        let payload = |word, ends| {
            let (class, hops) = (self.outer.class(), self.outer.hops());
            Ok(Chunk { payload_at: tag_at + usize::from(self.tag_bytes), ends, word, class, hops })
        };
        let terminals = label.flags & TERMINALS != 0;
        if kind == tag::KIND_PACKET {
            let Ok(Parsed::Udp(packet)) = H::parse(frame, tables, behind) else {
                return Err(Reason::WrongPacket);
            };
            let same = terminals || self.ends::<T, H>(tables)? == H::own(&packet);
            let fits = same && packet.total_length == inner_length;
            return if fits {
                Ok(Chunk {
                    payload_at: packet.udp_at + udp::HEADER_BYTES,
                    ends: H::own(&packet),
                    word: 0,
                    class: with_congestion(packet.header.class(), self.outer.class()),
                    hops: packet.header.hops(),
                })
            } else {
                Err(Reason::WrongPacket)
            };
        }
        if terminals {
            if kind != H::TERMINALS {
                return Err(Reason::WrongKind);
            }
            let (word, ends) = H::told(frame.at::<H::Terminals>(behind).ok_or(Reason::Internal)?);
            return if H::is_whole(word) { payload(word, ends) } else { Err(Reason::WrongPacket) };
        }
        let ends = self.ends::<T, H>(tables)?;
        if H::V6 == O::V6 {
            return if kind == tag::KIND_LABEL { payload(0, ends) } else { Err(Reason::WrongKind) };
        }
        if kind != tag::KIND_OTHER_FAMILY {
            return Err(Reason::WrongKind);
        }
        let word = frame.at::<tag::HeaderWord>(behind).ok_or(Reason::Internal)?.get();
        if H::is_whole(word) { payload(word, ends) } else { Err(Reason::WrongPacket) }
    }

    /// The ends of the label's flow, on its next ports if the tag says so.
    #[inline(always)]
    fn ends<T: Tables, H: Inner>(&self, tables: &T) -> Result<Ends<H::Address>, Reason> {
        let next_port = tag::next_port(self.tag);
        if next_port && self.label.flags & RTCP_NEXT_PORT == 0 {
            return Err(Reason::WrongKind);
        }
        let mut ends = H::ends(self.label, || tables.label_detail(self.index)).ok_or(Reason::Internal)?;
        if next_port {
            (ends.source_port, ends.destination_port) = (next(ends.source_port), next(ends.destination_port));
        }
        Ok(ends)
    }

    /// What the IP checksum changes by, or what is always the same of a new header.
    #[inline(always)]
    fn ip_change<H: Inner>(&self, ends: &Ends<H::Address>) -> u16 {
        if self.label.flags & TERMINALS == 0 {
            return self.label.ip_change;
        }
        let change = H::summed(Change::folded(self.label.ip_change), ends);
        if O::V6 { change.fold() } else { change.minus(self.tag_bytes.to_be_bytes()).fold() }
    }

    /// What the UDP checksum changes by.
    #[inline(always)]
    fn udp_change(&self, word: u32) -> Change {
        let Self { label, tag, tag_bytes, .. } = *self;
        let mut change =
            Change::folded(label.udp_change).minus(self.udp.source_port).minus(tag::length(tag).to_be_bytes());
        if tag_bytes != tag::HEADER_LENGTH {
            change = change.minus_long(word.to_be_bytes());
        }
        if label.flags & TERMINALS != 0 {
            let [a, b, _, _, e, f, g, h] = tag.to_be_bytes();
            let bytes = tag_bytes.to_be_bytes();
            // The tag's length is off already.
            return change.minus([a, b]).minus([e, f]).minus([g, h]).minus(bytes).minus(bytes);
        }
        if tag::next_port(tag) {
            change = change.minus([tag::NEXT_PORT, 0]).plus([0, 1]).plus([0, 1]);
        }
        change
    }

    /// Takes the headers off a packet that travelled whole.
    #[inline(always)]
    fn unwrap<F: Frame, H: Inner>(&self, frame: &mut F, way: &Way<'_>, class: u8, hops: u8) -> Result<(), Reason> {
        let at = self.tag_at + tag::HEADER_BYTES;
        let header = Copied(*frame.at::<H>(at).ok_or(Reason::Internal)?);
        make_room(frame, at, link_bytes(way.port))?;
        write_link(frame, way.port, way.next_hop, ether_type::<H>())?;
        header.rewrite(frame, link_bytes(way.port), class, hops)
    }

    #[inline(always)]
    fn write<F: Frame, H: Inner>(&self, frame: &mut F, way: &Way<'_>, headers: Headers<H>) -> Result<(), Reason> {
        let link_bytes = link_bytes(way.port);
        let payload_at = link_bytes + usize::from(H::BYTES) + udp::HEADER_BYTES;
        make_room(frame, self.tag_at + usize::from(self.tag_bytes), payload_at)?;
        write_link(frame, way.port, way.next_hop, ether_type::<H>())?;
        put(frame, link_bytes, headers)
    }
}

#[inline(always)]
const fn ether_type<H: Network>() -> [u8; 2] {
    if H::V6 { ethernet::IPV6 } else { ethernet::IPV4 }
}

#[inline(always)]
const fn next(port: [u8; 2]) -> [u8; 2] {
    u16::from_be_bytes(port).wrapping_add(1).to_be_bytes()
}

/// The class of a packet that travelled whole, with the congestion that it met on the way (RFC 6040).
#[inline(always)]
const fn with_congestion(inner: u8, outer: u8) -> u8 {
    let met = outer & ipv4::ECN_MASK == ipv4::ECN_MASK && inner & ipv4::ECN_MASK != 0;
    if met { inner | ipv4::ECN_MASK } else { inner }
}
