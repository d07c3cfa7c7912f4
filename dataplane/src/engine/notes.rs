//! What a packet on the long way meets is noted, to be replayed for others that look the same.

use super::fast::Look;
use arrayvec::ArrayVec;
use sumun_config::facts::Facts;
use sumun_config::rule::matches::Asks;
use sumun_config::rule::{Hook, Table, Target};

/// Most counters of a path.
const COUNTERS: usize = 28;
/// Most chains of a path that are asked about every packet.
const CHAINS: usize = 2;

/// Counters that every packet raises, in order.
pub(super) type Slots = ArrayVec<u32, COUNTERS>;

/// A chain whose answer, or whose effect, is not the same for all packets that look the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Ask {
    pub hook: Hook,
    pub table: Table,
    /// Its number in the program.
    pub chain: u32,
    /// The packet's mark before it.
    pub mark: u32,
    /// Counters that packets have raised before it.
    pub before: u8,
}

/// The chains that a path's packets are asked for.
pub(super) type Questions = [Option<Ask>; CHAINS];

/// What packets of a path raise and are asked, in order.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Script {
    pub slots: Slots,
    /// Chains that are asked, those there are first.
    pub asks: Questions,
}

impl Script {
    /// Whether any chain is asked.
    pub fn has_asks(&self) -> bool {
        self.asks[0].is_some()
    }
}

/// What a packet on the long way meets.
#[derive(Default)]
pub(super) struct Notes {
    is_on: bool,
    /// All of its rules are to be asked about others that look the same, since it met what no script can tell.
    is_judged: bool,
    /// Rules are always asked.
    pub asks_all: bool,
    pub look: Option<Look>,
    /// What rules asked for whose answers hold for others.
    asks: Asks,
    pub script: Script,
    /// The chain at work, what its rules asked for, and whether one of them acted.
    at: Option<Ask>,
    chain: Asks,
    has_acted: bool,
    /// Mark and TOS that it was routed with.
    pub routed: (u32, u8),
}

impl Notes {
    /// From now on what a packet of this look meets is noted.
    pub fn start(&mut self, look: Look) {
        (self.is_on, self.is_judged, self.asks, self.look) = (true, false, Asks::Flow, Some(look));
        self.script.slots.clear();
        self.script.asks = [None; CHAINS];
    }

    /// Something happened that others will not meet.
    #[inline]
    pub fn stop(&mut self) {
        self.is_on = false;
    }

    /// Whether the packet at work is noted.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether it matters what rules ask for.
    #[inline]
    pub fn is_asking(&self) -> bool {
        self.is_on && !self.is_judged
    }

    /// Whether all rules are to be asked.
    pub fn is_judged(&self) -> bool {
        self.is_judged
    }

    /// Whether what was noted holds for segments of the same flags only.
    pub fn has_flags(&self) -> bool {
        self.asks == Asks::TcpFlags
    }

    /// A counter was raised.
    #[inline]
    pub fn count(&mut self, slot: u32) {
        if self.is_on && self.script.slots.try_push(slot).is_err() {
            self.is_judged = true;
        }
    }

    /// The packet goes on to another host.
    #[inline]
    pub fn route(&mut self, facts: &Facts) {
        self.routed = (facts.mark, facts.tos);
    }

    /// A chain begins to judge a packet with this mark.
    #[inline]
    pub fn enter(&mut self, hook: Hook, table: Table, chain: u32, mark: u32) {
        let before = self.script.slots.len() as u8;
        self.at = Some(Ask { hook, table, chain, mark, before });
        (self.chain, self.has_acted) = (Asks::Flow, self.asks_all);
    }

    /// Rules were asked; what their answers depended on.
    #[inline]
    pub fn ask(&mut self, asks: Asks) {
        self.chain = self.chain.max(asks);
    }

    /// The target of a rule acts. One that writes the flow's mark may, as long as it stays the same.
    #[inline]
    pub fn act(&mut self, target: &Option<Target>) {
        self.has_acted |= !matches!(target, None | Some(Target::Verdict(_) | Target::Mark(_) | Target::ConnMark(_)));
    }

    /// It has let the packet pass. A chain is asked again where that changes nothing of packets.
    #[inline]
    pub fn leave(&mut self, changes_packets: bool) {
        let Some(ask) = self.at.filter(|_| self.is_asking()) else { return };
        if self.chain < Asks::Packet && !self.has_acted {
            self.asks = self.asks.max(self.chain);
            return;
        }
        // What raw decides comes before the flow is known.
        let may_ask = !changes_packets && ask.table != Table::Raw;
        match self.script.asks.iter_mut().find(|asked| asked.is_none()) {
            Some(place) if may_ask => {
                *place = Some(ask);
                self.script.slots.truncate(usize::from(ask.before));
            }
            _ => self.is_judged = true,
        }
    }
}
