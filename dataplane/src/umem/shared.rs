//! Arrays that may outlive the process: on the heap, or in a file that is mapped into memory.
//!
//! A [`Slab`] is a fixed array of cells that all threads share; its cells are atomics, so it is only ever borrowed shared.
//! [`Mapping::fresh`] makes a file of zeros, reserves all of its memory and maps it; [`Mapping::cut`] deals it out, one
//! part after the other, none twice. What is stored in such a slab is in the file at that moment, whatever becomes of the process.
//!
//! All memory is reserved beforehand: a hole in a file on a full tmpfs would be a SIGBUS on the data path.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use zerocopy::FromZeros;

/// A file that is mapped as a whole. Unmapped when the last slab cut from it is gone; the file stays.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: the pages are only reached through slabs, which say themselves who may.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `Mapping::fresh` with this length; every slab in it holds an `Arc` of it, so none is left.
        // An error cannot be answered: the address range then stays mapped until the process ends.
        let _ = unsafe { munmap(self.base.cast(), self.len.get()) };
    }
}

/// A mapped file that is not dealt out yet, or not all of it.
#[derive(Debug)]
pub struct Mapping {
    pages: Arc<Pages>,
    file: File,
    /// Bytes that were cut off already.
    cut: usize,
}

impl Mapping {
    /// Makes a file of `len` zero bytes that only its owner may open, in place of any that is there, and maps it.
    ///
    /// It must stay as long as it is while it is mapped, so it belongs into a directory where nobody else may write.
    pub fn fresh(path: &Path, len: usize) -> io::Result<Mapping> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let length = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        fallocate(&file, FallocateFlags::empty(), 0, len as i64)?;
        let (prot, flags) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE);
        // SAFETY: the kernel chooses an address where nothing is, and the file is as long as the mapping.
        let base = unsafe { mmap(None, length, prot, flags, &file, 0)? };
        Ok(Mapping { pages: Arc::new(Pages { base: base.cast(), len: length }), file, cut: 0 })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Leaves out the next bytes.
    pub fn skip(&mut self, bytes: usize) {
        self.cut = self.cut.saturating_add(bytes);
    }

    /// The next `count` cells, each of zeros; none where so many are not left.
    pub fn cut<T: FromZeros + Sync>(&mut self, count: usize) -> Option<Slab<T>> {
        let start = self.cut.checked_next_multiple_of(align_of::<T>())?;
        let end = size_of::<T>().checked_mul(count)?.checked_add(start)?;
        if end > self.pages.len.get() {
            return None;
        }
        self.cut = end;
        // SAFETY: `start` is within the mapping.
        let first = unsafe { self.pages.base.add(start) };
        let cells = NonNull::slice_from_raw_parts(first.cast(), count);
        Some(Slab { cells, memory: Memory::Mapped { _pages: self.pages.clone() } })
    }
}

/// A fixed array of cells that many threads share.
pub struct Slab<T> {
    cells: NonNull<[T]>,
    memory: Memory,
}

enum Memory {
    /// A boxed slice, which this slab drops.
    Heap,
    /// Part of a mapped file, which is kept.
    Mapped { _pages: Arc<Pages> },
}

// SAFETY: a slab only hands out shared references to its cells and drops them, as a box does.
unsafe impl<T: Send> Send for Slab<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Slab<T> {}

impl<T: Default> Slab<T> {
    /// `count` cells on the heap.
    pub fn heap(count: usize) -> Slab<T> {
        let cells = super::huge::filled(count, T::default);
        Slab { cells: NonNull::from(Box::leak(cells)), memory: Memory::Heap }
    }
}

impl<T> Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: on the heap it is a leaked box that only `drop` takes back. In a mapping it lies within it, is aligned (a
        // page's start and `cut`), was all zeros when it was cut, which is a value of `T` (FromZeros), belongs to no other
        // slab, and changes only through the shared references handed out here, since the file is ours alone.
        unsafe { self.cells.as_ref() }
    }
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        if let Memory::Heap = self.memory {
            // SAFETY: leaked in `heap`, and nobody borrows it any more. Cells of a mapping are never dropped: they stay
            // in the file.
            drop(unsafe { Box::from_raw(self.cells.as_ptr()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    #[test]
    fn what_is_stored_in_a_slab_is_in_the_file_when_the_slab_is_gone() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("cells");
        std::fs::write(&path, b"of before").unwrap();
        let mut mapping = Mapping::fresh(&path, 8192).unwrap();
        mapping.skip(4000);
        let (odd, even) = (mapping.cut::<AtomicU32>(3).unwrap(), mapping.cut::<AtomicU64>(2).unwrap());
        assert!(odd.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
        odd[2].store(7, Ordering::Relaxed);
        even[1].store(9, Ordering::Relaxed);
        drop((mapping, odd, even));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes[4008], bytes[4016 + 8]), (8192, 7, 9), "the second part is aligned");
        assert_eq!(bytes.iter().filter(|b| **b != 0).count(), 2);
    }

    #[test]
    fn no_more_is_cut_than_there_is() {
        let tmp = tempfile::tempdir().unwrap();
        let mut mapping = Mapping::fresh(&tmp.path().join("cells"), 4096).unwrap();
        assert!(mapping.cut::<AtomicU64>(513).is_none());
        assert!(mapping.cut::<AtomicU64>(usize::MAX).is_none());
        assert!(mapping.cut::<AtomicU64>(512).is_some());
        assert!(mapping.cut::<AtomicU64>(1).is_none());
        assert!(Mapping::fresh(&tmp.path().join("none"), 0).is_err());
    }

    #[test]
    fn the_file_is_its_owners_and_all_of_it_is_reserved() {
        let tmp = tempfile::tempdir().unwrap();
        let mapping = Mapping::fresh(&tmp.path().join("cells"), 1 << 20).unwrap();
        let found = mapping.file().metadata().unwrap();
        assert_eq!((found.mode() & 0o777, found.len()), (0o600, 1 << 20));
        assert!(found.blocks() * 512 >= 1 << 20, "{} blocks", found.blocks());
    }

    #[test]
    fn cells_on_the_heap_are_dropped_with_their_slab() {
        let cell = Arc::new(());
        #[derive(Default)]
        struct Cell(std::sync::OnceLock<Arc<()>>);
        let slab = Slab::<Cell>::heap(3);
        slab[1].0.set(cell.clone()).unwrap();
        assert_eq!((slab.len(), Arc::strong_count(&cell)), (3, 2));
        drop(slab);
        assert_eq!(Arc::strong_count(&cell), 1);
    }
}
