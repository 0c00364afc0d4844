//! A flow on the command line: `key=value` pairs with commas between them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use turnpike_api::{FlowRate, FlowRequest, Media};
use turnpike_broker::class::{Game, Quality};
use turnpike_broker::policy::{Excess, Rtcp};

use crate::problem::read_word;
use crate::quantity;

const KEYS: [&str; 23] = [
    "id",
    "aggregate",
    "source",
    "destination",
    "rate",
    "burst",
    "packet",
    "rate-min",
    "excess-rate",
    "excess-burst",
    "rtcp",
    "codec",
    "clock-rate",
    "jitter",
    "concealment",
    "class",
    "delay-max",
    "jitter-max",
    "loss-max",
    "security",
    "game",
    "game-class",
    "negotiable",
];

/// The pairs, with none of another key and none twice.
fn pairs<'t>(text: &'t str, keys: &[&str]) -> Result<BTreeMap<&'t str, &'t str>, String> {
    let mut values = BTreeMap::new();
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} must be key=value"))?;
        if !keys.contains(&key) {
            return Err(format!("{key:?} is not known; known are {}", keys.join(", ")));
        }
        if values.insert(key, value).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    Ok(values)
}

/// Reads another rate for a flow, likewise.
pub(crate) fn parse_rate(text: &str) -> Result<FlowRate, String> {
    let values = pairs(text, &["id", "rate", "burst", "rate-min"])?;
    let value = |key: &str| values.get(key).copied().ok_or_else(|| format!("{key} is missing"));
    let number = |key: &str| quantity::parse(value(key)?).map_err(|error| format!("{key}: {error}"));
    let burst = values.get("burst").copied().map(quantity::parse_u32).transpose();
    Ok(FlowRate {
        id: read("id", value("id")?)?,
        rate_bps: number("rate")?,
        burst_bytes: burst.map_err(|error| format!("burst: {error}"))?,
        rate_bps_min: if values.contains_key("rate-min") { Some(number("rate-min")?) } else { None },
    })
}

/// Reads one flow; an error names the key, the value and what is allowed.
pub(crate) fn parse(text: &str) -> Result<FlowRequest, String> {
    let values = pairs(text, &KEYS)?;
    let value = |key: &str| values.get(key).copied().ok_or_else(|| format!("{key} is missing"));
    let number = |key: &str| quantity::parse(value(key)?).map_err(|error| format!("{key}: {error}"));
    let bytes = |key: &str| quantity::parse_u32(value(key)?).map_err(|error| format!("{key}: {error}"));
    let has = |key: &str| values.contains_key(key);
    let packet = number("packet")?;
    Ok(FlowRequest {
        id: read("id", value("id")?)?,
        aggregate: read("aggregate", value("aggregate")?)?,
        source: read("source", value("source")?).map_err(|error| error + ", must be address:port or [address]:port")?,
        destination: read("destination", value("destination")?)
            .map_err(|error| error + ", must be address:port or [address]:port")?,
        rtcp: match values.get("rtcp") {
            Some(word) => read_word(word).map_err(|error| format!("rtcp: {error}"))?,
            None => Rtcp::default(),
        },
        rate_bps: number("rate")?,
        burst_bytes: bytes("burst")?,
        packet_bytes_min: u16::try_from(packet)
            .map_err(|_| format!("packet: {packet} must be at most {}", u16::MAX))?,
        excess: if has("excess-rate") || has("excess-burst") {
            Some(Excess { rate_bps: number("excess-rate")?, burst_bytes: bytes("excess-burst")? })
        } else {
            None
        },
        rate_bps_min: if has("rate-min") { Some(number("rate-min")?) } else { None },
        media: media(|key| values.get(key).copied())?,
        quality: quality(|key| values.get(key).copied())?,
    })
}

/// What the flow carries, if any of its keys is given.
fn media<'v>(value: impl Fn(&str) -> Option<&'v str>) -> Result<Option<Media>, String> {
    let keys = ["codec", "clock-rate", "jitter", "concealment"];
    if keys.iter().all(|key| value(key).is_none()) {
        return Ok(None);
    }
    let clock_rate_hz = value("clock-rate").map(quantity::parse_u32).transpose();
    Ok(Some(Media {
        codec: value("codec").map(|name| read("codec", name)).transpose()?,
        clock_rate_hz: clock_rate_hz.map_err(|error| format!("clock-rate: {error}"))?,
        jitter_every_packet: one_of("jitter", value("jitter"), ["sampled", "every-packet"])?,
        packet_loss_concealment: !one_of("concealment", value("concealment"), ["yes", "no"])?,
    }))
}

/// What the flow asks of its aggregate's class, if any of its keys is given.
fn quality<'v>(value: impl Fn(&str) -> Option<&'v str>) -> Result<Option<Quality>, String> {
    let number = |key: &str| value(key).map(quantity::parse_u32).transpose().map_err(|error| format!("{key}: {error}"));
    if value("game-class").is_some() && value("game").is_none() {
        return Err("game is missing: game-class is given".to_owned());
    }
    let game = value("game").map(|game| {
        let class = value("game-class").map(|class| read("game-class", class)).transpose()?;
        Ok::<_, String>(Game { r#type: read("game", game)?, class })
    });
    let quality = Quality {
        class: value("class").map(|class| read("class", class)).transpose()?,
        delay_ms_max: number("delay-max")?,
        jitter_ms_max: number("jitter-max")?,
        loss_ppm_max: number("loss-max")?,
        security: value("security").map(read_word).transpose().map_err(|error| format!("security: {error}"))?,
        game: game.transpose()?,
        negotiable: one_of("negotiable", value("negotiable"), ["no", "yes"])?,
    };
    Ok((!quality.is_none()).then_some(quality))
}

/// Whether it is the second of two words; the first one if absent.
fn one_of(key: &str, value: Option<&str>, words: [&str; 2]) -> Result<bool, String> {
    match value {
        Some(value) if value == words[1] => Ok(true),
        Some(value) if value != words[0] => Err(format!("{key}={value}: must be {} or {}", words[0], words[1])),
        Some(_) | None => Ok(false),
    }
}

fn read<T: FromStr<Err: Display>>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{key}={value}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "id=a,aggregate=ab,source=10.1.0.2:4000,destination=10.2.0.2:4000,rate=80k,burst=1600,packet=200";

    #[test]
    fn a_flow_is_read() {
        let flow = parse(&format!("{GOOD},rate-min=40k")).unwrap();
        assert_eq!((flow.rate_bps, flow.rate_bps_min), (80_000, Some(40_000)));
        assert_eq!((flow.burst_bytes, flow.packet_bytes_min), (1_600, 200));
        assert_eq!(flow.source.to_string(), "10.1.0.2:4000");
        assert_eq!((flow.rtcp, flow.excess), (Rtcp::SamePort, None));
    }

    #[test]
    fn a_flow_with_everything_is_read() {
        let text = format!("{GOOD},excess-rate=20k,excess-burst=3200,rtcp=next_port")
            .replace("10.1.0.2:", "[2001:db8::1]:")
            .replace("10.2.0.2:", "[2001:DB8:1::1]:");
        let flow = parse(&text).unwrap();
        assert_eq!(flow.destination.to_string(), "[2001:db8:1::1]:4000");
        assert_eq!(flow.rtcp, Rtcp::NextPort);
        assert_eq!(flow.excess, Some(Excess { rate_bps: 20_000, burst_bytes: 3_200 }));
    }

    #[test]
    fn what_a_flow_carries_is_read_if_it_is_said() {
        let media = |more: &str| parse(&format!("{GOOD}{more}")).unwrap().media;
        assert_eq!(media(""), None);
        let plain = Media {
            codec: Some("PCMU".parse().unwrap()),
            clock_rate_hz: None,
            jitter_every_packet: false,
            packet_loss_concealment: true,
        };
        assert_eq!(media(",codec=PCMU"), Some(plain.clone()));
        assert_eq!(media(",codec=PCMU,jitter=sampled,concealment=yes"), Some(plain.clone()));
        let all =
            Media { clock_rate_hz: Some(16_000), jitter_every_packet: true, packet_loss_concealment: false, ..plain };
        assert_eq!(media(",codec=PCMU,clock-rate=16k,jitter=every-packet,concealment=no"), Some(all));
    }

    #[test]
    fn what_a_flow_asks_of_its_class_is_read_if_it_is_said() {
        let quality = |more: &str| parse(&format!("{GOOD}{more}")).unwrap().quality;
        assert_eq!(quality(""), None);
        let all = ",class=games,delay-max=100,jitter-max=20,loss-max=1k,security=srtp_dtls,game=fps,game-class=ranked,negotiable=yes";
        let expected = Quality {
            class: Some("games".parse().unwrap()),
            delay_ms_max: Some(100),
            jitter_ms_max: Some(20),
            loss_ppm_max: Some(1_000),
            security: Some(turnpike_broker::class::Security::SrtpDtls),
            game: Some(Game { r#type: "fps".parse().unwrap(), class: Some("ranked".parse().unwrap()) }),
            negotiable: true,
        };
        assert_eq!(quality(all), Some(expected));
    }

    #[test]
    fn another_rate_is_read() {
        let rate = parse_rate("id=a,rate=120k,burst=3200,rate-min=100k").unwrap();
        assert_eq!((rate.rate_bps, rate.burst_bytes, rate.rate_bps_min), (120_000, Some(3_200), Some(100_000)));
        assert_eq!(parse_rate("id=a,rate=1").unwrap().rate_bps_min, None);
        for (text, expected) in [("rate=1", "id is missing"), ("id=a,rate=1,packet=200", "\"packet\" is not known")] {
            assert!(parse_rate(text).unwrap_err().contains(expected));
        }
    }

    #[test]
    fn errors_name_the_key() {
        let cases = [
            (format!("{GOOD},rate=1"), "rate is given twice"),
            (format!("{GOOD},color=red"), "\"color\" is not known"),
            (format!("{GOOD},x"), "must be key=value"),
            (GOOD.replace("id=a,", ""), "id is missing"),
            (GOOD.replace("80k", "80 k"), "rate: "),
            (GOOD.replace("packet=200", "packet=70000"), "packet: 70000 must be at most 65535"),
            (GOOD.replace("10.1.0.2:4000", "10.1.0.2"), "source=10.1.0.2: "),
            (GOOD.replace("10.1.0.2:4000", "2001:db8::1:4000"), "must be address:port or [address]:port"),
            (format!("{GOOD},excess-rate=1k"), "excess-burst is missing"),
            (format!("{GOOD},excess-burst=1k"), "excess-rate is missing"),
            (format!("{GOOD},excess-rate=1k,excess-burst=5G"), "excess-burst: "),
            (format!("{GOOD},rtcp=next"), "expected `same_port` or `next_port`"),
            (format!("{GOOD},codec=a b"), "codec=a b: "),
            (format!("{GOOD},clock-rate=fast"), "clock-rate: "),
            (format!("{GOOD},jitter=all"), "jitter=all: must be sampled or every-packet"),
            (format!("{GOOD},security=tls"), "security: unknown variant `tls`"),
            (format!("{GOOD},game-class=ranked"), "game is missing"),
            (format!("{GOOD},delay-max=soon"), "delay-max: "),
            (format!("{GOOD},concealment=1"), "concealment=1: must be yes or no"),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
