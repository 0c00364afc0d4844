//! The data plane as the control plane sees it, and the one thread that owns it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{error, warn};
use turnpike_api::{InterfaceView, TableView, VerdictView};
use turnpike_broker::name::PolicyId;
use turnpike_broker::policy::{Counters, InstallError, Meter, Policy};

use crate::payload::{LastMtus, Mtus};

/// Installs and deinstalls that the thread has at once; the core keeps the others.
pub(crate) const JOBS_MAX: usize = 256;
/// Readings asked for at once.
const READINGS_MAX: usize = 256;
/// How soon a change of the network is seen.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// How often next hops that nobody told of, and MTUs, are looked up anew.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// What carries packets: the engine, or a stand-in for it in tests.
pub trait DataPlane {
    /// The policies that were in force at start.
    fn adopted(&self) -> Vec<PolicyId>;
    /// Puts all in force and reads them back, or none: not either if one of the terminals, which no policy names, cannot be reached.
    fn install(&mut self, policies: &[(PolicyId, Policy)], terminals: &[IpAddr]) -> Result<(), InstallError>;
    /// Changes what these flows in force may send to what is second, all of them or none, and gives their readings after that. What is first is
    /// what each goes back to where another cannot be changed.
    fn change(&mut self, meters: &[(PolicyId, Meter, Meter)]) -> Result<Vec<Counters>, InstallError>;
    /// Takes these out of force, waits until no packet uses them, and gives their final readings. They can be asked for again, also after a
    /// restart, until they are forgotten.
    fn deinstall(&mut self, policies: &[PolicyId]) -> Vec<Counters>;
    /// Frees what is out of force: its final readings are recorded.
    fn forget(&mut self, policies: &[PolicyId]);
    /// What a policy counted so far.
    fn counters(&self, policy: PolicyId) -> Option<Counters>;
    /// Lets reservations live for another `lapse_after`.
    fn renew(&mut self);
    /// Looks up anew where packets go if something has changed.
    fn follow_network(&mut self) -> Result<(), InstallError>;
    /// Looks up anew where packets go, and has who is not known asked for.
    fn refresh_next_hops(&mut self) -> Result<(), InstallError>;
    /// Limits packets of no admitted flow.
    fn set_best_effort_rate(&mut self, rate_bps: u64) -> Result<(), InstallError>;
    /// The MTUs of the ports as they are now; `None` if one is not there.
    fn mtus(&mut self) -> Option<Mtus>;
    /// Ports, tables and verdicts.
    fn status(&mut self) -> Result<Status, InstallError>;
}

/// Ports, tables and verdicts.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Ports.
    pub interfaces: Vec<InterfaceView>,
    /// Tables by name.
    pub tables: BTreeMap<String, TableView>,
    /// What became of packets.
    pub verdicts: Vec<VerdictView>,
}

/// What the core wants done.
#[derive(Debug)]
pub(crate) enum Job {
    /// Answered by [`Report::Installed`].
    Install { ticket: u64, policies: Vec<(PolicyId, Policy)>, terminals: Vec<IpAddr> },
    /// Answered by [`Report::Changed`].
    Change { ticket: u64, meters: Vec<(PolicyId, Meter, Meter)> },
    /// Answered by [`Report::Deinstalled`].
    Deinstall { ticket: u64, policies: Vec<PolicyId> },
    /// Answered by [`Report::Forgotten`].
    Forget(Vec<PolicyId>),
    /// Answered by [`Report::BestEffortSet`].
    SetBestEffortRate(u64),
}

/// What came of a [`Job`], one for each, and at last the end of the thread.
#[derive(Debug)]
pub(crate) enum Report {
    Installed { ticket: u64, result: Result<(), InstallError> },
    Changed { ticket: u64, result: Result<Vec<Counters>, InstallError> },
    Deinstalled { ticket: u64, policies: Vec<PolicyId>, counters: Vec<Counters> },
    Forgotten,
    BestEffortSet { rate_bps: u64, result: Result<(), InstallError> },
    Ended,
}

/// Reports the end of the thread, whether it was stopped or has panicked: nobody renews reservations any more.
struct ReportEnd<R: Fn(Report)>(R);

impl<R: Fn(Report)> Drop for ReportEnd<R> {
    fn drop(&mut self) {
        (self.0)(Report::Ended);
    }
}

type Reading = Box<dyn FnOnce(&mut dyn DataPlane) + Send>;

enum Message {
    Job(Job),
    Read(Reading, OwnedSemaphorePermit),
    Stop,
}

/// Talks to the thread.
#[derive(Clone)]
pub(crate) struct Handle {
    sender: SyncSender<Message>,
    readings: Arc<Semaphore>,
    mtus: Arc<LastMtus>,
}

/// The thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data plane's thread has ended")]
pub(crate) struct Ended;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    Overloaded,
    Stopped,
}

impl Handle {
    /// At most [`JOBS_MAX`] without a report: then there is always room.
    pub(crate) fn give(&self, job: Job) -> Result<(), Ended> {
        self.sender.try_send(Message::Job(job)).map_err(|_| Ended)
    }

    /// Reads the data plane from its own thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn DataPlane) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let permit = Arc::clone(&self.readings).try_acquire_owned().map_err(|_| Unanswered::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let work = Box::new(move |data_plane: &mut dyn DataPlane| {
            // The asker may have given up.
            let _ = answer.send(work(data_plane));
        });
        self.sender.try_send(Message::Read(work, permit)).map_err(|_| Unanswered::Stopped)?;
        answered.await.map_err(|_| Unanswered::Stopped)
    }

    /// The MTUs of the ports, at most as old as the last refresh; without waiting.
    pub(crate) fn mtus(&self) -> Option<Mtus> {
        self.mtus.get()
    }

    /// Ends the thread; what is in force stays in force.
    pub(crate) fn stop(&self) {
        // Full is not possible, ended is what we want.
        let _ = self.sender.try_send(Message::Stop);
    }
}

/// A data plane that runs: how to reach it, and what it had in force at start.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) adopted: Vec<PolicyId>,
    pub(crate) thread: JoinHandle<()>,
}

/// Makes the data plane on a thread of its own and runs it there. `report` is called on that thread.
pub(crate) fn start<D, E>(
    make: impl FnOnce() -> Result<D, E> + Send + 'static,
    lapse_after: Duration,
    report: impl Fn(Report) + Send + 'static,
) -> Result<Running, StartError<E>>
where
    D: DataPlane,
    E: Send + 'static,
{
    // Two more: the stop, and the reading whose permit is on its way back.
    let (sender, receiver) = sync_channel(JOBS_MAX + READINGS_MAX + 2);
    let (started, has_started) = sync_channel(1);
    let mtus = Arc::new(LastMtus::default());
    let last = Arc::clone(&mtus);
    let thread = std::thread::Builder::new()
        .name("data-plane".to_owned())
        .spawn(move || match make() {
            Ok(mut data_plane) => {
                last.set(data_plane.mtus());
                if started.send(Ok(data_plane.adopted())).is_ok() {
                    let report = ReportEnd(report);
                    run(data_plane, &last, &receiver, lapse_after, |outcome| (report.0)(outcome));
                }
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        })
        .map_err(StartError::Thread)?;
    let adopted = has_started.recv().map_err(|_| StartError::Ended(Ended))?.map_err(StartError::DataPlane)?;
    let handle = Handle { sender, readings: Arc::new(Semaphore::new(READINGS_MAX)), mtus };
    Ok(Running { handle, adopted, thread })
}

/// Why there is no data plane.
#[derive(Debug)]
pub(crate) enum StartError<E> {
    Thread(std::io::Error),
    Ended(Ended),
    DataPlane(E),
}

fn run(
    mut data_plane: impl DataPlane,
    mtus: &LastMtus,
    receiver: &Receiver<Message>,
    lapse_after: Duration,
    report: impl Fn(Report),
) {
    let renew_interval = lapse_after / 4;
    let now = Instant::now();
    let (mut renew_at, mut refresh_at, mut follow_at) = (now, now, now);
    loop {
        let now = Instant::now();
        if now >= renew_at {
            data_plane.renew();
            renew_at = now + renew_interval;
        }
        if now >= refresh_at {
            if let Err(error) = data_plane.refresh_next_hops() {
                warn!(%error, "next hops cannot be looked up; the last ones stay in use");
            }
            mtus.set(data_plane.mtus());
            refresh_at = now + REFRESH_INTERVAL;
        }
        if now >= follow_at {
            if let Err(error) = data_plane.follow_network() {
                warn!(%error, "changes of the network cannot be followed; the last next hops stay in use");
            }
            // A network that never rests gets a tenth of this thread's time.
            follow_at = Instant::now() + FOLLOW_INTERVAL.max(10 * now.elapsed());
        }
        let wake_at = renew_at.min(refresh_at).min(follow_at);
        let first = match receiver.recv_timeout(wake_at.saturating_duration_since(Instant::now())) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // All deinstalls that wait share one grace period. They come after the installs of the same batch, because an
        // install waits for no deinstall: the broker asks for it only once the deinstall is confirmed.
        let mut deinstalls = Vec::new();
        for message in std::iter::once(first).chain(receiver.try_iter().take(JOBS_MAX)) {
            match message {
                Message::Job(Job::Install { ticket, policies, terminals }) => {
                    let result = data_plane.install(&policies, &terminals);
                    report(Report::Installed { ticket, result });
                }
                Message::Job(Job::Change { ticket, meters }) => {
                    let result = data_plane.change(&meters);
                    report(Report::Changed { ticket, result });
                }
                Message::Job(Job::Deinstall { ticket, policies }) => deinstalls.push((ticket, policies)),
                Message::Job(Job::Forget(policies)) => {
                    data_plane.forget(&policies);
                    report(Report::Forgotten);
                }
                Message::Job(Job::SetBestEffortRate(rate_bps)) => {
                    let result = data_plane.set_best_effort_rate(rate_bps);
                    report(Report::BestEffortSet { rate_bps, result });
                }
                Message::Read(work, _permit) => work(&mut data_plane),
                Message::Stop => return,
            }
            if Instant::now() >= renew_at {
                break;
            }
        }
        deinstall(&mut data_plane, deinstalls, &report);
    }
}

fn deinstall(data_plane: &mut impl DataPlane, deinstalls: Vec<(u64, Vec<PolicyId>)>, report: &impl Fn(Report)) {
    if deinstalls.is_empty() {
        return;
    }
    let all: Vec<PolicyId> = deinstalls.iter().flat_map(|(_, policies)| policies.iter().copied()).collect();
    let counters = data_plane.deinstall(&all);
    if counters.len() != all.len() {
        error!(asked = all.len(), given = counters.len(), "the data plane gave too few final readings");
    }
    let mut counters = counters.into_iter();
    for (ticket, policies) in deinstalls {
        let counters = policies.iter().map(|_| counters.next().unwrap_or_default()).collect();
        report(Report::Deinstalled { ticket, policies, counters });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeDataPlane;
    use std::sync::mpsc;

    fn policies(ids: &[u64]) -> Vec<PolicyId> {
        ids.iter().copied().map(PolicyId).collect()
    }

    #[test]
    fn deinstalls_that_wait_share_one_grace_period() {
        let (report, reports) = mpsc::channel();
        let fake = FakeDataPlane::default();
        let calls = fake.clone();
        let running =
            start(move || Ok::<_, ()>(fake), Duration::from_secs(60), move |r| report.send(r).unwrap()).unwrap();
        // The thread is held up while the deinstalls come in.
        let (go, wait) = mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let reading = running.handle.read(move |_| wait.recv().unwrap());
            let give = async {
                running.handle.give(Job::Deinstall { ticket: 1, policies: policies(&[1, 2]) }).unwrap();
                running.handle.give(Job::Deinstall { ticket: 2, policies: policies(&[3]) }).unwrap();
                running.handle.give(Job::Install { ticket: 3, policies: vec![], terminals: vec![] }).unwrap();
                go.send(()).unwrap();
            };
            tokio::join!(async { reading.await.unwrap() }, give);
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            match reports.recv().unwrap() {
                Report::Installed { ticket, .. } => seen.push((ticket, 0)),
                Report::Deinstalled { ticket, counters, .. } => seen.push((ticket, counters.len())),
                Report::Changed { .. } | Report::BestEffortSet { .. } | Report::Forgotten | Report::Ended => {
                    panic!("not asked for")
                }
            }
        }
        assert_eq!(seen, [(3, 0), (1, 2), (2, 1)]);
        assert_eq!(calls.deinstalls(), 1, "one grace period");
        running.handle.stop();
        running.thread.join().unwrap();
    }

    #[test]
    fn mtus_are_known_at_once_and_followed() {
        let fake = FakeDataPlane::default();
        let ports = fake.clone();
        let running = start(move || Ok::<_, ()>(fake), Duration::from_secs(60), |_| ()).unwrap();
        assert_eq!(running.handle.mtus(), Some(Mtus { lan: 1_500, wan: 1_500 }));
        let changed = Mtus { lan: 9_000, wan: 1_400 };
        ports.set_mtus(changed);
        let end = Instant::now() + 3 * REFRESH_INTERVAL;
        while running.handle.mtus() != Some(changed) {
            assert!(Instant::now() < end, "still {:?}", running.handle.mtus());
            std::thread::sleep(Duration::from_millis(50));
        }
        running.handle.stop();
        running.thread.join().unwrap();
    }

    #[test]
    fn what_does_not_start_says_why() {
        let make = || Err::<FakeDataPlane, _>("no such interface");
        let error = start(make, Duration::from_secs(60), |_| ()).err().unwrap();
        assert!(matches!(error, StartError::DataPlane("no such interface")));
    }
}
