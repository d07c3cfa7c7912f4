//! What is remembered of a connection, and what a segment does to it (`nf_conntrack_tcp_packet`).

use super::super::Invalid;
use super::super::private::{PRIVATE, Step};
use super::window::{Fit, Side, fit, flag, flags_of};
use super::{Kind, Next, Segment, State, before, next};
use sumun_config::facts::{Dir, status};
use sumun_config::model::Sysctl;

/// Further bits of [`Last::flags`]: not of a side, but of the connection.
mod note {
    /// A SYN was let pass in LAST_ACK: the next ACK from the other side may be RFC 5961's challenge.
    pub const CHALLENGE: u8 = 0x40;
    /// SYNs were seen from both sides.
    pub const SIMULTANEOUS: u8 = 0x80;
}

/// The last segment that was believed or let pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Last {
    kind: Kind,
    dir: Dir,
    seq: u32,
    ack: u32,
    end: u32,
    window: u16,
    scale: u8,
    /// What a SYN that was let pass offered, and notes.
    flags: u8,
}

/// What is known of a connection beside its status: the state word has the state, the private words the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Its state.
    pub state: State,
    pub(super) sides: [Side; 2],
    last: Last,
    /// How often the last ACK was repeated.
    retrans: u8,
}

/// What a reset may do.
enum Reset {
    /// Lead to this state if it is in the window.
    To(State),
    /// Lead to this state wherever it lies.
    Sure(State),
    /// Nothing: it is not from the other side.
    Invalid,
}

impl Connection {
    /// Of which nothing is known.
    pub const NEW: Connection = Connection {
        state: State::None,
        sides: [Side { end: 0, max_end: 0, max_win: 0, max_ack: 0, scale: 0, flags: 0 }; 2],
        last: Last { kind: Kind::None, dir: Dir::Original, seq: 0, ack: 0, end: 0, window: 0, scale: 0, flags: 0 },
        retrans: 0,
    };

    /// The private words.
    #[inline]
    pub(crate) fn words(&self) -> [u64; PRIVATE] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let ([o, r], l) = (&self.sides, &self.last);
        [
            pair(o.end, o.max_end),
            pair(o.max_win, o.max_ack),
            pair(r.end, r.max_end),
            pair(r.max_win, r.max_ack),
            pair(l.seq, l.ack),
            pair(l.end, u32::from(l.window) | u32::from(self.retrans) << 16 | u32::from(l.scale) << 24),
            u64::from_le_bytes([o.scale, o.flags, r.scale, r.flags, l.flags, l.kind as u8, l.dir as u8, 0]),
        ]
    }

    /// Out of the state word's protocol half and the private words.
    #[inline]
    pub(crate) fn from_words(state: u32, w: &[u64; PRIVATE]) -> Connection {
        let high = |w: u64| (w >> 32) as u32;
        let [o_scale, o_flags, r_scale, r_flags, flags, kind, dir, _] = w[6].to_le_bytes();
        let side = |i: usize, scale: u8, flags: u8| Side {
            end: w[i] as u32,
            max_end: high(w[i]),
            max_win: w[i + 1] as u32,
            max_ack: high(w[i + 1]),
            // Shifts must stay below 32 whatever the words hold.
            scale: scale & 15,
            flags,
        };
        let last = high(w[5]);
        Connection {
            state: State::from_bits(state),
            sides: [side(0, o_scale, o_flags), side(2, r_scale, r_flags)],
            last: Last {
                kind: Kind::ALL[usize::from(kind.min(5))],
                dir: if dir == 0 { Dir::Original } else { Dir::Reply },
                seq: w[4] as u32,
                ack: high(w[4]),
                end: w[5] as u32,
                window: last as u16,
                scale: (last >> 24) as u8 & 15,
                flags,
            },
            retrans: (last >> 16) as u8,
        }
    }

    /// The widest window that the first side ever announced.
    pub(crate) fn widest(&self) -> u32 {
        self.sides[0].max_win
    }

    /// Whether its first side is ahead of another's in sequence numbers (`nf_seq_has_advanced`).
    pub(crate) fn is_ahead_of(&self, other: &Connection) -> bool {
        before(other.sides[0].end, self.sides[0].end)
    }

    /// The connection that a segment begins (`tcp_new`); none where it may not.
    fn begin(seg: &Segment, s: &Sysctl) -> Option<Connection> {
        let window = u32::from(seg.window).max(1);
        let mut c = Connection::NEW;
        let first = &mut c.sides[0];
        (first.end, first.max_end, first.max_win) = (seg.end, seg.end, window);
        match next(State::None, Dir::Original, seg.kind) {
            Next::To(State::SynSent) => first.take(seg.offer()),
            Next::To(_) if s.nf_conntrack_tcp_loose => {
                // In the middle: what was agreed on scaling and SACK is not known.
                first.max_end = seg.end.wrapping_add(window);
                c.sides.iter_mut().for_each(|side| side.flags = flag::SACK_PERMITTED | flag::BE_LIBERAL);
            }
            _ => return None,
        }
        Some(c)
    }

    fn is_established(&self, bits: u32) -> bool {
        self.state == State::Established && bits & status::ASSURED != 0
    }

    fn has_on_a_side(&self, flag: u8) -> bool {
        self.sides[0].has(flag) || self.sides[1].has(flag)
    }

    /// An ACK in the window: the same again, or another?
    #[inline]
    pub(super) fn count_retransmission(&mut self, dir: Dir, seq: u32, ack: u32, end: u32, window: u16) {
        let l = &mut self.last;
        if (l.dir, l.seq, l.ack, l.end, l.window) == (dir, seq, ack, end, window) {
            self.retrans = self.retrans.wrapping_add(1);
        } else {
            (l.dir, l.seq, l.ack, l.end, l.window) = (dir, seq, ack, end, window);
            self.retrans = 0;
        }
    }

    /// A segment that may be good where what we know is not: either it answers a SYN that was let pass, and we get in step
    /// with the two ends, or it is let pass and written down. True for the first.
    fn resync(&mut self, dir: Dir, seg: &Segment) -> bool {
        let old = self.state;
        let last = &mut self.last;
        if seg.kind == Kind::SynAck && last.kind == Kind::Syn && last.dir != dir && seg.ack == last.end {
            last.flags &= !note::CHALLENGE;
            let opener = &mut self.sides[last.dir as usize];
            (opener.end, opener.max_end) = (last.end, last.end);
            opener.max_win = u32::from(last.window).max(1);
            (opener.scale, opener.flags) = (last.scale, last.flags);
            self.sides[dir as usize].reset();
            return true;
        }
        (last.kind, last.dir) = (seg.kind, dir);
        (last.seq, last.end, last.window) = (seg.seq, seg.end, seg.window);
        if seg.kind == Kind::Syn && dir == Dir::Original {
            let offer = seg.offer().unwrap_or_default();
            last.scale = offer.scale.unwrap_or(0);
            last.flags = flags_of(offer) | if old == State::LastAck { note::CHALLENGE } else { 0 };
        }
        if old == State::SynSent && seg.kind == Kind::Ack && dir == Dir::Reply {
            // Perhaps the challenge to a SYN of a connection that one end still has: its reset will tell (`reset`).
            last.ack = seg.ack;
        }
        false
    }

    /// RFC 5961 3.2: only a reset at exactly the expected number is one; others may be answered by a challenge.
    fn reset(&self, dir: Dir, seg: &Segment, bits: u32, s: &Sysctl) -> Reset {
        let last = &self.last;
        if self.state.is_closing() {
            // The ends may have used the ports again already.
            return Reset::Sure(State::Close);
        }
        let mut to = State::Close;
        let other = &self.sides[dir.other() as usize];
        // After a SYN that was let pass the acknowledgement may be of another connection.
        if other.has(flag::MAX_ACK) && last.kind != Kind::Syn {
            let established = self.is_established(bits);
            if seg.seq == 0 && !established {
                return Reset::To(to);
            }
            if before(seg.seq, other.max_ack) && !s.nf_conntrack_tcp_ignore_invalid_rst {
                return Reset::Invalid;
            }
            let follows = last.kind == Kind::Ack && last.dir == dir && seg.seq == last.end;
            if !established || seg.seq == other.max_ack || follows {
                return Reset::To(to);
            }
            to = self.state;
        }
        let answers = (bits & status::SEEN_REPLY != 0 && last.kind == Kind::Syn && last.dir != dir)
            || (bits & status::ASSURED == 0 && last.kind == Kind::Ack);
        let challenged =
            self.state == State::SynSent && last.kind == Kind::Ack && last.dir == Dir::Reply && seg.seq == last.ack;
        if (answers && seg.ack == last.end) || challenged { Reset::Sure(to) } else { Reset::To(to) }
    }

    /// A segment outside of the windows (`nf_tcp_handle_invalid`): whether both sides have tried to end it that way.
    fn distrust(&mut self, dir: Dir, kind: Kind, bits: u32) -> bool {
        let ends = |kind| matches!(kind, Kind::Fin | Kind::Rst);
        if bits & (status::ASSURED | status::FIXED_TIMEOUT) != status::ASSURED || !ends(kind) {
            return false;
        }
        if self.last.dir != dir && ends(self.last.kind) {
            return true;
        }
        (self.last.kind, self.last.dir) = (kind, dir);
        false
    }

    /// Milliseconds until it is forgotten, after a segment of this kind.
    #[inline]
    fn timeout(&self, kind: Kind, s: &Sysctl) -> u64 {
        let full = self.state.timeout(s);
        let retrans = full.min(s.nf_conntrack_tcp_timeout_max_retrans);
        if self.retrans >= s.nf_conntrack_tcp_max_retrans && retrans < full {
            retrans
        } else if kind == Kind::Rst {
            s.nf_conntrack_tcp_timeout_close
        } else if self.has_on_a_side(flag::UNACKNOWLEDGED) && full > s.nf_conntrack_tcp_timeout_unacknowledged {
            s.nf_conntrack_tcp_timeout_unacknowledged
        } else if self.last.window == 0 {
            retrans
        } else {
            full
        }
    }

    /// What a segment does. `bits` is the flow's status before this packet, and gets what is to be set. A
    /// flow that is not yet confirmed begins here.
    #[inline]
    pub fn judge(&mut self, dir: Dir, seg: &Segment, bits: &mut u32, s: &Sysctl) -> Step {
        if *bits & status::CONFIRMED == 0 && self.state == State::None {
            match Connection::begin(seg, s) {
                Some(new) => *self = new,
                None => return Step::invalid(Invalid::TcpNew),
            }
        }
        let mut old = self.state;
        let mut sure = false;
        let to = match next(old, dir, seg.kind) {
            Next::To(to @ State::Established) => to,
            Next::Invalid if self.is_kept_alive(dir, seg, *bits) => return Step::Ignored,
            Next::Invalid => return Step::invalid(Invalid::TcpState),
            Next::To(State::SynSent)
                if old >= State::TimeWait
                    && (self.has_on_a_side(flag::CLOSE_INIT)
                        || (self.last.dir == dir && self.last.kind == Kind::Rst)) =>
            {
                return Step::Reopen;
            }
            Next::To(State::SynSent) if old < State::TimeWait => State::SynSent,
            Next::Ignore | Next::To(State::SynSent) => {
                if !self.resync(dir, seg) {
                    return Step::Ignored;
                }
                old = State::SynSent;
                State::SynRecv
            }
            Next::To(State::TimeWait) if self.is_challenge(dir, seg) => {
                // A challenge ACK does not acknowledge the last FIN.
                self.last.flags &= !note::CHALLENGE;
                return Step::Ignored;
            }
            Next::To(State::SynSent2) => {
                self.last.flags |= note::SIMULTANEOUS;
                State::SynSent2
            }
            Next::To(State::SynRecv)
                if dir == Dir::Reply && seg.kind == Kind::Ack && self.last.flags & note::SIMULTANEOUS != 0 =>
            {
                State::Established
            }
            Next::To(_) if seg.kind == Kind::Rst => match self.reset(dir, seg, *bits, s) {
                Reset::To(to) => to,
                Reset::Sure(to) => {
                    sure = true;
                    to
                }
                Reset::Invalid => return Step::invalid(Invalid::TcpReset),
            },
            Next::To(to) => to,
        };
        if !sure {
            match fit(self, dir, seg, s.nf_conntrack_tcp_be_liberal) {
                Fit::In => {}
                Fit::Ignore => return Step::Ignored,
                Fit::Out(why) => return Step::Invalid { why, ends: self.distrust(dir, seg.kind, *bits) },
            }
        }
        self.accept(dir, seg, bits, old, to, s)
    }

    /// The client of a connection that SYNPROXY opens probes the window that it has not got, while its server has not answered.
    #[cold]
    fn is_kept_alive(&self, dir: Dir, seg: &Segment, bits: u32) -> bool {
        bits & status::PROXIED != 0
            && (self.state, seg.kind) == (State::SynSent, Kind::Ack)
            && (dir, self.last.dir) == (Dir::Original, Dir::Original)
            && self.sides[0].end.wrapping_sub(1) == seg.seq
    }

    fn is_challenge(&self, dir: Dir, seg: &Segment) -> bool {
        let last = &self.last;
        self.state == State::LastAck
            && seg.kind == Kind::Ack
            && last.dir != dir
            && last.kind == Kind::Syn
            && last.flags & note::CHALLENGE != 0
    }

    /// A segment of the connection leads it from one state to another.
    #[inline]
    fn accept(&mut self, dir: Dir, seg: &Segment, bits: &mut u32, old: State, to: State, s: &Sysctl) -> Step {
        (self.last.kind, self.last.dir) = (seg.kind, dir);
        self.state = to;
        if old != to && to == State::FinWait {
            self.sides[dir as usize].flags |= flag::CLOSE_INIT;
        }
        let mut timeout = self.timeout(seg.kind, s);
        if *bits & status::SEEN_REPLY == 0 {
            if seg.kind == Kind::Rst {
                return Step::Refused;
            }
            if seg.kind == Kind::Syn && old == State::SynSent {
                // A repeated SYN must not keep the flow (and its mapping) alive for ever.
                return Step::Moved { timeout: None };
            }
            if to == State::Established {
                // Picked up in the middle: not worth five days before the other side was heard.
                timeout = timeout.min(s.nf_conntrack_tcp_timeout_unacknowledged);
            }
        } else if *bits & status::ASSURED == 0
            && matches!(old, State::SynRecv | State::Established)
            && to == State::Established
        {
            *bits |= status::ASSURED;
        }
        Step::Moved { timeout: Some(timeout) }
    }
}
