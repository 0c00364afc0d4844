//! What arrived of an incoming flow: packets lost, duplicated and out of order, gaps, and jitter, by the RTP headers (RFC 3550).
//!
//! All CPUs share one cache line for a flow. Its `window` word holds the history of the last 32 sequence numbers and is moved by
//! compare-and-swap; whoever moved it counts what the move decided. So each packet is counted once and under one word, on any number of CPUs.
//! The packet in order costs one compare-and-swap and nothing else.
//!
//! ```text
//!  63      62                              31 30           16 15            0
//! +----+--------------------------------------+---------------+---------------+
//! |last|  seen: 31 behind the highest … itself |  hash of SSRC |    highest    |
//! +----+--------------------------------------+---------------+---------------+
//! ```
//!
//! `last` is the sequence number that left the window last. The word is zero before the first packet, and never after it.
//!
//! What the words mean, sequence numbers being those of one *run*:
//! - **Lost**: not seen when it left the window, that is when a packet 32 or more ahead came, or the run ended. What a packet skipped that
//!   is up to 2,999 ahead counts too. Numbers before a run's first packet and after its last are nobody's.
//! - **Gap**: a run of lost numbers one after the other, however long.
//! - **Duplicated**: a packet whose number was seen. A packet up to 31 before the run's first counts so too: nothing tells it from one.
//! - **Reordered**: a packet that is behind the highest, in the window, and was not seen. It is not lost.
//! - **Unplaced**: a packet 32 to 99 behind the highest, whose number was counted as lost or is seen again; which, nothing tells. Also one
//!   whose compare-and-swap failed eight times, each time because another CPU's packet of the same flow got through. So in the sense of
//!   RFC 3550, where late packets are received ones, the loss is between lost less unplaced and lost.
//! - **Restart**: a new run in place of one before: another SSRC, or a sequence number that jumps further than RFC 3550 A.1 allows. At once,
//!   and not by two packets as there: a single stray packet costs two restarts, and streams that share a flow one for each turn.
//!   The SSRC's hash has 15 bits.
//!
//! **Jitter** is RFC 3550's A.8 in fixed point. The clock is dear, so of a flow that does not ask for all its packets only those take part whose
//! sequence number is a multiple of 16. They estimate the mean difference in transit of packets 16 apart where A.8 has it of neighbours. If delays are
//! independent of each other the two are equal; a delay that changes slowly shows more. The mean is over 256 packets and not over 16.

#[cfg(not(target_arch = "bpf"))]
mod join;

use core::sync::atomic::AtomicU64;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::Ordering;

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, IntoBytes};

#[cfg(not(target_arch = "bpf"))]
pub use join::{Joined, join};

use crate::tables::Tables;
use crate::wire::rtp;

/// A packet that far ahead is a new run (RFC 3550 A.1, `MAX_DROPOUT`).
pub const DROPOUT_MAX: u16 = 3_000;
/// A packet that far behind is a new run (RFC 3550 A.1, `MAX_MISORDER`).
pub const MISORDER_MAX: u16 = 100;
/// Sequence numbers in the window.
pub const WINDOW: u16 = 32;
/// Packets whose sequence number is a multiple of this have their jitter measured.
pub const SAMPLING: u16 = 16;

/// Tries of a compare-and-swap. Each failure means that another CPU's packet of the same flow got through.
const TRIES: u32 = 8;
/// The same for a sample of the jitter, of which one more or less does not matter.
const SAMPLE_TRIES: u32 = 2;
/// Bits of `window` below the history.
const HISTORY_SHIFT: u32 = 31;
/// Hash and highest sequence number.
const PLACE_MASK: u64 = (1 << HISTORY_SHIFT) - 1;
/// Hash.
const SOURCE_MASK: u64 = PLACE_MASK & !0xffff;
/// The oldest number of the window was seen.
const OLDEST: u64 = 1 << 62;
/// Everything was seen: a new run misses nothing.
const NEW_RUN: u64 = !PLACE_MASK;
/// `jitter`: there is a transit time to compare with.
const TIMED: u64 = 1;
/// Transit times that differ by more are of different clocks: 25 minutes at 90 kHz. The estimate stays below 31 bits.
const CHANGE_MAX: u32 = 1 << 27;

/// What arrived of an incoming flow. One cache line that all CPUs share; all zero before the first packet.
#[derive(Debug, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Reception {
    /// The last sequence numbers; see the module.
    pub window: AtomicU64,
    /// Last transit time in the upper 32 bits, 16 × jitter in the next 31, both in ticks of the media clock; then `TIMED`.
    pub jitter: AtomicU64,
    /// Packets.
    pub lost: AtomicU64,
    /// Packets.
    pub duplicated: AtomicU64,
    /// Packets.
    pub reordered: AtomicU64,
    /// Runs of loss.
    pub gaps: AtomicU64,
    /// Packets that are no RTP: too short, RTCP, STUN, DTLS, or anything else.
    pub not_rtp: AtomicU64,
    /// Restarts in the upper 32 bits, unplaced packets in the lower.
    pub rare: AtomicU64,
}

const _: () = assert!(size_of::<Reception>() == 64);

/// One restart in [`Reception::rare`].
pub const RESTART: u64 = 1 << 32;

/// Takes note of a packet. To be called for what is delivered: what a meter refused is lost for the one who listens.
///
/// `rtp` is the beginning of the payload, none where that is shorter. `clock_factor` is [`clock_factor`]'s, zero for no jitter; with
/// `every_packet` the jitter is measured at all packets, not only at those whose sequence number is a multiple of [`SAMPLING`].
#[inline(always)]
pub fn observe<T: Tables>(
    tables: &T,
    reception: &Reception,
    rtp: Option<&rtp::Header>,
    clock_factor: u32,
    every_packet: bool,
) {
    let Some(rtp) = rtp.filter(|rtp| rtp.is_rtp()) else {
        tables.add(&reception.not_rtp, 1);
        return;
    };
    let sequence = rtp.sequence.get();
    let source = u64::from(hash(rtp.source.get())) << 16;
    let place = source | u64::from(sequence);
    let expected = source | u64::from(sequence.wrapping_sub(1));
    let old = tables.load(&reception.window);
    let in_order = old & (PLACE_MASK | OLDEST) == expected | OLDEST
        && tables.replace(&reception.window, old, advanced(old >> HISTORY_SHIFT, 1, place));
    if (in_order || insert(tables, reception, place))
        && clock_factor != 0
        && (every_packet || sequence.is_multiple_of(SAMPLING))
    {
        measure(tables, reception, rtp.timestamp.get(), clock_factor);
    }
}

/// 15 bits of an SSRC, whichever of its bits tell it from others.
#[inline(always)]
const fn hash(source: u32) -> u32 {
    source.wrapping_mul(0x9e37_79b1) >> 17
}

/// The window that is moved ahead by up to 33 places, to `place`.
#[inline(always)]
const fn advanced(history: u64, places: u32, place: u64) -> u64 {
    (history << places | 1) << HISTORY_SHIFT | place
}

/// Any packet but one in order; whether it is new.
#[inline(always)]
fn insert<T: Tables>(tables: &T, reception: &Reception, place: u64) -> bool {
    for _ in 0..TRIES {
        let old = tables.load(&reception.window);
        let history = old >> HISTORY_SHIFT;
        let ahead = place.wrapping_sub(old) & 0xffff;
        let behind = old.wrapping_sub(place) & 0xffff;
        if old == 0 || (old ^ place) & SOURCE_MASK != 0 || restarts(ahead, behind) {
            if tables.replace(&reception.window, old, NEW_RUN | place) {
                if old != 0 {
                    leave(tables, reception, history, u64::from(WINDOW));
                    tables.add(&reception.rare, RESTART);
                    forget_transit(tables, reception);
                }
                return true;
            }
        } else if ahead != 0 && ahead < u64::from(DROPOUT_MAX) {
            #[allow(clippy::cast_possible_truncation, reason = "up to 33")]
            let places = if ahead > u64::from(WINDOW) { u64::from(WINDOW) + 1 } else { ahead } as u32;
            if tables.replace(&reception.window, old, advanced(history, places, place)) {
                leave(tables, reception, history, ahead);
                return true;
            }
        } else {
            if behind >= u64::from(WINDOW) {
                break;
            }
            let seen = 1 << HISTORY_SHIFT << behind;
            if old & seen != 0 {
                tables.add(&reception.duplicated, 1);
                return false;
            }
            if tables.replace(&reception.window, old, old | seen) {
                tables.add(&reception.reordered, 1);
                return true;
            }
        }
    }
    tables.add(&reception.rare, 1);
    false
}

/// Whether a sequence number jumps too far either way.
#[inline(always)]
const fn restarts(ahead: u64, behind: u64) -> bool {
    ahead >= DROPOUT_MAX as u64 && behind >= MISORDER_MAX as u64
}

/// What leaves the window when it moves ahead: lost numbers, and the gaps that begin with them.
#[inline(always)]
const fn leaving(history: u64, ahead: u64) -> (u64, u64) {
    let window = WINDOW as u64;
    let (within, beyond) = if ahead > window { (window, 1) } else { (ahead, 0) };
    // The oldest first, and above it the number that left before.
    let leaving = history >> (window - within);
    let mask = (1 << within) - 1;
    let lost = ahead - (leaving & mask).count_ones() as u64;
    // Beyond the window the first number follows the highest, which was seen.
    let gaps = (!leaving & (leaving >> 1) & mask).count_ones() as u64 + beyond;
    (lost, gaps)
}

#[inline(always)]
fn leave<T: Tables>(tables: &T, reception: &Reception, history: u64, ahead: u64) {
    let (lost, gaps) = leaving(history, ahead);
    if lost != 0 {
        tables.add(&reception.lost, lost);
    }
    if gaps != 0 {
        tables.add(&reception.gaps, gaps);
    }
}

/// The next packet's clock need not be the last one's. One try: if it fails, another packet has just been measured.
#[inline(always)]
fn forget_transit<T: Tables>(tables: &T, reception: &Reception) {
    let old = tables.load(&reception.jitter);
    tables.replace(&reception.jitter, old, old & !TIMED);
}

/// RFC 3550 A.8. A sample whose compare-and-swap fails [`SAMPLE_TRIES`] times is left out.
#[inline(always)]
fn measure<T: Tables>(tables: &T, reception: &Reception, timestamp: u32, clock_factor: u32) {
    #[allow(clippy::cast_possible_truncation, reason = "media clocks wrap at 32 bits")]
    let arrival = (tables.exact_ns().wrapping_mul(u64::from(clock_factor)) >> 32) as u32;
    let transit = arrival.wrapping_sub(timestamp);
    for _ in 0..SAMPLE_TRIES {
        let old = tables.load(&reception.jitter);
        let (last, mut estimate) = jitter_parts(old);
        let change = transit.wrapping_sub(last).cast_signed().unsigned_abs();
        if old & TIMED != 0 && change < CHANGE_MAX {
            estimate = estimate + change - ((estimate + 8) >> 4);
        }
        let new = u64::from(transit) << 32 | u64::from(estimate) << 1 | TIMED;
        if tables.replace(&reception.jitter, old, new) {
            return;
        }
    }
}

/// Last transit time, and 16 × jitter.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "halves")]
const fn jitter_parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32 >> 1)
}

/// Fastest media clock, Hz.
pub const CLOCK_RATE_HZ_MAX: u32 = 999_999_999;

/// Ticks of a media clock of this rate per nanosecond, times 2^32: what [`observe`] wants. Zero, which means no jitter, if the rate is zero or above
/// [`CLOCK_RATE_HZ_MAX`].
///
/// Nanoseconds × factor ÷ 2^32 modulo 2^32 needs no more than the lower 64 bits of the product, so ticks wrap where they must at any uptime.
/// Rounding makes the clock run wrong by at most 15 millionths at 8 kHz and above, less than the clocks at both ends.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "below 2^32, as the rate is below 10^9")]
pub const fn clock_factor(clock_rate_hz: u32) -> u32 {
    if clock_rate_hz > CLOCK_RATE_HZ_MAX {
        return 0;
    }
    ((((clock_rate_hz as u64) << 32) + 500_000_000) / 1_000_000_000) as u32
}

/// The rate of a factor, exactly: factors of neighbouring rates are four apart.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "below 10^9")]
pub const fn clock_rate_hz(clock_factor: u32) -> u32 {
    ((clock_factor as u64 * 1_000_000_000 + (1 << 31)) >> 32) as u32
}

/// What was counted.
#[cfg(not(target_arch = "bpf"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceptionCounters {
    /// Packets that never came, or too late.
    pub lost_packets: u64,
    /// Packets that came again.
    pub duplicated_packets: u64,
    /// Packets that came behind a later one.
    pub reordered_packets: u64,
    /// Packets that came too late to tell whether they had been counted as lost.
    pub unplaced_packets: u64,
    /// Packets that are no RTP.
    pub not_rtp_packets: u64,
    /// Runs of loss.
    pub gaps: u64,
    /// New streams in place of one before.
    pub restarts: u64,
    /// Interarrival jitter; none where nothing was measured.
    pub jitter_ns: Option<u64>,
}

#[cfg(not(target_arch = "bpf"))]
impl Reception {
    /// What is decided by now. A number that is missing in the window may still come and is not counted.
    #[must_use]
    pub fn counters(&self, clock_rate_hz: u32) -> ReceptionCounters {
        let rare = self.rare.load(Ordering::Relaxed);
        ReceptionCounters {
            lost_packets: self.lost.load(Ordering::Relaxed),
            duplicated_packets: self.duplicated.load(Ordering::Relaxed),
            reordered_packets: self.reordered.load(Ordering::Relaxed),
            unplaced_packets: rare & (RESTART - 1),
            not_rtp_packets: self.not_rtp.load(Ordering::Relaxed),
            gaps: self.gaps.load(Ordering::Relaxed),
            restarts: rare >> 32,
            jitter_ns: self.jitter_ns(clock_rate_hz),
        }
    }

    /// The same of a flow that has ended: what is missing in the window will not come.
    #[must_use]
    pub fn final_counters(&self, clock_rate_hz: u32) -> ReceptionCounters {
        let mut counters = self.counters(clock_rate_hz);
        let window = self.window.load(Ordering::Relaxed);
        if window != 0 {
            let (lost, gaps) = leaving(window >> HISTORY_SHIFT, u64::from(WINDOW));
            counters.lost_packets += lost;
            counters.gaps += gaps;
        }
        counters
    }

    fn jitter_ns(&self, clock_rate_hz: u32) -> Option<u64> {
        let word = self.jitter.load(Ordering::Relaxed);
        let (_, estimate) = jitter_parts(word);
        let ticks = Some(u64::from(clock_rate_hz)).filter(|rate| *rate != 0 && word != 0)? * 16;
        // 31 bits times 30.
        Some(u64::from(estimate) * 1_000_000_000 / ticks)
    }
}
