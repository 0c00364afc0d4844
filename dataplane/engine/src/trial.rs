//! Sends single frames through the programs in the kernel, and takes pictures of the tables: how tests, and people who wonder
//! where a packet would go, see what the data plane does.

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use turnpike_fastpath::Direction;
use turnpike_fastpath::contract::program;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::program::{program_error, xdp};
pub use crate::snapshot::Snapshot;

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
        self.trial_of(name(direction), frame)
    }

    /// The same for a port that is both sides'.
    ///
    /// # Errors
    /// As in [`Engine::trial`].
    pub fn trial_both(&mut self, frame: &[u8]) -> Result<Trial, EngineError> {
        self.trial_of(program::BOTH, frame)
    }

    fn trial_of(&mut self, name: &str, frame: &[u8]) -> Result<Trial, EngineError> {
        let mut after = vec![0; FRAME_BYTES_MAX];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut after), ..TestRunOptions::default() };
        let result = xdp(&mut self.object, name)?.test_run(options).map_err(program_error)?;
        after.truncate(result.data_size_out as usize);
        Ok(Trial { action: result.return_value, frame: after })
    }

    /// How large a program came out, by a name of [`turnpike_fastpath::contract::program`], and how much work the verifier had with it.
    ///
    /// # Errors
    /// There is no such program, or the kernel does not say (before 5.16).
    pub fn program_size(&mut self, name: &str) -> Result<ProgramSize, EngineError> {
        let info = xdp(&mut self.object, name)?.info().map_err(program_error)?;
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
