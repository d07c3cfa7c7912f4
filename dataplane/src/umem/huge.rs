//! Large arrays in large pages: a random access to one of 4 kB costs a walk through page tables beside the miss itself.
//!
//! The kernel is asked for transparent huge pages (madvise(2)), which `/sys/kernel/mm/transparent_hugepage/enabled` allows unless
//! it says `never`. Without them all is the same and slower.

use nix::sys::mman::{MmapAdvise, madvise};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
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

/// An array of zeros. Pages that nobody touches cost nothing; none where there is no memory for it.
pub fn zeroed<T: FromZeros>(count: usize) -> Option<Box<[T]>> {
    let cells = T::new_vec_zeroed(count).ok()?.into_boxed_slice();
    // SAFETY: what is initialised may be looked at as if it were not.
    advise(unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<MaybeUninit<T>>(), cells.len()) });
    Some(cells)
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
            let zeros = zeroed::<u64>(count).expect("memory");
            assert!(zeros.len() == count && zeros.iter().all(|cell| *cell == 0));
        }
    }
}
