//! The short way with questions: most of what a packet meets is replayed, and the chains are asked whose answers differ from
//! packet to packet.
//!
//! Such chains change nothing of packets ([`Program::changes_packets`](super::program::Program::changes_packets)): all that
//! comes behind them is as it was for others, or the packet ends there.

use super::Engine;
use super::fast::{IS_EARLY, IS_UNTRACKED, Memo, NO_FLOW};
use super::fate::ETHERNET;
use super::packet::Packet;
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
        frame: Frame,
        stand: &mut Place,
    ) {
        self.fast.recalled += 1;
        let p = stand.put(frame);
        if let Err(reason) = self.ask(g, port, memo, p) {
            self.finish_place(g, stand, Err(reason));
            return self.settle(g);
        }
        let len = p.facts.len;
        self.fast.atlas.count(memo.path, len);
        let way = &self.fast.atlas.ways[usize::from(memo.way)];
        let Some(mut frame) = stand.take_frame() else { return };
        if let Some(link) = frame.bytes_mut().first_chunk_mut() {
            *link = way.header;
        }
        let out = usize::from(way.hop.port.0);
        self.queue(out, frame);
    }

    /// Asks the chains of its path. All that is to be changed but the link's header is changed then.
    #[inline]
    fn ask<const N: usize>(
        &mut self,
        g: &Running,
        port: PortId,
        memo: &Memo<N>,
        p: &mut Packet,
    ) -> Result<(), DropReason> {
        let asks = self.fast.atlas.script(memo.path).asks.clone();
        let mut is_forwarded = false;
        for ask in &asks {
            if ask.hook != Hook::Prerouting && !is_forwarded {
                match memo.bits & IS_EARLY {
                    0 => Change::<N>::NONE.apply(p.frame.bytes_mut()),
                    _ => memo.change.apply(p.frame.bytes_mut()),
                }
                is_forwarded = true;
                tell_facts(port, memo, p);
                let way = &self.fast.atlas.ways[usize::from(memo.way)];
                (p.hop, p.realms, p.facts.oif) = (way.hop, way.realms, way.hop.port);
            } else if p.l3 == 0 {
                tell_facts(port, memo, p);
            }
            p.facts.mark = ask.mark;
            if let Err(reason) = self.judge(g, ask.hook, ask.table, p) {
                let bank = &g.banks[self.worker];
                for slot in self.fast.atlas.script(memo.path).slots.iter().take(usize::from(ask.before)) {
                    bank.slot(*slot).count(p.facts.len as usize);
                }
                return Err(reason);
            }
        }
        let bytes = p.frame.bytes_mut();
        match (is_forwarded, memo.bits & IS_EARLY) {
            (false, _) => memo.change.apply(bytes),
            (true, 0) => memo.change.apply_late(bytes),
            (true, _) => {}
        }
        Ok(())
    }
}

/// What is known of the packet as it stands in its frame.
#[inline]
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
        None => debug_assert_eq!(memo.flow, NO_FLOW),
    }
}
