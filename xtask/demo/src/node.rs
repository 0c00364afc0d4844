//! A `turnpike serve` process of the demo, and the directory that its files are in.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};
use turnpike_api::Health;

use crate::certificates::NodeFiles;
use crate::rest::Client;
use crate::topology::{LAN, Namespace, Place, WAN, must};

/// Where a node's API listens, each in its own namespace.
pub const API: &str = "127.0.0.1:7880";
const PEERING_PORT: u16 = 7881;
const TAG_PORT: u16 = 47_700;
const READY_MAX: Duration = Duration::from_secs(15);
const STOP_MAX: Duration = Duration::from_secs(15);
const LOG_LINES_SHOWN: usize = 20;

/// A directory of the demo's own, with a file system for pinned programs and maps in it. Dropping it removes both.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    pins: PathBuf,
    mounted: bool,
}

impl Scratch {
    /// Makes `<temporary directory>/<name>`.
    ///
    /// # Errors
    ///
    /// When it is there already or the file system cannot be mounted.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut scratch = Self { pins: dir.join("pins"), dir, mounted: false };
        let pins = &scratch.pins;
        std::fs::create_dir(pins).with_context(|| format!("cannot make {}", pins.display()))?;
        // One of its own: what is pinned in it goes with it, even when a node cannot clean up.
        rustix::mount::mount("bpf", pins, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a file system for BPF at {}", pins.display()))?;
        scratch.mounted = true;
        Ok(scratch)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = rustix::mount::unmount(&self.pins, UnmountFlags::DETACH)
        {
            eprintln!("cannot unmount {}: {error}", self.pins.display());
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// What differs between the two nodes.
#[derive(Debug, Clone, Copy)]
pub struct Edge {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub place: Place,
}

/// The node of site A.
pub const EDGE_A: Edge = Edge { name: "edge-a", place: Place::EdgeA };
/// The node of site B.
pub const EDGE_B: Edge = Edge { name: "edge-b", place: Place::EdgeB };

/// One node: its configuration, and its process while it runs. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    edge: Edge,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Writes the configuration of `own`, whose only peer is `peer`.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn new(
        binary: &Path,
        scratch: &Scratch,
        (own, peer): (Edge, Edge),
        files: &NodeFiles,
        link_rate_bps: u64,
    ) -> anyhow::Result<Self> {
        let dir = scratch.dir();
        let state = dir.join(format!("{}-state", own.name));
        std::fs::create_dir(&state).with_context(|| format!("cannot make {}", state.display()))?;
        let (name, address) = (own.name, own.place.address());
        let (peer_name, peer_address) = (peer.name, peer.place.address());
        let text = format!(
            r#"node = "{name}"
state_dir = {state:?}
pin_dir = {pins:?}

[api]
listen = "{API}"

[data_plane]
lan = "{LAN}"
wan = "{WAN}"
tag_address = "{address}"
tag_port = {TAG_PORT}
unadmitted = "limit"

[link]
rate_out_bps = {link_rate_bps}
rate_in_bps = {link_rate_bps}

[peering]
listen = "{address}:{PEERING_PORT}"
certificate = {certificate:?}
key = {key:?}
ca = {ca:?}

[[peers]]
name = "{peer_name}"
tag_address = "{peer_address}"
url = "https://{peer_address}:{PEERING_PORT}"
"#,
            pins = scratch.pins.join(name),
            certificate = files.certificate,
            key = files.key,
            ca = files.ca,
        );
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let log = dir.join(format!("{name}.log"));
        Ok(Self { edge: own, binary: binary.to_owned(), config, log, child: None })
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.edge.name
    }

    /// Has its next start use tables for so many flows.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be written.
    pub fn set_flows_max(&self, flows_max: u32) -> anyhow::Result<()> {
        const LIMITS: &str = "\n[limits]\n";
        let text = std::fs::read_to_string(&self.config)?;
        let rest = text.split(LIMITS).next().unwrap_or_default();
        std::fs::write(&self.config, format!("{rest}{LIMITS}flows_max = {flows_max}\n"))
            .with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// What a command that looks at the configured node says, and whether it found everything well.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn ask(&self, namespace: &Namespace, command: &str) -> anyhow::Result<(bool, String)> {
        let output = namespace.run(|| {
            let mut line = Command::new(&self.binary);
            line.args([command, "--json", "--config"]).arg(&self.config);
            line.output().with_context(|| format!("cannot start {}", self.binary.display()))
        })?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Starts `turnpike serve` inside `namespace`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(&mut self, namespace: &Namespace) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name());
        let child = namespace.run(|| {
            let log = self.open_log()?;
            Command::new(&self.binary)
                .arg("serve")
                .arg("--config")
                .arg(&self.config)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                // Ctrl-C is for the demo, which still needs its nodes.
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {}", self.binary.display()))
        })?;
        self.child = Some(child);
        Ok(())
    }

    fn open_log(&self) -> anyhow::Result<File> {
        let opened = OpenOptions::new().create(true).append(true).open(&self.log);
        opened.with_context(|| format!("cannot write {}", self.log.display()))
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time.
    pub fn wait_ready(&mut self, client: Client<'_>, go_on: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            go_on()?;
            let child = self.child.as_mut().context("not started")?;
            if let Some(status) = child.try_wait().context("cannot wait for it")? {
                self.child = None;
                bail!("{} ended with {status}", self.name());
            }
            match client.get::<Health>("/v1/health") {
                Ok(health) if health.status == "ready" => return Ok(()),
                Ok(_) | Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                Ok(health) => bail!("{} is {} after 15 s", self.name(), health.status),
                Err(error) => bail!("{} is not ready: {error:#}", self.name()),
            }
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].iter();
        tail.map(|line| format!("    {line}\n")).collect()
    }

    /// Kills it with SIGKILL: it cannot do anything about it.
    ///
    /// # Errors
    ///
    /// When it was gone before.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("not started")?;
        child.kill().context("cannot kill it")?;
        let status = child.wait().context("cannot wait for it")?;
        let by_us = status.signal() == Some(Signal::KILL.as_raw());
        ensure!(by_us, "{} had ended by itself with {status}", self.name());
        Ok(())
    }

    /// Ends it with SIGTERM and waits.
    ///
    /// # Errors
    ///
    /// When it does not end, or not well.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("not started")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM).context("cannot signal it")?;
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().context("cannot wait for it")? {
                ensure!(status.success(), "{} ended with {status}", self.name());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().context("cannot kill it")?;
        child.wait().context("cannot wait for it")?;
        bail!("{} did not end within 15 s of SIGTERM", self.name())
    }

    /// `turnpike detach`: takes its programs and maps out of the kernel.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn detach(&self, namespace: &Namespace) -> anyhow::Result<()> {
        namespace.run(|| must(Command::new(&self.binary).arg("detach").arg("--config").arg(&self.config)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.kill().and_then(|()| child.wait())
        {
            eprintln!("cannot end {}: {error}", self.name());
        }
    }
}
