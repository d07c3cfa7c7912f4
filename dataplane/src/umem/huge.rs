//! Large arrays in large pages: a random access to one of 4 kB costs a walk through page tables beside the miss itself.
//!
//! The kernel is asked for transparent huge pages (madvise(2)), which `/sys/kernel/mm/transparent_hugepage/enabled` allows unless
//! it says `never`. Without them all is the same and slower.

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use zerocopy::FromZeros;

/// Bytes of a large page of most processors.
const PAGE: usize = 2 << 20;

/// Asks for large pages where an array spans some. To be called before it is first touched.
fn advise<T>(cells: &[MaybeUninit<T>]) {
    let start = cells.as_ptr().addr().next_multiple_of(PAGE);
    let end = (cells.as_ptr().addr() + size_of_val(cells)) / PAGE * PAGE;
    if start >= end {
        return;
    }
    let offset = start - cells.as_ptr().addr();
    // SAFETY: within the array, which is borrowed here.
    let from = unsafe { cells.as_ptr().cast::<u8>().add(offset) };
    if let Some(from) = NonNull::new(from.cast_mut()) {
        // SAFETY: the advice changes which pages back the range, and nothing that is in it. Where the kernel has none it refuses.
        let _ = unsafe { madvise(from.cast(), end - start, MmapAdvise::MADV_HUGEPAGE) };
    }
}

/// An array of so many, each made by `make`.
pub fn filled<T>(count: usize, make: impl FnMut() -> T) -> Box<[T]> {
    let mut cells = Vec::with_capacity(count);
    advise(cells.spare_capacity_mut());
    cells.extend(std::iter::repeat_with(make).take(count));
    cells.into_boxed_slice()
}

/// An array that begins as zeros. Pages cost nothing until they are touched, or [taken](Zeros::reserve).
pub struct Zeros<T> {
    cells: NonNull<[T]>,
    /// What is mapped for it: none for an empty one.
    pages: Option<Arc<Pages>>,
}

/// A mapping of its own.
struct Pages {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: it is a range of addresses, which nobody reads or writes but through an array.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `Zeros::new` with this length, and no array is left in it. An error cannot be answered: the range
        // then stays mapped until the process ends.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}

/// The pages of an array, to be taken at a time when nobody waits: a large one takes the kernel a tenth of a millisecond, and
/// milliseconds where the machine is a virtual one that has to be given memory first.
pub struct Reservation(Arc<Pages>);

impl Reservation {
    /// Takes all of them. Kernels before 5.14 refuse, and those that have no memory left: then pages are taken when they are
    /// touched.
    pub fn run(self) {
        // SAFETY: all of a mapping that is kept here; the advice changes nothing that is in it.
        let _ = unsafe { madvise(self.0.base, self.0.len.get(), MmapAdvise::MADV_POPULATE_WRITE) };
    }
}

// SAFETY: it owns its cells, as a box does.
unsafe impl<T: Send> Send for Zeros<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeros<T> {}

impl<T: FromZeros + Copy> Zeros<T> {
    /// An array of so many; none where there is no memory for it.
    pub fn new(count: usize) -> Option<Zeros<T>> {
        let bytes = count.checked_mul(size_of::<T>())?;
        if bytes == 0 {
            return Some(Zeros { cells: NonNull::slice_from_raw_parts(NonNull::dangling(), count), pages: None });
        }
        // With room to begin where a large page does.
        let len = NonZeroUsize::new(bytes.checked_add(PAGE)?)?;
        let (prot, flags) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
        // SAFETY: the kernel chooses an address where nothing is.
        let base = unsafe { mmap_anonymous(None, len, prot, flags).ok()? };
        let offset = base.addr().get().next_multiple_of(PAGE) - base.addr().get();
        // SAFETY: less than a large page from the start of the mapping, which is longer than that.
        let start = unsafe { base.cast::<u8>().add(offset) };
        // SAFETY: within the mapping; the advice changes which pages back it, and nothing that is in it.
        let _ = unsafe { madvise(start.cast(), bytes, MmapAdvise::MADV_HUGEPAGE) };
        let pages = Some(Arc::new(Pages { base, len }));
        Some(Zeros { cells: NonNull::slice_from_raw_parts(start.cast(), count), pages })
    }
}

impl<T> Zeros<T> {
    /// What is to be done for its pages to be there before they are touched.
    pub fn reserve(&self) -> Option<Reservation> {
        self.pages.clone().map(Reservation)
    }
}

impl<T> Deref for Zeros<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: within the mapping, aligned to a large page, and zeros are a value of `T` (FromZeros); what was written since
        // was written as `T`.
        unsafe { self.cells.as_ref() }
    }
}

impl<T> DerefMut for Zeros<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and borrowed exclusively.
        unsafe { self.cells.as_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_any_size_hold_what_was_made() {
        for count in [0, 1, 1000, 3 * PAGE / 8] {
            let mut next = 0u64;
            let made = filled(count, || {
                next += 1;
                next
            });
            assert_eq!(
                (made.len(), made.first().copied(), made.last().copied()),
                (count, (count > 0).then_some(1), (count > 0).then_some(count as u64))
            );
            let mut zeros = Zeros::<u64>::new(count).expect("memory");
            assert!(zeros.len() == count && zeros.iter().all(|cell| *cell == 0));
            zeros.fill(7);
            assert!(zeros.iter().all(|cell| *cell == 7));
        }
    }

    #[test]
    fn zeros_that_nobody_touches_take_no_memory() {
        const BYTES: usize = 1 << 30;
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("it is always there");
            statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
        };
        let before = resident();
        let zeros = Zeros::<[u64; 8]>::new(BYTES / 64).expect("memory");
        assert_eq!(zeros.last(), Some(&[0; 8]));
        assert!(resident() < before + BYTES / 4, "{} and then {}", before, resident());
        let few = Zeros::<u64>::new(1 << 10).expect("memory");
        let reservation = few.reserve().expect("it is not empty");
        drop(few);
        reservation.run();
    }
}
