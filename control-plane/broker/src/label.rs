//! Labels: a table index that rests after use, and a generation that nobody can guess.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::name::{Epoch, Label};

const INDEX_MASK: u64 = (1 << Label::INDEX_BITS) - 1;
const GENERATION_MASK: u64 = (1 << (Label::BITS - Label::INDEX_BITS)) - 1;

/// The labels of what this node receives: flows, and aggregates that have one for all of theirs. An index that is given back waits behind all others that are free,
/// so that a late packet finds an empty slot for as long as can be.
pub(crate) struct Labels {
    secret: [u8; 16],
    allocations: u64,
    free: VecDeque<u32>,
    generations: Vec<u32>,
    used: BTreeSet<Label>,
}

impl Labels {
    pub(crate) fn new(labels_max: u32, secret: [u8; 16], epoch: Epoch) -> Self {
        let labels_max = labels_max.min(1 << Label::INDEX_BITS);
        Self {
            secret,
            // The epoch keeps a later life from repeating the generations of this one.
            allocations: u64::from(epoch.0) << 32,
            free: (0..labels_max).collect(),
            generations: vec![0; labels_max as usize],
            used: BTreeSet::new(),
        }
    }

    /// `None` if all are used.
    pub(crate) fn allocate(&mut self) -> Option<Label> {
        let index = self.free.pop_front()?;
        let last = self.generations.get_mut(index as usize)?;
        let generation = loop {
            self.allocations += 1;
            let generation = generation(&self.secret, index, self.allocations);
            if generation != 0 && generation != *last {
                break generation;
            }
        };
        *last = generation;
        let label = Label((u64::from(generation) << Label::INDEX_BITS) | u64::from(index));
        assert!(self.used.insert(label), "no label is given twice");
        Some(label)
    }

    /// Takes a label that an earlier life of this node gave. False if another flow has its index.
    pub(crate) fn adopt(&mut self, label: Label) -> bool {
        // The list is in order as long as nothing has been given back, which makes a restart fast.
        let ordered = self.free.binary_search_by_key(&(label.0 & INDEX_MASK), |&index| u64::from(index)).ok();
        let found = ordered.or_else(|| self.free.iter().position(|&index| u64::from(index) == label.0 & INDEX_MASK));
        let Some(position) = found else { return false };
        let Some(index) = self.free.remove(position) else {
            return false;
        };
        if let Some(last) = self.generations.get_mut(index as usize) {
            *last = u32::try_from((label.0 >> Label::INDEX_BITS) & GENERATION_MASK).unwrap_or_default();
        }
        self.used.insert(label)
    }

    pub(crate) fn give_back(&mut self, label: Label) {
        if self.used.remove(&label)
            && let Ok(index) = u32::try_from(label.0 & INDEX_MASK)
        {
            self.free.push_back(index);
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.len()
    }
}

fn generation(secret: &[u8; 16], index: u32, allocation: u64) -> u32 {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(&index.to_le_bytes());
    hasher.write(&allocation.to_le_bytes());
    u32::try_from(hasher.finish() & GENERATION_MASK).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 16] = *b"0123456789abcdef";

    fn index(label: Label) -> u64 {
        label.0 & INDEX_MASK
    }

    #[test]
    fn labels_run_out_and_come_back() {
        let mut labels = Labels::new(2, SECRET, Epoch(1));
        let first = labels.allocate().unwrap();
        assert!(labels.allocate().is_some());
        assert_eq!(labels.allocate(), None);
        labels.give_back(first);
        assert_eq!(labels.used(), 1);
        assert!(labels.allocate().is_some());
    }

    #[test]
    fn a_freed_index_rests_longest() {
        let mut labels = Labels::new(3, SECRET, Epoch(1));
        let first = labels.allocate().unwrap();
        labels.give_back(first);
        let next: Vec<u64> = (0..3).map(|_| index(labels.allocate().unwrap())).collect();
        assert_eq!(next, [1, 2, 0]);
    }

    #[test]
    fn an_index_never_has_the_same_generation_twice_in_a_row_and_never_zero() {
        let mut labels = Labels::new(1, SECRET, Epoch(1));
        let mut last = Label(0);
        for _ in 0..10_000 {
            let label = labels.allocate().unwrap();
            assert_ne!(label, last);
            assert_ne!(label.0 >> Label::INDEX_BITS, 0);
            assert!(label.0 < 1 << Label::BITS);
            labels.give_back(label);
            last = label;
        }
    }

    #[test]
    fn another_secret_or_another_life_gives_other_generations() {
        let first = Labels::new(1, SECRET, Epoch(1)).allocate();
        assert_ne!(first, Labels::new(1, [7; 16], Epoch(1)).allocate());
        assert_ne!(first, Labels::new(1, SECRET, Epoch(2)).allocate());
        assert_eq!(first, Labels::new(1, SECRET, Epoch(1)).allocate());
    }

    #[test]
    fn an_adopted_label_is_not_given_again() {
        let mut before = Labels::new(2, SECRET, Epoch(1));
        let label = before.allocate().unwrap();
        let mut after = Labels::new(2, SECRET, Epoch(2));
        assert!(after.adopt(label));
        assert!(!after.adopt(label));
        assert_ne!(index(after.allocate().unwrap()), index(label));
        assert_eq!(after.allocate(), None);
    }
}
