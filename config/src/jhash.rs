//! The kernel's hash of words: Bob Jenkins' lookup3, as `jhash2`, `jhash_1word` and `jhash_3words` compute it.
//!
//! Not for secrets. Where the kernel hashes words as they stand in memory in network order, they are given so here too
//! (`u32::swap_bytes` on a little-endian machine).

/// The hash of some words.
#[inline]
pub fn jhash(words: &[u32], start: u32) -> u32 {
    let first = 0xdead_beef_u32.wrapping_add((words.len() as u32) << 2).wrapping_add(start);
    let [mut a, mut b, mut c] = [first; 3];
    let add = |to: &mut u32, word: Option<&u32>| *to = to.wrapping_add(word.copied().unwrap_or(0));
    let step = |from: u32, by: u32, turn: u32| from.wrapping_sub(by) ^ by.rotate_left(turn);
    let mut rest = words;
    loop {
        add(&mut a, rest.first());
        add(&mut b, rest.get(1));
        add(&mut c, rest.get(2));
        if rest.len() <= 3 {
            break;
        }
        rest = &rest[3..];
        a = step(a, c, 4);
        c = c.wrapping_add(b);
        b = step(b, a, 6);
        a = a.wrapping_add(c);
        c = step(c, b, 8);
        b = b.wrapping_add(a);
        a = step(a, c, 16);
        c = c.wrapping_add(b);
        b = step(b, a, 19);
        a = a.wrapping_add(c);
        c = step(c, b, 4);
        b = b.wrapping_add(a);
    }
    if words.is_empty() {
        return c;
    }
    let last = |to: u32, by: u32, turn: u32| (to ^ by).wrapping_sub(by.rotate_left(turn));
    c = last(c, b, 14);
    a = last(a, c, 11);
    b = last(b, a, 25);
    c = last(c, b, 16);
    a = last(a, c, 4);
    b = last(b, a, 14);
    last(c, b, 24)
}
