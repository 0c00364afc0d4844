//! How a flow may have sounded: the E-model (ITU-T G.107), reduced to what a node on the way can see.
//!
//! R = 93.2 - Ie,eff, where 93.2 is G.107's own value with all other parameters at their defaults, and
//! Ie,eff = Ie + (95 - Ie) × Ppl / (Ppl / BurstR + Bpl). **Not in it**: delay (Id = 0), echo, and what the listener's jitter buffer throws away.
//! So the estimate is an upper bound for what was heard, and it compares what the networks in between did to calls of one codec.
//! Wideband codecs have a scale of their own (G.107.1) and get none.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::media::{Impairment, Media};
use crate::policy::Counters;

/// R with nothing impaired but what G.107 takes for granted.
const R_DEFAULT: f64 = 93.2;
/// G.113 has burstiness count only for codecs that conceal as well as this.
const BPL_BURSTY: f64 = 16.0;
/// Range of BurstR in G.107.
const BURST_RATIO: std::ops::RangeInclusive<f64> = 1.0..=8.0;

/// An estimated mean opinion score, 1 to 4.5, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mos(u16);

impl Mos {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "100 to 450")]
    fn new(score: f64) -> Self {
        Self((score.clamp(1.0, 4.5) * 100.0).round() as u16)
    }
}

impl From<Mos> for f64 {
    fn from(mos: Mos) -> Self {
        Self::from(mos.0) / 100.0
    }
}

impl fmt::Display for Mos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", f64::from(*self))
    }
}

impl Serialize for Mos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((*self).into())
    }
}

impl<'de> Deserialize<'de> for Mos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let score = f64::deserialize(deserializer)?;
        if (1.0..=4.5).contains(&score) {
            return Ok(Self::new(score));
        }
        Err(serde::de::Error::custom(format!("a mean opinion score is {score}; allowed: 1 to 4.5")))
    }
}

/// The score of a flow of this media that was counted so. None for a codec without published figures, and where no RTP was seen.
#[must_use]
pub fn estimate(media: &Media, counters: &Counters) -> Option<Mos> {
    let impairment = media.impairment()?;
    let (loss_percent, burst_ratio) = loss(counters)?;
    Some(Mos::new(score(rating(impairment, loss_percent, burst_ratio))))
}

/// Packets lost of 100 expected, and how much longer runs of loss were than if each packet had been lost by itself. A packet that came too late to
/// be placed is lost.
#[allow(clippy::cast_precision_loss, reason = "2^53 packets are a thousand years of a million a second")]
fn loss(counters: &Counters) -> Option<(f64, f64)> {
    let reception = counters.reception?;
    let lost = reception.lost_packets;
    let others = [reception.not_rtp_packets, reception.duplicated_packets, reception.unplaced_packets];
    let placed = others.into_iter().fold(counters.passed_packets, u64::saturating_sub);
    let expected = lost.saturating_add(placed);
    if placed == 0 {
        return None;
    }
    let fraction = lost as f64 / expected as f64;
    // Runs of independent loss have 1 / (1 - fraction) packets in the mean.
    let burst_ratio = lost as f64 / reception.gaps.max(1) as f64 * (1.0 - fraction);
    Some((100.0 * fraction, burst_ratio.clamp(*BURST_RATIO.start(), *BURST_RATIO.end())))
}

/// R, 0 to 100 (G.107, section 7).
fn rating(impairment: Impairment, loss_percent: f64, burst_ratio: f64) -> f64 {
    let Impairment { ie, bpl } = impairment;
    let burst_ratio = if bpl >= BPL_BURSTY { burst_ratio } else { 1.0 };
    R_DEFAULT - ie - (95.0 - ie) * loss_percent / (loss_percent / burst_ratio + bpl)
}

/// The mean opinion score of R (G.107, annex B).
fn score(rating: f64) -> f64 {
    if rating <= 0.0 {
        1.0
    } else if rating >= 100.0 {
        4.5
    } else {
        1.0 + 0.035 * rating + rating * (rating - 60.0) * (100.0 - rating) * 7e-6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Reception;

    fn of(codec: &str) -> Media {
        Media { codec: Some(codec.parse().unwrap()), ..Media::default() }
    }

    fn counted(passed_packets: u64, lost_packets: u64, gaps: u64) -> Counters {
        let reception = Some(Reception { lost_packets, gaps, ..Reception::default() });
        Counters { passed_packets, reception, ..Counters::default() }
    }

    fn mos(media: &Media, counters: &Counters) -> Option<f64> {
        estimate(media, counters).map(f64::from)
    }

    #[test]
    fn scores_are_those_of_annex_b() {
        // Its table has 4.03 where its formula gives 4.024.
        for (rating, published) in [(90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58), (93.2, 4.41)]
        {
            assert!((score(rating) - published).abs() < 0.0065, "{rating}: {}", score(rating));
        }
        assert_eq!((score(-1.0), score(0.0), score(100.0), score(120.0)), (1.0, 1.0, 4.5, 4.5));
    }

    #[test]
    fn loss_costs_what_the_formula_says() {
        let g711 = Impairment { ie: 0.0, bpl: 25.1 };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 0.005, "{a} {b}");
        near(rating(g711, 0.0, 1.0), 93.2);
        // 95 × 1 / 26.1 and 95 × 5 / 30.1.
        near(rating(g711, 1.0, 1.0), 89.56);
        near(rating(g711, 5.0, 1.0), 77.42);
        // In runs twice as long as by chance: 95 × 5 / 27.6.
        near(rating(g711, 5.0, 2.0), 75.99);
        // 11, and 84 × 2 / 21.
        near(rating(Impairment { ie: 11.0, bpl: 19.0 }, 2.0, 1.0), 74.2);
        // A codec that conceals worse is not said to mind runs: 95 × 5 / 9.3.
        near(rating(Impairment { ie: 0.0, bpl: 4.3 }, 5.0, 2.0), 42.12);
    }

    #[test]
    fn a_flow_is_judged_by_its_codec_and_its_loss() {
        assert_eq!(mos(&of("PCMU"), &counted(1_000, 0, 0)), Some(4.41));
        assert_eq!(mos(&of("G729"), &counted(1_000, 0, 0)), Some(4.1));
        // One in a hundred, each by itself.
        assert_eq!(mos(&of("PCMU"), &counted(990, 10, 10)), Some(4.33));
        assert_eq!(mos(&Media { unconcealed: true, ..of("PCMU") }, &counted(990, 10, 10)), Some(3.83));
        // Five in a hundred, by chance and in runs of ten.
        let (spread, runs) = (mos(&of("PCMU"), &counted(950, 50, 50)), mos(&of("PCMU"), &counted(950, 50, 5)));
        assert!(spread > runs, "{spread:?} {runs:?}");
        // Loss that is spread more evenly than by chance is not better than by chance.
        assert_eq!(loss(&counted(500, 500, 500)), Some((50.0, 1.0)));
        assert_eq!(loss(&counted(10, 990, 1)), Some((99.0, 8.0)));
        // Half of all lost by chance is lost in runs of two; runs of four are twice as long.
        assert_eq!(loss(&counted(500, 500, 250)), Some((50.0, 1.0)));
        assert_eq!(loss(&counted(500, 500, 125)), Some((50.0, 2.0)));
    }

    #[test]
    fn what_is_no_rtp_or_came_twice_or_too_late_is_not_received() {
        let mut counters = counted(1_000, 10, 10);
        if let Some(reception) = &mut counters.reception {
            reception.not_rtp_packets = 5;
            reception.duplicated_packets = 3;
            reception.unplaced_packets = 2;
        }
        assert_eq!(loss(&counters), Some((1.0, 1.0)));
    }

    #[test]
    fn there_is_none_where_there_is_nothing_to_judge() {
        assert_eq!(estimate(&of("opus"), &counted(1_000, 0, 0)), None);
        assert_eq!(estimate(&Media::default(), &counted(1_000, 0, 0)), None);
        assert_eq!(estimate(&of("PCMU"), &counted(0, 0, 0)), None);
        assert_eq!(estimate(&of("PCMU"), &Counters { passed_packets: 9, ..Counters::default() }), None);
    }

    #[test]
    fn a_score_is_a_number_with_two_places() {
        let mos = Mos::new(4.4096);
        assert_eq!((mos.to_string().as_str(), serde_json::to_string(&mos).unwrap().as_str()), ("4.41", "4.41"));
        assert_eq!(serde_json::from_str::<Mos>("4.41").unwrap(), mos);
        assert_eq!(serde_json::from_str::<Mos>("1").unwrap(), Mos(100));
        for wrong in ["0.99", "4.51", "\"4\"", "-1"] {
            assert!(serde_json::from_str::<Mos>(wrong).is_err(), "{wrong}");
        }
    }
}
