//! Sends single frames through the programs in the kernel, and takes pictures of the tables: how tests, and people who wonder
//! where a packet would go, see what the data plane does.

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use turnpike_fastpath::Direction;
use turnpike_fastpath::contract::program;
use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, Config, Flow, FlowShare, LabelEntry, NextHop, Pool, Port, ReasonShare,
};
use turnpike_fastpath::memory::MemoryTables;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::program::{program_error, xdp};

/// Room for the longest frame of a test run.
const FRAME_BYTES_MAX: usize = 4_096;

/// What became of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The XDP action: 1 drop, 2 pass, 4 redirect.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// The tables at one moment, with the shares of one CPU.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) config: Config,
    pub(crate) buckets: Vec<Bucket>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) flow_shares: Vec<FlowShare>,
    pub(crate) labels: Vec<LabelEntry>,
    pub(crate) label_shares: Vec<FlowShare>,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) aggregate_shares: Vec<AggregateShare>,
    pub(crate) reasons: Vec<ReasonShare>,
    pub(crate) next_hops: Vec<NextHop>,
    pub(crate) ports: Vec<Port>,
    pub(crate) ticks: u64,
    pub(crate) exact_ns: u64,
}

impl Snapshot {
    /// The tables as the packet logic takes them; what it writes stays in this snapshot. The clocks stand at the moment of the snapshot.
    #[must_use]
    pub fn tables(&self) -> MemoryTables<'_> {
        MemoryTables {
            config: &self.config,
            buckets: &self.buckets,
            flows: &self.flows,
            flow_shares: &self.flow_shares,
            labels: &self.labels,
            label_shares: &self.label_shares,
            aggregates: &self.aggregates,
            pools: &self.pools,
            aggregate_shares: &self.aggregate_shares,
            reasons: &self.reasons,
            next_hops: &self.next_hops,
            ports: &self.ports,
            exact_ns: self.exact_ns.into(),
            ticks: self.ticks.into(),
        }
    }

    /// Whether every counter and all unspent credit are the same in both.
    #[must_use]
    pub fn counts_like(&self, other: &Self) -> bool {
        self.flow_shares == other.flow_shares
            && self.label_shares == other.label_shares
            && self.aggregate_shares == other.aggregate_shares
            && self.reasons == other.reasons
    }
}

/// How large a program is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramSize {
    /// After the verifier's rewriting.
    pub instructions: u32,
    /// Looked at by the verifier, all paths together.
    pub verified_instructions: u32,
}

const fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => program::OUT,
        Direction::In => program::IN,
    }
}

impl Engine {
    /// Sends a frame through the program of this direction, on the calling thread's CPU. It is metered and counted like any other, but goes
    /// nowhere.
    ///
    /// # Errors
    /// The kernel refuses the frame: it is shorter than an Ethernet header or longer than a page.
    pub fn trial(&mut self, direction: Direction, frame: &[u8]) -> Result<Trial, EngineError> {
        let mut after = vec![0; FRAME_BYTES_MAX];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut after), ..TestRunOptions::default() };
        let result = xdp(&mut self.object, name(direction))?.test_run(options).map_err(program_error)?;
        after.truncate(result.data_size_out as usize);
        Ok(Trial { action: result.return_value, frame: after })
    }

    /// How large a program came out, and how much work the verifier had with it.
    ///
    /// # Errors
    /// The kernel does not say (before 5.16).
    pub fn program_size(&mut self, direction: Direction) -> Result<ProgramSize, EngineError> {
        let info = xdp(&mut self.object, name(direction))?.info().map_err(program_error)?;
        let unknown = || EngineError::Load { detail: "this kernel does not tell a program's size".to_owned() };
        Ok(ProgramSize {
            instructions: info.size_translated().ok_or_else(unknown)? / 8,
            verified_instructions: info.verified_instruction_count().ok_or_else(unknown)?,
        })
    }

    /// Copies the tables, with the shares of one CPU.
    #[must_use]
    pub fn snapshot(&self, cpu: u32) -> Snapshot {
        self.tables.snapshot(cpu, self.coarse_ticks(), self.exact_ns())
    }
}
