//! TCP: what a segment does to a connection, as `nf_conntrack_proto_tcp.c` has it.
//!
//! [`next`] is the state table: where a connection goes when a segment of a kind comes from a side. [`judge`] is what the
//! kernel does around the table: which segments may open a flow, reopening after TIME_WAIT, packets that are ignored because
//! the ends may know more than we do, ASSURED, and time-outs. Both are pure. Sequence numbers are used only to recognise
//! the SYN/ACK that answers a SYN which had been ignored; windows are not tracked here.

use sumun_config::facts::{Dir, status};
use sumun_config::model::Sysctl;

/// States of a connection, with the kernel's names and numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum State {
    /// Nothing seen yet.
    None,
    /// SYN seen.
    SynSent,
    /// SYN/ACK seen.
    SynRecv,
    /// ACK of the SYN/ACK seen, or picked up in the middle.
    Established,
    /// FIN seen.
    FinWait,
    /// FIN was acknowledged.
    CloseWait,
    /// FIN seen from both sides.
    LastAck,
    /// The last FIN was acknowledged.
    TimeWait,
    /// RST seen.
    Close,
    /// SYN seen from both sides (simultaneous open).
    SynSent2,
}

impl State {
    const ALL: [State; 10] = {
        use State::*;
        [None, SynSent, SynRecv, Established, FinWait, CloseWait, LastAck, TimeWait, Close, SynSent2]
    };

    /// The name that `conntrack -L` prints.
    pub const fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::SynSent => "SYN_SENT",
            State::SynRecv => "SYN_RECV",
            State::Established => "ESTABLISHED",
            State::FinWait => "FIN_WAIT",
            State::CloseWait => "CLOSE_WAIT",
            State::LastAck => "LAST_ACK",
            State::TimeWait => "TIME_WAIT",
            State::Close => "CLOSE",
            State::SynSent2 => "SYN_SENT2",
        }
    }

    /// How long a connection in this state lives without a packet, in milliseconds.
    pub fn timeout(self, s: &Sysctl) -> u64 {
        match self {
            State::None | State::SynSent | State::SynSent2 => s.nf_conntrack_tcp_timeout_syn_sent,
            State::SynRecv => s.nf_conntrack_tcp_timeout_syn_recv,
            State::Established => s.nf_conntrack_tcp_timeout_established,
            State::FinWait => s.nf_conntrack_tcp_timeout_fin_wait,
            State::CloseWait => s.nf_conntrack_tcp_timeout_close_wait,
            State::LastAck => s.nf_conntrack_tcp_timeout_last_ack,
            State::TimeWait => s.nf_conntrack_tcp_timeout_time_wait,
            State::Close => s.nf_conntrack_tcp_timeout_close,
        }
    }

    /// Whether an ASSURED connection in this state may go when the table is nearly full (`tcp_can_early_drop`).
    pub fn is_closing(self) -> bool {
        use State::*;
        matches!(self, FinWait | LastAck | TimeWait | Close | CloseWait)
    }
}

/// What kind of segment the flags make: RST before SYN before FIN before ACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// None of the others.
    None,
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// FIN.
    Fin,
    /// ACK.
    Ack,
    /// RST.
    Rst,
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

impl Kind {
    const ALL: [Kind; 6] = [Kind::None, Kind::Syn, Kind::SynAck, Kind::Fin, Kind::Ack, Kind::Rst];

    /// The kind of a segment with this flags byte.
    pub fn of(flags: u8) -> Kind {
        if flags & RST != 0 {
            Kind::Rst
        } else if flags & SYN != 0 {
            if flags & ACK != 0 { Kind::SynAck } else { Kind::Syn }
        } else if flags & FIN != 0 {
            Kind::Fin
        } else if flags & ACK != 0 {
            Kind::Ack
        } else {
            Kind::None
        }
    }
}

/// Whether a flags byte is one that a sane sender makes (`tcp_valid_flags`). PSH, ECE and CWR do not matter.
pub fn has_valid_flags(flags: u8) -> bool {
    const PLAIN: [u8; 9] = [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];
    PLAIN.contains(&(flags & !(PSH | ECE | CWR)))
}

/// What the table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Move (or stay) there.
    To(State),
    /// Let it pass and change nothing: the ends may be in sync where we are not.
    Ignore,
    /// Truly invalid.
    Invalid,
}

/// The state table.
pub fn next(state: State, dir: Dir, kind: Kind) -> Next {
    use Next::{Ignore, Invalid, To};
    use State::*;
    let original = dir == Dir::Original;
    match (kind, state) {
        (Kind::None, _) => Invalid,

        (Kind::Syn, None) if original => To(SynSent),
        (Kind::Syn, SynSent) => To(if original { SynSent } else { SynSent2 }),
        (Kind::Syn, SynSent2) => To(SynSent2),
        // RFC 1122 4.2.2.13: TIME-WAIT may be reopened by a SYN, and the sides may have changed roles.
        (Kind::Syn, TimeWait) => To(SynSent),
        (Kind::Syn, Close) if original => To(SynSent),
        (Kind::Syn, _) => {
            if original {
                Ignore
            } else {
                Invalid
            }
        }

        // Only a simultaneous open has a SYN/ACK from the side that sent the first SYN.
        (Kind::SynAck, SynRecv) if original => To(SynRecv),
        (Kind::SynAck, SynSent2) => To(SynRecv),
        (Kind::SynAck, _) if original => Invalid,
        (Kind::SynAck, SynSent) => To(SynRecv),
        (Kind::SynAck, None) => Invalid,
        (Kind::SynAck, _) => Ignore,

        (Kind::Fin, SynRecv | Established) => To(FinWait),
        (Kind::Fin, FinWait | CloseWait | LastAck) => To(LastAck),
        (Kind::Fin, TimeWait) => To(TimeWait),
        (Kind::Fin, Close) => To(Close),
        (Kind::Fin, None | SynSent | SynSent2) => Invalid,

        (Kind::Ack, None) => {
            if original {
                To(Established)
            } else {
                Invalid
            }
        }
        (Kind::Ack, SynSent | SynSent2) => {
            if original {
                Invalid
            } else {
                Ignore
            }
        }
        (Kind::Ack, SynRecv) => To(if original { Established } else { SynRecv }),
        (Kind::Ack, Established) => To(Established),
        (Kind::Ack, FinWait | CloseWait) => To(CloseWait),
        (Kind::Ack, LastAck | TimeWait) => To(TimeWait),
        (Kind::Ack, Close) => To(Close),

        (Kind::Rst, None) => Invalid,
        (Kind::Rst, _) => To(Close),
    }
}

/// What is known of a connection beside its status: fits the protocol half of the state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Its state.
    pub state: State,
    /// The last segment that mattered: SYN, RST, or (before ASSURED) ACK; else [`Kind::None`].
    last: Kind,
    last_dir: Dir,
    /// One side has begun to close.
    closing: bool,
    /// A SYN was ignored in LAST_ACK: the next ACK from the other side may be RFC 5961's challenge.
    challenge: bool,
    /// SYNs were seen from both sides.
    simultaneous: bool,
    /// The last ACK announced a window of zero.
    stalled: bool,
}

impl Connection {
    /// Of which nothing is known.
    pub const NEW: Connection = Connection {
        state: State::None,
        last: Kind::None,
        last_dir: Dir::Original,
        closing: false,
        challenge: false,
        simultaneous: false,
        stalled: false,
    };

    /// Into the state word.
    pub fn bits(self) -> u32 {
        self.state as u32
            | (self.last as u32) << 4
            | (self.last_dir as u32) << 8
            | u32::from(self.closing) << 9
            | u32::from(self.challenge) << 10
            | u32::from(self.simultaneous) << 11
            | u32::from(self.stalled) << 12
    }

    /// Out of the state word.
    pub fn from_bits(bits: u32) -> Connection {
        Connection {
            state: State::ALL[(bits & 15).min(9) as usize],
            last: Kind::ALL[(bits >> 4 & 15).min(5) as usize],
            last_dir: if bits >> 8 & 1 == 0 { Dir::Original } else { Dir::Reply },
            closing: bits >> 9 & 1 != 0,
            challenge: bits >> 10 & 1 != 0,
            simultaneous: bits >> 11 & 1 != 0,
            stalled: bits >> 12 & 1 != 0,
        }
    }

    /// Remembers a segment. What an established connection's plain segments are is not worth a store for each.
    fn remember(&mut self, kind: Kind, dir: Dir, assured: bool) {
        let matters = matches!(kind, Kind::Syn | Kind::Rst) || (kind == Kind::Ack && !assured);
        (self.last, self.last_dir) = if matters { (kind, dir) } else { (Kind::None, Dir::Original) };
    }
}

/// What of a segment matters.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its kind.
    pub kind: Kind,
    /// Acknowledgement number.
    pub ack: u32,
    /// Sequence number after it: SYN and FIN count one each.
    pub end: u32,
    /// Window as in the header, unscaled.
    pub window: u16,
}

/// What comes of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is not part of the connection.
    Invalid,
    /// It is let pass; this is to be remembered, and the end of an ignored SYN where there is one.
    Ignored(Connection, Option<u32>),
    /// The connection is over and this opens a new one: forget the old, look again.
    Reopen,
    /// It was a reset, and the only thing ever seen of the other side: the flow ends at once.
    Refused,
    /// The connection is now this.
    Moved {
        /// Its new state.
        to: Connection,
        /// Status bits to set.
        status: u32,
        /// Milliseconds that it has from now; none leaves its time as it is.
        timeout: Option<u64>,
    },
}

/// What a segment does to a connection. `bits` is the flow's status before this packet, `syn_end` what was last given out
/// by [`Step::Ignored`]. A flow that is not yet confirmed begins here.
pub fn judge(c: Connection, dir: Dir, seg: &Segment, bits: u32, syn_end: u32, s: &Sysctl) -> Step {
    if bits & status::CONFIRMED == 0 && c.state == State::None && !may_open(seg.kind, s) {
        return Step::Invalid;
    }
    let (old, mut c) = (c.state, c);
    let assured = bits & status::ASSURED != 0;
    let mut to = match next(old, dir, seg.kind) {
        Next::Invalid => return Step::Invalid,
        Next::To(State::SynSent) if old >= State::TimeWait => {
            if c.closing || (c.last == Kind::Rst && c.last_dir == dir) {
                return Step::Reopen;
            }
            match ignore(c, dir, seg, syn_end, assured) {
                Ok(resynced) => {
                    c = resynced;
                    State::SynRecv
                }
                Err(step) => return step,
            }
        }
        Next::Ignore => match ignore(c, dir, seg, syn_end, assured) {
            Ok(resynced) => {
                c = resynced;
                State::SynRecv
            }
            Err(step) => return step,
        },
        Next::To(to) => to,
    };
    let old = c.state;
    match to {
        State::TimeWait
            if old == State::LastAck
                && seg.kind == Kind::Ack
                && c.last == Kind::Syn
                && c.last_dir != dir
                && c.challenge =>
        {
            // RFC 5961 4: a challenge ACK does not acknowledge the last FIN.
            return Step::Ignored(Connection { challenge: false, ..c }, None);
        }
        State::SynSent2 => c.simultaneous = true,
        State::SynRecv if dir == Dir::Reply && seg.kind == Kind::Ack && c.simultaneous => to = State::Established,
        _ => {}
    }

    if seg.kind == Kind::Ack {
        c.stalled = seg.window == 0;
    }
    if old != to && to == State::FinWait {
        c.closing = true;
    }
    c.state = to;
    let mut timeout = to.timeout(s);
    if seg.kind == Kind::Rst {
        timeout = s.nf_conntrack_tcp_timeout_close;
    } else if c.stalled {
        timeout = timeout.min(s.nf_conntrack_tcp_timeout_max_retrans);
    }

    let mut set = 0;
    let mut refresh = true;
    if bits & status::SEEN_REPLY == 0 {
        if seg.kind == Kind::Rst {
            return Step::Refused;
        }
        // A repeated SYN must not keep the flow (and its mapping) alive for ever.
        refresh = !(seg.kind == Kind::Syn && old == State::SynSent);
        if to == State::Established {
            // Picked up in the middle: not worth five days before the other side was heard.
            timeout = timeout.min(s.nf_conntrack_tcp_timeout_unacknowledged);
        }
    } else if !assured && matches!(old, State::SynRecv | State::Established) && to == State::Established {
        set = status::ASSURED;
    }
    c.remember(seg.kind, dir, assured || set != 0);
    Step::Moved { to: c, status: set, timeout: refresh.then_some(timeout) }
}

/// Whether a segment may be the first of a flow (`tcp_new`).
fn may_open(kind: Kind, s: &Sysctl) -> bool {
    match next(State::None, Dir::Original, kind) {
        Next::To(State::SynSent) => true,
        Next::To(_) => s.nf_conntrack_tcp_loose,
        _ => false,
    }
}

/// An ignored segment: either it shows that an earlier ignored SYN was good and we get in step, or it is remembered.
fn ignore(c: Connection, dir: Dir, seg: &Segment, syn_end: u32, assured: bool) -> Result<Connection, Step> {
    let answers = seg.kind == Kind::SynAck && c.last == Kind::Syn && c.last_dir != dir && seg.ack == syn_end;
    if answers {
        return Ok(Connection { state: State::SynSent, closing: false, challenge: false, simultaneous: false, ..c });
    }
    let mut c = c;
    c.remember(seg.kind, dir, assured);
    let syn = seg.kind == Kind::Syn;
    if syn && dir == Dir::Original {
        c.simultaneous = false;
        c.challenge = c.state == State::LastAck;
    }
    Err(Step::Ignored(c, syn.then_some(seg.end)))
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
