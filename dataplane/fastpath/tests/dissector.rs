//! The dissector in `docs/` understands what the packet logic writes: every flow of the scene, in every kind of tag.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use std::process::Command;

use turnpike_fastpath::{Direction, Verdict};
use world::harness::run;
use world::host::World;
use world::*;

/// A capture file of Ethernet frames (the classic format, draft-ietf-opsawg-pcap).
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

#[test]
fn every_kind_of_tag_is_shown_with_its_fields_and_its_payload() {
    let fields = ["turnpike.kind", "turnpike.next_port", "turnpike.label", "turnpike.length", "rtp.seq", "rtcp.pt"];
    let mut frames = Vec::new();
    let mut wanted = Vec::new();
    let mut send = |frame: Vec<u8>, kind: u8, next_port: bool, rtcp: bool, length: usize| {
        let (verdict, tagged) = run(&World::new(), Direction::Out, &frame);
        assert_eq!(verdict, Verdict::Redirect(1));
        frames.push(tagged);
        let media = if rtcp { "|201" } else { "12345|" };
        wanted.push(format!("{kind}|{}|0x000000abcde00007|{length}|{media}", u8::from(next_port)));
    };
    for (ends, kind) in [
        (out_ends(FREE), 1),
        (out_ends6(FREE_66), 1),
        (out_ends(FREE_46), 5),
        (out_ends6(FREE_64), 5),
        (out_ends(TERMINALS), 2),
        (out_ends(TERMINALS_46), 2),
        (out_ends6(TERMINALS), 3),
        (out_ends6(TERMINALS_46), 3),
    ] {
        send(udp_frame(&ends, &rtp(), 0, 64), kind, false, false, 172);
    }
    send(udp_frame(&next(out_ends(PAIR)), &frames::rtcp(), 0, 64), 1, true, true, 32);

    let name = format!("turnpike-dissector-{}.pcap", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, capture(&frames)).unwrap();
    let script = concat!("lua_script:", env!("CARGO_MANIFEST_DIR"), "/../../docs/turnpike.lua");
    let mut command = Command::new("tshark");
    command.args(["-X", script, "-r"]).arg(&path).args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let shown = command.output();
    let faults = Command::new("tshark")
        .args(["-X", script, "-r"])
        .arg(&path)
        .args(["-Y", "_ws.malformed || turnpike.bad_length || turnpike.bad_kind || ip.checksum_bad"])
        .output();
    std::fs::remove_file(&path).unwrap();
    let Ok(shown) = shown else {
        println!("skipped: tshark is not installed");
        return;
    };
    let text = String::from_utf8(shown.stdout).unwrap();
    let rows: Vec<_> = text.lines().map(|row| row.replace("True", "1").replace("False", "0")).collect();
    assert_eq!(rows, wanted, "{}", String::from_utf8_lossy(&shown.stderr));
    assert_eq!(String::from_utf8(faults.unwrap().stdout).unwrap(), "", "tshark finds faults");
}
