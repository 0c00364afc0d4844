//! The admitted calls: speech in both directions on each, one of them greedy in one direction.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::media::{Ear, Heard, Phones, Receiver, SendCount, Sender, Stream};
use crate::recording::Recording;
use crate::topology::{Place, Topology};

/// The port at site B that no session uses.
pub const UNADMITTED_PORT: u16 = 30_001;
/// How much more than its rate the greedy caller sends.
pub const GREED: u32 = 10;
/// Bits per second of a call's direction: 200 IP bytes each 20 ms.
pub const CALL_RATE_BPS: u64 = 80_000;
/// Rates are measured from here on, when every bucket has long been drained.
pub const SETTLE: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_millis(20);

/// The port of call number `call` at both sites.
#[must_use]
pub const fn port(call: u16) -> u16 {
    20_000 + 2 * call
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From site A to site B.
    Forward,
    /// From site B to site A.
    Back,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Back];

    /// The flow's name in its session.
    #[must_use]
    pub const fn flow(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Back => "back",
        }
    }

    /// The aggregate that carries it.
    #[must_use]
    pub const fn aggregate(self) -> &'static str {
        match self {
            Self::Forward => "a-to-b",
            Self::Back => "b-to-a",
        }
    }

    /// From and to.
    #[must_use]
    pub const fn sites(self) -> (Place, Place) {
        match self {
            Self::Forward => (Place::SiteA, Place::SiteB),
            Self::Back => (Place::SiteB, Place::SiteA),
        }
    }
}

/// Calls with their media under way.
#[derive(Debug)]
pub struct Calls {
    numbers: Vec<u16>,
    conforming_forward: Sender,
    conforming_back: Sender,
    greedy: Sender,
    ear_a: Receiver,
    ear_b: Receiver,
    start: Instant,
}

/// Everything counted at one moment.
#[derive(Debug, Clone)]
pub struct Moment {
    at: Instant,
    numbers: Vec<u16>,
    sent: [Vec<u64>; 2],
    refused: u64,
    ears: [Ear; 2],
}

impl Calls {
    /// Plays the recording both ways on the calls `numbers`; the last is greedy forward.
    ///
    /// # Errors
    ///
    /// When a port or a thread is not to be had, or there are no calls.
    pub fn start(topology: &Topology, numbers: &[u16], recording: &Arc<Recording>) -> anyhow::Result<Self> {
        anyhow::ensure!(!numbers.is_empty(), "no call was admitted");
        let mut ports: Vec<_> = numbers.iter().map(|call| port(*call)).collect();
        let phones_a = Phones::bind(topology.at(Place::SiteA), Place::SiteA.address(), &ports)?;
        ports.push(UNADMITTED_PORT);
        let phones_b = Phones::bind(topology.at(Place::SiteB), Place::SiteB.address(), &ports)?;
        let (mut forward, back) = (streams(Way::Forward, numbers), streams(Way::Back, numbers));
        let last = forward.len() - 1;
        forward[last].interval = INTERVAL / GREED;
        let start = Instant::now();
        let settle = start + SETTLE;
        let ear_b = Receiver::start("hear-b", &phones_b, forward.clone(), Arc::clone(recording), settle)?;
        let ear_a = Receiver::start("hear-a", &phones_a, back.clone(), Arc::clone(recording), settle)?;
        let mut forward: Vec<_> = forward.into_iter().enumerate().collect();
        let greedy = forward.split_off(last);
        let back = back.into_iter().enumerate().collect();
        Ok(Self {
            numbers: numbers.to_vec(),
            conforming_forward: Sender::start("send-a", &phones_a, forward, Arc::clone(recording))?,
            conforming_back: Sender::start("send-b", &phones_b, back, Arc::clone(recording))?,
            greedy: Sender::start("greedy", &phones_a, greedy, Arc::clone(recording))?,
            ear_a,
            ear_b,
            start,
        })
    }

    /// When media began.
    #[must_use]
    pub const fn start_time(&self) -> Instant {
        self.start
    }

    /// Hangs up all phones.
    pub fn stop(&mut self) {
        self.conforming_forward.stop();
        self.conforming_back.stop();
        self.greedy.stop();
    }

    /// Everything up to now.
    #[must_use]
    pub fn moment(&self) -> Moment {
        // Sent first: then nothing was heard that is not yet sent.
        let (forward, greedy) = (self.conforming_forward.counts(), self.greedy.counts());
        let forward: Vec<_> = forward.iter().chain(greedy).collect();
        let back: Vec<_> = self.conforming_back.counts().iter().collect();
        let sent = |counts: &[&SendCount]| counts.iter().map(|count| count.sent()).collect();
        let refused = forward.iter().chain(&back).map(|count| count.refused()).sum();
        Moment {
            at: Instant::now(),
            numbers: self.numbers.clone(),
            sent: [sent(&forward), sent(&back)],
            refused,
            ears: [self.ear_b.heard(), self.ear_a.heard()],
        }
    }
}

fn streams(way: Way, numbers: &[u16]) -> Vec<Stream> {
    let (from, to) = way.sites();
    let first_ssrc = match way {
        Way::Forward => 1000,
        Way::Back => 2000,
    };
    let stream = |call: &u16| Stream {
        source: SocketAddrV4::new(from.address(), port(*call)),
        destination: SocketAddrV4::new(to.address(), port(*call)),
        ssrc: first_ssrc + u32::from(*call),
        interval: INTERVAL,
    };
    numbers.iter().map(stream).collect()
}

/// One direction of one call, as its two ends counted it.
#[derive(Debug, Clone, Copy)]
pub struct Leg<'a> {
    /// The call's number.
    pub call: u16,
    /// Which way.
    pub way: Way,
    /// Whether it sends more than it may.
    pub greedy: bool,
    /// Packets sent.
    pub sent: u64,
    /// What was heard.
    pub heard: &'a Heard,
}

impl Moment {
    /// Each direction of each call.
    pub fn legs(&self) -> impl Iterator<Item = Leg<'_>> {
        Way::ALL.into_iter().zip(&self.sent).zip(&self.ears).flat_map(move |((way, sent), ear)| {
            let rows = self.numbers.iter().zip(sent).zip(&ear.streams).enumerate();
            rows.map(move |(i, ((call, sent), heard))| {
                let greedy = way == Way::Forward && i + 1 == self.numbers.len();
                Leg { call: *call, way, greedy, sent: *sent, heard }
            })
        })
    }

    /// The one that sends more than it may.
    #[must_use]
    pub fn greedy(&self) -> Option<Leg<'_>> {
        self.legs().find(|leg| leg.greedy)
    }

    /// Packets sent on, and the different ones heard of, all that conform.
    #[must_use]
    pub fn conforming(&self) -> (u64, u64) {
        let totals =
            self.legs().filter(|leg| !leg.greedy).map(|leg| (leg.sent, leg.sent - leg.heard.missing(0..leg.sent)));
        totals.fold((0, 0), |sum, leg| (sum.0 + leg.0, sum.1 + leg.1))
    }

    /// Conforming packets sent from `begin` to `end` that have not come until now.
    #[must_use]
    pub fn lost_between(&self, begin: &Self, end: &Self) -> u64 {
        let ranges = begin.legs().zip(end.legs()).map(|(begin, end)| begin.sent..end.sent);
        self.legs().zip(ranges).filter(|(leg, _)| !leg.greedy).map(|(leg, range)| leg.heard.missing(range)).sum()
    }

    /// Packets heard on all calls.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.legs().map(|leg| leg.heard.packets).sum()
    }

    /// Packets that were not what was sent.
    #[must_use]
    pub fn mismatches(&self) -> u64 {
        self.legs().map(|leg| leg.heard.mismatches).sum()
    }

    /// Packets heard at the port without a session.
    #[must_use]
    pub const fn unadmitted(&self) -> u64 {
        self.ears[0].unadmitted
    }

    /// Sends that the sites' own kernel refused.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// When it was.
    #[must_use]
    pub const fn at(&self) -> Instant {
        self.at
    }

    /// How many conforming packets should have been sent in `time`.
    #[must_use]
    pub fn conforming_planned(&self, time: Duration) -> u64 {
        let legs = self.legs().filter(|leg| !leg.greedy).count() as u64;
        u64::try_from(time.as_millis() / INTERVAL.as_millis()).unwrap_or(u64::MAX).saturating_mul(legs)
    }
}
