//! Fragments on their way to a packet: they wait, they make it whole, or they end with it.

use super::Engine;
use super::fate::Fate;
use super::packet::Packet;
use super::pipeline::key;
use super::running::Running;
use crate::defrag::{Late, Place, User, Whose};
use crate::fib::Route;
use crate::icmp::Error;
use crate::reason::DropReason;
use sumun_config::facts::Family;

impl Engine {
    /// A fragment waits for the rest of its packet, or with it `p` becomes the whole packet. Others pass.
    #[inline]
    pub(super) fn gather(&mut self, g: &Running, user: User, p: &mut Packet) -> Result<Option<Fate>, DropReason> {
        match p.facts.is_fragment() || (p.facts.family == Family::V6 && p.facts.has_options) {
            true => self.gather_fragment(g, user, p),
            false => Ok(None),
        }
    }

    #[cold]
    fn gather_fragment(&mut self, g: &Running, user: User, p: &mut Packet) -> Result<Option<Fate>, DropReason> {
        if p.facts.is_fragment() && !self.pool.may_keep(&p.frame) {
            return Err(DropReason::FragmentQueue);
        }
        let whose = Whose { user, vrf: g.fib.vrf_of(p.facts.iif) };
        let place = self.defrag.place(whose, &p.facts, p.l3(), p.frame.size(), self.now, &g.policy.sysctl);
        self.bury();
        match place? {
            Place::Passes => Ok(None),
            Place::Uneven if user == User::Local => {
                // RFC 8200 section 4.5: it points at the payload length.
                self.answer(g, p, Error::ParamProblem { code: 0, pointer: 4 });
                Err(DropReason::FragmentMalformed)
            }
            Place::Uneven => Ok(None),
            Place::Waits(ticket) => Ok(Some(Fate::Gather(ticket))),
            Place::Completes(ticket) => {
                let whole = self.defrag.complete(ticket, p.l3(), &p.facts, &mut self.pool);
                self.bury();
                let whole = whole?;
                self.stats.consumed.add(whole.pieces.saturating_sub(1) as u64);
                (p.facts, p.l3, p.largest) = (whole.facts, 0, Some(whole.largest));
                self.pool.give(std::mem::replace(&mut p.frame, whole.frame));
                Ok(None)
            }
        }
    }

    /// Counts the fragments that ended with their packet.
    fn bury(&mut self) {
        while let Some((reason, frame)) = self.defrag.ended() {
            self.discard(reason, frame);
        }
    }

    /// Ends packets that did not come together in time.
    pub(super) fn give_up_fragments(&mut self, g: &Running) {
        while let Some(late) = self.defrag.late(self.now) {
            self.bury();
            if let Some(Late { frame, facts, l3, user }) = late {
                let p = Packet::new(frame, facts, l3);
                // Only the host that they were for says so; routers do for IPv6 alone (`ip_expire`, `nf_ct_frag6_expire`).
                let is_host =
                    facts.family == Family::V6 || user == User::Local || g.fib.lookup(&key(g, &facts)) == Route::Local;
                if is_host {
                    self.answer(g, &p, Error::FragReassembly);
                }
                self.discard(DropReason::FragmentTimeout, p.frame);
            }
        }
        self.settle(g);
    }
}
