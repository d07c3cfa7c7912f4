//! Packets larger than the link, through masquerade and to the router itself, as real hosts send them.

use anyhow::Result;
use sumun_testbed::{Lab, Router, talk};

const MASQUERADE: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-i lan0 -j ACCEPT",
]
"#;

#[test]
fn large_pings_are_answered_beyond_the_router_and_by_it() -> Result<()> {
    let lab = Lab::new(1)?;
    let _router = Router::start(&lab, MASQUERADE)?;
    for address in ["203.0.113.1", "2001:db8:2::1", "192.168.1.1", "fd00:1::1"] {
        assert!(lab.client1.pings_with(address, 5, 4000), "{address}");
    }
    for address in ["203.0.113.1", "2001:db8:2::1"] {
        assert!(lab.client1.pings_with(address, 3, 60_000), "{address}");
    }
    Ok(())
}

#[test]
fn datagrams_of_8000_bytes_go_both_ways_through_masquerade() -> Result<()> {
    let lab = Lab::new(1)?;
    let _router = Router::start(&lab, MASQUERADE)?;
    for (any, from, to) in [
        ("203.0.113.1:5400", "192.168.1.11:4100", "203.0.113.1:5400"),
        ("[2001:db8:2::1]:5400", "[fd00:1::11]:4100", "[2001:db8:2::1]:5400"),
    ] {
        let echo = talk::udp_echo(&lab.server, any, 5)?;
        let socket = talk::udp_connect(&lab.client1, from, to)?;
        for size in [8000, 1473, 8000, 4000, 65_000] {
            let text: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            talk::udp_ask(&socket, &text)?;
        }
        let peers = echo.join().expect("no panic")?;
        assert!(peers.iter().all(|peer| *peer == peers[0]), "{peers:?}");
        assert_eq!(peers[0].port(), 4100);
    }
    Ok(())
}
