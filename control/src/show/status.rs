//! `sumun status`.

use super::{duration, mac};
use crate::message::Status;
use std::io::Write;
use sumun_dataplane::protocol;

/// Prints how control and the dataplane are.
pub fn print(out: &mut impl Write, status: &Status, json: bool) -> anyhow::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, &as_json(status))?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "control     running, pid {}, for {}", status.pid, duration(status.uptime_ms))?;
    writeln!(out, "  watches   {}", status.config)?;
    if let Some(running) = status.running.as_ref().filter(|&running| *running != status.config) {
        writeln!(out, "  runs      {running}")?;
    }
    if let Some(problem) = &status.problem {
        writeln!(out, "  problem   {problem}")?;
    }
    match &status.dataplane {
        Ok(dataplane) => print_dataplane(out, dataplane),
        Err(reason) => Ok(writeln!(out, "dataplane   {reason}")?),
    }
}

fn print_dataplane(out: &mut impl Write, status: &protocol::Status) -> anyhow::Result<()> {
    writeln!(out, "dataplane   running, pid {}, for {}", status.pid, duration(status.uptime_ms))?;
    let ruleset = match (status.published, status.settled) {
        (false, _) => "none published yet: the initial policy runs".to_string(),
        (true, true) => format!("generation {}, {} rules", status.generation, status.rules),
        (true, false) => format!("generation {}, {} rules; workers are taking it up", status.generation, status.rules),
    };
    writeln!(out, "  ruleset   {ruleset}")?;
    let cores: Vec<String> = status.cores.iter().map(usize::to_string).collect();
    writeln!(out, "  workers   {} on cores {}", cores.len(), cores.join(", "))?;
    let adopted = match status.adopted_flows {
        0 => String::new(),
        flows => format!(", {flows} taken over at the start"),
    };
    let memory = status.flow_memory.div_ceil(1 << 20);
    writeln!(out, "  flows     {} of {} in {memory} MB{adopted}", status.flows, status.max_flows)?;
    writeln!(out, "  neighbours {}", status.neighbours)?;
    print_routes(out, &status.routes, status.mirror.as_ref())?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<12} {:<17} {:>5} {:>14} {:>16} {:>14} {:>16}  MODE",
        "PORT", "MAC", "MTU", "RX PACKETS", "RX BYTES", "TX PACKETS", "TX BYTES"
    )?;
    for port in &status.ports {
        let protocol::PortStatus { name, device, mode, mtu, rx_packets, rx_bytes, tx_packets, tx_bytes, .. } = port;
        let mac = mac(port.mac);
        let device = if device == name { String::new() } else { format!(", device {device}") };
        writeln!(
            out,
            "{name:<12} {mac:<17} {mtu:>5} {rx_packets:>14} {rx_bytes:>16} {tx_packets:>14} {tx_bytes:>16}  {mode}{device}"
        )?;
    }
    print_losses(out, &status.ports)?;
    print_taps(out, &status.ports)?;
    Ok(())
}

/// What the kernel lost ahead of the router or did not send for it, where it did.
fn print_losses(out: &mut impl Write, ports: &[protocol::PortStatus]) -> anyhow::Result<()> {
    let all = ports.iter().flat_map(|port| port.losses.iter().map(|losses| (&port.name, losses)));
    let mut rows = all.filter(|(_, losses)| losses.is_any()).peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let [dropped, ring_full, fill_empty, rx_invalid, tx_invalid] =
        protocol::QueueLosses::KINDS.map(|(kind, _)| kind.replace('-', " ").to_uppercase());
    writeln!(
        out,
        "\n{:<12} {:>5} {dropped:>14} {ring_full:>14} {fill_empty:>14} {rx_invalid:>12} {tx_invalid:>12}",
        "LOST AT PORT", "QUEUE"
    )?;
    for (name, losses) in rows {
        let [dropped, ring_full, fill_empty, rx_invalid, tx_invalid] = losses.each();
        let queue = losses.queue;
        writeln!(
            out,
            "{name:<12} {queue:>5} {dropped:>14} {ring_full:>14} {fill_empty:>14} {rx_invalid:>12} {tx_invalid:>12}"
        )?;
    }
    Ok(())
}

fn print_routes(
    out: &mut impl Write,
    routes: &protocol::RouteCounts,
    mirror: Option<&protocol::MirrorStatus>,
) -> anyhow::Result<()> {
    let routes = format!("{} of IPv4, {} of IPv6", routes.ipv4, routes.ipv6);
    let Some(mirror) = mirror else { return Ok(writeln!(out, "  routes    {routes}")?) };
    let state = match mirror.synchronised {
        true => "as in the kernel",
        false => "as last heard of the kernel",
    };
    let read = format!("read {} times, {} ms the last time", mirror.synchronisations, mirror.took_ms);
    writeln!(out, "  routes    {routes}, {state}; {read}")?;
    for (reason, count) in &mirror.left_out {
        writeln!(out, "            left out: {count} {reason}")?;
    }
    if mirror.refused > 0 {
        writeln!(out, "            left out: {} changes that do not fit", mirror.refused)?;
    }
    if let Some(failure) = &mirror.failure {
        writeln!(out, "            {failure}")?;
    }
    Ok(())
}

fn as_json(status: &Status) -> serde_json::Value {
    let dataplane = match &status.dataplane {
        Err(reason) => serde_json::json!({"running": false, "reason": reason}),
        Ok(d) => serde_json::json!({
            "running": true,
            "version": d.version,
            "pid": d.pid,
            "uptime_ms": d.uptime_ms,
            "generation": d.generation,
            "settled": d.settled,
            "published": d.published,
            "rules": d.rules,
            "cores": d.cores,
            "flows": d.flows,
            "max_flows": d.max_flows,
            "adopted_flows": d.adopted_flows,
            "flow_memory": d.flow_memory,
            "neighbours": d.neighbours,
            "routes": d.routes,
            "mirror": d.mirror,
            "ports": d.ports.iter().map(port_as_json).collect::<Vec<_>>(),
        }),
    };
    serde_json::json!({
        "control": {
            "version": status.version,
            "pid": status.pid,
            "uptime_ms": status.uptime_ms,
            "config": status.config,
            "running": status.running,
            "problem": status.problem,
        },
        "dataplane": dataplane,
    })
}

/// The TAPs of ports, where there are any.
fn print_taps(out: &mut impl Write, ports: &[protocol::PortStatus]) -> anyhow::Result<()> {
    let taps: Vec<_> = ports.iter().filter_map(|port| Some((&port.name, port.tap.as_ref()?))).collect();
    if taps.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:<12} {:<17} {:>20} {:>16} {:>14} {:>16} {:>8} {:>8}",
        "TAP", "NAMESPACE", "FROM HOST PACKETS", "BYTES", "TO HOST", "BYTES", "REFUSED", "LOST"
    )?;
    for (name, tap) in &taps {
        let protocol::TapStatus { namespace, from_packets, from_bytes, to_packets, to_bytes, refused, failed, .. } =
            tap;
        let namespace = namespace.as_deref().unwrap_or("-");
        writeln!(
            out,
            "{name:<12} {namespace:<17} {from_packets:>20} {from_bytes:>16} {to_packets:>14} {to_bytes:>16} {refused:>8} {failed:>8}"
        )?;
    }
    for (name, tap) in &taps {
        if !tap.is_there {
            writeln!(out, "the TAP {name} was deleted and is not there; see the log of sumun-dataplane")?;
        }
        if tap.made_again > 0 {
            let times = if tap.made_again == 1 { "once".to_string() } else { format!("{} times", tap.made_again) };
            writeln!(out, "the TAP {name} was deleted and made again, {times}")?;
        }
    }
    let unnamed = taps.iter().find(|(_, tap)| tap.is_unnamed).and_then(|(_, tap)| tap.namespace.as_ref());
    if let Some(name) = unnamed {
        writeln!(out, "{name} is no longer the name of the namespace of the TAPs: start sumun-dataplane again")?;
    }
    Ok(())
}

fn port_as_json(port: &protocol::PortStatus) -> serde_json::Value {
    serde_json::json!({
        "name": port.name,
        "device": port.device,
        "mode": port.mode,
        "mac": mac(port.mac),
        "mtu": port.mtu,
        "rx_packets": port.rx_packets,
        "rx_bytes": port.rx_bytes,
        "tx_packets": port.tx_packets,
        "tx_bytes": port.tx_bytes,
        "losses": port.losses,
        "tap": port.tap.as_ref().map(|tap| serde_json::json!({
            "namespace": tap.namespace,
            "from_packets": tap.from_packets,
            "from_bytes": tap.from_bytes,
            "to_packets": tap.to_packets,
            "to_bytes": tap.to_bytes,
            "refused": tap.refused,
            "failed": tap.failed,
            "there": tap.is_there,
            "made_again": tap.made_again,
            "unnamed": tap.is_unnamed,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let port = protocol::PortStatus {
            name: "lan0".to_string(),
            device: "veth1".to_string(),
            mode: "native, copy".to_string(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            rx_packets: 10,
            rx_bytes: 1000,
            tx_packets: 5,
            tx_bytes: 500,
            tap: None,
            losses: vec![
                protocol::QueueLosses::default(),
                protocol::QueueLosses { queue: 1, dropped: 3, ring_full: 70_000, ..Default::default() },
            ],
        };
        Status {
            version: "0.1.0".to_string(),
            pid: 7,
            uptime_ms: 61_000,
            config: "/etc/sumun/router.toml".to_string(),
            running: Some("/etc/sumun/router.toml".to_string()),
            problem: None,
            dataplane: Ok(protocol::Status {
                version: "0.1.0".to_string(),
                pid: 8,
                uptime_ms: 3_600_000,
                generation: 3,
                settled: true,
                published: true,
                rules: 12,
                cores: vec![0, 1],
                ports: vec![port],
                flows: 2,
                max_flows: 1000,
                adopted_flows: 3,
                flow_memory: 300_000,
                mirror: Some(protocol::MirrorStatus { synchronised: true, ..Default::default() }),
                routes: protocol::RouteCounts { ipv4: 500_000, ipv6: 20 },
                neighbours: 4,
            }),
        }
    }

    fn printed(status: &Status, json: bool) -> String {
        let mut out = Vec::new();
        print(&mut out, status, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_tap_that_was_deleted_and_a_namespace_without_its_name_are_told() {
        let mut status = status();
        let Ok(dataplane) = &mut status.dataplane else { panic!("it runs") };
        let namespace = Some("host".to_string());
        let tap = protocol::TapStatus { namespace, is_there: true, ..Default::default() };
        dataplane.ports[0].tap = Some(tap.clone());
        assert!(!printed(&status, false).contains("the TAP"));
        let Ok(dataplane) = &mut status.dataplane else { panic!("it runs") };
        dataplane.ports[0].tap = Some(protocol::TapStatus { is_there: false, made_again: 2, is_unnamed: true, ..tap });
        let text = printed(&status, false);
        for line in [
            "the TAP lan0 was deleted and is not there; see the log of sumun-dataplane\n",
            "the TAP lan0 was deleted and made again, 2 times\n",
            "host is no longer the name of the namespace of the TAPs: start sumun-dataplane again\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn people_see_both_processes_and_the_ports() {
        let text = printed(&status(), false);
        for part in [
            "control     running, pid 7, for 00:01:01",
            "  watches   /etc/sumun/router.toml",
            "  ruleset   generation 3, 12 rules\n",
            "  workers   2 on cores 0, 1",
            "  flows     2 of 1000 in 1 MB, 3 taken over at the start",
            "  routes    500000 of IPv4, 20 of IPv6, as in the kernel; read 0 times",
            "LOST AT PORT QUEUE        DROPPED      RING FULL     FILL EMPTY   RX INVALID   TX INVALID\n\
             lan0             1              3          70000              0            0            0\n",
            "native, copy, device veth1",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("problem"));
        let mut whole = status();
        if let Ok(dataplane) = &mut whole.dataplane {
            dataplane.ports[0].losses.truncate(1);
            dataplane.mirror = None;
        }
        let text = printed(&whole, false);
        assert!(!text.contains("LOST AT PORT") && text.contains("  routes    500000 of IPv4, 20 of IPv6\n"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let reason = "sumun-dataplane is not running".to_string();
        let status = Status { problem: Some("3 mistakes".to_string()), dataplane: Err(reason), ..status() };
        let text = printed(&status, false);
        assert!(text.contains("  problem   3 mistakes\n"), "{text}");
        assert!(text.contains("dataplane   sumun-dataplane is not running\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&printed(&status, true)).unwrap();
        assert_eq!(json["dataplane"]["running"], false);
        assert_eq!(json["control"]["problem"], "3 mistakes");
    }

    #[test]
    fn programs_see_numbers_and_names() {
        let json: serde_json::Value = serde_json::from_str(&printed(&status(), true)).unwrap();
        assert_eq!(json["dataplane"]["generation"], 3);
        assert_eq!(json["dataplane"]["ports"][0]["mac"], "02:00:00:00:00:01");
        assert_eq!(json["dataplane"]["ports"][0]["rx_bytes"], 1000);
        assert_eq!(json["dataplane"]["ports"][0]["losses"][1]["ring_full"], 70_000);
        assert_eq!(json["dataplane"]["routes"]["ipv6"], 20);
    }
}
