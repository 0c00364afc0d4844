//! The process: logs, signals, exit codes.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use crate::client::Failure;
use crate::command::{CommandLine, Task};
use crate::config::{Config, LogFormat};
use crate::doctor::Diagnosis;
use crate::node::{Node, NodeError};
use crate::show;

/// What `main` does.
#[must_use]
pub fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Failed(error.to_string()), false),
    };
    let done = runtime.block_on(async {
        match command_line.run().await? {
            Task::Serve(config, log_format, path) => serve(&config, log_format, &path).await?,
            Task::Print(text) => print(&text)?,
            Task::Diagnose(Diagnosis { text, ok }) => {
                print(&text)?;
                return Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
        }
        Ok(ExitCode::SUCCESS)
    });
    match done {
        Ok(code) => code,
        Err(failure) => fail(&failure, command_line.json()),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Nobody reads on, as with `| head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::Failed(format!("cannot write to standard output: {error}"))),
    }
}

fn fail(failure: &Failure, json: bool) -> ExitCode {
    let text = match failure {
        Failure::Refused(problem) if json => serde_json::to_string_pretty(problem).unwrap_or_default() + "\n",
        Failure::Refused(problem) => show::problem(problem),
        Failure::Unreachable(text) => {
            format!(
                "error: {text}\n  next: is `turnpike serve` running, and is --api (or TURNPIKE_API) its api.listen?\n"
            )
        }
        Failure::Failed(text) | Failure::Usage(text) => format!("error: {text}\n"),
    };
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(failure.exit_code())
}

async fn serve(config: &Config, log_format: LogFormat, path: &Path) -> Result<(), Failure> {
    start_log(log_format);
    let failed = |error: std::io::Error| Failure::Failed(error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let node_failed = |error: NodeError| {
        let text = error.to_string();
        // Certificates are part of the configuration.
        if matches!(error, NodeError::Tls(_)) { Failure::Usage(text) } else { Failure::Failed(text) }
    };
    let mut node = start(config).await.map_err(node_failed)?;
    notify_ready();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(&node, path),
            error = node.failed() => return Err(node_failed(error)),
        }
    }
    info!("stopping; the data plane stays in force");
    node.stop().await;
    Ok(())
}

/// Takes `[authorization]` from the file as it is now, and leaves everything as it is where the file is wrong.
fn reload(node: &Node, path: &Path) {
    let loaded = Config::load(path).map_err(|error| error.to_string());
    match loaded.and_then(|config| node.reload(config.authorization).map_err(|error| error.to_string())) {
        Ok(()) => info!("took [authorization] from the configuration; all else needs a start"),
        Err(error) => error!(error, "the configuration is not taken; what was in force stays so"),
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// systemd's readiness protocol: one datagram.
fn notify_ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(b"READY=1", &address?));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell the service manager that this node is ready");
    }
}

#[cfg(feature = "engine")]
async fn start(config: &Config) -> Result<Node, NodeError> {
    let engine = crate::engine::Start::new(config);
    Node::start(config, move || engine.start()).await
}

#[cfg(not(feature = "engine"))]
async fn start(_: &Config) -> Result<Node, NodeError> {
    Err(NodeError::DataPlane(crate::detach::WITHOUT_ENGINE.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::fake::FakeDataPlane;
    use turnpike_authorization::SecretKey;

    /// The code that a session without a token is refused with.
    async fn refused(node: &Node) -> String {
        let flow = serde_json::json!({
            "id": "f", "aggregate": "none", "source": "10.1.0.2:4000", "destination": "10.2.0.2:4000",
            "rate_bps": 8_000, "burst_bytes": 1_600, "packet_bytes_min": 200,
        });
        let client = Client::new(&format!("http://{}", node.api())).unwrap();
        let body = serde_json::json!({ "id": "s", "flows": [flow] });
        let answer = client.post::<serde_json::Value>("/v1/sessions", &body);
        match answer.await {
            Err(Failure::Refused(problem)) => problem.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_hangup_takes_the_keys_of_the_file_or_leaves_all_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        let rest = format!(
            "node = \"a\"\nstate_dir = {directory:?}\n[api]\nlisten = \"127.0.0.1:0\"\n[data_plane]\nlan = \"l\"\nwan = \"w\"\n\
             tag_address = \"192.0.2.1\"\n[link]\nrate_out_bps = 1000000\nrate_in_bps = 1000000\n",
            directory = directory.path().display().to_string(),
        );
        let (_, public) = SecretKey::generate().unwrap();
        let required = format!(
            "[authorization]\nrequired = true\naudience = \"x\"\n[[authorization.keys]]\nkey = \"{public}\"\nissuer = \"i\"\n"
        );
        std::fs::write(&path, &rest).unwrap();
        let config = Config::load(&path).unwrap();
        let node = Node::start(&config, || Ok::<_, String>(FakeDataPlane::default())).await.unwrap();
        assert_eq!(refused(&node).await, "unknown_aggregate");
        std::fs::write(&path, format!("{rest}{required}")).unwrap();
        reload(&node, &path);
        assert_eq!(refused(&node).await, "token_required");
        std::fs::write(&path, "nonsense").unwrap();
        reload(&node, &path);
        assert_eq!(refused(&node).await, "token_required");
        std::fs::write(&path, &rest).unwrap();
        reload(&node, &path);
        assert_eq!(refused(&node).await, "unknown_aggregate");
        node.stop().await;
    }
}
