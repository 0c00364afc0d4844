//! The engine as the node's data plane: names become addresses, and the broker's types the engine's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use turnpike_api::{InterfaceView, TableView, VerdictView};
use turnpike_broker::media::Media;
use turnpike_broker::name::{NodeName, PolicyId};
use turnpike_broker::policy::{Counters, Dscp, Excess, InstallError, Meter, Policy, Reception, Rtcp, Tag};
use turnpike_engine::{Engine, EngineConfig, EngineError, policy as ours};

use crate::config::{Config, Fragments, Unadmitted, XdpMode};
use crate::dataplane::{DataPlane, Status};
use crate::payload::Mtus;

/// What is needed to start the engine on its own thread.
pub(crate) struct Start {
    config: EngineConfig,
    peers: BTreeMap<NodeName, IpAddr>,
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
        tag_addresses: data_plane.tag_addresses.clone(),
        tag_port: data_plane.tag_port,
        peers: config.peers.iter().map(|peer| peer.tag_address).collect(),
        unadmitted: match data_plane.unadmitted {
            Unadmitted::Pass => turnpike_engine::Unadmitted::Pass,
            Unadmitted::Limit => turnpike_engine::Unadmitted::Limit,
            Unadmitted::Drop => turnpike_engine::Unadmitted::Drop,
        },
        fragments: match data_plane.fragments {
            Fragments::Unadmitted => turnpike_engine::Fragments::Unadmitted,
            Fragments::Drop => turnpike_engine::Fragments::Drop,
        },
        dscp_map_out: data_plane.dscp_map_out.table(),
        dscp_map_in: data_plane.dscp_map_in.table(),
        flows_max: config.limits.flows_max,
        aggregates_max: config.limits.aggregates_max,
        lapse_after: Duration::from_secs(data_plane.lapse_after_s),
    }
}

/// The engine, and the addresses of the peers.
pub(crate) struct EngineDataPlane {
    engine: Engine,
    peers: BTreeMap<NodeName, IpAddr>,
}

impl EngineDataPlane {
    fn policy(&self, policy: &Policy) -> Result<ours::Policy, InstallError> {
        Ok(match *policy {
            Policy::AggregateOut { ref peer, rate_bps, burst_bytes, dscp, excess_dscp } => ours::Policy::AggregateOut {
                peer: self.peer(peer)?,
                rate_bps,
                burst_bytes,
                dscp: our_dscp(dscp),
                excess_dscp,
            },
            Policy::AggregateIn { ref peer, rate_bps, burst_bytes, dscp } => {
                ours::Policy::AggregateIn { peer: self.peer(peer)?, rate_bps, burst_bytes, dscp: our_dscp(dscp) }
            }
            Policy::FlowOut { aggregate, endpoints, label, meter, rtcp, tag } => ours::Policy::FlowOut {
                aggregate: aggregate.0,
                source: endpoints.source,
                destination: endpoints.destination,
                label: label.0,
                meter: our_meter(meter),
                rtcp_next_port: rtcp == Rtcp::NextPort,
                terminals: tag == Tag::Terminals,
            },
            Policy::TerminalsIn { aggregate, label, meter } => {
                ours::Policy::TerminalsIn { aggregate: aggregate.0, label: label.0, meter: our_meter(meter) }
            }
            Policy::FlowIn { aggregate, endpoints, label, meter, rtcp, ref media } => ours::Policy::FlowIn {
                aggregate: aggregate.0,
                source: endpoints.source,
                destination: endpoints.destination,
                label: label.0,
                meter: our_meter(meter),
                rtcp_next_port: rtcp == Rtcp::NextPort,
                media: our_media(media),
            },
        })
    }

    fn peer(&self, name: &NodeName) -> Result<IpAddr, InstallError> {
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

    fn install(&mut self, policies: &[(PolicyId, Policy)], terminals: &[IpAddr]) -> Result<(), InstallError> {
        self.engine.reach(terminals).map_err(|error| install_error(&error))?;
        let policies = policies.iter().map(|(id, policy)| Ok((id.0, self.policy(policy)?)));
        let policies: Vec<_> = policies.collect::<Result<_, InstallError>>()?;
        self.engine.install(&policies).map_err(|error| install_error(&error))
    }

    fn change(&mut self, meters: &[(PolicyId, Meter, Meter)]) -> Result<Vec<Counters>, InstallError> {
        for (index, (id, _, to)) in meters.iter().enumerate() {
            let Err(error) = self.engine.change(id.0, &ours::Change::Meter(our_meter(*to))) else { continue };
            for (id, from, _) in meters[..index].iter().rev() {
                if let Err(error) = self.engine.change(id.0, &ours::Change::Meter(our_meter(*from))) {
                    tracing::error!(policy = id.0, %error, "a change of rate cannot be taken back");
                }
            }
            return Err(install_error(&error));
        }
        let readings = meters.iter().map(|(id, ..)| self.counters(*id).unwrap_or_default());
        Ok(readings.collect())
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

    fn mtus(&mut self) -> Option<Mtus> {
        let interfaces = self.engine.status().ok()?.interfaces;
        // One that is not there has an MTU of 0.
        let mtu = |role| interfaces.iter().find(|port| port.role == role).map(|port| port.mtu).filter(|mtu| *mtu > 0);
        Some(Mtus { lan: mtu("lan")?, wan: mtu("wan")? })
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

fn our_meter(Meter { rate_bps, burst_bytes, packet_bytes_min, excess }: Meter) -> ours::Meter {
    let excess = excess.map(|Excess { rate_bps, burst_bytes }| ours::Excess { rate_bps, burst_bytes });
    ours::Meter { rate_bps, burst_bytes, packet_bytes_min, excess }
}

const fn our_dscp(dscp: Dscp) -> ours::Dscp {
    match dscp {
        Dscp::Set(value) => ours::Dscp::Set(value),
        Dscp::Copy => ours::Dscp::Copy,
        Dscp::Map => ours::Dscp::Map,
    }
}

fn our_media(media: &Media) -> ours::Media {
    ours::Media { clock_rate_hz: media.clock_rate_hz().unwrap_or_default(), every_packet: media.jitter_every_packet }
}

fn broker_reception(found: turnpike_engine::reception::Reception) -> Reception {
    Reception {
        lost_packets: found.lost_packets,
        duplicated_packets: found.duplicated_packets,
        reordered_packets: found.reordered_packets,
        unplaced_packets: found.unplaced_packets,
        not_rtp_packets: found.not_rtp_packets,
        gaps: found.gaps,
        restarts: found.restarts,
        jitter_ns: found.jitter_ns,
    }
}

fn broker_counters(counters: ours::Counters) -> Counters {
    Counters {
        offered_packets: counters.offered_packets,
        offered_bytes: counters.offered_bytes,
        passed_packets: counters.passed_packets,
        passed_bytes: counters.passed_bytes,
        dropped_packets: counters.dropped_packets,
        dropped_bytes: counters.dropped_bytes,
        excess_packets: counters.excess_packets,
        excess_bytes: counters.excess_bytes,
        reception: counters.reception.map(broker_reception),
    }
}

fn install_error(error: &EngineError) -> InstallError {
    InstallError { code: error.code().to_owned(), detail: error.to_string(), of_request: error.is_of_request() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_broker::address::Family;
    use turnpike_broker::overhead_bytes;
    use turnpike_fastpath::plan::growth_bytes;

    #[test]
    fn what_is_admitted_for_a_packet_is_what_it_grows_by() {
        for (inner, inner_v6) in [(Family::Ipv4, false), (Family::Ipv6, true)] {
            for (outer, outer_v6) in [(Family::Ipv4, false), (Family::Ipv6, true)] {
                for (tag, terminals) in [(Tag::Label, false), (Tag::Terminals, true)] {
                    assert_eq!(
                        overhead_bytes(inner, outer, tag),
                        growth_bytes(inner_v6, outer_v6, terminals),
                        "{inner} over {outer}, {tag}"
                    );
                }
            }
        }
    }

    #[test]
    fn media_and_what_arrived_cross_over_whole() {
        let media = Media { codec: Some("opus".parse().unwrap()), jitter_every_packet: true, ..Media::default() };
        assert_eq!(our_media(&media), ours::Media { clock_rate_hz: 48_000, every_packet: true });
        assert_eq!(our_media(&Media::default()), ours::Media::default());
        let found = turnpike_engine::reception::Reception {
            lost_packets: 1,
            duplicated_packets: 2,
            reordered_packets: 3,
            unplaced_packets: 4,
            not_rtp_packets: 5,
            gaps: 6,
            restarts: 7,
            jitter_ns: Some(8),
        };
        let counters = broker_counters(ours::Counters { reception: Some(found), ..ours::Counters::default() });
        let expected = Reception {
            lost_packets: 1,
            duplicated_packets: 2,
            reordered_packets: 3,
            unplaced_packets: 4,
            not_rtp_packets: 5,
            gaps: 6,
            restarts: 7,
            jitter_ns: Some(8),
        };
        assert_eq!(counters, Counters { reception: Some(expected), ..Counters::default() });
        assert_eq!(broker_counters(ours::Counters::default()), Counters::default());
    }
}
