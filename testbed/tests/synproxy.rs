//! SYNPROXY as real clients and servers see it, and what a flood of SYNs costs: nothing.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sumun_config::facts::Family;
use sumun_testbed::craft::{End, Ends, Tcp};
use sumun_testbed::router::{INTERFACES, head};
use sumun_testbed::{Lab, Router, talk};

/// The settings go on where [`INTERFACES`] ends.
const PROXY: &str = r#"
nf_conntrack_tcp_loose = 0

[raw.PREROUTING]
rules = ["-i lan0 -p tcp --syn -j CT --notrack"]

[filter.FORWARD]
rules = [
  "-i lan0 -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460 --ecn",
  "-m conntrack --ctstate INVALID -j DROP",
]
"#;

const SERVERS: [(&str, &str); 2] = [("203.0.113.1:5201", "203.0.113.1"), ("[2001:db8:2::1]:5201", "2001:db8:2::1")];

/// What the workers counted under this name.
fn counted(router: &Router, name: &str) -> Result<u64> {
    let stats: Value = serde_json::from_str(&router.ask(&["conntrack", "stats", "--json"])?)?;
    let workers = stats["workers"].as_array().context("no workers")?;
    Ok(workers.iter().filter_map(|worker| worker[name].as_u64()).sum())
}

fn transfers(lab: &Lab, source: [&str; 2]) -> Result<()> {
    for ((server, _), source) in SERVERS.into_iter().zip(source) {
        let peer = talk::tcp_transfer(&lab.client1, &lab.server, server, server, 3_000_000)?;
        assert_eq!(peer.to_string(), source);
        // What the server sends first reaches a client that says nothing.
        let greeting = talk::tcp_greet(&lab.server, server, 1)?;
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        talk::tcp_greeted(&lab.client1, server, any.parse()?)?;
        greeting.join().expect("no panic")?;
    }
    Ok(())
}

#[test]
fn clients_talk_through_the_proxy_with_and_without_masquerade() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, PROXY)?;
    transfers(&lab, ["192.168.1.11", "fd00:1::11"])?;
    assert_eq!((counted(&router, "cookie_valid")?, counted(&router, "cookie_invalid")?), (4, 0));
    assert_eq!(
        (router.dropped("synproxy")?, router.dropped("synproxy-cookie")?),
        (12, 0),
        "SYN, ACK and SYN/ACK of each"
    );
    drop(router);
    let masquerade = format!("{PROXY}\n[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n");
    let _router = Router::start(&lab, &masquerade)?;
    transfers(&lab, ["203.0.113.2", "2001:db8:2::2"])
}

#[test]
fn clients_without_timestamps_and_clients_of_a_closed_port_are_served() -> Result<()> {
    let lab = Lab::new(1)?;
    let _router = Router::start(&lab, PROXY)?;
    for (server, _) in SERVERS {
        let refused = talk::tcp_connect(&lab.client1, server, None).map(|mut stream| {
            // The proxy took the connection before it asked.
            talk::tcp_send(&mut stream, 10, |_| {}).expect_err("nobody listens")
        });
        let error = format!("{:#}", refused.unwrap_or_else(|error| error));
        assert!(error.contains("reset") || error.contains("refused") || error.contains("pipe"), "{error}");
    }
    lab.client1.run(&["sysctl", "-qw", "net.ipv4.tcp_timestamps=0"])?;
    transfers(&lab, ["192.168.1.11", "fd00:1::11"])
}

#[test]
fn one_workers_connections_are_joined_by_another() -> Result<()> {
    let lab = Lab::crossed()?;
    let _router = Router::start_two(&lab, PROXY)?;
    transfers(&lab, ["192.168.1.11", "fd00:1::11"])
}

#[test]
fn connections_outlive_a_restart_of_the_dataplane() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, PROXY)?;
    for (server, _) in SERVERS {
        let sink = talk::tcp_sink(&lab.server, server, 400_000)?;
        let mut stream = talk::tcp_connect(&lab.client1, server, None)?;
        let mut again = Ok(());
        talk::tcp_send(&mut stream, 400_000, |sent| {
            if (131_072..196_608).contains(&sent) && again.is_ok() {
                again = router
                    .end_dataplane(nix::sys::signal::Signal::SIGKILL)
                    .and_then(|()| router.start_dataplane())
                    .and_then(|()| router.wait_for_generation(1));
            }
        })?;
        again?;
        sink.join().expect("no panic")?;
    }
    Ok(())
}

#[test]
fn a_flood_reaches_neither_the_server_nor_the_flow_table() -> Result<()> {
    const FLOOD: u16 = 200;
    let lab = Lab::new(1)?;
    let ends = Ends::new(&lab)?;
    let config = format!("{}{INTERFACES}{PROXY}{}", head(&lab, "1"), ends.neighbours());
    let router = Router::start_with(&lab, &config)?;
    for family in Family::ALL {
        for port in 0..FLOOD {
            let tcp = Tcp { family, from: End::Near, ports: (1000 + port, 80) };
            ensure!(!ends.passes(&tcp.segment("S", 7, 0, 1000, &[2, 4, 5, 0xb4], 0))?, "a SYN reached the server");
            ensure!(!ends.passes(&tcp.segment(".", 8, 99, 1000, &[], 0))?, "a guess reached the server");
        }
    }
    let flood = 2 * u64::from(FLOOD);
    assert_eq!(counted(&router, "syn_received")?, flood);
    assert_eq!((counted(&router, "cookie_invalid")?, counted(&router, "cookie_valid")?), (flood, 0));
    assert_eq!((router.dropped("synproxy")?, router.dropped("synproxy-cookie")?), (flood, flood));
    assert_eq!(router.flows(&["tcp"])?, Vec::<String>::new());
    Ok(())
}
