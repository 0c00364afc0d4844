//! `[data_plane]`: the ports, the addresses and the rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use turnpike_broker::address::{Family, allowed_instead};

use super::Faults;

/// DSCPs have 6 bits.
const DSCPS: usize = 64;

/// `[data_plane]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlane {
    /// The interface of the site.
    pub lan: String,
    /// The interface of the peers; the same one where the node has only one.
    pub wan: String,
    /// How to attach.
    #[serde(default)]
    pub xdp_mode: XdpMode,
    /// This node's addresses for tagged packets: one, or one of each family.
    #[serde(rename = "tag_address", deserialize_with = "one_or_more")]
    pub tag_addresses: Vec<IpAddr>,
    /// The port of tagged packets, the same on all nodes.
    #[serde(default = "default_tag_port")]
    pub tag_port: u16,
    /// What becomes of packets of no admitted flow.
    #[serde(default)]
    pub unadmitted: Unadmitted,
    /// What becomes of fragments from the site.
    #[serde(default)]
    pub fragments: Fragments,
    /// For aggregates whose `dscp_policy` is `map`.
    #[serde(default)]
    pub dscp_map_out: DscpMap,
    /// For aggregates whose `deliver_dscp_policy` is `map`.
    #[serde(default)]
    pub dscp_map_in: DscpMap,
    /// When the data plane lets reservations lapse if this program is gone.
    #[serde(default = "default_lapse_after_s")]
    pub lapse_after_s: u64,
}

/// How the programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// Native or not at all.
    Native,
    /// Generic.
    Generic,
}

/// What becomes of packets of no admitted flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unadmitted {
    /// They pass.
    Pass,
    /// They pass within what aggregates leave of the link.
    #[default]
    Limit,
    /// They are dropped.
    Drop,
}

/// What becomes of fragments from the site: without ports they belong to no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fragments {
    /// What becomes of packets of no admitted flow.
    #[default]
    Unadmitted,
    /// They are dropped.
    Drop,
}

/// New DSCPs by the old ones; those that are not in it stay as they are. Keys and values are 0 to 63 once the configuration was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct DscpMap(BTreeMap<String, i64>);

impl DscpMap {
    /// The new DSCP of each.
    #[must_use]
    pub fn table(&self) -> [u8; DSCPS] {
        let mut table = [0; DSCPS];
        for (old, new) in (0..).zip(&mut table) {
            *new = old;
        }
        for (from, to) in &self.0 {
            if let (Some(from), Some(to)) = (dscp(from), u8::try_from(*to).ok())
                && let Some(new) = table.get_mut(usize::from(from))
            {
                *new = to;
            }
        }
        table
    }

    fn check(&self, key: &str, faults: &mut Faults) {
        for (from, to) in &self.0 {
            if dscp(from).is_none() {
                faults.add(key, format!("{{ {from} = {to} }}"), "a table with keys from 0 to 63");
            } else if !(0..DSCPS as i64).contains(to) {
                faults.add(&format!("{key}.{from}"), to, "0 to 63");
            }
        }
    }
}

/// A key of a [`DscpMap`], written as numbers are, so that none can be there twice.
fn dscp(key: &str) -> Option<u8> {
    key.parse().ok().filter(|dscp: &u8| usize::from(*dscp) < DSCPS && dscp.to_string() == key)
}

fn default_tag_port() -> u16 {
    47_700
}

fn default_lapse_after_s() -> u64 {
    300
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "must be an IP address, or a list with one of each family")]
    enum OneOrMore {
        One(IpAddr),
        More(Vec<IpAddr>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(address) => vec![address],
        OneOrMore::More(addresses) => addresses,
    })
}

impl DataPlane {
    /// Whether this node has a tag address of that family.
    pub(super) fn has(&self, family: Family) -> bool {
        self.tag_addresses.iter().any(|address| Family::of(*address) == family)
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        for (key, name) in [("data_plane.lan", &self.lan), ("data_plane.wan", &self.wan)] {
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
                faults.add(key, format!("{name:?}"), "an interface's name of 1 to 15 characters");
            }
        }
        for address in &self.tag_addresses {
            check_tag_address("data_plane.tag_address", *address, faults);
        }
        let of = |family| self.tag_addresses.iter().filter(|address| Family::of(**address) == family).count();
        let counts = [of(Family::Ipv4), of(Family::Ipv6)];
        if counts == [0, 0] || counts.iter().any(|count| *count > 1) {
            let texts: Vec<_> = self.tag_addresses.iter().map(IpAddr::to_string).collect();
            let allowed = "one address, or one of each family";
            faults.add("data_plane.tag_address", format!("[{}]", texts.join(", ")), allowed);
        }
        faults.check("data_plane.tag_port", u64::from(self.tag_port), 1..=65_535);
        self.dscp_map_out.check("data_plane.dscp_map_out", faults);
        self.dscp_map_in.check("data_plane.dscp_map_in", faults);
        faults.check("data_plane.lapse_after_s", self.lapse_after_s, 10..=86_400);
    }
}

pub(super) fn check_tag_address(key: &str, address: IpAddr, faults: &mut Faults) {
    if let Some(allowed) = allowed_instead(address) {
        faults.add(key, address, allowed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_changes_what_it_names_and_leaves_the_rest() {
        let map: DscpMap = toml::from_str("0 = 8\n46 = 34").unwrap();
        let table = map.table();
        assert_eq!((table[0], table[46], table[34], table[63]), (8, 34, 34, 63));
        assert!(DscpMap::default().table().iter().enumerate().all(|(old, new)| old == usize::from(*new)));
    }
}
