//! The engine as the node's data plane: names become addresses, and the broker's types the engine's.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use turnpike_api::{InterfaceView, TableView, VerdictView};
use turnpike_broker::name::{NodeName, PolicyId};
use turnpike_broker::policy::{Counters, InstallError, Meter, Policy};
use turnpike_engine::{Engine, EngineConfig, EngineError, policy as ours};

use crate::config::{Config, Unadmitted, XdpMode};
use crate::dataplane::{DataPlane, Status};

/// What is needed to start the engine on its own thread.
pub(crate) struct Start {
    config: EngineConfig,
    peers: BTreeMap<NodeName, Ipv4Addr>,
}

impl Start {
    pub(crate) fn new(config: &Config) -> Self {
        let peers = config.peers.iter().map(|peer| (peer.name.clone(), peer.tag_address)).collect();
        Self { config: engine_config(config), peers }
    }

    pub(crate) fn start(self) -> Result<EngineDataPlane, EngineError> {
        Ok(EngineDataPlane { engine: Engine::start(&self.config)?, peers: self.peers })
    }
}

/// What the engine wants to know of a configuration.
pub(crate) fn engine_config(config: &Config) -> EngineConfig {
    let data_plane = &config.data_plane;
    EngineConfig {
        pin_dir: config.pin_dir.clone(),
        lan: data_plane.lan.clone(),
        wan: data_plane.wan.clone(),
        xdp_mode: match data_plane.xdp_mode {
            XdpMode::Auto => turnpike_engine::XdpMode::Auto,
            XdpMode::Native => turnpike_engine::XdpMode::Native,
            XdpMode::Generic => turnpike_engine::XdpMode::Generic,
        },
        tag_address: data_plane.tag_address,
        tag_port: data_plane.tag_port,
        peers: config.peers.iter().map(|peer| peer.tag_address).collect(),
        unadmitted: match data_plane.unadmitted {
            Unadmitted::Pass => turnpike_engine::Unadmitted::Pass,
            Unadmitted::Limit => turnpike_engine::Unadmitted::Limit,
            Unadmitted::Drop => turnpike_engine::Unadmitted::Drop,
        },
        flows_max: config.limits.flows_max,
        aggregates_max: config.limits.aggregates_max,
        lapse_after: Duration::from_secs(data_plane.lapse_after_s),
    }
}

/// The engine, and the addresses of the peers.
pub(crate) struct EngineDataPlane {
    engine: Engine,
    peers: BTreeMap<NodeName, Ipv4Addr>,
}

impl EngineDataPlane {
    fn policy(&self, policy: &Policy) -> Result<ours::Policy, InstallError> {
        Ok(match *policy {
            Policy::AggregateOut { ref peer, rate_bps, burst_bytes, dscp } => {
                ours::Policy::AggregateOut { peer: self.peer(peer)?, rate_bps, burst_bytes, dscp }
            }
            Policy::AggregateIn { ref peer, rate_bps, burst_bytes } => {
                ours::Policy::AggregateIn { peer: self.peer(peer)?, rate_bps, burst_bytes }
            }
            Policy::FlowOut { aggregate, endpoints, label, meter } => ours::Policy::FlowOut {
                aggregate: aggregate.0,
                source: endpoints.source,
                destination: endpoints.destination,
                label: label.0,
                meter: our_meter(meter),
            },
            Policy::FlowIn { aggregate, endpoints, label, meter } => ours::Policy::FlowIn {
                aggregate: aggregate.0,
                source: endpoints.source,
                destination: endpoints.destination,
                label: label.0,
                meter: our_meter(meter),
            },
        })
    }

    fn peer(&self, name: &NodeName) -> Result<Ipv4Addr, InstallError> {
        self.peers.get(name).copied().ok_or_else(|| InstallError {
            code: "unknown_peer".to_owned(),
            detail: format!("peer {name} is not in the configuration, so its tag_address is not known"),
            of_request: false,
        })
    }
}

impl DataPlane for EngineDataPlane {
    fn adopted(&self) -> Vec<PolicyId> {
        self.engine.adopted().iter().copied().map(PolicyId).collect()
    }

    fn install(&mut self, policies: &[(PolicyId, Policy)]) -> Result<(), InstallError> {
        let policies = policies.iter().map(|(id, policy)| Ok((id.0, self.policy(policy)?)));
        let policies: Vec<_> = policies.collect::<Result<_, InstallError>>()?;
        self.engine.install(&policies).map_err(|error| install_error(&error))
    }

    fn deinstall(&mut self, policies: &[PolicyId]) -> Vec<Counters> {
        let policies: Vec<_> = policies.iter().map(|id| id.0).collect();
        self.engine.deinstall(&policies).into_iter().map(broker_counters).collect()
    }

    fn forget(&mut self, policies: &[PolicyId]) {
        let policies: Vec<_> = policies.iter().map(|id| id.0).collect();
        self.engine.forget(&policies);
    }

    fn counters(&self, policy: PolicyId) -> Option<Counters> {
        self.engine.counters(policy.0).map(broker_counters)
    }

    fn renew(&mut self) {
        self.engine.renew();
    }

    fn follow_network(&mut self) -> Result<(), InstallError> {
        self.engine.follow_network().map_err(|error| install_error(&error))
    }

    fn refresh_next_hops(&mut self) -> Result<(), InstallError> {
        self.engine.refresh_next_hops().map_err(|error| install_error(&error))
    }

    fn set_best_effort_rate(&mut self, rate_bps: u64) -> Result<(), InstallError> {
        self.engine.set_best_effort_rate(rate_bps).map_err(|error| install_error(&error))
    }

    fn status(&mut self) -> Result<Status, InstallError> {
        let status = self.engine.status().map_err(|error| install_error(&error))?;
        let interfaces = status.interfaces.into_iter().map(|interface| InterfaceView {
            name: interface.name,
            role: interface.role.to_owned(),
            state: interface.state.to_owned(),
            xdp_mode: interface.xdp_mode.to_owned(),
            mtu: interface.mtu,
            packet_bytes_max: interface.packet_bytes_max,
            restored: interface.restored,
        });
        let tables = status.tables.into_iter().map(|table| {
            let view = TableView { used: table.used, max: table.max, full: table.full };
            (table.name.to_owned(), view)
        });
        let verdicts = status.verdicts.into_iter().map(|verdict| VerdictView {
            direction: verdict.direction.to_owned(),
            reason: verdict.reason.to_owned(),
            action: verdict.action.to_owned(),
            packets: verdict.packets,
            bytes: verdict.bytes,
        });
        Ok(Status { interfaces: interfaces.collect(), tables: tables.collect(), verdicts: verdicts.collect() })
    }
}

fn our_meter(Meter { rate_bps, burst_bytes, packet_bytes_min }: Meter) -> ours::Meter {
    ours::Meter { rate_bps, burst_bytes, packet_bytes_min }
}

fn broker_counters(counters: ours::Counters) -> Counters {
    Counters {
        offered_packets: counters.offered_packets,
        offered_bytes: counters.offered_bytes,
        passed_packets: counters.passed_packets,
        passed_bytes: counters.passed_bytes,
        dropped_packets: counters.dropped_packets,
        dropped_bytes: counters.dropped_bytes,
    }
}

fn install_error(error: &EngineError) -> InstallError {
    InstallError { code: error.code().to_owned(), detail: error.to_string(), of_request: error.is_of_request() }
}
