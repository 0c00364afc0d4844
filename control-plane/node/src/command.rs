//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use turnpike_api::{
    AggregateRequest, AggregateView, ClassView, FlowRate, FlowRequest, NodeView, Recurrence, RevocationRequest,
    RevocationView, SeriesView, SessionChange, SessionPreview, SessionRequest, SessionView, UsageRecord, WhenFull,
};
use turnpike_broker::name::{AggregateName, ClassName, Nanos, NodeName, SessionId};
use turnpike_broker::policy::{DscpPolicy, Tag};

use crate::client::{Client, Failure};
use crate::config::{Config, LogFormat};
use crate::doctor::{Diagnosis, Doctor};
use crate::flow_spec;
use crate::link_command::{self, Shown};
use crate::problem::read_word;
use crate::quantity;
use crate::rest::PATH_REVOCATIONS;
use crate::series_command;
use crate::show;
use crate::slot_spec::{self, SlotSpec};
use crate::time::Clock;
use crate::token::{self, Token};

const EXIT_CODES: &str = "\
Rates and sizes are whole numbers, perhaps with k, M, G (thousands) or Ki, Mi, Gi (1024s) behind them.

Exit codes: 0 done; 1 refused or failed, or `doctor` or `adopt` found a problem; 2 wrong command line or configuration; 3 cannot reach the API.";

/// Admits, enforces, carries and accounts for real-time media.
#[derive(Debug, Parser)]
#[command(name = "turnpike", version, after_help = EXIT_CODES)]
pub struct CommandLine {
    /// The node's API.
    #[arg(long, global = true, env = "TURNPIKE_API", default_value = "http://127.0.0.1:7880")]
    api: String,
    /// Print the API's JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node.
    Serve(Serve),
    /// The node's ports, links, peers, tables and verdicts.
    Status,
    /// Bandwidth reserved towards a peer.
    #[command(subcommand)]
    Aggregate(Aggregate),
    /// Calls, games and conferences.
    #[command(subcommand)]
    Session(Session),
    /// What aggregates may be engineered for.
    Classes,
    /// Bookings that recur; made by `session create --every`.
    #[command(subcommand)]
    Series(series_command::Series),
    /// What links can carry, and whom they cannot.
    #[command(subcommand)]
    Link(link_command::Link),
    /// Keys, and tokens that show that a session is authorised.
    #[command(subcommand)]
    Token(Token),
    /// The ledger: who used how much of what was reserved.
    Usage {
        /// Only of this session.
        #[arg(long)]
        session: Option<SessionId>,
    },
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at this host, change nothing, and say what is wrong and which command puts it right; exit code 1 if anything is.
    Doctor(Doctor),
    /// Look at what runs in the data plane, with or without `turnpike serve`, and say what the next start would do with it; changes nothing.
    /// Exit code 1 if it would refuse it.
    Adopt(ConfigFile),
    /// Take the data plane out of force: reservations end, and packets pass as if Turnpike were not there.
    Detach(ConfigFile),
}

/// `turnpike serve`
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// Instead of the configuration's log_format. What is logged: RUST_LOG, such as `debug`.
    #[arg(long)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration, TOML.
    #[arg(long)]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration and its certificates, and start nothing.
    Check(ConfigFile),
}

#[derive(Debug, Subcommand)]
enum Aggregate {
    /// All of them.
    List,
    /// One of them.
    Show {
        /// Its name.
        name: AggregateName,
    },
    /// Reserve one, towards a peer.
    Create {
        /// Its name, the same on both nodes.
        name: AggregateName,
        /// The node that receives it.
        #[arg(long)]
        peer: NodeName,
        /// Bits per second on the wire.
        #[arg(long, value_parser = quantity::parse)]
        rate: u64,
        /// Bytes at once; what the class's jitter makes of the rate if it is left out.
        #[arg(long, value_parser = quantity::parse_u32, required_unless_present = "class")]
        burst: Option<u32>,
        /// What it is engineered for, one of `turnpike classes`: gives the marking, too.
        #[arg(long)]
        class: Option<ClassName>,
        #[command(flatten)]
        marking: Marking,
        /// What tags tell: label (one for each flow), or terminals (both addresses and ports; the receiver polices and counts only the whole).
        #[arg(long, value_parser = read_word::<Tag>, default_value = "label")]
        tag: Tag,
        /// What becomes of a flow that does not fit: refuse it, or degrade it to what is left, down to its rate-min.
        #[arg(long, value_parser = read_word::<WhenFull>, default_value = "refuse")]
        when_full: WhenFull,
        /// Per cent of its pool that only sessions with --emergency may use.
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100), default_value_t = 0)]
        emergency_percent: u8,
    },
    /// Give one up.
    Delete {
        /// Its name.
        name: AggregateName,
    },
}

/// Differentiated services code points, 0 to 63.
#[derive(Debug, Args)]
struct Marking {
    /// Of packets that go out: set to this.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=63), required_unless_present_any = ["dscp_policy", "class"])]
    dscp: Option<u8>,
    /// Of packets that go out: set (to --dscp), copy or map (by this node's dscp_map_out).
    #[arg(long, value_parser = read_word::<DscpPolicy>)]
    dscp_policy: Option<DscpPolicy>,
    /// Of packets that flows send beyond their own rate; like the others if it is left out.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=63))]
    excess_dscp: Option<u8>,
    /// Of packets that the peer delivers: set to this.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=63))]
    deliver_dscp: Option<u8>,
    /// Of packets that the peer delivers: set (to --deliver-dscp), copy (as if left out) or map (by the peer's dscp_map_in).
    #[arg(long, value_parser = read_word::<DscpPolicy>)]
    deliver_dscp_policy: Option<DscpPolicy>,
}

#[derive(Debug, Subcommand)]
enum Session {
    /// All of them.
    List,
    /// One of them.
    Show {
        /// Its id.
        id: SessionId,
    },
    /// Ask for one; repeating the same request is safe.
    Create(Box<CreateSession>),
    /// Let one end at another time or give its flows other rates, at both ends, or leave it as it is.
    Change {
        /// Its id, at the node that was asked for it.
        id: SessionId,
        /// When it is to end, such as 2030-06-01T14:00:00Z.
        #[arg(long, required_unless_present_any = ["no_end", "flow"])]
        ends_at: Option<Nanos>,
        /// Not before it is deleted.
        #[arg(long, conflicts_with = "ends_at")]
        no_end: bool,
        /// id=a,rate=120k and, if wanted, burst=3200,rate-min=100k; once for each flow that is to have another rate.
        #[arg(long, value_parser = flow_spec::parse_rate, conflicts_with_all = ["ends_at", "no_end"])]
        flow: Vec<FlowRate>,
    },
    /// End one; prints its final usage.
    Delete {
        /// Its id.
        id: SessionId,
    },
}

/// How a session stands to others that want the same room (RFC 3181). Higher wins.
#[derive(Debug, Args)]
struct Priority {
    /// With which it asks: where there is no room it ends sessions whose holding priority is lower.
    #[arg(long)]
    setup_priority: Option<u16>,
    /// With which it keeps what it has; the setup priority if it is left out.
    #[arg(long)]
    holding_priority: Option<u16>,
    /// It may use what aggregates keep for emergencies, and goes before all that are none.
    #[arg(long)]
    emergency: bool,
}

#[derive(Debug, Args)]
struct CreateSession {
    /// Its id, chosen by you.
    #[arg(required_unless_present = "file", requires = "flow")]
    id: Option<SessionId>,
    /// id=a,aggregate=ab,source=10.1.0.2:4000,destination=10.2.0.2:4000,rate=80k,burst=1600,packet=200 and, if wanted,
    /// rate-min=40k,excess-rate=20k,excess-burst=3200,rtcp=next_port; once for each flow. IPv6: source=[2001:db8::1]:4000.
    /// What it asks of its aggregate's class: class=telephony[,delay-max=100][,jitter-max=50][,loss-max=1000][,security=srtp_dtls]
    /// [,game=fps][,game-class=ranked][,negotiable=yes]; times in milliseconds, loss in packets of a million.
    /// What it carries, so that jitter and sound can be judged: codec=PCMU[,clock-rate=8000][,jitter=every-packet]
    /// [,concealment=no].
    #[arg(long, value_parser = flow_spec::parse)]
    flow: Vec<FlowRequest>,
    /// When it is to start, such as 2030-06-01T14:00:00Z; at once if it is left out. Until then it is booked.
    #[arg(long)]
    starts_at: Option<Nanos>,
    /// When it is to end; not before it is deleted if it is left out.
    #[arg(long, conflicts_with = "duration")]
    ends_at: Option<Nanos>,
    /// How long it is to last, such as 90s, 45m, 2h or 1d, from its start or, by this host's clock, from now on.
    #[arg(long, value_parser = quantity::parse_duration)]
    duration: Option<Duration>,
    /// If there is no room, wait so long for some, such as 10m; then it is offered for a short time, and taken by the same command again.
    #[arg(long, value_parser = quantity::parse_duration)]
    wait: Option<Duration>,
    /// It recurs: from one start to the next, such as 1d or 7d. All occurrences are booked or none, as sessions ID.1, ID.2 and so on.
    #[arg(long, value_parser = quantity::parse_duration, requires = "starts_at", conflicts_with_all = ["wait", "dry_run"])]
    every: Option<Duration>,
    /// How many occurrences, with --every.
    #[arg(long, requires = "every")]
    times: Option<u32>,
    /// No occurrence starts after this, with --every instead of --times.
    #[arg(long, requires = "every", conflicts_with = "times")]
    last_start: Option<Nanos>,
    /// Media-processing slots that it needs at the node that is asked or at the other one: first:transcoding=2 or second:mixing=1; once for each.
    #[arg(long, value_parser = slot_spec::parse)]
    media_slots: Vec<SlotSpec>,
    /// What shows that it is authorised. It stands in the list of processes: rather --token-file.
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// The same, in a file; - is standard input.
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    priority: Priority,
    /// The request as JSON, instead; - is standard input.
    #[arg(long, conflicts_with_all = ["id", "flow", "every", "media_slots", "starts_at", "ends_at", "duration", "wait", "setup_priority", "holding_priority", "emergency"])]
    file: Option<PathBuf>,
    /// Only ask both nodes whether it would be admitted now, and with what values; nothing is held.
    #[arg(long)]
    dry_run: bool,
}

/// What is to be done by the process itself, or nothing more.
pub(crate) enum Task {
    /// Run a node.
    Serve(Box<Config>, LogFormat, PathBuf),
    /// Print this.
    Print(String),
    /// Print this, and say by the exit code whether all is well.
    Diagnose(Diagnosis),
}

impl CommandLine {
    /// Whether errors are wanted as JSON.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// Does what the command says, up to what it prints.
    pub(crate) async fn run(&self) -> Result<Task, Failure> {
        let client = || Client::new(&self.api);
        let text = match &self.command {
            Command::Serve(serve) => {
                let config = load(&serve.file.config)?;
                let log_format = serve.log_format.unwrap_or(config.log_format);
                return Ok(Task::Serve(Box::new(config), log_format, serve.file.config.clone()));
            }
            Command::Status => {
                let view: NodeView = client()?.get("/v1/node").await?;
                self.print(&view, show::node)?
            }
            Command::Classes => {
                let views: Vec<ClassView> = client()?.list("/v1/classes", "").await?;
                self.print(&views, |views| show::classes(views))?
            }
            Command::Aggregate(command) => self.aggregate(&client()?, command).await?,
            Command::Session(command) => self.session(&client()?, command).await?,
            Command::Series(command) => match series_command::run(&client()?, command).await? {
                series_command::Shown::List(views) => self.print(&views, |views| series_command::list(views))?,
                series_command::Shown::One(view) => self.print(&view, series_command::one)?,
                series_command::Shown::Gone(text) => {
                    if self.json {
                        String::new()
                    } else {
                        text
                    }
                }
            },
            Command::Link(command) => match link_command::run(&client()?, command).await? {
                Shown::List(views) => self.print(&views, |views| link_command::list(views))?,
                Shown::One(view) => self.print(&*view, link_command::one)?,
            },
            Command::Token(command) => self.token(command).await?,
            Command::Usage { session } => {
                let query = session.as_ref().map(|session| format!("&session={session}")).unwrap_or_default();
                let records: Vec<UsageRecord> = client()?.list("/v1/usage", &query).await?;
                self.print(&records, |records| show::usage(records))?
            }
            Command::Config(ConfigCommand::Check(ConfigFile { config })) => check(config)?,
            Command::Doctor(doctor) => return doctor.run(self.json).map(Task::Diagnose),
            Command::Adopt(ConfigFile { config }) => {
                return crate::adopt::adopt(&load(config)?, self.json).map(Task::Diagnose);
            }
            Command::Detach(ConfigFile { config }) => crate::detach::detach(&load(config)?)?,
        };
        Ok(Task::Print(text))
    }

    async fn aggregate(&self, client: &Client, command: &Aggregate) -> Result<String, Failure> {
        match command {
            Aggregate::List => {
                let views: Vec<AggregateView> = client.list("/v1/aggregates", "").await?;
                self.print(&views, |views| show::aggregates(views))
            }
            Aggregate::Show { name } => {
                let view: AggregateView = client.get(&format!("/v1/aggregates/{name}")).await?;
                self.print(&view, show::aggregate)
            }
            Aggregate::Create { name, peer, rate, burst, class, marking, tag, when_full, emergency_percent } => {
                let request = AggregateRequest {
                    name: name.clone(),
                    peer: peer.clone(),
                    rate_bps: *rate,
                    burst_bytes: *burst,
                    class: class.clone(),
                    dscp_policy: marking.dscp_policy,
                    dscp: marking.dscp,
                    excess_dscp: marking.excess_dscp,
                    deliver_dscp_policy: marking.deliver_dscp_policy,
                    deliver_dscp: marking.deliver_dscp,
                    tag: *tag,
                    when_full: *when_full,
                    emergency_percent: *emergency_percent,
                };
                let (created, view): (_, AggregateView) = client.post("/v1/aggregates", &request).await?;
                self.print(&view, |view| format!("{}{}", made(created), show::aggregate(view)))
            }
            Aggregate::Delete { name } => {
                let _: Option<serde_json::Value> = client.delete(&format!("/v1/aggregates/{name}")).await?;
                Ok(if self.json { String::new() } else { format!("aggregate {name} is gone at both ends\n") })
            }
        }
    }

    async fn session(&self, client: &Client, command: &Session) -> Result<String, Failure> {
        match command {
            Session::List => {
                let views: Vec<SessionView> = client.list("/v1/sessions", "").await?;
                self.print(&views, |views| show::sessions(views))
            }
            Session::Show { id } => {
                let view: SessionView = client.get(&format!("/v1/sessions/{id}")).await?;
                self.print(&view, show::session)
            }
            Session::Create(create) if create.dry_run => {
                let (_, view): (_, SessionPreview) =
                    client.post("/v1/sessions?dry_run=true", &create.request()?).await?;
                self.print(&view, show::preview)
            }
            Session::Create(create) => {
                let request = create.request()?;
                if request.get("recurrence").is_some_and(|recurrence| !recurrence.is_null()) {
                    let (created, view): (_, SeriesView) = client.post("/v1/sessions", &request).await?;
                    return self.print(&view, |view| format!("{}{}", made(created), series_command::one(view)));
                }
                let (created, view): (_, SessionView) = client.post("/v1/sessions", &request).await?;
                self.print(&view, |view| format!("{}{}", made(created), show::session(view)))
            }
            Session::Change { id, ends_at, flow, .. } => {
                let change = if flow.is_empty() {
                    SessionChange { ends_at: Some(ends_at.map(|time| time.to_string())), flows: None }
                } else {
                    SessionChange { ends_at: None, flows: Some(flow.clone()) }
                };
                let view: SessionView = client.patch(&format!("/v1/sessions/{id}"), &change).await?;
                self.print(&view, show::session)
            }
            Session::Delete { id } => {
                let view: Option<SessionView> = client.delete(&format!("/v1/sessions/{id}")).await?;
                view.map(|view| self.print(&view, show::session)).unwrap_or_else(|| Ok(String::new()))
            }
        }
    }

    async fn token(&self, command: &Token) -> Result<String, Failure> {
        match command {
            Token::GenerateKey { key } => token::generate_key(key),
            Token::Issue(issue) => issue.run(),
            Token::Show { token } => token::show(token),
            Token::Revoke { token_id, issuer, key_id } => {
                let (token_id, issuer, key_id) = (token_id.clone(), issuer.clone(), key_id.clone());
                let request = RevocationRequest { issuer, token_id, key_id };
                let (created, view): (_, RevocationView) =
                    Client::new(&self.api)?.post(PATH_REVOCATIONS, &request).await?;
                self.print(&view, |view| format!("{}{}", made(created), show::revocations(std::slice::from_ref(view))))
            }
            Token::Revoked => {
                let views: Vec<RevocationView> = Client::new(&self.api)?.list(PATH_REVOCATIONS, "").await?;
                self.print(&views, |views| show::revocations(views))
            }
        }
    }

    fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<String, Failure> {
        if !self.json {
            return Ok(text(value));
        }
        let json = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(json + "\n")
    }
}

const fn made(created: bool) -> &'static str {
    if created { "" } else { "it was there already:\n" }
}

fn from(start: Nanos, duration: Duration) -> Option<Nanos> {
    let nanos = u64::try_from(duration.as_nanos()).ok();
    nanos.and_then(|nanos| start.0.checked_add(nanos)).map(Nanos)
}

/// So long after a time, which an option says.
pub(crate) fn end_of(option: &str, start: Nanos, duration: Duration) -> Result<Nanos, Failure> {
    from(start, duration).ok_or_else(|| beyond(option))
}

fn beyond(option: &str) -> Failure {
    Failure::Usage(format!("{option}: that is after the end of time; give less"))
}

impl CreateSession {
    /// Start and end as the API takes them.
    fn interval(&self) -> Result<(Option<String>, Option<String>), Failure> {
        let end_of =
            |duration: Duration| from(self.starts_at.unwrap_or_else(|| Clock::start(Nanos(0)).now()), duration);
        let ends_at = match self.duration {
            Some(duration) => Some(end_of(duration).ok_or_else(|| beyond("--duration"))?),
            None => self.ends_at,
        };
        Ok((self.starts_at.map(|time| time.to_string()), ends_at.map(|time| time.to_string())))
    }

    fn request(&self) -> Result<serde_json::Value, Failure> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => Some(token::read(file)?),
            (None, None) => None,
        };
        let mut request = self.without_token()?;
        if let (Some(token), Some(fields)) = (token, request.as_object_mut()) {
            fields.insert("authorization_token".to_owned(), token.into());
        }
        Ok(request)
    }

    fn without_token(&self) -> Result<serde_json::Value, Failure> {
        let Some(file) = &self.file else {
            let id = self.id.clone().ok_or_else(|| Failure::Usage("a session needs an id".to_owned()))?;
            let (starts_at, ends_at) = self.interval()?;
            let wait_until = match self.wait {
                Some(wait) => {
                    Some(from(Clock::start(Nanos(0)).now(), wait).ok_or_else(|| beyond("--wait"))?.to_string())
                }
                None => None,
            };
            let media_slots = slot_spec::collect(&self.media_slots)
                .map_err(|error| Failure::Usage(format!("--media-slots: {error}")))?;
            let flows = self.flow.clone();
            let recurrence = self.every.map(|every| Recurrence {
                period_s: every.as_secs(),
                count: self.times,
                until: self.last_start.map(|time| time.to_string()),
            });
            let request = SessionRequest {
                id,
                starts_at,
                ends_at,
                wait_until,
                setup_priority: self.priority.setup_priority,
                holding_priority: self.priority.holding_priority,
                emergency: self.priority.emergency,
                quality: None,
                authorization_token: None,
                recurrence,
                media_slots,
                flows,
            };
            return serde_json::to_value(request).map_err(|error| Failure::Failed(error.to_string()));
        };
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
        // As it is: the node says what is wrong with it.
        serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("{} is not JSON: {error}", file.display())))
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|error| Failure::Usage(error.to_string()))
}

fn check(path: &Path) -> Result<String, Failure> {
    let config = load(path)?;
    if let Some(peering) = &config.peering {
        crate::tls::Tls::load(peering, &config.node).map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let memory = memory(&config).map_err(Failure::Usage)?;
    Ok(format!("{} is valid: node {}, {} peers\n{memory}", path.display(), config.node, config.peers.len()))
}

/// What the tables will take, for people.
#[cfg(feature = "engine")]
fn memory(config: &Config) -> Result<String, String> {
    let bytes = crate::engine::engine_config(config).memory_bytes().map_err(|error| format!("limits: {error}"))?;
    Ok(format!(
        "on this host {} flows and {} aggregates take {} of kernel memory, all of it at start\n",
        config.limits.flows_max,
        config.limits.aggregates_max,
        quantity::mebibytes(bytes)
    ))
}

#[cfg(not(feature = "engine"))]
fn memory(_: &Config) -> Result<String, String> {
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CommandLine, String> {
        CommandLine::try_parse_from(line.split(' ')).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn lines_are_understood_or_refused() {
        let flow = "--flow id=a,aggregate=ab,source=10.1.0.2:1,destination=10.2.0.2:1,rate=80k,burst=1600,packet=200";
        let good = [
            "turnpike status --json".to_owned(),
            "turnpike --api http://127.0.0.1:1 aggregate list".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp-policy copy --excess-dscp 10"
                .to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46 --deliver-dscp-policy map"
                .to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46 --tag terminals".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46 --when-full degrade".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46 --emergency-percent 20".to_owned(),
            format!("turnpike session create s1 {flow} {flow}"),
            format!("turnpike session create s1 {flow} --starts-at 2030-06-01T14:00:00Z --duration 90s"),
            format!("turnpike session create s1 {flow} --ends-at 2030-06-01T16:00:00+02:00"),
            format!(
                "turnpike session create s1 {flow} --starts-at 2030-06-01T14:00:00Z --duration 1h --every 7d --times 10"
            ),
            "turnpike series show s1".to_owned(),
            format!("turnpike session create s1 {flow} --dry-run"),
            format!("turnpike session create s1 {flow} --media-slots first:a=1 --media-slots second:a=2"),
            format!("turnpike session create s1 {flow} --wait 10m"),
            format!("turnpike session create s1 {flow} --setup-priority 5 --holding-priority 7 --emergency"),
            "turnpike session create --file - --dry-run".to_owned(),
            "turnpike session create --file -".to_owned(),
            "turnpike session change s1 --ends-at 2030-06-01T14:00:00Z".to_owned(),
            "turnpike session change s1 --no-end".to_owned(),
            "turnpike link list".to_owned(),
            "turnpike link set wan --rate-out 5M --from 2030-06-01T14:00:00Z --duration 2h".to_owned(),
            "turnpike link set wan --rate-in 5M --until 2030-06-01T14:00:00Z".to_owned(),
            format!("turnpike session create s1 {flow} --token v4.public.x"),
            "turnpike session create --file x --token-file y --dry-run".to_owned(),
            "turnpike token generate-key --key k".to_owned(),
            format!("turnpike token issue --key k --issuer i --audience x --session s1 {flow} --valid 5m"),
            format!("turnpike token issue --key k --issuer i --audience x --session s1 {flow} --rate-max 80k --id 7"),
            "turnpike token show v4.public.x".to_owned(),
            "turnpike token revoke 7 --issuer i".to_owned(),
            "turnpike token revoke --key-id k4.pid.x".to_owned(),
            "turnpike token revoked --json".to_owned(),
            "turnpike usage --session s1".to_owned(),
            "turnpike serve --config node.toml --log-format json".to_owned(),
            "turnpike adopt --config node.toml --json".to_owned(),
            "turnpike doctor".to_owned(),
            "turnpike doctor --config node.toml --json".to_owned(),
            "turnpike doctor --lan eth0 --wan eth1".to_owned(),
        ];
        for line in good {
            parse(&line).unwrap();
        }
        let bad = [
            "turnpike".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1.5M --burst 64k --dscp 46".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 64".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp-policy keep".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46 --tag flow".to_owned(),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46 --when-full wait".to_owned(),
            "turnpike aggregate show a/b".to_owned(),
            "turnpike doctor --lan eth0".to_owned(),
            "turnpike doctor --config node.toml --lan eth0 --wan eth1".to_owned(),
            format!("turnpike session create s1 {flow} --every 7d --times 10"),
            format!("turnpike session create s1 {flow} --times 10"),
            "turnpike link set wan".to_owned(),
            "turnpike link set wan --rate-out -5".to_owned(),
            "turnpike link set wan --rate-out 5M --until 2030-06-01T14:00:00Z --duration 2h".to_owned(),
            "turnpike session create".to_owned(),
            "turnpike session create s1".to_owned(),
            "turnpike session change s1".to_owned(),
            "turnpike session change s1 --ends-at 2030-06-01T14:00:00Z --no-end".to_owned(),
            format!("turnpike session create s1 {flow} --token x --token-file y"),
            "turnpike token issue --key k --issuer i --audience x --session s1".to_owned(),
            "turnpike token revoke 7".to_owned(),
            "turnpike token revoke".to_owned(),
            "turnpike token revoke 7 --issuer i --key-id k4.pid.x".to_owned(),
            format!("turnpike session create s1 {flow} --file x"),
            "turnpike session create --file x --wait 10m".to_owned(),
            "turnpike session create --file x --emergency".to_owned(),
            format!("turnpike session create s1 {flow} --setup-priority 65536"),
            "turnpike aggregate create ab --peer b --rate 1M --burst 64k --dscp 46 --emergency-percent 101".to_owned(),
            format!("turnpike session create s1 {flow} --media-slots a=1"),
            format!("turnpike session create s1 {flow} --starts-at tomorrow"),
            format!("turnpike session create s1 {flow} --ends-at 2030-06-01T14:00:00Z --duration 1h"),
            format!("turnpike session create s1 {flow} --duration 1.5h"),
        ];
        for line in bad {
            assert!(parse(&line).is_err(), "{line}");
        }
    }
}
