//! What arrived of an incoming flow, by its RTP headers: loss, duplicates, order, gaps and jitter.

/// `turnpike_fastpath::reception` says what each figure means.
pub use turnpike_fastpath::reception::ReceptionCounters as Reception;
