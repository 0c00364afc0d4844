//! Finds the way through tables that an earlier process left.

use turnpike_fastpath::contract::BEST_EFFORT_ENTRIES;
use turnpike_fastpath::entry::{Aggregate, LABEL_VALID, RTCP_NEXT_PORT};

use crate::engine::{ENDED, Engine, Kind, Placed, all_ends};
use crate::flow_table;
use crate::next_hop::NO_NEXT_HOP;
use crate::table::Noted;

/// Takes over what is in force. What was only half installed, or deinstalled and not forgotten, is out of force with the counters that it has.
pub(crate) fn adopt(engine: &mut Engine) {
    for index in BEST_EFFORT_ENTRIES..engine.config.aggregate_entries() {
        let note = engine.tables.note(Noted::Aggregate, index);
        if note.policy == 0 {
            engine.free_aggregates.indexes.push_back(index);
            continue;
        }
        let out = note.detail & !ENDED == Kind::AggregateOut as u64;
        let kind = if out { Kind::AggregateOut } else { Kind::AggregateIn };
        let entry = engine.tables.aggregate(index);
        let ended = note.detail & ENDED != 0;
        if !engine.next_hops.adopt(&engine.tables, entry.next_hop) && ended {
            engine.tables.set_aggregate(index, Aggregate { next_hop: NO_NEXT_HOP, ..entry });
        }
        place(engine, note.policy, Placed { kind, index }, !ended);
    }
    for index in 0..engine.config.flows_max {
        let note = engine.tables.note(Noted::Flow, index);
        if note.policy == 0 {
            engine.free_flows.indexes.push_back(index);
            continue;
        }
        let (ends, flags) = engine.tables.flow_ends(index);
        let found = flow_table::is_published(&engine.tables, engine.seed, &ends, index);
        if found {
            for ends in all_ends(&ends, flags & RTCP_NEXT_PORT != 0) {
                engine.flow_ends.insert(ends, note.policy);
            }
        }
        place(engine, note.policy, Placed { kind: Kind::FlowOut, index }, found);
    }
    for index in 0..engine.config.flows_max {
        let note = engine.tables.note(Noted::Label, index);
        if note.policy != 0 {
            let mut label = engine.tables.label(index);
            let valid = label.generation & LABEL_VALID != 0;
            if !engine.next_hops.adopt(&engine.tables, label.next_hop) && !valid {
                // Or it would free, when it is forgotten, what is somebody else's by then.
                label.next_hop = NO_NEXT_HOP;
                engine.tables.set_label(index, label);
            }
            place(engine, note.policy, Placed { kind: Kind::FlowIn, index }, valid);
        }
    }
    engine.next_hops.free_rest(&engine.tables);
}

fn place(engine: &mut Engine, policy: u64, placed: Placed, in_force: bool) {
    let policies = if in_force { &mut engine.policies } else { &mut engine.ended };
    policies.insert(policy, placed);
}
