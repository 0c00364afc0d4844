//! What the command line prints for people.

use std::fmt::{Display, Write as _};

use turnpike_api::{
    AggregateView, AuthorizationView, ClassView, FlowView, MediaSlots, MediaSlotsView, NodeView, PoolView, Problem,
    RevocationView, SessionPreview, SessionView, UsageRecord,
};
use turnpike_broker::class::Class;
use turnpike_broker::media_slots::SlotCounts;
use turnpike_broker::name::{ClassName, SessionId};
use turnpike_broker::policy::{Counters, DscpPolicy, Excess, Reception};
use turnpike_broker::quality::Mos;
use turnpike_broker::record::FlowUsage;

use crate::problem::word;
use crate::quantity::text;

/// Columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}

/// A name and a value on each line.
fn facts(lines: &[(&str, &dyn Display)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

pub(crate) fn pool(pool: &PoolView) -> String {
    let PoolView { capacity_bps, used_bps, free_bps, .. } = pool;
    format!("{} of {} bit/s used, {} free", text(*used_bps), text(*capacity_bps), text(*free_bps))
}

fn slots(slots: &MediaSlotsView) -> String {
    let MediaSlotsView { capacity_slots, used_slots, free_slots, .. } = slots;
    format!("{used_slots} of {capacity_slots} used, {free_slots} free")
}

/// What a session needs of media processing, at each side.
fn slots_asked(asked: &MediaSlots) -> String {
    let of = |side: &'static str, counts: &SlotCounts| {
        counts.iter().map(|(name, count)| format!("{side}:{name}={count}")).collect::<Vec<_>>()
    };
    [of("first", &asked.first), of("second", &asked.second)].concat().join(" ")
}

/// `turnpike aggregate list`
pub(crate) fn aggregates(views: &[AggregateView]) -> String {
    let rows = views.iter().map(|view| {
        [
            view.name.to_string(),
            view.peer.to_string(),
            word(&view.direction),
            word(&view.state),
            text(view.rate_bps),
            text(view.pool.used_bps),
            text(view.pool.free_bps),
            dscp(view.dscp_policy, view.dscp),
            view.counters.passed_packets.to_string(),
            view.counters.dropped_packets.to_string(),
        ]
    });
    table(["NAME", "PEER", "DIRECTION", "STATE", "RATE", "USED", "FREE", "DSCP", "PASSED", "DROPPED"], rows)
}

/// `turnpike aggregate show`
pub(crate) fn aggregate(view: &AggregateView) -> String {
    facts(&[
        ("name", &view.name),
        ("peer", &view.peer),
        ("direction", &word(&view.direction)),
        ("state", &word(&view.state)),
        ("rate", &format!("{} bit/s on the wire", text(view.rate_bps))),
        ("burst", &format!("{} bytes", text(view.burst_bytes.into()))),
        ("class", &view.class_values.as_ref().map_or_else(none, |class| promise(view.class.as_ref(), class))),
        ("dscp", &dscp(view.dscp_policy, view.dscp)),
        ("dscp of excess", &view.excess_dscp.map_or_else(|| "as dscp".to_owned(), |dscp| dscp.to_string())),
        ("dscp on delivery", &dscp(view.deliver_dscp_policy, view.deliver_dscp)),
        ("tag", &word(&view.tag)),
        ("when full", &word(&view.when_full)),
        ("for emergencies", &format!("{} %", view.emergency_percent)),
        ("payload max", &payload_max(view)),
        ("pool", &pool(&view.pool)),
        ("offered", &counted(view.counters.offered_packets, view.counters.offered_bytes)),
        ("passed", &counted(view.counters.passed_packets, view.counters.passed_bytes)),
        ("dropped", &counted(view.counters.dropped_packets, view.counters.dropped_bytes)),
    ])
}

fn dscp(policy: DscpPolicy, value: Option<u8>) -> String {
    value.map_or_else(|| word(&policy), |value| value.to_string())
}

/// A class with its figures, on one line.
fn promise(name: Option<&ClassName>, class: &Class) -> String {
    let name = name.map_or_else(none, ClassName::to_string);
    let [delay, jitter, loss] = [class.delay_ms, class.jitter_ms, class.loss_ppm].map(or_none);
    format!("{name}: delay {delay} ms, jitter {jitter} ms, loss {loss} ppm")
}

fn or_none(value: Option<u32>) -> String {
    value.map_or_else(none, |value| value.to_string())
}

/// `turnpike classes`
pub(crate) fn classes(views: &[ClassView]) -> String {
    let rows = views.iter().map(|ClassView { name, values }| {
        [
            name.to_string(),
            values.dscp.to_string(),
            or_none(values.excess_dscp.map(u32::from)),
            or_none(values.deliver_dscp.map(u32::from)),
            or_none(values.delay_ms),
            or_none(values.jitter_ms),
            or_none(values.loss_ppm),
            values.security.iter().map(word).collect::<Vec<_>>().join(","),
            values.game_types.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        ]
    });
    let head = ["NAME", "DSCP", "EXCESS", "DELIVERED", "DELAY MS", "JITTER MS", "LOSS PPM", "SECURITY", "GAMES"];
    table(head, rows)
}

/// What flows were promised of their aggregates' classes.
fn qualities(views: &[FlowView]) -> Option<String> {
    let rows = views.iter().filter_map(|flow| {
        let (asked, given) = (flow.asked_quality.as_ref()?, flow.quality.as_ref()?);
        let figure = |asked: Option<u32>, given: Option<u32>| match (asked, given) {
            (Some(asked), Some(given)) if asked != given => format!("{given} ({asked} asked)"),
            (_, given) => or_none(given),
        };
        let game = given.game.as_ref().map(|game| match &game.class {
            Some(class) => format!("{} {class}", game.r#type),
            None => game.r#type.to_string(),
        });
        Some([
            flow.id.to_string(),
            given.class.as_ref().map_or_else(none, ClassName::to_string),
            figure(asked.delay_ms_max, given.delay_ms_max),
            figure(asked.jitter_ms_max, given.jitter_ms_max),
            figure(asked.loss_ppm_max, given.loss_ppm_max),
            given.security.map_or_else(none, |security| security.to_string()),
            game.unwrap_or_else(none),
        ])
    });
    let rows: Vec<_> = rows.collect();
    let head = ["FLOW", "CLASS", "DELAY MS", "JITTER MS", "LOSS PPM", "SECURITY", "GAME"];
    (!rows.is_empty()).then(|| table(head, rows))
}

fn payload_max(view: &AggregateView) -> String {
    view.payload_bytes_max.map_or_else(
        || "not known now".to_owned(),
        |max| format!("{} bytes with IPv4, {} with IPv6", max.ipv4, max.ipv6),
    )
}

/// A rate, with what may come in excess of it.
fn rate(rate_bps: u64, excess: Option<Excess>) -> String {
    excess.map_or_else(|| text(rate_bps), |excess| format!("{}+{}", text(rate_bps), text(excess.rate_bps)))
}

/// One of the counters; `-` where nothing is counted.
fn figure(counters: Option<Counters>, of: fn(Counters) -> u64) -> String {
    counters.map_or_else(|| "-".to_owned(), |counters| of(counters).to_string())
}

/// Where there is no time.
fn none() -> String {
    "-".to_owned()
}

fn counted(packets: u64, bytes: u64) -> String {
    format!("{packets} packets, {bytes} bytes")
}

/// `turnpike session list`
pub(crate) fn sessions(views: &[SessionView]) -> String {
    let rows = views.iter().map(|view| {
        let rate: u64 = view.flows.iter().map(|flow| flow.rate_bps).sum();
        [
            view.id.to_string(),
            word(&view.state),
            word(&view.side),
            view.peer.to_string(),
            view.flows.len().to_string(),
            text(rate),
            view.starts_at.clone().or_else(|| view.since.clone()).unwrap_or_else(none),
            view.ends_at.clone().unwrap_or_else(none),
        ]
    });
    table(["ID", "STATE", "SIDE", "PEER", "FLOWS", "RATE", "FROM", "UNTIL"], rows)
}

/// `turnpike session show`
pub(crate) fn session(view: &SessionView) -> String {
    let mut out = facts(&[
        ("id", &view.id),
        ("state", &word(&view.state)),
        ("side", &word(&view.side)),
        ("peer", &view.peer),
        ("since", &view.since.clone().unwrap_or_else(none)),
        ("starts at", &view.starts_at.clone().unwrap_or_else(none)),
        ("ends at", &view.ends_at.clone().unwrap_or_else(none)),
    ]);
    let (setup, holding) = (view.setup_priority, view.holding_priority);
    if view.emergency || (setup, holding) != (0, 0) {
        let emergency = if view.emergency { ", an emergency" } else { "" };
        let _ =
            write!(out, "{}", facts(&[("priority", &format!("asks with {setup}, keeps with {holding}{emergency}"))]));
    }
    if !view.media_slots.is_empty() {
        let _ = write!(out, "{}", facts(&[("media slots", &slots_asked(&view.media_slots))]));
    }
    if let Some(until) = &view.offered_until {
        let _ = write!(out, "{}", facts(&[("offered", &format!("until {until}; take it by the same request again"))]));
    } else if let Some(until) = &view.wait_until {
        let _ = write!(out, "{}", facts(&[("waits", &format!("for room, until {until}"))]));
    }
    if let Some(stage) = &view.changing_rates {
        let _ = write!(out, "{}", facts(&[("rates", &format!("are being changed: {}", word(stage)))]));
    }
    if let Some(AuthorizationView { issuer, token_id, key_id }) = &view.authorization {
        let _ = write!(out, "{}", facts(&[("authorized", &format!("by {issuer}, token {token_id}, key {key_id}"))]));
    }
    for policies in &view.policies {
        let _ = write!(out, "{}", facts(&[("policies", &format!("{} at {}", word(&policies.state), policies.node))]));
    }
    if let Some(failure) = &view.failure {
        let _ = write!(out, "{}", facts(&[("failure", &format!("{} ({})", failure.detail, failure.code))]));
    }
    let rows = view.flows.iter().map(|flow| {
        let (asked, granted) = (rate(flow.asked_rate_bps, flow.asked_excess), rate(flow.rate_bps, flow.excess));
        let rate = if granted == asked { granted } else { format!("{granted} ({asked} asked)") };
        [
            flow.id.to_string(),
            flow.aggregate.to_string(),
            word(&flow.direction),
            flow.source.to_string(),
            flow.destination.to_string(),
            word(&flow.rtcp),
            rate,
            flow.payload_bytes_max.map_or_else(String::new, |max| max.to_string()),
            figure(flow.counters, |counters| counters.passed_packets),
            figure(flow.counters, |counters| counters.excess_packets),
            figure(flow.counters, |counters| counters.dropped_packets),
        ]
    });
    let head = [
        "FLOW",
        "AGGREGATE",
        "DIRECTION",
        "SOURCE",
        "DESTINATION",
        "RTCP",
        "RATE",
        "PAYLOAD MAX",
        "PASSED",
        "IN EXCESS",
        "DROPPED",
    ];
    let _ = write!(out, "\n{}", table(head, rows));
    if let Some(qualities) = qualities(&view.flows) {
        let _ = write!(out, "\npromised\n{qualities}");
    }
    let arrived = view.flows.iter().filter_map(|flow| Some((flow, flow.counters?.reception?)));
    let rows: Vec<_> = arrived.map(|(flow, reception)| arrival_row(flow, &reception)).collect();
    if !rows.is_empty() && view.usage.is_empty() {
        let head = [
            "FLOW",
            "CODEC",
            "LOST",
            "DUPLICATED",
            "REORDERED",
            "UNPLACED",
            "NOT RTP",
            "GAPS",
            "RESTARTS",
            "JITTER",
            "MOS",
        ];
        let _ = write!(out, "\narrived\n{}", table(head, rows));
    }
    if !view.usage.is_empty() {
        let rows = view.usage.iter().map(|usage| usage_row("", "", "", usage));
        let rows = rows.map(|[_, _, _, rest @ ..]: [String; 3 + USAGE_HEAD.len()]| rest);
        let _ = write!(out, "\nfinal usage\n{}", table(USAGE_HEAD, rows));
    }
    out
}

/// `turnpike session create --dry-run`
pub(crate) fn preview(view: &SessionPreview) -> String {
    let rows = view.flows.iter().map(|flow| {
        [
            flow.id.to_string(),
            flow.aggregate.to_string(),
            word(&flow.direction),
            rate(flow.asked_rate_bps, flow.asked_excess),
            rate(flow.rate_bps, flow.excess),
            flow.payload_bytes_max.map_or_else(String::new, |max| max.to_string()),
        ]
    });
    let rows = table(["FLOW", "AGGREGATE", "DIRECTION", "ASKED", "RATE", "PAYLOAD MAX"], rows);
    let answer = match &view.there_already {
        None => "would be admitted now; nothing is held".to_owned(),
        Some(state) => format!("is there already: {}", word(state)),
    };
    let preempts: Vec<&str> = view.preempts.iter().map(SessionId::as_str).collect();
    let ends = if preempts.is_empty() { String::new() } else { format!("it would end: {}\n", preempts.join(", ")) };
    format!("session {} to {} {answer}\n{ends}{rows}", view.id, view.peer)
}

fn arrival_row(flow: &FlowView, reception: &Reception) -> [String; 11] {
    let Reception { unplaced_packets, not_rtp_packets, restarts, .. } = reception;
    let [lost, duplicated, reordered, gaps, jitter, mos] = arrival(Some(reception), flow.mos_estimated);
    let codec = flow.media.as_ref().and_then(|media| media.codec.as_ref());
    let rare = [unplaced_packets, not_rtp_packets].map(u64::to_string);
    let [unplaced, not_rtp] = rare;
    let codec = codec.map_or_else(|| "-".to_owned(), ToString::to_string);
    let id = flow.id.to_string();
    [id, codec, lost, duplicated, reordered, unplaced, not_rtp, gaps, restarts.to_string(), jitter, mos]
}

/// Lost, duplicated, reordered, gaps, jitter and MOS; `-` for what was not counted or cannot be told.
fn arrival(reception: Option<&Reception>, mos: Option<Mos>) -> [String; 6] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let count = |of: fn(&Reception) -> u64| or_none(reception.map(|reception| of(reception).to_string()));
    [
        count(|reception| reception.lost_packets),
        count(|reception| reception.duplicated_packets),
        count(|reception| reception.reordered_packets),
        count(|reception| reception.gaps),
        or_none(reception.and_then(|reception| reception.jitter_ns).map(milliseconds)),
        or_none(mos.map(|mos| mos.to_string())),
    ]
}

fn milliseconds(ns: u64) -> String {
    format!("{}.{:02} ms", ns / 1_000_000, ns % 1_000_000 / 10_000)
}

/// Columns of a flow's usage, behind time, session and kind.
const USAGE_HEAD: [&str; 14] = [
    "NODE",
    "FLOW",
    "DIRECTION",
    "RATE",
    "OFFERED",
    "PASSED",
    "IN EXCESS",
    "DROPPED",
    "LOST",
    "DUPLICATED",
    "REORDERED",
    "GAPS",
    "JITTER",
    "MOS",
];

fn usage_row(at: &str, session: &str, kind: &str, usage: &FlowUsage) -> [String; 3 + USAGE_HEAD.len()] {
    let counters = usage.counters;
    let [lost, duplicated, reordered, gaps, jitter, mos] =
        arrival(counters.and_then(|counters| counters.reception).as_ref(), usage.mos_estimated);
    [
        at.to_owned(),
        session.to_owned(),
        kind.to_owned(),
        usage.node.to_string(),
        usage.flow.to_string(),
        word(&usage.direction),
        text(usage.reserved_rate_bps),
        figure(counters, |counters| counters.offered_packets),
        figure(counters, |counters| counters.passed_packets),
        figure(counters, |counters| counters.excess_packets),
        figure(counters, |counters| counters.dropped_packets),
        lost,
        duplicated,
        reordered,
        gaps,
        jitter,
        mos,
    ]
}

/// `turnpike usage`
pub(crate) fn usage(records: &[UsageRecord]) -> String {
    let rows = records.iter().flat_map(|record| {
        let (at, session, kind) = (record.at.to_string(), record.session.to_string(), word(&record.kind));
        record.flows.iter().map(move |flow| usage_row(&at, &session, &kind, flow))
    });
    let mut head = [""; 3 + USAGE_HEAD.len()];
    head[..3].copy_from_slice(&["AT", "SESSION", "KIND"]);
    head[3..].copy_from_slice(&USAGE_HEAD);
    table(head, rows)
}

/// `turnpike token revoked`
pub(crate) fn revocations(views: &[RevocationView]) -> String {
    let rows = views.iter().map(|view| {
        let of = |name: &Option<String>| name.clone().unwrap_or_else(none);
        [of(&view.issuer), of(&view.token_id), of(&view.key_id), view.revoked_at.clone()]
    });
    table(["ISSUER", "TOKEN", "KEY", "REVOKED AT"], rows)
}

/// `turnpike status`
pub(crate) fn node(view: &NodeView) -> String {
    let mut out = facts(&[
        ("node", &view.name),
        ("version", &view.version),
        ("started", &format!("{} (start number {})", view.started_at, view.epoch)),
    ]);
    let interfaces = view.interfaces.iter().map(|port| {
        [
            port.role.clone(),
            port.name.clone(),
            port.state.clone(),
            port.xdp_mode.clone(),
            port.mtu.to_string(),
            port.packet_bytes_max.to_string(),
            port.restored.to_string(),
        ]
    });
    let _ =
        write!(out, "\n{}", table(["PORT", "INTERFACE", "STATE", "XDP", "MTU", "PACKET MAX", "RESTORED"], interfaces));
    let links = view.links.iter().flat_map(|link| {
        [("out", &link.out), ("in", &link.r#in)]
            .map(|(way, state)| [link.name.to_string(), way.to_owned(), pool(state)])
    });
    let _ = write!(out, "\n{}", table(["LINK", "DIRECTION", "RESERVED"], links));
    for link in view.links.iter().filter(|link| link.cannot_carry_aggregates > 0) {
        let (name, aggregates) = (&link.name, link.cannot_carry_aggregates);
        let _ = writeln!(out, "link {name} cannot carry {aggregates} of its aggregates: turnpike link show {name}");
    }
    if let Some(capacity) = &view.capacity {
        let _ = write!(out, "\n{}", facts(&[("forwards", &pool(capacity))]));
    }
    if !view.media_slots.is_empty() {
        let rows = view.media_slots.iter().map(|slots| [slots.name.to_string(), self::slots(slots)]);
        let _ = write!(out, "\n{}", table(["MEDIA SLOTS", "HELD"], rows));
    }
    let peers = view.peers.iter().map(|peer| {
        let reachable = match peer.reachable {
            Some(true) => "yes".to_owned(),
            Some(false) => format!("no: {}", peer.error.as_deref().unwrap_or("no reason given")),
            None => "not asked yet".to_owned(),
        };
        [peer.name.to_string(), peer.tag_address.clone(), reachable]
    });
    let _ = write!(out, "\n{}", table(["PEER", "TAG ADDRESS", "REACHABLE"], peers));
    let tables = view
        .tables
        .iter()
        .map(|(name, table)| [name.clone(), table.used.to_string(), table.max.to_string(), table.full.to_string()]);
    let _ = write!(out, "\n{}", table(["TABLE", "USED", "MAX", "REFUSED AS FULL"], tables));
    // All are in --json; people look for what has happened.
    let seen = view.verdicts.iter().filter(|verdict| verdict.packets > 0);
    let verdicts = seen.map(|verdict| {
        [
            verdict.reason.clone(),
            verdict.direction.clone(),
            verdict.action.clone(),
            verdict.packets.to_string(),
            verdict.bytes.to_string(),
        ]
    });
    let _ = write!(out, "\n{}", table(["VERDICT", "DIRECTION", "ACTION", "PACKETS", "BYTES"], verdicts));
    let refusals = view.refusals.iter().map(|(reason, count)| [reason.clone(), count.to_string()]);
    let _ = write!(out, "\n{}", table(["REQUESTS REFUSED", "COUNT"], refusals));
    out
}

/// A refusal: what, why, by how much, and what to do next.
pub(crate) fn problem(problem: &Problem) -> String {
    let mut out = format!("error: {} ({})\n  {}\n", problem.title, problem.code, problem.detail);
    if let Some(field) = &problem.field {
        let _ = writeln!(out, "  field: {field}");
    }
    if let Some(state) = &problem.pool {
        let _ = writeln!(out, "  pool: {} on node {}: {}", state.name, state.node, pool(state));
    }
    if let Some(state) = &problem.media_slots {
        let _ = writeln!(out, "  media slots: {} on node {}: {}", state.name, state.node, slots(state));
    }
    let of_slots = problem.media_slots.as_ref().and_then(|state| state.fits_at.as_ref());
    if let Some(time) = problem.pool.as_ref().and_then(|state| state.fits_at.as_ref()).or(of_slots) {
        let _ = writeln!(out, "  later: from {time} on it would fit, if nothing changes");
    }
    if let Some(rate) = problem.counter_offer_rate_bps {
        let _ = writeln!(out, "  offer: with rate={} it would be admitted now", text(rate));
    }
    if let Some(next) = next_step(&problem.code) {
        let _ = writeln!(out, "  next: {next}");
    }
    out
}

fn next_step(code: &str) -> Option<&'static str> {
    Some(match code {
        "unknown_aggregate" => "`turnpike aggregate list` shows what this node has",
        "unknown_peer" => "`turnpike status` shows the peers; a new one is added in the configuration",
        "unknown_series" => "`turnpike series list` shows what this node has",
        "unknown_link" => "`turnpike link list` shows what this node has",
        "unknown_session" => "`turnpike session list` shows what this node has",
        "session_id_reused" => "choose another id, or delete that session first",
        "aggregate_name_reused" => "choose another name, or delete that aggregate first",
        "aggregate_in_use" => "`turnpike session list` shows its sessions; delete them first",
        "endpoints_in_use" => "`turnpike session list` shows who has them",
        "clocks_differ" => "set both nodes' clocks by NTP or PTP, and restart the node whose clock was wrong",
        "tag_family_differs" => "set [[peers]].tag_address on both nodes to addresses of one family, and restart them",
        "link_exhausted" => {
            "ask for less, or delete an aggregate that is not needed; `turnpike link show` says what it cannot carry"
        }
        "node_capacity_exhausted" => "ask for less, or wait until a session ends",
        "media_slots_exhausted" => "ask for fewer, or wait until a session that has some ends",
        "unknown_media_slots" => {
            "`turnpike status` at that node shows what it has; they are configured in [media_slots]"
        }
        "pool_rate_exhausted" | "pool_burst_exhausted" | "second_side_refused" => {
            "ask for less, say with rate-min what would still do, or wait until a session ends"
        }
        "peer_unreachable" => "`turnpike status` says why; nothing is reserved, and repeating the request is safe",
        "busy" | "overloaded" | "stopping" => "repeat the request in a second",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let out = table(["A", "LONG"], [["wide".to_owned(), "1".to_owned()]]);
        assert_eq!(out, "A     LONG\nwide  1\n");
    }

    #[test]
    fn what_arrived_is_shown_or_said_not_to_be_known() {
        let reception = Reception { lost_packets: 3, gaps: 2, jitter_ns: Some(1_238_000), ..Reception::default() };
        let mos = serde_json::from_str("4.33").ok();
        assert_eq!(arrival(Some(&reception), mos), ["3", "0", "0", "2", "1.23 ms", "4.33"]);
        let unknown = Reception { jitter_ns: None, ..reception };
        assert_eq!(arrival(Some(&unknown), None), ["3", "0", "0", "2", "-", "-"]);
        assert_eq!(arrival(None, None), ["-"; 6]);
        assert_eq!(milliseconds(20_000_000), "20.00 ms");
    }

    #[test]
    fn what_is_not_counted_is_no_zero() {
        assert_eq!(figure(Some(Counters::default()), |counters| counters.passed_packets), "0");
        assert_eq!(figure(None, |counters| counters.passed_packets), "-");
    }

    #[test]
    fn a_refusal_shows_numbers_offer_and_next_step() {
        let state = PoolView {
            name: "aggregate ab".to_owned(),
            node: "b".to_owned(),
            capacity_bps: 1_000_000,
            used_bps: 960_000,
            free_bps: 40_000,
            burst_capacity_bytes: 0,
            burst_free_bytes: 0,
            fits_at: Some("2030-06-01T14:00:00.000Z".to_owned()),
        };
        let shown = problem(&Problem {
            r#type: String::new(),
            title: "The pool has not that much rate left".to_owned(),
            status: 409,
            detail: "80000 asked".to_owned(),
            code: "pool_rate_exhausted".to_owned(),
            field: Some("flows[0].rate_bps".to_owned()),
            pool: Some(state),
            media_slots: None,
            counter_offer_rate_bps: Some(38_000),
        });
        for part in [
            "pool_rate_exhausted",
            "960k of 1M bit/s used, 40k free",
            "from 2030-06-01T14:00:00.000Z on",
            "rate=38k",
            "next:",
            "flows[0].rate_bps",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }
}
