//! The REST API, `/v1`.

mod links;
mod series;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use turnpike_api::{
    AggregateRequest, AggregateView, ClassView, Health, NodeView, Page, PeerView, SessionRequest, SessionView,
    TableView,
};
use turnpike_broker::address::Family;
use turnpike_broker::name::{AggregateName, Epoch, NodeName, PolicyId, SessionId};
use turnpike_broker::policy::Counters;
use turnpike_broker::record::{AggregateRecord, SessionRecord};
use turnpike_broker::refusal::{PoolState, Reason};
use turnpike_broker::{Answer, Credential, Request as Wish};
use turnpike_store::UsageCursor;

use crate::authorizer::{Authorizer, Revocations};
use crate::body;
use crate::core::{self, View};
use crate::dataplane::{self, Unanswered};
use crate::frame::frame;
use crate::payload::Room;
use crate::problem::{self, Named, ProblemReply};
use crate::query::{self, ListQuery, Raw};
use crate::revocations;
use crate::view;

/// What the handlers need.
pub(crate) struct Rest {
    pub(crate) core: core::Handle,
    pub(crate) data_plane: dataplane::Handle,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) node: NodeName,
    pub(crate) epoch: Epoch,
    pub(crate) started_at: String,
    /// Name and tag address.
    pub(crate) peers: Vec<(NodeName, IpAddr)>,
    pub(crate) body_bytes_max: usize,
    pub(crate) request_timeout: Duration,
}

/// Where tokens and keys are taken back.
pub(crate) const PATH_REVOCATIONS: &str = "/v1/authorization/revocations";

type Shared = State<Arc<Rest>>;
type Name = Result<Path<String>, PathRejection>;

/// The whole API.
pub(crate) fn router(rest: Rest) -> Router {
    let rest = Arc::new(rest);
    Router::new()
        .route("/v1/aggregates", get(list_aggregates).post(create_aggregate))
        .route("/v1/aggregates/{name}", get(show_aggregate).delete(delete_aggregate))
        .route("/v1/sessions", get(list_sessions).post(create_session))
        .route("/v1/sessions/{id}", get(show_session).patch(change_session).delete(delete_session))
        .route("/v1/classes", get(list_classes))
        .route("/v1/series", get(series::list))
        .route("/v1/series/{id}", get(series::show).delete(series::delete))
        .route("/v1/links", get(links::list))
        .route("/v1/links/{name}", get(links::show).patch(links::change))
        .route(PATH_REVOCATIONS, get(revocations::list).post(revocations::create))
        .route("/v1/usage", get(list_usage))
        .route("/v1/node", get(show_node))
        .route("/v1/health", get(show_health))
        .fallback(nothing_here)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(rest.request_timeout, frame))
        .with_state(rest)
}

async fn nothing_here(uri: Uri) -> ProblemReply {
    let detail = format!(
        "{} is not known; /v1/aggregates, /v1/sessions, /v1/series, /v1/classes, /v1/links, {PATH_REVOCATIONS}, /v1/usage, /v1/node and /v1/health are",
        uri.path()
    );
    ProblemReply::new("not_found", detail)
}

async fn no_such_method(method: Method, uri: Uri) -> ProblemReply {
    ProblemReply::new(
        "method_not_allowed",
        format!("{} does not take {method}; the allow header has what it takes", uri.path()),
    )
}

/// Why there is no answer from inside.
pub(crate) fn unanswered(unanswered: Unanswered) -> ProblemReply {
    match unanswered {
        Unanswered::Overloaded => {
            ProblemReply::new("overloaded", "too many requests are under way; try again in a second")
        }
        Unanswered::Stopped => ProblemReply::new("stopping", "the node is stopping; try again when it is up"),
    }
}

async fn create_aggregate(State(rest): Shared, request: Request) -> Result<Response, ProblemReply> {
    let wish: AggregateRequest = body::read(request, rest.body_bytes_max).await?;
    let (record, created) = rest.ask_aggregate(Wish::CreateAggregate(wish)).await?;
    let location = format!("/v1/aggregates/{}", record.name);
    let view = rest.aggregate(record).await?;
    Ok(made(created, &location, &view))
}

async fn list_aggregates(State(rest): Shared, query: Raw) -> Result<Json<Page<AggregateView>>, ProblemReply> {
    let query = ListQuery::parse(query, false)?;
    let (records, next) = rest
        .look(move |view| {
            let selected = query.select(view.broker.aggregates(), |record| record.name.as_str());
            let (records, next) = query.page(selected, |record| record.name.to_string());
            let pooled = records.into_iter().map(|record| (record.clone(), view.broker.pool(&record.name)));
            (pooled.collect::<Vec<_>>(), next)
        })
        .await?;
    let items = rest.aggregates(records).await?;
    Ok(Json(Page { items, next }))
}

async fn show_aggregate(State(rest): Shared, name: Name) -> Result<Json<AggregateView>, ProblemReply> {
    let name: AggregateName = named(name, Reason::UnknownAggregate)?;
    let wanted = name.clone();
    let record = rest.look(move |view| view.broker.aggregate(&wanted).cloned()).await?;
    let unknown =
        || ProblemReply::unknown(Reason::UnknownAggregate, format!("aggregate {name} is not known on this node"));
    Ok(Json(rest.aggregate(record.ok_or_else(unknown)?).await?))
}

async fn delete_aggregate(State(rest): Shared, name: Name) -> Result<StatusCode, ProblemReply> {
    let name = named(name, Reason::UnknownAggregate)?;
    let answer = rest.ask(Wish::DeleteAggregate(name), Named::Path).await?;
    let Answer::AggregateDeleted = answer else {
        return Err(out_of_place(&answer));
    };
    Ok(StatusCode::NO_CONTENT)
}

async fn create_session(State(rest): Shared, query: Raw, request: Request) -> Result<Response, ProblemReply> {
    let dry_run = query::dry_run(query)?;
    let mut request: SessionRequest = body::read(request, rest.body_bytes_max).await?;
    let recurrence = request.recurrence.take();
    let token = request.authorization_token.take();
    let (wish, wait_until) = view::session_wish(request)?;
    if let Some(recurrence) = recurrence {
        if dry_run || wait_until.is_some() {
            let detail = "a session that recurs is neither asked about (dry_run) nor waited for (wait_until)";
            return Err(ProblemReply::invalid_value("recurrence", detail));
        }
        if token.is_some() {
            let detail = "a token is for one session, and one that recurs is many; ask for each with its own";
            return Err(ProblemReply::invalid_value("authorization_token", detail));
        }
        return series::create(&rest, wish, recurrence).await;
    }
    let credential = rest.authorizer.of_request(token, &wish);
    if dry_run {
        let (record, is_there, preempts) = match rest.ask_with(Wish::WouldAdmit(wish), credential, Named::Body).await? {
            Answer::WouldAdmit { record, preempts } => (record, false, preempts),
            // It is there: so the request would be answered.
            Answer::Session { record, .. } => (record, true, Vec::new()),
            other @ (Answer::Aggregate { .. }
            | Answer::AggregateDeleted
            | Answer::Link(_)
            | Answer::Series { .. }
            | Answer::SeriesDeleted
            | Answer::Refused(_)) => {
                return Err(out_of_place(&other));
            }
        };
        let room = rest.room(&record.peer);
        return Ok(Json(view::preview(record, is_there, preempts, room)).into_response());
    }
    let wish = match wait_until {
        None => Wish::CreateSession(wish),
        Some(until) => Wish::WaitForSession { request: wish, until },
    };
    let answer = rest.ask_with(wish, credential, Named::Body).await?;
    let Answer::Session { record, created } = answer else {
        return Err(out_of_place(&answer));
    };
    let location = format!("/v1/sessions/{}", record.id);
    // What has just come up has counted nothing, and the data plane may be too busy to say so in time.
    let view = if created { rest.session_with(record, &[]) } else { rest.session(record).await? };
    Ok(made(created, &location, &view))
}

async fn list_sessions(State(rest): Shared, query: Raw) -> Result<Json<Page<SessionView>>, ProblemReply> {
    let query = ListQuery::parse(query, false)?;
    let (records, next) = rest
        .look(move |view| {
            let mut all: Vec<&SessionRecord> = view.broker.sessions().collect();
            all.extend(view.broker.waiting().chain(view.broker.ended()));
            all.sort_unstable_by_key(|record| &record.id);
            let selected = query.select(all.into_iter(), |record| record.id.as_str());
            let (records, next) = query.page(selected, |record| record.id.to_string());
            (records.into_iter().cloned().collect::<Vec<_>>(), next)
        })
        .await?;
    let items = rest.sessions(records).await?;
    Ok(Json(Page { items, next }))
}

async fn show_session(State(rest): Shared, id: Name) -> Result<Json<SessionView>, ProblemReply> {
    let id: SessionId = named(id, Reason::UnknownSession)?;
    let wanted = id.clone();
    let record = rest.look(move |view| view.broker.session(&wanted).cloned()).await?;
    let unknown = || ProblemReply::unknown(Reason::UnknownSession, format!("session {id} is not known on this node"));
    Ok(Json(rest.session(record.ok_or_else(unknown)?).await?))
}

async fn change_session(State(rest): Shared, id: Name, request: Request) -> Result<Json<SessionView>, ProblemReply> {
    let id: SessionId = named(id, Reason::UnknownSession)?;
    let change = view::change_wish(id.clone(), body::read(request, rest.body_bytes_max).await?)?;
    let found = rest.look(move |view| view.broker.session(&id)?.authorization.clone()).await?;
    let may_change = rest.authorizer.may_change(found.as_deref());
    may_change.map_err(|refusal| ProblemReply::refused(*refusal, Named::Path))?;
    let (record, _) = rest.ask_session(change, Named::Path).await?;
    Ok(Json(rest.session(record).await?))
}

async fn delete_session(State(rest): Shared, id: Name) -> Result<Json<SessionView>, ProblemReply> {
    let id = named(id, Reason::UnknownSession)?;
    let (record, _) = rest.ask_session(Wish::DeleteSession(id), Named::Path).await?;
    Ok(Json(rest.session(record).await?))
}

async fn list_classes(State(rest): Shared, query: Raw) -> Result<Json<Page<ClassView>>, ProblemReply> {
    let query = ListQuery::parse(query, false)?;
    let (items, next) = rest
        .look(move |view| {
            let classes = view.broker.classes();
            let views: Vec<ClassView> =
                classes.map(|(name, values)| ClassView { name: name.clone(), values: values.clone() }).collect();
            let selected = query.select(views.iter(), |class| class.name.as_str());
            let (items, next) = query.page(selected, |class| class.name.to_string());
            (items.into_iter().cloned().collect(), next)
        })
        .await?;
    Ok(Json(Page { items, next }))
}

async fn list_usage(State(rest): Shared, query: Raw) -> Result<Response, ProblemReply> {
    let query = ListQuery::parse(query, true)?;
    let after = query.after.as_deref().map(str::parse::<UsageCursor>).transpose();
    let after = after.map_err(|allowed| ProblemReply::invalid_value("after", format!("after {allowed}")))?;
    let page = rest.look(move |view| view.store.usage(after, query.limit, query.session.as_ref())).await?;
    let page = page.map_err(|error| ProblemReply::new("store_failed", error.to_string()))?;
    let next = page.next.map(|cursor| cursor.to_string());
    Ok(Json(Page { items: page.records, next }).into_response())
}

async fn show_health() -> Json<Health> {
    Json(Health { status: "ready".to_owned() })
}

async fn show_node(State(rest): Shared) -> Result<Json<NodeView>, ProblemReply> {
    let status = rest.data_plane.read(|data_plane| data_plane.status()).await.map_err(unanswered)?;
    let status = status.map_err(|error| ProblemReply::new("data_plane_failed", error.to_string()))?;
    let peers = rest.peers.clone();
    let (links, (capacity, media_slots), refusals, own_tables, peers, waiting_notices, preempted) = rest
        .look(move |view| {
            let links = view.broker.links().filter_map(|(name, ..)| view.broker.link(name)).map(links::link);
            let refusals = view.broker.refusals().iter().map(|(reason, count)| (problem::code(*reason), *count));
            let tables = view
                .broker
                .tables()
                .map(|table| (table.name.to_owned(), TableView { used: table.used, max: table.max, full: table.full }));
            let peers = peers.into_iter().map(|(name, tag_address)| peer_view(view, name, tag_address));
            let capacity = view.broker.node_capacity().map(view::pool);
            let media_slots = view.broker.media_slots().map(view::media_slots).collect();
            (
                links.collect(),
                (capacity, media_slots),
                refusals.collect(),
                tables,
                peers.collect(),
                view.notices.clone(),
                view.broker.preempted(),
            )
        })
        .await?;
    let mut refusals: BTreeMap<String, u64> = refusals;
    for (reason, count) in rest.authorizer.refusals() {
        *refusals.entry(problem::code(reason)).or_default() += count;
    }
    let mut tables: BTreeMap<String, TableView> = own_tables.into();
    let Revocations { used, max, full } = rest.authorizer.revocations();
    tables.insert("revocations".to_owned(), TableView { used, max, full });
    for (name, table) in status.tables {
        // Where both have a table of that name, what the broker holds is in the data plane or on its way there.
        match tables.entry(name) {
            Entry::Occupied(mut ours) => ours.get_mut().full += table.full,
            Entry::Vacant(free) => drop(free.insert(table)),
        }
    }
    Ok(Json(NodeView {
        name: rest.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: rest.epoch.0,
        started_at: rest.started_at.clone(),
        interfaces: status.interfaces,
        links,
        capacity,
        media_slots,
        peers,
        tables,
        verdicts: status.verdicts,
        refusals,
        waiting_notices,
        preempted,
    }))
}

fn peer_view(view: &View<'_>, name: NodeName, tag_address: IpAddr) -> PeerView {
    let contact = view.peers.get(&name);
    let error = contact.and_then(|contact| contact.clone().err());
    PeerView { reachable: contact.map(Result::is_ok), error, name, tag_address: tag_address.to_string() }
}

impl Rest {
    /// Any answer but a refusal.
    async fn ask(&self, wish: Wish, named: Named) -> Result<Answer, ProblemReply> {
        self.ask_with(wish, Credential::default(), named).await
    }

    /// The same with what shows that it is authorised.
    async fn ask_with(&self, wish: Wish, credential: Credential, named: Named) -> Result<Answer, ProblemReply> {
        let answer = self.core.request(wish, credential).await.map_err(unanswered)?;
        if let Answer::Refused(refusal) = answer { Err(ProblemReply::refused(refusal, named)) } else { Ok(answer) }
    }

    /// The aggregate, and whether it was made by this.
    async fn ask_aggregate(&self, wish: Wish) -> Result<(AggregateRecord, bool), ProblemReply> {
        let answer = self.ask(wish, Named::Body).await?;
        if let Answer::Aggregate { record, created } = answer {
            Ok((record, created))
        } else {
            Err(out_of_place(&answer))
        }
    }

    /// The session, and whether it was made by this.
    async fn ask_session(&self, wish: Wish, named: Named) -> Result<(SessionRecord, bool), ProblemReply> {
        let answer = self.ask(wish, named).await?;
        if let Answer::Session { record, created } = answer {
            Ok((record, created))
        } else {
            Err(out_of_place(&answer))
        }
    }

    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, ProblemReply> {
        self.core.read(work).await.map_err(unanswered)
    }

    async fn counters(&self, policies: Vec<PolicyId>) -> Result<Vec<Counters>, ProblemReply> {
        if policies.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.data_plane.read(move |data_plane| {
            policies.into_iter().map(|policy| data_plane.counters(policy).unwrap_or_default()).collect()
        });
        read.await.map_err(unanswered)
    }

    /// What there is room for on the way to a peer.
    fn room(&self, peer: &NodeName) -> Option<Room> {
        let (_, tag_address) = self.peers.iter().find(|(name, _)| name == peer)?;
        Some(Room { mtus: self.data_plane.mtus()?, tag_family: Family::of(*tag_address) })
    }

    fn aggregate_with(&self, record: AggregateRecord, pool: Option<PoolState>, counters: Counters) -> AggregateView {
        let room = self.room(&record.peer);
        view::aggregate(record, pool, counters, room, &self.node)
    }

    fn session_with(&self, record: SessionRecord, counters: &[Counters]) -> SessionView {
        let room = self.room(&record.peer);
        view::session(record, counters, room, &self.node)
    }

    async fn aggregate(&self, record: AggregateRecord) -> Result<AggregateView, ProblemReply> {
        let name = record.name.clone();
        let pool = self.look(move |view| view.broker.pool(&name)).await?;
        let counters = self.counters(vec![record.policy]).await?;
        Ok(self.aggregate_with(record, pool, counters.first().copied().unwrap_or_default()))
    }

    async fn aggregates(
        &self,
        records: Vec<(AggregateRecord, Option<PoolState>)>,
    ) -> Result<Vec<AggregateView>, ProblemReply> {
        let counters = self.counters(records.iter().map(|(record, _)| record.policy).collect()).await?;
        let both = records.into_iter().zip(counters);
        Ok(both.map(|((record, pool), counters)| self.aggregate_with(record, pool, counters)).collect())
    }

    async fn session(&self, record: SessionRecord) -> Result<SessionView, ProblemReply> {
        let counters = self.counters(view::policies(&record)).await?;
        Ok(self.session_with(record, &counters))
    }

    async fn sessions(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionView>, ProblemReply> {
        let counters = self.counters(records.iter().flat_map(view::policies).collect()).await?;
        let mut counters = counters.as_slice();
        let views = records.into_iter().map(|record| {
            let (own, others) = counters.split_at(view::policies(&record).len().min(counters.len()));
            counters = others;
            self.session_with(record, own)
        });
        Ok(views.collect())
    }
}

/// A name that cannot be is one that is not known.
fn named<T>(name: Name, unknown: Reason) -> Result<T, ProblemReply>
where
    T: TryFrom<String>,
    T::Error: std::fmt::Display,
{
    let Path(name) = name.map_err(|rejection| ProblemReply::new("not_found", rejection.body_text()))?;
    T::try_from(name).map_err(|error| ProblemReply::unknown(unknown, error.to_string()))
}

pub(crate) fn made(created: bool, location: &str, view: &impl Serialize) -> Response {
    if !created {
        return Json(view).into_response();
    }
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn out_of_place(answer: &Answer) -> ProblemReply {
    tracing::error!(?answer, "the broker gave another kind of answer than was asked for");
    ProblemReply::new("internal_error", "the node is at fault; its log has the details")
}
