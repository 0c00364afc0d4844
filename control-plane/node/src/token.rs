//! `turnpike token`: keys and tokens. Only `revoke` and `revoked` ask a node; the rest is done here.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use turnpike_api::FlowRequest;
use turnpike_authorization::{AuthorisedFlow, Claims, Instant, SecretKey, unverified};
use turnpike_broker::name::{Nanos, SessionId};

use crate::client::Failure;
use crate::time::Clock;
use crate::{flow_spec, quantity, tls};

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a key to sign with, and print its public key for [[authorization.keys]].
    GenerateKey {
        /// Where the secret key goes, for its owner alone; there must be no such file.
        #[arg(long)]
        key: PathBuf,
    },
    /// Sign a token for one session, and print it.
    Issue(Issue),
    /// Print what a token says; nothing is verified.
    Show {
        /// The token; - is standard input.
        token: String,
    },
    /// Take a token back, or a key with all that it has signed, at the node that is asked.
    Revoke {
        /// The token's id.
        #[arg(requires = "issuer", required_unless_present = "key_id")]
        token_id: Option<String>,
        /// Who signed it.
        #[arg(long)]
        issuer: Option<String>,
        /// The key's id, k4.pid.…
        #[arg(long, conflicts_with_all = ["token_id", "issuer"])]
        key_id: Option<String>,
    },
    /// What was taken back at the node that is asked.
    Revoked,
}

/// `turnpike token issue`
#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// The secret key, as `generate-key` wrote it.
    #[arg(long)]
    key: PathBuf,
    /// Who signs, as nodes know the key's owner.
    #[arg(long)]
    issuer: String,
    /// The nodes that are to take it: their authorization.audience.
    #[arg(long)]
    audience: String,
    /// The session's id.
    #[arg(long)]
    session: SessionId,
    /// As for `session create`; once for each flow.
    #[arg(long, value_parser = flow_spec::parse, required = true)]
    flow: Vec<FlowRequest>,
    /// Most bits per second of each flow, excess included; what --flow asks for if it is left out.
    #[arg(long, value_parser = quantity::parse)]
    rate_max: Option<u64>,
    /// How long it is in force, such as 90s or 5m; for a session that waits, as long as that and 30s.
    #[arg(long, value_parser = quantity::parse_duration, default_value = "5m")]
    valid: Duration,
    /// From when on; from now on if it is left out.
    #[arg(long)]
    not_before: Option<Nanos>,
    /// Its id, never used twice by the issuer; a random one if it is left out.
    #[arg(long)]
    id: Option<String>,
}

/// Makes a key, and says what to do with it.
pub(crate) fn generate_key(path: &Path) -> Result<String, Failure> {
    let (secret, public) = SecretKey::generate().map_err(|error| Failure::Failed(error.to_string()))?;
    let failed = |error: std::io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(file, "{}", secret.reveal()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(format!("{public}\nid {}\n", public.id()))
}

impl Issue {
    /// The token, on a line.
    pub(crate) fn run(&self) -> Result<String, Failure> {
        let path = self.key.display();
        let text = std::fs::read_to_string(&self.key)
            .map_err(|error| Failure::Usage(format!("cannot read {path}: {error}")))?;
        let key = SecretKey::parse(&text).map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
        let now = seconds(Clock::start(Nanos(0)).now());
        let not_before = self.not_before.map_or(now, seconds);
        let claims = Claims {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            id: self.id.clone().map_or_else(random_id, Ok)?,
            issued_at: now,
            not_before,
            expires_at: not_before.plus(self.valid.as_secs()),
            session: self.session.to_string(),
            flows: self.flow.iter().map(|flow| self.authorised(flow)).collect(),
        };
        key.sign(&claims).map(|token| token + "\n").map_err(|error| Failure::Usage(error.to_string()))
    }

    fn authorised(&self, flow: &FlowRequest) -> AuthorisedFlow {
        let asked_bps = flow.rate_bps.saturating_add(flow.excess.map_or(0, |excess| excess.rate_bps));
        AuthorisedFlow {
            source: flow.source,
            destination: flow.destination,
            rate_bps_max: self.rate_max.unwrap_or(asked_bps),
        }
    }
}

/// What a token says, as JSON.
pub(crate) fn show(token: &str) -> Result<String, Failure> {
    let token = if token == "-" { read(Path::new("-"))? } else { token.to_owned() };
    let (claims, key_id) = unverified(&token).map_err(|error| Failure::Usage(error.to_string()))?;
    let json = serde_json::to_string_pretty(&claims).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(format!("{json}\nsigned with key {key_id}, which was not verified\n"))
}

/// A token from a file; - is standard input.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let text =
        if path.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    text.map(|text| text.trim().to_owned())
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}

const fn seconds(time: Nanos) -> Instant {
    Instant(time.0 / 1_000_000_000)
}

fn random_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    let filled = tls::provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Failure::Failed("the system gives no random numbers".to_owned()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
