//! Finds the way through tables that an earlier process left.

use turnpike_fastpath::contract::BEST_EFFORT_ENTRIES;
use turnpike_fastpath::entry::LABEL_VALID;

use crate::engine::{Engine, Kind, Placed, ends_key, flow_ends};
use crate::flow_table;
use crate::sys::grace_period;
use crate::table::{Note, Noted};

/// Takes over what is in force, and frees what was only half installed or half deinstalled.
pub(crate) fn adopt(engine: &mut Engine) {
    let mut halves = Vec::new();
    for index in BEST_EFFORT_ENTRIES..engine.config.aggregate_entries() {
        let note = engine.tables.note(Noted::Aggregate, index);
        let kind = if note.detail == Kind::AggregateOut as u64 { Kind::AggregateOut } else { Kind::AggregateIn };
        if note.policy == 0 {
            engine.free_aggregates.indexes.push_back(index);
            continue;
        }
        engine.policies.insert(note.policy, Placed { kind, index });
        if kind == Kind::AggregateOut {
            engine.next_hops.adopt(&engine.tables, engine.tables.aggregate(index).next_hop);
        }
    }
    for index in 0..engine.config.flows_max {
        let note = engine.tables.note(Noted::Flow, index);
        if note.policy == 0 {
            engine.free_flows.indexes.push_back(index);
            continue;
        }
        let ends = flow_ends(&engine.tables.flow(index));
        let placed = Placed { kind: Kind::FlowOut, index };
        if flow_table::is_published(&engine.tables, engine.seed, &ends, index) {
            engine.policies.insert(note.policy, placed);
            engine.flow_ends.insert(ends_key(&ends), note.policy);
        } else {
            halves.push(placed);
        }
    }
    for index in 0..engine.config.flows_max {
        let note = engine.tables.note(Noted::Label, index);
        let valid = engine.tables.label(index).generation & LABEL_VALID != 0;
        if note.policy != 0 && valid {
            engine.policies.insert(note.policy, Placed { kind: Kind::FlowIn, index });
            engine.next_hops.adopt(&engine.tables, engine.tables.label(index).next_hop);
        } else if note.policy != 0 {
            // Not found by packets; its next hop was not counted.
            engine.tables.set_note(Noted::Label, index, Note::default());
        }
    }
    if !halves.is_empty() {
        tracing::warn!(flows = halves.len(), "freeing flows that were not wholly installed");
        grace_period();
        for placed in halves {
            engine.retire(placed);
        }
    }
}
