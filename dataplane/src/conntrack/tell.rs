//! What the protocol's tracker makes of a packet of a flow: is it part of it, what becomes of the flow's state, and how long does
//! the flow live from here on?

use super::entry::{clamp, left};
use super::protocol::{self, Part, Verdict};
use super::tracker::Placed;
use super::{Ct, Entry, Flow, Life, Step, Tracker, Word, change, sctp, tcp};
use crate::sync::atomic::Ordering;
use sumun_config::facts::{CtState, Dir, proto, status};
use sumun_config::model::Sysctl;

/// Milliseconds that are too long for a connection that both sides have tried to end (`nf_tcp_handle_invalid`).
const LONG: i32 = 120_000;

/// A packet of a protocol that has private words.
enum Heard<'a> {
    Tcp(tcp::Segment<'a>),
    Sctp(sctp::Packet<'a>),
}

/// The state of a packet of this direction of a flow with this status.
#[inline]
pub(super) fn state_of(dir: Dir, bits: u32) -> CtState {
    match dir {
        Dir::Original if bits & status::SEEN_REPLY == 0 => super::help::unanswered(bits),
        _ => CtState::Established,
    }
}

/// What became of a packet whose flow was found.
pub(super) enum Joined {
    Placed(Placed),
    /// The flow ended with it, and it begins another.
    Anew,
    /// Somebody else is removing the flow.
    Lost,
}

impl Tracker {
    /// The settings for a flow: those of its time-out policy, or else these.
    #[cold]
    pub(super) fn settings<'a>(&'a self, id: u32, s: &'a Sysctl) -> &'a Sysctl {
        match self.shared.cold(id).timeout.load(Ordering::Relaxed) {
            0 => s,
            timeout => self.timeouts.find(timeout).unwrap_or(s),
        }
    }

    /// Tells the protocol's tracker of a packet of a flow, and what that makes of it.
    #[inline]
    pub(super) fn join(&mut self, flow: Flow, word: Word, part: &Part, s: &Sysctl) -> Joined {
        let state = state_of(flow.dir, word.status());
        let held = word.life() == Life::Unconfirmed;
        match self.tell(flow, word, part, s) {
            Verdict::Accept => {
                if flow.dir == Dir::Reply && word.status() & status::SEEN_REPLY == 0 {
                    self.shared.entry(flow.id).set_status(status::SEEN_REPLY);
                    self.changed(flow.id, change::REPLY);
                }
                Joined::Placed(Placed::Flow(flow, state))
            }
            Verdict::Refused => {
                self.remove(flow.id);
                // The refusal is an answer too, and its rules see so.
                if flow.dir == Dir::Reply {
                    self.shared.entry(flow.id).set_status(status::SEEN_REPLY);
                }
                Joined::Placed(Placed::Flow(flow, state))
            }
            Verdict::Invalid(why) => {
                if held {
                    self.let_go(flow.id);
                }
                Joined::Placed(Placed::Invalid(why))
            }
            Verdict::Reopen => match held || !self.remove(flow.id) {
                // Somebody else is removing it: the kernel drops the packet, and its sender repeats it.
                true => Joined::Lost,
                false => Joined::Anew,
            },
        }
    }

    /// Tells the protocol's tracker of a packet, and carries out what it says of state and time.
    #[inline]
    fn tell(&self, flow: Flow, word: Word, part: &Part, s: &Sysctl) -> Verdict {
        let entry = self.shared.entry(flow.id);
        let s = if word.status() & status::EXTRA == 0 { s } else { self.settings(flow.id, s) };
        let timeout = if matches!(part.proto, proto::TCP | proto::SCTP) {
            match self.tell_privately(flow, word, part, s) {
                Ok(timeout) => timeout,
                Err(verdict) => return verdict,
            }
        } else {
            match protocol::judge(entry, word, part, self.now, s) {
                Ok(timeout) => {
                    let assured = status::ASSURED;
                    if word.status() & assured == 0 && entry.word().status() & assured != 0 {
                        self.changed(flow.id, change::ASSURED);
                    }
                    Some(timeout)
                }
                Err(why) => return Verdict::Invalid(why),
            }
        };
        if let Some(timeout) = timeout {
            let timeout = clamp(timeout);
            let live = word.life() != Life::Unconfirmed;
            if word.status() & status::FIXED_TIMEOUT == 0 {
                entry.set_deadline(if live { self.now.wrapping_add(timeout) } else { timeout }, self.near);
            }
            self.account(entry, flow.dir, part, s);
        }
        Verdict::Accept
    }

    /// The same for protocols with private words: milliseconds that the flow has from now, or none for as it was.
    #[inline]
    fn tell_privately(&self, flow: Flow, mut word: Word, part: &Part, s: &Sysctl) -> Result<Option<u64>, Verdict> {
        let (entry, private) = (self.shared.entry(flow.id), self.shared.private(flow.id));
        let heard = match part.proto {
            proto::TCP => tcp::Segment::of(part.l4).map(Heard::Tcp),
            _ => sctp::Packet::of(part.l4).map(Heard::Sctp),
        };
        let heard = heard.map_err(Verdict::Invalid)?;
        let _held = (!self.alone).then(|| private.hold());
        if !self.alone {
            let life = word.life();
            word = entry.word();
            if word.life() != life {
                // Removed by another worker at this moment.
                return Err(Verdict::Reopen);
            }
        }
        let old = private.words();
        let mut bits = word.status();
        let (step, new, state) = match heard {
            Heard::Tcp(mut segment) => {
                if bits & status::SEQ_ADJUST != 0 {
                    segment.moved = self.moved(flow, segment.ack);
                }
                let mut c = tcp::Connection::from_words(word.protocol(), &old);
                let step = c.judge(flow.dir, &segment, &mut bits, s);
                (step, c.words(), c.state as u32)
            }
            Heard::Sctp(packet) => {
                let mut a = sctp::Association::from_words(word.protocol(), &old);
                let step = a.judge(flow.dir, &packet, &mut bits, s);
                (step, a.words(), a.state as u32)
            }
        };
        private.change(&old, &new);
        if !entry.advance(word, state, bits & !word.status()) {
            return Err(Verdict::Reopen);
        }
        match step {
            Step::Moved { timeout } => {
                let moved = if state == word.protocol() { 0 } else { change::PROTOINFO };
                let assured = if bits & !word.status() & status::ASSURED == 0 { 0 } else { change::ASSURED };
                if moved | assured != 0 {
                    self.changed(flow.id, moved | assured);
                }
                Ok(timeout)
            }
            Step::Ignored => Ok(None),
            Step::Invalid { why, ends } => {
                let short = s.nf_conntrack_tcp_timeout_unacknowledged;
                let now_left = left(entry.deadline.load(Ordering::Relaxed), self.now);
                if ends && now_left >= LONG && now_left as u64 > short {
                    entry.set_deadline(self.now.wrapping_add(clamp(short)), 1);
                }
                Err(Verdict::Invalid(why))
            }
            Step::Reopen => Err(Verdict::Reopen),
            Step::Refused => {
                self.account(entry, flow.dir, part, s);
                Err(Verdict::Refused)
            }
        }
    }

    #[inline(always)]
    pub(super) fn account(&self, entry: &Entry, dir: Dir, part: &Part, s: &Sysctl) {
        match (s.nf_conntrack_acct, self.alone) {
            (false, _) => {}
            (true, true) => entry.count_alone(dir, u64::from(part.len)),
            (true, false) => entry.count_shared(dir, 1, u64::from(part.len)),
        }
    }

    /// The router reset a connection (`nf_conntrack_tcp_set_closing`): it ends as if a reset had been seen.
    pub fn set_closing(&mut self, ct: Ct, s: &Sysctl) {
        let Ct::Flow(flow) = ct else { return };
        let entry = self.shared.entry(flow.id);
        if entry.tuple(Dir::Original).proto != proto::TCP {
            return;
        }
        let _held = (!self.alone).then(|| self.shared.private(flow.id).hold());
        let word = entry.word();
        let before = tcp::State::from_bits(word.protocol());
        if word.life() == Life::Live
            && entry.advance(word, tcp::State::Close as u32, 0)
            && before != tcp::State::Close
            && word.status() & status::FIXED_TIMEOUT == 0
        {
            let s = self.settings(flow.id, s);
            entry.set_deadline(self.now.wrapping_add(clamp(tcp::State::Close.timeout(s))), 1);
            self.changed(flow.id, change::PROTOINFO);
        }
    }
}
