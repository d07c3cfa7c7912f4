//! BPF arrays that programs in the kernel share with this process.

#![allow(unsafe_code, reason = "maps that are shared with a BPF program")]

use libbpf_rs::{MapCore, Object};
use nix::sys::mman::{MapFlags as Mapped, ProtFlags, mmap, munmap};
use std::ffi::{OsStr, c_void};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

fn missing() -> io::Error {
    io::Error::other("the program's object lacks a part")
}

/// The map of a loaded object, by its name.
pub(super) fn map<'a>(object: &'a Object, name: &str) -> io::Result<libbpf_rs::Map<'a>> {
    object.maps().find(|map| map.name() == OsStr::new(name)).ok_or_else(missing)
}

/// The bytes of a mapped BPF array.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping is memory that belongs to this value alone, on the side of this process.
unsafe impl Send for Mapping {}

// SAFETY: a shared reference gives the address only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps so many bytes of it.
    pub(super) fn new(map: BorrowedFd, bytes: usize) -> io::Result<Mapping> {
        let len = NonZeroUsize::new(bytes).ok_or_else(missing)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses one longer than the map.
        let base =
            unsafe { mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, Mapped::MAP_SHARED, map, 0) }?;
        Ok(Mapping { base, len })
    }

    /// Where it begins.
    pub(super) fn base(&self) -> NonNull<c_void> {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and nothing borrows from it.
        let unmapped = unsafe { munmap(self.base, self.len.get()) };
        debug_assert!(unmapped.is_ok());
    }
}
