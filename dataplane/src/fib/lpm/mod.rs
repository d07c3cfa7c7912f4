//! Longest-prefix match: which entry has the longest prefix that covers this address?
//!
//! A multibit trie, after Poptrie (Asai and Ohara, SIGCOMM 2015), for both families and for tables of one route as well as of
//! a million, in pieces that its versions share:
//!
//! ```text
//!  tops: one page, or 64 by the first six bits
//!  page: 2^6 or 2^12 words ── a value, a node, or a page nested where many entries have one beginning
//!  block: the nodes below 16 words of a page, each with 64 slots
//! ```
//!
//! A table is immutable. [`Lpm::updated`] makes the next one: of what changed only the blocks are built anew and their pages
//! copied, everything else is shared.
//!
//! Invariants: values are below 2^30; the slots of a node that lead to no node have a value each (that of the shorter
//! prefix, 0 for none); the first slot without a child begins a run. No `unsafe`.
//!
//! Bytes for a route of a table whose prefixes have lengths as in BGP: 54 for 100,000 routes of IPv4, 15 for 1,000,000 and 68 for
//! 200,000 of IPv6. What lookups and changes cost `sumun-bench routes` measures.

mod block;

use block::{Block, Builder};
use std::sync::Arc;

/// An address of one family, its highest bit first.
pub(crate) trait Address: Copy + Ord + std::hash::Hash + std::fmt::Debug {
    /// Bits of the address.
    const BITS: u8;
    /// The `width` bits from bit `at` on (`at` below [`Self::BITS`], the range within it).
    fn slice(self, at: u8, width: u8) -> usize;
    /// How many leading bits the two have in common.
    fn common(self, other: Self) -> u8;
    /// The first `len` bits, zeros behind.
    fn prefix(self, len: u8) -> Self;
    /// The same with these `width` bits from bit `at` on, which were zero.
    fn with(self, at: u8, width: u8, bits: usize) -> Self;
    /// From the engine's right-aligned number.
    fn of(number: u128) -> Self;
    /// The engine's right-aligned number.
    fn number(self) -> u128;
}

impl Address for u32 {
    const BITS: u8 = 32;

    #[inline]
    fn slice(self, at: u8, width: u8) -> usize {
        ((self << at) >> (32 - width)) as usize
    }

    fn common(self, other: u32) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn prefix(self, len: u8) -> u32 {
        if len == 0 { 0 } else { self & (u32::MAX << (32 - len)) }
    }

    fn with(self, at: u8, width: u8, bits: usize) -> u32 {
        self | (bits as u32) << (u32::BITS as u8 - at - width)
    }

    #[inline]
    fn of(number: u128) -> u32 {
        number as u32
    }

    fn number(self) -> u128 {
        self.into()
    }
}

impl Address for u128 {
    const BITS: u8 = 128;

    #[inline]
    fn slice(self, at: u8, width: u8) -> usize {
        ((self << at) >> (128 - width)) as usize
    }

    fn common(self, other: u128) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn prefix(self, len: u8) -> u128 {
        if len == 0 { 0 } else { self & (u128::MAX << (128 - len)) }
    }

    fn with(self, at: u8, width: u8, bits: usize) -> u128 {
        self | (bits as u128) << (u128::BITS as u8 - at - width)
    }

    #[inline]
    fn of(number: u128) -> u128 {
        number
    }

    fn number(self) -> u128 {
        self
    }
}

/// A prefix and its value. The order of fields is the order that [`Lpm::build`] wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry<A> {
    /// Bits behind the prefix are zero.
    pub key: A,
    /// Length of the prefix.
    pub len: u8,
    /// What a lookup finds; below 2^30; 0 is that nothing covers the prefix.
    pub value: u32,
}

/// In a word of a page: the rest is a value.
const VALUE: u32 = 1 << 31;
/// In a word of a page: the rest is the number of a nested page. Else it is where the node stands in its block.
const NESTED: u32 = 1 << 30;
/// Address bits that a node looks at.
const STRIDE: u8 = 6;
/// Address bits within a block's words.
const GROUP_BITS: u8 = 4;
/// Words whose nodes share a block.
const GROUP: usize = 1 << GROUP_BITS;
/// Entries below one word from which on they get a page of their own, and from which on that is a large one.
const NEST: (usize, usize) = (128, 1024);

/// Where the entries of a table come from when part of it is built anew.
pub(crate) trait Source<A> {
    /// Appends the entries within a prefix that are longer than it, sorted; gives the value of the longest prefix that covers
    /// it as a whole.
    fn within(&self, key: A, len: u8, entries: &mut Vec<Entry<A>>) -> u32;
}

/// Words for a range of addresses, chosen by `width` bits from bit `at` on.
#[derive(Clone, Debug)]
struct Page<A> {
    at: u8,
    width: u8,
    words: Arc<[u32]>,
    /// One for each [`GROUP`] of words.
    blocks: Arc<[Block]>,
    nested: Arc<[Nested<A>]>,
}

/// A page below a word of another.
#[derive(Clone, Debug)]
struct Nested<A> {
    /// The addresses that it is for; as long as its page's `at`.
    bits: A,
    /// What holds for other addresses that come here.
    otherwise: u32,
    page: Page<A>,
}

/// An immutable table of prefixes, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lpm<A> {
    tops: Arc<[Page<A>]>,
    /// Selects a top by the first bits of an address: 0 where there is only one.
    mask: usize,
}

impl<A: Address> Lpm<A> {
    /// Builds the table. `entries` are sorted and no prefix occurs twice.
    pub fn build(entries: &[Entry<A>]) -> Lpm<A> {
        Lpm::of_size(entries, Size::of(entries.len()))
    }

    /// The same from a source with about so many entries.
    pub fn gather(source: &impl Source<A>, count: usize) -> Lpm<A> {
        let mut entries = Vec::with_capacity(count + 1);
        let root = Entry { key: A::of(0), len: 0, value: 0 };
        entries.push(root);
        entries[0].value = source.within(root.key, 0, &mut entries);
        Lpm::of_size(&entries, Size::of(count))
    }

    fn of_size(entries: &[Entry<A>], size: Size) -> Lpm<A> {
        let mut builder = Builder::new();
        let builder = &mut builder;
        let tops: Arc<[Page<A>]> = match size {
            Size::Small => [Page::build(entries, 0, STRIDE, 0, builder)].into(),
            Size::Medium => [Page::build(entries, 0, 2 * STRIDE, 0, builder)].into(),
            Size::Large => {
                let mut slots = [Slot::Value(0); 1 << STRIDE];
                spread(entries, 0, STRIDE, 0, &mut slots);
                // Most of a family's addresses are in no table: those pages are one.
                let mut plain: Option<(u32, Page<A>)> = None;
                let mut page = |slot: &Slot<A>| match *slot {
                    Slot::Inner { entries, otherwise } => Page::build(entries, STRIDE, 2 * STRIDE, otherwise, builder),
                    Slot::Value(value) => {
                        if plain.as_ref().is_none_or(|(its, _)| *its != value) {
                            plain = Some((value, Page::build(&[], STRIDE, 2 * STRIDE, value, builder)));
                        }
                        plain.as_ref().map(|(_, page)| page.clone()).expect("just made")
                    }
                };
                slots.iter().map(&mut page).collect()
            }
        };
        let mask = tops.len() - 1;
        Lpm { tops, mask }
    }

    /// The table after the entries of these prefixes have changed. `changed` is sorted; `count` is about how many entries
    /// there are now.
    pub fn updated(&self, changed: &[(A, u8)], source: &impl Source<A>, count: usize) -> Lpm<A> {
        if !self.size().suits(count) || changed.len() > count / 4 {
            return Lpm::gather(source, count);
        }
        let mut builder = Builder::new();
        if self.mask == 0 {
            let page = self.tops[0].updated(A::of(0), changed, source, &mut builder);
            return Lpm { tops: [page].into(), mask: 0 };
        }
        let tops = self.tops.iter().enumerate().map(|(i, page)| {
            let base = A::of(0).with(0, STRIDE, i);
            let within = overlapping(changed, base, STRIDE);
            if within.is_empty() { page.clone() } else { page.updated(base, &within, source, &mut builder) }
        });
        Lpm { tops: tops.collect(), mask: self.mask }
    }

    fn size(&self) -> Size {
        match (self.mask, self.tops[0].width) {
            (0, STRIDE) => Size::Small,
            (0, _) => Size::Medium,
            _ => Size::Large,
        }
    }

    /// The value of the longest prefix that covers `key`, 0 where none does.
    #[inline]
    pub fn lookup(&self, key: A) -> u32 {
        let mut page = &self.tops[key.slice(0, STRIDE) & self.mask];
        loop {
            let slot = key.slice(page.at, page.width);
            let word = page.words[slot];
            if word & VALUE != 0 {
                return word & !VALUE;
            }
            if word & NESTED == 0 {
                return block::find(&page.blocks[slot / GROUP], word as usize, key);
            }
            let nested = &page.nested[(word & !NESTED) as usize];
            if key.prefix(nested.page.at) != nested.bits {
                return nested.otherwise;
            }
            page = &nested.page;
        }
    }

    /// Bytes of memory that the table holds, shared or not.
    pub fn bytes(&self) -> usize {
        self.tops.iter().map(Page::bytes).sum()
    }
}

/// How a table begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    /// Entries from which on a table is medium and large.
    const FROM: (usize, usize) = (64, 32768);

    fn of(count: usize) -> Size {
        match count {
            _ if count < Size::FROM.0 => Size::Small,
            _ if count < Size::FROM.1 => Size::Medium,
            _ => Size::Large,
        }
    }

    /// Whether a table that began so may go on: it does not change its size to and fro.
    fn suits(self, count: usize) -> bool {
        match self {
            Size::Small => count < Size::FROM.0,
            Size::Medium => (Size::FROM.0 / 2..Size::FROM.1).contains(&count),
            Size::Large => count >= Size::FROM.1 / 2,
        }
    }
}

/// A word of a page that is being built, and what it leads to.
enum Word<A> {
    Plain(u32),
    Nested(Nested<A>),
}

impl<A: Address> Page<A> {
    /// From entries that agree in the first `at` bits, or are shorter and cover the whole page.
    fn build(entries: &[Entry<A>], at: u8, width: u8, otherwise: u32, builder: &mut Builder<A>) -> Page<A> {
        let mut slots = vec![Slot::Value(0); 1 << width];
        spread(entries, at, width, otherwise, &mut slots);
        let (mut words, mut blocks, mut nested) = (Vec::with_capacity(slots.len()), Vec::new(), Vec::new());
        for group in slots.chunks(GROUP) {
            for slot in group {
                words.push(put(Page::word(slot, at + width, builder), &mut nested));
            }
            blocks.push(builder.take());
        }
        Page { at, width, words: words.into(), blocks: blocks.into(), nested: nested.into() }
    }

    fn word(slot: &Slot<A>, decided: u8, builder: &mut Builder<A>) -> Word<A> {
        match *slot {
            Slot::Value(value) => Word::Plain(value | VALUE),
            Slot::Inner { entries, otherwise } if entries.len() < NEST.0 => {
                Word::Plain(builder.add(entries, decided, otherwise))
            }
            Slot::Inner { entries, otherwise } => {
                let wide = if entries.len() < NEST.1 { STRIDE } else { 2 * STRIDE };
                let width = wide.min((A::BITS - decided) / STRIDE * STRIDE);
                if width == 0 {
                    return Word::Plain(builder.add(entries, decided, otherwise));
                }
                let at = block::skip(entries, A::BITS - width).max(decided);
                let bits = entries[0].key.prefix(at);
                // A builder of its own: the block around it is not finished yet.
                let page = Page::build(entries, at, width, otherwise, &mut Builder::new());
                Word::Nested(Nested { bits, otherwise, page })
            }
        }
    }

    /// The page of the addresses that begin as `base` does, after what overlaps them has changed.
    fn updated(&self, base: A, changed: &[(A, u8)], source: &impl Source<A>, builder: &mut Builder<A>) -> Page<A> {
        let (at, width) = (self.at, self.width);
        let end = at + width;
        let mut dirty = vec![false; 1 << width];
        for &(key, len) in changed {
            if len <= at {
                dirty.fill(true);
                break;
            }
            let slot = key.slice(at, width);
            let span = 1usize << end.saturating_sub(len);
            dirty[slot..slot + span].fill(true);
        }
        let mut words = Vec::with_capacity(dirty.len());
        let mut blocks = Vec::with_capacity(self.blocks.len());
        let mut nested = Vec::with_capacity(self.nested.len());
        let mut entries = Vec::new();
        for (g, group) in dirty.chunks(GROUP).enumerate() {
            let first = g * GROUP;
            let old = &self.words[first..first + GROUP];
            if !group.contains(&true) {
                words.extend(old.iter().map(|&word| put(self.kept(word), &mut nested)));
                blocks.push(self.blocks[g].clone());
                continue;
            }
            let mut slots = [Slot::Value(0); GROUP];
            if old.iter().any(|&word| word & VALUE == 0 && word & NESTED != 0) {
                for (i, &word) in old.iter().enumerate() {
                    let key = base.with(at, width, first + i);
                    let word = match self.renewed(key, word, changed, group[i], source) {
                        Some(word) => word,
                        None => {
                            entries.clear();
                            let otherwise = source.within(key, end, &mut entries);
                            let slot = match entries.is_empty() {
                                true => Slot::Value(otherwise),
                                false => Slot::Inner { entries: &entries, otherwise },
                            };
                            Page::word(&slot, end, builder)
                        }
                    };
                    words.push(put(word, &mut nested));
                }
            } else {
                let before = end - GROUP_BITS;
                entries.clear();
                let otherwise = source.within(base.with(at, width, first), before, &mut entries);
                spread(&entries, before, GROUP_BITS, otherwise, &mut slots);
                words.extend(slots.iter().map(|slot| put(Page::word(slot, end, builder), &mut nested)));
            }
            blocks.push(builder.take());
        }
        Page { at, width, words: words.into(), blocks: blocks.into(), nested: nested.into() }
    }

    /// A word that nothing has changed below.
    fn kept(&self, word: u32) -> Word<A> {
        match word & VALUE == 0 && word & NESTED != 0 {
            true => Word::Nested(self.nested[(word & !NESTED) as usize].clone()),
            false => Word::Plain(word),
        }
    }

    /// What becomes of the nested page of a slot, where it can stay or only what is in it has changed.
    fn renewed(
        &self,
        slot: A,
        word: u32,
        changed: &[(A, u8)],
        is_dirty: bool,
        source: &impl Source<A>,
    ) -> Option<Word<A>> {
        if word & VALUE != 0 || word & NESTED == 0 {
            return None;
        }
        let old = &self.nested[(word & !NESTED) as usize];
        if !is_dirty {
            return Some(Word::Nested(old.clone()));
        }
        let within = overlapping(changed, slot, self.at + self.width);
        let stays = |&(key, len): &(A, u8)| len > old.page.at && key.prefix(old.page.at) == old.bits;
        if !within.iter().all(stays) {
            return None;
        }
        let page = old.page.updated(old.bits, &within, source, &mut Builder::new());
        Some(Word::Nested(Nested { page, ..*old }))
    }

    fn bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(|block| size_of::<Block>() + size_of_val(&**block)).sum();
        let nested: usize = self.nested.iter().map(|nested| size_of::<Nested<A>>() + nested.page.bytes()).sum();
        size_of_val(&*self.words) + blocks + nested
    }
}

/// The word of a page that has these nested ones so far.
fn put<A>(word: Word<A>, nested: &mut Vec<Nested<A>>) -> u32 {
    match word {
        Word::Plain(word) => word,
        Word::Nested(page) => {
            nested.push(page);
            (nested.len() - 1) as u32 | NESTED
        }
    }
}

/// The prefixes that have addresses in common with this one.
fn overlapping<A: Address>(changed: &[(A, u8)], key: A, len: u8) -> Vec<(A, u8)> {
    // Shorter ones may stand anywhere before; there are few of those.
    let from = changed.partition_point(|&(other, _)| other < key);
    let within = changed[from..].iter().take_while(|(other, _)| other.prefix(len) == key);
    let around = changed[..from].iter().filter(|&&(other, its)| its < len && key.prefix(its) == other);
    around.chain(within).copied().collect()
}

/// What a slot holds while its node or page is being built.
#[derive(Clone, Copy)]
enum Slot<'a, A> {
    Value(u32),
    Inner { entries: &'a [Entry<A>], otherwise: u32 },
}

/// Lays entries over the slots that bits `at..at + width` choose; the entries agree in the bits before.
fn spread<'a, A: Address>(entries: &'a [Entry<A>], at: u8, width: u8, otherwise: u32, slots: &mut [Slot<'a, A>]) {
    slots.fill(Slot::Value(otherwise));
    let mut rest = entries;
    while let Some(entry) = rest.first() {
        let slot = entry.key.slice(at, width);
        if entry.len <= at + width {
            // Sorted by address and then by length, so that a longer prefix overwrites the shorter one around it.
            let span = 1usize << (at + width - entry.len).min(width);
            slots[slot..slot + span].fill(Slot::Value(entry.value));
            rest = &rest[1..];
        } else {
            let n = rest.partition_point(|e| e.key.slice(at, width) == slot);
            let (inside, after) = rest.split_at(n);
            let otherwise = match slots[slot] {
                Slot::Value(value) => value,
                Slot::Inner { otherwise, .. } => otherwise,
            };
            slots[slot] = Slot::Inner { entries: inside, otherwise };
            rest = after;
        }
    }
}
