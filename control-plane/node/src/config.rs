//! The configuration: one TOML file, checked as a whole before anything starts.

pub(crate) mod authorization;
mod capacity;
mod data_plane;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use hyper::Uri;
use hyper::http::uri::Authority;
use rustls::pki_types::DnsName;
use serde::Deserialize;
use turnpike_broker::address::Family;
use turnpike_broker::class::{CLASSES_MAX, Class, LOSS_PPM_MAX, TIME_MS_MAX};
use turnpike_broker::name::{ClassName, LinkName, NameError, NodeName};

pub use authorization::Authorization;
pub use capacity::{Capacity, MediaSlots};
pub use data_plane::{DataPlane, DscpMap, Fragments, Unadmitted, XdpMode};

/// As many as the data plane's table holds.
const PEERS_MAX: usize = 64;

/// Everything `turnpike serve` needs to know. `node.example.toml` documents every key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, and that of its certificate.
    pub node: NodeName,
    /// Where the database is.
    pub state_dir: PathBuf,
    /// Where programs and maps are pinned.
    #[serde(default = "default_pin_dir")]
    pub pin_dir: PathBuf,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// The REST API.
    #[serde(default)]
    pub api: Api,
    /// The ports and the rules of the data plane.
    pub data_plane: DataPlane,
    /// The link towards the peers.
    pub link: Link,
    /// What the node as a whole can forward.
    #[serde(default)]
    pub capacity: Capacity,
    /// Its media-processing slots.
    #[serde(default)]
    pub media_slots: MediaSlots,
    /// Sizes that are fixed at start.
    #[serde(default)]
    pub limits: Limits,
    /// What aggregates may be of, beside the classes of RFC 4594 or in place of those.
    #[serde(default)]
    pub classes: BTreeMap<ClassName, Class>,
    /// What this node grants to sessions that a peer asks for.
    #[serde(default)]
    pub second_side: SecondSide,
    /// Whose tokens count.
    #[serde(default)]
    pub authorization: Authorization,
    /// Needed where there are peers.
    pub peering: Option<Peering>,
    /// The other nodes.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// `[api]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Loopback only.
    pub listen: SocketAddr,
}

/// `[link]`
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "LinkTable")]
pub struct Link {
    /// Its name.
    pub name: LinkName,
    /// Towards the peers.
    pub rate_out_bps: u64,
    /// From the peers.
    pub rate_in_bps: u64,
    /// The most that aggregates of a class may have of it together, in each direction, in per cent.
    pub class_percent_max: BTreeMap<ClassName, u8>,
}

/// `[link]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkTable {
    name: Option<LinkName>,
    rate_out_bps: u64,
    rate_in_bps: u64,
    #[serde(default)]
    class_percent_max: BTreeMap<ClassName, u8>,
}

impl TryFrom<LinkTable> for Link {
    type Error = NameError;

    fn try_from(table: LinkTable) -> Result<Self, NameError> {
        let name = table.name.map_or_else(|| "wan".parse(), Ok)?;
        let LinkTable { rate_out_bps, rate_in_bps, class_percent_max, .. } = table;
        Ok(Self { name, rate_out_bps, rate_in_bps, class_percent_max })
    }
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Flows at once.
    pub flows_max: u32,
    /// Aggregates at once.
    pub aggregates_max: u32,
    /// Sessions at once.
    pub sessions_max: u32,
    /// Ended sessions that can still be asked for.
    pub sessions_ended_max: u32,
    /// Flows of one session.
    pub flows_per_session_max: u32,
    /// Requests under way at once.
    pub requests_max: u32,
    /// Questions whether a session would be admitted, under way at once.
    pub questions_max: u32,
    /// Sessions that wait for room.
    pub watches_max: u32,
    /// Body of one request.
    pub body_bytes_max: u32,
    /// How long one request may take.
    pub request_timeout_s: u64,
}

/// `[second_side]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondSide {
    /// No flow gets more than this.
    pub flow_rate_bps_max: Option<u64>,
    /// No flow gets more excess than this; none at all if it is 0.
    pub flow_excess_rate_bps_max: Option<u64>,
    /// Grant less where the pool has less, down to the smallest rate asked.
    #[serde(default)]
    pub lower_to_fit: bool,
    /// No flow is promised a smaller delay than this.
    pub delay_ms_min: Option<u32>,
    /// No flow is promised less jitter than this.
    pub jitter_ms_min: Option<u32>,
    /// No flow is promised less loss than this.
    pub loss_ppm_min: Option<u32>,
}

/// `[peering]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peering {
    /// Where peers connect to.
    pub listen: SocketAddr,
    /// PEM: this node's certificate, then those between it and the CA.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: who signs nodes' certificates.
    pub ca: PathBuf,
}

/// `[[peers]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name, and that of its certificate.
    pub name: NodeName,
    /// Where its tagged packets come from and go to.
    pub tag_address: IpAddr,
    /// `https://host:port`
    pub url: String,
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7880)) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_max: 65_536,
            aggregates_max: 4_096,
            sessions_max: 65_536,
            sessions_ended_max: 4_096,
            flows_per_session_max: 16,
            requests_max: 1_024,
            questions_max: 256,
            watches_max: 256,
            body_bytes_max: 65_536,
            request_timeout_s: 30,
        }
    }
}

fn default_pin_dir() -> PathBuf {
    PathBuf::from("/sys/fs/bpf/turnpike")
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is not TOML, or has keys or types that are not known.
    #[error("{}: {error}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        error: toml::de::Error,
    },
    /// Values are wrong: all of them, one per line.
    #[error("{}:\n  {}", path.display(), faults.join("\n  "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Each names key, value and what is allowed.
        faults: Vec<String>,
    },
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Checks `text`; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|error| ConfigError::Malformed { path: path.to_owned(), error })?;
        let faults = config.faults();
        if faults.is_empty() { Ok(config) } else { Err(ConfigError::Invalid { path: path.to_owned(), faults }) }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Faults(Vec::new());
        self.data_plane.check(&mut faults);
        self.check_rates(&mut faults);
        capacity::check(&self.capacity, &self.media_slots, &mut faults);
        self.check_limits(&mut faults);
        self.check_classes(&mut faults);
        self.check_peers(&mut faults);
        self.authorization.check(&mut faults);
        if !self.api.listen.ip().is_loopback() {
            let listen = self.api.listen;
            faults.add("api.listen", listen, "a loopback address, because the API has no authentication yet");
        }
        faults.0
    }

    fn check_rates(&self, faults: &mut Faults) {
        faults.check("link.rate_out_bps", self.link.rate_out_bps, 1_000..=400_000_000_000);
        faults.check("link.rate_in_bps", self.link.rate_in_bps, 1_000..=400_000_000_000);
        if let Some(rate) = self.second_side.flow_rate_bps_max {
            faults.check("second_side.flow_rate_bps_max", rate, 1..=400_000_000_000);
        }
        if let Some(rate) = self.second_side.flow_excess_rate_bps_max {
            faults.check("second_side.flow_excess_rate_bps_max", rate, 0..=400_000_000_000);
        }
    }

    fn check_limits(&self, faults: &mut Faults) {
        let limits = &self.limits;
        if !limits.flows_max.is_power_of_two() || !(8..=1_048_576).contains(&limits.flows_max) {
            faults.add("limits.flows_max", limits.flows_max, "a power of two, 8 to 1048576");
        }
        faults.check("limits.aggregates_max", limits.aggregates_max.into(), 1..=65_534);
        faults.check("limits.sessions_max", limits.sessions_max.into(), 1..=1_048_576);
        faults.check("limits.sessions_ended_max", limits.sessions_ended_max.into(), 0..=1_048_576);
        faults.check("limits.flows_per_session_max", limits.flows_per_session_max.into(), 1..=1_024);
        faults.check("limits.requests_max", limits.requests_max.into(), 1..=65_536);
        faults.check("limits.questions_max", limits.questions_max.into(), 0..=65_536);
        faults.check("limits.watches_max", limits.watches_max.into(), 0..=65_536);
        faults.check("limits.body_bytes_max", limits.body_bytes_max.into(), 1_024..=16_777_216);
        faults.check("limits.request_timeout_s", limits.request_timeout_s, 1..=600);
    }

    /// The classes of RFC 4594, and the configured ones, which replace those of the same name.
    pub(crate) fn all_classes(&self) -> BTreeMap<ClassName, Class> {
        let mut classes = Class::of_rfc_4594();
        classes.extend(self.classes.clone());
        classes
    }

    fn check_classes(&self, faults: &mut Faults) {
        let count = self.all_classes().len();
        if count > CLASSES_MAX {
            faults.add("classes", format!("{count} with those of RFC 4594"), &format!("at most {CLASSES_MAX}"));
        }
        for (name, percent) in &self.link.class_percent_max {
            faults.check(&format!("link.class_percent_max.{name}"), u64::from(*percent), 1..=100);
            if !self.all_classes().contains_key(name) {
                faults.add("link.class_percent_max", name, "a class of RFC 4594 or of [classes]");
            }
        }
        for (name, class) in &self.classes {
            for (field, value, allowed) in class.faults() {
                faults.add(&format!("classes.{name}.{field}"), value, &allowed);
            }
        }
        let second = &self.second_side;
        let floors = [
            ("delay_ms_min", second.delay_ms_min, TIME_MS_MAX),
            ("jitter_ms_min", second.jitter_ms_min, TIME_MS_MAX),
            ("loss_ppm_min", second.loss_ppm_min, LOSS_PPM_MAX),
        ];
        for (field, floor, most) in floors {
            if let Some(floor) = floor {
                faults.check(&format!("second_side.{field}"), floor.into(), 0..=most.into());
            }
        }
    }

    fn check_peers(&self, faults: &mut Faults) {
        if self.peering.is_none() && !self.peers.is_empty() {
            faults.0.push("[peering] is missing: it is needed where there are [[peers]]".to_owned());
        }
        check_host_name("node", &self.node, faults);
        if self.peers.len() > PEERS_MAX {
            faults.add("peers", format!("{} tables", self.peers.len()), &format!("at most {PEERS_MAX}"));
        }
        let mut names = BTreeSet::from([&self.node]);
        let mut addresses: BTreeSet<IpAddr> = self.data_plane.tag_addresses.iter().copied().collect();
        for (index, peer) in self.peers.iter().enumerate() {
            let key = |field: &str| format!("peers[{index}].{field}");
            check_host_name(&key("name"), &peer.name, faults);
            if !names.insert(&peer.name) {
                faults.add(&key("name"), &peer.name, "a name that neither this node nor another peer has");
            }
            data_plane::check_tag_address(&key("tag_address"), peer.tag_address, faults);
            let family = Family::of(peer.tag_address);
            if !self.data_plane.has(family) {
                let allowed =
                    format!("of a family that this node has, too; data_plane.tag_address has no {family} address");
                faults.add(&key("tag_address"), peer.tag_address, &allowed);
            }
            if !addresses.insert(peer.tag_address) {
                let allowed = "an address that neither this node nor another peer has";
                faults.add(&key("tag_address"), peer.tag_address, allowed);
            }
            if peer.authority().is_none() {
                faults.add(&key("url"), format!("{:?}", peer.url), "https://host:port, and nothing behind it");
            }
        }
    }
}

impl Peer {
    /// `host:port` of its URL, if it is one that we can use.
    #[must_use]
    pub fn authority(&self) -> Option<String> {
        let url: Uri = self.url.parse().ok()?;
        let plain = matches!(url.path(), "" | "/") && url.query().is_none();
        let usable = |authority: &&Authority| !authority.host().is_empty() && !authority.as_str().contains('@');
        let authority = url.authority().filter(usable)?;
        (plain && url.scheme_str() == Some("https") && authority.port_u16().is_some_and(|port| port != 0))
            .then(|| authority.to_string())
    }
}

/// Certificates carry nodes' names as host names.
fn check_host_name(key: &str, name: &NodeName, faults: &mut Faults) {
    if DnsName::try_from(name.as_str()).is_err() {
        faults.add(key, name, "a name that can be a host name in a certificate, such as edge-1.example");
    }
}

struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, key: &str, value: impl Display, allowed: &str) {
        self.0.push(format!("{key} = {value}: must be {allowed}"));
    }

    fn check(&mut self, key: &str, value: u64, allowed: RangeInclusive<u64>) {
        if !allowed.contains(&value) {
            self.add(key, value, &format!("{} to {}", allowed.start(), allowed.end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../node.example.toml");
    const OWN: &str = "tag_address = \"192.0.2.1\"";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("node.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_valid_and_shows_every_default() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.peers.len(), 1);
        // Taking the optional tables away changes nothing: what the example shows there are the defaults.
        let bare = EXAMPLE.split("[api]").next().unwrap().to_owned()
            + "[data_plane]\nlan = \"eth0\"\nwan = \"eth1\"\ntag_address = \"192.0.2.1\"\n"
            + "[link]\nrate_out_bps = 1000000000\nrate_in_bps = 1000000000\n";
        let bare = parse(&bare).unwrap();
        let (bare, shown) = (format!("{bare:?}"), format!("{:?}", Config { peering: None, peers: vec![], ..config }));
        assert_eq!(bare, shown);
    }

    #[test]
    fn every_fault_names_key_value_and_what_is_allowed() {
        let cases = [
            ("lapse_after_s = 300", "lapse_after_s = 3", "data_plane.lapse_after_s = 3: must be 10 to 86400"),
            ("127.0.0.1:7880", "0.0.0.0:7880", "api.listen = 0.0.0.0:7880: must be a loopback address"),
            ("flows_max = 65536", "flows_max = 0", "limits.flows_max = 0: must be a power of two, 8 to 1048576"),
            ("wan = \"eth1\"", "wan = \"eth/1\"", "data_plane.wan = \"eth/1\": must be an interface's name"),
            ("\"https://198.51.100.7:7443\"", "\"https://:1\"", "peers[0].url = \"https://:1\": must be https://"),
            ("\"https://198.51.100.7:7443\"", "\"http://x:1\"", "peers[0].url = \"http://x:1\": must be https://"),
            ("name = \"edge-b\"", "name = \"edge-a\"", "peers[0].name = edge-a: must be a name that neither"),
            (
                "name = \"edge-b\"",
                "name = \"1.2.3.4\"",
                "peers[0].name = 1.2.3.4: must be a name that can be a host name",
            ),
            (
                "tag_address = \"198.51.100.7\"",
                "tag_address = \"224.0.0.1\"",
                "peers[0].tag_address = 224.0.0.1: must be",
            ),
            (OWN, "tag_address = \"192.0.2.300\"", "must be an IP address, or a list"),
            (OWN, "tag_address = []", "data_plane.tag_address = []: must be one address, or one of each family"),
            (
                OWN,
                "tag_address = [\"192.0.2.1\", \"192.0.2.2\"]",
                "data_plane.tag_address = [192.0.2.1, 192.0.2.2]: must be one address, or one of each family",
            ),
            (
                OWN,
                "tag_address = [\"fe80::1\", \"192.0.2.1\"]",
                "tag_address = fe80::1: must be an address that is routed",
            ),
            (OWN, "tag_address = \"2001:db8::1\"", "peers[0].tag_address = 198.51.100.7: must be of a family that"),
            (
                "tag_address = \"198.51.100.7\"",
                "tag_address = \"2001:db8::7\"",
                "peers[0].tag_address = 2001:db8::7: must be of a family that this node has, too; data_plane.tag_address has no IPv6",
            ),
            ("[media_slots]", "[media_slots]\nmixing = 0", "media_slots.mixing = 0: must be 1 to 1000000"),
            ("[media_slots]", "[media_slots]\n\"a b\" = 1", "media slot name \"a b\" must be"),
            ("[capacity]", "[capacity]\nrate_bps = 999", "capacity.rate_bps = 999: must be 1000 to 400000000000"),
            ("fragments = \"unadmitted\"", "fragments = \"pass\"", "unknown variant `pass`"),
            (
                "dscp_map_out = {}",
                "dscp_map_out = { 64 = 0 }",
                "dscp_map_out = { 64 = 0 }: must be a table with keys from 0",
            ),
            (
                "dscp_map_out = {}",
                "dscp_map_out = { 046 = 0 }",
                "dscp_map_out = { 046 = 0 }: must be a table with keys",
            ),
            ("dscp_map_in = {}", "dscp_map_in = { 46 = 64 }", "data_plane.dscp_map_in.46 = 64: must be 0 to 63"),
            (
                "[second_side]",
                "[second_side]\nflow_excess_rate_bps_max = 400000000001",
                "second_side.flow_excess_rate_bps_max = 400000000001: must be 0 to",
            ),
            (
                "[second_side]",
                "[second_side]\nloss_ppm_min = 1000001",
                "second_side.loss_ppm_min = 1000001: must be 0 to 1000000",
            ),
            ("[second_side]", "[classes.own]\ndscp = 64\n[second_side]", "classes.own.dscp = 64: must be 0 to 63"),
            (
                "[second_side]",
                "[link.class_percent_max]\ntelephony = 101\n[second_side]",
                "link.class_percent_max.telephony = 101: must be 1 to 100",
            ),
            (
                "[second_side]",
                "[link.class_percent_max]\nfax = 10\n[second_side]",
                "link.class_percent_max = fax: must be a class of RFC 4594 or of [classes]",
            ),
            ("[second_side]", "[classes.own]\n[second_side]", "missing field `dscp`"),
            ("[second_side]", "[classes.\"a b\"]\ndscp = 1\n[second_side]", "class name \"a b\" must be 1 to 32"),
            ("node = \"edge-a\"", "nod = \"edge-a\"", "unknown field `nod`"),
            ("node = \"edge-a\"", "node = \"edge-a\"\nnode = \"edge-a\"", "duplicate key"),
            ("node = \"edge-a\"", "node = \"edge a\"", "node name \"edge a\" must be 1 to 32 characters"),
            ("tag_port = 47700", "tag_port = 70000", "70000"),
        ];
        for (from, to, expected) in cases {
            assert!(EXAMPLE.contains(from), "{from}");
            let error = parse(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn a_node_may_have_one_interface_and_addresses_of_both_families() {
        let text = EXAMPLE
            .replace("wan = \"eth1\"", "wan = \"eth0\"")
            .replace(OWN, "tag_address = [\"2001:DB8:0::1\", \"192.0.2.1\"]")
            .replace("tag_address = \"198.51.100.7\"", "tag_address = \"2001:db8::7\"");
        let config = parse(&text).unwrap();
        let texts: Vec<_> = config.data_plane.tag_addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(texts, ["2001:db8::1", "192.0.2.1"]);
        assert_eq!(config.peers[0].tag_address.to_string(), "2001:db8::7");
    }

    #[test]
    fn classes_are_those_of_rfc_4594_and_the_configured_ones() {
        let text = EXAMPLE.to_owned()
            + "[classes.telephony]\ndscp = 46\ndelay_ms = 20\n[classes.games]\ndscp = 33\ngame_types = [\"fps\"]\n";
        let classes = parse(&text).unwrap().all_classes();
        assert_eq!(classes.len(), 7);
        let telephony = &classes[&"telephony".parse().unwrap()];
        assert_eq!((telephony.delay_ms, telephony.loss_ppm), (Some(20), None), "it is replaced whole");
        let many: String = (0..59).map(|number| format!("[classes.c{number}]\ndscp = 0\n")).collect();
        let error = parse(&(EXAMPLE.to_owned() + &many)).unwrap_err();
        assert!(error.contains("classes = 65 with those of RFC 4594: must be at most 64"), "{error}");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text =
            EXAMPLE.replace("lapse_after_s = 300", "lapse_after_s = 3").replace("tag_port = 47700", "tag_port = 0");
        assert_eq!(parse(&text).unwrap_err().lines().count(), 3);
    }

    #[test]
    fn peers_need_peering() {
        let text = EXAMPLE.split("[peering]").next().unwrap().to_owned()
            + "[[peers]]\nname = \"edge-b\"\ntag_address = \"198.51.100.7\"\nurl = \"https://198.51.100.7:7443\"\n";
        assert!(parse(&text).unwrap_err().contains("[peering] is missing"));
    }
}
