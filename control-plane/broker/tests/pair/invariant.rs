//! What holds after every event, and what holds once the world is at rest.

use super::*;

/// The same ends one port higher, where a flow's RTCP is.
fn rtcp_ends(ends: Endpoints, rtcp: Rtcp) -> Option<Endpoints> {
    let next = |end: std::net::SocketAddr| std::net::SocketAddr::new(end.ip(), end.port() + 1);
    (rtcp == Rtcp::NextPort).then(|| Endpoints { source: next(ends.source), destination: next(ends.destination) })
}

/// What must be held for a flow: while its rate is being changed the larger of both.
fn held_for(record: &SessionRecord, flow: &FlowRecord) -> Meter {
    let changes = record.rate_change.iter().flat_map(|change| &change.flows);
    changes.filter(|change| change.id == flow.id).fold(flow.meter, |held, change| Meter {
        rate_bps: held.rate_bps.max(change.before.rate_bps).max(change.after.rate_bps),
        burst_bytes: held.burst_bytes.max(change.before.burst_bytes).max(change.after.burst_bytes),
        ..held
    })
}

fn session_is_first(sessions: &[&SessionRecord], flow: &FlowRecord) -> bool {
    sessions
        .iter()
        .any(|session| session.side == Side::First && session.flows.iter().any(|own| own.policy == flow.policy))
}

/// What a link has it can carry, but for those that it says it cannot: and of these the last one is one too many.
fn check_link(link: &LinkState, now: Nanos) {
    for (pool, direction) in [(&link.out, Direction::Out), (&link.into, Direction::In)] {
        let of = link.uncarried.iter().filter(|uncarried| uncarried.direction == direction);
        let now: Vec<u64> = of.filter(|of| of.times[0].contains(now)).map(|of| of.rate_bps).collect();
        let left = |gone: &[u64]| pool.used_bps - gone.iter().sum::<u64>();
        assert!(left(&now) <= pool.capacity_bps, "{link:?}");
        if let [before @ .., _] = now.as_slice() {
            assert!(left(before) > pool.capacity_bps, "{link:?}");
        }
    }
}

impl World {
    /// After every event: nothing is given twice, here or in the data plane.
    pub(crate) fn check(&self) {
        for node in self.nodes.iter().filter(|node| !node.down) {
            let aggregates: Vec<_> = node.broker.aggregates().map(|record| record.name.clone()).collect();
            for name in aggregates {
                let pool = node.broker.pool(&name).unwrap();
                assert!(pool.used_bps <= pool.capacity_bps, "{pool:?}");
            }
            let links: Vec<_> = node.broker.links().map(|(name, ..)| name.clone()).collect();
            for name in links {
                check_link(&node.broker.link(&name).unwrap(), node.time_of_last_input);
            }
            node.check_calendars();
            node.check_resources();
            for table in node.broker.tables() {
                assert!(table.used <= table.max, "{table:?}");
            }
            node.check_plane(node.time(self.now));
            node.check_meters();
            node.check_policy_states();
        }
        self.check_receivers();
    }

    /// No sender's meter in force is above its receiver's: what one lets through the other does, too.
    fn check_receivers(&self) {
        let meter = |policy: &Policy| match policy {
            Policy::FlowOut { label, meter, tag: Tag::Label, .. } => Some((*label, Direction::Out, *meter)),
            Policy::FlowIn { label, meter, .. } => Some((*label, Direction::In, *meter)),
            _ => None,
        };
        for (sender, receiver) in [(A, B), (B, A)] {
            let into =
                self.nodes[receiver].plane.values().filter_map(meter).filter(|(_, way, _)| *way == Direction::In);
            let into: BTreeMap<u64, Meter> = into.map(|(label, _, meter)| (label.0, meter)).collect();
            for (label, way, sent) in self.nodes[sender].plane.values().filter_map(meter) {
                let Some(received) = into.get(&label.0).filter(|_| way == Direction::Out) else { continue };
                assert!(
                    sent.rate_bps <= received.rate_bps && sent.burst_bytes <= received.burst_bytes,
                    "{label:?}: {sent:?} is sent and {received:?} received"
                );
            }
        }
    }

    /// A session is answered as active only when both ends carry it, and as booked when both keep it, unless the peer is ending it by now
    /// (R-004-9).
    pub(crate) fn check_answer(&self, node: usize, answer: &Answer) {
        let Answer::Session { record, created: true } = answer else {
            return;
        };
        let peer = &self.nodes[1 - node];
        if record.state == SessionState::Booked {
            let theirs = peer.store.sessions.get(&record.id).expect("the peer knows a booked session");
            assert!(theirs.booked && theirs.schedule == record.schedule, "{theirs:?}");
        }
        if record.state != SessionState::Active {
            return;
        }
        let theirs = peer.store.sessions.get(&record.id).expect("the peer knows an active session");
        assert!(
            matches!(theirs.state, SessionState::Active | SessionState::Releasing | SessionState::Ended),
            "{:?} at the peer",
            theirs.state
        );
        let mut carried = vec![(&self.nodes[node], record)];
        if theirs.state == SessionState::Active && !peer.host_was_lost {
            carried.push((peer, theirs));
        }
        for (node, record) in carried {
            for flow in &record.flows {
                assert!(node.carries(flow), "{} is not installed at {}", flow.id, node.config.node);
            }
        }
    }

    /// At rest: nothing has leaked, and both nodes, both stores and both data planes tell the same story.
    pub(crate) fn check_rest(&self) {
        self.check();
        for node in &self.nodes {
            assert!(node.is_idle(), "somebody waits for an answer of {}", node.config.node);
            node.check_rest();
        }
        let active = |node: usize| -> Vec<_> {
            let sessions = self.nodes[node].broker.sessions();
            let flow = |f: &FlowRecord| {
                let asked = (f.asked_rate_bps, f.rate_bps_min, f.asked_quality.clone(), f.quality.clone());
                (f.id.clone(), f.endpoints, f.rtcp, f.meter, f.label, f.tag, asked)
            };
            sessions.map(|s| (s.id.clone(), s.schedule, s.flows.iter().map(flow).collect::<Vec<_>>())).collect()
        };
        assert_eq!(active(A), active(B), "the nodes carry the same sessions with the same values");
        let aggregates = |node: usize| -> Vec<_> {
            let records = self.nodes[node].broker.aggregates();
            records.map(|r| (r.name.clone(), r.rate_bps, r.burst_bytes, r.marking, r.tag, r.label)).collect()
        };
        assert_eq!(aggregates(A), aggregates(B), "the nodes have the same aggregates");
    }
}

impl Node {
    fn time(&self, now: Nanos) -> Nanos {
        now.plus(self.ahead)
    }

    fn cost(&self, meter: &Meter, endpoints: &Endpoints, tag: Tag) -> u64 {
        self.whole_cost(meter, endpoints, tag).rate_bps
    }

    fn whole_cost(&self, meter: &Meter, endpoints: &Endpoints, tag: Tag) -> Cost {
        let outer = self.config.peers.values().next().unwrap().tag_family;
        let inner = if endpoints.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        Cost::of(meter, overhead_bytes(inner, outer, tag)).unwrap()
    }

    /// At every instant, now and later, what sessions have together is what their aggregate's calendar says, and at most the aggregate's.
    fn check_calendars(&self) {
        let is_held = |record: &&SessionRecord| !matches!(record.state, SessionState::Releasing | SessionState::Ended);
        let held: Vec<&SessionRecord> = self.broker.sessions().filter(is_held).collect();
        let releasing = self.broker.sessions().any(|record| record.state == SessionState::Releasing);
        let now = self.time_of_last_input;
        let bounds = held.iter().flat_map(|record| [record.schedule.starts_at, record.schedule.ends_at]).flatten();
        let instants: BTreeSet<Nanos> = bounds.filter(|bound| *bound > now).chain([now]).collect();
        for aggregate in self.broker.aggregates() {
            for &instant in &instants {
                let mut used = Cost::default();
                let mut ordinary_bps = 0;
                for record in held.iter().filter(|record| record.schedule.interval().contains(instant)) {
                    for flow in record.flows.iter().filter(|flow| flow.aggregate == aggregate.name) {
                        let cost = self.whole_cost(&held_for(record, flow), &flow.endpoints, flow.tag);
                        used.rate_bps += cost.rate_bps;
                        used.burst_bytes += cost.burst_bytes;
                        ordinary_bps += if record.priority.emergency { 0 } else { cost.rate_bps };
                    }
                }
                let counted = self.broker.used_at(&aggregate.name, instant).unwrap();
                let place = format!("{} of {} at {instant:?}", aggregate.name, self.config.node);
                assert!(counted.rate_bps <= aggregate.rate_bps, "{counted:?} of {place}");
                let for_ordinary_bps = aggregate.rate_bps * u64::from(100 - aggregate.emergency_percent) / 100;
                assert!(ordinary_bps <= for_ordinary_bps, "{ordinary_bps} but for emergencies of {place}");
                assert!(counted.burst_bytes <= u64::from(aggregate.burst_bytes / 2), "{counted:?} of {place}");
                if releasing || !self.changing.is_empty() {
                    assert!(used.rate_bps <= counted.rate_bps && used.burst_bytes <= counted.burst_bytes, "{place}");
                } else {
                    assert_eq!(used, counted, "{place}");
                }
            }
        }
    }

    /// What is in force of a flow is within what is held for it.
    fn check_meters(&self) {
        for record in self.broker.sessions() {
            for flow in &record.flows {
                let Some(Policy::FlowOut { meter, .. } | Policy::FlowIn { meter, .. }) = self.plane.get(&flow.policy)
                else {
                    continue;
                };
                let held = held_for(record, flow);
                assert!(
                    meter.rate_bps <= held.rate_bps && meter.burst_bytes <= held.burst_bytes,
                    "{} of {} at {}: {meter:?} in force, {held:?} held",
                    flow.id,
                    record.id,
                    self.config.node
                );
            }
        }
    }

    /// What sessions have together of what the node can do, now.
    fn check_resources(&self) {
        let now = self.time_of_last_input;
        let is_held = |record: &&SessionRecord| {
            let ends = matches!(record.state, SessionState::Releasing | SessionState::Ended);
            !ends && record.schedule.interval().contains(now)
        };
        let held: Vec<&SessionRecord> = self.broker.sessions().filter(is_held).collect();
        // What is released is given back in its own time, and a change may hold more.
        let more = !self.changing.is_empty() || self.broker.sessions().any(|r| r.state == SessionState::Releasing);
        let check = |what: &str, held: u64, used: u64, capacity: u64| {
            assert!(if more { held <= used } else { held == used }, "{held} held, {used} used of {what}");
            assert!(used <= capacity || self.was_shrunk, "{used} of {capacity} of {what}");
        };
        if let Some(state) = self.broker.node_capacity() {
            let flows = held.iter().flat_map(|record| record.flows.iter().map(|flow| (*record, flow)));
            let cost = |(record, flow): (&SessionRecord, &FlowRecord)| {
                self.cost(&held_for(record, flow), &flow.endpoints, flow.tag)
            };
            let costs: u64 = flows.map(cost).sum();
            check("node", costs, state.used_bps, state.capacity_bps);
        }
        for state in self.broker.media_slots() {
            let of = |record: &&SessionRecord| u64::from(*record.own_slots().get(&state.name).unwrap_or(&0));
            let slots = held.iter().map(of).sum();
            check(state.name.as_str(), slots, state.used_slots, state.capacity_slots);
        }
    }

    /// Policies that may be in force although their session's end has come: it was not up yet, or waits for its peer to stop sending.
    fn outlasting(&self, now: Nanos) -> BTreeSet<PolicyId> {
        let over = |record: &&SessionRecord| {
            record.state == SessionState::Releasing && record.schedule.ends_at.is_some_and(|end| end <= now)
        };
        let of_one = |record: &SessionRecord| {
            let up = record.since > Nanos(0);
            let flows = record.flows.iter().filter(move |flow| !up || flow.direction == Direction::In);
            flows.map(|flow| flow.policy).collect::<Vec<_>>()
        };
        self.broker.sessions().filter(over).flat_map(of_one).collect()
    }

    /// Whether the data plane carries a flow: by its own policy, or by the one that lets all of its aggregate in.
    fn carries(&self, flow: &FlowRecord) -> bool {
        if (flow.direction, flow.tag) != (Direction::In, Tag::Terminals) {
            return self.plane.contains_key(&flow.policy);
        }
        assert!(!self.plane.contains_key(&flow.policy), "the receiver knows no flow of such an aggregate");
        let aggregate = &self.store.aggregates[&flow.aggregate];
        let let_in = aggregate.terminals_policy.and_then(|policy| self.plane.get(&policy));
        matches!(let_in, Some(Policy::TerminalsIn { label, .. }) if Some(*label) == aggregate.label)
    }

    fn check_plane(&self, now: Nanos) {
        let outlasting = self.outlasting(now);
        let mut labels = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        let mut carried: BTreeMap<PolicyId, u64> = BTreeMap::new();
        for (id, policy) in &self.plane {
            let (direction, aggregate, ends, meter, rtcp, tag) = match policy {
                Policy::FlowOut { aggregate, endpoints, meter, rtcp, tag, .. } => {
                    (Direction::Out, aggregate, endpoints, meter, rtcp, *tag)
                }
                Policy::TerminalsIn { aggregate, label, meter } => {
                    assert!(labels.insert(label.0 & 0xf_ffff), "label index of {label:?} is used twice");
                    let Some(Policy::AggregateIn { rate_bps, burst_bytes, .. }) = self.plane.get(aggregate) else {
                        panic!("terminals without their aggregate");
                    };
                    assert_eq!((meter.rate_bps, meter.burst_bytes), (*rate_bps, *burst_bytes));
                    continue;
                }
                Policy::FlowIn { aggregate, endpoints, label, meter, rtcp, .. } => {
                    assert!(labels.insert(label.0 & 0xf_ffff), "label index of {label:?} is used twice");
                    (Direction::In, aggregate, endpoints, meter, rtcp, Tag::Label)
                }
                Policy::AggregateOut { .. } | Policy::AggregateIn { .. } => continue,
            };
            if outlasting.contains(id) {
                continue;
            }
            for ends in std::iter::once(*ends).chain(rtcp_ends(*ends, *rtcp)) {
                assert!(endpoints.insert((direction, ends)), "{ends:?} is carried twice");
            }
            *carried.entry(*aggregate).or_default() += self.cost(meter, ends, tag);
        }
        for (aggregate, used) in carried {
            let Some(Policy::AggregateOut { rate_bps, .. } | Policy::AggregateIn { rate_bps, .. }) =
                self.plane.get(&aggregate)
            else {
                panic!("a flow without its aggregate");
            };
            assert!(used <= *rate_bps, "{used} bit/s on an aggregate of {rate_bps}");
        }
    }

    /// What a session says of its policies here is what the data plane has (R-004-9, R-004-16).
    fn check_policy_states(&self) {
        for record in self.broker.sessions().chain(self.broker.ended()) {
            let states = record.policy_states(&self.config.node);
            let Some(own) = states.iter().find(|policies| policies.node == self.config.node) else { continue };
            let has = |flow: &FlowRecord| self.plane.contains_key(&flow.policy);
            match own.state {
                PolicyState::Installed | PolicyState::Confirmed if !self.host_was_lost => {
                    assert!(record.flows.iter().all(|flow| self.carries(flow)), "not all in force: {record:?}");
                }
                PolicyState::Refused | PolicyState::Deinstalled => {
                    assert!(!record.flows.iter().any(has), "some still in force: {record:?}");
                }
                PolicyState::Requested
                | PolicyState::Installed
                | PolicyState::Confirmed
                | PolicyState::Deinstalling => {}
            }
        }
    }

    fn check_rest(&self) {
        let node = &self.config.node;
        let sessions: Vec<&SessionRecord> = self.broker.sessions().collect();
        for session in &sessions {
            assert_eq!(session.state, SessionState::Active, "{} at {node}", session.id);
            assert_eq!(session.rate_change, None, "{} at {node}", session.id);
            for flow in &session.flows {
                let in_force = match self.plane.get(&flow.policy) {
                    Some(Policy::FlowOut { meter, .. } | Policy::FlowIn { meter, .. }) => *meter,
                    _ => continue,
                };
                assert_eq!(in_force, flow.meter, "{} of {} at {node}", flow.id, session.id);
            }
        }
        let stored = self.store.sessions.values().filter(|record| record.state != SessionState::Ended);
        assert_eq!(stored.collect::<Vec<_>>(), sessions, "store and broker of {node}");
        let aggregates: Vec<&AggregateRecord> = self.broker.aggregates().collect();
        assert_eq!(self.store.aggregates.values().collect::<Vec<_>>(), aggregates, "store and broker of {node}");

        let flows = || sessions.iter().flat_map(|session| &session.flows);
        for flow in flows() {
            let granted = flow.meter.excess.map_or(0, |excess| excess.rate_bps);
            assert!(granted <= flow.asked_excess.map_or(0, |excess| excess.rate_bps), "{} at {node}", flow.id);
            let most = self.config.second_side.flow_excess_rate_bps_max;
            assert!(
                session_is_first(&sessions, flow) || most.is_none_or(|most| granted <= most),
                "{} at {node}",
                flow.id
            );
        }
        let own_label = |flow: &&FlowRecord| (flow.direction, flow.tag) == (Direction::In, Tag::Label);
        let of_flows = flows().filter(|flow| flow.direction == Direction::Out || own_label(flow));
        let of_aggregates = aggregates.iter().flat_map(|record| [Some(record.policy), record.terminals_policy]);
        let known: BTreeSet<PolicyId> = of_aggregates.flatten().chain(of_flows.map(|flow| flow.policy)).collect();
        assert_eq!(self.plane.keys().copied().collect::<BTreeSet<_>>(), known, "data plane and records of {node}");

        for record in &aggregates {
            assert_eq!(record.state, AggregateState::Active, "{} at {node}", record.name);
            let used: u64 = flows()
                .filter(|flow| flow.aggregate == record.name)
                .map(|flow| self.cost(&flow.meter, &flow.endpoints, flow.tag))
                .sum();
            assert_eq!(self.broker.pool(&record.name).unwrap().used_bps, used, "pool {} of {node}", record.name);
        }
        let reserved = |way| aggregates.iter().filter(|r| r.direction == way).map(|r| r.rate_bps).sum::<u64>();
        for (_, out, into) in self.broker.links() {
            assert_eq!((out.used_bps, into.used_bps), (reserved(Direction::Out), reserved(Direction::In)));
        }
        let out = flows().filter(|flow| flow.direction == Direction::Out).count() as u64;
        let of_aggregates = aggregates.iter().filter(|r| (r.direction, r.tag) == (Direction::In, Tag::Terminals));
        let labels = (flows().filter(own_label).count() + of_aggregates.count()) as u64;
        let used: BTreeMap<_, _> = self.broker.tables().into_iter().map(|table| (table.name, table.used)).collect();
        assert_eq!((used["flows"], used["labels"]), (out, labels), "tables of {node}");
        assert_eq!((used["questions"], used["watches"]), (0, 0), "questions and watches of {node}");
        assert_eq!(self.broker.waiting().count(), 0, "nobody waits for ever at {node}");
        assert_eq!(
            self.broker.series().collect::<Vec<_>>(),
            self.store.series.values().collect::<Vec<_>>(),
            "series of {node}"
        );
        self.check_ledger(&sessions);
    }

    fn check_ledger(&self, active: &[&SessionRecord]) {
        let mut open: BTreeMap<&SessionId, i32> = BTreeMap::new();
        let mut last: BTreeMap<Epoch, u64> = BTreeMap::new();
        for line in &self.store.ledger {
            let sequence = last.entry(line.epoch).or_default();
            *sequence += 1;
            assert_eq!(line.sequence, *sequence, "the ledger has no gap");
            let open = open.entry(&line.session).or_default();
            *open += match line.kind {
                UsageKind::Start => 1,
                UsageKind::Change => {
                    assert_eq!(*open, 1, "{} changes while it is up", line.session);
                    0
                }
                UsageKind::Final => -1,
            };
            assert!((0..=1).contains(open), "{} starts and ends in turn", line.session);
        }
        let open: Vec<_> = open.into_iter().filter(|(_, open)| *open == 1).map(|(id, _)| id).collect();
        assert_eq!(open, active.iter().map(|record| &record.id).collect::<Vec<_>>(), "the ledger knows who is active");
    }
}
