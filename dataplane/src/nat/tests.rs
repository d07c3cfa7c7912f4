//! Mappings as a router makes them: whole ways of packets through the hooks.

use super::*;
use crate::conntrack::tests::{A, B, Sample, ping, sample, tcp, udp};
use crate::conntrack::{Conntrack, Ct, Flow, Tracker};
use crate::packet::{parse, sample as bytes};
use crate::reason::DropReason;
use proptest::prelude::*;
use std::sync::Arc;
use sumun_config::facts::{CtState, Facts, Family, PortId, proto};
use sumun_config::model::Sysctl;

/// The router's outer address.
const OUTER: u128 = 0xcb00_7101;
const C: u128 = 0x0a00_0003;

fn range(addr: u128) -> NatRange {
    NatRange { addresses: Some((addr, addr)), ..NatRange::default() }
}

fn ports(low: u16, high: u16) -> NatRange {
    NatRange { ports: Some((low, high)), ..range(OUTER) }
}

struct Router {
    t: Tracker,
    shared: Arc<Conntrack>,
    random: u32,
    dnat: Option<NatRange>,
    snat: Option<NatRange>,
    now: u64,
}

impl Router {
    fn new(dnat: Option<NatRange>, snat: Option<NatRange>) -> Router {
        let shared = Arc::new(Conntrack::new(4096, 1, 5));
        Router { t: Tracker::new(shared.clone(), 0), shared, random: 1, dnat, snat, now: 0 }
    }

    /// PREROUTING and POSTROUTING.
    fn forward(&mut self, p: &mut Sample) -> Result<CtState, DropReason> {
        let ct = self.t.track(&mut p.facts, &p.l3, self.now, &Sysctl::default())?;
        let result = self.hooks(ct, p);
        if result.is_err() {
            self.t.abandon(ct);
        }
        self.t.quiescent(self.now);
        result?;
        // Whatever was rewritten, the facts are those of the bytes and all checksums hold.
        let fresh = parse::ip(p.facts.family, &p.l3).expect("still a packet");
        assert_eq!(
            (fresh.src, fresh.dst, fresh.sport, fresh.dport),
            (p.facts.src, p.facts.dst, p.facts.sport, p.facts.dport)
        );
        assert!(parse::l4_checksum_ok(&fresh, &p.l3));
        Ok(p.facts.ct_state)
    }

    fn hooks(&mut self, ct: Ct, p: &mut Sample) -> Result<(), DropReason> {
        if let Ct::Flow(flow) = ct {
            self.hook(flow, Hook::Prerouting, self.dnat, p)?;
            self.hook(flow, Hook::Postrouting, self.snat, p)?;
        }
        self.t.confirm(ct, &mut p.facts, self.now)
    }

    fn hook(&mut self, flow: Flow, hook: Hook, range: Option<NatRange>, p: &mut Sample) -> Result<(), DropReason> {
        let manip = Manip::at(hook).unwrap();
        if self.t.is_unmapped(flow, manip) {
            self.random = self.random.wrapping_mul(1664525).wrapping_add(1013904223);
            self.t.map(flow, manip, range.as_ref(), &p.facts, self.random)?;
        }
        self.t.translate(flow, hook, &mut p.l3, &mut p.facts)
    }

    fn sent(&mut self, mut p: Sample) -> Sample {
        self.forward(&mut p).expect("forwarded");
        p
    }
}

fn ends(p: &Sample) -> (u128, u16, u128, u16) {
    (p.facts.src, p.facts.sport, p.facts.dst, p.facts.dport)
}

#[test]
fn masquerade_keeps_the_port_where_it_is_free_and_undoes_itself_in_replies() {
    let mut r = Router::new(None, Some(range(OUTER)));
    let p = r.sent(udp(A, 1000, B, 53));
    assert_eq!(ends(&p), (OUTER, 1000, B, 53));
    assert_eq!(p.facts.ct_status & (status::SRC_NAT | status::DST_NAT), status::SRC_NAT);
    let p = r.sent(udp(B, 53, OUTER, 1000));
    assert_eq!(ends(&p), (B, 53, A, 1000));
    assert_eq!(p.facts.ct_state, CtState::Established);
}

#[test]
fn two_clients_with_the_same_port_get_different_ports_of_the_same_class() {
    for (port, class) in [(80u16, 1..=511u16), (600, 600..=1023), (40_000, 1024..=65535)] {
        let mut r = Router::new(None, Some(range(OUTER)));
        assert_eq!(ends(&r.sent(tcp(A, port, B, 443, 2))), (OUTER, port, B, 443));
        let second = r.sent(tcp(C, port, B, 443, 2));
        let mapped = second.facts.sport;
        assert!(mapped != port && class.contains(&mapped), "{port} to {mapped}");
        assert_eq!(ends(&r.sent(tcp(B, 443, OUTER, mapped, 0x12))), (B, 443, C, port));
        assert_eq!(ends(&r.sent(tcp(B, 443, OUTER, port, 0x12))), (B, 443, A, port));
        // To another server the port is free.
        assert_eq!(r.sent(tcp(C, port, B + 1, 443, 2)).facts.sport, mapped, "but the source has a mapping already");
    }
}

#[test]
fn a_source_keeps_its_mapping_for_other_destinations() {
    let snat = NatRange { ports: Some((5000, 5999)), ..range(OUTER) };
    let mut r = Router::new(None, Some(snat));
    let first = r.sent(udp(A, 1000, B, 53)).facts.sport;
    assert!((5000..6000).contains(&first));
    for n in 1..20 {
        assert_eq!(r.sent(udp(A, 1000, B + n, 53)).facts.sport, first);
    }
    // Until the flows are gone.
    assert_eq!(r.shared.flush(0), 20);
    for turn in 0..100 {
        r.t.sweep(turn * 1_000_000_000, 10_000);
    }
    assert_eq!(r.shared.stats().delete, 20);
}

#[test]
fn destination_mapping_reaches_the_server_and_answers_come_from_the_old_address() {
    let server = 0xc0a8_0005;
    let dnat = NatRange { ports: Some((8080, 8080)), ..range(server) };
    let mut r = Router::new(Some(dnat), None);
    let p = r.sent(tcp(A, 1000, OUTER, 80, 2));
    assert_eq!(ends(&p), (A, 1000, server, 8080));
    assert_eq!(p.facts.ct_status & (status::SRC_NAT | status::DST_NAT), status::DST_NAT);
    assert_eq!(ends(&r.sent(tcp(server, 8080, A, 1000, 0x12))), (OUTER, 80, A, 1000));
    assert_eq!(ends(&r.sent(tcp(A, 1000, OUTER, 80, 0x10))), (A, 1000, server, 8080));
}

#[test]
fn a_hairpin_is_mapped_at_both_ends() {
    let mut r = Router::new(Some(NatRange { ports: Some((8080, 8080)), ..range(C) }), Some(range(OUTER)));
    assert_eq!(ends(&r.sent(tcp(A, 1000, OUTER, 80, 2))), (OUTER, 1000, C, 8080));
    assert_eq!(ends(&r.sent(tcp(C, 8080, OUTER, 1000, 0x12))), (OUTER, 80, A, 1000));
}

#[test]
fn a_host_that_reaches_itself_through_the_router_hears_answers() {
    let mut r = Router::new(Some(range(A)), Some(range(OUTER)));
    let sent = r.sent(udp(A, 1000, OUTER, 1000));
    assert_eq!(ends(&sent), (OUTER, 1000, A, 1000));
    let mut again = udp(A, 1000, OUTER, 1000);
    assert_eq!(r.forward(&mut again), Ok(CtState::Established));
    assert_eq!((ends(&again), again.facts.ct_dir), ((OUTER, 1000, A, 1000), Dir::Reply));
}

#[test]
fn ports_shifted_from_a_base_keep_their_distance() {
    let dnat = NatRange { ports: Some((2000, 2099)), port_base: Some(1000), ..range(C) };
    let mut r = Router::new(Some(dnat), None);
    for (port, mapped) in [(1000, 2000), (1042, 2042), (1099, 2099), (1100, 2000)] {
        assert_eq!(ends(&r.sent(tcp(A, 7, OUTER, port, 2))), (A, 7, C, mapped));
        r.shared.flush(0);
    }
}

#[test]
fn a_port_range_serves_until_it_is_exhausted_and_again_when_flows_end() {
    let mut r = Router::new(None, Some(ports(100, 103)));
    let mut got: Vec<u16> = (0..4).map(|n| r.sent(udp(A, 1000 + n, B, 53)).facts.sport).collect();
    got.sort();
    assert_eq!(got, [100, 101, 102, 103]);
    assert_eq!(r.forward(&mut udp(A, 2000, B, 53)), Err(DropReason::NatExhausted));
    assert_eq!(r.shared.count(), 4);
    // The range is full only towards this server.
    assert!((100..=103).contains(&r.sent(udp(A, 2000, B + 1, 53)).facts.sport));
    r.now = 31_000_000_000;
    assert!((100..=103).contains(&r.sent(udp(A, 2000, B, 53)).facts.sport));
}

#[test]
fn a_closed_connection_gives_its_port_to_one_that_is_ahead_of_it() {
    let syn = |client: u128, seq: u32| {
        let mut syn = bytes::tcp(1000, 80, 2, &[], b"");
        syn[4..8].copy_from_slice(&seq.to_be_bytes());
        sample(Family::V4, client, B, proto::TCP, &syn)
    };
    for (seq, goes) in [(5001, true), (5000, false), (4000, false)] {
        let mut r = Router::new(None, Some(ports(7000, 7000)));
        r.sent(syn(A, 5000));
        assert_eq!(r.forward(&mut syn(C, 6000)), Err(DropReason::NatExhausted), "it is not over");
        let mut answer = bytes::tcp(80, 7000, 0x12, &[], b"");
        answer[8..12].copy_from_slice(&5001u32.to_be_bytes());
        r.sent(sample(Family::V4, B, OUTER, proto::TCP, &answer));
        let mut reset = bytes::tcp(1000, 80, 4, &[], b"");
        reset[4..8].copy_from_slice(&5001u32.to_be_bytes());
        r.sent(sample(Family::V4, A, B, proto::TCP, &reset));
        assert_eq!(r.forward(&mut syn(C, seq)).is_ok(), goes, "{seq}");
        assert_eq!(r.shared.count(), 1);
    }
}

#[test]
fn random_ports_are_chosen_even_where_the_old_one_is_free() {
    for (random, random_fully) in [(true, false), (false, true)] {
        let mut r = Router::new(None, Some(NatRange { random, random_fully, ..range(OUTER) }));
        let kept = (0..50).filter(|n| r.sent(udp(A, 2000 + n, B, 53)).facts.sport == 2000 + n).count();
        assert!(kept <= 1);
    }
}

#[test]
fn addresses_of_a_range_are_spread_by_source_and_destination_or_source_alone() {
    let addresses = Some((OUTER, OUTER + 9));
    for persistent in [false, true] {
        let mut r = Router::new(None, Some(NatRange { addresses, persistent, ..NatRange::default() }));
        let mut by_destination = std::collections::BTreeSet::new();
        let mut by_source = std::collections::BTreeSet::new();
        for n in 0..60u16 {
            by_destination.insert(r.sent(udp(A, 1000 + n, B + u128::from(n), 53)).facts.src);
            by_source.insert(r.sent(udp(A + 1 + u128::from(n), 1, B, 53)).facts.src);
        }
        assert!(by_source.len() > 5 && by_source.iter().all(|a| (OUTER..OUTER + 10).contains(a)));
        assert_eq!(by_destination.len() == 1, persistent);
    }
}

#[test]
fn ping_identifiers_are_mapped_like_ports() {
    let mut r = Router::new(None, Some(range(OUTER)));
    assert_eq!(r.sent(ping(A, B, 8, 7)).facts.sport, 7);
    let second = r.sent(ping(C, B, 8, 7));
    let id = second.facts.sport;
    assert_ne!(id, 7);
    let answer = r.sent(ping(B, OUTER, 0, id));
    assert_eq!((answer.facts.dst, answer.facts.sport), (C, 7));
    let answer = r.sent(ping(B, OUTER, 0, 7));
    assert_eq!((answer.facts.dst, answer.facts.sport), (A, 7));
}

#[test]
fn a_flow_without_a_rule_gives_way_to_a_mapped_one() {
    let mut r = Router::new(None, Some(range(OUTER)));
    r.sent(udp(A, 1000, B, 53));
    // The router's own flow from the same address and port would have the same answers.
    r.snat = None;
    let own = r.sent(udp(OUTER, 1000, B, 53));
    assert_ne!(own.facts.sport, 1000);
    assert_eq!(own.facts.ct_status & status::SRC_NAT, status::SRC_NAT);
    assert_eq!(ends(&r.sent(udp(B, 53, OUTER, own.facts.sport))), (B, 53, OUTER, 1000));
    assert_eq!(ends(&r.sent(udp(OUTER, 1001, B, 53))), (OUTER, 1001, B, 53));
}

#[test]
fn unconfirmed_flows_of_the_burst_count_as_taken() {
    let mut r = Router::new(None, None);
    let s = Sysctl::default();
    let mut seen = Vec::new();
    let mut burst: Vec<Sample> = [A, C].map(|a| udp(a, 1000, B, 53)).into();
    let cts: Vec<Ct> = burst.iter_mut().map(|p| r.t.track(&mut p.facts, &p.l3, 0, &s).unwrap()).collect();
    for (ct, p) in cts.iter().zip(&mut burst) {
        let Ct::Flow(flow) = ct else { panic!() };
        r.hook(*flow, Hook::Postrouting, Some(range(OUTER)), p).unwrap();
        seen.push(p.facts.sport);
    }
    assert_ne!(seen[0], seen[1]);
    for (ct, p) in cts.iter().zip(&mut burst) {
        r.t.confirm(*ct, &mut p.facts, 0).unwrap();
    }
    assert_eq!(r.shared.count(), 2);
}

#[test]
fn a_mapping_is_chosen_once() {
    let mut r = Router::new(None, Some(range(OUTER)));
    r.sent(tcp(A, 1000, B, 80, 2));
    r.snat = Some(range(OUTER + 1));
    assert_eq!(r.sent(tcp(A, 1000, B, 80, 2)).facts.src, OUTER);
}

#[test]
fn two_first_packets_of_a_flow_that_were_mapped_differently_both_get_their_answers() {
    let shared = Arc::new(Conntrack::new(64, 2, 1));
    let router = |worker, server| Router {
        t: Tracker::new(shared.clone(), worker),
        shared: shared.clone(),
        random: 1,
        dnat: Some(range(server)),
        snat: None,
        now: 0,
    };
    let (mut one, mut two) = (router(0, C), router(1, C + 1));
    let mut race = |mut p: Sample, mut q: Sample| {
        let track = |r: &mut Router, p: &mut Sample| r.t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()).unwrap();
        let (a, b) = (track(&mut one, &mut p), track(&mut two, &mut q));
        one.hooks(a, &mut p).unwrap();
        let result = two.hooks(b, &mut q);
        assert_eq!((p.facts.dst, q.facts.dst), (C, C + 1));
        result
    };
    let connection = || tcp(A, 1000, OUTER, 53, 2);
    assert_eq!(race(connection(), connection()), Err(DropReason::ConntrackClash), "a SYN is repeated");
    let question = || udp(A, 1000, OUTER, 53);
    assert_eq!(race(question(), question()), Ok(()));
    for (r, server) in [(&mut one, C + 1), (&mut two, C)] {
        assert_eq!(ends(&r.sent(udp(server, 53, A, 1000))), (OUTER, 53, A, 1000));
    }
    assert_eq!(two.sent(question()).facts.dst, C, "the first packet has the flow");
    let mut listed = 0;
    shared.list(0, |_| listed += 1);
    assert_eq!((listed, shared.count()), (2, 3), "one is there for its answers only");
    (two.now, two.dnat) = (1_100_000_000, None);
    let late = two.sent(udp(C + 1, 53, A, 1000));
    assert_eq!((late.facts.src, late.facts.ct_state), (C + 1, CtState::New), "after a second");
    shared.flush(two.now);
    for turn in 2..100 {
        two.t.sweep(turn * 1_000_000_000, 10_000);
    }
    assert!(shared.sources.is_clean() && shared.is_clean());
    assert_eq!(shared.count(), 0);
}

#[test]
fn workers_that_map_into_one_small_range_never_share_answers() {
    const WORKERS: usize = 2;
    let shared = Arc::new(Conntrack::new(512, WORKERS, 9));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let shared = shared.clone();
            scope.spawn(move || {
                let mut r = Router {
                    t: Tracker::new(shared.clone(), worker),
                    shared,
                    random: worker as u32,
                    dnat: None,
                    snat: Some(ports(3000, 3063)),
                    now: 0,
                };
                for turn in 0..4000u64 {
                    r.now = turn * 50_000_000;
                    let mut p = udp(A + u128::from(turn % 5), 1000 + (turn * 7 % 40) as u16, B, 53);
                    if r.forward(&mut p).is_ok() {
                        let mut back = udp(B, 53, OUTER, p.facts.sport);
                        let _ = r.forward(&mut back);
                    }
                    r.t.sweep(r.now, 64);
                    if turn % 64 == 0 {
                        r.shared.delete(r.now, |v| v.original.tuple.sport % 3 == 0);
                        let mut replies = std::collections::HashSet::new();
                        let mut twice = 0;
                        r.shared.list(r.now, |v| twice += usize::from(!replies.insert(v.reply.tuple)));
                        // A flow that ends while the list is made may be there with its successor.
                        assert!(twice <= 2, "{twice}");
                    }
                }
            });
        }
    });
    let mut t = Tracker::new(shared.clone(), 0);
    shared.flush(200_000_000_000);
    let mut now = 300_000_000_000;
    while shared.stats().delete < shared.stats().insert {
        t.sweep(now, 1024);
        now += 1_000_000_000;
        assert!(now < 400_000_000_000);
    }
    assert!(shared.sources.is_clean() && shared.is_clean());
}

/// A flow mapped at both ends, in both families, and the error about each of its directions.
fn errors(quoted_len: Option<usize>) {
    for family in Family::ALL {
        let (syn, mut syn_ack) = (bytes::tcp(1000, 80, 2, &[], b""), bytes::tcp(8080, 7000, 0x12, &[], b""));
        let seq: [u8; 4] = syn[4..8].try_into().unwrap();
        syn_ack[8..12].copy_from_slice(&(u32::from_be_bytes(seq) + 1).to_be_bytes());
        for (proto, there, back) in [
            (proto::UDP, bytes::udp(1000, 80, b"question"), bytes::udp(8080, 7000, b"answer")),
            (proto::TCP, syn, syn_ack),
        ] {
            let (server, far) = (0xc0a8_0005, 0x0a63_0001);
            let dnat = NatRange { ports: Some((8080, 8080)), ..range(server) };
            let mut r = Router::new(Some(dnat), Some(ports(7000, 7000)));
            let sent = r.sent(sample(family, A, B, proto, &there));
            assert_eq!(ends(&sent), (OUTER, 7000, server, 8080));
            let answered = r.sent(sample(family, server, OUTER, proto, &back));
            assert_eq!(ends(&answered), (B, 80, A, 1000));

            let (icmp, kind) = if family == Family::V4 { (proto::ICMP, 3) } else { (proto::ICMPV6, 1) };
            let error = |to: u128, quoted: &[u8]| {
                let cut =
                    quoted_len.map_or(quoted.len(), |n| usize::from(parse::ip(family, quoted).unwrap().l4_off) + n);
                sample(family, far, to, icmp, &bytes::icmp(kind, 1, 0, &quoted[..cut]))
            };
            let quoted = |p: &Sample| parse::embedded(family, &p.l3[usize::from(p.facts.l4_off) + 8..]).unwrap();
            let whole = |p: &Sample, f: &Facts| {
                if quoted_len.is_none() {
                    let quote = &p.l3[usize::from(p.facts.l4_off) + 8..];
                    assert!(parse::ip(family, quote).is_ok() && parse::l4_checksum_ok(f, quote));
                }
            };

            // From behind the server to the client: undone at both ends, as the client sent it.
            let mut p = error(OUTER, &sent.l3);
            assert_eq!(r.forward(&mut p), Ok(CtState::Related));
            let q = quoted(&p);
            assert_eq!((p.facts.dst, q.src, q.sport, q.dst, q.dport), (A, A, 1000, B, 80));
            whole(&p, &q);

            // From behind the client to the server: as the server sent it.
            let mut p = error(B, &answered.l3);
            assert_eq!(r.forward(&mut p), Ok(CtState::Related));
            let q = quoted(&p);
            assert_eq!((p.facts.dst, q.src, q.sport, q.dst, q.dport), (server, server, 8080, OUTER, 7000));
            whole(&p, &q);
        }
    }
}

#[test]
fn icmp_errors_are_translated_with_what_they_quote_in_both_directions() {
    errors(None);
}

#[test]
fn icmp_errors_that_quote_eight_bytes_are_translated() {
    errors(Some(8));
}

#[test]
fn checksums_that_a_quote_has_only_in_part_are_left_or_made_for_the_part() {
    let error = |sent: &Sample, quoted: usize| {
        sample(Family::V4, 9, OUTER, proto::ICMP, &bytes::icmp(11, 0, 0, &sent.l3[..20 + quoted]))
    };
    let mut r = Router::new(None, Some(ports(7000, 7000)));
    let sent = r.sent(sample(Family::V4, A, B, proto::TCP, &bytes::tcp(1000, 80, 2, &[], b"")));
    let mut p = error(&sent, 19);
    assert_eq!(r.forward(&mut p), Ok(CtState::Related));
    assert_eq!(p.l3[48..50], 1000u16.to_be_bytes());
    assert_eq!(p.l3[64..66], sent.l3[36..38], "TCP's header is not whole");

    let heartbeat = [4, 0, 0, 12, 0, 1, 0, 8, 1, 2, 3, 4];
    let sent = r.sent(sample(Family::V4, A, B, proto::SCTP, &bytes::sctp(1000, 80, &heartbeat)));
    let mut p = error(&sent, 20);
    assert_eq!(r.forward(&mut p), Ok(CtState::Related));
    assert_eq!(Some(p.l3[56..60].try_into().unwrap()), crate::packet::crc32c::sctp(&p.l3[48..]));

    let sent = r.sent(sample(Family::V4, A, B, proto::GRE, &[0, 0, 8, 0, 1, 2, 3, 4]));
    assert_eq!(r.forward(&mut error(&sent, 7)), Err(DropReason::NatFailed));
    assert_eq!(r.forward(&mut error(&sent, 8)), Ok(CtState::Related));
}

#[test]
fn an_error_about_a_mapped_ping_gets_its_identifier_back() {
    let mut r = Router::new(None, Some(ports(500, 500)));
    let sent = r.sent(ping(A, B, 8, 7));
    assert_eq!(sent.facts.sport, 500);
    let mut p = sample(Family::V4, 9, OUTER, proto::ICMP, &bytes::icmp(11, 0, 0, &sent.l3));
    assert_eq!(r.forward(&mut p), Ok(CtState::Related));
    let q = parse::embedded(Family::V4, &p.l3[28..]).unwrap();
    assert_eq!((p.facts.src, p.facts.dst, q.src, q.sport), (9, A, A, 7));
    assert!(parse::l4_checksum_ok(&q, &p.l3[28..]));
}

#[test]
fn redirects_do_not_cross_a_mapping() {
    let mut r = Router::new(None, Some(range(OUTER)));
    let sent = r.sent(udp(A, 1000, B, 53));
    let mut p = sample(Family::V4, 9, OUTER, proto::ICMP, &bytes::icmp(5, 1, 9, &sent.l3));
    assert_eq!(r.forward(&mut p), Err(DropReason::NatFailed));
}

#[test]
fn later_fragments_change_in_their_addresses_only() {
    let mut r = Router::new(None, Some(ports(7000, 7000)));
    let mut p = udp(A, 1000, B, 53);
    let ct = r.t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()).unwrap();
    let Ct::Flow(flow) = ct else { panic!() };
    r.t.map(flow, Manip::Src, Some(&ports(7000, 7000)), &p.facts, 1).unwrap();
    let mut later = udp(A, 1000, B, 53);
    let payload = later.l3[20..].to_vec();
    (later.facts.frag_off, later.facts.has_l4) = (8, false);
    r.t.translate(flow, Hook::Postrouting, &mut later.l3, &mut later.facts).unwrap();
    assert_eq!((later.facts.src, &later.l3[20..]), (OUTER, &payload[..]));
    r.t.abandon(ct);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_mapping_of_any_bytes_panics(quoted in proptest::collection::vec(any::<u8>(), 0..80), kind: u8, v6: bool, cut in 0..120usize) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let icmp = if v6 { proto::ICMPV6 } else { proto::ICMP };
        let mut r = Router::new(None, Some(ports(7000, 7000)));
        let mut p = sample(family, A, B, proto::UDP, &bytes::udp(1, 2, &[]));
        let ct = r.t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()).unwrap();
        let Ct::Flow(flow) = ct else { panic!() };
        r.t.map(flow, Manip::Src, Some(&ports(7000, 7000)), &p.facts, 1).unwrap();
        let mut p = sample(family, A, B, icmp, &bytes::icmp(kind, 0, 0, &quoted));
        p.l3.truncate(cut.max(1));
        for dir in [Dir::Original, Dir::Reply] {
            for hook in Hook::ALL {
                let flow = Flow { dir, related: true, ..flow };
                let _ = r.t.translate(flow, hook, &mut p.l3, &mut p.facts);
            }
        }
    }

    #[test]
    fn mapped_flows_never_share_their_answers(flows in proptest::collection::vec((0..4u128, 0..4u16, 0..2u128), 1..60), low in 1000..1003u16) {
        let mut r = Router::new(None, Some(ports(low, low + 6)));
        let mut answers = std::collections::HashMap::new();
        for (client, port, server) in flows {
            let mut p = udp(A + client, 1000 + port, B + server, 53);
            match r.forward(&mut p) {
                Ok(_) => {
                    let owner = answers.insert((p.facts.sport, p.facts.dst), (client, port));
                    prop_assert!(owner.is_none_or(|o| o == (client, port)));
                }
                Err(reason) => {
                    prop_assert_eq!(reason, DropReason::NatExhausted);
                    prop_assert_eq!(answers.keys().filter(|(_, dst)| *dst == B + server).count(), 7);
                }
            }
        }
    }
}

#[test]
fn masqueraded_flows_are_forgotten_with_their_address_and_with_their_port() {
    const WAN: PortId = PortId(1);
    let mut r = Router::new(None, Some(range(OUTER)));
    let masqueraded = |r: &mut Router, port: u16| {
        let mut p = udp(A, port, B, 53);
        let ct = r.t.track(&mut p.facts, &p.l3, r.now, &Sysctl::default()).unwrap();
        r.hooks(ct, &mut p).unwrap();
        let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
        r.t.set_masqueraded(flow, WAN);
        r.t.quiescent(r.now);
    };
    masqueraded(&mut r, 1000);
    masqueraded(&mut r, 1001);
    r.sent(udp(A, 1002, B, 53));
    assert_eq!(r.shared.count(), 3);

    // The route of a flow changes: it ends, and its next packet begins it anew.
    let leave = |r: &mut Router, port: u16, out: PortId| {
        let mut p = udp(A, port, B, 53);
        let ct = r.t.track(&mut p.facts, &p.l3, r.now, &Sysctl::default()).unwrap();
        let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
        r.t.stay_masqueraded(flow, p.facts.ct_status, out)
    };
    assert_eq!(leave(&mut r, 1000, WAN), Ok(()));
    assert_eq!(leave(&mut r, 1002, PortId(2)), Ok(()), "a mapping to a fixed address may go anywhere");
    assert_eq!(leave(&mut r, 1000, PortId(2)), Err(DropReason::MasqueradeMoved));
    assert_eq!(r.shared.count(), 2);
    r.sent(udp(A, 1000, B, 53));

    // The address goes, of another port and of this one.
    assert_eq!(r.shared.forget_masqueraded(r.now, |port, _, addr| port == PortId(2) && addr == OUTER), 0);
    assert_eq!(r.shared.forget_masqueraded(r.now, |port, _, addr| port == WAN && addr == OUTER + 1), 0);
    assert_eq!(r.shared.forget_masqueraded(r.now, |port, _, addr| port == WAN && addr == OUTER), 1);
    assert_eq!(r.shared.forget_masqueraded(r.now, |_, _, _| true), 0, "new flows remember nothing of old ones");
    assert_eq!(r.shared.count(), 2);
}
