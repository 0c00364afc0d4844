//! What packets of no admitted flow get of the link.

use turnpike_fastpath::contract::BEST_EFFORT_ENTRIES;
use turnpike_fastpath::entry::Aggregate;
use turnpike_fastpath::meter::aggregate_burst_bytes_min;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::sys::grace_period;
use crate::table::Noted;

impl Engine {
    /// How fast packets of no admitted flow may go together under [`Unadmitted::Limit`](crate::Unadmitted::Limit); zero stops them.
    ///
    /// # Errors
    /// The rate is above 1 Tbit/s.
    pub fn set_best_effort_rate(&mut self, rate_bps: u64) -> Result<(), EngineError> {
        let burst_min = aggregate_burst_bytes_min(self.cpus, self.packet_bytes_max);
        // Enough for a round trip of 100 ms.
        let burst = u32::try_from((rate_bps / 80).max(burst_min)).unwrap_or(u32::MAX);
        let entry = match rate_bps {
            0 => Aggregate::default(),
            _ => {
                let rate = self.pool_rate(rate_bps, burst, 0)?;
                Aggregate {
                    quantum_bytes: rate.quantum_bytes,
                    quantum_ns: rate.quantum_ns,
                    depth_ns: rate.depth_ns,
                    ..Aggregate::default()
                }
            }
        };
        let mut config = self.tables.config();
        let old = self.tables.aggregate(config.best_effort);
        if (old.quantum_bytes, old.quantum_ns, old.depth_ns) == (entry.quantum_bytes, entry.quantum_ns, entry.depth_ns)
        {
            return Ok(());
        }
        // A second entry takes over as a whole; it starts where the first one's pool stands, so that no burst is given twice.
        let next = (config.best_effort + 1) % BEST_EFFORT_ENTRIES;
        self.tables.clear_shares(Noted::Aggregate, next);
        self.tables.set_aggregate(next, entry);
        self.tables.set_pool(next, self.tables.pool(config.best_effort));
        config.best_effort = next;
        self.tables.set_config(config);
        grace_period();
        Ok(())
    }
}
