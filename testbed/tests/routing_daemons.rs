//! A routing daemon on the router, behind its TAPs, unchanged: what it learns, the router does.

use anyhow::Result;
use sumun_testbed::daemons::bird;
use sumun_testbed::router::{INTERFACES, wait};
use sumun_testbed::{Appliance, Lab};

const REST: &str = r#"
[routes]
from = "kernel"

[filter.INPUT]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
  "-p ipv6-icmp -j ACCEPT",
  "-i wan0 -p tcp --dport 179 -j ACCEPT",
  "-i wan0 -p ospf -j ACCEPT",
]
"#;

fn speaker(router_id: &str, peer: &str, own: u32, other: u32, link: &str, channel: &str, rest: &str) -> String {
    format!(
        "router id {router_id};\nprotocol device {{ scan time 1; }}\n{rest}\n\
         protocol bgp peer {{\n  local {router_id} as {own};\n  neighbor {peer} as {other};\n  hold time 3;\n  keepalive time 1;\n  \
         connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 2;\n  ipv4 {{ {channel} }};\n}}\n\
         protocol ospf v2 links {{\n  ipv4 {{ {channel} }};\n  area 0 {{ interface \"{link}\" {{ type ptp; hello 1; dead count 3; }}; }};\n}}\n"
    )
}

#[test]
fn what_bgp_and_ospf_learn_is_forwarded_by_and_forgotten_with_its_neighbour() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    let Appliance { router, host } = &appliance;
    for address in ["198.51.100.1", "198.18.0.1"] {
        lab.server.ip(&format!("addr add {address}/32 dev lo"))?;
    }
    // One network for each protocol; the neighbour is a Linux router.
    let far = "protocol static bgp_only { ipv4; route 198.51.100.0/24 blackhole; }\n\
               protocol static ospf_only { ipv4; route 198.18.0.0/15 blackhole; }";
    let far = speaker("203.0.113.1", "203.0.113.2", 65001, 65002, "eth0", "import none; export EXPORT;", far)
        .replacen("EXPORT", "where proto = \"bgp_only\"", 1)
        .replacen("EXPORT", "where proto = \"ospf_only\"", 1);
    let near = "protocol kernel { ipv4 { import none; export all; }; }";
    let near = speaker("203.0.113.2", "203.0.113.1", 65002, 65001, "wan0", "import all; export none;", near);
    let neighbour = bird(&lab.server, &lab.path(""), "far", &far)?;
    let _own = bird(host, &lab.path(""), "near", &near)?;

    let networks = [("198.51.100.0/24", "198.51.100.1"), ("198.18.0.0/15", "198.18.0.1")];
    for (network, to) in networks {
        wait(&format!("{network} to be learned"), || Ok(router.ask(&["routes"])?.contains(network)))?;
        assert!(lab.client1.pings_once(to)?, "{to} is reached");
    }
    drop(neighbour);
    for (network, to) in networks {
        wait(&format!("{network} to be forgotten"), || Ok(!router.ask(&["routes"])?.contains(network)))?;
        assert!(!lab.client1.pings_once(to)?, "{to} is out of reach");
    }
    Ok(())
}
