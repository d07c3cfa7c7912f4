//! A block: the nodes below a few words of a page, with their values and paths, in one piece of memory.
//!
//! ```text
//!  nodes: four words each ── paths: three words each ── values: two in a word
//! ```
//!
//! A node says by bit maps which of its 64 slots lead to a child and where a run of equal values begins; its children stand
//! in a row, and so do its values, hence the number of ones up to a slot is the number of its child or value. Long chains
//! without a branch, as the `/128` of an own address inside a `/64` would make, are cut short: a node may begin further down
//! and then names the bits between, which a lookup compares at once.

use super::{Address, Entry, STRIDE, Slot, spread};
use std::sync::Arc;

/// Nodes, paths and values, packed.
pub(super) type Block = Arc<[u64]>;

/// Words of a node: the slots that lead to a child, the slots where a run begins, where children and values are, where the
/// path is (0 for none) and at which bit of the address the slots are chosen.
const NODE: usize = 4;
/// Words of a path: its bits, its length and what holds for addresses that leave it.
const PATH: usize = 3;

/// A node while its block is being built.
#[derive(Clone, Copy, Default)]
struct Node {
    inner: u64,
    starts: u64,
    children: usize,
    values: usize,
    /// Which of the paths leads here, counted from 1; 0 for none.
    path: usize,
    at: u8,
}

/// The bits between a node and the one above it, where those are not adjacent.
#[derive(Clone, Copy)]
struct Path<A> {
    bits: A,
    len: u8,
    otherwise: u32,
}

/// Builds blocks one after the other, without new memory for each.
pub(super) struct Builder<A> {
    nodes: Vec<Node>,
    values: Vec<u32>,
    paths: Vec<Path<A>>,
    words: Vec<u64>,
    /// What most blocks of a small table are.
    empty: Block,
}

impl<A: Address> Builder<A> {
    pub fn new() -> Builder<A> {
        Builder { nodes: Vec::new(), values: Vec::new(), paths: Vec::new(), words: Vec::new(), empty: Arc::new([]) }
    }

    /// Adds a node and all below it, from entries that agree in the first `decided` bits and are longer than that. What a
    /// page's word says to find it.
    pub fn add(&mut self, entries: &[Entry<A>], decided: u8, otherwise: u32) -> u32 {
        let node = self.nodes.len();
        self.nodes.push(Node::default());
        self.place(node, entries, decided, otherwise);
        (node * NODE) as u32
    }

    fn place(&mut self, index: usize, entries: &[Entry<A>], decided: u8, otherwise: u32) {
        let mut at = decided;
        let mut path = 0;
        let target = skip(entries, A::BITS - STRIDE);
        if target >= decided + STRIDE {
            at = target;
            self.paths.push(Path { bits: entries[0].key.prefix(at), len: at, otherwise });
            path = self.paths.len();
        }
        // The last node of an address looks at bits that its parent has looked at: they are the same in all its entries.
        let at = at.min(A::BITS - STRIDE);
        let mut slots = [const { Slot::Value(0) }; 1 << STRIDE];
        spread(entries, at, STRIDE, otherwise, &mut slots);

        let mut node = Node { path, at, values: self.values.len(), ..Node::default() };
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
        node.children = self.nodes.len();
        self.nodes[index] = node;
        self.nodes.resize(node.children + node.inner.count_ones() as usize, Node::default());
        let mut child = node.children;
        for slot in &slots {
            if let Slot::Inner { entries, otherwise } = *slot {
                self.place(child, entries, at + STRIDE, otherwise);
                child += 1;
            }
        }
    }

    /// Packs what was added.
    pub fn take(&mut self) -> Block {
        if self.nodes.is_empty() {
            return self.empty.clone();
        }
        let paths = self.nodes.len() * NODE;
        let values = paths + self.paths.len() * PATH;
        let both = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        self.words.clear();
        for node in &self.nodes {
            let path = if node.path == 0 { 0 } else { paths + (node.path - 1) * PATH };
            let (children, values) = (node.children * NODE, values * 2 + node.values);
            self.words.extend([node.inner, node.starts, both(children, values), both(path, node.at.into())]);
        }
        for path in &self.paths {
            let bits = path.bits.number();
            let word = both(path.len.into(), path.otherwise as usize);
            self.words.extend([bits as u64, (bits >> 64) as u64, word]);
        }
        for pair in self.values.chunks(2) {
            self.words.push(both(pair[0] as usize, pair.get(1).map_or(0, |&value| value as usize)));
        }
        self.nodes.clear();
        self.paths.clear();
        self.values.clear();
        Arc::from(&*self.words)
    }
}

/// How many bits can be passed over because all entries agree in them and none ends within; at most `most`.
pub(super) fn skip<A: Address>(entries: &[Entry<A>], most: u8) -> u8 {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return 0 };
    let agreed = first.key.common(last.key).min(most);
    match agreed {
        0 => 0,
        agreed => entries.iter().map(|entry| entry.len).min().unwrap_or(0).min(agreed),
    }
}

/// The value that node `at` of a block and those below it give for an address.
#[inline]
pub(super) fn find<A: Address>(block: &[u64], mut at: usize, key: A) -> u32 {
    loop {
        let &[inner, starts, links, rest] = block[at..].first_chunk::<NODE>().expect("nodes are whole");
        let path = rest as u32 as usize;
        if path != 0 {
            let &[low, high, end] = block[path..].first_chunk::<PATH>().expect("paths are whole");
            if key.prefix(end as u8) != A::of((high as u128) << 64 | low as u128) {
                return (end >> 32) as u32;
            }
        }
        let bit = 1u64 << key.slice((rest >> 32) as u8, STRIDE);
        let up_to = bit | (bit - 1);
        if inner & bit == 0 {
            let value = (links >> 32) as usize + (starts & up_to).count_ones() as usize - 1;
            return (block[value / 2] >> (value % 2 * 32)) as u32;
        }
        at = links as u32 as usize + ((inner & up_to).count_ones() as usize - 1) * NODE;
    }
}
