//! A booked session on real data planes: before its start its packets are nobody's, from then on its own, and after its end nobody's again.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use turnpike_api::SessionView;
use turnpike_broker::name::Nanos;
use turnpike_broker::record::SessionState;

use crate::bench::{Bench, Setup, counted, ends, flow, is_to, usage};
use crate::network::{Ip, Place};
use crate::packet::{Packet, delivered, rtp};

const PORT: u16 = 5_200;
const PACKETS: u16 = 20;
/// From the request to the start: a node is killed and started again meanwhile.
const AHEAD: Duration = Duration::from_secs(12);
const LASTS: Duration = Duration::from_secs(6);
/// A session that takes longer from its time to its state does not get there.
const LATE_MAX: Duration = Duration::from_secs(20);

fn text(time: Duration) -> String {
    Nanos::from_millis(u64::try_from(time.as_millis()).unwrap()).to_string()
}

fn wait(bench: &Bench, edge: Place, state: SessionState) -> SessionView {
    let deadline = Instant::now() + AHEAD + LASTS + LATE_MAX;
    loop {
        let view = bench.session(edge, "booked");
        if view.state == state {
            return view;
        }
        assert!(Instant::now() < deadline, "{edge:?} is not {state:?}: {view:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_booking_is_enforced_from_its_start_to_its_end() {
    let Some(mut bench) = Bench::new(Setup::over(Ip::V4)) else { return };
    bench.reserve(Place::EdgeA, &json!({}));
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + AHEAD;
    let schedule = json!({ "starts_at": text(start), "ends_at": text(start + LASTS) });
    let booked = bench.book("booked", &[flow("a", Ip::V4, "ab", PORT, &json!({}))], &schedule);
    assert_eq!(booked.state, SessionState::Booked, "{booked:?}");
    assert_eq!(bench.session(Place::EdgeB, "booked").state, SessionState::Booked);

    let (source, destination) = ends(Ip::V4, "ab", PORT);
    bench.listen(Place::SiteB, destination);
    let packets: Vec<_> = (0..PACKETS).map(|number| Packet::new(source, destination, rtp(number, 172))).collect();
    let unadmitted = |bench: &Bench| bench.verdict(Place::EdgeA, "out", "unadmitted");
    let before = unadmitted(&bench);
    bench.send(&packets[0]);
    bench.restart(Place::EdgeB);
    assert_eq!(unadmitted(&bench), before + 1, "a packet before the start is of no flow");

    wait(&bench, Place::EdgeA, SessionState::Active);
    wait(&bench, Place::EdgeB, SessionState::Active);
    let heard = bench.capture(Place::SiteB);
    packets.iter().for_each(|packet| bench.send(packet));
    let sent: Vec<_> = packets.iter().map(Packet::bytes).collect();
    let expected: Vec<_> = sent.iter().map(|packet| delivered(packet, 46 << 2)).collect();
    assert_eq!(heard.take(is_to(PORT), expected.len()), expected);

    let ended = wait(&bench, Place::EdgeA, SessionState::Ended);
    assert_eq!(usage(&ended, "edge-a", "a"), Some(counted(&sent, true)));
    assert_eq!(usage(&ended, "edge-b", "a"), Some(counted(&sent, true)));
    wait(&bench, Place::EdgeB, SessionState::Ended);
    let before = unadmitted(&bench);
    bench.send(&packets[0]);
    let deadline = Instant::now() + LATE_MAX;
    while unadmitted(&bench) == before {
        assert!(Instant::now() < deadline, "a packet after the end is still of the flow");
        std::thread::sleep(Duration::from_millis(50));
    }
}
