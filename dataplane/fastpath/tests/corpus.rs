//! Runs every input that the fuzzers kept (`fuzz/corpus`) through the same harness.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use std::path::Path;

use world::harness::{any_frame, identity};

fn replay(target: &str, harness: fn(&[u8]), inputs_min: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        harness(&std::fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= inputs_min, "only {inputs} inputs of {target}: is the corpus there?");
}

#[test]
fn any_frame_of_the_corpus_ends_once() {
    replay("any_frame", any_frame, 250);
}

#[test]
fn every_packet_of_the_corpus_arrives_as_it_was_sent() {
    replay("identity", identity, 50);
}
