//! What happened in a world, or in many, as a table.

use std::collections::BTreeMap;
use std::fmt;

use turnpike_broker::refusal::Reason;

use crate::checker::Violation;
use crate::clients::Seen;
use crate::network::Fates;

/// How often processes died, by what they had done last.
pub type Crashes = BTreeMap<&'static str, u64>;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The first seed.
    pub seed: u64,
    /// The last one.
    pub seed_last: u64,
    /// Worlds in this report.
    pub worlds: u64,
    /// Nodes of each.
    pub nodes: usize,
    /// Virtual time, together, ms.
    pub virtual_ms: u64,
    /// Places where a process could die.
    pub crash_points: u64,
    /// Processes that died.
    pub crashes: Crashes,
    /// Those whose host went down too.
    pub hosts_lost: u64,
    /// Starts on what was left.
    pub restarts: u64,
    /// Pauses of processes, and those that were longer than a hold lasts.
    pub pauses: (u64, u64),
    /// Directions of paths that were cut for a time.
    pub partitions: u64,
    /// Installations that failed by chance.
    pub installs_failed: u64,
    /// Times that the checker looked at a whole node.
    pub checks: u64,
    /// Packets that came to policies; to those of sessions that were active; in the ledgers.
    pub packets: (u64, u64, u64),
    /// Sessions that were booked and came up at their first side; those that failed, with a reason.
    pub bookings: (u64, u64),
    /// Tells one history from another: equal only if all effects were the same at the same times.
    pub digest: u64,
    /// What did not hold, with the seed.
    pub violations: Vec<(u64, Violation)>,
    pub(crate) seen: Seen,
    pub(crate) fates: Fates,
}

impl Report {
    /// How often clients were told that a session is up.
    #[must_use]
    pub const fn admitted(&self) -> u64 {
        self.seen.admitted
    }

    /// How often clients were told that a session is booked.
    #[must_use]
    pub const fn booked(&self) -> u64 {
        self.seen.booked
    }

    /// Sessions that waited for room, offers to them, and offers that were taken.
    #[must_use]
    pub const fn waited(&self) -> (u64, u64, u64) {
        (self.seen.waiting, self.seen.offered, self.seen.taken)
    }

    /// Changes of ends that were confirmed.
    #[must_use]
    pub const fn ends_changed(&self) -> u64 {
        self.seen.ends_changed
    }

    /// Questions that were answered with yes, and with no.
    #[must_use]
    pub const fn questions(&self) -> (u64, u64) {
        self.seen.questions
    }

    /// How often clients were refused with this reason.
    #[must_use]
    pub fn refused(&self, reason: Reason) -> u64 {
        self.seen.refused.get(&reason).copied().unwrap_or_default()
    }

    /// Messages sent, lost by chance or by a partition, repeated, and overtaken.
    #[must_use]
    pub const fn messages(&self) -> (u64, u64, u64, u64) {
        let Fates { sent, lost, cut_off, duplicated, reordered } = self.fates;
        (sent, lost + cut_off, duplicated, reordered)
    }

    /// Adds another world's.
    pub fn add(&mut self, other: Self) {
        if self.worlds == 0 {
            *self = other;
            return;
        }
        self.seed = self.seed.min(other.seed);
        self.seed_last = self.seed_last.max(other.seed_last);
        self.worlds += other.worlds;
        self.virtual_ms += other.virtual_ms;
        self.crash_points += other.crash_points;
        for (after, count) in other.crashes {
            *self.crashes.entry(after).or_default() += count;
        }
        self.hosts_lost += other.hosts_lost;
        self.restarts += other.restarts;
        self.pauses.0 += other.pauses.0;
        self.pauses.1 += other.pauses.1;
        self.partitions += other.partitions;
        self.installs_failed += other.installs_failed;
        self.checks += other.checks;
        self.packets.0 += other.packets.0;
        self.packets.1 += other.packets.1;
        self.packets.2 += other.packets.2;
        self.bookings.0 += other.bookings.0;
        self.bookings.1 += other.bookings.1;
        // In any order the same.
        self.digest ^= other.digest;
        self.violations.extend(other.violations);
        let (seen, fates) = (&mut self.seen, &mut self.fates);
        seen.asked += other.seen.asked;
        seen.reserved += other.seen.reserved;
        seen.given_up += other.seen.given_up;
        seen.admitted += other.seen.admitted;
        seen.booked += other.seen.booked;
        seen.relays += other.seen.relays;
        seen.waiting += other.seen.waiting;
        seen.offered += other.seen.offered;
        seen.taken += other.seen.taken;
        seen.cancelled += other.seen.cancelled;
        seen.ends_changed += other.seen.ends_changed;
        seen.questions.0 += other.seen.questions.0;
        seen.questions.1 += other.seen.questions.1;
        seen.ended += other.seen.ended;
        seen.repeated += other.seen.repeated;
        seen.not_answered += other.seen.not_answered;
        for (reason, count) in other.seen.refused {
            *seen.refused.entry(reason).or_default() += count;
        }
        fates.sent += other.fates.sent;
        fates.lost += other.fates.lost;
        fates.cut_off += other.fates.cut_off;
        fates.duplicated += other.fates.duplicated;
        fates.reordered += other.fates.reordered;
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |what: &str, value: String| rows.push((what.to_owned(), value));
        let seeds = if self.seed < self.seed_last {
            format!("{} to {}", self.seed, self.seed_last)
        } else {
            self.seed.to_string()
        };
        row("seed", seeds);
        if self.worlds > 1 {
            row("worlds", self.worlds.to_string());
        }
        row("nodes", self.nodes.to_string());
        row("virtual time", format!("{} s", self.virtual_ms / 1_000));
        let Seen {
            asked, reserved, given_up, admitted, booked, relays, ended, repeated, not_answered, refused, ..
        } = &self.seen;
        let Seen { waiting, offered, taken, cancelled, ends_changed, questions, .. } = &self.seen;
        row("requests of clients", asked.to_string());
        row("  aggregates reserved", reserved.to_string());
        row("  aggregates given up", given_up.to_string());
        row("  sessions admitted", admitted.to_string());
        row("  sessions booked", booked.to_string());
        row("    that came up at their start", self.bookings.0.to_string());
        row("    that failed, with a reason", self.bookings.1.to_string());
        row("    asked for another one's end on", relays.to_string());
        row("  sessions that waited", waiting.to_string());
        row("    offers", offered.to_string());
        row("    offers taken", taken.to_string());
        row("    cancelled", cancelled.to_string());
        row("  ends changed", ends_changed.to_string());
        row("  questions answered with yes", questions.0.to_string());
        row("  questions answered with no", questions.1.to_string());
        row("  sessions ended by clients", ended.to_string());
        row("  repeated, answered again", repeated.to_string());
        row("  not answered, node gone", not_answered.to_string());
        for (reason, count) in refused {
            row(&format!("  refused: {}", words(*reason)), count.to_string());
        }
        let Fates { sent, lost, cut_off, duplicated, reordered } = self.fates;
        row("messages between nodes", sent.to_string());
        row("  lost", lost.to_string());
        row("  lost to a partition", cut_off.to_string());
        row("  repeated", duplicated.to_string());
        row("  overtaken", reordered.to_string());
        row("partitions, one way each", self.partitions.to_string());
        row("pauses", self.pauses.0.to_string());
        row("  longer than a hold", self.pauses.1.to_string());
        row("installations that failed", self.installs_failed.to_string());
        row("crashes", format!("{} at {} places", self.crashes.values().sum::<u64>(), self.crash_points));
        for (after, count) in &self.crashes {
            row(&format!("  {after}"), count.to_string());
        }
        row("  with the host", self.hosts_lost.to_string());
        row("restarts", self.restarts.to_string());
        let (packets, of_sessions, in_ledgers) = self.packets;
        row("packets", packets.to_string());
        row("  of admitted sessions", of_sessions.to_string());
        row("  in the ledgers", in_ledgers.to_string());
        row("checks of a node", self.checks.to_string());
        row("history", format!("{:016x}", self.digest));
        row("violations", self.violations.len().to_string());
        rows
    }
}

/// As in the API: `pool_rate_exhausted`.
fn words(reason: Reason) -> String {
    let mut words = String::new();
    for letter in format!("{reason:?}").chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, value) in self.rows() {
            writeln!(f, "{what:<40} {value:>24}")?;
        }
        for (seed, violation) in &self.violations {
            writeln!(f, "seed {seed}: {violation}")?;
        }
        Ok(())
    }
}
