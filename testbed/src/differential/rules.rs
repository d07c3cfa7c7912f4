//! Random rulesets, over the tables and chains of one family, out of the matches and targets that Sumun has.

use super::net::of;
use super::rng::Rng;
use super::traffic::SERVICES;
use std::fmt::Write;
use sumun_config::facts::Family;

/// A chain and its rules without `-A CHAIN`.
#[derive(Clone)]
pub struct Chain {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub name: String,
    /// The policy of a built-in chain.
    pub policy: Option<&'static str>,
    /// The rules.
    pub rules: Vec<String>,
}

/// A ruleset of one family.
#[derive(Clone)]
pub struct Rules {
    /// The family.
    pub family: Family,
    /// All built-in chains, and some of its own.
    pub chains: Vec<Chain>,
}

const TABLES: [(&str, &[&str]); 4] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
];

impl Rules {
    /// A ruleset of iptables-save's text: lines `*TABLE`, `:CHAIN POLICY` and `-A CHAIN ...` count. Built-in chains that are not
    /// named are there and accept.
    pub fn of_text(family: Family, text: &str) -> Rules {
        let chain = |table, name: &str, policy| Chain { table, name: name.into(), policy, rules: Vec::new() };
        let mut chains: Vec<Chain> = TABLES
            .iter()
            .flat_map(|(table, builtin)| builtin.iter().map(|name| chain(*table, name, Some("ACCEPT"))))
            .collect();
        let mut table = "filter";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = TABLES.iter().find(|t| t.0 == name).unwrap_or_else(|| panic!("no table {name}")).0;
            } else if let Some((name, rest)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
                match chains.iter_mut().find(|c| c.table == table && c.name == name) {
                    Some(chain) if rest.starts_with("DROP") => chain.policy = Some("DROP"),
                    Some(_) => {}
                    None => chains.push(chain(table, name, None)),
                }
            } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|line| line.split_once(' ')) {
                let chain = chains.iter_mut().find(|c| c.table == table && c.name == name);
                chain.unwrap_or_else(|| panic!("no chain {name}")).rules.push(rule.into());
            }
        }
        Rules { family, chains }
    }

    /// As iptables-restore -c takes it.
    pub fn restore(&self) -> String {
        let mut text = String::new();
        for (table, _) in TABLES {
            let _ = writeln!(text, "*{table}");
            let chains = || self.chains.iter().filter(|c| c.table == table);
            for chain in chains() {
                let _ = writeln!(text, ":{} {} [0:0]", chain.name, chain.policy.unwrap_or("-"));
            }
            for chain in chains() {
                for rule in &chain.rules {
                    let _ = writeln!(text, "[0:0] -A {} {rule}", chain.name);
                }
            }
            text += "COMMIT\n";
        }
        text
    }

    /// As Sumun's configuration has it.
    pub fn toml(&self) -> String {
        let mut text = String::new();
        let family = of(self.family, "ipv4", "ipv6");
        for chain in &self.chains {
            let _ = writeln!(text, "[{family}.{}.{}]", chain.table, chain.name);
            if let Some(policy) = chain.policy.filter(|_| chain.table == "filter" || chain.table == "mangle") {
                let _ = writeln!(text, "policy = \"{policy}\"");
            }
            let rules: Vec<_> = chain.rules.iter().map(|rule| format!("'{rule}'")).collect();
            let _ = writeln!(text, "rules = [{}]", rules.join(",\n"));
        }
        text
    }

    /// Whether some rule may change the source of what comes to the router before it is answered.
    pub fn changes_sources_in_input(&self) -> bool {
        let of_input = |c: &&Chain| c.table == "mangle" && c.name.to_lowercase().starts_with("input");
        self.chains.iter().filter(of_input).flat_map(|c| &c.rules).any(|rule| rule.contains("SNPT"))
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.chains.iter().map(|c| c.rules.len()).sum()
    }

    /// Whether it has no rule.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ruleset without its rule number `n`.
    pub fn without(&self, mut n: usize) -> Rules {
        let mut rules = self.clone();
        for chain in &mut rules.chains {
            if n < chain.rules.len() {
                chain.rules.remove(n);
                break;
            }
            n -= chain.rules.len();
        }
        rules
    }
}

/// A random ruleset.
pub fn rules(family: Family, mut rng: Rng) -> Rules {
    let mut chains = Vec::new();
    for (table, builtin) in TABLES {
        for hook in builtin {
            let mut own = Vec::new();
            for n in 0..[0, 0, 0, 1, 2][rng.below(5)] {
                own.push(format!("{}-{n}", hook.to_lowercase()));
            }
            let policy = if table == "filter" && rng.chance(20) { "DROP" } else { "ACCEPT" };
            let densest = match table {
                "filter" => 9,
                "nat" => 4,
                _ => 5,
            };
            let names: Vec<_> = std::iter::once(hook.to_string()).chain(own).collect();
            for (i, name) in names.iter().enumerate() {
                let count = rng.below(densest);
                let maker = Maker { family, table, hook, later: &names[i + 1..], builtin: i == 0 };
                let mut rules: Vec<_> = (0..count).map(|_| maker.rule(&mut rng)).collect();
                if i == 0 {
                    for own in &names[1..] {
                        let at = rng.below(rules.len() + 1);
                        let verb = if rng.chance(25) { "-g" } else { "-j" };
                        rules.insert(at, format!("{}{verb} {own}", maker.conditions(&mut rng, &mut None)));
                    }
                }
                chains.push(Chain { table, name: name.clone(), policy: (i == 0).then_some(policy), rules });
            }
        }
    }
    Rules { family, chains }
}

/// What TCPMSS asks for.
const SYN: &str = "-p tcp -m tcp --tcp-flags SYN,RST SYN";

/// Writes rules for one chain.
struct Maker<'a> {
    family: Family,
    table: &'static str,
    hook: &'static str,
    /// Chains that it may jump to.
    later: &'a [String],
    builtin: bool,
}

impl Maker<'_> {
    fn rule(&self, rng: &mut Rng) -> String {
        let mut protocol = None;
        let conditions = self.conditions(rng, &mut protocol);
        let target = self.target(rng, protocol);
        match target.split_once(" | ") {
            Some((conditions, target)) => format!("{conditions} {target}"),
            None => format!("{conditions}{target}").trim_end().to_string(),
        }
    }

    fn conditions(&self, rng: &mut Rng, protocol: &mut Option<&'static str>) -> String {
        let mut text = String::new();
        if rng.chance(25) {
            text += &self.address(rng, "-s");
        }
        if rng.chance(25) {
            text += &self.address(rng, "-d");
        }
        if rng.chance(20) {
            text += &self.interface(rng);
        }
        if rng.chance(50) {
            text += &self.protocol(rng, protocol);
        }
        for _ in 0..[0, 0, 1, 1, 2][rng.below(5)] {
            let matching = self.matching(rng);
            // iptables takes a match as often as it is asked for; here each comes once, since Sumun prints them as one.
            let name = matching.split(' ').take(2).collect::<Vec<_>>().join(" ");
            if !text.contains(&name) {
                text += &matching;
            }
        }
        text
    }

    fn address(&self, rng: &mut Rng, option: &str) -> String {
        let value = match self.family {
            Family::V4 => rng.pick(&[
                "192.168.1.0/24",
                "192.168.1.11/32",
                "192.168.1.1/32",
                "203.0.113.0/24",
                "203.0.113.9/32",
                "203.0.113.2/32",
                "198.51.100.0/25",
                "0.0.0.0/1",
                "192.168.1.255/32",
                "224.0.0.0/4",
                "0.0.0.9/0.0.0.9",
            ]),
            Family::V6 => rng.pick(&[
                "fd00:1::/64",
                "fd00:1::11/128",
                "fd00:1::1/128",
                "2001:db8:2::/64",
                "2001:db8:2::9/128",
                "2001:db8:2::2/128",
                "2001:db8::/32",
                "fe80::/10",
                "ff00::/8",
                "8000::/1",
            ]),
        };
        format!("{}{option} {value} ", not(rng))
    }

    fn interface(&self, rng: &mut Rng) -> String {
        let option = match self.hook {
            "PREROUTING" | "INPUT" => "-i",
            "OUTPUT" | "POSTROUTING" => "-o",
            _ => rng.pick(&["-i", "-o"]),
        };
        format!("{}{option} {} ", not(rng), rng.pick(&["lan0", "wan0", "wan+", "lan0"]))
    }

    fn ports(&self, rng: &mut Rng) -> String {
        match rng.below(5) {
            0..=2 => rng.pick(&SERVICES).to_string(),
            3 => "1024:65535".into(),
            _ => format!("{}:{}", 50 + rng.below(50), 200 + rng.below(300)),
        }
    }

    fn protocol(&self, rng: &mut Rng, protocol: &mut Option<&'static str>) -> String {
        let icmp = of(self.family, "icmp", "ipv6-icmp");
        let name = rng.pick(&["tcp", "tcp", "tcp", "udp", "udp", icmp, icmp, "89", "103", "132", "47"]);
        if rng.chance(10) {
            return format!("! -p {name} ");
        }
        *protocol = Some(name);
        let mut text = format!("-p {name} ");
        match name {
            "tcp" | "udp" if rng.chance(60) => {
                if rng.chance(20) {
                    let side = rng.pick(&["--sports", "--dports", "--ports"]);
                    let _ = write!(text, "-m multiport {}{side} 22,53,{},1000:1030 ", not(rng), rng.pick(&SERVICES));
                } else {
                    let _ = write!(text, "-m {name} ");
                    if rng.chance(30) {
                        let _ = write!(text, "{}--sport {} ", not(rng), self.ports(rng));
                    }
                    let _ = write!(text, "{}--dport {} ", not(rng), self.ports(rng));
                }
            }
            "tcp" => {
                let flags = rng.pick(&[
                    "--tcp-flags SYN,RST,ACK SYN",
                    "--tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
                    "--tcp-flags ACK ACK",
                    "--tcp-flags FIN,RST FIN",
                    "--tcp-option 2",
                    "--tcp-option 4",
                ]);
                let _ = write!(text, "-m tcp {}{flags} ", not(rng));
            }
            "icmp" if rng.chance(70) => {
                let kind = rng.pick(&["8", "0", "3", "3/3", "3/4", "11", "any", "5"]);
                let _ = write!(text, "-m icmp {}--icmp-type {kind} ", not(rng));
            }
            "ipv6-icmp" if rng.chance(70) => {
                let kind = rng.pick(&["128", "129", "1", "1/4", "2", "3", "136"]);
                let _ = write!(text, "-m icmp6 {}--icmpv6-type {kind} ", not(rng));
            }
            _ => {}
        }
        text
    }

    fn matching(&self, rng: &mut Rng) -> String {
        let v4 = self.family == Family::V4;
        let no = not(rng);
        match rng.below(20) {
            0..=2 => {
                let state = rng.pick(&[
                    "NEW",
                    "RELATED,ESTABLISHED",
                    "ESTABLISHED",
                    "RELATED",
                    "INVALID",
                    "UNTRACKED",
                    "SNAT",
                    "DNAT",
                    "INVALID,NEW",
                ]);
                format!("-m conntrack {no}--ctstate {state} ")
            }
            3 => format!("-m state {no}--state {} ", rng.pick(&["NEW", "ESTABLISHED", "INVALID,UNTRACKED"])),
            4 => {
                let what = rng.pick(&[
                    "--ctstatus ASSURED",
                    "--ctstatus SEEN_REPLY",
                    "--ctstatus CONFIRMED",
                    "--ctstatus NONE",
                    "--ctproto 17",
                ]);
                format!("-m conntrack {no}{what} ")
            }
            5 => format!("-m conntrack --ctdir {} ", rng.pick(&["ORIGINAL", "REPLY"])),
            6 => {
                let list = match v4 {
                    true => {
                        ["LOCAL", "BROADCAST", "MULTICAST", "UNICAST", "LOCAL,BROADCAST", "BLACKHOLE", "UNREACHABLE"]
                    }
                    false => ["LOCAL", "MULTICAST", "UNICAST", "UNSPEC", "LOCAL", "ANYCAST", "UNICAST"],
                };
                let limit = match self.hook {
                    _ if !self.builtin => "",
                    "PREROUTING" | "INPUT" | "FORWARD" if rng.chance(30) => "--limit-iface-in ",
                    "OUTPUT" | "POSTROUTING" if rng.chance(30) => "--limit-iface-out ",
                    _ => "",
                };
                format!("-m addrtype {no}--{}-type {} {limit}", rng.pick(&["src", "dst"]), rng.pick(&list))
            }
            7 => format!("-m mark {no}--mark {} ", rng.pick(&["0x1", "0x2", "0x1/0x1", "0x0/0xf", "0x10/0xf0"])),
            8 => format!("-m connmark {no}--mark {} ", rng.pick(&["0x1", "0x2", "0x1/0x1", "0x0/0xf", "0x10/0xf0"])),
            9 => format!("-m length {no}--length {} ", rng.pick(&["0:60", "60", "100:1000", "1253:65535", "28"])),
            10 => {
                let what = rng.pick(&["-eq 63", "-eq 64", "-lt 10", "-gt 63", "-eq 1"]);
                match v4 {
                    true => format!("-m ttl {}--ttl{what} ", if what.contains("eq") { no } else { "" }),
                    false => format!("-m hl {}--hl{what} ", if what.contains("eq") { no } else { "" }),
                }
            }
            11 => format!("-m dscp {no}--dscp {} ", rng.pick(&["0x00", "0x0a", "0x2e"])),
            12 => format!("-m tos {no}--tos {} ", rng.pick(&["0x00/0xff", "0x10/0x3f", "0x04/0x04"])),
            13 => {
                let range = of(
                    self.family,
                    rng.pick(&["192.168.1.10-192.168.1.12", "203.0.113.2-203.0.113.9"]),
                    rng.pick(&["fd00:1::10-fd00:1::12", "2001:db8:2::2-2001:db8:2::9"]),
                );
                format!("-m iprange {no}--{}-range {range} ", rng.pick(&["src", "dst"]))
            }
            14 => format!("-m pkttype {no}--pkt-type {} ", rng.pick(&["unicast", "broadcast", "multicast"])),
            15 => match rng.below(2) {
                0 => format!("-m statistic --mode nth {no}--every {} --packet {} ", 2 + rng.below(3), rng.below(2)),
                _ => "-m limit --limit 10000/sec --limit-burst 10000 ".into(),
            },
            16 if self.builtin && matches!(self.hook, "PREROUTING" | "INPUT" | "FORWARD") => {
                format!("-m mac {no}--mac-source {} ", rng.pick(&["02:00:00:00:00:02", "02:00:00:00:01:02"]))
            }
            17 => format!("-m ecn {no}--ecn-ip-ect {} ", rng.below(4)),
            18 => match rng.below(5) {
                0 => "-m comment --comment x ".into(),
                1 => format!("-m connlabel {no}--label {} {}", rng.below(3), rng.pick(&["", "--set "])),
                2 => {
                    let what = rng.pick(&["packets", "bytes", "avgpkt"]);
                    let dir = rng.pick(&["original", "reply", "both"]);
                    let range = rng.pick(&["1:2", "60", "0:100", "2"]);
                    format!("-m connbytes {no}--connbytes {range} --connbytes-mode {what} --connbytes-dir {dir} ")
                }
                3 => {
                    let end = rng.pick(&["origsrc", "origdst", "replsrc", "repldst"]);
                    match rng.chance(50) {
                        true => {
                            format!("-m conntrack {no}--ct{end}port {} ", rng.pick(&["0:1023", "53", "1024:65535"]))
                        }
                        false => {
                            let net = of(
                                self.family,
                                rng.pick(&["192.168.1.0/24", "203.0.113.9"]),
                                rng.pick(&["fd00:1::/64", "2001:db8:2::9"]),
                            );
                            format!("-m conntrack {no}--ct{end} {net} ")
                        }
                    }
                }
                _ => format!("-m helper {no}--helper ftp "),
            },
            19 if v4 => format!("{no}-f "),
            _ => String::new(),
        }
    }

    fn target(&self, rng: &mut Rng, protocol: Option<&'static str>) -> String {
        if rng.chance(6) {
            return String::new();
        }
        if !self.later.is_empty() && rng.chance(20) {
            return format!("{} {}", rng.pick(&["-j", "-g"]), rng.pick(&self.later.iter().collect::<Vec<_>>()));
        }
        if rng.chance(8) {
            return "-j RETURN".into();
        }
        match self.table {
            "raw" if rng.chance(30) => rng.pick(&["-j CT --notrack", "-j NOTRACK", "-j DROP"]).into(),
            "raw" if rng.chance(40) => rng
                .pick(&[
                    "-j CT",
                    "-j CT --zone 1",
                    "-j CT --zone mark",
                    "-j CT --zone-orig 2",
                    "-j CT --zone-reply 3",
                    "-j CT --ctevents new",
                ])
                .into(),
            "raw" => "-j ACCEPT".into(),
            "mangle" => self.alteration(rng),
            "nat" => self.mapping(rng, protocol),
            _ => match rng.below(10) {
                0..=5 => "-j ACCEPT".into(),
                6..=7 => "-j DROP".into(),
                _ if self.hook == "OUTPUT" => "-j DROP".into(),
                _ => self.refusal(rng, protocol),
            },
        }
    }

    fn refusal(&self, rng: &mut Rng, protocol: Option<&'static str>) -> String {
        let with = match self.family {
            Family::V4 => rng.pick(&[
                "icmp-port-unreachable",
                "icmp-net-unreachable",
                "icmp-host-unreachable",
                "icmp-proto-unreachable",
                "icmp-net-prohibited",
                "icmp-host-prohibited",
                "icmp-admin-prohibited",
            ]),
            Family::V6 => rng.pick(&[
                "icmp6-port-unreachable",
                "icmp6-no-route",
                "icmp6-adm-prohibited",
                "icmp6-addr-unreachable",
                "icmp6-policy-fail",
                "icmp6-reject-route",
            ]),
        };
        let with = if protocol == Some("tcp") && rng.chance(60) { "tcp-reset" } else { with };
        format!("-j REJECT --reject-with {with}")
    }

    fn alteration(&self, rng: &mut Rng) -> String {
        match rng.below(14) {
            0..=2 => {
                let how = rng.pick(&[
                    "--set-xmark 0x1/0xffffffff",
                    "--set-xmark 0x10/0xf0",
                    "--or-mark 0x2",
                    "--and-mark 0xfe",
                    "--xor-mark 0x3",
                ]);
                format!("-j MARK {how}")
            }
            3..=5 => {
                let how = rng.pick(&[
                    "--save-mark",
                    "--restore-mark",
                    "--set-xmark 0x1/0xffffffff",
                    "--set-xmark 0x20/0xf0",
                    "--save-mark --nfmask 0xf --ctmask 0xf",
                    "--restore-mark --nfmask 0xff --ctmask 0xf0",
                ]);
                format!("-j CONNMARK {how}")
            }
            // In IPv6 these change what the kernel has summed in software (CHECKSUM_COMPLETE) and do not say so: local sockets
            // then take the packet for damaged.
            6..=8 if self.family == Family::V6 && matches!(self.hook, "PREROUTING" | "INPUT") => "-j ACCEPT".into(),
            6 => format!("-j DSCP --set-dscp {}", rng.pick(&["0x0a", "0x2e", "0x00"])),
            7 => format!("-j TOS --set-tos {}", rng.pick(&["0x10/0x3f", "0x04/0xff", "0x08/0x08"])),
            8 => {
                let how = rng.pick(&["-set 64", "-set 1", "-inc 1", "-dec 1", "-dec 63"]);
                of(self.family, format!("-j TTL --ttl{how}"), format!("-j HL --hl{how}"))
            }
            9 if matches!(self.hook, "FORWARD" | "POSTROUTING" | "OUTPUT") => {
                format!("{SYN} | -j TCPMSS --clamp-mss-to-pmtu")
            }
            // What is mapped lies behind the gateway: it has no neighbours to be asked for. Checksums are kept right for the own
            // prefix only, and what asks for them behind conntrack and NAT differs.
            12 if self.family == Family::V6 && self.hook != "FORWARD" => match self.hook {
                "PREROUTING" | "OUTPUT" => rng.pick(&[
                    "-d 2001:db8:5::/64 | -j DNPT --src-pfx 2001:db8:5::/64 --dst-pfx fd00:1::/64",
                    "-d 2001:db8:6::/48 | -j DNPT --src-pfx 2001:db8:6:100::/56 --dst-pfx fd00:1::/48",
                    "-d 2001:db8:2::/48 | -j DNPT --src-pfx 2001:db8:2::/48 --dst-pfx 2001:db8:7::/48",
                ]),
                "INPUT" => "-s fd00:1::/64 | -j SNPT --src-pfx fd00:1::/64 --dst-pfx 2001:db8:5::/64",
                _ => rng.pick(&[
                    "-s fd00:1::/64 | -j SNPT --src-pfx fd00:1::/64 --dst-pfx 2001:db8:5::/64",
                    "-s fd00:1::/64 | -j SNPT --src-pfx fd00:1::/48 --dst-pfx 2001:db8:6:100::/56",
                ]),
            }
            .into(),
            10 => format!("{SYN} | -j TCPMSS --set-mss {}", rng.pick(&[536, 1200, 1400, 1460])),
            11 => "-j DROP".into(),
            _ => "-j ACCEPT".into(),
        }
    }

    fn mapping(&self, rng: &mut Rng, protocol: Option<&'static str>) -> String {
        let ported = matches!(protocol, Some("tcp" | "udp"));
        let range = ported && rng.chance(30);
        if rng.chance(30) {
            return "-j ACCEPT".into();
        }
        let place = |address: &str, ports: &str| match (range, self.family) {
            (false, _) => address.to_string(),
            (true, Family::V4) => format!("{address}:{ports}"),
            (true, Family::V6) => format!("[{address}]:{ports}"),
        };
        if rng.chance(15) {
            let to = of(
                self.family,
                ["198.51.100.0/24", "198.51.100.64/28", "10.9.0.0/16"],
                ["2001:db8:5::/64", "2001:db8:5::/120", "2001:db8:6::/48"],
            );
            return format!("-j NETMAP --to {}", rng.pick(&to));
        }
        if rng.chance(15) {
            let to = of(self.family, "198.51.100.8-198.51.100.99", "2001:db8:5::8-2001:db8:6:ffff::1");
            let target = match self.hook {
                "PREROUTING" | "OUTPUT" => "DNAT --to-destination",
                _ => "SNAT --to-source",
            };
            let how = if rng.chance(30) { " --persistent" } else { "" };
            return format!("-j {target} {to}{how}");
        }
        if ported && self.hook == "PREROUTING" && rng.chance(15) {
            let ports = rng.pick(&[":8000-8100/50", ":1-65535/2", ":53"]);
            return format!("-j DNAT --to-destination {ports}");
        }
        match self.hook {
            "POSTROUTING" if rng.chance(50) => {
                format!("-j MASQUERADE{}", if range { " --to-ports 6000-6100" } else { "" })
            }
            "POSTROUTING" => {
                let to = of(
                    self.family,
                    rng.pick(&["203.0.113.2", "203.0.113.77", "192.168.1.1"]),
                    rng.pick(&["2001:db8:2::2", "2001:db8:2::77", "fd00:1::1"]),
                );
                format!("-j SNAT --to-source {}", place(to, "7000-7100"))
            }
            "INPUT" => {
                let to = of(self.family, "192.168.1.12", "fd00:1::12");
                format!("-j SNAT --to-source {}", place(to, "7000"))
            }
            "PREROUTING" | "OUTPUT" if rng.chance(30) => {
                format!("-j REDIRECT{}", if range { " --to-ports 8080" } else { "" })
            }
            _ => {
                let to = of(
                    self.family,
                    rng.pick(&["192.168.1.12", "203.0.113.9", "192.168.1.1"]),
                    rng.pick(&["fd00:1::12", "2001:db8:2::9", "fd00:1::1"]),
                );
                format!("-j DNAT --to-destination {}", place(to, "8080"))
            }
        }
    }
}

fn not(rng: &mut Rng) -> &'static str {
    if rng.chance(15) { "! " } else { "" }
}
