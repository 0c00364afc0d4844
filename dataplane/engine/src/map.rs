//! A kernel array mapped into this process.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The words of a `BPF_F_MMAPABLE` array. Programs on all CPUs read and write them at the same time, so they are atomics.
#[derive(Debug)]
pub(crate) struct Mapped {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone until it is dropped, and its words are atomics.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `entries` entries of `entry_bytes` bytes (a multiple of 8).
    pub(crate) fn new(fd: impl AsFd, entries: u32, entry_bytes: usize) -> io::Result<Self> {
        let count = entries as usize * entry_bytes / 8;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            mmap(std::ptr::null_mut(), count * 8, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd.as_fd(), 0)?
        };
        let words = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { words, count })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, has `count` words and lives as long as `self`; any bytes are a legal word, and all
        // access through this slice is atomic.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }

    /// The word at `index`.
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        &self.words()[index]
    }

    /// `count` words from `start` on.
    pub(crate) fn slice(&self, start: usize, count: usize) -> &[AtomicU64] {
        &self.words()[start..start + count]
    }

    /// The words of an entry of so many.
    pub(crate) fn entry(&self, entry: u32, words: usize) -> &[AtomicU64] {
        let start = entry as usize * words;
        &self.words()[start..start + words]
    }

    /// Copies an entry of so many words from another table; nobody may be looking at it here yet.
    pub(crate) fn copy(&self, entry: u32, from: &Self, source: u32, words: usize) {
        for (target, source) in self.entry(entry, words).iter().zip(from.entry(source, words)) {
            target.store(source.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// Words of an entry of `N` words.
    pub(crate) fn read<const N: usize>(&self, entry: u32) -> [u64; N] {
        let start = entry as usize * N;
        let mut value = [0; N];
        for (value, word) in value.iter_mut().zip(&self.words()[start..start + N]) {
            *value = word.load(Ordering::Acquire);
        }
        value
    }

    /// Writes an entry of `N` words, from the last to the first, each visible before the next.
    pub(crate) fn write<const N: usize>(&self, entry: u32, value: [u64; N]) {
        let start = entry as usize * N;
        for (value, word) in value.iter().zip(&self.words()[start..start + N]).rev() {
            word.store(*value, Ordering::Release);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and no reference into it outlives `self`.
        let result = unsafe { munmap(self.words.as_ptr().cast(), self.count * 8) };
        debug_assert!(result.is_ok());
    }
}
