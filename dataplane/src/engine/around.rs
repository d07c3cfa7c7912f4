//! What rules may ask of the router around them: address types, path MTUs, own addresses, chance.

use super::Engine;
use super::packet::Packet;
use super::running::Running;
use crate::conntrack::{Ct, Flow, Tuple};
use crate::fib::{Key, Route};
use crate::log::LogEvent;
use std::cell::Cell;
use std::fmt;
use sumun_config::facts::{
    AddrType, ConnectionKey, Context, Dir, Ends, Facts, Family, FlowFacts, PortId, Socket, Surroundings, WayBack,
};
use sumun_config::helper::Helper;
use sumun_config::rule::matches::nfacct::Standing;
use sumun_config::rule::matches::osf::Fingerprint;
use sumun_config::rule::matches::rateest::Rate;
use sumun_config::rule::matches::recent::{Ask, Sighting};
use sumun_config::set::SkbInfo;
use sumun_config::set::ask::{Asked, Change, Named};

/// The router as one packet's rules see it.
pub(super) struct Around<'a> {
    engine: &'a Engine,
    g: &'a Running,
    p: &'a Packet,
}

impl Engine {
    /// The surroundings of a packet that is judged by this generation.
    #[inline]
    pub(super) fn around<'a>(&'a self, g: &'a Running, p: &'a Packet) -> Around<'a> {
        Around { engine: self, g, p }
    }

    /// What conditions and targets get beside the facts.
    #[inline]
    pub(super) fn context<'a>(&'a self, around: &'a Around<'a>, p: &'a Packet) -> Context<'a> {
        Context { l3: p.l3(), now: self.now, wall: self.wall(), around, cells: &self.router.cells }
    }
}

impl Surroundings for Around<'_> {
    fn addr_type(&self, family: Family, addr: u128, port: PortId) -> AddrType {
        self.g.fib.addr_type(family, addr, port)
    }

    fn random(&self) -> u32 {
        self.engine.rng.next()
    }

    fn path_mtu(&self, facts: &Facts, reply: bool) -> u16 {
        let Facts { family, src, dst, iif, mark, tos, .. } = *facts;
        let key = match reply {
            false => Key { family, src, dst, iif, mark, tos, hash: 0 },
            // Of the way back the kernel asks for the address alone (`tcpmss_reverse_mtu`).
            true => Key { family, src: 0, dst: src, iif: PortId::NONE, mark: 0, tos: 0, hash: 0 },
        };
        match self.g.fib.lookup(&key) {
            Route::Via { port, mtu, .. } => {
                port.index().and_then(|i| self.engine.router.links.get(i)).map_or(mtu, |l| mtu.min(l.mtu))
            }
            _ => u16::MAX,
        }
    }

    fn port_address(&self, port: PortId, family: Family, towards: u128) -> Option<u128> {
        self.g.fib.port_address(port, family, towards)
    }

    fn core(&self) -> u32 {
        self.engine.router.cores.get(self.engine.worker).map_or(0, |core| *core as u32)
    }

    fn group(&self, port: PortId) -> u32 {
        port.index().and_then(|i| self.g.policy.port_settings.get(i)).map_or(0, |settings| settings.group)
    }

    fn realms(&self) -> u32 {
        self.p.realms
    }

    fn has_way_back(&self, facts: &Facts, wanted: WayBack) -> bool {
        self.g.fib.has_way_back(facts, wanted)
    }

    fn fingerprints(&self) -> &[Fingerprint] {
        &self.g.policy.fingerprints
    }

    fn note(&self, facts: &Facts, l3: &[u8], text: fmt::Arguments) {
        let wall = self.engine.now.wrapping_add(self.engine.wall_offset);
        self.engine.router.log.push(LogEvent::note(text, facts, l3, wall));
    }

    fn account(&self, number: u32, len: u16) -> Standing {
        self.g.objects.account(number).map_or(Standing::NoQuota, |account| account.count(len))
    }

    fn socket(&self) -> Socket<'_> {
        match &self.p.owner {
            Some(owner) => Socket::Of { uid: owner.uid, gid: owner.gid, groups: &owner.groups },
            None if self.p.has_socket => Socket::Kernel,
            None => Socket::None,
        }
    }

    fn flow(&self) -> Option<&dyn FlowFacts> {
        match self.p.ct {
            Ct::Flow(_) | Ct::Template(_) | Ct::Proxied => Some(self),
            Ct::None | Ct::Unplaced | Ct::Untracked => None,
        }
    }

    fn in_set(&self, named: &Named, asked: &Asked, facts: &Facts) -> Option<SkbInfo> {
        let Engine { router, sets, now, .. } = self.engine;
        sets.test(named.slot, named.ends, asked, facts, &router.ifaces, *now)
    }

    fn change_set(&self, named: &Named, change: Change, facts: &Facts) {
        let Engine { router, sets, now, .. } = self.engine;
        sets.change(named.slot, named.ends, change, facts, &router.ifaces, *now);
    }

    fn connections(&self, key: &ConnectionKey, facts: &Facts, l3: &[u8]) -> Option<u32> {
        let cell = self.engine.router.cells.get(key.cell as usize)?;
        self.engine.router.conntrack.connections(cell, key, self.p.ct, facts, l3, self.engine.now)
    }

    fn count_for(&self, estimator: u32, bytes: u16, now: u64) {
        if let Some(estimator) = self.g.objects.estimator(estimator) {
            estimator.count(bytes, now);
        }
    }

    fn rate(&self, estimator: u32, now: u64) -> Rate {
        self.g.objects.estimator(estimator).map_or_else(Rate::default, |estimator| estimator.rate(now))
    }

    fn start_timer(&self, timer: u32, seconds: u32, now: u64) {
        if let Some(timer) = self.g.objects.timer(timer) {
            timer.start(seconds, now);
        }
    }

    fn recent(&self, list: u32, ask: &Ask, seen: &Sighting, now: u64) -> bool {
        self.g.objects.recent(list).is_some_and(|list| list.ask(ask, seen, now))
    }

    fn hashlimit(&self, table: u32, facts: &Facts, cx: &Context) -> Option<bool> {
        self.g.objects.hashlimit(table)?.ask(facts, cx.l3, cx.now)
    }
}

impl Around<'_> {
    /// The packet's flow; none where it has only the template of one, in which all is zero.
    fn tracked(&self) -> Option<Flow> {
        match self.p.ct {
            Ct::Flow(flow) => Some(flow),
            _ => None,
        }
    }
}

impl FlowFacts for Around<'_> {
    fn ends(&self, dir: Dir) -> Ends {
        let ends = |flow| {
            let Tuple { src, dst, sport, dport, .. } = self.engine.router.conntrack.tuple_of(flow, dir);
            Ends { src, dst, sport, dport }
        };
        self.tracked().map(ends).unwrap_or_default()
    }

    fn counters(&self, dir: Dir) -> Option<(u64, u64)> {
        self.tracked().map(|flow| self.engine.router.conntrack.counters_of(flow, dir))
    }

    fn left(&self) -> u32 {
        self.tracked().map_or(0, |flow| self.engine.router.conntrack.left_of(flow, self.engine.now))
    }

    fn has_label(&self, bit: u8) -> bool {
        self.tracked().is_some_and(|flow| self.engine.router.conntrack.has_label(flow, bit))
    }

    fn set_label(&self, bit: u8) -> bool {
        let flow = self.tracked();
        flow.inspect(|flow| self.engine.router.conntrack.set_label(*flow, bit)).is_some()
    }

    fn master_helper(&self) -> Option<Helper> {
        self.tracked().and_then(|flow| self.engine.router.conntrack.master_helper_of(flow))
    }
}

/// Chance for `statistic`, NAT port search and the like: xorshift64*, not for secrets.
#[derive(Debug)]
pub(super) struct Rng(Cell<u64>);

impl Rng {
    /// Any seed will do.
    pub(super) fn new(seed: u64) -> Rng {
        Rng(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// The next number.
    pub(super) fn next(&self) -> u32 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}
