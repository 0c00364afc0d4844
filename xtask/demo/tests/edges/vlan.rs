//! Everything behind VLANs: both sites, and the way between the nodes.

use serde_json::json;

use crate::bench::{Bench, Setup, counted, ends, flow, is_to, prefix, usage};
use crate::network::{Ip, Place, Shape, has_vlans};
use crate::packet::{Packet, delivered, rtp};

#[test]
fn calls_between_vlans() {
    const PACKETS: u16 = 30;
    if rustix::process::geteuid().is_root() && !has_vlans(&prefix()) {
        println!("skipped: this kernel has no VLAN interfaces (802.1Q)");
        return;
    }
    for (outer, tag) in [(Ip::V4, "label"), (Ip::V6, "label"), (Ip::V4, "terminals")] {
        let Some(mut bench) = Bench::new(Setup { shape: Shape::Vlans, ..Setup::over(outer) }) else { return };
        bench.reserve(Place::EdgeA, &json!({ "tag": tag }));
        bench.reserve(Place::EdgeB, &json!({ "tag": tag }));
        let kinds = [(Ip::V4, "ab", 5_000), (Ip::V6, "ab", 5_002), (Ip::V4, "ba", 5_004), (Ip::V6, "ba", 5_006)];
        let asked = kinds.map(|(ip, by, port)| flow(&format!("{port}"), ip, by, port, &json!({})));
        bench.admit("call", &asked);
        let mut of_flow = Vec::new();
        for (ip, by, port) in kinds {
            let (source, destination) = ends(ip, by, port);
            let site = if by == "ab" { Place::SiteB } else { Place::SiteA };
            bench.listen(site, destination);
            let heard = bench.capture(site);
            let packets: Vec<_> =
                (0..PACKETS).map(|number| Packet::new(source, destination, rtp(number, 172))).collect();
            packets.iter().for_each(|packet| bench.send(packet));
            let sent: Vec<_> = packets.iter().map(Packet::bytes).collect();
            let expected: Vec<_> = sent.iter().map(|packet| delivered(packet, 46 << 2)).collect();
            // Seen at the interface, and again at the VLAN on it.
            let came = heard.take(is_to(port), 2 * sent.len());
            let mut twice: Vec<_> = expected.iter().chain(&expected).cloned().collect();
            twice.sort();
            assert_eq!(
                {
                    let mut came = came;
                    came.sort();
                    came
                },
                twice,
                "{port} over {outer:?}, {tag}"
            );
            of_flow.push((port, by, sent));
        }
        let ended = bench.end("call");
        for (port, by, sent) in of_flow {
            let (sender, receiver) = if by == "ab" { ("edge-a", "edge-b") } else { ("edge-b", "edge-a") };
            let id = format!("{port}");
            assert_eq!(usage(&ended, sender, &id), Some(counted(&sent, true)), "{id}");
            assert_eq!(usage(&ended, receiver, &id), (tag == "label").then(|| counted(&sent, true)), "{id}");
        }
    }
}
