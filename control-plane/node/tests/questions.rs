//! Whether a session would be admitted, over real HTTP between two nodes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Pair, TestNode, session};

const DRY_RUN: &str = "/v1/sessions?dry_run=true";

fn turnpike(node: &TestNode, line: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
    let api = format!("http://{}", node.api);
    let output = command.args(line.split(' ')).env("TURNPIKE_API", api).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn sessions(node: &TestNode) -> Value {
    node.get("/v1/sessions").body["items"].clone()
}

#[test]
fn a_question_is_answered_as_the_request_would_be_and_leaves_nothing() {
    let mut pair = Pair::new();
    pair.config_b.second_side.flow_rate_bps_max = Some(600_000);
    let (a, b) = pair.start_with_aggregates();
    let mut body = session("s", 4_000, 800_000);
    for flow in body["flows"].as_array_mut().unwrap() {
        flow["rate_bps_min"] = json!(500_000);
    }
    let yes = a.post(DRY_RUN, &body);
    assert_eq!((yes.status, &yes.body["peer"]), (200, &json!("b")), "{yes:?}");
    let flow = &yes.body["flows"][1];
    assert_eq!((&flow["asked_rate_bps"], &flow["rate_bps"]), (&json!(800_000), &json!(600_000)));
    assert_eq!((&flow["counters"], &yes.body["there_already"]), (&Value::Null, &Value::Null));
    assert_eq!(a.post(DRY_RUN, &body).body, yes.body);
    for node in [&a, &b] {
        assert_eq!(sessions(node), json!([]));
        assert_eq!(node.get("/v1/node").body["refusals"], json!({}));
    }
    // Only the aggregates.
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 2));

    let real = a.post("/v1/sessions?dry_run=false", &body);
    assert_eq!((real.status, &real.body["flows"][1]["rate_bps"]), (201, &json!(600_000)));
    assert_eq!(a.post(DRY_RUN, &body).body["there_already"], json!("active"));

    let more = session("t", 4_002, 500_000);
    let no = a.post(DRY_RUN, &more);
    assert_eq!((no.problem().0, no.problem().1), (409, "pool_rate_exhausted"));
    assert_eq!(a.get("/v1/node").body["refusals"], json!({}));
    let refused = a.post("/v1/sessions", &more);
    assert_eq!(no.body, refused.body);
}

#[test]
fn a_query_that_is_not_understood_makes_no_session() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let cases = [
        ("dryrun=true", 400, "invalid_query", "dryrun"),
        ("dry_run=true&dry_run=false", 400, "invalid_query", "dry_run"),
        ("dry_run=yes", 422, "invalid_value", "dry_run"),
        ("dry_run", 422, "invalid_value", "dry_run"),
    ];
    for (query, status, code, field) in cases {
        let answer = a.post(&format!("/v1/sessions?{query}"), &session("s", 4_000, 80_000));
        assert_eq!(answer.problem(), (status, code, field), "{query}");
    }
    assert_eq!(sessions(&a), json!([]));
}

#[test]
fn by_command_line() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let flow = |rate: &str| {
        format!(
            "--flow id=there,aggregate=ab,source=10.1.0.2:4000,destination=10.2.0.2:4000,rate={rate},burst=1600,packet=200"
        )
    };
    let (code, out, err) = turnpike(&a, &format!("session create s {} --dry-run", flow("80k")));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("session s to b would be admitted now; nothing is held\n") && out.contains("80k"), "{out}");
    assert_eq!(sessions(&a), json!([]));
    let (code, out, err) = turnpike(&a, &format!("session create s {} --dry-run", flow("990k")));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("pool_rate_exhausted") && err.contains("offer: with rate="), "{err}");
    assert_eq!(turnpike(&a, &format!("session create s {}", flow("80k"))).0, 0);
    let (_, out, _) = turnpike(&a, &format!("session create s {} --dry-run", flow("80k")));
    assert!(out.starts_with("session s to b is there already: active\n"), "{out}");
}
