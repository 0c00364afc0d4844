//! `/v1/authorization/revocations`: tokens and keys that are taken back while the node runs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use turnpike_api::{Page, RevocationRequest, RevocationView};
use turnpike_store::{Revocation, Revoked};

use crate::body;
use crate::config::authorization::{is_key_id, is_token_name};
use crate::problem::{Named, ProblemReply};
use crate::query::{ListQuery, Raw};
use crate::rest::{PATH_REVOCATIONS, Rest, made, unanswered};

pub(crate) async fn list(
    State(rest): State<Arc<Rest>>,
    query: Raw,
) -> Result<Json<Page<RevocationView>>, ProblemReply> {
    let query = ListQuery::parse(query, false)?;
    let keyed: Vec<(String, Revocation)> =
        rest.authorizer.revoked().into_iter().map(|revocation| (cursor(&revocation.revoked), revocation)).collect();
    let selected = query.select(keyed.iter(), |(cursor, _)| cursor);
    let (items, next) = query.page(selected, |(cursor, _)| cursor.clone());
    Ok(Json(Page { items: items.into_iter().map(|(_, revocation)| view(revocation)).collect(), next }))
}

pub(crate) async fn create(State(rest): State<Arc<Rest>>, request: Request) -> Result<Response, ProblemReply> {
    let revoked = revoked(body::read(request, rest.body_bytes_max).await?)?;
    let (revocation, created) =
        rest.authorizer.revoke(revoked).map_err(|refusal| ProblemReply::refused(*refusal, Named::Body))?;
    let view = view(&revocation);
    // Also where it was there: another request for the same may still be on its way to the disk.
    rest.core.revoke(revocation, rest.authorizer.forgotten_before()).await.map_err(unanswered)?;
    tracing::info!(?view, created, "revoked");
    Ok(made(created, PATH_REVOCATIONS, &view))
}

fn revoked(RevocationRequest { issuer, token_id, key_id }: RevocationRequest) -> Result<Revoked, ProblemReply> {
    let wrong =
        |field: &str, allowed: &str| Err(ProblemReply::invalid_value(field, format!("{field} must be {allowed}")));
    match (issuer, token_id, key_id) {
        (None, None, Some(id)) if is_key_id(&id) => Ok(Revoked::Key { id }),
        (None, None, Some(_)) => wrong("key_id", "a key's id, k4.pid.…"),
        (Some(issuer), Some(id), None) if is_token_name(&issuer) && is_token_name(&id) => {
            Ok(Revoked::Token { issuer, id })
        }
        (Some(_), Some(_), None) => wrong("token_id", "1 to 128 bytes, and so must issuer"),
        _ => wrong("token_id", "there with issuer, or else key_id alone"),
    }
}

fn view(Revocation { revoked, at }: &Revocation) -> RevocationView {
    let revoked_at = at.to_string();
    match revoked.clone() {
        Revoked::Key { id } => RevocationView { issuer: None, token_id: None, key_id: Some(id), revoked_at },
        Revoked::Token { issuer, id } => {
            RevocationView { issuer: Some(issuer), token_id: Some(id), key_id: None, revoked_at }
        }
    }
}

/// In the order of [`Revoked`], and of letters that need no care in a query.
fn cursor(revoked: &Revoked) -> String {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    match revoked {
        Revoked::Key { id } => format!("k.{}", hex(id)),
        Revoked::Token { issuer, id } => format!("t.{}.{}", hex(issuer), hex(id)),
    }
}
