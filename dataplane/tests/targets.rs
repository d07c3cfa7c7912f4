//! What targets do beyond a verdict: copies, contexts, records, queues that nobody listens to.

mod common;

use common::{LAN, Rig, WAN, ends, udp};
use sumun_config::facts::{Family, PortId};
use sumun_dataplane::log;
use sumun_dataplane::reason::DropReason;

/// Lines of the log since the last time, without their packets' description.
fn log(rig: &Rig) -> Vec<String> {
    let ports = ["lan0".to_string(), "wan0".to_string()];
    let line = |event: log::LogEvent| log::line(&event, &ports);
    std::iter::from_fn(|| rig.router.log.pop()).map(line).collect()
}

fn drops(rig: &Rig, reason: DropReason) -> u64 {
    rig.router.drops().iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count)
}

/// TTL or hop limit of a frame that came out.
fn hops(family: Family, frame: &[u8]) -> u8 {
    match family {
        Family::V4 => frame[14 + 8],
        Family::V6 => frame[14 + 7],
    }
}

#[test]
fn a_copy_leaves_before_its_packet_and_is_not_copied_again() {
    for family in Family::ALL {
        let gateway = if family == Family::V4 { "192.168.1.9" } else { "fd00:1::9" };
        let mut rig = Rig::new(&format!(
            r#"
            [{0}.mangle.PREROUTING]
            rules = ["-j again"]
            [{0}.mangle.again]
            rules = ["-p udp -j TEE --gateway {gateway}", "-p udp -j RETURN"]
            [{0}.mangle.OUTPUT]
            rules = ["-p udp -j TEE --gateway {gateway}", "-m conntrack --ctstate UNTRACKED"]
            "#,
            family.name()
        ));
        let (client, server) = ends(family);
        let sent = rig.send(LAN, &udp(family, client, server, (5, 7), b"data"));
        let ports: Vec<PortId> = sent.iter().map(|(port, _)| *port).collect();
        assert_eq!(ports, [LAN, WAN]);
        assert_eq!([0, 1].map(|n: usize| hops(family, &sent[n].1)), [63, 63]);
        assert_eq!(rig.packets(family, "mangle.PREROUTING"), [1, 1]);
        assert_eq!(rig.packets(family, "mangle.again")[..2], [1, 1]);
        assert_eq!(rig.packets(family, "mangle.OUTPUT"), [1, 1, 1]);
        assert_eq!(rig.packets(family, "mangle.POSTROUTING"), [2]);
    }
}

#[test]
fn without_a_way_or_a_frame_there_is_no_copy_and_the_packet_goes_on() {
    let mut rig = Rig::new("[ipv4.mangle.FORWARD]\nrules = [\"-j TEE --gateway 100.64.0.1\"]\n");
    let (client, server) = ends(Family::V4);
    let packet = udp(Family::V4, client, server, (5, 7), b"");
    assert_eq!(rig.send(LAN, &packet).len(), 1);
    assert_eq!(drops(&rig, DropReason::NoRoute), 1);
    let mut rig = Rig::new("[ipv4.mangle.FORWARD]\nrules = [\"-j TEE --gateway 192.168.1.9\"]\n");
    // One frame is for the packet itself.
    let mut taken: Vec<_> = std::iter::from_fn(|| rig.engine.pool().take()).collect();
    rig.engine.pool().give(taken.pop().expect("a frame"));
    assert_eq!(rig.send(LAN, &packet).len(), 1);
    assert_eq!(drops(&rig, DropReason::NoFrame), 1);
    taken.into_iter().for_each(|frame| rig.engine.pool().give(frame));
}

#[test]
fn contexts_go_with_packets_and_stay_with_flows() {
    let mut rig = Rig::new(
        r#"
        [mangle.PREROUTING]
        rules = [
            "-m conntrack --ctstate NEW -p udp --dport 7 -j SECMARK --selctx a:b:first",
            "-m conntrack --ctstate NEW -j CONNSECMARK --save",
            "-m conntrack --ctstate ESTABLISHED -j CONNSECMARK --restore",
        ]
        [security.FORWARD]
        rules = ["-j NFLOG --nflog-prefix p"]
        "#,
    );
    rig.router.packets.listen(true);
    let (client, server) = ends(Family::V4);
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b""));
    rig.send(WAN, &udp(Family::V4, server, client, (7, 5), b""));
    rig.send(LAN, &udp(Family::V4, client, server, (5, 8), b""));
    let contexts: Vec<_> = rig
        .router
        .packets
        .take()
        .map(|event| rig.router.contexts.name(event.context).map(|name| name.to_string()))
        .collect();
    assert_eq!(contexts, [Some("a:b:first".to_string()), Some("a:b:first".to_string()), None]);
    let mut flows = Vec::new();
    rig.router.conntrack.list_part(0, 1 << 20, rig.now, |flow| flows.push((flow.original.tuple.dport, flow.secmark)));
    flows.sort_unstable();
    assert_eq!(flows, [(7, 1), (8, 0)]);
}

#[test]
fn a_queue_that_nobody_listens_to_ends_the_packet_or_lets_it_pass_its_table() {
    let mut rig = Rig::new(
        r#"
        [filter.FORWARD]
        policy = "DROP"
        rules = [
            "-p udp --dport 1 -j NFQUEUE --queue-num 3",
            "-p udp --dport 2 -j NFQUEUE --queue-bypass",
            "-p udp --dport 3 -j QUEUE",
        ]
        [security.FORWARD]
        rules = ["-p udp"]
        "#,
    );
    let (client, server) = ends(Family::V6);
    let mut out = |port| rig.send(LAN, &udp(Family::V6, client, server, (5, port), b"")).len();
    assert_eq!([out(1), out(2), out(3), out(4)], [0, 1, 0, 0]);
    assert_eq!((drops(&rig, DropReason::QueueUnheard), drops(&rig, DropReason::PolicyDrop)), (2, 1));
    assert_eq!(rig.packets(Family::V6, "filter.FORWARD"), [1, 1, 1, 1]);
    assert_eq!(rig.packets(Family::V6, "security.FORWARD"), [1, 1]);
}

#[test]
fn a_traced_packet_is_told_at_every_rule_return_and_policy() {
    let mut rig = Rig::new(
        r#"
        [raw.PREROUTING]
        rules = ["-p udp --dport 7 -j TRACE", "-p udp"]
        [mangle.PREROUTING]
        rules = ["-j u", "-m comment --comment x -j ACCEPT"]
        [mangle.u]
        rules = ["-p udp -g v"]
        [mangle.v]
        rules = ["-p tcp", "-p udp -j MARK --set-mark 0x2a"]
        [mangle.FORWARD]
        rules = ["-j w", "-j RETURN"]
        [mangle.w]
        rules = ["-j RETURN"]
        [filter.FORWARD]
        rules = ["-j CLASSIFY --set-class 1:2", "-j ACCEPT"]
        "#,
    );
    let (client, server) = ends(Family::V4);
    rig.send(LAN, &udp(Family::V4, client, server, (5, 8), b""));
    assert_eq!(log(&rig), Vec::<String>::new());
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b""));
    let lines = log(&rig);
    let places: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(
        places,
        [
            "raw:PREROUTING:rule:2",
            "raw:PREROUTING:policy:3",
            "mangle:PREROUTING:rule:1",
            "mangle:u:rule:1",
            "mangle:v:rule:2",
            "mangle:v:return:3",
            "mangle:PREROUTING:rule:2",
            "mangle:FORWARD:rule:1",
            "mangle:w:return:1",
            "mangle:FORWARD:policy:2",
            "mangle:FORWARD:policy:3",
            "filter:FORWARD:rule:1",
            "filter:FORWARD:policy:2",
            "security:FORWARD:policy:1",
            "mangle:POSTROUTING:policy:1",
        ]
    );
    assert!(lines[0].starts_with("TRACE: raw:PREROUTING:rule:2 IN=lan0 OUT= MAC="), "{}", lines[0]);
    assert!(lines[6].ends_with("MARK=0x2a "), "{}", lines[6]);
}

#[test]
fn audit_records_are_numbered_and_the_packet_goes_on() {
    let mut rig = Rig::new("[filter.FORWARD]\nrules = [\"-j AUDIT --type accept\", \"-p udp\"]\n");
    let (client, server) = ends(Family::V6);
    for number in 1..=2 {
        assert_eq!(rig.send(LAN, &udp(Family::V6, client, server, (5, 7), b"")).len(), 1);
        let [line] = &log(&rig)[..] else { panic!("one record") };
        let (begins, ends) = (format!(":{number}): mark=0x0 saddr=fd00:1::9 "), "daddr=2001:db8:2::9 proto=17");
        assert!(
            line.starts_with("audit: type=1324 audit(") && line.contains(&begins) && line.ends_with(ends),
            "{line}"
        );
    }
    assert_eq!(rig.packets(Family::V6, "filter.FORWARD"), [2, 2, 2]);
}
