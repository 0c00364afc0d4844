//! Usage: what was counted of a session, and the ledger's lines about it (R-001-17, R-004-16).

use crate::broker::Broker;
use crate::name::{FlowId, Nanos, NodeName, PolicyId, SessionId};
use crate::policy::Counters;
use crate::quality;
use crate::record::{Change, Direction, FlowRecord, FlowUsage, SessionRecord, UsageKind, UsageRecord};

/// Notes final readings. A flow that has a reading keeps it.
pub(crate) fn note(record: &mut SessionRecord, node: &NodeName, readings: &[(PolicyId, Counters)]) {
    let reading_of = |flow: &FlowRecord| {
        let found = readings.iter().find(|(policy, _)| *policy == flow.policy);
        found.map(|(_, counters)| Some(*counters))
    };
    enter(record, node, reading_of);
}

/// Enters this node's readings; `reading_of` says none for what is not to be entered.
fn enter(record: &mut SessionRecord, node: &NodeName, reading_of: impl Fn(&FlowRecord) -> Option<Option<Counters>>) {
    for flow in &record.flows {
        let Some(counters) = reading_of(flow) else {
            continue;
        };
        if record.usage.iter().any(|usage| usage.node == *node && usage.flow == flow.id) {
            continue;
        }
        record.usage.push(FlowUsage {
            node: node.clone(),
            flow: flow.id.clone(),
            direction: flow.direction,
            reserved_rate_bps: flow.meter.rate_bps,
            counters,
            mos_estimated: counters
                .and_then(|counters| quality::estimate(&flow.media, &counters))
                .filter(|_| flow.direction == Direction::In),
        });
    }
}

/// Completes this node's readings in the order of the flows: zero for what was never in force, none for what has no policy to count it.
pub(crate) fn complete(record: &mut SessionRecord, node: &NodeName) {
    enter(record, node, |flow| Some(flow.has_policy().then(Counters::default)));
    let flows = &record.flows;
    record.usage.sort_by_key(|usage| {
        let place = flows.iter().position(|flow| flow.id == usage.flow);
        (usage.node != *node, place)
    });
}

/// This node's readings.
pub(crate) fn own(record: &SessionRecord, node: &NodeName) -> Vec<FlowUsage> {
    record.usage.iter().filter(|usage| usage.node == *node).cloned().collect()
}

/// Whether this node has a reading of every flow.
pub(crate) fn is_complete(record: &SessionRecord, node: &NodeName) -> bool {
    own(record, node).len() == record.flows.len()
}

/// Adds what the peer counted. Only what it can have counted is taken: its own readings of this session's flows.
pub(crate) fn add_peers(record: &mut SessionRecord, usage: Vec<FlowUsage>) {
    for usage in usage {
        let known = record.flows.iter().any(|flow| flow.id == usage.flow && flow.direction != usage.direction);
        let noted = record.usage.iter().any(|noted| noted.node == usage.node && noted.flow == usage.flow);
        if usage.node == record.peer && known && !noted {
            record.usage.push(usage);
        }
    }
}

impl Broker {
    pub(crate) fn record_start(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        let mut start = session.record.clone();
        complete(&mut start, &self.config.node);
        self.append_usage(UsageKind::Start, &start, now);
    }

    /// Flows of it have other rates from now on (R-001-17).
    pub(crate) fn record_rates(
        &mut self,
        record: &SessionRecord,
        changed: &[FlowId],
        readings: &[(PolicyId, Counters)],
        now: Nanos,
    ) {
        let mut line = SessionRecord { usage: Vec::new(), ..record.clone() };
        line.flows.retain(|flow| changed.contains(&flow.id));
        note(&mut line, &self.config.node, readings);
        complete(&mut line, &self.config.node);
        self.append_usage(UsageKind::Change, &line, now);
    }

    pub(crate) fn record_final(&mut self, record: &SessionRecord, now: Nanos) {
        self.append_usage(UsageKind::Final, record, now);
    }

    fn append_usage(&mut self, kind: UsageKind, record: &SessionRecord, at: Nanos) {
        self.usage_sequence += 1;
        let line = UsageRecord {
            node: self.config.node.clone(),
            epoch: self.config.epoch,
            sequence: self.usage_sequence,
            at,
            kind,
            session: record.id.clone(),
            flows: record.usage.clone(),
        };
        self.persist(Change::AppendUsage(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Quality;
    use crate::media::Media;
    use crate::policy::{Endpoints, Meter, Reception, Rtcp, Tag};
    use crate::record::{SessionState, Side};
    use crate::schedule::Schedule;

    fn record() -> SessionRecord {
        let flow = FlowRecord {
            id: "f".parse().unwrap(),
            aggregate: "ab".parse().unwrap(),
            direction: Direction::Out,
            endpoints: Endpoints { source: "10.0.0.1:1".parse().unwrap(), destination: "10.0.0.2:1".parse().unwrap() },
            rtcp: Rtcp::SamePort,
            asked_rate_bps: 1_000,
            asked_excess: None,
            rate_bps_min: 1_000,
            meter: Meter { rate_bps: 1_000, burst_bytes: 200, packet_bytes_min: 200, excess: None },
            label: None,
            policy: PolicyId(1),
            tag: Tag::Label,
            emergency: false,
            asked_quality: Quality::default(),
            quality: Quality::default(),
            media: Media { codec: Some("PCMU".parse().unwrap()), ..Media::default() },
        };
        let (id, peer) = ("s".parse().unwrap(), "b".parse().unwrap());
        let held = SessionRecord::held(id, Side::First, peer, Schedule::OPEN, vec![flow]);
        SessionRecord { state: SessionState::Releasing, since: Nanos(1), ..held }
    }

    fn reading(node: &str, flow: &str, direction: Direction, offered_packets: u64) -> FlowUsage {
        FlowUsage {
            node: node.parse().unwrap(),
            flow: flow.parse().unwrap(),
            direction,
            reserved_rate_bps: 1_000,
            counters: Some(Counters { offered_packets, ..Counters::default() }),
            mos_estimated: None,
        }
    }

    #[test]
    fn a_peer_speaks_for_itself_about_this_sessions_flows_and_once() {
        let mut record = record();
        let told = vec![
            reading("a", "f", Direction::In, 1),
            reading("b", "g", Direction::In, 2),
            reading("b", "f", Direction::Out, 3),
            reading("b", "f", Direction::In, 4),
            reading("b", "f", Direction::In, 5),
        ];
        add_peers(&mut record, told);
        assert_eq!(record.usage, [reading("b", "f", Direction::In, 4)]);
    }

    #[test]
    fn a_reading_that_was_noted_stays_and_one_that_is_missing_is_zero() {
        let (mut noted, mut missing) = (record(), record());
        let node: NodeName = "a".parse().unwrap();
        let counters = Counters { offered_packets: 7, ..Counters::default() };
        note(&mut noted, &node, &[(PolicyId(1), counters)]);
        assert!(is_complete(&noted, &node) && !is_complete(&missing, &node));
        complete(&mut noted, &node);
        complete(&mut missing, &node);
        assert_eq!(own(&noted, &node), [reading("a", "f", Direction::Out, 7)]);
        assert_eq!(own(&missing, &node), [reading("a", "f", Direction::Out, 0)]);
    }

    #[test]
    fn what_is_not_counted_has_no_figures() {
        let mut record = record();
        let node: NodeName = "a".parse().unwrap();
        (record.flows[0].direction, record.flows[0].tag) = (Direction::In, Tag::Terminals);
        assert!(!is_complete(&record, &node));
        complete(&mut record, &node);
        assert!(is_complete(&record, &node));
        assert_eq!((record.usage[0].counters, record.usage[0].mos_estimated), (None, None));
    }

    #[test]
    fn what_arrived_is_judged_with_the_reading_and_kept_as_the_peer_told_it() {
        let (mut here, mut there) = (record(), record());
        (here.flows[0].direction, there.peer) = (Direction::In, "a".parse().unwrap());
        let node: NodeName = "a".parse().unwrap();
        let reception = Some(Reception { lost_packets: 10, gaps: 10, ..Reception::default() });
        let counters = Counters { passed_packets: 990, reception, ..Counters::default() };
        note(&mut here, &node, &[(PolicyId(1), counters)]);
        assert_eq!(here.usage[0].mos_estimated.map(|mos| mos.to_string()).as_deref(), Some("4.33"));
        assert_eq!(here.usage[0].counters.unwrap().reception, reception);
        add_peers(&mut there, own(&here, &node));
        assert_eq!(there.usage, here.usage);
    }
}
