//! Tokens over two real nodes: every refusal with its code and nothing changed, replay, rotation, revocation, and a second side that judges by
//! itself (R-004-15).
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Answer, Pair, TestNode, aggregate, call, session};
use turnpike_authorization::{AuthorisedFlow, Claims, Instant, PublicKey, SecretKey};
use turnpike_node::config::{Authorization, Config};

/// Somebody who signs.
struct Issuer {
    secret: SecretKey,
    public: PublicKey,
}

impl Issuer {
    fn new() -> Self {
        let (secret, public) = SecretKey::generate().unwrap();
        Self { secret, public }
    }

    fn sign(&self, claims: &Claims) -> String {
        self.secret.sign(claims).unwrap()
    }
}

fn now() -> Instant {
    Instant(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

/// For exactly what `body` asks, in force for five minutes.
fn claims(body: &Value) -> Claims {
    let flow = |flow: &Value| AuthorisedFlow {
        source: flow["source"].as_str().unwrap().parse().unwrap(),
        destination: flow["destination"].as_str().unwrap().parse().unwrap(),
        rate_bps_max: flow["rate_bps"].as_u64().unwrap(),
    };
    let id = body["id"].as_str().unwrap();
    Claims {
        issuer: "billing".to_owned(),
        audience: "example".to_owned(),
        id: format!("token-of-{id}"),
        issued_at: now(),
        not_before: now(),
        expires_at: now().plus(300),
        session: id.to_owned(),
        flows: body["flows"].as_array().unwrap().iter().map(flow).collect(),
    }
}

fn with(body: &Value, token: &str) -> Value {
    let mut body = body.clone();
    body["authorization_token"] = json!(token);
    body
}

/// What the configuration says of these keys; tokens are needed.
fn authorization(issuers: &[&Issuer]) -> Authorization {
    let keys: String = issuers
        .iter()
        .map(|issuer| format!("[[authorization.keys]]\nkey = \"{}\"\nissuer = \"billing\"\n", issuer.public))
        .collect();
    parse(&format!("[authorization]\nrequired = true\naudience = \"example\"\n{keys}")).unwrap()
}

fn parse(text: &str) -> Result<Authorization, String> {
    let rest = "node = \"a\"\nstate_dir = \"/x\"\n[data_plane]\nlan = \"l\"\nwan = \"w\"\ntag_address = \"192.0.2.1\"\n\
                [link]\nrate_out_bps = 1000000\nrate_in_bps = 1000000\n";
    let config = Config::parse(&format!("{rest}{text}"), std::path::Path::new("node.toml"));
    config.map(|config| config.authorization).map_err(|error| error.to_string())
}

/// Both nodes trust the same.
fn pair(issuers: &[&Issuer]) -> Pair {
    let mut pair = Pair::new();
    pair.config_a.authorization = authorization(issuers);
    pair.config_b.authorization = authorization(issuers);
    pair
}

fn patch(node: &TestNode, id: &str, body: &Value) -> Answer {
    call(node.api, "PATCH", &format!("/v1/sessions/{id}"), &["content-type: application/json"], &body.to_string())
}

/// Nothing but the two aggregates.
fn assert_untouched(pair: &Pair, nodes: [&TestNode; 2]) {
    for node in nodes {
        assert_eq!(node.get("/v1/sessions").body["items"], json!([]));
        for name in ["ab", "ba"] {
            assert_eq!(node.get(&format!("/v1/aggregates/{name}")).body["pool"]["used_bps"], 0);
        }
        assert_eq!(node.get("/v1/node").body["tables"]["tokens"]["used"], 0);
        assert_eq!(node.get("/v1/usage").body["items"], json!([]));
    }
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 2));
}

#[test]
fn each_bad_token_has_its_code_and_changes_nothing() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let pair = pair(&[&issuer]);
    let (a, b) = pair.start_with_aggregates();
    let body = session("call-1", 4_000, 80_000);
    let good = claims(&body);
    let signed = |change: &dyn Fn(&mut Claims)| {
        let mut claims = good.clone();
        change(&mut claims);
        issuer.sign(&claims)
    };
    let token = issuer.sign(&good);
    // Another session's payload under this token's signature.
    let parts: Vec<&str> = token.split('.').collect();
    let mut payload = parts[2].to_owned();
    payload.replace_range(10..11, if &payload[10..11] == "A" { "B" } else { "A" });
    let forged = [parts[0], parts[1], &payload, parts[3]].join(".");
    let revoked = json!({ "issuer": "billing", "token_id": "taken-back" });
    assert_eq!(a.post("/v1/authorization/revocations", &revoked).status, 201);

    let cases: Vec<(&str, String, u16, &str, &str)> = vec![
        ("unreadable", "v4.public.xyz".to_owned(), 401, "token_invalid", "PASETO"),
        ("empty", String::new(), 401, "token_invalid", "PASETO"),
        ("too long", "v".repeat(9_000), 401, "token_invalid", "9000 bytes"),
        ("forged", forged, 401, "token_invalid", "changed"),
        ("a stranger's", stranger.sign(&good), 401, "token_invalid", "not trusted"),
        ("issuer", signed(&|claims| claims.issuer = "me".to_owned()), 401, "token_invalid", "issuer"),
        (
            "for too long",
            signed(&|claims| claims.expires_at = now().plus(90_000)),
            401,
            "token_invalid",
            "allowed: 86400 s",
        ),
        (
            "expired",
            signed(&|claims| {
                claims.not_before = Instant(now().0 - 300);
                claims.issued_at = claims.not_before;
                claims.expires_at = Instant(now().0 - 60);
            }),
            401,
            "token_expired",
            "expired",
        ),
        ("early", signed(&|claims| claims.not_before = now().plus(200)), 401, "token_not_yet_valid", "in force from"),
        ("revoked", signed(&|claims| claims.id = "taken-back".to_owned()), 403, "token_revoked", "taken-back"),
        ("audience", signed(&|claims| claims.audience = "b".to_owned()), 403, "token_mismatch", "claim aud"),
        ("session", signed(&|claims| claims.session = "call-2".to_owned()), 403, "token_mismatch", "claim session"),
        ("flow", signed(&|claims| claims.flows.truncate(1)), 403, "token_mismatch", "claim flows"),
        ("rate", signed(&|claims| claims.flows[1].rate_bps_max -= 1), 403, "token_mismatch", "79999 bit/s"),
    ];
    let mut waiting = body.clone();
    waiting["wait_until"] = json!("2090-01-01T00:00:00Z");
    for (what, token, status, code, detail) in &cases {
        for (path, body) in [("/v1/sessions", &body), ("/v1/sessions", &waiting), ("/v1/sessions?dry_run=true", &body)]
        {
            let refused = a.post(path, &with(body, token));
            assert_eq!(refused.problem(), (*status, *code, "authorization_token"), "{what}: {refused:?}");
            let text = refused.body["detail"].as_str().unwrap();
            assert!(text.contains(detail) && text.contains("node a"), "{what}: {text}");
            assert_eq!(refused.header("www-authenticate").is_some(), *status == 401, "{what}");
        }
    }
    assert_eq!(a.post("/v1/sessions", &body).problem(), (401, "token_required", "authorization_token"));
    assert_untouched(&pair, [&a, &b]);
    let refusals = a.get("/v1/node").body["refusals"].clone();
    // Questions are no refusals.
    let counted = json!({
        "token_expired": 2, "token_invalid": 14, "token_mismatch": 8, "token_not_yet_valid": 2,
        "token_required": 1, "token_revoked": 2,
    });
    assert_eq!(refusals, counted);

    // What it is for it does.
    let created = a.post("/v1/sessions", &with(&body, &token));
    assert_eq!(created.status, 201, "{created:?}");
    for node in [&a, &b] {
        let authorization = &node.get("/v1/sessions/call-1").body["authorization"];
        let expected = json!({ "issuer": "billing", "token_id": "token-of-call-1", "key_id": issuer.public.id() });
        assert_eq!(authorization, &expected);
    }
    assert_eq!(a.post("/v1/sessions", &with(&body, &token)).status, 200, "a repeated request is answered as before");
}

#[test]
fn excess_counts_as_rate() {
    let issuer = Issuer::new();
    let pair = pair(&[&issuer]);
    let (a, _b) = pair.start_with_aggregates();
    let mut body = session("call-1", 4_000, 80_000);
    let token = issuer.sign(&claims(&body));
    body["flows"][0]["excess"] = json!({ "rate_bps": 1, "burst_bytes": 1_600 });
    assert_eq!(a.post("/v1/sessions", &with(&body, &token)).problem().1, "token_mismatch");
}

#[test]
fn a_token_does_not_bring_a_session_again_also_after_a_restart_of_both_nodes() {
    let issuer = Issuer::new();
    let mut pair = pair(&[&issuer]);
    // What has ended is forgotten at once, so that the same request is a new one.
    pair.config_a.limits.sessions_ended_max = 0;
    pair.config_b.limits.sessions_ended_max = 0;
    let (a, b) = pair.start_with_aggregates();
    let body = session("call-1", 4_000, 80_000);
    let token = issuer.sign(&claims(&body));
    assert_eq!(a.post("/v1/sessions", &with(&body, &token)).status, 201);
    assert_eq!(a.delete("/v1/sessions/call-1").status, 200);
    assert_eq!(a.post("/v1/sessions", &with(&body, &token)).problem(), (403, "token_used", "authorization_token"));
    drop((a, b));
    let (a, b) = pair.start();
    let refused = a.post("/v1/sessions", &with(&body, &token));
    assert_eq!(refused.problem(), (403, "token_used", "authorization_token"));
    assert!(refused.body["detail"].as_str().unwrap().contains("ask its issuer for a new one"), "{refused:?}");
    // At B the token is for the other node's asker just as used.
    assert_eq!(b.post("/v1/sessions", &with(&body, &token)).problem().1, "token_used");
    // Another token of the same id, for another session.
    let other = session("call-2", 4_002, 80_000);
    let same_id = Claims { id: "token-of-call-1".to_owned(), ..claims(&other) };
    assert_eq!(a.post("/v1/sessions", &with(&other, &issuer.sign(&same_id))).problem().1, "token_used");
    assert_eq!(a.get("/v1/sessions").body["items"], json!([]));
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 2));
    assert_eq!(a.get("/v1/node").body["tables"]["tokens"]["used"], 1);
    let again = Claims { id: "new".to_owned(), ..claims(&body) };
    assert_eq!(a.post("/v1/sessions", &with(&body, &issuer.sign(&again))).status, 201);
}

#[test]
fn keys_rotate_and_a_revoked_one_is_refused_at_once_and_after_a_restart() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let pair = pair(&[&old, &new]);
    let (a, b) = pair.start_with_aggregates();
    let bodies = ["call-1", "call-2", "call-3", "call-4"].map(|id| {
        let port = 4_000 + 10 * u16::from(id.as_bytes()[5]);
        session(id, port, 8_000)
    });
    // Both count meanwhile.
    for (body, issuer) in [(&bodies[0], &old), (&bodies[1], &new)] {
        assert_eq!(a.post("/v1/sessions", &with(body, &issuer.sign(&claims(body)))).status, 201);
    }
    let revocation = json!({ "key_id": old.public.id() });
    let revoked = a.post("/v1/authorization/revocations", &revocation);
    assert_eq!((revoked.status, &revoked.body["key_id"]), (201, &json!(old.public.id())));
    assert_eq!(a.post("/v1/authorization/revocations", &revocation).status, 200, "repeating is safe");

    let of_old = with(&bodies[2], &old.sign(&claims(&bodies[2])));
    assert_eq!(a.post("/v1/sessions", &of_old).problem(), (403, "token_revoked", "authorization_token"));
    assert_eq!(patch(&a, "call-1", &json!({ "ends_at": "2090-01-01T00:00:00Z" })).problem().1, "token_revoked");
    assert_eq!(a.get("/v1/node").body["refusals"]["token_revoked"], 2);
    // What is up stays up until it is deleted; the new key goes on.
    assert_eq!(a.get("/v1/sessions/call-1").body["state"], "active");
    assert_eq!(patch(&a, "call-2", &json!({ "ends_at": "2090-01-01T00:00:00Z" })).status, 200);
    assert_eq!(a.post("/v1/sessions", &with(&bodies[3], &new.sign(&claims(&bodies[3])))).status, 201);

    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    assert_eq!(a.post("/v1/sessions", &of_old).problem().1, "token_revoked");
    let page = a.get("/v1/authorization/revocations").body;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["items"][0]), (1, &revoked.body));
    assert_eq!(a.get("/v1/sessions/call-1").body["state"], "active");
    assert_eq!(a.delete("/v1/sessions/call-1").status, 200);
    assert_eq!(b.get("/v1/sessions/call-1").body["state"], "ended");
}

#[test]
fn the_second_side_judges_by_its_own_keys_and_leaves_nothing_at_either() {
    let (ours, theirs) = (Issuer::new(), Issuer::new());
    let mut pair = pair(&[&ours]);
    pair.config_b.authorization = authorization(&[&theirs]);
    let (a, b) = pair.start_with_aggregates();
    let body = session("call-1", 4_000, 80_000);
    let token = ours.sign(&claims(&body));
    for path in ["/v1/sessions", "/v1/sessions?dry_run=true"] {
        let refused = a.post(path, &with(&body, &token));
        assert_eq!(refused.problem(), (401, "token_invalid", "authorization_token"), "{refused:?}");
        assert!(refused.body["detail"].as_str().unwrap().contains("node b"), "{refused:?}");
    }
    assert_untouched(&pair, [&a, &b]);
    assert_eq!(b.get("/v1/node").body["refusals"]["token_invalid"], 1);
}

#[test]
fn each_node_has_its_own_demand() {
    let issuer = Issuer::new();
    let mut pair = pair(&[&issuer]);
    // The first side asks for no token and knows no key: it passes on what it is given.
    pair.config_a.authorization = Authorization::default();
    let (a, b) = pair.start_with_aggregates();
    let body = session("call-1", 4_000, 80_000);
    let refused = a.post("/v1/sessions", &body);
    assert_eq!(refused.problem(), (401, "token_required", "authorization_token"));
    assert!(refused.body["detail"].as_str().unwrap().contains("node b"), "{refused:?}");
    assert_untouched(&pair, [&a, &b]);
    assert_eq!(a.post("/v1/sessions", &with(&body, &issuer.sign(&claims(&body)))).status, 201);
    assert_eq!(a.get("/v1/sessions/call-1").body["authorization"], Value::Null);
    assert_eq!(b.get("/v1/sessions/call-1").body["authorization"]["token_id"], "token-of-call-1");

    // Taken back there, it keeps the session from being changed at both.
    let revoked = json!({ "issuer": "billing", "token_id": "token-of-call-1" });
    assert_eq!(b.post("/v1/authorization/revocations", &revoked).status, 201);
    let refused = patch(&a, "call-1", &json!({ "ends_at": "2090-01-01T00:00:00Z" }));
    assert_eq!(refused.problem().1, "token_revoked", "{refused:?}");
    for node in [&a, &b] {
        assert_eq!(node.get("/v1/sessions/call-1").body["ends_at"], Value::Null);
    }
    assert_eq!(b.get("/v1/node").body["refusals"]["token_revoked"], 1);

    // A key that is there and not demanded: what is given must be right.
    drop(b);
    pair.config_b.authorization.required = false;
    let _b = TestNode::start(&pair.config_b, &pair.plane_b);
    let body = session("call-2", 4_002, 80_000);
    assert_eq!(a.post("/v1/sessions", &with(&body, "v4.public.x")).problem().1, "token_invalid");
    assert_eq!(a.post("/v1/sessions", &body).status, 201);
}

#[test]
fn one_that_waits_is_called_with_its_token_after_a_restart() {
    let issuer = Issuer::new();
    let pair = pair(&[&issuer]);
    let (a, b) = pair.start_with_aggregates();
    let full = session("full", 4_000, 500_000);
    assert_eq!(a.post("/v1/sessions", &with(&full, &issuer.sign(&claims(&full)))).status, 201);
    let mut body = session("waits", 4_002, 600_000);
    let token = issuer.sign(&claims(&body));
    body["wait_until"] = json!("2090-01-01T00:00:00Z");
    assert_eq!(a.post("/v1/sessions", &with(&body, &token)).body["state"], "waiting");
    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    assert_eq!(a.delete("/v1/sessions/full").status, 200);
    support::eventually("it is offered", || a.get("/v1/sessions/waits").body["state"] == "offered");
    assert_eq!(a.post("/v1/sessions", &body).problem().1, "token_required", "taking it needs the token, too");
    assert_eq!(a.post("/v1/sessions", &with(&body, &token)).body["state"], "active");
    assert_eq!(b.get("/v1/sessions/waits").body["authorization"]["token_id"], "token-of-waits");
}

#[test]
fn tables_of_tokens_and_revocations_are_bounded() {
    let issuer = Issuer::new();
    let mut pair = pair(&[&issuer]);
    pair.config_a.authorization.tokens_max = 1;
    pair.config_a.authorization.revocations_max = 1;
    let (a, b) = pair.start_with_aggregates();
    for (id, port, status) in [("call-1", 4_000, 201), ("call-2", 4_002, 503)] {
        let body = session(id, port, 8_000);
        let answer = a.post("/v1/sessions", &with(&body, &issuer.sign(&claims(&body))));
        assert_eq!(answer.status, status, "{answer:?}");
    }
    for (id, status) in [("t1", 201), ("t2", 503), ("t1", 200)] {
        let answer = a.post("/v1/authorization/revocations", &json!({ "issuer": "billing", "token_id": id }));
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let view = a.get("/v1/node").body;
    for table in ["tokens", "revocations"] {
        assert_eq!(view["tables"][table], json!({ "used": 1, "max": 1, "full": 1 }), "{table}");
    }
    assert_eq!(view["refusals"]["limit_reached"], 2);
    assert_eq!(b.get("/v1/node").body["tables"]["tokens"]["used"], 1);
    let wrong = [
        (json!({}), 422),
        (json!({ "token_id": "t" }), 422),
        (json!({ "issuer": "i", "token_id": "t", "key_id": "k4.pid.x" }), 422),
        (json!({ "key_id": "k4.public.x" }), 422),
        (json!({ "issuer": "", "token_id": "t" }), 422),
        (json!({ "id": "t" }), 400),
    ];
    for (body, status) in wrong {
        assert_eq!(a.post("/v1/authorization/revocations", &body).problem().0, status, "{body}");
    }
}

#[test]
fn the_command_line_makes_keys_signs_tokens_and_gives_them_with_a_session() {
    let mut pair = Pair::new();
    let key = pair.site.path("issuer.key");
    let key = key.to_str().unwrap();
    let run = |api: &str, line: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_turnpike")).args(["--api", api]).args(line.split(' ')).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let here = |line: &str| run("http://127.0.0.1:1", line);
    let (code, made, _) = here(&format!("token generate-key --key {key}"));
    assert_eq!(code, 0);
    let public = made.lines().next().unwrap();
    let (code, _, error) = here(&format!("token generate-key --key {key}"));
    assert_eq!(code, 1, "it is not overwritten: {error}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);

    let keys = format!("[[authorization.keys]]\nkey = \"{public}\"\nissuer = \"billing\"\n");
    let config = parse(&format!("[authorization]\nrequired = true\naudience = \"example\"\n{keys}")).unwrap();
    pair.config_a.authorization = config.clone();
    pair.config_b.authorization = config;
    let (a, _b) = pair.start();
    assert_eq!(a.post("/v1/aggregates", &aggregate("ab", "b", 1_000_000)).status, 201);
    let api = format!("http://{}", a.api);

    let flow = "id=x,aggregate=ab,source=10.1.0.2:4000,destination=10.2.0.2:4000,rate=80k,burst=1600,packet=200";
    let issue =
        format!("token issue --key {key} --issuer billing --audience example --session s1 --id t1 --flow {flow}");
    let (code, token, error) = here(&issue);
    assert_eq!(code, 0, "{error}");
    let (code, shown, error) = here(&format!("token show {}", token.trim()));
    assert_eq!(code, 0, "{error}");
    assert!(shown.contains("\"rate_bps_max\": 80000") && shown.contains("not verified"), "{shown}");
    let file = pair.site.path("token");
    std::fs::write(&file, &token).unwrap();

    let create = format!("session create s1 --flow {flow}");
    let (code, _, error) = run(&api, &create);
    assert!(code == 1 && error.contains("token_required"), "{error}");
    let (code, shown, error) = run(&api, &format!("{create} --token-file {}", file.display()));
    assert_eq!(code, 0, "{error}");
    assert!(shown.contains("by billing, token t1"), "{shown}");

    assert_eq!(run(&api, "token revoke t1 --issuer billing").0, 0);
    let (_, shown, _) = run(&api, "token revoked");
    assert!(shown.contains("billing") && shown.contains("t1"), "{shown}");
    let (code, _, error) = run(&api, &format!("{create} --token {}", token.trim()));
    assert!(code == 1 && error.contains("token_revoked"), "{error}");
}

#[test]
fn faults_of_the_configuration_name_key_value_and_what_is_allowed() {
    let issuer = Issuer::new();
    let key = format!("[[authorization.keys]]\nkey = \"{}\"\nissuer = \"i\"\n", issuer.public);
    let secret = issuer.secret.reveal();
    let cases = [
        ("[authorization]\nrequired = true".to_owned(), "authorization.required = true: must be false where"),
        (key.clone(), "authorization.audience is missing"),
        (format!("[authorization]\naudience = \"\"\n{key}"), "authorization.audience = \"\": must be 1 to 128 bytes"),
        (format!("[authorization]\naudience = \"x\"\n{key}{key}"), "keys[1].key = k4.public."),
        (key.replace(&issuer.public.to_string(), &secret), "keys[0].key = a text: must be a public key"),
        (
            format!("{key}not_before = \"2030-01-01T00:00:00Z\"\nnot_after = \"2029-01-01T00:00:00Z\""),
            "keys[0].not_after = 2029-01-01T00:00:00Z: must be later than not_before",
        ),
        ("[authorization]\ntokens_max = 0".to_owned(), "authorization.tokens_max = 0: must be 1 to 1048576"),
        ("[authorization]\nrevoked_keys = [\"x\"]".to_owned(), "authorization.revoked_keys[0] = x: must be"),
    ];
    for (text, expected) in cases {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains(&secret), "a secret key is not repeated");
    }
}
