//! What operators see and do: list, delete, flush. From any thread, while workers run.
//!
//! An entry is copied word by word and the copy is thrown away where its generation or life changed meanwhile. Deleting sets
//! one status bit; from then on lookups take the flow for absent, and the worker that meets it next takes it out. So
//! operators never wait for workers, nor workers for them.

use super::entry::TENTH;
use super::tuple::Tuple;
use super::{Conntrack, Entry, Life, Word, left, millis, sctp, tcp};
use crate::sync::atomic::Ordering;
use std::fmt;
use std::ops::Range;
use sumun_config::facts::{Dir, Facts, Family, PortId, proto, status};
use sumun_config::helper::Helper;

/// One direction of a listed flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// The tuple of its packets.
    pub tuple: Tuple,
    /// Packets seen.
    pub packets: u64,
    /// Bytes of IP seen.
    pub bytes: u64,
}

/// A flow as it was at one moment. Prints as `conntrack -L` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowView {
    /// Tells the flow from others, also from those that had or will have its entry.
    pub id: u32,
    /// As the first packet went.
    pub original: Side,
    /// The other way, as packets look before they are translated back.
    pub reply: Side,
    /// Status bits ([`status`]).
    pub status: u32,
    /// The flow's mark.
    pub mark: u32,
    /// Number of its security context; zero is none.
    pub secmark: u32,
    /// Name of the state, of a TCP connection or an SCTP association.
    pub state: Option<&'static str>,
    /// Milliseconds that it has left.
    pub left: u32,
    /// Labels, by bit.
    pub labels: [u64; 2],
    /// Its helper.
    pub helper: Option<Helper>,
    /// Which of its events are told, by the bits of [`super::change`].
    pub told: u16,
    /// Nanosecond at which it entered the table, to the tenth of a second, of the clock that `now` is of; zero where that was
    /// not kept.
    pub start: u64,
}

impl FlowView {
    /// The flow that has entry number `number`, if there is one that is not over, nor there for its answers only.
    fn copy(conntrack: &Conntrack, number: u32, now: u32) -> Option<FlowView> {
        let entry = conntrack.entry(number);
        let word = entry.word();
        if word.life() != Life::Live {
            return None;
        }
        let view = FlowView::of(conntrack, number, word, now);
        let hidden = status::DYING | status::NAT_CLASH;
        let there = entry.is_same_use(word) && word.status() & hidden == 0 && view.left > 0;
        there.then_some(view)
    }

    /// What entry number `number` holds, whose word is `word`: to be thrown away where the entry was reused meanwhile.
    pub(super) fn of(conntrack: &Conntrack, number: u32, word: Word, now: u32) -> FlowView {
        let (entry, cold) = (conntrack.entry(number), conntrack.cold(number));
        let side = |dir| {
            let (packets, bytes) = entry.counters(dir);
            Side { tuple: entry.tuple(dir), packets, bytes }
        };
        let (original, reply) = (side(Dir::Original), side(Dir::Reply));
        let state = match original.tuple.proto {
            proto::TCP => Some(tcp::State::from_bits(word.protocol()).name()),
            proto::SCTP => Some(sctp::State::from_bits(word.protocol()).name()),
            _ => None,
        };
        FlowView {
            id: word.identity(number),
            original,
            reply,
            status: word.status(),
            mark: entry.mark.load(Ordering::Relaxed),
            secmark: conntrack.secmark_of(number),
            state,
            left: left(entry.deadline.load(Ordering::Relaxed), now).max(0) as u32,
            labels: [0, 1].map(|half: usize| cold.labels[half].load(Ordering::Relaxed)),
            helper: cold.helper(),
            told: cold.event_mask(),
            start: u64::from(cold.start.load(Ordering::Relaxed)) * TENTH,
        }
    }

    /// The zones of both directions.
    pub fn zones(&self) -> [u16; 2] {
        [self.original.tuple.zone, self.reply.tuple.zone]
    }

    /// Whole seconds that it has left.
    pub fn seconds_left(&self) -> u32 {
        self.left / 1000
    }
}

/// The name of a protocol as `conntrack` prints it.
fn name(protocol: u8) -> &'static str {
    match protocol {
        proto::ICMP => "icmp",
        proto::TCP => "tcp",
        proto::UDP => "udp",
        proto::GRE => "gre",
        proto::ICMPV6 => "icmpv6",
        proto::SCTP => "sctp",
        proto::UDPLITE => "udplite",
        proto::DCCP => "dccp",
        _ => "unknown",
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let t = &self.tuple;
        write!(f, "src={} dst={} ", t.family.address(t.src), t.family.address(t.dst))?;
        match t.proto {
            _ if t.is_icmp() => write!(f, "type={} code={} id={} ", t.dport >> 8, t.dport & 0xff, t.sport)?,
            // DCCP has none that conntrack knows of, and is shown with them all the same.
            proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP => {
                write!(f, "sport={} dport={} ", t.sport, t.dport)?
            }
            proto::GRE => write!(f, "srckey={:#x} dstkey={:#x} ", t.sport, t.dport)?,
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Display for FlowView {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let protocol = self.original.tuple.proto;
        write!(f, "{:<8} {protocol} {} ", name(protocol), self.seconds_left())?;
        if let Some(state) = self.state {
            write!(f, "{state} ")?;
        }
        let counted = self.original.packets | self.reply.packets != 0;
        let [original, reply] = self.zones();
        let side = |f: &mut fmt::Formatter, side: &Side, zone: &str| {
            write!(f, "{side}")?;
            if original != reply && side.tuple.zone != 0 {
                write!(f, "zone-{zone}={} ", side.tuple.zone)?;
            }
            if counted { write!(f, "packets={} bytes={} ", side.packets, side.bytes) } else { Ok(()) }
        };
        side(f, &self.original, "orig")?;
        if self.status & status::SEEN_REPLY == 0 {
            write!(f, "[UNREPLIED] ")?;
        }
        side(f, &self.reply, "reply")?;
        if self.status & status::ASSURED != 0 {
            write!(f, "[ASSURED] ")?;
        }
        write!(f, "mark={} ", self.mark)?;
        if original == reply && original != 0 {
            write!(f, "zone={original} ")?;
        }
        if let Some(helper) = self.helper {
            write!(f, "helper={} ", helper.name())?;
        }
        write!(f, "use=1")
    }
}

impl Conntrack {
    /// Shows each flow that is in the table at time `now` (monotonic nanoseconds). Flows that come or go meanwhile may or
    /// may not be among them.
    pub fn list(&self, now: u64, each: impl FnMut(&FlowView)) {
        self.list_part(0, usize::MAX, now, each);
    }

    /// The same for up to `most` entries of the table, from number `from` on; the number to go on with, if there are more.
    pub fn list_part(&self, from: u32, most: usize, now: u64, mut each: impl FnMut(&FlowView)) -> Option<u32> {
        let now = millis(now);
        let (part, next) = self.part(from, most);
        for id in part {
            if let Some(view) = FlowView::copy(self, id, now) {
                each(&view);
            }
        }
        next
    }

    /// Up to `most` entries of those that were ever used, from one on, and the one to go on with.
    fn part(&self, from: u32, most: usize) -> (Range<u32>, Option<u32>) {
        let used = self.depot.used();
        let end = used.min(from.saturating_add(u32::try_from(most).unwrap_or(u32::MAX)));
        (from.min(end)..end, (end < used).then_some(end))
    }

    /// Deletes the flows that `which` says yes to; how many.
    pub fn delete(&self, now: u64, which: impl FnMut(&FlowView) -> bool) -> usize {
        let mut deleted = 0;
        self.delete_part(0, usize::MAX, now, which, |_| deleted += 1);
        deleted
    }

    /// The same for up to `most` entries of the table, from number `from` on; shows those that were deleted. The number to
    /// go on with, if there are more.
    pub fn delete_part(
        &self,
        from: u32,
        most: usize,
        now: u64,
        mut which: impl FnMut(&FlowView) -> bool,
        mut deleted: impl FnMut(&FlowView),
    ) -> Option<u32> {
        let now = millis(now);
        let (part, next) = self.part(from, most);
        for id in part {
            let entry = self.entry(id);
            let word = entry.word();
            if let Some(view) = FlowView::copy(self, id, now).filter(|view| which(view))
                && self.doom(entry, word)
            {
                self.tell_deleted(view);
                deleted(&view);
            }
        }
        next
    }

    /// Deletes all flows; how many.
    pub fn flush(&self, now: u64) -> usize {
        self.delete(now, |_| true)
    }

    /// The flow that has this tuple in this direction, if there is one.
    pub fn get(&self, tuple: &Tuple, dir: Dir, now: u64) -> Option<FlowView> {
        let words = tuple.words();
        let (id, _, _) = self.find_as(Some(dir), self.hasher.hash(&words), &words)?;
        let view = FlowView::copy(self, id, millis(now))?;
        // The entry may have been given to another flow since it was found.
        let side = if dir == Dir::Original { view.original } else { view.reply };
        (side.tuple == *tuple).then_some(view)
    }

    /// Whether there is a flow whose packets are mapped.
    pub fn has_mappings(&self) -> bool {
        (0..self.depot.used())
            .map(|id| self.entry(id).word())
            .any(|word| word.life() == Life::Live && word.status() & (status::SRC_NAT | status::DST_NAT) != 0)
    }

    /// Deletes the flows to which MASQUERADE gave an address that is `gone` (`nf_nat_masquerade_inet`); how many. The
    /// ends would wait for packets that never come back, and another host may get the address.
    pub fn forget_masqueraded(&self, now: u64, gone: impl Fn(PortId, Family, u128) -> bool) -> usize {
        let now = millis(now);
        let mut deleted = 0;
        for id in 0..self.depot.used() {
            let entry = self.entry(id);
            let word = entry.word();
            let Some(port) = self.masqueraded_on(id).filter(|_| word.life() == Life::Live) else { continue };
            let view = FlowView::of(self, id, word, now);
            let reply = view.reply.tuple;
            if entry.is_same_use(word) && gone(port, reply.family, reply.dst) && self.doom(entry, word) {
                self.tell_deleted(view);
                deleted += 1;
            }
        }
        deleted
    }

    /// Sets DYING on the flow that had this word, if it still lives and nobody did before.
    fn doom(&self, entry: &Entry, mut word: Word) -> bool {
        while word.life() == Life::Live && word.status() & status::DYING == 0 {
            // Counted first: the worker that sees the bit takes one off.
            self.deleted.fetch_add(1, Ordering::Relaxed);
            match entry.swap(word, word.with_status(status::DYING)) {
                Ok(()) => return true,
                Err(now) => {
                    self.deleted.fetch_sub(1, Ordering::Relaxed);
                    if !entry.is_same_use(word) {
                        return false;
                    }
                    word = now;
                }
            }
        }
        false
    }

    /// The flow that a packet with these facts belongs to, if there is one.
    pub fn flow_of(&self, facts: &Facts, now: u64) -> Option<(FlowView, Dir)> {
        let words = Tuple::of(facts).words();
        let (id, dir, _) = self.find(self.hasher.hash(&words), &words)?;
        FlowView::copy(self, id, millis(now)).map(|view| (view, dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(proto: u8, state: Option<&'static str>, status: u32) -> FlowView {
        let dport = if proto == proto::ICMP { 8 << 8 } else { 80 };
        let t = Tuple { src: 0x0a000002, dst: 0x0a000102, sport: 5000, dport, proto, family: Family::V4, zone: 0 };
        let side = |tuple| Side { tuple, packets: 0, bytes: 0 };
        FlowView {
            id: 1,
            original: side(t),
            reply: side(t.inverted().unwrap()),
            status,
            mark: 7,
            secmark: 0,
            state,
            left: 431_999_500,
            labels: [0; 2],
            helper: None,
            told: u16::MAX,
            start: 0,
        }
    }

    #[test]
    fn zones_stand_where_they_hold() {
        let zoned = |original, reply| {
            let mut view = view(89, None, status::SEEN_REPLY);
            (view.original.tuple.zone, view.reply.tuple.zone) = (original, reply);
            (view.original.packets, view.original.bytes) = (1, 30);
            view.to_string()
        };
        let expected = |original: &str, reply: &str, both: &str| {
            format!(
                "unknown  89 431999 src=10.0.0.2 dst=10.0.1.2 {original}packets=1 bytes=30 \
                src=10.0.1.2 dst=10.0.0.2 {reply}packets=0 bytes=0 mark=7 {both}use=1"
            )
        };
        assert_eq!(zoned(5, 5), expected("", "", "zone=5 "));
        assert_eq!(zoned(6, 0), expected("zone-orig=6 ", "", ""));
        assert_eq!(zoned(0, 7), expected("", "zone-reply=7 ", ""));
    }

    #[test]
    fn flows_print_as_conntrack_prints_them() {
        let assured = status::SEEN_REPLY | status::ASSURED;
        let mut counted = view(proto::UDP, None, 0);
        let helped = FlowView { helper: Some(Helper::Tftp), ..view(proto::UDP, None, status::SEEN_REPLY) };
        (counted.original.packets, counted.original.bytes) = (2, 56);
        for (view, line) in [
            (
                view(proto::TCP, Some("ESTABLISHED"), assured),
                "tcp      6 431999 ESTABLISHED src=10.0.0.2 dst=10.0.1.2 sport=5000 dport=80 src=10.0.1.2 dst=10.0.0.2 sport=80 dport=5000 [ASSURED] mark=7 use=1",
            ),
            (
                counted,
                "udp      17 431999 src=10.0.0.2 dst=10.0.1.2 sport=5000 dport=80 packets=2 bytes=56 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2 sport=80 dport=5000 packets=0 bytes=0 mark=7 use=1",
            ),
            (
                helped,
                "udp      17 431999 src=10.0.0.2 dst=10.0.1.2 sport=5000 dport=80 src=10.0.1.2 dst=10.0.0.2 sport=80 dport=5000 mark=7 helper=tftp use=1",
            ),
            (
                view(proto::ICMP, None, status::SEEN_REPLY),
                "icmp     1 431999 src=10.0.0.2 dst=10.0.1.2 type=8 code=0 id=5000 src=10.0.1.2 dst=10.0.0.2 type=0 code=0 id=5000 mark=7 use=1",
            ),
            (
                view(89, None, 0),
                "unknown  89 431999 src=10.0.0.2 dst=10.0.1.2 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2 mark=7 use=1",
            ),
        ] {
            assert_eq!(view.to_string(), line);
        }
    }
}
