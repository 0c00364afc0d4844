//! Classes: what an aggregate is engineered for, and what a flow may ask of one (R-000-15, R-001-1, R-001-3).
//!
//! The classes that every node knows have the names and code points of RFC 4594, and the figures of the ITU-T Y.1541 class that fits
//! (tables 1 and 3): those are what a path of them is to keep from end to end, and what whoever reserves an aggregate of them states that it
//! keeps. Nothing measures them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::aggregate::BURST_BYTES_MIN;
use crate::event::AggregateRequest;
use crate::marking::DSCP_MAX;
use crate::name::{AggregateName, ClassName, GameName, NodeName};
use crate::policy::{Dscp, DscpPolicy, Marking};
use crate::record::AggregateRecord;
use crate::refusal::{Reason, Refusal};

/// Classes of one node, those of RFC 4594 among them.
pub const CLASSES_MAX: usize = 64;
/// Kinds of games of one class.
pub const GAME_TYPES_MAX: usize = 32;
/// A second a hundred times over: beyond that nothing is real-time.
pub const TIME_MS_MAX: u32 = 100_000;
/// All of it.
pub const LOSS_PPM_MAX: u32 = 1_000_000;

/// How media is protected from end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Not at all.
    None,
    /// SRTP (RFC 3711) with keys from SDP (RFC 4568).
    SrtpSdes,
    /// SRTP with keys from DTLS (RFC 5764).
    SrtpDtls,
}

impl Security {
    const ALL: [Self; 3] = [Self::None, Self::SrtpSdes, Self::SrtpDtls];

    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::SrtpSdes => "srtp_sdes",
            Self::SrtpDtls => "srtp_dtls",
        })
    }
}

/// What an aggregate of a class is engineered for, and how its packets are marked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// 6 bits, of packets that go out.
    pub dscp: u8,
    /// 6 bits, of packets that flows send beyond their own rate; like the others if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess_dscp: Option<u8>,
    /// 6 bits, of packets that the receiving node delivers; those that they arrived with if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_dscp: Option<u8>,
    /// Mean delay of a packet at most, milliseconds (IPTD of ITU-T Y.1540); nothing is promised if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u32>,
    /// The 99.9th percentile of delay less its least, milliseconds (IPDV of ITU-T Y.1541); likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<u32>,
    /// Packets lost of a million at most (IPLR of ITU-T Y.1540); likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_ppm: Option<u32>,
    /// The protections of media that it takes; all if absent.
    #[serde(default = "Security::all")]
    pub security: Vec<Security>,
    /// The games that it takes, by format type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub game_types: Vec<GameName>,
}

/// A class with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedClass {
    /// The same on both nodes.
    pub name: ClassName,
    /// What it was known as when it was taken.
    pub class: Class,
}

/// A game, as its players' terminals tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Game {
    /// Its format type, such as `fps`: one of the class's `game_types`.
    pub r#type: GameName,
    /// Its game class, such as `ranked`; kept for the record and compared with nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<GameName>,
}

/// What a flow asks of its aggregate's class; what is absent is not asked. A figure is compared with the class's, which is for one
/// aggregate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// The class that it must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms_max: Option<u32>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms_max: Option<u32>,
    /// Packets of a million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_ppm_max: Option<u32>,
    /// How the media is protected: one of the class's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// The game that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub game: Option<Game>,
    /// The second side may promise larger figures than these; if not, it refuses where it would.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub negotiable: bool,
}

impl Quality {
    /// Nothing is asked.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What is absent is as in `others`.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            class: self.class.or_else(|| others.class.clone()),
            delay_ms_max: self.delay_ms_max.or(others.delay_ms_max),
            jitter_ms_max: self.jitter_ms_max.or(others.jitter_ms_max),
            loss_ppm_max: self.loss_ppm_max.or(others.loss_ppm_max),
            security: self.security.or(others.security),
            game: self.game.or_else(|| others.game.clone()),
            negotiable: self.negotiable || others.negotiable,
        }
    }

    const fn figures(&self) -> [(&'static str, Option<u32>); 3] {
        [
            ("delay_ms_max", self.delay_ms_max),
            ("jitter_ms_max", self.jitter_ms_max),
            ("loss_ppm_max", self.loss_ppm_max),
        ]
    }

    /// Whether an aggregate's class has all that is asked.
    pub(crate) fn check(&self, field: &str, node: &NodeName, aggregate: &AggregateRecord) -> Result<(), Refusal> {
        for ((name, asked), most) in self.figures().into_iter().zip([TIME_MS_MAX, TIME_MS_MAX, LOSS_PPM_MAX]) {
            if let Some(asked) = asked.filter(|asked| *asked > most) {
                return Err(Refusal::invalid(format!("{field}.quality.{name}"), asked, format!("0 to {most}")));
            }
        }
        let named = aggregate.class.as_ref();
        let carrier = match named {
            Some(NamedClass { name, .. }) => format!("aggregate {} at {node} is of class {name}", aggregate.name),
            None => format!("aggregate {} at {node} is of no class, which promises nothing", aggregate.name),
        };
        let not_met = |name: &str, asked: &dyn fmt::Display, has: &str| {
            Err(not_met(&format!("{field}.quality.{name}"), asked, &format!("{carrier}{has}")))
        };
        if let Some(asked) = &self.class
            && named.is_none_or(|named| named.name != *asked)
        {
            return not_met("class", asked, "");
        }
        let has = named.map(|named| &named.class);
        let promised = [
            has.and_then(|class| class.delay_ms),
            has.and_then(|class| class.jitter_ms),
            has.and_then(|class| class.loss_ppm),
        ];
        for ((name, asked), promised) in self.figures().into_iter().zip(promised) {
            match (asked, promised) {
                (Some(asked), Some(promised)) if promised > asked => {
                    return not_met(name, &asked, &format!(" with {promised}"));
                }
                (Some(asked), None) => return not_met(name, &asked, " without such a figure"),
                (Some(_) | None, _) => {}
            }
        }
        if let Some(asked) = self.security {
            match has {
                Some(class) if class.security.contains(&asked) => {}
                Some(class) => return not_met("security", &asked, &format!(", which takes {}", list(&class.security))),
                None => return not_met("security", &asked, ""),
            }
        }
        if let Some(Game { r#type, .. }) = &self.game {
            match has {
                Some(class) if class.game_types.contains(r#type) => {}
                Some(class) => {
                    return not_met("game.type", r#type, &format!(", which takes {}", list(&class.game_types)));
                }
                None => return not_met("game.type", r#type, ""),
            }
        }
        Ok(())
    }

    /// Second side: what it makes of what is asked (R-001-1). Figures below its own floors become those, where that is negotiable.
    pub(crate) fn granted(&self, field: &str, node: &NodeName, floors: QualityFloors) -> Result<Self, Refusal> {
        let floors = [floors.delay_ms_min, floors.jitter_ms_min, floors.loss_ppm_min];
        let mut values = [None; 3];
        for (value, ((name, asked), floor)) in values.iter_mut().zip(self.figures().into_iter().zip(floors)) {
            let given = asked.map(|asked| asked.max(floor.unwrap_or_default()));
            if let (Some(asked), Some(given)) = (asked, given)
                && given > asked
                && !self.negotiable
            {
                let has = format!(
                    "node {node}, the second side, promises no less than {given}; ask for that, or for negotiable"
                );
                return Err(not_met(&format!("{field}.quality.{name}"), &asked, &has));
            }
            *value = given;
        }
        let [delay_ms_max, jitter_ms_max, loss_ppm_max] = values;
        Ok(Self { delay_ms_max, jitter_ms_max, loss_ppm_max, ..self.clone() })
    }

    /// Whether the second side may answer `given` where this is asked.
    pub(crate) fn may_become(&self, given: &Self) -> bool {
        let kept = Self {
            delay_ms_max: self.delay_ms_max,
            jitter_ms_max: self.jitter_ms_max,
            loss_ppm_max: self.loss_ppm_max,
            ..given.clone()
        };
        let mut figures = self.figures().into_iter().zip(given.figures());
        kept == *self
            && figures.all(|((_, asked), (_, given))| match (asked, given) {
                (Some(asked), Some(given)) => given == asked || (self.negotiable && given > asked),
                (asked, given) => asked == given,
            })
    }
}

/// No flow that another node asks for is promised smaller figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QualityFloors {
    /// Milliseconds.
    pub delay_ms_min: Option<u32>,
    /// Milliseconds.
    pub jitter_ms_min: Option<u32>,
    /// Packets of a million.
    pub loss_ppm_min: Option<u32>,
}

fn not_met(field: &str, asked: &dyn fmt::Display, has: &str) -> Refusal {
    Refusal::new(Reason::QualityNotMet, format!("{field} is {asked}; {has}")).at(field)
}

fn list(items: &[impl fmt::Display]) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Class {
    /// The classes that every node knows unless its configuration has others of these names.
    #[must_use]
    pub fn of_rfc_4594() -> BTreeMap<ClassName, Self> {
        let class = |dscp, excess_dscp, figures: (u32, Option<u32>, u32)| Self {
            dscp,
            excess_dscp,
            deliver_dscp: None,
            delay_ms: Some(figures.0),
            jitter_ms: figures.1,
            loss_ppm: Some(figures.2),
            security: Security::all(),
            game_types: Vec::new(),
        };
        // ITU-T Y.1541 class 0: real-time, sensitive to jitter, highly interactive.
        let interactive = (100, Some(50), 1_000);
        let known = [
            ("telephony", class(46, None, interactive)),
            // Class 2: transactions, highly interactive, such as signalling.
            ("signaling", class(40, None, (100, None, 1_000))),
            // AF41, in excess AF42.
            ("multimedia_conferencing", class(34, Some(36), interactive)),
            ("real_time_interactive", class(32, None, interactive)),
            // Class 4: video streaming. AF31, in excess AF32.
            ("multimedia_streaming", class(26, Some(28), (1_000, None, 1_000))),
            // Class 7, provisional: television of high bit rate.
            ("broadcast_video", class(24, None, (400, Some(50), 10))),
        ];
        known.into_iter().filter_map(|(name, class)| Some((name.parse().ok()?, class))).collect()
    }

    /// What is wrong with it: the field, its value, and what is allowed.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String, String)> {
        let mut faults = Vec::new();
        let numbers = [
            ("dscp", Some(self.dscp.into()), DSCP_MAX.into()),
            ("excess_dscp", self.excess_dscp.map(u32::from), DSCP_MAX.into()),
            ("deliver_dscp", self.deliver_dscp.map(u32::from), DSCP_MAX.into()),
            ("delay_ms", self.delay_ms, TIME_MS_MAX),
            ("jitter_ms", self.jitter_ms, TIME_MS_MAX),
            ("loss_ppm", self.loss_ppm, LOSS_PPM_MAX),
        ];
        for (field, value, most) in numbers {
            if let Some(value) = value.filter(|value| *value > most) {
                faults.push((field, value.to_string(), format!("0 to {most}")));
            }
        }
        let is_twice = |index: usize, item| self.security[..index].contains(item);
        if self.security.is_empty() || self.security.iter().enumerate().any(|(index, item)| is_twice(index, item)) {
            faults.push((
                "security",
                format!("[{}]", list(&self.security)),
                format!("some of {}, once each", list(&Security::ALL)),
            ));
        }
        if self.game_types.len() > GAME_TYPES_MAX {
            faults.push((
                "game_types",
                format!("{} names", self.game_types.len()),
                format!("at most {GAME_TYPES_MAX}"),
            ));
        }
        faults
    }

    /// How its aggregates' packets are marked.
    pub(crate) fn marking(&self) -> Marking {
        Marking {
            dscp: Dscp::Set(self.dscp),
            excess_dscp: self.excess_dscp,
            deliver_dscp: self.deliver_dscp.map_or(Dscp::Copy, Dscp::Set),
        }
    }

    /// Each field in which another node knows it otherwise, with both values.
    fn differences(&self, theirs: &Self) -> Vec<String> {
        let text = |value: Option<u32>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
        let byte = |value: Option<u8>| text(value.map(u32::from));
        let fields = [
            ("dscp", byte(Some(self.dscp)), byte(Some(theirs.dscp))),
            ("excess_dscp", byte(self.excess_dscp), byte(theirs.excess_dscp)),
            ("deliver_dscp", byte(self.deliver_dscp), byte(theirs.deliver_dscp)),
            ("delay_ms", text(self.delay_ms), text(theirs.delay_ms)),
            ("jitter_ms", text(self.jitter_ms), text(theirs.jitter_ms)),
            ("loss_ppm", text(self.loss_ppm), text(theirs.loss_ppm)),
            ("security", list(&self.security), list(&theirs.security)),
            ("game_types", list(&self.game_types), list(&theirs.game_types)),
        ];
        let differs = fields.into_iter().filter(|(_, ours, theirs)| ours != theirs);
        differs.map(|(field, ours, theirs)| format!("{field} is {ours} here and {theirs} there")).collect()
    }
}

impl AggregateRequest {
    /// Its marking and burst, as they are asked for or as its class has them. What is asked for beside a class must be what the class has.
    pub(crate) fn values(&self, named: Option<&NamedClass>) -> Result<(Marking, u32), Refusal> {
        let burst = |asked: Option<u32>, filled: Option<u32>| {
            let allowed = "bytes, or a class with jitter_ms, from which it follows";
            asked.or(filled).ok_or_else(|| Refusal::invalid("burst_bytes", "missing", allowed))
        };
        let Some(NamedClass { name, class }) = named else {
            return Ok((self.marking()?, burst(self.burst_bytes, None)?));
        };
        let Class { dscp, excess_dscp, deliver_dscp, .. } = class;
        let values = [
            ("dscp", self.dscp, Some(*dscp)),
            ("excess_dscp", self.excess_dscp, *excess_dscp),
            ("deliver_dscp", self.deliver_dscp, *deliver_dscp),
        ];
        for (field, asked, has) in values {
            if let Some(asked) = asked.filter(|asked| Some(*asked) != has) {
                let has = has.map_or_else(|| "none".to_owned(), |has| has.to_string());
                return Err(Refusal::invalid(field, asked, format!("{has}, as class {name} has it; or leave it out")));
            }
        }
        let marking = class.marking();
        let policies = [
            ("dscp_policy", self.dscp_policy, marking.dscp.policy()),
            ("deliver_dscp_policy", self.deliver_dscp_policy, marking.deliver_dscp.policy()),
        ];
        for (field, asked, has) in policies {
            if asked.is_some_and(|asked| asked != has) {
                let word = |policy| match policy {
                    DscpPolicy::Set => "set",
                    DscpPolicy::Copy => "copy",
                    DscpPolicy::Map => "map",
                };
                let asked = asked.map_or("none", word);
                let allowed = format!("{}, as class {name} has it; or leave it out", word(has));
                return Err(Refusal::invalid(field, asked, allowed));
            }
        }
        // What comes within the jitter may come at once.
        let filled = class.jitter_ms.map(|jitter_ms| {
            let bytes = u128::from(self.rate_bps) * u128::from(jitter_ms) / 8_000;
            u32::try_from(bytes).unwrap_or(u32::MAX).max(BURST_BYTES_MIN)
        });
        Ok((marking, burst(self.burst_bytes, filled)?))
    }
}

impl crate::Broker {
    /// This node's classes, by name.
    pub fn classes(&self) -> impl Iterator<Item = (&ClassName, &Class)> {
        self.config.classes.iter()
    }

    /// At the sender: the class of an aggregate that is asked for. One that is there keeps what its class was when it was reserved, so a
    /// repeated request means that.
    pub(crate) fn class_of_request(&self, aggregate: &AggregateName, name: &ClassName) -> Result<NamedClass, Refusal> {
        let there = self.aggregates.get(aggregate).and_then(|aggregate| aggregate.record.class.as_ref());
        if let Some(class) = there.filter(|class| class.name == *name) {
            return Ok(class.clone());
        }
        let Some(class) = self.config.classes.get(name) else {
            let known: Vec<&ClassName> = self.config.classes.keys().collect();
            return Err(Refusal::invalid("class", name, list(&known)));
        };
        Ok(NamedClass { name: name.clone(), class: class.clone() })
    }

    /// At the receiver: both ends must know a class as the same.
    pub(crate) fn check_class(&self, peer: &NodeName, theirs: Option<&NamedClass>) -> Result<(), Refusal> {
        let Some(NamedClass { name, class }) = theirs else { return Ok(()) };
        let node = &self.config.node;
        let why = match self.config.classes.get(name) {
            None => "it is not known here".to_owned(),
            Some(ours) if ours == class => return Ok(()),
            Some(ours) => ours.differences(class).join(", "),
        };
        let detail = format!("class {name} of {peer} is another at {node}: {why}; configure the same on both");
        Err(Refusal::new(Reason::ClassDiffers, detail).at("class"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> NamedClass {
        let name: ClassName = name.parse().unwrap();
        NamedClass { class: Class::of_rfc_4594()[&name].clone(), name }
    }

    fn request() -> AggregateRequest {
        AggregateRequest {
            name: "ab".parse().unwrap(),
            peer: "b".parse().unwrap(),
            rate_bps: 8_000_000,
            burst_bytes: None,
            class: Some("telephony".parse().unwrap()),
            dscp_policy: None,
            dscp: None,
            excess_dscp: None,
            deliver_dscp_policy: None,
            deliver_dscp: None,
            tag: crate::policy::Tag::Label,
            when_full: crate::WhenFull::Refuse,
            emergency_percent: 0,
        }
    }

    #[test]
    fn classes_of_rfc_4594_have_its_code_points_and_no_faults() {
        let known = Class::of_rfc_4594();
        let dscps: Vec<_> = known.iter().map(|(name, class)| (name.as_str(), class.dscp)).collect();
        let expected = [
            ("broadcast_video", 24),
            ("multimedia_conferencing", 34),
            ("multimedia_streaming", 26),
            ("real_time_interactive", 32),
            ("signaling", 40),
            ("telephony", 46),
        ];
        assert_eq!(dscps, expected);
        assert!(known.values().all(|class| class.faults().is_empty()));
    }

    #[test]
    fn faults_name_field_value_and_what_is_allowed() {
        let class = Class {
            dscp: 64,
            loss_ppm: Some(1_000_001),
            delay_ms: Some(100_001),
            security: vec![Security::None, Security::None],
            ..named("telephony").class
        };
        let fields: Vec<_> = class.faults().into_iter().map(|(field, value, _)| (field, value)).collect();
        let expected = [("dscp", "64"), ("delay_ms", "100001"), ("loss_ppm", "1000001"), ("security", "[none, none]")];
        assert_eq!(fields, expected.map(|(field, value)| (field, value.to_owned())));
        assert_eq!(Class { security: vec![], ..named("telephony").class }.faults()[0].0, "security");
    }

    #[test]
    fn a_class_gives_marking_and_burst() {
        let (marking, burst_bytes) = request().values(Some(&named("telephony"))).unwrap();
        let expected = Marking { dscp: Dscp::Set(46), excess_dscp: None, deliver_dscp: Dscp::Copy };
        assert_eq!((marking, burst_bytes), (expected, 50_000), "8 Mbit/s for 50 ms");
        let slow = AggregateRequest { rate_bps: 10_000, ..request() };
        assert_eq!(slow.values(Some(&named("telephony"))).unwrap().1, BURST_BYTES_MIN);
        let given = AggregateRequest { burst_bytes: Some(7_000), dscp: Some(46), ..request() };
        assert_eq!(given.values(Some(&named("telephony"))).unwrap(), (expected, 7_000));
        let refusal = request().values(Some(&named("signaling"))).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("burst_bytes"), "it has no jitter to follow from");
    }

    #[test]
    fn what_is_asked_beside_a_class_must_be_what_it_has() {
        let cases = [
            (AggregateRequest { dscp: Some(34), ..request() }, "dscp"),
            (AggregateRequest { excess_dscp: Some(8), ..request() }, "excess_dscp"),
            (AggregateRequest { deliver_dscp: Some(0), ..request() }, "deliver_dscp"),
            (AggregateRequest { dscp_policy: Some(DscpPolicy::Copy), ..request() }, "dscp_policy"),
            (AggregateRequest { deliver_dscp_policy: Some(DscpPolicy::Map), ..request() }, "deliver_dscp_policy"),
        ];
        for (request, field) in cases {
            let refusal = request.values(Some(&named("telephony"))).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(field), "{}", refusal.detail);
        }
    }

    #[test]
    fn differences_are_named_with_both_values() {
        let ours = named("telephony").class;
        let theirs = Class { delay_ms: Some(40), security: vec![Security::SrtpDtls], ..ours.clone() };
        assert_eq!(
            ours.differences(&theirs),
            ["delay_ms is 100 here and 40 there", "security is none, srtp_sdes, srtp_dtls here and srtp_dtls there"]
        );
    }

    #[test]
    fn the_second_side_may_only_raise_figures_that_are_negotiable() {
        let asked = Quality { delay_ms_max: Some(100), security: Some(Security::None), ..Quality::default() };
        let floors = QualityFloors { delay_ms_min: Some(120), loss_ppm_min: Some(5), ..QualityFloors::default() };
        let node: NodeName = "b".parse().unwrap();
        let refusal = asked.granted("flows[0]", &node, floors).unwrap_err();
        assert_eq!(
            (refusal.reason, refusal.field.as_deref()),
            (Reason::QualityNotMet, Some("flows[0].quality.delay_ms_max"))
        );
        let negotiable = Quality { negotiable: true, ..asked.clone() };
        let given = negotiable.granted("flows[0]", &node, floors).unwrap();
        assert_eq!((given.delay_ms_max, given.loss_ppm_max), (Some(120), None), "what is not asked is not promised");
        assert!(negotiable.may_become(&given) && asked.may_become(&asked));
        assert!(!asked.may_become(&Quality { delay_ms_max: Some(120), ..asked.clone() }));
        assert!(!negotiable.may_become(&Quality { delay_ms_max: Some(99), ..negotiable.clone() }));
        assert!(!negotiable.may_become(&Quality { delay_ms_max: None, ..negotiable.clone() }));
        assert!(!negotiable.may_become(&Quality { security: None, ..negotiable.clone() }));
    }
}
