//! What a kernel made of sequences of packets (`recorded/*.txt`), and that the tracker makes the same of them.

use super::tests::{A, B, sample};
use super::*;
use std::sync::Arc;
use sumun_config::facts::{CtState, Family, proto, status};
use sumun_config::model::Sysctl;

/// One value of a word `name=value`.
fn number(word: &str) -> u32 {
    let value = word.split_once('=').map_or(word, |(_, value)| value);
    value.parse::<i64>().unwrap_or_else(|_| panic!("{word}")) as u32
}

/// A segment: flags, then numbers and options.
fn segment(words: &[&str], sport: u16, dport: u16) -> Vec<u8> {
    let flags = words[0].chars().fold(0, |flags, c| flags | 1u8 << "FSRPAU".find(c).expect("a flag"));
    let (mut seq, mut ack, mut window, mut len, mut options) = (0, 0, 1000, 0, vec![]);
    for word in &words[1..] {
        match word.split('=').next().unwrap() {
            "seq" => seq = number(word),
            "ack" => ack = number(word),
            "win" => window = number(word) as u16,
            "len" => len = number(word) as usize,
            "ws" => options.extend([3, 3, number(word) as u8, 1]),
            "sackok" => options.extend([4, 2, 1, 1]),
            "mss" => options.extend([2, 4, 5, 180]),
            "ts" => options.extend([1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0]),
            "sack" => {
                let (left, right) = word[5..].split_once('-').unwrap();
                options.extend([1, 1, 5, 10]);
                options.extend(number(left).to_be_bytes());
                options.extend(number(right).to_be_bytes());
            }
            other => panic!("{other}"),
        }
    }
    let mut l4 = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([(5 + options.len() as u8 / 4) << 4, flags]);
    l4.extend(window.to_be_bytes());
    l4.extend([0; 4]);
    l4.extend(options);
    l4.resize(l4.len() + len, 0);
    l4
}

/// An SCTP packet: its tag, then chunks; `INIT=n` announces the tag `n`, `+T` sets the T bit.
fn chunks(words: &[&str], sport: u16, dport: u16) -> Vec<u8> {
    const KINDS: &[(&str, u8)] = &[
        ("DATA", 0),
        ("INIT", 1),
        ("INIT_ACK", 2),
        ("SACK", 3),
        ("HEARTBEAT", 4),
        ("HEARTBEAT_ACK", 5),
        ("ABORT", 6),
        ("SHUTDOWN", 7),
        ("SHUTDOWN_ACK", 8),
        ("ERROR", 9),
        ("COOKIE_ECHO", 10),
        ("COOKIE_ACK", 11),
        ("SHUTDOWN_COMPLETE", 14),
    ];
    let mut l4 = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    l4.extend(number(words[0]).to_be_bytes());
    l4.extend([0; 4]);
    for word in &words[1..] {
        let (name, flag) = match word.split('=').next().unwrap() {
            "ZERO" => {
                l4.extend([0; 4]);
                continue;
            }
            name => name.strip_suffix("+T").map_or((name, 0), |name| (name, 1)),
        };
        let kind = KINDS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name}")).1;
        let announces = matches!(name, "INIT" | "INIT_ACK");
        l4.extend([kind, flag, 0, if announces { 20 } else { 4 }]);
        if announces {
            l4.extend(number(word).to_be_bytes());
            l4.extend([0, 0, 3, 232, 0, 1, 0, 1, 0, 0, 0, 1]);
        }
    }
    l4
}

fn set(s: &mut Sysctl, setting: &str) {
    let (name, value) = setting.split_once('=').unwrap();
    match name {
        "tcp_be_liberal" => s.nf_conntrack_tcp_be_liberal = value == "1",
        "tcp_loose" => s.nf_conntrack_tcp_loose = value == "1",
        "tcp_ignore_invalid_rst" => s.nf_conntrack_tcp_ignore_invalid_rst = value == "1",
        "tcp_max_retrans" => s.nf_conntrack_tcp_max_retrans = value.parse().unwrap(),
        other => panic!("{other}"),
    }
}

/// Plays a recording; the lines in which the tracker differs from the kernel.
fn play(name: &str) -> Vec<String> {
    let path = format!("{}/src/conntrack/recorded/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let recorded = std::fs::read_to_string(path).unwrap();
    let shared = Arc::new(Conntrack::new(10_000, 1, 42));
    let mut t = Tracker::new(shared.clone(), 0);
    let unchecked = Sysctl { nf_conntrack_checksum: false, ..Sysctl::default() };
    let (mut s, mut port, mut title) = (unchecked.clone(), 1000, "");
    let mut differences = Vec::new();
    for line in recorded.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(next) = line.strip_prefix("== ") {
            (s, title) = (unchecked.clone(), next);
            port += 1;
            continue;
        }
        if let Some(setting) = line.strip_prefix("set ") {
            set(&mut s, setting);
            continue;
        }
        let (packet, expected) = line.split_once(" => ").expect("a recorded line");
        let words: Vec<&str> = packet.split_whitespace().collect();
        let (src, sport, dst, dport) = if words[0] == ">" { (A, port, B, 80) } else { (B, 80, A, port) };
        let mut p = if words[1].starts_with("tag=") {
            sample(Family::V4, src, dst, proto::SCTP, &chunks(&words[1..], sport, dport))
        } else {
            sample(Family::V4, src, dst, proto::TCP, &segment(&words[1..], sport, dport))
        };
        let ct = t.track(&mut p.facts, &p.l3, 0, &s).unwrap();
        t.confirm(ct, &mut p.facts, 0).unwrap();
        t.quiescent(0);
        let state = match p.facts.ct_state {
            CtState::New => "NEW",
            CtState::Established => "ESTABLISHED",
            _ => "INVALID",
        };
        let flow = shared.flow_of(&p.facts, 0).map_or("-".to_string(), |(view, _)| {
            let status = match view.status {
                bits if bits & status::ASSURED != 0 => " ASSURED",
                bits if bits & status::SEEN_REPLY == 0 => " UNREPLIED",
                _ => "",
            };
            format!("{} {}{status}", view.state.unwrap_or_default(), view.seconds_left())
        });
        // The kernel had used up to a second when it was asked.
        let same = |ours: &str| {
            let strip =
                |text: &str| text.split(' ').map(|w| w.parse::<u32>().map_err(|_| w.to_string())).collect::<Vec<_>>();
            let (ours, theirs) = (strip(ours), strip(expected));
            ours.len() == theirs.len()
                && ours.iter().zip(&theirs).all(|pair| match pair {
                    (Ok(ours), Ok(theirs)) => (*theirs..=theirs + 1).contains(ours),
                    (ours, theirs) => ours == theirs,
                })
        };
        let ours = format!("{state} {flow}");
        if !same(&ours) {
            differences.push(format!("{title}: {packet}: kernel {expected}, here {ours}"));
        }
    }
    differences
}

#[test]
fn tcp_is_tracked_as_a_kernel_tracks_it() {
    assert_eq!(play("tcp").join("\n"), "");
}

#[test]
fn random_tcp_is_tracked_as_a_kernel_tracks_it() {
    assert_eq!(play("tcp_random").join("\n"), "");
}

#[test]
fn sctp_is_tracked_as_a_kernel_tracks_it() {
    assert_eq!(play("sctp").join("\n"), "");
}
