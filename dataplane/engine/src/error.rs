//! What can go wrong between user space and the kernel, each with a stable code.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::policy::PolicyId;

/// A refusal or a fault of the data plane. The message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A value of the configuration.
    #[error("{key} = {value}: {allowed}")]
    Config {
        /// Which.
        key: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// The caller may not load programs.
    #[error("{action} is not permitted: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    NotPermitted {
        /// What was tried.
        action: &'static str,
    },
    /// The kernel lacks what the programs need.
    #[error("kernel {found} is too old: Turnpike needs {needed} or later (atomic operations in BPF)")]
    KernelTooOld {
        /// What runs.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// There is no such interface in this network namespace.
    #[error("interface {name} does not exist here; `ip link` lists the interfaces")]
    InterfaceMissing {
        /// Which.
        name: String,
    },
    /// The interface is of a kind that the data plane does not handle.
    #[error("interface {name}: {detail}")]
    InterfaceUnfit {
        /// Which.
        name: String,
        /// Why.
        detail: String,
    },
    /// Another program sits on the interface, or the driver does not take one.
    #[error("cannot attach to {name} in {mode} mode: {detail}")]
    Attach {
        /// Which.
        name: String,
        /// Native or generic.
        mode: &'static str,
        /// Why, and what to do.
        detail: String,
    },
    /// Something is pinned that this program cannot take over.
    #[error("{path} cannot be taken over: {detail}; end its sessions and run `turnpike detach` to start afresh")]
    Pins {
        /// What.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// What is in force does not fit into tables of the configured sizes.
    #[error("{key} = {value} is too small for what is in force: {detail}; nothing was changed")]
    DoesNotFit {
        /// Which size.
        key: &'static str,
        /// What it was to be.
        value: u32,
        /// Why it does not do, and what would.
        detail: String,
    },
    /// The object did not load.
    #[error("the XDP programs were not loaded: {detail}")]
    Load {
        /// The kernel's words.
        detail: String,
    },
    /// The file system of pins.
    #[error("{path}: {detail}")]
    BpfFileSystem {
        /// Where.
        path: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// A table has no free entry.
    #[error("the {table} table is full ({max} entries); raise its limit in the configuration")]
    TableFull {
        /// Which.
        table: &'static str,
        /// How many it has.
        max: u32,
    },
    /// Two flows of a bucket would look the same.
    #[error("the flow's hash collides with another's; choose another port")]
    HashCollision,
    /// The id is in use.
    #[error("policy {0} is installed already")]
    PolicyExists(PolicyId),
    /// The id of the carrier is none, or of the wrong direction.
    #[error("policy {0} is no installed aggregate of this direction")]
    UnknownAggregate(PolicyId),
    /// The id is of no policy in force that could be changed in this way.
    #[error("policy {id} is no installed {needed}, so this cannot be changed of it")]
    UnknownPolicy {
        /// Which.
        id: PolicyId,
        /// Of what kind it would have to be.
        needed: &'static str,
    },
    /// Another flow has these ends.
    #[error("these endpoints are carried by policy {0}")]
    EndpointsInUse(PolicyId),
    /// Addresses of the two families where they must be of one.
    #[error("{what} {value}: {allowed}")]
    Family {
        /// Whose.
        what: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The label is outside the table or in use.
    #[error("label {label:#x}: {detail}")]
    Label {
        /// Which.
        label: u64,
        /// Why.
        detail: &'static str,
    },
    /// Rate or burst cannot be enforced.
    #[error("{field} {value}: {allowed}")]
    Rate {
        /// Which.
        field: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        allowed: String,
    },
    /// There is no way to an address.
    #[error("next hop to {address}: {detail}")]
    NextHop {
        /// Where to.
        address: IpAddr,
        /// Why.
        detail: String,
    },
    /// What was read back is not what was written.
    #[error("policy {0} was written but reads back differently; nothing of it is in force")]
    ReadBack(PolicyId),
    /// The same of a change.
    #[error("the change of policy {0} was written but reads back differently; the policy is in force as it was")]
    NotChanged(PolicyId),
    /// The kernel's answer to something else.
    #[error("{action}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The answer.
        source: io::Error,
    },
}

impl EngineError {
    /// Stable, in snake case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::NotPermitted { .. } => "not_permitted",
            Self::KernelTooOld { .. } => "kernel_too_old",
            Self::InterfaceMissing { .. } => "interface_missing",
            Self::InterfaceUnfit { .. } => "interface_unfit",
            Self::Attach { .. } => "attach_failed",
            Self::Pins { .. } => "pins_mismatch",
            Self::DoesNotFit { .. } => "does_not_fit",
            Self::Load { .. } => "load_failed",
            Self::BpfFileSystem { .. } => "bpf_file_system",
            Self::TableFull { .. } => "table_full",
            Self::HashCollision => "hash_collision",
            Self::PolicyExists(_) => "policy_exists",
            Self::UnknownAggregate(_) => "unknown_aggregate",
            Self::UnknownPolicy { .. } => "unknown_policy",
            Self::EndpointsInUse(_) => "endpoints_in_use",
            Self::Family { .. } => "family",
            Self::Label { .. } => "label",
            Self::Rate { .. } => "rate",
            Self::NextHop { .. } => "next_hop_unresolved",
            Self::ReadBack(_) | Self::NotChanged(_) => "read_back",
            Self::Kernel { .. } => "kernel",
        }
    }

    /// Whether what was asked for cannot be enforced or delivered, so that asking otherwise helps.
    #[must_use]
    pub const fn is_of_request(&self) -> bool {
        matches!(self, Self::Rate { .. } | Self::NextHop { .. } | Self::Family { .. })
    }

    pub(crate) fn kernel(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { action },
            _ => Self::Kernel { action, source },
        }
    }
}
