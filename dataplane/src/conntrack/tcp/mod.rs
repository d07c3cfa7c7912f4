//! TCP: what a segment does to a connection, as `nf_conntrack_proto_tcp.c` has it.
//!
//! ```text
//!   segment ── what of a segment matters, and is it sane at all?
//!      │
//!   next ───── the state table: where a connection goes when a segment of a kind comes from a side
//!      │
//!   connection what is remembered; opening, reopening, what is let pass unbelieved, resets, ASSURED, time-outs
//!      │
//!   window ─── does it lie in what the receiver announced, and does it acknowledge what was sent?
//! ```
//!
//! All of it is pure: a [`Connection`] and a [`Segment`] in, a [`Step`](super::Step) and the changed connection out. How connections
//! are kept between packets is [`super::private`]'s business.

mod connection;
mod segment;
mod window;

pub use connection::Connection;
pub use segment::Segment;

use sumun_config::facts::Dir;
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
    /// Every state, by its number.
    pub const ALL: [State; 10] = {
        use State::*;
        [None, SynSent, SynRecv, Established, FinWait, CloseWait, LastAck, TimeWait, Close, SynSent2]
    };

    /// The state of this number; numbers that no state has are [`State::SynSent2`].
    #[inline]
    pub fn from_bits(bits: u32) -> State {
        State::ALL[(bits & 15).min(9) as usize]
    }

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
            State::None | State::SynSent => s.nf_conntrack_tcp_timeout_syn_sent,
            State::SynSent2 => s.nf_conntrack_tcp_timeout_syn_sent2,
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

/// Whether `a` comes before `b` in the circle of sequence numbers.
#[inline]
pub(super) const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `a` comes after `b` in the circle of sequence numbers.
#[inline]
pub(super) const fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

#[cfg(test)]
mod tests;
