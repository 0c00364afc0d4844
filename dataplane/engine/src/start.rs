//! Starts the data plane, or takes over what an earlier process left.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use turnpike_fastpath::contract::VERSION;
use turnpike_fastpath::entry::{Config, LOCAL_MAX, PEERS_MAX, UNADMITTED_DROP, UNADMITTED_LIMIT, UNADMITTED_PASS};

use crate::config::{EngineConfig, Fragments, Unadmitted, possible_cpus};
use crate::engine::{Engine, Free, wide};
use crate::error::EngineError;
use crate::generation::{self, Place};
use crate::layout::Shape;
use crate::monitor::Monitor;
use crate::netlink::{Interface, Netlink};
use crate::next_hop::NextHops;
use crate::policy::PolicyId;
use crate::ports::{LAN, Ports};
use crate::program::{self as programs, Attachment, Prepared};
use crate::recovery::Recovery;
use crate::status::InterfaceStatus;
use crate::table::Tables;
use crate::{adopt, clock};

impl Engine {
    /// Loads the programs and attaches them. If an earlier process left its pins, its policies and counters are taken over and the
    /// programs are exchanged under traffic.
    ///
    /// # Errors
    /// Whatever is wrong with the configuration, the host or the pins; then nothing was changed that was not there before.
    pub fn start(config: &EngineConfig) -> Result<Self, EngineError> {
        Self::start_on(config, possible_cpus()?)
    }

    /// The same for so many CPUs, which must be at least those that are possible here.
    pub(crate) fn start_on(config: &EngineConfig, cpus: u32) -> Result<Self, EngineError> {
        config.check()?;
        let shape = Shape::of(config, cpus);
        shape.check()?;
        let memory_bytes = shape.memory_bytes();
        tracing::info!(
            flows = config.flows_max,
            aggregates = config.aggregates_max,
            cpus,
            memory_bytes,
            "the tables take {} MiB of kernel memory, all of it from the start",
            memory_bytes.div_ceil(1 << 20)
        );
        let mut netlink = Netlink::open().map_err(EngineError::kernel("opening netlink"))?;
        // What runs already is taken over also while an interface is down: it may come up again before it lapses.
        let runs = generation::newest(&config.pin_dir).is_some();
        let lan = interface(&mut netlink, &config.lan, runs)?;
        let wan = interface(&mut netlink, &config.wan, runs)?;
        let prepared = programs::prepare(config, shape)?;
        let adopting = !matches!(prepared, Prepared::Nothing);
        Self::set_up(config, netlink, [&lan, &wan], shape, prepared).inspect_err(|_| {
            if !adopting {
                // What is reported is why it could not start.
                let _ = Self::detach(&config.pin_dir);
            }
        })
    }

    fn set_up(
        config: &EngineConfig,
        mut netlink: Netlink,
        interfaces: [&Interface; 2],
        shape: Shape,
        prepared: Prepared,
    ) -> Result<Self, EngineError> {
        let [lan, wan] = interfaces;
        // Before anything is looked up, so that no change is missed.
        let monitor = Monitor::open().map_err(EngineError::kernel("listening for changes of the network"))?;
        let current = Place::Current.folder(&config.pin_dir);
        let adopting = !matches!(prepared, Prepared::Nothing);
        let mut object = match prepared {
            Prepared::Loaded(object) => object,
            Prepared::Pinned => programs::load_pinned(&current, shape)?,
            Prepared::Nothing => {
                let object = programs::load_unpinned(shape)?;
                // Complete before it has its name, so that there is never a part of it.
                generation::pin(&object, &config.pin_dir)?;
                generation::rename(&config.pin_dir, Place::New, Place::Current)?;
                object
            }
        };
        let tables = Tables::map(&object, shape)?;
        generation::check_contract(&current, tables.config().version)?;
        let clock = clock::measure(&mut object, &tables)?;

        let ports = Ports::start(&tables, &mut object, &mut netlink, lan, wan)?;
        let old = tables.config();
        let seed = if adopting && old.hash_seed != 0 { old.hash_seed } else { random_seed()? };
        tables.set_config(table_config(config, &mut netlink, &ports, &tables, seed, clock.tick_ns, &old)?);

        let mut engine = Self {
            config: config.clone(),
            tables,
            cpus: shape.cpus,
            seed,
            policies: BTreeMap::new(),
            ended: BTreeMap::new(),
            flow_ends: BTreeMap::new(),
            next_hops: NextHops::new(shape.next_hops()),
            free_flows: Free::new("flows", config.flows_max),
            free_aggregates: Free::new("aggregates", config.aggregates_max),
            labels_full: 0,
            packet_bytes_max: lan.mtu.max(wan.mtu),
            netlink,
            monitor,
            ports,
            recovery: Recovery::default(),
            clock,
            adopted: Vec::new(),
            mode: config.xdp_mode,
            links: Vec::new(),
            object,
        };
        adopt::adopt(&mut engine);
        engine.complete_change()?;
        engine.adopted = engine.policies.keys().chain(engine.ended.keys()).copied().collect();
        engine.renew();
        let attachments = programs::roles(lan.index == wan.index).iter().map(|(port, role, program)| {
            let (interface, index) = if *port == LAN { (&config.lan, lan.index) } else { (&config.wan, wan.index) };
            Attachment { program, role, interface, index }
        });
        let attachments: Vec<_> = attachments.collect();
        let wanted: Vec<_> = attachments.iter().map(|attachment| (attachment.role, attachment.index)).collect();
        programs::drop_other_links(&config.pin_dir, &wanted)?;
        (engine.mode, engine.links) = programs::attach_all(&mut engine.object, &attachments, config)?;
        for interface in engine.status()?.interfaces {
            let InterfaceStatus { name, role, xdp_mode, mtu, .. } = interface;
            tracing::info!(interface = name, role, xdp_mode, mtu, "attached");
        }
        Ok(engine)
    }

    /// The policies that were there when this engine started: in force, or out of force and not forgotten.
    #[must_use]
    pub fn adopted(&self) -> &[PolicyId] {
        &self.adopted
    }

    /// Takes the programs off their interfaces and removes everything that is pinned there. Says what was removed.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn detach(pin_dir: &Path) -> Result<Vec<String>, EngineError> {
        // Programs go before their tables.
        let mut removed = programs::remove_links(pin_dir)?;
        for place in Place::ALL {
            removed.extend(generation::remove(&place.folder(pin_dir))?);
        }
        if pin_dir.exists() {
            fs::remove_dir(pin_dir).map_err(EngineError::kernel("removing the folder of pins"))?;
        }
        Ok(removed)
    }
}

fn interface(netlink: &mut Netlink, name: &str, may_be_down: bool) -> Result<Interface, EngineError> {
    let found = netlink.interface(name).map_err(EngineError::kernel("looking up an interface"))?;
    let found = found.ok_or_else(|| EngineError::InterfaceMissing { name: name.to_owned() })?;
    let unfit = |detail: &str| EngineError::InterfaceUnfit { name: name.to_owned(), detail: detail.to_owned() };
    if !found.ethernet {
        return Err(unfit("its frames have no Ethernet header; Turnpike needs an Ethernet device"));
    }
    if !found.up && may_be_down {
        tracing::warn!(interface = name, "the port's interface is down");
    } else if !found.up {
        return Err(unfit("it is down; `ip link set up` brings it up"));
    }
    Ok(found)
}

fn table_config(
    config: &EngineConfig,
    netlink: &mut Netlink,
    ports: &Ports,
    tables: &Tables,
    hash_seed: u64,
    tick_ns: u64,
    old: &Config,
) -> Result<Config, EngineError> {
    let mut local = [[0; 16]; LOCAL_MAX];
    let mut found = Vec::new();
    for interface in ports.interfaces() {
        found.extend(netlink.addresses(interface).map_err(EngineError::kernel("listing addresses"))?);
    }
    if found.len() > LOCAL_MAX {
        tracing::warn!(
            found = found.len(),
            max = LOCAL_MAX,
            "more addresses than are kept; the rest count as unadmitted traffic"
        );
    }
    for (local, address) in local.iter_mut().zip(&found) {
        *local = wide(*address);
    }
    let mut peers = [[0; 16]; PEERS_MAX];
    for (peer, address) in peers.iter_mut().zip(&config.peers) {
        *peer = wide(*address);
    }
    Ok(Config {
        version: VERSION,
        tick_ns,
        hash_seed,
        bucket_mask: tables.bucket_mask(),
        unadmitted: match config.unadmitted {
            Unadmitted::Pass => UNADMITTED_PASS,
            Unadmitted::Limit => UNADMITTED_LIMIT,
            Unadmitted::Drop => UNADMITTED_DROP,
        },
        fragments_drop: u16::from(config.fragments == Fragments::Drop),
        best_effort: old.best_effort,
        tag_address_v4: match config.tag_address(false) {
            Some(IpAddr::V4(address)) => address.octets(),
            _ => [0; 4],
        },
        tag_address_v6: match config.tag_address(true) {
            Some(IpAddr::V6(address)) => address.octets(),
            _ => [0; 16],
        },
        tag_port: config.tag_port.to_be_bytes(),
        peers_count: u16::try_from(config.peers.len()).unwrap_or(0),
        zero: 0,
        local,
        peers,
        dscp_out: config.dscp_map_out.map(|dscp| dscp & 63),
        dscp_in: config.dscp_map_in.map(|dscp| dscp & 63),
        interim: old.interim,
    })
}

fn random_seed() -> Result<u64, EngineError> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(EngineError::kernel("reading random bytes"))?;
    Ok(u64::from_ne_bytes(bytes) | 1)
}
