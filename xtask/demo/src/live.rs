//! What is going on, about each second: a table that is refreshed on a terminal, a line otherwise.

use std::fmt::Write as _;
use std::time::Duration;

use crate::calls::{Moment, Way};
use crate::wan::WanWatch;

const ON_TERMINAL: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Shows moments.
#[derive(Debug)]
pub struct Live {
    table: bool,
    last: Option<Moment>,
    lines: usize,
}

impl Live {
    /// A table if `table`.
    #[must_use]
    pub const fn new(table: bool) -> Self {
        Self { table, last: None, lines: 0 }
    }

    /// Shows `moment` if it is time.
    pub fn show(&mut self, moment: &Moment, wan: &WanWatch) {
        let period = if self.table { ON_TERMINAL } else { ELSEWHERE };
        let Some(last) = &self.last else {
            self.last = Some(moment.clone());
            return;
        };
        if moment.at() - last.at() < period {
            return;
        }
        if self.table {
            let text = table(moment, last, wan.now_bps());
            // Up over the table before, then over it line by line.
            let up = if self.lines == 0 { String::new() } else { format!("\x1b[{}A", self.lines) };
            print!("{up}{}", text.replace('\n', "\x1b[K\n"));
            self.lines = text.lines().count();
        } else {
            println!("          {}", line(moment, last, wan.now_bps()));
        }
        self.last = Some(moment.clone());
    }

    /// Leaves the table as it is: what is printed next stands below it.
    pub const fn leave(&mut self) {
        self.lines = 0;
    }
}

fn kbit(bytes: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes * 8 / millis
}

/// What may be under way between the two readings of one moment does not count as lost.
fn late(sent: u64, heard: u64) -> u64 {
    sent.saturating_sub(heard + 2)
}

fn line(moment: &Moment, last: &Moment, wan_bps: u64) -> String {
    let (sent, heard) = moment.conforming();
    let greedy = moment.greedy().zip(last.greedy()).map(|(now, before)| {
        let rate = kbit(now.heard.ip_bytes - before.heard.ip_bytes, moment.at() - last.at());
        format!("greedy sent {}, heard {} ({rate} kbit/s)", now.sent, now.heard.packets)
    });
    format!(
        "conforming sent {sent}, heard {heard}; {}; unadmitted heard {}; wan {} kbit/s",
        greedy.unwrap_or_default(),
        moment.unadmitted(),
        wan_bps / 1000
    )
}

fn table(moment: &Moment, last: &Moment, wan_bps: u64) -> String {
    let time = moment.at() - last.at();
    let mut text =
        String::from("  call     A->B sent    heard   late   kbit/s     B->A sent    heard   late   kbit/s\n");
    let legs: Vec<_> = moment.legs().zip(last.legs()).collect();
    let of = |way: Way| legs.iter().filter(move |(leg, _)| leg.way == way);
    let cells = |(now, before): &(crate::calls::Leg<'_>, crate::calls::Leg<'_>)| {
        let rate = kbit(now.heard.ip_bytes - before.heard.ip_bytes, time);
        let late = if now.greedy { "greedy".to_owned() } else { late(now.sent, now.heard.packets).to_string() };
        format!("{:>8} {:>8} {late:>6} {rate:>8}", now.sent, now.heard.packets)
    };
    // Writing to a string cannot fail.
    for (forward, back) in of(Way::Forward).zip(of(Way::Back)) {
        let _ = writeln!(text, "  {:>4}      {}      {}", forward.0.call, cells(forward), cells(back));
    }
    let _ = writeln!(text, "  unadmitted heard {}; wan at edge B {} kbit/s", moment.unadmitted(), wan_bps / 1000);
    text
}
