//! The query of a list: where to go on, how much, and of what.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use turnpike_broker::name::SessionId;

use crate::problem::ProblemReply;

/// Items of a page if none is asked for.
const LIMIT: u32 = 100;
/// Most items of a page.
const LIMIT_MAX: u32 = 1_000;

/// The raw query.
pub(crate) type Raw = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// What a list was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListQuery {
    /// The `next` of an earlier page.
    pub(crate) after: Option<String>,
    /// Items.
    pub(crate) limit: u32,
    /// Of this session only.
    pub(crate) session: Option<SessionId>,
}

/// The query of `POST /v1/sessions`: whether it is only a question. What is not understood is refused, because a question
/// must not become a session by a slip of the pen.
pub(crate) fn dry_run(raw: Raw) -> Result<bool, ProblemReply> {
    let Query(pairs) = raw.map_err(|rejection| ProblemReply::new("invalid_query", rejection.body_text()))?;
    match pairs.as_slice() {
        [] => Ok(false),
        [(key, value)] if key == "dry_run" => value
            .parse()
            .map_err(|_| ProblemReply::invalid_value("dry_run", format!("dry_run is {value}: must be true or false"))),
        [(key, _)] | [_, (key, _), ..] => {
            let detail = format!("{key} is not known here, or given twice; known is dry_run");
            Err(ProblemReply::new("invalid_query", detail).in_field(key))
        }
    }
}

impl ListQuery {
    /// Checks the query. Only usage is asked by session.
    pub(crate) fn parse(raw: Raw, by_session: bool) -> Result<Self, ProblemReply> {
        let Query(pairs) = raw.map_err(|rejection| ProblemReply::new("invalid_query", rejection.body_text()))?;
        let mut query = Self { after: None, limit: LIMIT, session: None };
        let mut seen = Vec::new();
        for (key, value) in pairs {
            if seen.contains(&key) {
                return Err(ProblemReply::new("invalid_query", format!("{key} is given twice")).in_field(key));
            }
            match key.as_str() {
                "after" => query.after = Some(value),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    query.limit = limit.ok_or_else(|| {
                        ProblemReply::invalid_value("limit", format!("limit is {value}: must be 1 to {LIMIT_MAX}"))
                    })?;
                }
                "session" if by_session => {
                    let session = SessionId::try_from(value);
                    query.session =
                        Some(session.map_err(|error| ProblemReply::invalid_value("session", error.to_string()))?);
                }
                _ => {
                    let known = if by_session { "after, limit and session" } else { "after and limit" };
                    let detail = format!("{key} is not known here; known are {known}");
                    return Err(ProblemReply::new("invalid_query", detail).in_field(key));
                }
            }
            seen.push(key);
        }
        Ok(query)
    }

    /// The items behind `after`, one more than a page holds, so that [`page`] knows whether there are more.
    pub(crate) fn select<T>(&self, items: impl Iterator<Item = T>, key: impl Fn(&T) -> &str) -> Vec<T> {
        let behind = |item: &T| self.after.as_deref().is_none_or(|after| key(item) > after);
        items.filter(behind).take(self.page_len() + 1).collect()
    }

    /// Cuts what [`Self::select`] gave to a page; the second value is its `next`.
    pub(crate) fn page<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let more = items.len() > self.page_len();
        items.truncate(self.page_len());
        let next = items.last().filter(|_| more).map(key);
        (items, next)
    }

    fn page_len(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Result<ListQuery, ProblemReply> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ListQuery::parse(Ok(Query(pairs)), true)
    }

    #[test]
    fn pages_meet_without_gap_or_overlap() {
        let all = ["a", "b", "c", "d", "e"];
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let query = ListQuery { after, limit: 2, session: None };
            let selected = query.select(all.iter().copied(), |item| item);
            let (items, next) = query.page(selected, |item| (*item).to_owned());
            seen.extend(items);
            let Some(next) = next else { break };
            after = Some(next);
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn queries_that_are_not_understood_are_refused() {
        assert!(query(&[("limit", "1000"), ("session", "s1"), ("after", "x")]).is_ok());
        for pairs in [[("limit", "0")], [("limit", "1001")], [("limit", "x")], [("session", "a b")], [("sort", "x")]] {
            assert!(query(&pairs).is_err(), "{pairs:?}");
        }
        assert!(query(&[("limit", "1"), ("limit", "2")]).is_err());
    }
}
