//! What a flow carries, as far as its reception can be judged by it: the codec, as SDP names it, and its clock.

use serde::{Deserialize, Serialize};

use crate::name::CodecName;
use crate::refusal::Refusal;

/// Clock rates that are taken, Hz: from text (RFC 4103) to far above any codec's.
const CLOCK_RATES_HZ: std::ops::RangeInclusive<u32> = 1_000..=10_000_000;

/// A flow's media. Nothing of it is needed to carry the flow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Media {
    /// The encoding name of SDP's `rtpmap` (RFC 8866, section 6.6), in any case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<CodecName>,
    /// Ticks of the RTP timestamp in a second; the codec's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_rate_hz: Option<u32>,
    /// Jitter is measured at every packet, not at one in 16.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub jitter_every_packet: bool,
    /// The listener's end does not conceal lost packets. Only G.711 leaves that to the terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconcealed: bool,
}

/// How a narrowband codec fares in the E-model (ITU-T G.113, Appendix I).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Impairment {
    /// Ie: what the codec costs without loss.
    pub(crate) ie: f64,
    /// Bpl: how robust it is against loss.
    pub(crate) bpl: f64,
}

/// Clock rates that their RTP payload formats fix, and the figures of G.113 where it has a pair of them.
const CODECS: &[(&str, u32, Option<Impairment>)] = &[
    ("PCMU", 8_000, Some(G711_CONCEALED)),
    ("PCMA", 8_000, Some(G711_CONCEALED)),
    // 6.3 kbit/s with VAD.
    ("G723", 8_000, Some(Impairment { ie: 15.0, bpl: 16.1 })),
    // Annex A with VAD.
    ("G729", 8_000, Some(Impairment { ie: 11.0, bpl: 19.0 })),
    ("GSM-EFR", 8_000, Some(Impairment { ie: 5.0, bpl: 10.0 })),
    ("AMR", 8_000, None),
    ("BV16", 8_000, None),
    ("CN", 8_000, None),
    ("EVRC", 8_000, None),
    // Its samples come at 16 kHz; its RTP clock does not (RFC 3551, section 4.5.2). As a wideband codec it is on another scale (G.107.1).
    ("G722", 8_000, None),
    ("G726-16", 8_000, None),
    ("G726-24", 8_000, None),
    ("G726-32", 8_000, None),
    ("G726-40", 8_000, None),
    ("G728", 8_000, None),
    ("GSM", 8_000, None),
    ("iLBC", 8_000, None),
    ("telephone-event", 8_000, None),
    // Wideband, and its figures depend on the mode, which its name does not tell.
    ("AMR-WB", 16_000, None),
    ("EVS", 16_000, None),
    ("opus", 48_000, None),
    ("AV1", 90_000, None),
    ("H261", 90_000, None),
    ("H263", 90_000, None),
    ("H264", 90_000, None),
    ("H265", 90_000, None),
    ("H266", 90_000, None),
    ("JPEG", 90_000, None),
    ("MP2T", 90_000, None),
    ("VP8", 90_000, None),
    ("VP9", 90_000, None),
    ("t140", 1_000, None),
];

/// G.711 with the concealment of its own Appendix I; packets of 10 ms.
const G711_CONCEALED: Impairment = Impairment { ie: 0.0, bpl: 25.1 };
/// G.711 with silence in place of what is lost.
const G711_UNCONCEALED: Impairment = Impairment { ie: 0.0, bpl: 4.3 };

impl Media {
    fn known(&self) -> Option<&'static (&'static str, u32, Option<Impairment>)> {
        let name = self.codec.as_ref()?.as_str();
        CODECS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name))
    }

    /// Ticks of the RTP timestamp in a second: what was asked for, or the codec's own. None if neither is known; then there is no jitter.
    #[must_use]
    pub fn clock_rate_hz(&self) -> Option<u32> {
        self.clock_rate_hz.or_else(|| self.known().map(|(_, rate_hz, _)| *rate_hz))
    }

    /// The codec's figures. None if it has none, or runs at another clock than the one they were found at.
    pub(crate) fn impairment(&self) -> Option<Impairment> {
        let (_, rate_hz, impairment) = self.known()?;
        let figures = impairment.filter(|_| self.clock_rate_hz() == Some(*rate_hz))?;
        Some(if self.unconcealed && figures == G711_CONCEALED { G711_UNCONCEALED } else { figures })
    }

    /// What is asked must be measurable.
    pub(crate) fn check(&self, field: &str) -> Result<(), Refusal> {
        let field = format!("{field}.media.clock_rate_hz");
        let allowed = format!("{} to {}", CLOCK_RATES_HZ.start(), CLOCK_RATES_HZ.end());
        match (self.clock_rate_hz(), &self.codec) {
            (Some(rate_hz), _) if CLOCK_RATES_HZ.contains(&rate_hz) => Ok(()),
            (Some(rate_hz), _) => Err(Refusal::invalid(field, rate_hz, allowed)),
            (None, Some(codec)) => {
                Err(Refusal::invalid(field, "missing", format!("{allowed}; codec {codec} has no rate known here")))
            }
            (None, None) if self.jitter_every_packet => {
                Err(Refusal::invalid(field, "missing", format!("{allowed}, or a codec: jitter is asked for")))
            }
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(codec: &str, clock_rate_hz: Option<u32>) -> Media {
        Media { codec: Some(codec.parse().unwrap()), clock_rate_hz, ..Media::default() }
    }

    #[test]
    fn a_codec_is_known_in_any_case_and_has_its_clock_unless_another_is_given() {
        assert_eq!(media("pcmu", None).clock_rate_hz(), Some(8_000));
        assert_eq!(media("OPUS", None).clock_rate_hz(), Some(48_000));
        assert_eq!(media("G722", None).clock_rate_hz(), Some(8_000));
        assert_eq!(media("H264", None).clock_rate_hz(), Some(90_000));
        assert_eq!(media("PCMU", Some(16_000)).clock_rate_hz(), Some(16_000));
        assert_eq!(media("speex", None).clock_rate_hz(), None);
    }

    #[test]
    fn figures_are_those_of_g_113_and_of_no_other_clock() {
        let figures = |media: Media| media.impairment().map(|found| (found.ie, found.bpl));
        assert_eq!(figures(media("PCMA", None)), Some((0.0, 25.1)));
        assert_eq!(figures(Media { unconcealed: true, ..media("PCMA", None) }), Some((0.0, 4.3)));
        assert_eq!(figures(Media { unconcealed: true, ..media("G729", None) }), Some((11.0, 19.0)));
        assert_eq!(figures(media("G723", None)), Some((15.0, 16.1)));
        assert_eq!(figures(media("GSM-EFR", None)), Some((5.0, 10.0)));
        for other in [media("opus", None), media("G722", None), media("x", Some(8_000)), media("PCMU", Some(16_000))] {
            assert_eq!(figures(other), None);
        }
        assert_eq!(figures(Media::default()), None);
    }

    #[test]
    fn what_cannot_be_measured_is_refused_by_its_field() {
        let refusal = |media: Media| media.check("flows[1]").err();
        for good in [Media::default(), media("PCMU", None), media("x", Some(1_000)), media("x", Some(10_000_000))] {
            assert_eq!(refusal(good), None);
        }
        let without = Media { jitter_every_packet: true, ..Media::default() };
        let cases = [
            (media("x", None), "is missing; allowed: 1000 to 10000000; codec x has no rate known here"),
            (media("PCMU", Some(999)), "is 999; allowed: 1000 to 10000000"),
            (media("PCMU", Some(10_000_001)), "is 10000001; allowed"),
            (without, "is missing; allowed: 1000 to 10000000, or a codec"),
        ];
        for (wrong, expected) in cases {
            let refusal = refusal(wrong).unwrap();
            assert_eq!(refusal.field.as_deref(), Some("flows[1].media.clock_rate_hz"));
            assert!(refusal.detail.contains(expected), "{}", refusal.detail);
        }
    }
}
