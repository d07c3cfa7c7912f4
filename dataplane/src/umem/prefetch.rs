//! Loading memory ahead of its use, so that the misses of a burst overlap.

/// Asks for the cache line at the start of a value. Does nothing that can be seen, and nothing at all on processors that
/// are not known here.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    let at = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: a prefetch neither reads nor writes as far as a program can tell, and never faults.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast::<i8>());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
