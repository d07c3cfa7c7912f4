//! Fragments through the router as through the kernel's (6.18, recorded with veth pairs and raw sockets): what is gathered,
//! what ends, what leaves and in which pieces.

mod common;

use common::*;
use sumun_config::facts::Family;
use sumun_config::rule::Table;

const TRACKED: &str = r#"
[filter.FORWARD]
rules = ["-m conntrack --ctstate INVALID -j DROP"]
"#;

const MASQUERADE: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-i lan0 -j ACCEPT"]
"#;

/// A place in the data, and whether more follows.
type Span = (usize, usize, bool);

/// Spans of these sizes, the last one taking the rest.
fn spans(len: usize, sizes: &[usize]) -> Vec<Span> {
    let mut at = 0;
    let mut all = Vec::new();
    for size in sizes {
        all.push((at, at + size, true));
        at += size;
    }
    all.push((at, len, false));
    all
}

/// Fragments of a whole frame; data beyond its end is zeros.
fn fragments(frame: &[u8], id: u32, spans: &[Span]) -> Vec<Vec<u8>> {
    let is_v4 = frame[12] == 8;
    let header = if is_v4 { 20 } else { 40 };
    let (head, data) = frame[14..].split_at(header);
    let piece = |&(start, end, more): &Span| {
        let mut out = frame[..14].to_vec();
        let mut bytes: Vec<u8> = data.get(start.min(data.len())..end.min(data.len())).unwrap_or_default().to_vec();
        bytes.resize(end - start, 0);
        let mut h = head.to_vec();
        if is_v4 {
            let len = (20 + bytes.len()) as u16;
            let word = (start / 8) as u16 | if more { 0x2000 } else { 0 };
            h[2..4].copy_from_slice(&len.to_be_bytes());
            h[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            h[6..8].copy_from_slice(&word.to_be_bytes());
            fix(&mut h);
        } else {
            let len = (8 + bytes.len()) as u16;
            h[4..6].copy_from_slice(&len.to_be_bytes());
            let next = std::mem::replace(&mut h[6], 44);
            h.extend([next, 0]);
            h.extend((start as u16 | u16::from(more)).to_be_bytes());
            h.extend(id.to_be_bytes());
        }
        out.extend(h);
        out.extend(bytes);
        out
    };
    spans.iter().map(piece).collect()
}

fn fix(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn set_dont_fragment(frame: &mut [u8]) {
    frame[20] |= 0x40;
    fix(&mut frame[14..34]);
}

fn set_ecn(frame: &mut [u8], ecn: u8) {
    frame[15] |= ecn;
    fix(&mut frame[14..34]);
}

/// IP length, offset and whether more follows, of every frame; whole packets as `(len, 0, false)`.
fn shapes(sent: &[Sent]) -> Vec<(usize, usize, bool)> {
    sent.iter()
        .map(|(_, frame)| {
            let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
            match (frame[12], frame.get(20)) {
                (8, _) => (word(16), (word(20) & 0x1fff) * 8, word(20) & 0x2000 != 0),
                (_, Some(44)) => (word(18) + 40, word(56) & !7, word(56) & 1 != 0),
                _ => (word(18) + 40, 0, false),
            }
        })
        .collect()
}

/// The whole packet of what came out, as one frame.
fn joined(sent: &[Sent]) -> Vec<u8> {
    let first = &sent[0].1;
    let is_v4 = first[12] == 8;
    let (header, extra) = if is_v4 { (20, 0) } else { (40, if first[20] == 44 { 8 } else { 0 }) };
    let mut whole = first[..14 + header].to_vec();
    if extra > 0 {
        whole[20] = first[54];
    }
    for (_, frame) in sent {
        whole.extend(&frame[14 + header + extra..]);
    }
    let len = whole.len() - 14;
    if is_v4 {
        whole[16..18].copy_from_slice(&(len as u16).to_be_bytes());
        whole[20..22].fill(0);
        fix(&mut whole[14..34]);
    } else {
        whole[18..20].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    }
    whole
}

fn datagram(family: Family, len: usize) -> Vec<u8> {
    let (client, server) = ends(family);
    let payload: Vec<u8> = (0..len - 8).map(|i| (i % 251) as u8).collect();
    udp(family, client, server, (1111, 2222), &payload)
}

const HEADERS: [usize; 2] = [20, 48];

#[test]
fn whole_packets_leave_in_the_pieces_they_came_in_whatever_their_order() {
    let cases: &[(&[usize], &[usize])] = &[
        (&[1440, 1440], &[0, 1, 2]),
        (&[800, 1000, 400], &[0, 1, 2, 3]),
        (&[800, 1000, 400], &[3, 2, 1, 0]),
        (&[800, 1000, 400], &[1, 3, 0, 2]),
        (&[800, 1000, 400], &[0, 0, 1, 1, 2, 3]),
        (&[8, 8, 1000, 1000], &[2, 1, 4, 3, 0]),
    ];
    for family in Family::ALL {
        let mut rig = Rig::new(TRACKED);
        let whole = datagram(family, 3000);
        for (i, (sizes, order)) in cases.iter().enumerate() {
            let all = fragments(&whole, i as u32 + 1, &spans(3000, sizes));
            let frames: Vec<_> = order.iter().map(|at| all[*at].clone()).collect();
            let (last, others) = frames.split_last().expect("some");
            assert!(rig.burst(LAN, others).is_empty(), "nothing leaves before all is there");
            let sent = rig.send(LAN, last);
            let header = HEADERS[family.index()];
            let expected: Vec<_> = spans(3000, sizes).iter().map(|(a, b, more)| (header + b - a, *a, *more)).collect();
            assert_eq!(shapes(&sent), expected, "{family:?} {sizes:?} {order:?}");
            assert_eq!(joined(&sent)[14 + header.min(40)..], whole[14 + header.min(40)..], "{family:?} {sizes:?}");
            assert_eq!(described(&[(WAN, joined(&sent))]).len(), 1, "checksums are right");
            rig.assert_census();
            assert_eq!(rig.engine.held(), 0);
        }
        assert_eq!(rig.drops(), [("fragment-duplicate", 2)]);
    }
}

#[test]
fn rules_see_one_whole_packet_with_its_length() {
    for family in Family::ALL {
        let mut rig = Rig::new("[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW -p udp -m udp --dport 2222\"]");
        rig.burst(LAN, &fragments(&datagram(family, 3000), 7, &spans(3000, &[1440, 1440])));
        let header = if family == Family::V4 { 20 } else { 40 };
        let generation = rig.router.current();
        let program = generation.program(family);
        let chain = program.chains_of(Table::Filter).iter().find(|chain| chain.name == "FORWARD").expect("it is there");
        let rule = program.rule(chain.rules.start).slot;
        let counted = &generation.banks[0].slot(rule);
        assert_eq!((counted.packets.get(), counted.bytes.get()), (1, 3000 + header), "{family:?}");
    }
}

#[test]
fn what_does_not_go_together_ends_as_in_the_kernel() {
    const A: Span = (0, 800, true);
    const B: Span = (800, 1600, true);
    const C: Span = (1600, 2400, true);
    const L: Span = (2400, 3000, false);
    // What comes; whether IPv4 and IPv6 forward it; and the drops of each.
    type Case = (&'static str, &'static [Span], [bool; 2], [&'static [(&'static str, u64)]; 2]);
    let cases: &[Case] = &[
        ("overlap", &[A, (400, 1200, true)], [false; 2], [&[("fragment-overlap", 2)]; 2]),
        ("in a run", &[A, B, (400, 1200, true), C, L], [true; 2], [&[("fragment-duplicate", 1)]; 2]),
        ("over two runs", &[L, B, A, (400, 1200, true)], [false; 2], [&[("fragment-overlap", 4)]; 2]),
        (
            "another end",
            &[A, B, L, (3000, 3008, false), C],
            [false, true],
            [&[("fragment-malformed", 4)], &[("fragment-malformed", 1)]],
        ),
        (
            "beyond the end",
            &[A, B, L, (3000, 3008, true), C],
            [false, true],
            [&[("fragment-malformed", 4)], &[("fragment-malformed", 1)]],
        ),
        ("empty first", &[(0, 0, true), A, B, C, L], [true; 2], [&[("fragment-malformed", 1)]; 2]),
        (
            "empty inside",
            &[A, L, (800, 800, true), B, C],
            [false, true],
            [&[("fragment-malformed", 3)], &[("fragment-malformed", 1)]],
        ),
        ("longer than a packet", &[(65_512, 66_312, false)], [false; 2], [&[], &[("fragment-malformed", 1)]]),
    ];
    for (name, spans, leaves, drops) in cases {
        for family in Family::ALL {
            let mut rig = Rig::new(TRACKED);
            let sent = rig.burst(LAN, &fragments(&datagram(family, 3000), 5, spans));
            let expected = if leaves[family.index()] { 4 } else { 0 };
            assert_eq!(sent.len(), expected, "{name} {family:?}");
            assert_eq!(rig.drops(), drops[family.index()], "{name} {family:?}");
            rig.assert_census();
        }
    }
}

#[test]
fn an_ipv4_packet_that_would_be_too_long_ends_with_all_its_fragments() {
    let mut rig = Rig::new(TRACKED);
    let whole = datagram(Family::V4, 3000);
    let sizes = [1480; 44];
    let mut all = fragments(&whole, 3, &spans(66_000, &sizes)[..44]);
    all.extend(fragments(&whole, 3, &[(65_120, 65_520, false)]));
    assert!(rig.burst(LAN, &all).is_empty());
    assert_eq!(rig.drops(), [("fragment-malformed", 45)]);
    rig.assert_census();
}

#[test]
fn the_longest_packet_goes_through() {
    for (family, len) in [(Family::V4, 65_515), (Family::V6, 65_487)] {
        let mut rig = Rig::new(MASQUERADE);
        let whole = datagram(family, len);
        let sent = rig.burst(LAN, &fragments(&whole, 3, &spans(len, &vec![1440; len / 1440])));
        assert_eq!(sent.len(), len / 1440 + 1, "{family:?} {:?}", rig.drops());
        assert_eq!(
            described(&[(WAN, joined(&sent))]),
            [match family {
                Family::V4 => "wan0 udp 203.0.113.2:1111 > 203.0.113.9:2222 ttl 63",
                Family::V6 => "wan0 udp [2001:db8:2::2]:1111 > [2001:db8:2::9]:2222 ttl 63",
            }
            .replace(['[', ']'], "")]
        );
        rig.assert_census();
    }
}

#[test]
fn congestion_on_one_is_congestion_on_all_and_mixes_end() {
    let marked = |ecn: [u8; 3]| {
        let mut rig = Rig::new(TRACKED);
        let mut all = fragments(&datagram(Family::V4, 3000), 5, &spans(3000, &[1480, 1480]));
        for (frame, ecn) in all.iter_mut().zip(ecn) {
            set_ecn(frame, ecn);
        }
        let sent = rig.burst(LAN, &all);
        rig.assert_census();
        sent.iter().map(|(_, frame)| frame[15]).collect::<Vec<_>>()
    };
    assert_eq!(marked([2, 3, 2]), [3, 3, 3]);
    assert_eq!(marked([2, 1, 2]), [2, 2, 2]);
    assert!(marked([0, 1, 1]).is_empty());
    assert!(marked([0, 3, 0]).is_empty());
}

#[test]
fn dont_fragment_counts_where_the_largest_fragment_had_it() {
    let through = |mtu: u16, sizes: &[usize], dont: &[usize]| {
        let mut rig = Rig::with_mtu(TRACKED, mtu);
        let mut all = fragments(&datagram(Family::V4, 3000), 5, &spans(3000, sizes));
        for at in dont {
            set_dont_fragment(&mut all[*at]);
        }
        let sent = rig.burst(LAN, &all);
        rig.assert_census();
        assert!(sent.iter().all(|(_, frame)| frame[20] & 0x40 == 0 || frame[23] == 1), "fragments leave without DF");
        match sent[0].1[23] {
            1 => described(&sent),
            _ => shapes(&sent).iter().map(|(len, ..)| len.to_string()).collect(),
        }
    };
    assert_eq!(through(1500, &[1480, 1480], &[0, 1, 2]), ["1500", "1500", "60"]);
    assert_eq!(through(1400, &[1480, 1480], &[0, 1, 2]), ["lan0 icmp 192.168.1.1 > 192.168.1.9 3/4 ttl 64"]);
    assert_eq!(through(1400, &[1480, 1480], &[]), ["1396", "1396", "268"]);
    assert_eq!(through(1400, &[800, 1000, 400], &[0, 1, 2, 3]), ["820", "1020", "420", "820"]);
    assert_eq!(through(1400, &[1480, 1000], &[1]), ["1396", "1396", "268"]);
}

#[test]
fn ipv6_leaves_no_larger_than_it_came_or_is_too_big() {
    let through = |mtu: u16, len: usize, sizes: &[usize]| {
        let mut rig = Rig::with_mtu(TRACKED, mtu);
        let sent = rig.burst(LAN, &fragments(&datagram(Family::V6, len), 5, &spans(len, sizes)));
        rig.assert_census();
        match sent[0].1[20] {
            58 => vec![describe(&sent[0].1)],
            next => shapes(&sent).iter().map(|(len, ..)| format!("{len} {next}")).collect(),
        }
    };
    assert_eq!(through(1400, 3000, &[1448, 1448]), ["icmp6 fd00:1::1 > fd00:1::9 2/0 ttl 64"]);
    assert_eq!(through(1400, 3000, &[800, 1000, 400]), ["848 44", "1048 44", "448 44", "848 44"]);
    assert_eq!(through(1500, 1000, &[400, 296]), ["448 44", "344 44", "352 44"]);
    assert_eq!(through(1500, 1208, &[1200]), ["1248 17"], "its data alone is no longer than a fragment was");
    assert_eq!(through(1500, 28, &[]), ["68 17"], "a fragment that is a whole packet (RFC 6946) loses its header");
}

#[test]
fn uneven_ipv6_fragments_pass_as_they_are() {
    let mut rig = Rig::new(MASQUERADE.replace("ESTABLISHED,RELATED", "INVALID,ESTABLISHED").as_str());
    let frames = fragments(&datagram(Family::V6, 1608), 5, &[(0, 1444, true)]);
    assert_eq!(rig.burst(LAN, &frames).len(), 1);
    let (client, _) = ends(Family::V6);
    let whole = udp(Family::V6, client, 0xfd00_0001 << 96 | 1, (1, 2), &[1; 1600]);
    let sent = rig.burst(LAN, &fragments(&whole, 6, &[(0, 1444, true)]));
    assert_eq!(described(&sent), ["lan0 icmp6 fd00:1::1 > fd00:1::9 4/0 ttl 64"], "for the router: it complains");
    assert_eq!(rig.drops(), [("fragment-malformed", 1)]);
    assert_eq!(rig.engine.held(), 0);
}

#[test]
fn incomplete_packets_end_in_time_and_their_sender_is_told() {
    const SECOND: u64 = 1_000_000_000;
    // To a host beyond, then to the router itself.
    for (to_router, family, time, first, told) in [
        (false, Family::V4, 30, true, false),
        (true, Family::V4, 30, true, true),
        (true, Family::V4, 30, false, false),
        (false, Family::V6, 60, true, true),
        (false, Family::V6, 60, false, false),
        (true, Family::V6, 60, true, true),
    ] {
        let mut rig = Rig::new(TRACKED);
        let (client, server) = ends(family);
        let dst = match (to_router, family) {
            (false, _) => server,
            (true, Family::V4) => 0xc0a8_0101,
            (true, Family::V6) => 0xfd00_0001 << 96 | 1,
        };
        let whole = udp(family, client, dst, (1, 2), &[1; 2000]);
        let span = if first { (0, 1440, true) } else { (1440, 2008, false) };
        assert!(rig.burst(LAN, &fragments(&whole, 1, &[span])).is_empty());
        assert_eq!(rig.engine.held(), 1);
        assert!(rig.wait((time - 1) * SECOND).is_empty());
        rig.assert_census();
        let sent = rig.wait(SECOND);
        let expected: Vec<&str> = match (told, family) {
            (false, _) => vec![],
            (true, Family::V4) => vec!["lan0 icmp 192.168.1.1 > 192.168.1.9 11/1 ttl 64"],
            (true, Family::V6) => vec!["lan0 icmp6 fd00:1::1 > fd00:1::9 3/1 ttl 64"],
        };
        assert_eq!(described(&sent), expected, "{family:?} to the router: {to_router}, first: {first}");
        assert_eq!(rig.drops(), [("fragment-timeout", 1)]);
        assert_eq!(rig.engine.held(), 0);
        rig.assert_census();
    }
}

#[test]
fn a_sender_that_goes_on_too_far_loses_what_is_incomplete() {
    let mut rig = Rig::new(TRACKED);
    let whole = datagram(Family::V4, 1608);
    let of = |id: u32| fragments(&whole, id, &spans(1608, &[1448]));
    rig.burst(LAN, &of(1)[..1]);
    for id in 2..34 {
        assert_eq!(rig.burst(LAN, &of(id)).len(), 2);
    }
    // 64 others came meanwhile: this one is the 65th.
    assert!(rig.burst(LAN, &of(1)[1..]).is_empty());
    assert_eq!(rig.drops(), [("fragment-timeout", 1)]);
    assert_eq!(rig.burst(LAN, &of(1)[..1]).len(), 2, "the second one began it anew");
    rig.assert_census();
}

#[test]
fn a_flood_holds_a_bounded_share_of_frames() {
    for family in Family::ALL {
        let mut rig = Rig::new(TRACKED);
        let whole = datagram(family, 1608);
        for id in 0..1000 {
            assert!(rig.burst(LAN, &fragments(&whole, id, &[(0, 1448, true)])).is_empty());
        }
        assert_eq!(rig.engine.held(), FRAMES as usize / 4);
        assert_eq!(rig.drops(), [("fragment-queue", 1000 - u64::from(FRAMES) / 4)]);
        rig.assert_census();
        let (client, server) = ends(family);
        assert_eq!(rig.send(LAN, &udp(family, client, server, (1, 2), b"whole")).len(), 1);
        rig.wait(61_000_000_000);
        assert_eq!(rig.engine.held(), 0);
        rig.assert_census();
        assert_eq!(rig.burst(LAN, &fragments(&whole, 1, &spans(1608, &[1448]))).len(), 2);
    }
}

#[test]
fn tiny_fragments_of_one_packet_are_bounded_too() {
    let mut rig = Rig::new(TRACKED);
    let whole = datagram(Family::V4, 3000);
    let tiny: Vec<Span> = (0..100).map(|i| (i * 16, i * 16 + 8, true)).collect();
    assert!(rig.burst(LAN, &fragments(&whole, 1, &tiny)).is_empty());
    assert_eq!(rig.engine.held(), FRAMES as usize / 4);
    assert_eq!(rig.drops(), [("fragment-queue", 100 - u64::from(FRAMES) / 4)]);
    rig.assert_census();
}

#[test]
fn masqueraded_datagrams_of_4000_bytes_go_both_ways() {
    for family in Family::ALL {
        let mut rig = Rig::new(MASQUERADE);
        let whole = datagram(family, 4008);
        let sent = rig.burst(LAN, &fragments(&whole, 9, &spans(4008, &[1440, 1440])));
        let (own, server, client) = match family {
            Family::V4 => ("203.0.113.2", "203.0.113.9", "192.168.1.9"),
            Family::V6 => ("2001:db8:2::2", "2001:db8:2::9", "fd00:1::9"),
        };
        assert_eq!(described(&[(WAN, joined(&sent))]), [format!("wan0 udp {own}:1111 > {server}:2222 ttl 63")]);
        let (_, server_number) = ends(family);
        let own_number = match family {
            Family::V4 => 0xcb00_7102,
            Family::V6 => 0x2001_0db8_0002 << 80 | 2,
        };
        let reply = udp(family, server_number, own_number, (2222, 1111), &[7; 4000]);
        let mut back = fragments(&reply, 10, &spans(4008, &[1440, 1440]));
        back.reverse();
        let sent = rig.burst(WAN, &back);
        assert_eq!(sent.len(), 3);
        assert_eq!(described(&[(LAN, joined(&sent))]), [format!("lan0 udp {server}:2222 > {client}:1111 ttl 63")]);
        assert!(rig.drops().is_empty(), "{:?}", rig.drops());
        rig.assert_census();
    }
}

#[test]
fn large_pings_to_the_router_are_answered_tracked_or_not() {
    for rules in [TRACKED, ""] {
        for family in Family::ALL {
            let mut rig = Rig::new(rules);
            let (client, _) = ends(family);
            let own = match family {
                Family::V4 => 0xc0a8_0101,
                Family::V6 => 0xfd00_0001 << 96 | 1,
            };
            let whole = ping(family, client, own, 5, &[3; 3000]);
            let sent = rig.burst(LAN, &fragments(&whole, 4, &spans(3008, &[1440, 1440])));
            assert_eq!(sent.len(), 3, "{family:?} {rules} {:?}", rig.drops());
            let answer = described(&[(LAN, joined(&sent))]);
            assert!(answer[0].contains("0/0") || answer[0].contains("129/0"), "{answer:?}");
            rig.assert_census();
        }
    }
}

#[test]
fn without_tracking_fragments_are_forwarded_one_by_one() {
    for family in Family::ALL {
        let mut rig = Rig::new("");
        let all = fragments(&datagram(family, 3000), 5, &spans(3000, &[1440, 1440]));
        for frame in &all {
            assert_eq!(rig.send(LAN, frame).len(), 1);
        }
    }
}
