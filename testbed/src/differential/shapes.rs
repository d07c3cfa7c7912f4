//! Rulesets of real shape: what people bring from their routers and hosts, in iptables-save's text.
//!
//! Small ones are files in `testbed/shapes`; large ones, which machines write, are written by one here.

use super::net::{HOST, LAN, mac_text};
use std::fmt::Write;
use std::path::Path;
use sumun_config::facts::Family;

/// A ruleset as somebody brings it.
pub struct Shape {
    /// What it is.
    pub name: &'static str,
    /// Its family.
    pub family: Family,
    /// As iptables-restore takes it.
    pub text: String,
}

/// All shapes.
pub fn all() -> Vec<Shape> {
    let file = |name, file: &str, family| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("shapes").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Shape { name, family, text }
    };
    vec![
        file("home router", "home-router.v4", Family::V4),
        file("home router", "home-router.v6", Family::V6),
        file("docker", "docker.v4", Family::V4),
        file("ufw", "ufw.v4", Family::V4),
        file("ufw", "ufw.v6", Family::V6),
        file("openwrt", "openwrt.v4", Family::V4),
        Shape { name: "fail2ban", family: Family::V4, text: fail2ban() },
        Shape { name: "kube-proxy", family: Family::V4, text: kube_proxy(1000) },
        Shape { name: "campus", family: Family::V4, text: campus(5000) },
    ]
}

/// A chain for each service with the addresses that were banned from it.
fn fail2ban() -> String {
    let jails = [("sshd", "22"), ("web", "80,443,8080"), ("mail", "25,465,587,993"), ("recidive", "1:65535")];
    let mut text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_string();
    for (jail, _) in jails {
        let _ = writeln!(text, ":f2b-{jail} - [0:0]");
    }
    for hook in ["INPUT", "FORWARD"] {
        for (jail, ports) in jails {
            let _ = writeln!(text, "-A {hook} -p tcp -m multiport --dports {ports} -j f2b-{jail}");
        }
    }
    for (n, (jail, _)) in jails.iter().enumerate() {
        let banned = |i: usize| format!("198.51.{}.{}", 100 + n, 1 + i * 3 % 250);
        for i in 0..80 {
            let reject = if n % 2 == 0 { "REJECT --reject-with icmp-port-unreachable" } else { "DROP" };
            let _ = writeln!(text, "-A f2b-{jail} -s {}/32 -j {reject}", banned(i));
        }
        let _ = writeln!(text, "-A f2b-{jail} -s 203.0.113.{}/32 -p tcp -j REJECT --reject-with tcp-reset", 9 + n % 2);
        let _ = writeln!(text, "-A f2b-{jail} -j RETURN");
    }
    text + "COMMIT\n"
}

/// Name of a chain of kube-proxy's, which are hashes.
fn hashed(kind: &str, n: usize) -> String {
    let mut state = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let letters = (0..16).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[(state % 32) as usize] as char
    });
    format!("KUBE-{kind}-{}", letters.collect::<String>())
}

/// What kube-proxy writes for so many services: a dispatch by address and port, a chain for each service and one for each of
/// its ends; every tenth has three, every seventh a port of the node, every thirteenth an affinity, every hundredth none.
fn kube_proxy(services: usize) -> String {
    let mut chains = String::new();
    let mut dispatch = String::new();
    let mut nodeports = String::new();
    let mut rules = String::new();
    let mut unready = String::new();
    for n in 0..services {
        let name = format!("shop/service-{n}:http");
        let cluster = format!("10.96.{}.{}", n / 250, n % 250 + 1);
        let port = [80, 443, 8080, 53, 5432][n % 5];
        if n % 100 == 99 {
            let _ = writeln!(
                unready,
                "-A KUBE-SERVICES -d {cluster}/32 -p tcp -m comment --comment \"{name} has no endpoints\" \
                 -m tcp --dport {port} -j REJECT --reject-with icmp-port-unreachable"
            );
            continue;
        }
        let service = hashed("SVC", n);
        let _ = writeln!(chains, ":{service} - [0:0]");
        let _ = writeln!(
            dispatch,
            "-A KUBE-SERVICES -d {cluster}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {port} -j {service}"
        );
        if n % 7 == 0 {
            let external = hashed("EXT", n);
            let _ = writeln!(chains, ":{external} - [0:0]");
            let _ = writeln!(
                nodeports,
                "-A KUBE-NODEPORTS -p tcp -m comment --comment \"{name}\" -m tcp --dport {} -j {external}",
                30_000 + n
            );
            let _ = writeln!(
                rules,
                "-A {external} -m comment --comment \"masquerade traffic for {name} external destinations\" -j KUBE-MARK-MASQ\n\
                 -A {external} -j {service}"
            );
        }
        let _ = writeln!(
            rules,
            "-A {service} ! -s 10.244.0.0/16 -d {cluster}/32 -p tcp -m comment --comment \"{name} cluster IP\" \
             -m tcp --dport {port} -j KUBE-MARK-MASQ"
        );
        let ends = if n % 10 == 9 { 3 } else { 1 };
        for end in 0..ends {
            let endpoint = hashed("SEP", n * 4 + end);
            let pod = format!("192.168.1.{}", 11 + (n + end) % 3);
            let target = 8000 + n % 50;
            let _ = writeln!(chains, ":{endpoint} - [0:0]");
            if n % 13 == 0 {
                let _ = writeln!(
                    rules,
                    "-A {service} -m comment --comment \"{name} -> {pod}:{target}\" -m recent --rcheck --seconds 10800 \
                     --reap --name {endpoint} --mask 255.255.255.255 --rsource -j {endpoint}"
                );
            }
            let share = match ends - end {
                1 => String::new(),
                left => format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64),
            };
            let _ =
                writeln!(rules, "-A {service} -m comment --comment \"{name} -> {pod}:{target}\"{share} -j {endpoint}");
            let _ = writeln!(rules, "-A {endpoint} -s {pod}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ");
            let affinity = match n % 13 {
                0 => format!(" -m recent --set --name {endpoint} --mask 255.255.255.255 --rsource"),
                _ => String::new(),
            };
            let _ = writeln!(
                rules,
                "-A {endpoint} -p tcp -m comment --comment \"{name}\"{affinity} -m tcp -j DNAT --to-destination {pod}:{target}"
            );
        }
    }
    format!(
        "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :POSTROUTING ACCEPT [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-SERVICES - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n{nodeports}\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE\n\
         {dispatch}\
         -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
         -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n{rules}COMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
         :KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-SERVICES - [0:0]\n\
         -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL\n\
         -A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS\n\
         -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" \
         -j KUBE-EXTERNAL-SERVICES\n\
         -A INPUT -j KUBE-FIREWALL\n\
         -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-FIREWALL\n\
         -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" \
         -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" \
         -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n{unready}COMMIT\n"
    )
}

/// A firewall that knows its people by their cards: so many addresses, each with its MAC, in a chain for each building.
fn campus(people: usize) -> String {
    const BUILDINGS: usize = 20;
    let mut text = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:services - [0:0]\n:strangers - [0:0]\n"
        .to_string();
    for b in 0..BUILDINGS {
        let _ = writeln!(text, ":building-{b} - [0:0]");
    }
    text += "-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\n\
             -A INPUT -i lan0 -p udp -m multiport --dports 53,67,123 -j ACCEPT\n\
             -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
             -A FORWARD -m state --state INVALID -j DROP\n\
             -A FORWARD -i wan0 -j services\n";
    for b in 0..BUILDINGS {
        let _ = writeln!(text, "-A FORWARD -s 10.20.{b}.0/24 -i lan0 -g building-{b}");
    }
    text += "-A FORWARD -s 192.168.1.0/24 -i lan0 -g building-0\n-A FORWARD -j strangers\n";
    for person in 0..people {
        let (b, host) = (person % BUILDINGS, person / BUILDINGS);
        let known = person % 50 == 0;
        let mac = if known { HOST[LAN.0 as usize] } else { [0x5a, 0x10, 0, b as u8, host as u8, 7] };
        let source = match (known, host) {
            (true, 0) => format!("192.168.1.{}", 11 + b % 3),
            _ => format!("10.20.{b}.{}", 1 + host),
        };
        let verdict = match person % 11 {
            10 => "REJECT --reject-with icmp-admin-prohibited",
            _ => "ACCEPT",
        };
        let _ = writeln!(text, "-A building-{b} -s {source}/32 -m mac --mac-source {} -j {verdict}", mac_text(mac));
    }
    for b in 0..BUILDINGS {
        let _ = writeln!(text, "-A building-{b} -j strangers");
    }
    text += "-A services -d 192.168.1.11/32 -p tcp -m multiport --dports 22,80,443 -j ACCEPT\n\
             -A services -d 192.168.1.12/31 -p udp -m udp --dport 53 -j ACCEPT\n\
             -A services -m iprange --src-range 203.0.113.9-203.0.113.20 -p icmp -j ACCEPT\n\
             -A strangers -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset\n\
             -A strangers -m limit --limit 10/min -j LOG --log-prefix \"stranger \"\n\
             -A strangers -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n";
    text
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rules;
    use super::*;

    #[test]
    fn shapes_are_as_large_as_they_say() {
        let rules = |name: &str| {
            let shapes = all();
            let shape = shapes.iter().find(|shape| shape.name == name).expect("a shape");
            Rules::of_text(shape.family, &shape.text).len()
        };
        assert_eq!(rules("campus"), 5000 + 54);
        assert!(rules("kube-proxy") > 5000);
    }
}
