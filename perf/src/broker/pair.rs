//! Whole brokers: two of them, whose messages and installations are done as soon as they are wanted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use turnpike_broker::address::Family;
use turnpike_broker::media::Media;
use turnpike_broker::name::{Epoch, Nanos};
use turnpike_broker::policy::{Counters, Endpoints, Meter, Rtcp, Tag};
use turnpike_broker::{
    AggregateRequest, Answer, Broker, Capacity, Config, Credential, FlowRequest, Input, Limits, Link, Output, Peer,
    Priority, Request, Schedule, SecondSide, SessionRequest, Timers, WhenFull,
};

use super::{Row, each};

const BATCH: u32 = 500;
const NAMES: [&str; 2] = ["a", "b"];

struct Pair {
    brokers: [Broker; 2],
    now: Nanos,
    tickets: u64,
    sessions: u32,
    answers: Vec<Answer>,
}

fn read<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> anyhow::Result<T> {
    text.parse().map_err(|error| anyhow::anyhow!("{text:?}: {error}"))
}

fn broker(node: usize, live: u32) -> anyhow::Result<Broker> {
    let sessions_max = live as usize + 2 * BATCH as usize;
    Ok(Broker::new(Config {
        node: read(NAMES[node])?,
        epoch: Epoch(1),
        links: [(read("wan0")?, Link { rate_out_bps: 1 << 50, rate_in_bps: 1 << 50 })].into(),
        classes: std::collections::BTreeMap::new(),
        class_percent_max: std::collections::BTreeMap::new(),
        capacity: Capacity::default(),
        peers: [(read(NAMES[1 - node])?, Peer { link: read("wan0")?, tag_family: Family::Ipv4 })].into(),
        limits: Limits { flows_max: 1 << 20, sessions_max, ..Limits::default() },
        timers: Timers::default(),
        second_side: SecondSide::default(),
        label_secret: [7; 16],
    }))
}

impl Pair {
    fn new(live: u32) -> anyhow::Result<Self> {
        let brokers = [broker(0, live)?, broker(1, live)?];
        let mut pair = Self { brokers, now: Nanos(1), tickets: 0, sessions: 0, answers: Vec::new() };
        pair.ask(Request::CreateAggregate(AggregateRequest {
            name: read("ab")?,
            peer: read("b")?,
            rate_bps: 900_000_000_000,
            burst_bytes: Some(u32::MAX),
            class: None,
            dscp_policy: None,
            dscp: Some(46),
            excess_dscp: None,
            deliver_dscp_policy: None,
            deliver_dscp: None,
            tag: Tag::Label,
            when_full: WhenFull::Refuse,
            emergency_percent: 0,
        }))?;
        for _ in 0..live {
            let request = pair.session()?;
            pair.ask(Request::CreateSession(request))?;
        }
        Ok(pair)
    }

    /// The next session: one flow between ends of its own.
    fn session(&mut self) -> anyhow::Result<SessionRequest> {
        self.sessions += 1;
        let number = self.sessions;
        let [_, a, b, c] = number.to_be_bytes();
        let end = |net| std::net::SocketAddr::from(([net, a, b, c], 5_004));
        let flow = FlowRequest {
            id: read("f")?,
            aggregate: read("ab")?,
            endpoints: Endpoints { source: end(10), destination: end(11) },
            rtcp: Rtcp::SamePort,
            meter: Meter { rate_bps: 80_000, burst_bytes: 400, packet_bytes_min: 200, excess: None },
            rate_bps_min: 80_000,
            media: Media::default(),
            quality: turnpike_broker::class::Quality::default(),
        };
        Ok(SessionRequest {
            media_slots: turnpike_broker::media_slots::MediaSlots::default(),
            id: read(&format!("s{number}"))?,
            flows: vec![flow],
            schedule: Schedule::OPEN,
            priority: Priority::LOWEST,
        })
    }

    /// Asks the first broker and lets both come to rest.
    fn ask(&mut self, request: Request) -> anyhow::Result<()> {
        self.tickets += 1;
        self.answers.clear();
        let input = Input::Request { ticket: self.tickets, request, credential: Credential::default() };
        self.run(VecDeque::from([(0, input)]))?;
        match self.answers.first() {
            Some(Answer::Refused(refusal)) => bail!("refused: {refusal:?}"),
            Some(_) => Ok(()),
            None => bail!("no answer"),
        }
    }

    fn run(&mut self, mut inputs: VecDeque<(usize, Input)>) -> anyhow::Result<()> {
        // Whose request a broker is answering: tickets of one are passed on as those of the other.
        let mut asked: Vec<(u64, u64)> = Vec::new();
        while let Some((node, input)) = inputs.pop_front() {
            self.now = self.now.plus(Nanos(1_000));
            let broker = self.brokers.get_mut(node).context("two brokers")?;
            broker.handle(input, self.now);
            while let Some(output) = broker.poll() {
                match output {
                    Output::Install { ticket, .. } => inputs.push_back((node, Input::Installed { ticket })),
                    Output::ChangeMeters { ticket, meters } => {
                        let counters = meters.iter().map(|_| Counters::default()).collect();
                        inputs.push_back((node, Input::MetersChanged { ticket, counters }));
                    }
                    Output::Deinstall { ticket, policies } => {
                        let counters = vec![Counters::default(); policies.len()];
                        inputs.push_back((node, Input::Deinstalled { ticket, counters }));
                    }
                    Output::Send { ticket, request, .. } => {
                        self.tickets += 1;
                        asked.push((self.tickets, ticket));
                        let peer = read(NAMES[node])?;
                        let input = Input::PeerRequest {
                            ticket: self.tickets,
                            peer,
                            epoch: Epoch(1),
                            request,
                            credential: Credential::default(),
                        };
                        inputs.push_back((1 - node, input));
                    }
                    Output::PeerAnswer { ticket, answer } => {
                        let at = asked.iter().position(|(known, _)| *known == ticket).context("nobody asked")?;
                        let (_, ticket) = asked.swap_remove(at);
                        inputs.push_back((1 - node, Input::PeerAnswered { ticket, answer: Ok(answer) }));
                    }
                    Output::Answer { answer, .. } => self.answers.push(answer),
                    Output::Persist(_) | Output::Notify { .. } | Output::WakeAt(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// Whole lives of sessions on both sides, and refusals.
pub(super) fn rows(live: u32) -> anyhow::Result<Vec<Row>> {
    let pair = Rc::new(RefCell::new(Pair::new(live)?));
    let lives = |ends: bool| {
        let pair = Rc::clone(&pair);
        move || {
            let mut pair = pair.borrow_mut();
            let mut requests = Vec::new();
            for _ in 0..BATCH {
                requests.extend(pair.session());
            }
            let ids: Vec<_> = requests.iter().map(|request| request.id.clone()).collect();
            let mut failed = 0;
            let mut requests = requests.into_iter();
            let created = each(BATCH, |_| {
                let asked = requests.next().map(|request| pair.ask(Request::CreateSession(request)));
                failed += u32::from(!matches!(asked, Some(Ok(()))));
            });
            let mut ids = ids.into_iter();
            let deleted = each(BATCH, |_| {
                let asked = ids.next().map(|id| pair.ask(Request::DeleteSession(id)));
                failed += u32::from(!matches!(asked, Some(Ok(()))));
            });
            assert_eq!(failed, 0, "a session was not admitted or did not end");
            if ends { deleted } else { created }
        }
    };
    let refused = {
        let pair = Rc::clone(&pair);
        move || {
            let mut pair = pair.borrow_mut();
            let mut requests = Vec::new();
            for _ in 0..BATCH {
                requests.extend(pair.session());
            }
            for flow in requests.iter_mut().flat_map(|request| &mut request.flows) {
                flow.meter.rate_bps = 890_000_000_000;
                flow.rate_bps_min = flow.meter.rate_bps;
            }
            let mut requests = requests.into_iter();
            let mut admitted = 0;
            let refused = each(BATCH, |_| {
                let asked = requests.next().map(|request| pair.ask(Request::CreateSession(request)));
                admitted += u32::from(matches!(asked, Some(Ok(()))));
            });
            assert_eq!(admitted, 0, "what does not fit was admitted");
            refused
        }
    };
    Ok(vec![
        ("session_both_sides", Box::new(lives(false))),
        ("session_end_both_sides", Box::new(lives(true))),
        ("session_refused", Box::new(refused)),
    ])
}
