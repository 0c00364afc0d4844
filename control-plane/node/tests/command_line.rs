//! The command line against a node: what it prints and how it exits.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Pair, Site, TestNode, free_port};

struct Output {
    code: i32,
    out: String,
    err: String,
}

fn turnpike(api: &str, line: &str) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_turnpike"))
        .args(line.split(' '))
        .env("TURNPIKE_API", api)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn api(node: &TestNode) -> String {
    format!("http://{}", node.api)
}

fn flow(rate: &str) -> String {
    format!(
        "--flow id=there,aggregate=ab,source=10.1.0.2:4000,destination=10.2.0.2:4000,rate={rate},burst=1600,packet=200"
    )
}

#[test]
fn a_call_by_command_line() {
    let pair = Pair::new();
    let (a, b) = pair.start();
    let (api, api_b) = (api(&a), api(&b));
    let run = |line: &str| turnpike(&api, line);
    let good = |line: &str, parts: &[&str]| {
        let output = run(line);
        assert_eq!((output.code, output.err.as_str()), (0, ""), "{line}: {}", output.out);
        for part in parts {
            assert!(output.out.contains(part), "{line}: {part:?} is not in\n{}", output.out);
        }
        output.out
    };
    good("aggregate list", &["NAME", "DROPPED"]);
    good("aggregate create ab --peer b --rate 1M --burst 64k --dscp 46", &["1M bit/s on the wire", "active"]);
    good("aggregate create ab --peer b --rate 1M --burst 64k --dscp 46", &["it was there already"]);
    good("aggregate list", &["ab    b     out        active  1M"]);
    good(&format!("session create call-1 {},codec=PCMU", flow("80k")), &["active", "10.1.0.2:4000", "80k"]);
    good("session show call-1", &["first", "there"]);
    good("session list", &["call-1"]);
    let there = turnpike(&api_b, "session show call-1").out;
    for part in ["arrived", "CODEC", "PCMU", "1.50 ms", "4.33"] {
        assert!(there.contains(part), "{part:?} is not in\n{there}");
    }
    let more = ",excess-rate=20k,excess-burst=3200,rtcp=next_port";
    let ipv6 =
        flow("80k").replace("10.1.0.2:4000", "[2001:db8::1]:4000").replace("10.2.0.2:4000", "[2001:db8::2]:4000");
    let shown = ["next_port  80k+20k  1452", "[2001:db8::2]:4000"];
    good(&format!("session create call-6 {ipv6}{more}"), &shown);
    good("session delete call-6", &["IN EXCESS"]);
    let other =
        "aggregate create copied --peer b --rate 1M --burst 64k --dscp-policy copy --excess-dscp 10 --deliver-dscp 34";
    good(
        other,
        &["dscp              copy", "dscp of excess    10", "dscp on delivery  34", "1464 bytes with IPv4, 1452"],
    );
    good("aggregate delete copied", &["gone at both ends"]);
    good("status", &["node", "wan   out", "b     192.0.2.2    yes", "sessions"]);
    let json: Value = serde_json::from_str(&good("session list --json", &[])).unwrap();
    assert_eq!(json[0]["flows"][0]["rate_bps"], 80_000);

    let refused = run(&format!("session create call-2 {}", flow("1M").replace("4000", "4002")));
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    for part in ["pool_rate_exhausted", "aggregate ab on node a", "of 1M bit/s used", "offer: with rate="] {
        assert!(refused.err.contains(part), "{part:?} is not in\n{}", refused.err);
    }
    let refused = run("session show none --json");
    let problem: Value = serde_json::from_str(&refused.err).unwrap();
    assert_eq!((refused.code, problem["code"].as_str()), (1, Some("unknown_session")));

    good("session delete call-1", &["ended", "final usage", "LOST", "1.50 ms  4.33"]);
    good("usage --session call-1", &["start", "final", "call-1", "JITTER", "1.50 ms  4.33"]);
    good("aggregate delete ab", &["gone at both ends"]);

    let file = pair.site.path("session.json");
    std::fs::write(&file, r#"{"id": "s", "flows": [], "color": 1}"#).unwrap();
    let refused = run(&format!("session create --file {}", file.display()));
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("field: color"), "{}", refused.err);
}

#[test]
fn exit_codes_tell_wrong_lines_from_a_silent_node() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let silent = turnpike(&nowhere, "status");
    assert_eq!(silent.code, 3);
    assert!(silent.err.contains("cannot reach the API") && silent.err.contains("next: "), "{}", silent.err);
    assert_eq!(turnpike(&nowhere, "aggregate").code, 2);
    assert_eq!(turnpike("https://127.0.0.1:1", "status").code, 2);
    assert_eq!(turnpike(&nowhere, "--help").code, 0);
}

#[test]
fn configurations_are_checked_without_starting_anything() {
    let site = Site::new();
    site.certify("a", &["a"]);
    let file = site.path("node.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        turnpike("http://127.0.0.1:1", &format!("config check --config {}", file.display()))
    };
    let text = site.toml("a", 1, 7443, &[("b", 2, 7443)]);
    let output = check(&text);
    assert_eq!(output.code, 0, "{}", output.err);
    assert!(output.out.contains("is valid: node a, 1 peers"), "{}", output.out);
    if cfg!(feature = "engine") {
        assert!(output.out.contains("65536 flows and 4096 aggregates take "), "{}", output.out);
        assert!(output.out.contains(" MiB of kernel memory"), "{}", output.out);
    }

    let output = check(&text.replace("rate_in_bps = 10000000", "rate_in_bps = 1"));
    assert_eq!(output.code, 2);
    assert!(output.err.contains("link.rate_in_bps = 1: must be 1000 to 400000000000"), "{}", output.err);
    let output = check(&text.replace("node = \"a\"", "node = \"c\""));
    assert_eq!(output.code, 2);
    assert!(output.err.contains("do not contain this node's name, c"), "{}", output.err);
    let output = turnpike("http://127.0.0.1:1", "serve --config /none.toml");
    assert_eq!(output.code, 2);
    assert!(output.err.contains("cannot read /none.toml"), "{}", output.err);
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let site = Site::new();
    let path = site.path("node.toml");
    site.certify("a", &["a"]);
    std::fs::write(&path, site.toml("a", 1, free_port(), &[])).unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_turnpike"))
        .args(["config", "check", "--config"])
        .arg(&path)
        .stdout(full)
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("standard output"), "{err}");
}

#[cfg(feature = "engine")]
#[test]
fn a_running_node_is_not_detached_wherever_its_api_is() {
    let pair = Pair::new();
    let _a = TestNode::start(&pair.config_a, &pair.plane_a);
    let pins = pair.site.path("pins");
    std::fs::create_dir_all(pins.join("maps")).unwrap();
    std::fs::write(pins.join("maps/one"), "").unwrap();
    // Nobody listens at this file's api.listen; the node may as well be in another network namespace.
    let toml = format!("pin_dir = {pins:?}\n") + &pair.site.toml("a", 1, free_port(), &[]);
    let path = pair.site.path("node.toml");
    std::fs::write(&path, toml).unwrap();
    let output = turnpike("http://127.0.0.1:1", &format!("detach --config {}", path.display()));
    assert_eq!(output.code, 1, "{}", output.out);
    assert!(output.err.contains("stop it before its data plane is taken away"), "{}", output.err);
    assert!(pins.join("maps/one").exists());
}

#[cfg(feature = "engine")]
#[test]
fn the_doctor_exits_by_what_it_finds() {
    let doctor = |line: &str| turnpike("http://127.0.0.1:1", line);
    let absent = doctor("doctor --lan tpk-none-0 --wan tpk-none-1 --json");
    assert_eq!((absent.code, absent.err.as_str()), (1, ""), "{}", absent.out);
    let report: Value = serde_json::from_str(&absent.out).unwrap();
    let missing = report["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == "interface");
    assert_eq!((missing.count(), &report["ok"]), (2, &Value::Bool(false)));
    assert_eq!(doctor("doctor --lan tpk-none-0 --wan tpk-none-0").code, 1, "one interface may be both");
    assert_eq!(doctor("doctor --lan a/b --wan tpk-none-0").code, 2);
    assert_eq!(doctor("doctor --config /nowhere/node.toml").code, 2);
}
