//! SCTP: what the chunks of a packet do to an association, as `nf_conntrack_proto_sctp.c` has it (RFC 9260).

use super::Invalid;
use super::private::{PRIVATE, Step};
use sumun_config::facts::{Dir, status};
use sumun_config::model::Sysctl;

/// States of an association, with the kernel's names and numbers. They are what was seen, not what an end is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Nothing seen yet.
    None,
    /// INIT seen, or SHUTDOWN COMPLETE, or ABORT.
    Closed,
    /// INIT ACK seen.
    CookieWait,
    /// COOKIE ECHO seen.
    CookieEchoed,
    /// COOKIE ACK seen.
    Established,
    /// SHUTDOWN seen in the original direction.
    ShutdownSent,
    /// SHUTDOWN seen in the reply direction.
    ShutdownReceived,
    /// SHUTDOWN ACK seen.
    ShutdownAckSent,
    /// HEARTBEAT seen in a new flow: a further path of an association.
    HeartbeatSent,
}

impl State {
    /// Every state, by its number.
    pub const ALL: [State; 9] = {
        use State::*;
        [
            None,
            Closed,
            CookieWait,
            CookieEchoed,
            Established,
            ShutdownSent,
            ShutdownReceived,
            ShutdownAckSent,
            HeartbeatSent,
        ]
    };

    /// The state of this number.
    pub fn from_bits(bits: u32) -> State {
        State::ALL[(bits & 15).min(8) as usize]
    }

    /// The name that `conntrack -L` prints.
    pub const fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::Closed => "CLOSED",
            State::CookieWait => "COOKIE_WAIT",
            State::CookieEchoed => "COOKIE_ECHOED",
            State::Established => "ESTABLISHED",
            State::ShutdownSent => "SHUTDOWN_SENT",
            State::ShutdownReceived => "SHUTDOWN_RECD",
            State::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            State::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }

    /// How long an association in this state lives without a packet, in milliseconds.
    pub fn timeout(self, s: &Sysctl) -> u64 {
        match self {
            State::None | State::Closed => s.nf_conntrack_sctp_timeout_closed,
            State::CookieWait => s.nf_conntrack_sctp_timeout_cookie_wait,
            State::CookieEchoed => s.nf_conntrack_sctp_timeout_cookie_echoed,
            State::Established => s.nf_conntrack_sctp_timeout_established,
            State::ShutdownSent => s.nf_conntrack_sctp_timeout_shutdown_sent,
            State::ShutdownReceived => s.nf_conntrack_sctp_timeout_shutdown_recd,
            State::ShutdownAckSent => s.nf_conntrack_sctp_timeout_shutdown_ack_sent,
            State::HeartbeatSent => s.nf_conntrack_sctp_timeout_heartbeat_sent,
        }
    }

    /// Whether an ASSURED association in this state may go when the table is nearly full (`sctp_can_early_drop`).
    pub fn is_closing(self) -> bool {
        matches!(self, State::ShutdownSent | State::ShutdownReceived | State::ShutdownAckSent)
    }
}

/// Chunk types that mean something here.
mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
    /// The sender has no association and reflects the tag it was sent (RFC 9260 8.5.1).
    pub const REFLECTED: u8 = 1;
}

/// The state table; none is invalid. Chunks that it does not know change nothing.
fn next(state: State, dir: Dir, kind: u8) -> Option<State> {
    use State::*;
    let original = dir == Dir::Original;
    if !matches!(kind, 1 | 2 | 4..=11 | 14) {
        return Some(state);
    }
    Some(match (kind, state) {
        (_, None) if !original => return Option::None,
        (chunk::HEARTBEAT, None | HeartbeatSent) => HeartbeatSent,
        (chunk::HEARTBEAT_ACK, HeartbeatSent) => {
            if original {
                HeartbeatSent
            } else {
                Established
            }
        }
        (_, HeartbeatSent) if !original => return Option::None,
        (chunk::ABORT, _) => Closed,
        (chunk::INIT, None | ShutdownSent | ShutdownReceived) if original => Closed,
        (chunk::INIT, HeartbeatSent) => CookieWait,
        (chunk::INIT_ACK, Closed) if !original => CookieWait,
        (chunk::SHUTDOWN, Established) => {
            if original {
                ShutdownSent
            } else {
                ShutdownReceived
            }
        }
        (chunk::SHUTDOWN_ACK, None | HeartbeatSent | ShutdownSent | ShutdownReceived) => ShutdownAckSent,
        (chunk::ERROR, CookieEchoed) if !original => Closed,
        // From either side: both may have begun at once.
        (chunk::COOKIE_ECHO, CookieWait) => CookieEchoed,
        (chunk::COOKIE_ACK, CookieEchoed) => Established,
        (chunk::SHUTDOWN_COMPLETE, ShutdownAckSent) => Closed,
        (_, None | HeartbeatSent) => Closed,
        (_, state) => state,
    })
}

/// A packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    tag: u32,
    chunks: &'a [u8],
    /// A bit for each type below 16 that is in it.
    types: u16,
}

#[derive(Clone, Copy)]
struct Chunk<'a> {
    kind: u8,
    flags: u8,
    len: u16,
    /// Everything behind its header.
    rest: &'a [u8],
}

impl Chunk<'_> {
    /// The tag that an INIT or INIT ACK announces, if all of its fixed part is there.
    fn announced(&self) -> Option<u32> {
        let fixed: &[u8; 16] = self.rest.first_chunk()?;
        Some(u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]))
    }
}

struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let (&[kind, flags, high, low], rest) = self.0.split_first_chunk()?;
        let len = u16::from_be_bytes([high, low]);
        self.0 = self.0.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
        // A length of zero would go round for ever; who sees the chunk refuses the packet.
        if len == 0 {
            self.0 = &[];
        }
        Some(Chunk { kind, flags, len, rest })
    }
}

impl<'a> Packet<'a> {
    /// The packet that is an IP packet's payload.
    ///
    /// # Errors
    /// Chunks that may not come together (RFC 9260 6.10), or none.
    pub fn of(l4: &'a [u8]) -> Result<Packet<'a>, Invalid> {
        const HEADER: usize = 12;
        let tag = l4.get(4..8).and_then(|b| b.first_chunk()).copied().map(u32::from_be_bytes);
        let (Some(tag), Some(chunks)) = (tag, l4.get(HEADER..)) else { return Err(Invalid::Truncated) };
        let (mut types, mut alone) = (0, false);
        let mut count = 0;
        for c in Chunks(chunks) {
            alone |= matches!(c.kind, chunk::INIT | chunk::INIT_ACK | chunk::SHUTDOWN_COMPLETE);
            let first = alone || matches!(c.kind, chunk::COOKIE_ACK | chunk::COOKIE_ECHO);
            if c.len == 0 || (first && count != 0) {
                return Err(Invalid::SctpChunks);
            }
            if c.kind < 16 {
                types |= 1 << c.kind;
            }
            count += 1;
        }
        if count == 0 { Err(Invalid::SctpChunks) } else { Ok(Packet { tag, chunks, types }) }
    }

    fn has(&self, kinds: &[u8]) -> bool {
        kinds.iter().any(|kind| self.types & 1 << kind != 0)
    }
}

/// What is known of an association: the state word has the state, the private words the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Association {
    /// Its state.
    pub state: State,
    /// The verification tags of packets in each direction.
    tags: [u32; 2],
    /// A HEARTBEAT came with another tag, from this direction: its answer tells whether the ends have changed tags.
    doubted: Option<Dir>,
    /// Which directions an INIT was seen in that no COOKIE ACK has answered: both where both sides began at once.
    begun: [bool; 2],
}

impl Association {
    /// Of which nothing is known.
    pub const NEW: Association = Association { state: State::None, tags: [0; 2], doubted: None, begun: [false; 2] };

    /// The private words.
    pub(crate) fn words(&self) -> [u64; PRIVATE] {
        let doubted = self.doubted.map_or(0, |dir| 1 + dir as u64);
        let [original, reply] = self.begun.map(u64::from);
        [u64::from(self.tags[0]) | u64::from(self.tags[1]) << 32, doubted | original << 2 | reply << 3, 0, 0, 0, 0, 0]
    }

    /// Out of the state word's protocol half and the private words.
    pub(crate) fn from_words(state: u32, w: &[u64; PRIVATE]) -> Association {
        let doubted = match w[1] & 3 {
            1 => Some(Dir::Original),
            2 => Some(Dir::Reply),
            _ => None,
        };
        let begun = [w[1] & 4 != 0, w[1] & 8 != 0];
        Association { state: State::from_bits(state), tags: [w[0] as u32, (w[0] >> 32) as u32], doubted, begun }
    }

    /// The association that a packet begins (`sctp_new`).
    fn begin(p: &Packet) -> Result<Association, Invalid> {
        // RFC 9260 8.4: these belong to an association that we do not know.
        if p.has(&[chunk::ABORT, chunk::SHUTDOWN_COMPLETE, chunk::COOKIE_ACK]) {
            return Err(Invalid::SctpNew);
        }
        let mut a = Association::NEW;
        for c in Chunks(p.chunks) {
            match (c.kind, next(State::None, Dir::Original, c.kind)) {
                (_, None | Some(State::None)) => return Err(Invalid::SctpNew),
                (chunk::INIT, _) if p.tag != 0 => return Err(Invalid::SctpTag),
                (chunk::INIT, _) => a.tags[Dir::Reply as usize] = c.announced().ok_or(Invalid::SctpChunks)?,
                (chunk::HEARTBEAT, _) => a.tags[Dir::Original as usize] = p.tag,
                // Out of the blue (RFC 9260 8.4): a SHUTDOWN COMPLETE that reflects the tag is due.
                (chunk::SHUTDOWN_ACK, _) => a.tags[Dir::Reply as usize] = p.tag,
                _ => {}
            }
        }
        Ok(a)
    }

    /// What a packet does (`nf_conntrack_sctp_packet`). `bits` is the flow's status before it, and gets what is to be set.
    pub fn judge(&mut self, dir: Dir, p: &Packet, bits: &mut u32, s: &Sysctl) -> Step {
        let confirmed = *bits & status::CONFIRMED != 0;
        if !confirmed && self.state == State::None {
            match Association::begin(p) {
                Ok(new) => *self = new,
                Err(why) => return Step::invalid(why),
            }
        }
        const OWN_RULES: &[u8] = &[
            chunk::INIT,
            chunk::SHUTDOWN_COMPLETE,
            chunk::COOKIE_ECHO,
            chunk::ABORT,
            chunk::SHUTDOWN_ACK,
            chunk::HEARTBEAT,
            chunk::HEARTBEAT_ACK,
        ];
        if !p.has(OWN_RULES) && p.tag != self.tags[dir as usize] {
            return Step::invalid(Invalid::SctpTag);
        }
        let mut ignore = false;
        for c in Chunks(p.chunks) {
            match self.check_tag(dir, p, &c, ignore) {
                Ok(true) => {}
                Ok(false) => {
                    ignore = true;
                    continue;
                }
                Err(why) => return Step::invalid(why),
            }
            let old = self.state;
            let Some(new) = next(old, dir, c.kind) else { return Step::invalid(Invalid::SctpState) };
            match c.kind {
                chunk::INIT => {
                    let Some(tag) = c.announced() else { return Step::invalid(Invalid::SctpChunks) };
                    self.init(dir, old, tag);
                    // A repeated INIT must not keep the flow (and its mapping) alive for ever.
                    ignore |= (old, new) == (State::Closed, State::Closed) && confirmed;
                }
                chunk::INIT_ACK => {
                    let Some(tag) = c.announced() else { return Step::invalid(Invalid::SctpChunks) };
                    if !self.init_ack(dir, tag) {
                        return Step::invalid(Invalid::SctpTag);
                    }
                }
                _ => {}
            }
            self.state = new;
            if old != new && new == State::Established {
                *bits |= status::ASSURED;
            }
        }
        if ignore { Step::Ignored } else { Step::Moved { timeout: Some(self.state.timeout(s)) } }
    }

    /// An INIT announces a tag. One that announces what is known is old or repeated, and begins nothing.
    fn init(&mut self, dir: Dir, old: State, tag: u32) {
        let other = dir.other() as usize;
        if old == State::None || self.tags[other] != tag {
            if self.begun == [true; 2] {
                self.begun[other] = false;
            }
            self.begun[dir as usize] = true;
        }
        self.tags[other] = tag;
    }

    /// An INIT ACK announces a tag. False where it is of a handshake that was overtaken by one from the other side
    /// (RFC 9260 5.2.4): its tag is not the one that the ends go on with.
    fn init_ack(&mut self, dir: Dir, tag: u32) -> bool {
        let other = dir.other() as usize;
        let known = self.tags[other];
        if known != tag && ((!self.begun[other] && known != 0) || self.begun == [true; 2]) {
            return false;
        }
        self.tags[other] = tag;
        true
    }

    /// RFC 9260 8.5.1 and, for heartbeats, what restarted ends do: whether the chunk counts.
    fn check_tag(&mut self, dir: Dir, p: &Packet, c: &Chunk, ignore: bool) -> Result<bool, Invalid> {
        let own = self.tags[dir as usize];
        let good = match c.kind {
            chunk::INIT => p.tag == 0,
            chunk::ABORT | chunk::SHUTDOWN_COMPLETE if c.flags & chunk::REFLECTED != 0 => {
                p.tag == self.tags[dir.other() as usize]
            }
            chunk::ABORT | chunk::SHUTDOWN_COMPLETE | chunk::COOKIE_ECHO => p.tag == own,
            chunk::COOKIE_ACK => {
                self.begun = [false; 2];
                true
            }
            chunk::HEARTBEAT | chunk::HEARTBEAT_ACK if own == 0 => {
                self.tags[dir as usize] = p.tag;
                true
            }
            chunk::HEARTBEAT | chunk::HEARTBEAT_ACK if p.tag == own => {
                self.doubted = None;
                true
            }
            chunk::HEARTBEAT | chunk::HEARTBEAT_ACK if p.has(&[chunk::DATA]) || ignore => false,
            chunk::HEARTBEAT => {
                self.doubted = Some(dir);
                return Ok(false);
            }
            chunk::HEARTBEAT_ACK if self.doubted == Some(dir.other()) => {
                self.doubted = None;
                self.tags[dir as usize] = p.tag;
                self.tags[dir.other() as usize] = 0;
                true
            }
            chunk::HEARTBEAT_ACK => false,
            _ => true,
        };
        if good { Ok(true) } else { Err(Invalid::SctpTag) }
    }
}

#[cfg(test)]
#[path = "sctp_tests.rs"]
mod tests;
