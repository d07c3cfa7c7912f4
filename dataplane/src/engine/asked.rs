//! The short way with questions: most of what a packet meets is replayed, and the chains are asked whose answers differ from
//! packet to packet.
//!
//! Such chains change nothing of packets ([`Program::changes_packets`](super::program::Program::changes_packets)): all that
//! comes behind them is as it was for others, or the packet ends there.

use super::Engine;
use super::fast::{IS_EARLY, IS_UNTRACKED, Memo, NO_FLOW};
use super::fate::ETHERNET;
use super::notes::{Ask, Questions};
use super::packet::{Hop, Packet};
use super::place::Place;
use super::running::Running;
use crate::conntrack::Ct;
use crate::packet::glance::{Change, Glance};
use crate::packet::parse;
use crate::reason::DropReason;
use crate::umem::Frame;
use sumun_config::facts::{CtState, PortId};
use sumun_config::rule::Hook;

impl Engine {
    /// Takes a packet its way that is as the memo's others, and is tracked.
    #[inline(never)]
    pub(super) fn ask_again<const N: usize>(
        &mut self,
        g: &Running,
        port: PortId,
        memo: &Memo<N>,
        mut frame: Frame,
        stand: &mut Place,
    ) {
        self.fast.recalled += 1;
        let p = stand.lend(&mut frame);
        if let Err(reason) = self.ask(g, port, memo, p) {
            stand.keep(frame);
            self.finish_place(g, stand, Err(reason));
            return self.settle(g);
        }
        std::mem::swap(&mut p.frame, &mut frame);
        let way = self.fast.atlas.go(memo.path, memo.way, p.facts.len);
        if let Some(link) = frame.bytes_mut().first_chunk_mut() {
            *link = way.header;
        }
        let out = usize::from(way.hop.port.0);
        self.queue_counted(out, frame);
    }

    /// Asks the chains of its path. All that is to be changed but the link's header is changed then.
    #[inline(always)]
    fn ask<const N: usize>(
        &mut self,
        g: &Running,
        port: PortId,
        memo: &Memo<N>,
        p: &mut Packet,
    ) -> Result<(), DropReason> {
        let asks = self.fast.atlas.script(memo.path).asks;
        let early = match asks[0] {
            Some(first) if first.hook == Hook::Prerouting => self.ask_early(g, port, memo, &asks, p)?,
            _ => 0,
        };
        let late = asks.get(early..).unwrap_or_default();
        if late.iter().all(Option::is_none) {
            memo.change.apply(p.frame.bytes_mut());
            return Ok(());
        }
        let is_early = memo.bits & IS_EARLY != 0;
        match is_early {
            true => memo.change.apply(p.frame.bytes_mut()),
            false => Change::<N>::NONE.apply(p.frame.bytes_mut()),
        }
        tell_facts(port, memo, p);
        let way = &self.fast.atlas.ways[usize::from(memo.way)];
        p.hop = way.hop;
        p.realms = way.realms;
        p.facts.oif = way.hop.port;
        for ask in late.iter().flatten() {
            p.facts.mark = ask.mark;
            if let Err(reason) = self.ask_chain(g, ask, p) {
                self.count_before(g, memo.path, ask, p);
                return Err(reason);
            }
        }
        if !is_early {
            memo.change.apply_late(p.frame.bytes_mut());
        }
        Ok(())
    }

    /// Asks the chains of PREROUTING, which come first and see the packet as it came. How many there are.
    #[inline(never)]
    fn ask_early<const N: usize>(
        &mut self,
        g: &Running,
        port: PortId,
        memo: &Memo<N>,
        asks: &Questions,
        p: &mut Packet,
    ) -> Result<usize, DropReason> {
        tell_facts(port, memo, p);
        (p.hop, p.realms) = (Hop::NOWHERE, 0);
        let early = asks.iter().flatten().take_while(|ask| ask.hook == Hook::Prerouting);
        let mut number = 0;
        for ask in early {
            p.facts.mark = ask.mark;
            if let Err(reason) = self.judge(g, ask.hook, ask.table, p) {
                self.count_before(g, memo.path, ask, p);
                return Err(reason);
            }
            number += 1;
        }
        Ok(number)
    }

    /// Raises the counters that come before a chain, in which the packet ends.
    #[cold]
    fn count_before(&self, g: &Running, path: u16, ask: &Ask, p: &Packet) {
        let bank = &g.banks[self.worker];
        for slot in self.fast.atlas.script(path).slots.iter().take(usize::from(ask.before)) {
            bank.slot(*slot).count(p.facts.len as usize);
        }
    }
}

/// What is known of the packet as it stands in its frame.
#[inline(always)]
fn tell_facts<const N: usize>(port: PortId, memo: &Memo<N>, p: &mut Packet) {
    // It was found ordinary, and its length is in it.
    let _ = parse::ordinary_into(Glance::<N>::FAMILY, p.frame.bytes(), port, &mut p.facts);
    p.frame.truncate(ETHERNET + usize::from(p.facts.len));
    p.l3 = ETHERNET as u16;
    match memo.known() {
        Some(known) => {
            known.tell(&mut p.facts);
            p.ct = Ct::Flow(known.flow);
        }
        None if memo.bits & IS_UNTRACKED != 0 => {
            p.facts.ct_state = CtState::Untracked;
            p.ct = Ct::Untracked;
        }
        None => {
            debug_assert_eq!(memo.flow, NO_FLOW);
            p.ct = Ct::None;
        }
    }
}
