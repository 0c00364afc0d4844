//! `turnpike series`.

use clap::Subcommand;
use turnpike_api::SeriesView;
use turnpike_broker::name::SessionId;

use crate::client::{Client, Failure};
use crate::problem::word;
use crate::show;

#[derive(Debug, Subcommand)]
pub(crate) enum Series {
    /// All of them.
    List,
    /// One of them, with its occurrences.
    Show {
        /// Its id.
        id: SessionId,
    },
    /// End all occurrences of one; `session delete` ends one of them.
    Delete {
        /// Its id.
        id: SessionId,
    },
}

/// What the node answers: all of them, one, or that it is gone.
pub(crate) enum Shown {
    List(Vec<SeriesView>),
    One(SeriesView),
    Gone(String),
}

pub(crate) async fn run(client: &Client, command: &Series) -> Result<Shown, Failure> {
    Ok(match command {
        Series::List => Shown::List(client.list("/v1/series", "").await?),
        Series::Show { id } => Shown::One(client.get(&format!("/v1/series/{id}")).await?),
        Series::Delete { id } => {
            let _: Option<serde_json::Value> = client.delete(&format!("/v1/series/{id}")).await?;
            Shown::Gone(format!("series {id} is gone, and its sessions are ended\n"))
        }
    })
}

/// `turnpike series list`
pub(crate) fn list(views: &[SeriesView]) -> String {
    let rows = views.iter().map(|view| {
        let first = view.occurrences.first().map_or_else(|| "-".to_owned(), |first| first.starts_at.clone());
        [view.id.to_string(), word(&view.state), view.count.to_string(), format!("{} s", view.period_s), first]
    });
    show::table(["ID", "STATE", "OCCURRENCES", "EVERY", "FIRST"], rows)
}

/// `turnpike series show`
pub(crate) fn one(view: &SeriesView) -> String {
    let rows = view.occurrences.iter().map(|of| {
        let state = of.state.map_or_else(|| "-".to_owned(), |state| word(&state));
        [of.session.to_string(), state, of.starts_at.clone(), of.ends_at.clone()]
    });
    let head = format!("series {}: {}, every {} s\n", view.id, word(&view.state), view.period_s);
    head + &show::table(["SESSION", "STATE", "FROM", "UNTIL"], rows)
}
