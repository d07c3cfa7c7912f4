//! Arrays that may outlive the process: on the heap, or in a file that is mapped into memory.
//!
//! A [`Slab`] is a fixed array of cells that all threads share; its cells are atomics, so it is only ever borrowed shared.
//! [`Mapping::fresh`] makes a file of zeros, reserves all of its memory and maps it; [`Mapping::cut`] deals it out, one
//! part after the other, none twice. What is stored in such a slab is in the file at that moment, whatever becomes of the process.
//!
//! All memory is reserved beforehand: a hole in a file on a full tmpfs would be a SIGBUS on the data path. On a tmpfs that is
//! mounted with `huge=advise` (or `always`, or `within_size`) it is in large pages ([`super::huge`] says why). The kernel asks the
//! mapping for that when a page is first touched, so there the pages are touched before the rest is reserved; on a disk that
//! would write them all.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
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

impl Pages {
    /// Maps all of a file that is so long.
    fn map(file: &File, len: NonZeroUsize, how: MapFlags) -> io::Result<Pages> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses an address where nothing is, and the file is as long as the mapping.
        let base = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED | how, file, 0)? };
        Ok(Pages { base: base.cast(), len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `Pages::map` with this length; every slab in it holds an `Arc` of it, so none is left.
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
        let reserve = || fallocate(&file, FallocateFlags::empty(), 0, len as i64);
        let pages = if fstatfs(&file)?.filesystem_type() == TMPFS_MAGIC {
            file.set_len(len as u64)?;
            let pages = Pages::map(&file, length, MapFlags::empty())?;
            for advice in [MmapAdvise::MADV_HUGEPAGE, MmapAdvise::MADV_POPULATE_WRITE] {
                // SAFETY: the mapping is all of it, and neither advice changes what is in it. Where the kernel has no large pages,
                // is older than 5.14 or has no memory left, it refuses; what is missing is reserved below, or is an error there.
                let _ = unsafe { madvise(pages.base.cast(), len, advice) };
            }
            reserve()?;
            pages
        } else {
            reserve()?;
            Pages::map(&file, length, MapFlags::MAP_POPULATE)?
        };
        Ok(Mapping { pages: Arc::new(pages), file, cut: 0 })
    }

    /// Bytes of it that are in large pages.
    pub fn large(&self) -> io::Result<usize> {
        let maps = std::fs::read_to_string("/proc/self/smaps")?;
        Ok(large(&maps, self.pages.base.as_ptr().addr()))
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

/// Bytes in large pages of the mapping that begins at `base`, by what `/proc/self/smaps` says.
fn large(maps: &str, base: usize) -> usize {
    let start = format!("{base:08x}-");
    let own = maps.lines().skip_while(|line| !line.starts_with(&start));
    // Up to the last line of its entry.
    let own = own.take_while(|line| !line.starts_with("VmFlags:"));
    let in_large =
        own.filter_map(|line| line.strip_prefix("ShmemPmdMapped:")?.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    in_large.sum::<usize>() << 10
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
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
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

    /// A directory on a tmpfs of its own, mounted with these options in a mount namespace of this thread.
    fn on_tmpfs(options: &str) -> tempfile::TempDir {
        assert!(nix::unistd::Uid::effective().is_root(), "this test mounts: run it as root");
        let tmp = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), tmp.path(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        tmp
    }

    #[test]
    fn a_file_on_a_tmpfs_is_in_large_pages_where_that_is_mounted_so() {
        let large = |options: &'static str| {
            let there = move || {
                let tmp = on_tmpfs(options);
                let mut mapping = Mapping::fresh(&tmp.path().join("cells"), (4 << 20) + 65536).unwrap();
                let large = mapping.large().unwrap();
                let cells = mapping.cut::<AtomicU64>((4 << 20) / 8).unwrap();
                assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
                let blocks = mapping.file().metadata().unwrap().blocks();
                assert!(blocks * 512 >= (4 << 20) + 65536, "{blocks} blocks are reserved");
                large
            };
            std::thread::spawn(there).join().unwrap()
        };
        assert_eq!(large("huge=never"), 0);
        assert_eq!(large("huge=advise"), 4 << 20);
    }

    #[test]
    fn a_file_that_does_not_fit_on_a_tmpfs_is_refused() {
        let refused = || {
            let tmp = on_tmpfs("size=1m,huge=advise");
            let error = Mapping::fresh(&tmp.path().join("cells"), 8 << 20).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        };
        std::thread::spawn(refused).join().unwrap();
    }

    #[test]
    fn large_pages_are_read_of_ones_own_mapping() {
        let maps = "7f00-8f00 rw-s\nShmemPmdMapped:   2048 kB\nVmFlags: rd\n\
                    00abc000-00def000 rw-s\nRss: 9 kB\nShmemPmdMapped:   4096 kB\nVmFlags: rd\n\
                    ffff0000-ffff1000 rw-s\nShmemPmdMapped:   6144 kB\nVmFlags: rd\n";
        assert_eq!(super::large(maps, 0xabc000), 4096 << 10);
        assert_eq!(super::large(maps, 0xabd000), 0);
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
