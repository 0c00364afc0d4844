use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{NIL, Tree};
use crate::calendar::level::{Level, Stretch};
use crate::name::Nanos;

impl Tree {
    /// Checks a subtree and returns its changes in order, its height and the whole of it.
    fn check(&self, at: u32) -> (Vec<(Nanos, Level)>, u8, Stretch) {
        let Some(node) = self.get(at) else { return (Vec::new(), 0, Stretch::EMPTY) };
        let (mut changes, left_height, left) = self.check(node.left);
        let (later, right_height, right) = self.check(node.right);
        assert!(left_height.abs_diff(right_height) <= 1, "balanced");
        assert_eq!(node.height, left_height.max(right_height) + 1);
        assert_eq!(node.whole, left.then(Stretch::of(node.change)).then(right));
        assert_ne!(node.change, Level::ZERO, "a change that is none is removed");
        changes.push((node.time, node.change));
        changes.extend(later);
        (changes, node.height, node.whole)
    }

    fn changes(&self) -> Vec<(Nanos, Level)> {
        let (changes, _, _) = self.check(self.root);
        assert!(changes.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(changes.len(), self.len());
        let mut unused = 0;
        let mut at = self.unused;
        while at != NIL {
            unused += 1;
            at = self.get(at).unwrap().left;
        }
        assert_eq!(changes.len() + unused, self.nodes.len(), "no node is lost");
        changes
    }
}

const fn level(rate_bps: i64, burst_bytes: i64) -> Level {
    Level { rate_bps, burst_bytes }
}

fn change() -> impl Strategy<Value = (u64, Level)> {
    (0u64..40, -2i64..=2, -1i64..=1).prop_map(|(time, rate_bps, burst_bytes)| (time, level(rate_bps, burst_bytes)))
}

proptest! {
    #[test]
    fn a_tree_has_the_changes_that_were_entered(
        entries in prop::collection::vec((change(), prop::option::weighted(0.1, 0u64..40)), 0..200),
    ) {
        let mut tree = Tree::new();
        let mut model: BTreeMap<Nanos, Level> = BTreeMap::new();
        for ((time, change), taken_until) in entries {
            tree.add(Nanos(time), change);
            let entry = model.entry(Nanos(time)).or_default();
            *entry = entry.plus(change);
            model.retain(|_, change| *change != Level::ZERO);
            if let Some(until) = taken_until.map(Nanos) {
                while let Some(change) = tree.take_first_until(until) {
                    prop_assert_eq!(Some(change), model.pop_first().map(|(_, change)| change));
                }
                prop_assert!(model.keys().all(|time| *time > until));
            }
            let expected: Vec<(Nanos, Level)> = model.iter().map(|(time, change)| (*time, *change)).collect();
            prop_assert_eq!(tree.changes(), expected);
        }
    }
}

#[test]
fn a_tree_stays_low_and_uses_its_nodes_again() {
    let mut tree = Tree::new();
    for time in 0..1_000 {
        tree.add(Nanos(time), level(1, 1));
    }
    assert!(tree.height(tree.root) <= 14, "1.44 times log2 of 1,000, not {}", tree.height(tree.root));
    for time in 0..999 {
        tree.add(Nanos(time), level(-1, -1));
        tree.add(Nanos(10_000 - time), level(1, 1));
    }
    assert_eq!(tree.nodes.len(), 1_000);
    assert_eq!(tree.changes().len(), 1_000);
    while tree.take_first_until(Nanos(u64::MAX)).is_some() {}
    assert!(tree.nodes.is_empty() && tree.changes().is_empty());
}
