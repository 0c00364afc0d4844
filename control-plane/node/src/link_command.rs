//! `turnpike link`.

use std::time::Duration;

use clap::{Args, Subcommand};
use turnpike_api::{LinkChange, LinkView, UncarriedView};
use turnpike_broker::name::{LinkName, Nanos};

use crate::client::{Client, Failure};
use crate::problem::word;
use crate::quantity::{self, text};
use crate::show;
use crate::time::Clock;

#[derive(Debug, Subcommand)]
pub(crate) enum Link {
    /// All of them.
    List,
    /// One of them, with other rates that are said of it, and whom it cannot carry.
    Show {
        /// Its name.
        name: LinkName,
    },
    /// Let one have other rates, at once or for a time to come. Prints whom it cannot carry then; nothing is taken down by itself.
    Set(Set),
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Its name.
    name: LinkName,
    /// Bits per second that this node may send.
    #[arg(long, value_parser = quantity::parse, required_unless_present = "rate_in")]
    rate_out: Option<u64>,
    /// Bits per second that this node may receive.
    #[arg(long, value_parser = quantity::parse)]
    rate_in: Option<u64>,
    /// From when on, such as 2030-06-01T14:00:00Z; at once if it is left out.
    #[arg(long)]
    from: Option<Nanos>,
    /// Up to when; until further notice if it is left out.
    #[arg(long, conflicts_with = "duration")]
    until: Option<Nanos>,
    /// For how long, such as 90s, 45m, 2h or 1d, from --from or, by this host's clock, from now on.
    #[arg(long, value_parser = quantity::parse_duration)]
    duration: Option<Duration>,
}

impl Set {
    fn change(&self) -> Result<LinkChange, Failure> {
        let begin = || self.from.unwrap_or_else(|| Clock::start(Nanos(0)).now());
        let until = match self.duration {
            Some(duration) => Some(crate::command::end_of("--duration", begin(), duration)?),
            None => self.until,
        };
        Ok(LinkChange {
            rate_out_bps: self.rate_out,
            rate_in_bps: self.rate_in,
            from: self.from.map(|time| time.to_string()),
            until: until.map(|time| time.to_string()),
        })
    }
}

/// What the node answers: all of them, or one.
pub(crate) enum Shown {
    List(Vec<LinkView>),
    One(Box<LinkView>),
}

pub(crate) async fn run(client: &Client, command: &Link) -> Result<Shown, Failure> {
    Ok(match command {
        Link::List => Shown::List(client.list("/v1/links", "").await?),
        Link::Show { name } => Shown::One(client.get(&format!("/v1/links/{name}")).await?),
        Link::Set(set) => Shown::One(client.patch(&format!("/v1/links/{}", set.name), &set.change()?).await?),
    })
}

/// `turnpike link list`
pub(crate) fn list(views: &[LinkView]) -> String {
    let rows = views.iter().flat_map(|view| {
        [("out", &view.out), ("in", &view.r#in)].map(|(way, pool)| {
            let over = view.cannot_carry.iter().filter(|of| word(&of.direction) == way).count();
            [view.name.to_string(), way.to_owned(), show::pool(pool), over.to_string()]
        })
    });
    show::table(["LINK", "DIRECTION", "RESERVED", "CANNOT CARRY"], rows)
}

/// `turnpike link show`
pub(crate) fn one(view: &LinkView) -> String {
    let configured = [("out", view.configured_rate_out_bps), ("in", view.configured_rate_in_bps)];
    let rows = configured.into_iter().zip([&view.out, &view.r#in]);
    let rows = rows.map(|((way, rate), pool)| [view.name.to_string(), way.to_owned(), show::pool(pool), text(rate)]);
    let mut out = show::table(["LINK", "DIRECTION", "RESERVED", "CONFIGURED"], rows);
    if !view.changes.is_empty() {
        let rows = view.changes.iter().map(|change| {
            let until = change.until.clone().unwrap_or_else(|| "-".to_owned());
            [word(&change.direction), text(change.rate_bps), change.from.clone(), until]
        });
        out += &format!("\nother rates\n{}", show::table(["DIRECTION", "RATE", "FROM", "UNTIL"], rows));
    }
    if view.cannot_carry.is_empty() {
        return out + "\nit can carry all that is reserved on it\n";
    }
    let rows = view.cannot_carry.iter().map(|of| {
        [of.aggregate.to_string(), word(&of.direction), text(of.rate_bps), of.sessions.to_string(), times(of)]
    });
    let head = ["AGGREGATE", "DIRECTION", "RATE", "SESSIONS", "WHEN"];
    let count = view.cannot_carry_aggregates;
    out + &format!("\nit cannot carry {count} of its aggregates; first to go first\n{}", show::table(head, rows))
}

fn times(of: &UncarriedView) -> String {
    let texts = of.times.iter().map(|time| match &time.until {
        Some(until) => format!("{} to {until}", time.from),
        None => format!("from {}", time.from),
    });
    texts.collect::<Vec<_>>().join(", ")
}
