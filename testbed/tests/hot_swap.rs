//! Rules are exchanged under load: no frame is lost, no flow breaks, no packet is judged by a mixture.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sumun_testbed::{Lab, Router, talk};

/// 1,000 rules that say `generation` in two places: the first marks packets, the last drops those with another mark. A packet
/// that was judged by the start of one ruleset and the end of another does not survive.
fn thousand_rules(generation: u32) -> String {
    let mut rules = format!(
        "[mangle.FORWARD]\nrules = [\"-j MARK --set-mark {generation}\"]\n\n[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\n"
    );
    for n in 0..997 {
        rules += &format!("  \"-s 10.{}.{}.0/24 -p tcp -m tcp --dport {} -j DROP\",\n", n / 250, n % 250, 1000 + n);
    }
    rules +=
        &format!("  \"-m mark ! --mark {generation} -j DROP\",\n  \"-m mark --mark {generation} -j ACCEPT\",\n]\n");
    rules
}

#[test]
fn a_thousand_swaps_of_a_thousand_rules_lose_nothing() -> Result<()> {
    const SWAPS: u32 = 1000;
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, &thousand_rules(1))?;
    let config = std::fs::read_to_string(&router.config)?;
    let head = config.split("[mangle.FORWARD]").next().unwrap_or_default().to_string();
    let swapping = AtomicBool::new(true);
    let start = router.status()?["generation"].as_u64().expect("a number");
    let count = |key: &str| -> Result<u64> {
        let status = router.status()?;
        let ports = status["ports"].as_array().cloned().unwrap_or_default();
        Ok(ports.iter().filter_map(|p| p[key].as_u64()).sum())
    };

    std::thread::scope(|scope| -> Result<()> {
        // A TCP transfer that lasts as long as the swaps do.
        let transfer = scope.spawn(|| -> Result<u64> {
            let mut rounds = 0;
            while swapping.load(Ordering::Relaxed) || rounds == 0 {
                let to = format!("203.0.113.1:{}", 7001 + rounds % 1000);
                talk::tcp_transfer(&lab.client1, &lab.server, &to, &to, 32 << 20)?;
                rounds += 1;
            }
            Ok(rounds)
        });
        // Datagrams, each of which must come back: a lost frame is seen at once.
        let pings = scope.spawn(|| -> Result<u64> {
            let echo = talk::udp_echo(&lab.server, "[2001:db8:2::1]:7", usize::MAX)?;
            let socket = talk::udp_connect(&lab.client2, "[::]:0", "[2001:db8:2::1]:7")?;
            let mut asked = 0u64;
            while swapping.load(Ordering::Relaxed) {
                talk::udp_ask(&socket, &asked.to_be_bytes())?;
                asked += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            drop(echo);
            Ok(asked)
        });
        let swaps = (|| -> Result<()> {
            let file = lab.path("swap.toml");
            for n in 2..SWAPS + 2 {
                std::fs::write(&file, format!("{head}{}", thousand_rules(n)))?;
                router.ask(&["apply", &file.display().to_string()])?;
            }
            Ok(())
        })();
        swapping.store(false, Ordering::Relaxed);
        swaps?;
        let asked = pings.join().expect("no panic")?;
        let rounds = transfer.join().expect("no panic")?;
        assert!(asked > 1000 && rounds > 0, "{asked} datagrams, {rounds} transfers");
        Ok(())
    })?;

    assert_eq!(router.status()?["generation"].as_u64(), Some(start + u64::from(SWAPS)));
    let drops: serde_json::Value = serde_json::from_str(&router.ask(&["drops", "--all", "--json"])?)?;
    for row in drops.as_array().expect("rows") {
        // What the hosts say to everybody (router solicitations and the like) is nobody's loss.
        let harmless = ["not-forwarded", "no-listener", "ethertype", "martian", "no-route"];
        if !harmless.iter().any(|h| row["reason"] == *h) {
            assert_eq!(row["packets"].as_u64(), Some(0), "{row}");
        }
    }
    assert!(count("rx_packets")? > 10_000);
    Ok(())
}

#[test]
fn counters_of_rules_that_stay_go_on_and_flows_keep_their_mapping() -> Result<()> {
    let lab = Lab::new(1)?;
    let rules = |extra: &str| {
        format!(
            "[nat.POSTROUTING]\nrules = [{extra}\"-o wan0 -j MASQUERADE\"]\n\n[filter.FORWARD]\nrules = [{extra}\"-p icmp -j ACCEPT\"]\n"
        )
    };
    let router = Router::start(&lab, &rules(""))?;
    let sink = talk::tcp_sink(&lab.server, "203.0.113.1:7000", 8 << 20)?;
    let mut stream = talk::tcp_connect(&lab.client1, "203.0.113.1:7000", None)?;
    assert!(lab.client1.pings("203.0.113.1", 7));
    let line = |text: &str| text.lines().find(|l| l.contains("-A FORWARD -p icmp")).unwrap_or_default().to_string();
    let before = line(&router.ask(&["rules", "--counters", "-4"])?);
    assert!(before.starts_with("[14:1176]"), "{before}");

    let mut swapped = false;
    talk::tcp_send(&mut stream, 8 << 20, |sent| {
        if sent >= 4 << 20 && !swapped {
            swapped = true;
            let file = lab.path("next.toml");
            let head = std::fs::read_to_string(&router.config).expect("the file of before");
            let head = head.split("[nat.POSTROUTING]").next().expect("a head").to_string();
            let extra = "\"-s 10.0.0.0/8 -j RETURN\", ";
            std::fs::write(&file, format!("{head}{}", rules(extra))).expect("a writable file");
            router.ask(&["apply", &file.display().to_string()]).expect("a good file");
        }
    })?;
    assert_eq!(sink.join().expect("no panic")?.ip().to_string(), "203.0.113.2");
    assert!(swapped);
    let after = line(&router.ask(&["rules", "--counters", "-4"])?);
    assert_eq!(before, after);
    router.ask(&["zero"])?;
    let zero = line(&router.ask(&["rules", "--counters", "-4"])?);
    assert!(zero.starts_with("[0:0]"), "{zero}");
    Ok(())
}
