use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use turnpike_broker::media::Media;
use turnpike_broker::name::PolicyId;
use turnpike_broker::policy::{Counters, InstallError, Meter, Policy, Reception};
use turnpike_node::dataplane::{DataPlane, Status};
use turnpike_node::payload::Mtus;

/// A data plane that only remembers. Clones are the same data plane: what outlives a restart of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDataPlane(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// 1500 both where it was not set.
    mtus: Option<Mtus>,
    installed: BTreeSet<PolicyId>,
    /// Out of force and not forgotten.
    ended: BTreeSet<PolicyId>,
    /// Of incoming flows, also when they have ended.
    media: BTreeMap<PolicyId, Media>,
    /// Of flows, as installed and changed.
    meters: BTreeMap<PolicyId, Meter>,
    change_error: Option<InstallError>,
    deinstalls: usize,
    best_effort_rate_bps: Option<u64>,
    install_error: Option<InstallError>,
    deinstall_time: Duration,
    reading_time: Duration,
    status_panics: bool,
}

#[allow(dead_code, reason = "each test program uses some of it")]
impl FakeDataPlane {
    pub(crate) fn installed(&self) -> usize {
        self.0.lock().unwrap().installed.len()
    }

    /// What the incoming flows were installed with.
    pub(crate) fn media(&self) -> Vec<Media> {
        self.0.lock().unwrap().media.values().cloned().collect()
    }

    /// The rates of the flows in force.
    pub(crate) fn rates_bps(&self) -> Vec<u64> {
        let inner = self.0.lock().unwrap();
        let in_force = inner.meters.iter().filter(|(id, _)| inner.installed.contains(id));
        in_force.map(|(_, meter)| meter.rate_bps).collect()
    }

    /// From now on no change of a meter works, or every one again.
    pub(crate) fn fail_changes(&self, error: Option<InstallError>) {
        self.0.lock().unwrap().change_error = error;
    }

    pub(crate) fn ended(&self) -> usize {
        self.0.lock().unwrap().ended.len()
    }

    pub(crate) fn deinstalls(&self) -> usize {
        self.0.lock().unwrap().deinstalls
    }

    pub(crate) fn best_effort_rate_bps(&self) -> Option<u64> {
        self.0.lock().unwrap().best_effort_rate_bps
    }

    /// From now on no install works, or every one again.
    pub(crate) fn fail_installs(&self, error: Option<InstallError>) {
        self.0.lock().unwrap().install_error = error;
    }

    /// From now on the report about a deinstall comes so much later than the deinstall.
    pub(crate) fn slow_deinstalls(&self, time: Duration) {
        self.0.lock().unwrap().deinstall_time = time;
    }

    /// From now on a reading takes so long, as if other work came first.
    pub(crate) fn slow_readings(&self, time: Duration) {
        self.0.lock().unwrap().reading_time = time;
    }

    /// From now on the ports have these.
    pub(crate) fn set_mtus(&self, mtus: Mtus) {
        self.0.lock().unwrap().mtus = Some(mtus);
    }

    /// The next question for the status ends the thread that asks.
    pub(crate) fn panic_at_status(&self) {
        self.0.lock().unwrap().status_panics = true;
    }

    /// As if somebody had taken the pins away.
    pub(crate) fn lose_all(&self) {
        self.0.lock().unwrap().installed.clear();
    }
}

/// As many packets as the policy's number says; of those of an incoming flow each one lost has 99 that came.
fn counters(inner: &Inner, policy: PolicyId) -> Counters {
    let packets = (policy.0 & 0xff) * 99;
    let reception = inner.media.get(&policy).map(|media| Reception {
        lost_packets: packets / 99,
        gaps: packets / 99,
        jitter_ns: media.clock_rate_hz().map(|_| 1_500_000),
        ..Reception::default()
    });
    Counters {
        offered_packets: packets,
        passed_packets: packets,
        excess_packets: packets / 2,
        reception,
        ..Counters::default()
    }
}

impl DataPlane for FakeDataPlane {
    fn adopted(&self) -> Vec<PolicyId> {
        let inner = self.0.lock().unwrap();
        inner.installed.union(&inner.ended).copied().collect()
    }

    fn install(&mut self, policies: &[(PolicyId, Policy)], _: &[IpAddr]) -> Result<(), InstallError> {
        let mut inner = self.0.lock().unwrap();
        if let Some(error) = &inner.install_error {
            return Err(error.clone());
        }
        inner.installed.extend(policies.iter().map(|(id, _)| *id));
        for (id, policy) in policies {
            if let Policy::FlowIn { meter, .. } | Policy::FlowOut { meter, .. } = policy {
                inner.meters.insert(*id, *meter);
            }
            if let Policy::FlowIn { media, .. } = policy {
                inner.media.insert(*id, media.clone());
            }
        }
        Ok(())
    }

    fn change(&mut self, meters: &[(PolicyId, Meter, Meter)]) -> Result<Vec<Counters>, InstallError> {
        let mut inner = self.0.lock().unwrap();
        if let Some(error) = &inner.change_error {
            return Err(error.clone());
        }
        for (id, _, to) in meters {
            assert!(inner.installed.contains(id), "{id:?} is not in force");
            inner.meters.insert(*id, *to);
        }
        Ok(meters.iter().map(|(id, ..)| counters(&inner, *id)).collect())
    }

    fn deinstall(&mut self, policies: &[PolicyId]) -> Vec<Counters> {
        let mut inner = self.0.lock().unwrap();
        inner.deinstalls += 1;
        for id in policies {
            if inner.installed.remove(id) {
                inner.ended.insert(*id);
            }
        }
        let known = policies.iter().map(|id| inner.ended.contains(id).then(|| counters(&inner, *id)));
        let counted = known.map(Option::unwrap_or_default).collect();
        let time = inner.deinstall_time;
        drop(inner);
        std::thread::sleep(time);
        counted
    }

    fn forget(&mut self, policies: &[PolicyId]) {
        self.0.lock().unwrap().ended.retain(|id| !policies.contains(id));
    }

    fn counters(&self, policy: PolicyId) -> Option<Counters> {
        let inner = self.0.lock().unwrap();
        let (counted, time) = (inner.installed.contains(&policy).then(|| counters(&inner, policy)), inner.reading_time);
        drop(inner);
        std::thread::sleep(time);
        counted
    }

    fn renew(&mut self) {}

    fn follow_network(&mut self) -> Result<(), InstallError> {
        Ok(())
    }

    fn refresh_next_hops(&mut self) -> Result<(), InstallError> {
        Ok(())
    }

    fn set_best_effort_rate(&mut self, rate_bps: u64) -> Result<(), InstallError> {
        self.0.lock().unwrap().best_effort_rate_bps = Some(rate_bps);
        Ok(())
    }

    fn mtus(&mut self) -> Option<Mtus> {
        Some(self.0.lock().unwrap().mtus.unwrap_or(Mtus { lan: 1_500, wan: 1_500 }))
    }

    fn status(&mut self) -> Result<Status, InstallError> {
        let panics = std::mem::take(&mut self.0.lock().unwrap().status_panics);
        assert!(!panics, "told to panic");
        Ok(Status::default())
    }
}
