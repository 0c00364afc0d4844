//! `/v1/links`: what links have, other rates for them, and whom they cannot carry.

use axum::Json;
use axum::extract::{Request, State};
use turnpike_api::{LinkChange, LinkChangeView, LinkView, Page, TimesView, UncarriedView};
use turnpike_broker::Uncarried;
use turnpike_broker::calendar::{Interval, OPEN};
use turnpike_broker::capacity::{self, CapacityChange, LinkState};
use turnpike_broker::name::LinkName;
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Answer, Request as Wish};

use super::{Name, Shared, named, out_of_place};
use crate::body;
use crate::problem::{Named, ProblemReply};
use crate::query::{ListQuery, Raw};
use crate::view;

/// Most aggregates that a view lists of those that a link cannot carry.
const LISTED_MAX: usize = 1_000;

pub(super) async fn list(State(rest): Shared, query: Raw) -> Result<Json<Page<LinkView>>, ProblemReply> {
    let query = ListQuery::parse(query, false)?;
    let page = rest.look(move |view| {
        let selected = query.select(view.broker.links().map(|(name, ..)| name), |name| name.as_str());
        let (names, next) = query.page(selected, ToString::to_string);
        let items = names.into_iter().filter_map(|name| view.broker.link(name)).map(link);
        Page { items: items.collect(), next }
    });
    Ok(Json(page.await?))
}

pub(super) async fn show(State(rest): Shared, name: Name) -> Result<Json<LinkView>, ProblemReply> {
    let name: LinkName = named(name, Reason::UnknownLink)?;
    let wanted = name.clone();
    let state = rest.look(move |view| view.broker.link(&wanted)).await?;
    let unknown = || ProblemReply::unknown(Reason::UnknownLink, format!("link {name} is not known on this node"));
    Ok(Json(link(state.ok_or_else(unknown)?)))
}

pub(super) async fn change(State(rest): Shared, name: Name, request: Request) -> Result<Json<LinkView>, ProblemReply> {
    let link: LinkName = named(name, Reason::UnknownLink)?;
    let LinkChange { rate_out_bps, rate_in_bps, from, until } = body::read(request, rest.body_bytes_max).await?;
    let (from, until) = (view::time("from", from)?, view::time("until", until)?);
    let wish = capacity::LinkChange { link, rate_out_bps, rate_in_bps, from, until };
    let answer = rest.ask(Wish::ChangeLink(wish), Named::Path).await?;
    let Answer::Link(state) = answer else {
        return Err(out_of_place(&answer));
    };
    Ok(Json(self::link(*state)))
}

/// A link for people and orchestrators.
pub(super) fn link(state: LinkState) -> LinkView {
    let LinkState { name, configured, out, into, classes_out, classes_in, changes, uncarried } = state;
    LinkView {
        name,
        out: view::pool(out),
        r#in: view::pool(into),
        classes_out: classes_out.into_iter().map(view::pool).collect(),
        classes_in: classes_in.into_iter().map(view::pool).collect(),
        configured_rate_out_bps: configured.rate_out_bps,
        configured_rate_in_bps: configured.rate_in_bps,
        changes: changes.iter().map(change_view).collect(),
        cannot_carry_aggregates: uncarried.len() as u64,
        cannot_carry_sessions: uncarried.iter().map(|of| of.sessions).sum(),
        cannot_carry: uncarried.into_iter().take(LISTED_MAX).map(uncarried_view).collect(),
    }
}

fn change_view(change: &CapacityChange) -> LinkChangeView {
    LinkChangeView {
        direction: change.direction,
        rate_bps: change.rate_bps,
        from: change.from.to_string(),
        until: change.until.map(|time| time.to_string()),
    }
}

fn uncarried_view(of: Uncarried) -> UncarriedView {
    let Uncarried { aggregate, direction, rate_bps, sessions, times } = of;
    let times = times.iter().map(|time: &Interval| TimesView {
        from: time.start().to_string(),
        until: (time.end() < OPEN).then(|| time.end().to_string()),
    });
    UncarriedView { aggregate, direction, rate_bps, sessions, times: times.collect() }
}
