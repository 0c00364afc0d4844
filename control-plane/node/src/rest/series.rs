//! `/v1/series`: bookings that recur.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use turnpike_api::{OccurrenceView, Page, Recurrence, SeriesView};
use turnpike_broker::calendar::Until;
use turnpike_broker::name::{Nanos, SessionId};
use turnpike_broker::refusal::Reason;
use turnpike_broker::series::SeriesRecord;
use turnpike_broker::{Answer, Broker, Request as Wish, SessionRequest};

use super::{Name, Rest, Shared, made, named, out_of_place};
use crate::problem::{Named, ProblemReply};
use crate::query::{ListQuery, Raw};
use crate::view;

const SECOND_NS: u64 = 1_000_000_000;

/// Body of `POST /v1/sessions` with a recurrence.
pub(super) async fn create(
    rest: &Rest,
    request: SessionRequest,
    recurrence: Recurrence,
) -> Result<Response, ProblemReply> {
    let Recurrence { period_s, count, until } = recurrence;
    let invalid = |field: &str, detail: String| Err(ProblemReply::invalid_value(field, detail));
    let Some(period_ns) = period_s.checked_mul(SECOND_NS) else {
        let detail = format!("recurrence.period_s is {period_s}: must be at most {}", u64::MAX / SECOND_NS);
        return invalid("recurrence.period_s", detail);
    };
    let until = match (count, view::time("recurrence.until", until)?) {
        (Some(count), None) => Until::Count(count),
        (None, Some(time)) => Until::Time(time),
        (None, None) | (Some(_), Some(_)) => {
            return invalid("recurrence", "recurrence needs one of count and until, and not both".to_owned());
        }
    };
    // Where a token is needed, this says so: it would be for one session.
    let credential = rest.authorizer.of_request(None, &request);
    let wish = Wish::CreateSeries { request, period: Nanos(period_ns), until };
    let answer = rest.ask_with(wish, credential, Named::Body).await?;
    let Answer::Series { record, created } = answer else {
        return Err(out_of_place(&answer));
    };
    let location = format!("/v1/series/{}", record.id);
    let view = rest.look(move |inside| series(inside.broker, &record)).await?;
    Ok(made(created, &location, &view))
}

pub(super) async fn list(State(rest): Shared, query: Raw) -> Result<Json<Page<SeriesView>>, ProblemReply> {
    let query = ListQuery::parse(query, false)?;
    let page = rest.look(move |view| {
        let selected = query.select(view.broker.series(), |record| record.id.as_str());
        let (records, next) = query.page(selected, |record| record.id.to_string());
        Page { items: records.into_iter().map(|record| series(view.broker, record)).collect(), next }
    });
    Ok(Json(page.await?))
}

pub(super) async fn show(State(rest): Shared, id: Name) -> Result<Json<SeriesView>, ProblemReply> {
    let id: SessionId = named(id, Reason::UnknownSeries)?;
    let wanted = id.clone();
    let found = rest.look(move |view| view.broker.one_series(&wanted).map(|record| series(view.broker, record)));
    let unknown = || ProblemReply::unknown(Reason::UnknownSeries, format!("series {id} is not known on this node"));
    Ok(Json(found.await?.ok_or_else(unknown)?))
}

pub(super) async fn delete(State(rest): Shared, id: Name) -> Result<StatusCode, ProblemReply> {
    let id = named(id, Reason::UnknownSeries)?;
    let answer = rest.ask(Wish::DeleteSeries(id), Named::Path).await?;
    let Answer::SeriesDeleted = answer else {
        return Err(out_of_place(&answer));
    };
    Ok(StatusCode::NO_CONTENT)
}

/// A series for people and orchestrators.
fn series(broker: &Broker, record: &SeriesRecord) -> SeriesView {
    let text = |time: Option<Nanos>| time.unwrap_or_default().to_string();
    let occurrences = record.occurrences().map(|(session, schedule)| OccurrenceView {
        state: broker.session(&session).map(|session| session.state),
        session,
        starts_at: text(schedule.starts_at),
        ends_at: text(schedule.ends_at),
    });
    SeriesView {
        id: record.id.clone(),
        state: record.state,
        period_s: record.period.0 / SECOND_NS,
        count: record.count,
        occurrences: occurrences.collect(),
    }
}
