//! Longest-prefix match: which entry has the longest prefix that covers this address?
//!
//! A multibit trie with one array at its root and compressed nodes of 64 slots below, after Poptrie (Asai and Ohara,
//! SIGCOMM 2015), for both families and for tables of one route as well as of a million:
//!
//! ```text
//!  root: 2^6, 2^12 or 2^18 words, by the table's size ── a value, or a node
//!  node: inner  (bit set: this slot leads to a node)        ── number of ones up to the slot = which child
//!        starts (bit set: a run of equal values begins)     ── number of ones up to the slot = which value
//! ```
//!
//! The children of a node stand in a row, and so do its values, hence two bit maps and two offsets say all: 32 bytes for 64
//! slots. Long chains without a branch, as the `/128` of an own address inside a `/64` would make, are cut short: a node
//! may begin further down and then names the bits between, which a lookup compares at once.
//!
//! Invariants: values are below 2^31; the slots of a node that lead to no node have a value each (that of the shorter
//! prefix, 0 for none); the first slot without a child begins a run. Built as a whole, immutable after, no `unsafe`.
//!
//! Measured: `Fib::lookup` with the default rules, release build for plain x86-64 (ones are counted without `popcnt`). A figure
//! of a run is the median of nine passes of 2^20 lookups, reading the address from an array included: random destinations
//! within the prefixes, whose lengths are as in a BGP table, and 256 destinations over and over ("hot"). Two cores of an EPYC at
//! 2.6 GHz, shared with compilers at a load of 3 to 7, hence the least and the most of five runs (three for the last row): upper
//! bounds, to be measured again on a quiet machine. "Build" is all of `Fib::build`.
//!
//! | routes | random, ns | hot, ns | build, ms | bytes a route |
//! |---|---|---|---|---|
//! | IPv4, 1,000 | 16-36 | 12-25 | 0.4-0.6 | 72 |
//! | IPv4, 100,000 | 29-117 | 14-29 | 31-74 | 49 |
//! | IPv4, 1,000,000 | 89-262 | 14-25 | 217-428 | 15 |
//! | IPv6, 1,000 | 28-59 | 27-59 | 0.3-0.4 | 99 |
//! | IPv6, 200,000 | 192-692 | 41-107 | 63-163 | 69 |
//! | IPv6, 1,000,000 | 401-908 | 45-89 | 381-746 | 53 |

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
    /// From the engine's right-aligned number.
    fn of(number: u128) -> Self;
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

    #[inline]
    fn of(number: u128) -> u32 {
        number as u32
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

    #[inline]
    fn of(number: u128) -> u128 {
        number
    }
}

/// A prefix and its value. The order of fields is the order that [`Lpm::build`] wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry<A> {
    /// Bits behind the prefix are zero.
    pub key: A,
    /// Length of the prefix.
    pub len: u8,
    /// What a lookup finds; not 0, below 2^31.
    pub value: u32,
}

/// In a word of the root: the rest is a value, not a node.
const VALUE: u32 = 1 << 31;
/// Address bits that a node looks at.
const STRIDE: u8 = 6;

/// 64 slots of the trie, and where among the address bits they are chosen.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    inner: u64,
    starts: u64,
    children: u32,
    values: u32,
    /// Which of the paths leads here, 0 for none.
    path: u32,
    at: u8,
}

/// The bits between a node and the one above it, where those are not adjacent.
#[derive(Clone, Copy, Debug)]
struct Path<A> {
    bits: A,
    len: u8,
    /// What holds for addresses that leave the path.
    otherwise: u32,
}

/// An immutable table of prefixes.
#[derive(Debug)]
pub(crate) struct Lpm<A> {
    root: Vec<u32>,
    root_bits: u8,
    nodes: Vec<Node>,
    values: Vec<u32>,
    paths: Vec<Path<A>>,
}

impl<A: Address> Lpm<A> {
    /// Builds the table. `entries` are sorted and no prefix occurs twice.
    pub fn build(entries: &[Entry<A>]) -> Lpm<A> {
        let root_bits = match entries.len() {
            0..64 => STRIDE,
            64..32768 => 2 * STRIDE,
            _ => 3 * STRIDE,
        };
        let mut lpm = Lpm {
            root: Vec::with_capacity(1 << root_bits),
            root_bits,
            nodes: Vec::new(),
            values: Vec::new(),
            paths: vec![Path { bits: A::of(0), len: 0, otherwise: 0 }],
        };
        let mut slots = vec![Slot::Value(0); 1 << root_bits];
        spread(entries, 0, root_bits, 0, &mut slots);
        for slot in slots {
            let word = match slot {
                Slot::Value(value) => value | VALUE,
                Slot::Inner { entries, otherwise } => {
                    let node = lpm.nodes.len();
                    lpm.nodes.push(Node::default());
                    lpm.place(node, entries, root_bits, otherwise);
                    node as u32
                }
            };
            lpm.root.push(word);
        }
        lpm.nodes.shrink_to_fit();
        lpm.values.shrink_to_fit();
        lpm
    }

    /// Fills node `index` from entries that agree in the first `decided` bits and are longer than that.
    fn place(&mut self, index: usize, entries: &[Entry<A>], decided: u8, otherwise: u32) {
        let mut at = decided;
        let mut path = 0;
        let first = entries[0].key;
        let agreed = first.common(entries[entries.len() - 1].key).min(A::BITS - STRIDE);
        if agreed >= decided + STRIDE {
            let shortest = entries.iter().map(|e| e.len).min().unwrap_or(0);
            let target = agreed.min(shortest);
            if target >= decided + STRIDE {
                at = target;
                path = self.paths.len() as u32;
                self.paths.push(Path { bits: first.prefix(at), len: at, otherwise });
            }
        }
        // The last node of an address looks at bits that its parent has looked at: they are the same in all its entries.
        let at = at.min(A::BITS - STRIDE);
        let mut slots = [const { Slot::Value(0) }; 1 << STRIDE];
        spread(entries, at, STRIDE, otherwise, &mut slots);

        let mut node = Node { path, at, values: self.values.len() as u32, ..Node::default() };
        let mut last = None;
        for (i, slot) in slots.iter().enumerate() {
            match *slot {
                Slot::Inner { .. } => node.inner |= 1 << i,
                Slot::Value(value) if last != Some(value) => {
                    node.starts |= 1 << i;
                    self.values.push(value);
                    last = Some(value);
                }
                Slot::Value(_) => {}
            }
        }
        let children = self.nodes.len();
        node.children = children as u32;
        self.nodes[index] = node;
        self.nodes.resize(children + node.inner.count_ones() as usize, Node::default());
        let mut child = children;
        for slot in &slots {
            if let Slot::Inner { entries, otherwise } = *slot {
                self.place(child, entries, at + STRIDE, otherwise);
                child += 1;
            }
        }
    }

    /// The value of the longest prefix that covers `key`, 0 where none does.
    #[inline]
    pub fn lookup(&self, key: A) -> u32 {
        let word = self.root[key.slice(0, self.root_bits)];
        if word & VALUE != 0 {
            return word & !VALUE;
        }
        let mut node = &self.nodes[word as usize];
        loop {
            if node.path != 0 {
                let path = &self.paths[node.path as usize];
                if key.prefix(path.len) != path.bits {
                    return path.otherwise;
                }
            }
            let bit = 1u64 << key.slice(node.at, STRIDE);
            let up_to = bit | (bit - 1);
            if node.inner & bit == 0 {
                let run = (node.starts & up_to).count_ones() - 1;
                return self.values[(node.values + run) as usize];
            }
            let child = (node.inner & up_to).count_ones() - 1;
            node = &self.nodes[(node.children + child) as usize];
        }
    }

    /// Bytes of memory that the table holds.
    pub fn bytes(&self) -> usize {
        self.root.capacity() * size_of::<u32>()
            + self.nodes.capacity() * size_of::<Node>()
            + self.values.capacity() * size_of::<u32>()
            + self.paths.capacity() * size_of::<Path<A>>()
    }
}

/// What a slot holds while its node is being built.
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
