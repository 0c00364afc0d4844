//! The demo's steps, and the end-to-end test's: the product's main job on real input.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use turnpike_api::{AggregateView, NodeView, Problem, SessionView, UsageRecord};

use crate::calls::{CALL_RATE_BPS, Calls, GREED, Moment, SETTLE, UNADMITTED_PORT, Way, port};
use crate::certificates::Authority;
use crate::live::Live;
use crate::media::{Flood, SPEECH_IP_BYTES};
use crate::node::{API, EDGE_A, EDGE_B, Node, Scratch};
use crate::recording::Recording;
use crate::rest::{Answer, Client};
use crate::summary::Summary;
use crate::topology::{Place, Topology};
use crate::usage;
use crate::wan::WanWatch;

const LINK_RATE_BPS: u64 = 4_000_000;
const FLOOD_RATE_BPS: u64 = 5 * LINK_RATE_BPS;
const EXPEDITED: u8 = 46;
const AGGREGATE_BURST_BYTES: u32 = 65_536;
const CALL_BURST_BYTES: u32 = 1_600;
const CALLS_MAX: u16 = 100;
const DEAD_MAX: Duration = Duration::from_secs(8);
/// Traffic without a session may burst once; after this it keeps to its rate.
const BURST_SPENT: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(500);

/// What to show.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program `turnpike`.
    pub turnpike: PathBuf,
    /// The recording to play, instead of the packaged one.
    pub recording: Option<PathBuf>,
    /// How long media goes on.
    pub media: Duration,
    /// Reserved in each direction, bits per second on the wire.
    pub aggregate_rate_bps: u64,
    /// Media goes on until interrupted.
    pub keep: bool,
    /// Draw a table that is refreshed.
    pub live: bool,
}

/// Runs all steps. `stop` ends it early; whatever happens, everything it made is removed.
///
/// # Errors
///
/// When a step cannot be made or `stop` is set. What only turned out otherwise than expected is in the summary.
pub fn run(options: &Options, stop: &AtomicBool) -> anyhow::Result<Summary> {
    let path = options.recording.clone().map_or_else(Recording::find, Ok)?;
    let recording = Arc::new(Recording::read(&path)?);
    ensure!(options.turnpike.is_file(), "no program at {}", options.turnpike.display());
    let started = Instant::now();
    let mut story = Story::prepare(options, stop, recording, started)?;
    let outcome = story.tell().and_then(|()| story.end());
    if let Err(error) = &outcome
        && !error.is::<Interrupted>()
    {
        for node in [&story.node_a, &story.node_b] {
            eprintln!("end of the log of {}:\n{}", node.name(), node.log_tail());
        }
    }
    outcome?;
    let mut teller = story.clean_up();
    teller.line("everything that was made is removed");
    teller.summary.figures.duration_s = started.elapsed().as_secs_f64();
    Ok(teller.summary)
}

/// Fields are dropped in this order: nodes before their files, everything before the network.
struct Story<'a> {
    options: &'a Options,
    stop: &'a AtomicBool,
    recording: Arc<Recording>,
    teller: Teller,
    node_a: Node,
    node_b: Node,
    _scratch: Scratch,
    topology: Topology,
}

/// Says what happens, with the time, and keeps the result.
struct Teller {
    started: Instant,
    summary: Summary,
}

impl Teller {
    fn line(&self, text: impl Display) {
        println!("{:6.1} s  {text}", self.started.elapsed().as_secs_f64());
    }
}

impl<'a> Story<'a> {
    fn prepare(
        options: &'a Options,
        stop: &'a AtomicBool,
        recording: Arc<Recording>,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let teller = Teller { started, summary: Summary::default() };
        let pid = std::process::id();
        let topology = Topology::new(&format!("tpk{pid}"))?;
        teller.line(format_args!(
            "network namespaces tpk{pid}-*: site A {} -- edge A == wan, {} kbit/s == edge B -- site B {}",
            Place::SiteA.address(),
            LINK_RATE_BPS / 1000,
            Place::SiteB.address(),
        ));
        let scratch = Scratch::new(&format!("turnpike-demo-{pid}"))?;
        let authority = Authority::new(scratch.dir())?;
        let node = |edges: (crate::node::Edge, crate::node::Edge)| {
            let files = authority.issue(scratch.dir(), edges.0.name)?;
            Node::new(&options.turnpike, &scratch, edges, &files, LINK_RATE_BPS)
        };
        let (node_a, node_b) = (node((EDGE_A, EDGE_B))?, node((EDGE_B, EDGE_A))?);
        Ok(Self { options, stop, recording, teller, node_a, node_b, _scratch: scratch, topology })
    }

    fn tell(&mut self) -> anyhow::Result<()> {
        self.start_nodes()?;
        self.reserve()?;
        let (numbers, refusal) = self.call_until_refused()?;
        let (mut calls, wan) = self.play(&numbers, &refusal)?;
        self.hang_up(&mut calls, &wan, &numbers)
    }

    fn client(&self, place: Place) -> Client<'_> {
        Client::new(self.topology.at(place), API)
    }

    fn go_on(&self) -> anyhow::Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    fn start_nodes(&mut self) -> anyhow::Result<()> {
        self.node_a.start(self.topology.at(Place::EdgeA))?;
        self.node_b.start(self.topology.at(Place::EdgeB))?;
        for (node, place) in [(&mut self.node_a, Place::EdgeA), (&mut self.node_b, Place::EdgeB)] {
            wait_ready(node, &self.topology, place, self.stop)?;
        }
        let mut modes = Vec::new();
        for place in [Place::EdgeA, Place::EdgeB] {
            let view: NodeView = self.client(place).get("/v1/node")?;
            modes.extend(view.interfaces.into_iter().map(|interface| interface.xdp_mode));
        }
        modes.sort();
        modes.dedup();
        let modes = modes.join(" and ");
        self.teller.line(format_args!("two nodes are up, XDP attached {modes}"));
        self.teller.summary.figures.xdp_mode = modes;
        self.teller.summary.figures.link_rate_bps = LINK_RATE_BPS;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        kernel.trim().clone_into(&mut self.teller.summary.figures.kernel);
        Ok(())
    }

    fn reserve(&self) -> anyhow::Result<()> {
        for (way, place, peer) in [(Way::Forward, Place::EdgeA, EDGE_B.name), (Way::Back, Place::EdgeB, EDGE_A.name)] {
            let body = json!({
                "name": way.aggregate(),
                "peer": peer,
                "rate_bps": self.options.aggregate_rate_bps,
                "burst_bytes": AGGREGATE_BURST_BYTES,
                "dscp": EXPEDITED,
            });
            self.go_on()?;
            let view: AggregateView = self.client(place).create("/v1/aggregates", &body)?;
            self.teller.line(format_args!(
                "aggregate {} reserved before any call: {} bit/s, DSCP {}",
                view.name,
                view.rate_bps,
                view.dscp.map_or_else(|| "not set".to_owned(), |dscp| dscp.to_string())
            ));
        }
        Ok(())
    }

    fn call(&self, number: u16) -> anyhow::Result<Answer<SessionView>> {
        self.go_on()?;
        self.client(Place::EdgeA).post("/v1/sessions", &session_request(number))
    }

    fn call_until_refused(&mut self) -> anyhow::Result<(Vec<u16>, Problem)> {
        let mut numbers = Vec::new();
        for number in 1..=CALLS_MAX {
            match self.call(number)? {
                Answer::Done(_) => numbers.push(number),
                Answer::Refused(problem) => {
                    let pool: AggregateView = self.client(Place::EdgeA).get("/v1/aggregates/a-to-b")?;
                    self.teller.line(format_args!(
                        "{} calls admitted; of {} {} bit/s are used, {} free",
                        numbers.len(),
                        pool.name,
                        pool.pool.used_bps,
                        pool.pool.free_bps
                    ));
                    self.teller.line(format_args!("call {number} refused, {}: {}", problem.code, problem.detail));
                    if let Some(offer) = problem.counter_offer_rate_bps {
                        self.teller.line(format_args!("  offered instead: {offer} bit/s"));
                    }
                    let summary = &mut self.teller.summary;
                    summary.figures.calls_admitted = numbers.len();
                    summary.figures.calls_refused = 1;
                    summary.figures.refusal_reason = Some(problem.code.clone());
                    summary.figures.counter_offer_rate_bps = problem.counter_offer_rate_bps;
                    // The tag makes packets longer, so fewer calls fit than their rates alone say.
                    let fit_max = self.options.aggregate_rate_bps / CALL_RATE_BPS;
                    let admitted = numbers.len() as u64;
                    let bounded = (1..=fit_max).contains(&admitted);
                    summary.expect("calls admitted", format!("1 to {fit_max}"), admitted, bounded);
                    return Ok((numbers, *problem));
                }
            }
        }
        bail!("{CALLS_MAX} calls were admitted and none refused")
    }

    fn play(&mut self, numbers: &[u16], refusal: &Problem) -> anyhow::Result<(Calls, WanWatch)> {
        let wan = WanWatch::start(self.topology.at(Place::EdgeB))?;
        let calls = Calls::start(&self.topology, numbers, &self.recording)?;
        let media = self.options.media;
        let start = calls.start_time();
        self.teller.line(format_args!(
            "recorded speech ({} s, in a loop) both ways on {} calls; call {} sends {GREED} times its rate from A",
            self.recording.frames() / 50,
            numbers.len(),
            numbers.last().copied().unwrap_or_default(),
        ));
        let mut live = Live::new(self.options.live);
        self.watch(&calls, &wan, &mut live, start + media / 5)?;

        let nowhere = std::net::SocketAddrV4::new(Place::SiteB.address(), UNADMITTED_PORT);
        let mut flood = Flood::start(self.topology.at(Place::SiteA), Place::SiteA.address(), nowhere, FLOOD_RATE_BPS)?;
        live.leave();
        self.teller.line(format_args!(
            "{} Mbit/s of traffic without a session from A, half of it marked as reserved traffic by its sender",
            FLOOD_RATE_BPS / 1_000_000
        ));
        self.watch(&calls, &wan, &mut live, Instant::now() + BURST_SPENT)?;
        wan.settle();
        self.watch(&calls, &wan, &mut live, start + media * 9 / 20)?;
        flood.stop();
        self.watch(&calls, &wan, &mut live, start + media / 2)?;
        live.leave();
        self.teller.line(format_args!(
            "  of {} such packets {} came through",
            flood.sent(),
            calls.moment().unadmitted()
        ));
        self.teller.summary.figures.unadmitted_sent = flood.sent();

        self.node_a.kill()?;
        let begin = calls.moment();
        self.teller.line("edge-a: turnpike killed with SIGKILL in mid-call");
        self.watch(&calls, &wan, &mut live, begin.at() + DEAD_MAX.min(media / 4))?;
        let end = calls.moment();
        live.leave();
        let delivered = end.heard() - begin.heard();
        self.teller.line(format_args!("  {delivered} packets of speech delivered while it was dead"));
        self.teller.summary.figures.delivered_while_control_plane_dead = delivered;
        self.node_a.start(self.topology.at(Place::EdgeA))?;
        wait_ready(&mut self.node_a, &self.topology, Place::EdgeA, self.stop)?;
        self.check_restarted(numbers, refusal)?;

        self.watch(&calls, &wan, &mut live, start + media)?;
        if self.options.keep {
            live.leave();
            self.teller.line("media goes on until Ctrl-C");
            while !self.stop.swap(false, Ordering::Relaxed) {
                live.show(&calls.moment(), &wan);
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        live.leave();
        let lost = calls.moment().lost_between(&begin, &end);
        self.teller.summary.figures.conforming_lost_while_control_plane_dead = lost;
        Ok((calls, wan))
    }

    fn check_restarted(&mut self, numbers: &[u16], refusal: &Problem) -> anyhow::Result<()> {
        let sessions: Vec<SessionView> = self.client(Place::EdgeA).list("/v1/sessions")?;
        let mut known: Vec<_> = sessions.iter().map(|session| session.id.to_string()).collect();
        let mut expected: Vec<_> = numbers.iter().copied().map(session_id).collect();
        known.sort();
        expected.sort();
        let same = known == expected;
        self.teller.line(format_args!("edge-a started again: it knows {} sessions", known.len()));
        let summary = &mut self.teller.summary;
        summary.expect("sessions known after the restart", numbers.len(), known.len(), same);
        let refused_number = numbers.last().map_or(1, |last| last + 1);
        let again = match self.call(refused_number)? {
            Answer::Refused(problem) => refused_with(&problem),
            Answer::Done(_) => {
                let _: Value = self.client(Place::EdgeA).delete(&session_path(refused_number))?;
                "admitted".to_owned()
            }
        };
        self.teller.line(format_args!("  call {refused_number} again: {again}"));
        self.teller.summary.expect_equal("one call more after the restart", refused_with(refusal), again);
        Ok(())
    }

    fn watch(&self, calls: &Calls, wan: &WanWatch, live: &mut Live, until: Instant) -> anyhow::Result<()> {
        while Instant::now() < until {
            self.go_on()?;
            live.show(&calls.moment(), wan);
            std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn hang_up(&mut self, calls: &mut Calls, wan: &WanWatch, numbers: &[u16]) -> anyhow::Result<()> {
        calls.stop();
        let played = calls.start_time().elapsed();
        let moment = self.wait_quiet(calls)?;
        self.teller.line("phones hung up, nothing more comes");
        self.judge_media(&moment, played);
        let mut ended = Vec::new();
        for number in numbers {
            self.go_on()?;
            let session: SessionView = self.client(Place::EdgeA).delete(&session_path(*number))?;
            ended.push((*number, session));
        }
        let differing = usage::differing(&moment, &ended, SPEECH_IP_BYTES);
        let rows = ended.len() * 2;
        self.teller
            .line(format_args!("{rows} flows ended; usage of {} as counted at both ends", rows - differing.len()));
        for row in &differing {
            self.teller.line(format_args!("  {row}"));
        }
        let records: Vec<UsageRecord> = self.client(Place::EdgeA).list("/v1/usage")?;
        let finals = usage::finals(&records, numbers.iter().copied().map(session_id));
        let aggregate: AggregateView = self.client(Place::EdgeB).get("/v1/aggregates/a-to-b")?;
        let tagged = aggregate.counters.passed_packets;
        let summary = &mut self.teller.summary;
        summary.expect_equal("flows whose usage differs", 0, differing.len());
        summary.figures.usage_exact = differing.is_empty() && rows > 0;
        summary.expect_equal("final usage records in the ledger", numbers.len(), finals);
        let of_sessions = usage::delivered_forward(&ended);
        let beyond = i64::try_from(tagged).unwrap_or(i64::MAX) - i64::try_from(of_sessions).unwrap_or(i64::MAX);
        summary.figures.unadmitted_delivered_tagged = beyond;
        summary.expect_equal("unadmitted packets delivered by tag", 0, beyond);
        let (peak, settled) = (wan.peak_bps(), wan.settled_peak_bps());
        summary.figures.wan_peak_bps = peak;
        summary.figures.wan_settled_peak_bps = settled;
        let limit = LINK_RATE_BPS + LINK_RATE_BPS / 10;
        let (at_most, with_burst) = (format!("at most {LINK_RATE_BPS}"), format!("at most {limit}"));
        summary.expect(
            "wan, busiest second after the burst, bit/s",
            at_most,
            settled,
            (1..=LINK_RATE_BPS).contains(&settled),
        );
        summary.expect("wan, busiest second of all, bit/s", with_burst, peak, (1..=limit).contains(&peak));
        for (way, place) in [(Way::Forward, Place::EdgeA), (Way::Back, Place::EdgeB)] {
            let _: Value = self.client(place).delete(&format!("/v1/aggregates/{}", way.aggregate()))?;
        }
        self.teller.line("both aggregates given up");
        Ok(())
    }

    fn wait_quiet(&self, calls: &Calls) -> anyhow::Result<Moment> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut moment = calls.moment();
        loop {
            self.go_on()?;
            std::thread::sleep(QUIET);
            let now = calls.moment();
            if now.heard() == moment.heard() && now.unadmitted() == moment.unadmitted() {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "packets still come 10 s after the last was sent");
            moment = now;
        }
    }

    fn judge_media(&mut self, moment: &Moment, played: Duration) {
        let summary = &mut self.teller.summary;
        let (sent, delivered) = moment.conforming();
        let mismatches = moment.mismatches();
        summary.figures.conforming_sent = sent;
        summary.figures.conforming_delivered = delivered;
        summary.figures.conforming_payload_mismatch = mismatches;
        summary.figures.sends_refused_by_kernel = moment.refused();
        summary.figures.unadmitted_delivered = moment.unadmitted();
        // A machine too busy to send shows nothing.
        let sent_min = moment.conforming_planned(played) * 9 / 10;
        summary.expect("conforming packets sent", format!("at least {sent_min}"), sent, sent > 0 && sent >= sent_min);
        summary.expect_equal("conforming packets lost", 0, sent - delivered);
        summary.expect_equal("packets that differ from the recording", 0, mismatches);
        let greedy = moment.greedy();
        let rate = greedy.and_then(|leg| leg.heard.settled_rate());
        let (ratio, time) = rate.map_or((0.0, Duration::ZERO), |(rate, time)| (rate / CALL_RATE_BPS as f64, time));
        summary.figures.greedy_sent = greedy.map_or(0, |leg| leg.sent);
        summary.figures.greedy_delivered = greedy.map_or(0, |leg| leg.heard.packets);
        summary.figures.greedy_rate_ratio = ratio;
        let what = format!("greedy rate over its reservation, {:.0} s", time.as_secs_f64());
        summary.expect(&what, "0.99 to 1.01", format!("{ratio:.4}"), (ratio - 1.0).abs() <= 0.01);
        let (sent, came) = (summary.figures.unadmitted_sent, moment.unadmitted());
        let some_dropped = came < sent;
        summary.expect("unadmitted packets delivered", format!("fewer than {sent}"), came, some_dropped);
        let delivered = summary.figures.delivered_while_control_plane_dead;
        summary.expect("delivered while turnpike was dead", "more than 0", delivered, delivered > 0);
        let lost = summary.figures.conforming_lost_while_control_plane_dead;
        summary.expect_equal("conforming packets lost meanwhile", 0, lost);
    }

    fn end(&mut self) -> anyhow::Result<()> {
        for (node, place) in [(&mut self.node_a, Place::EdgeA), (&mut self.node_b, Place::EdgeB)] {
            node.terminate()?;
            node.detach(self.topology.at(place))?;
        }
        self.teller.line("both nodes ended and detached");
        Ok(())
    }

    /// All but the result is dropped.
    fn clean_up(self) -> Teller {
        self.teller
    }
}

fn wait_ready(node: &mut Node, topology: &Topology, place: Place, stop: &AtomicBool) -> anyhow::Result<()> {
    let go_on = || {
        if stop.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    };
    node.wait_ready(Client::new(topology.at(place), API), go_on)
}

fn refused_with(problem: &Problem) -> String {
    let offer = problem.counter_offer_rate_bps.map_or_else(|| "nothing".to_owned(), |rate| format!("{rate} bit/s"));
    format!("{}, offers {offer}", problem.code)
}

fn session_id(number: u16) -> String {
    format!("call-{number}")
}

fn session_path(number: u16) -> String {
    format!("/v1/sessions/{}", session_id(number))
}

fn session_request(number: u16) -> Value {
    let flow = |way: Way| {
        let (from, to) = way.sites();
        json!({
            "id": way.flow(),
            "aggregate": way.aggregate(),
            "source": format!("{}:{}", from.address(), port(number)),
            "destination": format!("{}:{}", to.address(), port(number)),
            "rate_bps": CALL_RATE_BPS,
            "burst_bytes": CALL_BURST_BYTES,
            "packet_bytes_min": SPEECH_IP_BYTES,
        })
    };
    json!({"id": session_id(number), "flows": Way::ALL.map(flow)})
}

/// It was told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Interrupted;

impl Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The shortest time of media in which rates can be measured.
pub const MEDIA_MIN: Duration = Duration::from_secs(SETTLE.as_secs() + 7);

/// Checks what can be checked before anything is made.
///
/// # Errors
///
/// When an option is out of range.
pub fn check(options: &Options) -> anyhow::Result<()> {
    let bounds = MEDIA_MIN..=Duration::from_secs(3600);
    ensure!(
        bounds.contains(&options.media),
        "media of {} s: it must be {} to 3600 s",
        options.media.as_secs(),
        MEDIA_MIN.as_secs()
    );
    let version = std::process::Command::new(&options.turnpike).arg("--version").output();
    version.with_context(|| format!("cannot run {}", options.turnpike.display()))?;
    Ok(())
}
