//! Looks at what is pinned, whoever runs it, without changing anything: what is in force, what it counted, when it lapses, and what the next
//! start would do with it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use turnpike_fastpath::contract::BEST_EFFORT_ENTRIES;
use turnpike_fastpath::entry::{LABEL_VALID, TERMINALS};

use crate::clock;
use crate::config::{EngineConfig, possible_cpus};
use crate::engine::{ENDED, Engine, Kind};
use crate::error::EngineError;
use crate::flow_table;
use crate::generation::{self, Generation, Left, Pinned, Place};
use crate::layout::{Per, Shape};
use crate::migrate;
use crate::policy::{Counters, PolicyId};
use crate::program::{link_path, roles};
use crate::sys::link_interface;
use crate::table::Noted;

/// What [`Engine::survey`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// What the next start would do.
    pub takeover: Takeover,
    /// By port.
    pub links: Vec<LinkSurvey>,
    /// In force or not forgotten; by kind, then as they lie in the tables.
    pub policies: Vec<PolicySurvey>,
    /// Kernel memory of all tables that are pinned.
    pub memory_bytes: u64,
}

/// What [`Engine::start`] would do with what is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takeover {
    /// There is nothing; everything is made new.
    Nothing,
    /// Take it over as it is.
    AsItIs,
    /// Take it over in tables of other sizes; says which.
    Moves(String),
    /// Complete a change of sizes that was cut off, and then take it over.
    Completes,
    /// Refuse it: stable code, and why.
    Refused(&'static str, String),
}

/// The link of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSurvey {
    /// `lan` or `wan`.
    pub role: &'static str,
    /// Index of the interface that a program is attached to; none if there is no such link, or its interface is gone.
    pub interface: Option<u32>,
}

/// A policy as it lies in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicySurvey {
    /// Its name.
    pub id: PolicyId,
    /// `aggregate_out`, `aggregate_in`, `flow_out` or `flow_in`.
    pub kind: &'static str,
    /// Whether packets find it. If not, only its counters are kept.
    pub in_force: bool,
    /// When it lapses unless somebody renews it; zero if it has. None for aggregates: their flows lapse.
    pub lapses_in: Option<Duration>,
    /// What it counted.
    pub counters: Counters,
}

impl Engine {
    /// Looks at what is pinned. A running engine is not disturbed.
    ///
    /// # Errors
    /// The sizes are out of range, or the caller may not look.
    pub fn survey(config: &EngineConfig) -> Result<Survey, EngineError> {
        let wanted = Shape::of(config, possible_cpus()?);
        // What may not be seen must not pass for nothing.
        if let Err(error) = fs::symlink_metadata(&config.pin_dir)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(EngineError::kernel("looking at what is pinned")(error));
        }
        let mut survey =
            Survey { takeover: Takeover::Nothing, links: links(config)?, policies: Vec::new(), memory_bytes: 0 };
        let found = match look(config) {
            Err(error @ EngineError::Pins { .. }) => {
                survey.takeover = Takeover::Refused(error.code(), error.to_string());
                return Ok(survey);
            }
            found => found?,
        };
        let Some(newest) = found.last() else { return Ok(survey) };
        survey.memory_bytes = found.iter().map(|generation| generation.shape.memory_bytes()).sum();
        survey.policies = policies(&found, newest, clock::ticks()? * newest.tables.config().tick_ns);
        survey.takeover = match migrate::check(newest, wanted) {
            Err(error) => Takeover::Refused(error.code(), error.to_string()),
            Ok(()) if found.len() > 1 => Takeover::Completes,
            Ok(()) if newest.shape == wanted => Takeover::AsItIs,
            Ok(()) => Takeover::Moves(newest.shape.difference(wanted)),
        };
        Ok(survey)
    }
}

/// The generations that programs may use, the newest last.
fn look(config: &EngineConfig) -> Result<Vec<Generation>, EngineError> {
    let places = match generation::left(&config.pin_dir) {
        Left::Both => vec![Place::Current, Place::Next],
        Left::Nothing => generation::newest(&config.pin_dir).into_iter().collect(),
    };
    let mut found = Vec::new();
    for place in places {
        let folder = place.folder(&config.pin_dir);
        if let Pinned::Tables(shape) = generation::look(&folder)? {
            found.push(Generation::open(&folder, shape)?);
        }
    }
    Ok(found)
}

fn links(config: &EngineConfig) -> Result<Vec<LinkSurvey>, EngineError> {
    let links = roles(config.lan == config.wan).iter().map(|(_, role, _)| {
        let path = link_path(&config.pin_dir, role);
        let interface = if path.exists() {
            link_interface(&path).map_err(EngineError::kernel("looking at a pinned link"))?
        } else {
            None
        };
        Ok(LinkSurvey { role, interface })
    });
    links.collect()
}

fn policies(found: &[Generation], newest: &Generation, now_ns: u64) -> Vec<PolicySurvey> {
    let mut policies = Vec::new();
    let tables = &newest.tables;
    let seed = tables.config().hash_seed;
    let lapses_in = |expires_ns: u64| Some(Duration::from_nanos(expires_ns.saturating_sub(now_ns)));
    for (noted, per, first) in [
        (Noted::Aggregate, Per::Aggregate, BEST_EFFORT_ENTRIES),
        (Noted::Flow, Per::Flow, 0),
        (Noted::Label, Per::Label, 0),
    ] {
        let counted = counters(found, noted, per);
        for index in first..newest.shape.count(per) {
            let note = tables.note(noted, index);
            if note.policy == 0 {
                continue;
            }
            let (kind, in_force, lapses_in) = match noted {
                Noted::Flow => {
                    let flow = tables.flow(index);
                    let (ends, _) = tables.flow_ends(index);
                    let there = flow_table::is_published(tables, seed, &ends, index);
                    (name(Kind::FlowOut), there, lapses_in(flow.expires_ns))
                }
                Noted::Label => {
                    let label = tables.label(index);
                    let of_all = label.flags & TERMINALS != 0;
                    let kind = if of_all { "terminals_in" } else { name(Kind::FlowIn) };
                    (kind, label.generation & LABEL_VALID != 0, lapses_in(label.expires_ns))
                }
                Noted::Aggregate | Noted::NextHop => {
                    let out = note.detail & !ENDED == Kind::AggregateOut as u64;
                    let kind = if out { Kind::AggregateOut } else { Kind::AggregateIn };
                    (name(kind), note.detail & ENDED == 0, None)
                }
            };
            let counters = counted.get(&note.policy).copied().unwrap_or_default();
            policies.push(PolicySurvey { id: note.policy, kind, in_force, lapses_in, counters });
        }
    }
    policies
}

/// What each policy counted in all generations together. What a later one carried over is in the earlier one still.
fn counters(found: &[Generation], noted: Noted, per: Per) -> BTreeMap<PolicyId, Counters> {
    let mut all: BTreeMap<PolicyId, Counters> = BTreeMap::new();
    for (number, generation) in found.iter().enumerate() {
        for index in 0..generation.shape.count(per) {
            let policy = generation.tables.note(noted, index).policy;
            if policy == 0 {
                continue;
            }
            let counted = if number == 0 {
                generation.tables.counters(noted, index)
            } else {
                generation.tables.counters_of_cpus(noted, index)
            };
            *all.entry(policy).or_default() += counted;
        }
    }
    all
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::AggregateOut => "aggregate_out",
        Kind::AggregateIn => "aggregate_in",
        Kind::FlowOut => "flow_out",
        Kind::FlowIn => "flow_in",
    }
}
