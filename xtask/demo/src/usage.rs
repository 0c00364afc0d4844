//! Compares what the nodes counted with what the flows' ends counted, packet by packet.

use turnpike_api::{SessionView, UsageRecord};
use turnpike_broker::record::{FlowUsage, UsageKind};

use crate::calls::{Leg, Moment, Way};
use crate::node::{EDGE_A, EDGE_B};

/// A line for each flow whose usage is not exactly what its ends counted. Every packet has `packet_bytes` IP bytes.
#[must_use]
pub fn differing(moment: &Moment, ended: &[(u16, SessionView)], packet_bytes: u64) -> Vec<String> {
    moment.legs().filter_map(|leg| difference(leg, ended, packet_bytes)).collect()
}

fn difference(leg: Leg<'_>, ended: &[(u16, SessionView)], packet_bytes: u64) -> Option<String> {
    let flow = leg.way.flow();
    let name = format!("call {} {flow}", leg.call);
    let Some((_, session)) = ended.iter().find(|(number, _)| *number == leg.call) else {
        return Some(format!("{name}: not ended"));
    };
    let (sender, receiver) = match leg.way {
        Way::Forward => (EDGE_A.name, EDGE_B.name),
        Way::Back => (EDGE_B.name, EDGE_A.name),
    };
    let counted_by = |node: &str| {
        let of_node = |usage: &&FlowUsage| usage.node.as_str() == node && usage.flow.as_str() == flow;
        session.usage.iter().find(of_node).and_then(|usage| usage.counters)
    };
    let (Some(out), Some(into)) = (counted_by(sender), counted_by(receiver)) else {
        return Some(format!(
            "{name}: {} usage entries, {sender} and {receiver} are not both there",
            session.usage.len()
        ));
    };
    let rows = [
        ("offered out, sent", out.offered_packets, leg.sent),
        ("offered bytes out, sent", out.offered_bytes, leg.sent * packet_bytes),
        ("passed in, heard", into.passed_packets, leg.heard.packets),
        ("passed bytes in, heard", into.passed_bytes, leg.heard.ip_bytes),
        ("offered out, passed + dropped", out.offered_packets, out.passed_packets + out.dropped_packets),
        ("offered bytes out, passed + dropped", out.offered_bytes, out.passed_bytes + out.dropped_bytes),
        ("offered in, passed + dropped", into.offered_packets, into.passed_packets + into.dropped_packets),
        ("offered bytes in, passed + dropped", into.offered_bytes, into.passed_bytes + into.dropped_bytes),
        ("offered in, passed out", into.offered_packets, out.passed_packets),
    ];
    let wrong: Vec<_> =
        rows.iter().filter(|(_, a, b)| a != b).map(|(what, a, b)| format!("{what}: {a}, {b}")).collect();
    (!wrong.is_empty()).then(|| format!("{name}: {}", wrong.join("; ")))
}

/// Packets that edge B delivered of the sessions' flows from site A.
#[must_use]
pub fn delivered_forward(ended: &[(u16, SessionView)]) -> u64 {
    let usage = ended.iter().flat_map(|(_, session)| &session.usage);
    let forward =
        usage.filter(|usage| usage.node.as_str() == EDGE_B.name && usage.flow.as_str() == Way::Forward.flow());
    forward.filter_map(|usage| usage.counters).map(|counters| counters.passed_packets).sum()
}

/// How many of `sessions` have a final record.
#[must_use]
pub fn finals(records: &[UsageRecord], sessions: impl Iterator<Item = String>) -> usize {
    let is_final = |record: &UsageRecord| record.kind == UsageKind::Final;
    let has_final =
        |session: &String| records.iter().any(|record| record.session.as_str() == session && is_final(record));
    sessions.filter(has_final).count()
}
