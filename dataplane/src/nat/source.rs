//! Which flows have a source mapping, by their source before it: the kernel's `nf_nat_bysource`.
//!
//! A host that opens a second flow from the same address and port gets the same mapping again where it fits
//! (`find_appropriate_src`), which is what applications behind NAT rely on. Only flows whose source was really changed are
//! kept. Lists are short, hang off heads by a keyed hash, are linked through the entries' cold parts and are walked under a
//! spin flag, where there are several workers; only first packets come here. Who comes brings the hash of the source
//! ([`Hasher::hash_source`](crate::conntrack::tuple::Hasher::hash_source)).

use crate::conntrack::{Conntrack, Flag, Held, Life, NONE, Tuple};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::umem::huge::filled;
use crate::umem::prefetch::prefetch;
use sumun_config::facts::Dir;

const FLAGS: usize = 256;
/// Most mappings that a list remembers. One source has more only where it talks to very many at once, and then any will do;
/// a longer list would be walked with its flag held whenever one of them ends.
const WALK: usize = 128;

/// Lists of entries by source.
pub(crate) struct Sources {
    heads: Box<[AtomicU32]>,
    /// None where there is one worker.
    flags: Box<[Flag]>,
}

impl Sources {
    /// Lists for this many flows and workers.
    pub fn new(flows: usize, workers: usize) -> Sources {
        Sources {
            heads: filled(Sources::size(flows), || AtomicU32::new(NONE)),
            flags: (0..Sources::flags(workers)).map(|_| Flag::default()).collect(),
        }
    }

    fn size(flows: usize) -> usize {
        // Twice as many as flows: most new ones find an empty list.
        flows.saturating_mul(2).next_power_of_two().clamp(64, 1 << 22)
    }

    fn flags(workers: usize) -> usize {
        if workers == 1 { 0 } else { FLAGS }
    }

    /// Bytes that lists for this many flows and workers take.
    pub fn memory(flows: usize, workers: usize) -> usize {
        Sources::size(flows) * size_of::<AtomicU32>() + Sources::flags(workers) * size_of::<Flag>()
    }

    #[inline]
    fn head(&self, hash: u64) -> &AtomicU32 {
        &self.heads[hash as usize & (self.heads.len() - 1)]
    }

    /// Holds the list of a source until the guard is dropped.
    #[inline]
    fn hold(&self, hash: u64) -> Option<Held<'_>> {
        self.flags.get(hash as usize % FLAGS).map(Flag::hold)
    }

    /// Asks for the head of the list of a source.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.head(hash));
    }

    /// Asks for the first flow in the list of a source, once its head is there.
    #[inline]
    pub fn prefetch_first(&self, table: &Conntrack, hash: u64) {
        let first = self.head(hash).load(Ordering::Relaxed);
        if first != NONE {
            table.entry(first).prefetch_ends();
            prefetch(table.cold(first));
        }
    }

    /// Adds a flow that is about to be live, unless the list is full.
    pub fn insert(&self, table: &Conntrack, id: u32, hash: u64) {
        let head = self.head(hash);
        let _held = self.hold(hash);
        if self.walk(table, head).count() == WALK {
            return;
        }
        table.cold(id).source_next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(id, Ordering::Relaxed);
    }

    /// Takes a flow out, where it is in.
    pub fn remove(&self, table: &Conntrack, id: u32) {
        let hash = table.hasher.hash_source(&table.entry(id).tuple(Dir::Original));
        let _held = self.hold(hash);
        let mut link = self.head(hash);
        loop {
            let at = link.load(Ordering::Relaxed);
            if at == NONE {
                return;
            }
            let next = &table.cold(at).source_next;
            if at == id {
                link.store(next.load(Ordering::Relaxed), Ordering::Relaxed);
                return;
            }
            link = next;
        }
    }

    /// What the source of `tuple` was mapped to in another flow, for which `fits` says yes.
    pub fn find(
        &self,
        table: &Conntrack,
        tuple: &Tuple,
        hash: u64,
        fits: impl Fn(u128, u16) -> bool,
    ) -> Option<(u128, u16)> {
        let head = self.head(hash);
        if head.load(Ordering::Relaxed) == NONE {
            return None;
        }
        let _held = self.hold(hash);
        for at in self.walk(table, head) {
            let entry = table.entry(at);
            let source = entry.tuple(Dir::Original);
            let same = (source.src, source.sport, source.proto, source.family, source.zone)
                == (tuple.src, tuple.sport, tuple.proto, tuple.family, tuple.zone);
            if same && entry.word().life() == Life::Live {
                let mapped = entry.tuple(Dir::Reply).inverted()?;
                if fits(mapped.src, mapped.sport) {
                    return Some((mapped.src, mapped.sport));
                }
            }
        }
        None
    }

    /// The flows of a list, whose flag is held.
    fn walk(&self, table: &Conntrack, head: &AtomicU32) -> impl Iterator<Item = u32> {
        let flow = |link: &AtomicU32| Some(link.load(Ordering::Relaxed)).filter(|id| *id != NONE);
        std::iter::successors(flow(head), move |id| flow(&table.cold(*id).source_next)).take(WALK)
    }

    /// Whether no flow is in any list.
    #[cfg(test)]
    pub fn is_clean(&self) -> bool {
        self.heads.iter().all(|head| head.load(Ordering::Relaxed) == NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::facts::{Family, proto};

    #[test]
    fn a_source_with_very_many_mappings_keeps_a_short_list_and_all_leave_it() {
        let table = Conntrack::new(1000, 1, 7);
        let to = |dst| Tuple { src: 1, dst, sport: 5, dport: 6, proto: proto::UDP, family: Family::V4, zone: 0 };
        for id in 0..1000 {
            let original = to(id.into());
            table.entry(id).start(&original, &original.inverted().expect("it has ports"));
            table.sources.insert(&table, id, table.hasher.hash_source(&original));
        }
        let head = table.sources.head(table.hasher.hash_source(&to(0)));
        let flow = |link: &AtomicU32| Some(link.load(Ordering::Relaxed)).filter(|id| *id != NONE);
        let linked = std::iter::successors(flow(head), |id| flow(&table.cold(*id).source_next));
        assert_eq!(linked.count(), WALK);
        (0..1000).for_each(|id| table.sources.remove(&table, id));
        assert!(table.sources.is_clean());
    }
}
