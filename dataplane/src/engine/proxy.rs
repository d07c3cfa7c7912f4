//! SYNPROXY on the way of a packet: the target, and what happens to packets of connections that it opened
//! (`synproxy_tg4`, `ipv4_synproxy_hook`).
//!
//! What is sent in a segment's place is local output like all that the router says: it waits until the segment has come to its
//! end. But for one: the server's acknowledgement has its own numbers, so it must have left before those of the connection move.

use super::Engine;
use super::packet::Packet;
use super::running::Running;
use crate::conntrack::tcp::State;
use crate::conntrack::{Ct, Flow, Tracker};
use crate::icmp;
use crate::packet::parse;
use crate::packet::view::{Tcp, tcp_flag};
use crate::reason::DropReason;
use crate::synproxy::{Ends, LONGEST, Offer, Stamps, move_timestamps};
use sumun_config::facts::{CtState, Dir, Facts, Family, proto, status};
use sumun_config::rule::targets::synproxy::Synproxy;

/// The flags that make kinds of segments.
const KIND: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN | tcp_flag::RST;

/// What of a TCP segment matters here.
#[derive(Clone, Copy)]
struct Heard {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    offer: Offer,
}

impl Heard {
    /// The segment of a packet; none where its header is not all there.
    fn of(p: &Packet) -> Option<Heard> {
        let l4 = p.l3().get(usize::from(p.facts.l4_off)..)?;
        let header = Tcp::new(l4)?;
        let options = l4.get(Tcp::LEN..header.header_len().max(Tcp::LEN))?;
        Some(Heard {
            seq: header.sequence(),
            ack: header.acknowledgement(),
            flags: header.flags(),
            window: header.window(),
            offer: Offer::parse(options),
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A segment to be sent in the place of another.
struct Said {
    dir: Dir,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    offer: Offer,
}

/// The ends of the connection of a segment that its client sends.
fn ends(facts: &Facts) -> Ends {
    (facts.src, facts.dst, facts.sport, facts.dport)
}

impl Engine {
    /// The target: a SYN is answered, an acknowledgement opens its connection if it has a cookie, other segments pass.
    #[cold]
    pub(super) fn take_place(&mut self, g: &Running, p: &Packet, rule: &Synproxy) -> Result<(), DropReason> {
        let heard = Heard::of(p).filter(|_| !p.facts.is_fragment() && parse::l4_checksum_ok(&p.facts, p.l3()));
        let mut heard = heard.ok_or(DropReason::MalformedTcp)?;
        match heard.flags & KIND {
            tcp_flag::SYN => {
                self.tracker.counts().syn_received.bump();
                const ECN: u8 = tcp_flag::ECE | tcp_flag::CWR;
                heard.offer.ecn = heard.flags & ECN == ECN;
                self.answer_syn(g, p, &heard, rule);
                Err(DropReason::Synproxy)
            }
            tcp_flag::ACK => match self.open(g, p, &heard, heard.seq) {
                true => Err(DropReason::Synproxy),
                false => Err(DropReason::SynproxyCookie),
            },
            _ => Ok(()),
        }
    }

    /// SYN/ACK in the server's name, without a window: the client is not to send before the server is there.
    fn answer_syn(&mut self, g: &Running, p: &Packet, syn: &Heard, rule: &Synproxy) {
        let facts = &p.facts;
        let mss = syn.offer.mss.unwrap_or(0);
        let seq = self.router.cookies.make(facts.family, &ends(facts), syn.seq, mss, self.now);
        let offer = syn.offer.answer(rule, self.now);
        let flags = tcp_flag::SYN | tcp_flag::ACK | if offer.ecn { tcp_flag::ECE } else { 0 };
        let ack = syn.seq.wrapping_add(1);
        let said = Said { dir: Dir::Reply, seq, ack, flags, window: 0, offer };
        self.send_for(g, p, &said, |tracker, facts| tracker.answer(p.ct, facts));
    }

    /// SYN to the server in the name of a client that sends a cookie back, whose data begin at `seq`. False where it is none.
    fn open(&mut self, g: &Running, p: &Packet, ack: &Heard, seq: u32) -> bool {
        let facts = &p.facts;
        let (syn, cookie) = (ack.seq.wrapping_sub(1), ack.ack.wrapping_sub(1));
        let Some(mss) = self.router.cookies.check(facts.family, &ends(facts), syn, cookie, self.now) else {
            self.tracker.counts().cookie_invalid.bump();
            return false;
        };
        self.tracker.counts().cookie_valid.bump();
        let offer = ack.offer.recall(mss);
        let flags = tcp_flag::SYN | if offer.ecn { tcp_flag::ECE | tcp_flag::CWR } else { 0 };
        // What the client was told is in the acknowledgement number, for when the flow is there ([`Engine::proxied`]).
        let said = Said { dir: Dir::Original, seq: seq.wrapping_sub(1), ack: cookie, flags, window: ack.window, offer };
        self.send_for(g, p, &said, |_, facts| {
            facts.has_ct = true;
            facts.ct_state = CtState::New;
            facts.ct_status = status::CONFIRMED | status::TEMPLATE;
            Ct::Proxied
        })
    }

    /// A packet of a connection that SYNPROXY opened leaves, or comes to the router itself.
    #[cold]
    pub(super) fn proxied(&mut self, g: &Running, flow: Flow, p: &mut Packet) -> Result<(), DropReason> {
        if flow.related || p.facts.proto != proto::TCP {
            return Ok(());
        }
        let heard = Heard::of(p).ok_or(DropReason::MalformedTcp)?;
        let is = |kind| heard.flags & (tcp_flag::SYN | tcp_flag::ACK) == kind;
        match self.tracker.tcp_state(flow) {
            State::Close if heard.has(tcp_flag::RST) && flow.dir == Dir::Reply => {
                self.tracker.proxy_reset(flow, heard.seq, &mut p.facts);
            }
            State::Close if is(tcp_flag::SYN) && flow.dir == Dir::Original => {
                self.tracker.proxy_reopens(flow);
                self.tracker.proxy_opens(flow, heard.ack, heard.offer.stamps.map(|stamps| stamps.echo));
            }
            State::SynSent if is(tcp_flag::ACK) && flow.dir == Dir::Original => {
                // Probes and keep-alives are one number before what comes next.
                if !self.open(g, p, &heard, heard.seq.wrapping_add(1)) {
                    return Err(DropReason::SynproxyCookie);
                }
                self.tracker.counts().cookie_retrans.bump();
                return Err(DropReason::Synproxy);
            }
            State::SynSent => self.tracker.proxy_opens(flow, heard.ack, heard.offer.stamps.map(|stamps| stamps.echo)),
            State::SynRecv if is(tcp_flag::SYN | tcp_flag::ACK) => {
                self.join(g, flow, p, &heard);
                return Err(DropReason::Synproxy);
            }
            _ => {}
        }
        let ahead = self.tracker.time_ahead(flow);
        if ahead != 0 {
            p.edit(|l3, facts| move_timestamps(l3, facts, flow.dir, ahead));
        }
        Ok(())
    }

    /// The server has answered: it gets its acknowledgement, and the client a window.
    fn join(&mut self, g: &Running, flow: Flow, p: &mut Packet, syn: &Heard) {
        let stamps = syn.offer.stamps;
        let swapped = stamps.map(|stamps| Stamps { value: stamps.echo, echo: stamps.value });
        let offer = |stamps| Offer { stamps, ..Offer::default() };
        if let Some(stamps) = stamps {
            self.tracker.proxy_has_time(flow, stamps.value);
        }
        let server = Said {
            dir: Dir::Reply,
            seq: syn.ack,
            ack: syn.seq.wrapping_add(1),
            flags: tcp_flag::ACK,
            window: self.tracker.widest_window(flow) as u16,
            offer: offer(swapped),
        };
        if self.send_for(g, p, &server, |_, _| Ct::None) {
            self.speak_now(g);
        }
        self.tracker.proxy_answered(flow, syn.seq, &mut p.facts);
        let p = &*p;
        let client = Said {
            dir: Dir::Original,
            seq: syn.seq.wrapping_add(1),
            ack: syn.ack,
            flags: tcp_flag::ACK,
            window: syn.window >> syn.offer.scale.unwrap_or(0),
            offer: offer(stamps),
        };
        self.send_for(g, p, &client, |tracker, facts| tracker.answer(p.ct, facts));
    }

    /// Sends what was put in line last, while another packet is on its way.
    fn speak_now(&mut self, g: &Running) {
        let Some(mut own) = self.own.pop_back() else { return };
        let end = self.output(g, &mut own);
        self.finish(g, own, end);
        // That was not the end of the packet that is traced.
        if let Some(trace) = &mut self.trace {
            trace.end = None;
        }
    }

    /// Puts a segment in line that goes the way of its cause or back, and that conntrack takes for what `place` says.
    fn send_for(
        &mut self,
        g: &Running,
        cause: &Packet,
        said: &Said,
        place: impl FnOnce(&mut Tracker, &mut Facts) -> Ct,
    ) -> bool {
        let &Said { dir, seq, ack, flags, window, offer } = said;
        let s = &g.policy.sysctl;
        let hop_limit = match cause.facts.family {
            Family::V4 => s.ip_default_ttl,
            Family::V6 => s.ipv6_hop_limit,
        };
        let mut options = [0; LONGEST];
        let len = offer.write(&mut options);
        let build = |facts: &Facts, _: &[u8], frame: &mut crate::umem::Frame| {
            let (addresses, ports) = match dir {
                Dir::Original => ((facts.src, facts.dst), (facts.sport, facts.dport)),
                Dir::Reply => ((facts.dst, facts.src), (facts.dport, facts.sport)),
            };
            let options = &options[..len];
            icmp::Segment { family: facts.family, addresses, ports, seq, ack, flags, window, options }
                .build(hop_limit, frame)
        };
        let is_said = self.say_as(cause, build, place);
        if is_said {
            self.disown();
        }
        is_said
    }
}
