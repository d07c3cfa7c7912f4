//! Tests of the language as a whole: every extension's cases, both forms, and text that comes back as it went.

use super::option::{Case, Complaint, Extension, Word};
use super::{
    Effect, Families, Hook, Item, ParsedRule, Reach, Rule, Site, Table, matches, parse_fields, parse_text, print,
    targets,
};
use crate::facts::{AddrType, Context, Facts, Family, PortId, Surroundings};
use crate::set::samples;

fn ports() -> Vec<String> {
    ["lan0", "lan1", "wan0", "eth0"].map(String::from).to_vec()
}

fn parse(family: Family, table: Table, text: &str) -> Result<Vec<Rule>, Vec<Complaint>> {
    let ports = ports();
    let site = Site {
        families: Families::Only(family),
        table,
        reach: Reach::User(0),
        ports: &ports,
        names: samples::names(),
        base: 0,
        line: 0,
    };
    parse_text(text, &site).map(|parsed| parsed.bodies.into_iter().map(|body| body.rule).collect())
}

fn show(rule: &Rule, family: Family) -> String {
    print(rule, family, |_| "chain")
}

/// One rule comes out, prints as the case says, and the print is a fixed point; or the complaint has the words.
fn run(case: &Case, table: Table) {
    match *case {
        Case::Prints(family, text, canonical) => {
            let canonical = if canonical == "=" { text } else { canonical };
            let rules = parse(family, table, text).unwrap_or_else(|complaints| panic!("{text}: {complaints:?}"));
            let [rule] = rules.as_slice() else { panic!("{text}: {} rules", rules.len()) };
            assert_eq!(show(rule, family), canonical, "{text}");
            let again =
                parse(family, table, canonical).unwrap_or_else(|complaints| panic!("{canonical}: {complaints:?}"));
            assert_eq!(again, rules, "{canonical}");
        }
        Case::Refused(family, text, words) => match parse(family, table, text) {
            Ok(rules) => panic!("{text} was accepted: {}", show(&rules[0], family)),
            Err(complaints) => {
                assert!(complaints.iter().any(|c| c.what.contains(words)), "{text}: {complaints:?}");
                assert!(complaints.iter().all(|c| c.at.end <= text.len()), "{text}: {complaints:?}");
            }
        },
    }
}

fn run_all<T>(extension: &Extension<T>) {
    let table = extension.tables.first().copied().unwrap_or(Table::Mangle);
    extension.cases.iter().for_each(|case| run(case, table));
    assert!(!extension.cases.is_empty() && !extension.summary.is_empty(), "{}", extension.name);
}

#[test]
fn every_target_keeps_its_cases() {
    targets::EXTENSIONS.iter().for_each(|extension| run_all(extension));
}

#[test]
fn every_match_keeps_its_cases() {
    matches::EXTENSIONS.iter().for_each(|extension| run_all(extension));
}

/// A field of TOML as the schema makes it; places are of no interest here.
fn item(key: &str, value: &toml::Value) -> Item {
    let word = |text: String| Word { at: 0..text.len(), text };
    let text = |value: &toml::Value| match value {
        toml::Value::String(text) => word(text.clone()),
        other => word(other.to_string()),
    };
    let values = match value {
        toml::Value::Array(list) => list.iter().map(text).collect(),
        toml::Value::Table(_) => Vec::new(),
        one => vec![text(one)],
    };
    let nested = value.as_table().map(|table| table.iter().map(|(key, value)| item(key, value)).collect());
    Item { key: word(key.to_string()), negate: false, values, nested }
}

fn fields_at(families: Families, table: Table, toml: &str) -> Result<ParsedRule, Vec<Complaint>> {
    let ports = ports();
    let site =
        Site { families, table, reach: Reach::User(0), ports: &ports, names: samples::names(), base: 0, line: 7 };
    let table: toml::Table = toml::from_str(&format!("rule = {toml}")).unwrap_or_else(|e| panic!("{toml}: {e}"));
    let items: Vec<Item> =
        table["rule"].as_table().expect("a table").iter().map(|(key, value)| item(key, value)).collect();
    parse_fields(&items, 0..toml.len(), &site)
}

/// What a rule in fields is for IPv4 and IPv6, in canonical text.
fn shown(parsed: &ParsedRule) -> Vec<(Family, String)> {
    parsed.bodies.iter().map(|body| (body.family, show(&body.rule, body.family))).collect()
}

fn example<T>(extension: &Extension<T>) {
    let table = extension.tables.first().copied().unwrap_or(Table::Mangle);
    let parsed = fields_at(extension.families, table, extension.example);
    let parsed = parsed.unwrap_or_else(|complaints| panic!("{}: {complaints:?}", extension.example));
    assert!(!parsed.bodies.is_empty(), "{}", extension.example);
    for (family, text) in shown(&parsed) {
        let again = parse(family, table, &text).unwrap_or_else(|complaints| panic!("{text}: {complaints:?}"));
        assert_eq!(show(&again[0], family), text);
    }
}

#[test]
fn a_match_may_be_asked_several_times_and_each_keeps_its_options() {
    for text in [
        "-m conntrack --ctstate NEW -m conntrack --ctdir ORIGINAL",
        "-m conntrack --ctstate NEW --ctdir ORIGINAL",
        "-m mark --mark 0x1/0x1 -m mark ! --mark 0x2/0x2",
        "-p tcp -m tcp --sport 1 -m tcp --dport 2",
    ] {
        run(&Case::Prints(Family::V4, text, "="), Table::Mangle);
    }
}

#[test]
fn every_example_is_accepted_as_fields_and_then_as_text() {
    targets::EXTENSIONS.iter().for_each(|extension| example(extension));
    matches::EXTENSIONS.iter().for_each(|extension| example(extension));
}

#[test]
fn fields_are_the_same_rules_as_text() {
    use Family::{V4, V6};
    let cases: &[(&str, &[(Family, &str)])] = &[
        (r#"{ target = "ACCEPT" }"#, &[(V4, "-j ACCEPT"), (V6, "-j ACCEPT")]),
        (
            r#"{ in = "lan0", out = "!wan+", protocol = "tcp", dport = 22, jump = "DROP" }"#,
            &[
                (V4, "-i lan0 ! -o wan+ -p tcp -m tcp --dport 22 -j DROP"),
                (V6, "-i lan0 ! -o wan+ -p tcp -m tcp --dport 22 -j DROP"),
            ],
        ),
        (r#"{ source = "!192.0.2.0/24" }"#, &[(V4, "! -s 192.0.2.0/24")]),
        (r#"{ not-source = "2001:db8::/32", family = "ipv6" }"#, &[(V6, "! -s 2001:db8::/32")]),
        (
            r#"{ source = ["10.0.0.1", "10.0.0.2"], destination = "10.1.0.0/16" }"#,
            &[(V4, "-s 10.0.0.1/32 -d 10.1.0.0/16"), (V4, "-s 10.0.0.2/32 -d 10.1.0.0/16")],
        ),
        (
            r#"{ ctstate = ["ESTABLISHED", "RELATED"], family = "ipv4" }"#,
            &[(V4, "-m conntrack --ctstate RELATED,ESTABLISHED")],
        ),
        (
            r#"{ protocol = "tcp", tcp_flags = ["SYN,RST", "SYN"], family = "ipv4" }"#,
            &[(V4, "-p tcp -m tcp --tcp-flags SYN,RST SYN")],
        ),
        (
            r#"{ protocol = "tcp", tcp-flags = "!SYN,RST SYN", family = "ipv4" }"#,
            &[(V4, "-p tcp -m tcp ! --tcp-flags SYN,RST SYN")],
        ),
        (
            r#"{ protocol = "tcp", syn = false, family = "ipv4" }"#,
            &[(V4, "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN")],
        ),
        (
            r#"{ protocol = "tcp", dports = [80, 443], family = "ipv4" }"#,
            &[(V4, "-p tcp -m multiport --dports 80,443")],
        ),
        (
            r#"{ protocol = "tcp", match = ["multiport"], sports = "1:5", dport = 9, family = "ipv4" }"#,
            &[(V4, "-p tcp -m multiport --sports 1:5 -m tcp --dport 9")],
        ),
        (r#"{ mark = "0x1", family = "ipv4" }"#, &[(V4, "-m mark --mark 0x1")]),
        (r#"{ connmark = { mark = "!0x1" }, family = "ipv4" }"#, &[(V4, "-m connmark ! --mark 0x1")]),
        (r#"{ comment = "!important", family = "ipv4" }"#, &[(V4, "-m comment --comment \"!important\"")]),
        (r#"{ fragment = true }"#, &[(V4, "-f")]),
        (r#"{ protocol = "icmp", icmp-type = "echo-request" }"#, &[(V4, "-p icmp -m icmp --icmp-type 8")]),
        (r#"{ protocol = "icmp" }"#, &[(V4, "-p icmp")]),
        (r#"{ protocol = "ipv6-icmp" }"#, &[(V6, "-p ipv6-icmp")]),
        (
            r#"{ target = "LOG", log-prefix = "a b", log-uid = false, family = "ipv4" }"#,
            &[(V4, "-j LOG --log-prefix \"a b\"")],
        ),
        (r#"{ LOG = { log-level = 7 }, family = "ipv4" }"#, &[(V4, "-j LOG --log-level 7")]),
        (r#"{ target = "TTL", ttl-set = 5 }"#, &[(V4, "-j TTL --ttl-set 5")]),
        (r#"{ target = "HL", hl-dec = 1 }"#, &[(V6, "-j HL --hl-dec 1")]),
    ];
    for (toml, expected) in cases {
        let parsed = fields_at(Families::Both, Table::Mangle, toml)
            .unwrap_or_else(|complaints| panic!("{toml}: {complaints:?}"));
        let expected: Vec<_> = expected.iter().map(|&(family, text)| (family, text.to_string())).collect();
        assert_eq!(shown(&parsed), expected, "{toml}");
        assert!(parsed.bodies.iter().all(|body| body.rule.line == 7));
    }
}

#[test]
fn mistakes_in_fields_say_what_would_be_accepted() {
    let cases = [
        (r#"{ dprot = 22, protocol = "tcp" }"#, "no field `dprot`", "`dport`"),
        (r#"{ dport = 22 }"#, "`dport` needs a protocol", "tcp"),
        (r#"{ dport = 22, protocol = "gre" }"#, "`dport` needs a protocol", "tcp"),
        (r#"{ target = "ACCEPT", jump = "DROP" }"#, "a target already", "one"),
        (r#"{ target = "ACCEPT", dport = { } }"#, "no match `dport`", ""),
        (r#"{ match = "limt" }"#, "no match `limt`", ""),
        (r#"{ multiport = "1,2" }"#, "is a match and wants its options", "dports"),
        (r#"{ mark = { mrak = 1 } }"#, "has no option `mrak`", "`mark`"),
        (r#"{ protocol = "tcp", syn = 5 }"#, "is given or not", "true or false"),
        (r#"{ protocol = "tcp", tcp-flags = "SYN" }"#, "wants two values", "two"),
        (r#"{ source = [] }"#, "wants a value", "value"),
        (r#"{ in = "lan7" }"#, "no interface `lan7`", "`lan"),
        (r#"{ family = "ipx" }"#, "not a family", "ipv4"),
        (r#"{ not-target = "DROP" }"#, "cannot be negated", ""),
        (r#"{ source = "10.0.0.1", destination = "2001:db8::1" }"#, "serves no family", ""),
        (r#"{ source = "10.0.0.1", target = "HL", hl-set = 1 }"#, "serves no family", ""),
        (r#"{ source = "10.0.0.300" }"#, "not an IPv4 address", ""),
    ];
    for (toml, what, accepts) in cases {
        let complaints = fields_at(Families::Both, Table::Mangle, toml).map(|parsed| shown(&parsed)).expect_err(toml);
        let hit = |c: &Complaint| c.what.contains(what) && c.accepts.as_deref().unwrap_or_default().contains(accepts);
        assert!(complaints.iter().any(hit), "{toml}: {complaints:?}");
    }
}

#[test]
fn text_is_read_as_iptables_reads_it() {
    let cases = [
        ("", ""),
        ("-f -s 1.2.3.4 -i lan+ -p udp -d 5.0.0.0/8", "-s 1.2.3.4/32 -d 5.0.0.0/8 -i lan+ -p udp -f"),
        ("! -f ! -i lan0 ! -p udp", "! -i lan0 ! -p udp ! -f"),
        ("-p all -s 0.0.0.0/0 -i + -d 0/0", ""),
        ("! -s 0/0", "! -s 0.0.0.0/0"),
        ("-s ! 1.2.3.4", "! -s 1.2.3.4/32"),
        ("-s 1.2.3.4/255.255.0.255", "-s 1.2.0.4/255.255.0.255"),
        ("-p 250", "-p 250"),
        ("--protocol TCP --in-interface lan0 --jump ACCEPT", "-i lan0 -p tcp -j ACCEPT"),
        ("--proto tcp --src 1.2.3.4 --dst 5.6.7.8", "-s 1.2.3.4/32 -d 5.6.7.8/32 -p tcp"),
        ("-ptcp -ilan0 --dport=22", "-i lan0 -p tcp -m tcp --dport 22"),
        ("-p tcp -m tcp", "-p tcp -m tcp"),
        (
            "-p tcp -m comment --comment x --dport 22 -j ACCEPT",
            "-p tcp -m comment --comment x -m tcp --dport 22 -j ACCEPT",
        ),
        ("-m comment --comment x -m comment --comment y", "-m comment --comment x -m comment --comment y"),
        ("-p tcp -m tcp --dport 5 -m tcp --sport 3", "-p tcp -m tcp --dport 5 -m tcp --sport 3"),
        ("-4 -c 5 6 -j ACCEPT", "-j ACCEPT"),
        ("-m comment --comment 'it is \"so\"'", r#"-m comment --comment "it is \"so\"""#),
        (r#"-m comment --comment "a \"b\" \\ c" "#, r#"-m comment --comment "a \"b\" \\ c""#),
        (r"-m comment --comment a\ b", r#"-m comment --comment "a b""#),
        ("-m mark --mark 1 -m connmark --mark 2", "-m mark --mark 0x1 -m connmark --mark 0x2"),
        ("-p tcp --syn", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
        ("-p tcp --destination-p 5", "-p tcp -m tcp --dport 5"),
    ];
    for (text, canonical) in cases {
        let rules =
            parse(Family::V4, Table::Mangle, text).unwrap_or_else(|complaints| panic!("{text}: {complaints:?}"));
        assert_eq!(show(&rules[0], Family::V4), canonical, "{text}");
    }
}

#[test]
fn lists_of_addresses_are_several_rules_in_the_order_of_iptables() {
    let rules = parse(Family::V4, Table::Filter, "-s 1.2.3.4,5.6.7.8 -d 1.1.1.1,2.2.2.2").expect("a rule");
    let texts: Vec<String> = rules.iter().map(|rule| show(rule, Family::V4)).collect();
    let expected = ["1.2.3.4/32 -d 1.1.1.1", "1.2.3.4/32 -d 2.2.2.2", "5.6.7.8/32 -d 1.1.1.1", "5.6.7.8/32 -d 2.2.2.2"];
    assert_eq!(texts, expected.map(|pair| format!("-s {pair}/32")));
}

#[test]
fn all_mistakes_of_a_text_are_told_with_their_places() {
    // Text, and for each complaint the piece of the text it points at and words that it has.
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("-p tcp --dprot 22 -j ACCEPT", &[("--dprot", "no option")]),
        ("-p tpc -i lan9 -j ACCEPT", &[("lan9", "no interface"), ("tpc", "not a protocol")]),
        ("-s 1.2.3.4 -s 5.6.7.8 -j ACCEPT -j DROP", &[("-j", "target already")]),
        ("-s 1.2.3.4 -s 5.6.7.8", &[("-s", "twice")]),
        ("--dport 1 -p tcp", &[("--dport", "no option")]),
        ("-p tcp --dport", &[("--dport", "wants a value")]),
        ("! ! -p tcp", &[("!", "twice")]),
        ("-p tcp !", &[("!", "nothing follows")]),
        ("-m nonesuch --foo 5 --bar -p tcp", &[("nonesuch", "no match")]),
        ("-m", &[("-m", "wants a name")]),
        ("-p tcp --syn=5", &[("5", "takes no value")]),
        ("! -s 1.2.3.4,5.6.7.8", &[("1.2.3.4,5.6.7.8", "list of addresses")]),
        ("! -p all", &[("all", "never matches")]),
        ("-j LOG --log-prefix \"abc", &[("\"abc", "not closed")]),
        ("-c 5 x", &[("x", "two numbers")]),
        ("-m tcp --dport 1", &[("tcp", "protocol tcp only")]),
        ("! -p tcp -m tcp --dport 1", &[("tcp", "protocol tcp only")]),
        ("stray", &[("stray", "not expected")]),
        ("-6 -j ACCEPT", &[("-6", "ipv6 only")]),
        ("-m ipvs --ipvs -j ACCEPT", &[("ipvs", "a load balancer of the kernel's")]),
        ("-j LED --led-trigger-id x --led-delay 5", &[("LED", "a LED of the kernel's")]),
        ("-j ULOG --ulog-nlgroup 1", &[("ULOG", "left the kernel")]),
        ("-j CLUSTERIP --new --hashmode sourceip", &[("CLUSTERIP", "left the kernel")]),
        ("-p tcp -j TPROXY --on-port 80", &[("TPROXY", "the router has none")]),
    ];
    for (text, expected) in cases {
        let complaints = parse(Family::V4, Table::Filter, text).expect_err(text);
        let found: Vec<&str> = complaints.iter().map(|c| &text[c.at.clone()]).collect();
        assert_eq!(found, expected.iter().map(|e| e.0).collect::<Vec<_>>(), "{text}: {complaints:?}");
        for (complaint, (_, words)) in complaints.iter().zip(*expected) {
            assert!(complaint.what.contains(words), "{text}: {complaint:?}");
        }
    }
}

#[test]
fn an_option_before_its_owner_is_told_where_it_belongs() {
    let complaints = parse(Family::V4, Table::Filter, "--dports 1,2").expect_err("no match");
    assert_eq!(complaints[0].accepts.as_deref(), Some("it belongs to -m multiport: write that before it"));
    let complaints = parse(Family::V4, Table::Filter, "--reject-with tcp-reset").expect_err("no target");
    assert_eq!(complaints[0].accepts.as_deref(), Some("it belongs to -j REJECT: write that before it"));
}

#[test]
fn targets_stand_only_where_the_kernel_has_them() {
    use Hook::*;
    let all = [Prerouting, Input, Forward, Output, Postrouting];
    // Asked of iptables 1.8.9 and the kernel: which built-in chains of which table take each rule.
    let cases: &[(&str, &[Table], &[Hook])] = &[
        ("-j ACCEPT", &Table::ALL, &all),
        ("-j LOG", &Table::ALL, &all),
        ("-j MARK --set-mark 1", &Table::ALL, &all),
        ("-j CONNMARK --save-mark", &Table::ALL, &all),
        ("-j REJECT", &[Table::Filter], &all),
        ("-j TTL --ttl-set 1", &[Table::Mangle], &all),
        ("-j TOS --set-tos 1", &[Table::Mangle], &all),
        ("-j DSCP --set-dscp 1", &[Table::Mangle], &all),
        ("-j NOTRACK", &[Table::Raw], &all),
        ("-j CT --notrack", &[Table::Raw], &all),
        ("-j SNAT --to-source 1.2.3.4", &[Table::Nat], &[Input, Postrouting]),
        ("-j DNAT --to-destination 1.2.3.4", &[Table::Nat], &[Prerouting, Output]),
        ("-j MASQUERADE", &[Table::Nat], &[Postrouting]),
        ("-j REDIRECT", &[Table::Nat], &[Prerouting, Output]),
        ("-p tcp --syn -j TCPMSS --set-mss 5", &Table::ALL, &all),
        ("-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", &Table::ALL, &[Forward, Output, Postrouting]),
        ("-i lan0", &Table::ALL, &[Prerouting, Input, Forward]),
        ("-o lan0", &Table::ALL, &[Forward, Output, Postrouting]),
    ];
    let ports = ports();
    for &(text, tables, hooks) in cases {
        for table in Table::ALL {
            for &hook in table.hooks() {
                let site = Site {
                    families: Families::Only(Family::V4),
                    table,
                    reach: Reach::BuiltIn(hook),
                    ports: &ports,
                    names: samples::names(),
                    base: 0,
                    line: 0,
                };
                let allowed = tables.contains(&table) && hooks.contains(&hook);
                let answer = parse_text(text, &site).map(|_| ());
                assert_eq!(answer.is_ok(), allowed, "{text} in {} {}: {answer:?}", table.name(), hook.name());
            }
        }
    }
}

/// Texts of conditions and of targets that may be put together.
const CONDITIONS: &[&str] = &[
    "-s 10.0.0.0/8",
    "! -s 192.0.2.1",
    "-d 10.1.2.3/255.0.255.0",
    "-i lan0",
    "! -i wan+",
    "-f",
    "! -f",
    "-m comment --comment \"a 'b' c\"",
    "-m comment --comment x",
    "-m mark --mark 0x1/0xff",
    "-m mark ! --mark 7",
    "-m connmark --mark 3",
    "-m conntrack --ctstate NEW,RELATED",
    "-m state ! --state INVALID",
    "-m multiport --dports 1,2:5",
    "-m tcp --dport 5 --sport 3",
    "--sport :9",
    "--tcp-flags SYN,ACK SYN",
    "! --syn",
];
const TARGETS: &[&str] = &[
    "",
    "-j ACCEPT",
    "-j DROP",
    "-j RETURN",
    "-j LOG --log-prefix 'x y' --log-level 2",
    "-j MARK --or-mark 5",
    "-j CONNMARK --save-mark --mask 7",
    "-j TTL --ttl-inc 3",
    "-j TOS --and-tos 3",
    "-j DSCP --set-dscp 9",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn canonical_text_reads_back_as_the_same_rule(picks in proptest::collection::vec(0..CONDITIONS.len(), 0..6), target in 0..TARGETS.len()) {
        let mut text = "-p tcp".to_string();
        picks.iter().for_each(|&pick| text = format!("{text} {}", CONDITIONS[pick]));
        text = format!("{text} {}", TARGETS[target]);
        // Options given twice are refused: not what is asked here.
        if let Ok(rules) = parse(Family::V4, Table::Mangle, &text) {
            let canonical = show(&rules[0], Family::V4);
            let again = parse(Family::V4, Table::Mangle, &canonical);
            proptest::prop_assert_eq!(again.as_ref(), Ok(&rules), "{} -> {}", text, canonical);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "([-!a-z0-9./:,'\"\\\\ ]|-j |--|-m |tcp|-p |LOG){0,40}") {
        let _ = parse(Family::V4, Table::Filter, &text);
        let _ = parse(Family::V6, Table::Nat, &text);
    }
}

struct Nowhere;

impl Surroundings for Nowhere {
    fn addr_type(&self, _: Family, _: u128, _: PortId) -> AddrType {
        AddrType::Unicast
    }
    fn random(&self) -> u32 {
        0
    }
    fn path_mtu(&self, _: &Facts, _: bool) -> u16 {
        1500
    }
    fn port_address(&self, _: PortId, _: Family, _: u128) -> Option<u128> {
        None
    }
}

#[test]
fn targets_say_what_the_kernel_does_to_marks_hops_and_tos() {
    let packet = Facts { ttl: 5, tos: 0xab, mark: 0x1234, ct_mark: 0xff00, has_ct: true, ..Facts::blank(Family::V4) };
    let cx = Context { l3: &[], now: 0, wall: 0, around: &Nowhere, cells: &[] };
    let cases = [
        ("-j ACCEPT", Effect::Accept),
        ("-j DROP", Effect::Drop),
        ("-j RETURN", Effect::Return),
        ("-j TTL --ttl-set 9", Effect::Ttl(9)),
        ("-j TTL --ttl-dec 6", Effect::Ttl(0)),
        ("-j TTL --ttl-inc 255", Effect::Ttl(255)),
        ("-j TTL --ttl-inc 2", Effect::Ttl(7)),
        ("-j TOS --set-tos 0x10/0xf0", Effect::Tos(0x1b)),
        ("-j TOS --and-tos 0x0f", Effect::Tos(0x0b)),
        ("-j TOS --or-tos 0x04", Effect::Tos(0xaf)),
        ("-j TOS --xor-tos 0xff", Effect::Tos(0x54)),
        ("-j DSCP --set-dscp 46", Effect::Tos(0xbb)),
        ("-j MARK --set-mark 1", Effect::Mark(1)),
        ("-j MARK --set-mark 0x1/0xff", Effect::Mark(0x1201)),
        ("-j MARK --set-xmark 0x33/0xf", Effect::Mark(0x1203)),
        ("-j MARK --and-mark 0xff", Effect::Mark(0x34)),
        ("-j MARK --or-mark 0x3", Effect::Mark(0x1237)),
        ("-j MARK --xor-mark 0x1234", Effect::Mark(0)),
        ("-j CONNMARK --set-mark 0x1/0xff", Effect::ConnMark(0xff01)),
        ("-j CONNMARK --save-mark", Effect::ConnMark(0x1234)),
        ("-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff00", Effect::ConnMark(0x34)),
        ("-j CONNMARK --restore-mark", Effect::Mark(0xff00)),
        ("-j CONNMARK --set-mark 0x1/0xff --left-shift-mark 4", Effect::ConnMark(0xff010)),
        ("-j CONNMARK --save-mark --right-shift-mark 8 --ctmask 0xff", Effect::ConnMark(0xff12)),
        ("-j CONNMARK --restore-mark --left-shift-mark 31", Effect::Mark(0)),
        ("-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf000", Effect::Mark(0x1200 ^ 0xf000)),
    ];
    for (text, effect) in cases {
        let rules = parse(Family::V4, Table::Mangle, text).expect(text);
        let target = rules[0].target.as_ref().expect("a target");
        assert_eq!(target.act(&packet, &cx), effect, "{text}");
        let untracked = Facts { has_ct: false, ..packet };
        if text.contains("CONNMARK") {
            assert_eq!(target.act(&untracked, &cx), Effect::Continue, "{text} without a flow");
        }
    }
}
