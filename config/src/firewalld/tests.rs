//! What zones, policies and direct rules mean, and what is told of mistakes.

use super::{Files, toml};
use crate::diag::{Source, short};
use crate::model::Names;
use crate::schema;
use std::fs;
use std::path::{Path, PathBuf};

const SSH: (&str, &str) = ("services/ssh.xml", r#"<service><port protocol="tcp" port="22"/></service>"#);
const FTP: (&str, &str) =
    ("services/ftp.xml", r#"<service><port protocol="tcp" port="21"/><helper name="ftp"/></service>"#);
const QUIET: (&str, &str) = ("firewalld.conf", "# quiet\nIPv6_rpfilter=no\nRFC3964_IPv4=no\n");
/// Instead of what the host may have of IPv6.
const NO_POLICY: (&str, &str) = (
    "policies/allow-host-ipv6.xml",
    r#"<policy target="CONTINUE" priority="9"><ingress-zone name="ANY"/><egress-zone name="HOST"/></policy>"#,
);

/// A folder with files, which goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str, files: &[(&str, &str)]) -> Folder {
        let folder = Folder(std::env::temp_dir().join(format!("sumun-firewalld-{test}-{}", std::process::id())));
        for (name, text) in files {
            let path = folder.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn import(&self) -> Result<String, Vec<String>> {
        let files = Files::open(&self.0, Path::new("/nowhere")).unwrap();
        toml(files, &[], Names::NONE).map_err(|files| {
            let strip = |line: String| line.replace(&format!("{}/", self.0.display()), "");
            let each =
                |(source, found): (Source, Vec<_>)| found.iter().map(|d| strip(short(&source, d))).collect::<Vec<_>>();
            files.into_iter().flat_map(each).collect()
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The rules of chains of the import, each with the chain before it; the import must be accepted as a configuration.
fn rules(test: &str, files: &[(&str, &str)], chains: &[&str]) -> Vec<String> {
    let text = Folder::new(test, files).import().unwrap_or_else(|found| panic!("{found:#?}"));
    let whole = format!("[interfaces.lan0]\naddresses = []\n{text}");
    schema::load(&Source::new("x.toml", whole.as_str())).unwrap_or_else(|found| panic!("{found:#?}\n{whole}"));
    let table: ::toml::Table = text.parse().unwrap();
    let mut found = Vec::new();
    for chain in chains {
        let mut value = Some(::toml::Value::Table(table.clone()));
        for key in chain.split('.') {
            value = value.and_then(|value| value.get(key).cloned());
        }
        let rules = value.and_then(|value| value.get("rules").cloned());
        for rule in rules.as_ref().and_then(|rules| rules.as_array()).into_iter().flatten() {
            found.push(format!("{chain}: {}", rule.as_str().unwrap()));
        }
    }
    found
}

fn mistakes(test: &str, files: &[(&str, &str)]) -> Vec<String> {
    Folder::new(test, files).import().expect_err("mistakes")
}

#[test]
fn a_zone_judges_in_the_order_log_deny_allow_target() {
    let zone = r#"<zone><interface name="lan0"/><service name="ssh"/><service name="ftp"/><forward/>
        <icmp-block name="echo-request"/><port port="8080-8090" protocol="tcp"/><source-port port="500" protocol="udp"/>
        <rule family="ipv4"><source address="10.1.0.0/16" invert="yes"/><port port="80" protocol="tcp"/>
          <log prefix="web " level="info"><limit value="3/m"/></log><accept/></rule>
        <rule family="ipv4" priority="-5"><source address="10.2.0.1"/><reject type="icmp-host-unreachable"/></rule>
        <rule priority="7"><protocol value="esp"/><drop/></rule></zone>"#;
    let files = [QUIET, NO_POLICY, SSH, FTP, ("zones/public.xml", zone)];
    let chains = ["ipv4.filter.INPUT_ZONES", "ipv4.filter.IN_public", "ipv4.filter.FWD_public", "ipv4.raw.PRE_public"];
    let expected = [
        "ipv4.filter.INPUT_ZONES: -i lan0 -g IN_public",
        "ipv4.filter.INPUT_ZONES: -g IN_public",
        "ipv4.filter.IN_public: -s 10.2.0.1/32 -j REJECT --reject-with icmp-host-unreachable",
        "ipv4.filter.IN_public: ! -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -m limit --limit 3/min -j LOG --log-prefix \"web \" --log-level 6",
        "ipv4.filter.IN_public: -p icmp -m icmp --icmp-type 8 -j REJECT --reject-with icmp-host-prohibited",
        "ipv4.filter.IN_public: -p tcp -m tcp --dport 22 -j ACCEPT",
        "ipv4.filter.IN_public: -p tcp -m tcp --dport 21 -j ACCEPT",
        "ipv4.filter.IN_public: -p tcp -m tcp --dport 8080:8090 -j ACCEPT",
        "ipv4.filter.IN_public: -p udp -m udp --sport 500 -j ACCEPT",
        "ipv4.filter.IN_public: ! -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -j ACCEPT",
        "ipv4.filter.IN_public: -p esp -j DROP",
        "ipv4.filter.IN_public: -p icmp -j ACCEPT",
        "ipv4.filter.IN_public: -j REJECT --reject-with icmp-port-unreachable",
        "ipv4.filter.FWD_public: -o lan0 -j ACCEPT",
        "ipv4.filter.FWD_public: -j REJECT --reject-with icmp-port-unreachable",
        "ipv4.raw.PRE_public: -p tcp -m tcp --dport 21 -j CT --helper ftp",
    ];
    assert_eq!(rules("order", &files, &chains), expected);
}

#[test]
fn sources_are_asked_before_interfaces_and_the_default_zone_has_the_rest() {
    let lan = r#"<zone target="ACCEPT"><interface name="lan0"/></zone>"#;
    let guests = r#"<zone target="DROP"><source address="10.9.0.0/16"/><source mac="02:00:00:00:00:01"/><source ipset="bad"/></zone>"#;
    let bad = r#"<ipset type="hash:net"><entry>192.0.2.0/24</entry></ipset>"#;
    let public = r#"<zone target="%%REJECT%%"><masquerade/><forward-port port="80" protocol="tcp" to-port="8080" to-addr="10.0.0.5"/></zone>"#;
    let files = [
        QUIET,
        NO_POLICY,
        ("zones/lan.xml", lan),
        ("zones/guests.xml", guests),
        ("zones/public.xml", public),
        ("ipsets/bad.xml", bad),
    ];
    let chains = [
        "ipv4.filter.INPUT_ZONES",
        "ipv4.filter.IN_guests",
        "ipv6.filter.IN_public",
        "ipv4.nat.PRE_public",
        "ipv4.nat.POSTROUTING_ZONES",
        "ipv4.nat.POST_public",
        "ipv6.nat.POST_public",
    ];
    let expected = [
        "ipv4.filter.INPUT_ZONES: -s 10.9.0.0/16 -g IN_guests",
        "ipv4.filter.INPUT_ZONES: -m mac --mac-source 02:00:00:00:00:01 -g IN_guests",
        "ipv4.filter.INPUT_ZONES: -m set --match-set bad src -g IN_guests",
        "ipv4.filter.INPUT_ZONES: -i lan0 -g IN_lan",
        "ipv4.filter.INPUT_ZONES: -g IN_public",
        "ipv4.filter.IN_guests: -j DROP",
        "ipv6.filter.IN_public: -j REJECT --reject-with icmp6-adm-prohibited",
        "ipv4.nat.PRE_public: -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5:8080",
        "ipv4.nat.POSTROUTING_ZONES: -d 10.9.0.0/16 -j RETURN",
        "ipv4.nat.POSTROUTING_ZONES: -m set --match-set bad dst -j RETURN",
        "ipv4.nat.POSTROUTING_ZONES: -o lan0 -j RETURN",
        "ipv4.nat.POSTROUTING_ZONES: -g POST_public",
        "ipv4.nat.POST_public: ! -o lo -j MASQUERADE",
    ];
    assert_eq!(rules("sources", &files, &chains), expected);
}

#[test]
fn policies_judge_before_or_behind_the_zone_that_packets_come_from() {
    let policy = r#"<policy target="DROP" priority="-10"><ingress-zone name="public"/><egress-zone name="lan"/><service name="ssh"/></policy>"#;
    let files = [
        QUIET,
        SSH,
        ("zones/public.xml", "<zone/>"),
        ("zones/lan.xml", r#"<zone><interface name="lan0"/></zone>"#),
        ("policies/in.xml", policy),
    ];
    let chains = ["ipv4.filter.FWD_public", "ipv4.filter.TO_in", "ipv4.filter.FWD_in", "ipv6.filter.IN_lan"];
    let expected = [
        "ipv4.filter.FWD_public: -j TO_in",
        "ipv4.filter.FWD_public: -j REJECT --reject-with icmp-port-unreachable",
        "ipv4.filter.TO_in: -o lan0 -g FWD_in",
        "ipv4.filter.FWD_in: -p tcp -m tcp --dport 22 -j ACCEPT",
        "ipv4.filter.FWD_in: -j DROP",
        "ipv6.filter.IN_lan: -j IN_allow-host-ipv6",
        "ipv6.filter.IN_lan: -p ipv6-icmp -j ACCEPT",
        "ipv6.filter.IN_lan: -j REJECT --reject-with icmp6-port-unreachable",
    ];
    assert_eq!(rules("policies", &files, &chains), expected);
}

#[test]
fn direct_rules_come_first_by_priority_and_what_is_passed_on_last() {
    let direct = r#"<direct><chain ipv="ipv4" table="filter" chain="blk"/>
        <rule ipv="ipv4" table="filter" chain="INPUT" priority="1">-p tcp --dport 7 -j blk</rule>
        <rule ipv="ipv4" table="filter" chain="INPUT" priority="0">-m comment --comment "a; b" -j DROP</rule>
        <rule ipv="ipv4" table="filter" chain="blk" priority="0">-j DROP</rule>
        <passthrough ipv="ipv4">-A INPUT -p tcp --dport 9 -j ACCEPT</passthrough></direct>"#;
    let files = [QUIET, NO_POLICY, ("zones/public.xml", r#"<zone target="ACCEPT"/>"#), ("direct.xml", direct)];
    let expected = [
        "ipv4.filter.INPUT_direct: -m comment --comment \"a; b\" -j DROP",
        "ipv4.filter.INPUT_direct: -p tcp -m tcp --dport 7 -j blk",
        "ipv4.filter.blk: -j DROP",
        "ipv4.filter.INPUT: -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        "ipv4.filter.INPUT: -i lo -j ACCEPT",
        "ipv4.filter.INPUT: -m conntrack --ctstate INVALID -j DROP",
        "ipv4.filter.INPUT: -j INPUT_direct",
        "ipv4.filter.INPUT: -j INPUT_ZONES",
        "ipv4.filter.INPUT: -j REJECT --reject-with icmp-host-prohibited",
        "ipv4.filter.INPUT: -p tcp -m tcp --dport 9 -j ACCEPT",
    ];
    let chains = ["ipv4.filter.INPUT_direct", "ipv4.filter.blk", "ipv4.filter.INPUT"];
    assert_eq!(rules("direct", &files, &chains), expected);
}

#[test]
fn services_of_all_shapes_are_read() {
    let all = r#"<service><short>All</short><description>x</description><include service="ssh"/><port protocol="igmp" port=""/>
        <port protocol="udp" port="5353"/><helper name="netbios-ns"/><destination ipv4="224.0.0.251" ipv6="ff02::fb"/></service>"#;
    let zone = r#"<zone target="DROP"><service name="all"/></zone>"#;
    let files = [QUIET, NO_POLICY, SSH, ("services/all.xml", all), ("zones/public.xml", zone)];
    let expected = [
        "ipv4.filter.IN_public: -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT",
        "ipv4.filter.IN_public: -d 224.0.0.251/32 -p igmp -j ACCEPT",
        "ipv4.filter.IN_public: -p tcp -m tcp --dport 22 -j ACCEPT",
        "ipv4.filter.IN_public: -j DROP",
    ];
    assert_eq!(rules("services", &files, &["ipv4.filter.IN_public"]), expected);
    let text = Folder::new("note", &files).import().unwrap();
    assert!(text.contains("# without the helper netbios-ns: Sumun has none\n"), "{text}");
}

#[test]
fn mistakes_are_told_all_at_once_with_their_places() {
    let zone = "<zone target=\"DROPP\">\n<servce name=\"ssh\"/>\n<service name=\"shh\" a=\"b\"/>\n<port port=\"70000\" protocol=\"tcp\"/>\n\
        <rule><source address=\"10.0.0.1\"/><accept/></rule>\n<icmp-block name=\"echo-requst\"/>\n</zone>";
    let files = [
        ("firewalld.conf", "DefaultZone=public\nLogDenied=some\n"),
        SSH,
        ("zones/public.xml", zone),
        ("direct.xml", "<direct>\n<passthrough ipv=\"eb\">-L</passthrough>\n"),
    ];
    let expected = [
        "firewalld.conf:2:1: error: `LogDenied` cannot be `some`; off, all, unicast, broadcast or multicast",
        "direct.xml:1:1: error: this is not XML: the root node was opened but never closed; XML",
        "zones/public.xml:1:15: error: `target` cannot be `DROPP`; did you mean `DROP`?",
        "zones/public.xml:2:2: error: <zone> cannot hold <servce>; did you mean `service`?",
        "zones/public.xml:3:16: error: there is no service `shh`; did you mean `ssh`?",
        "zones/public.xml:3:21: error: <service> has no attribute `a`; name",
        "zones/public.xml:4:13: error: `70000` is not a port; a number up to 65535, or two such as 80-90",
        "zones/public.xml:5:2: error: a rule with an address lacks its family; family=\"ipv4\" or family=\"ipv6\"",
        "zones/public.xml:6:2: error: `echo-requst` is not an ICMP type; a name, a number from 0 to 255, or TYPE/CODE; did you mean `echo-request`?",
        "zones/public.xml:6:2: error: `echo-requst` is not an ICMPv6 type; a name, a number from 0 to 255, or TYPE/CODE; did you mean `echo-request`?",
    ];
    assert_eq!(mistakes("mistakes", &files), expected);
}

#[test]
fn policies_that_ask_what_is_not_known_yet_are_refused() {
    let policy = r#"<policy target="CONTINUE"><ingress-zone name="public"/><egress-zone name="lan"/>
<masquerade/>
<rule><port port="9" protocol="tcp"/><mark set="1"/></rule></policy>"#;
    let files = [
        QUIET,
        ("zones/public.xml", "<zone/>"),
        ("zones/lan.xml", r#"<zone><interface name="lan0"/></zone>"#),
        ("policies/mark.xml", policy),
    ];
    let expected = [
        "policies/mark.xml:2:2: error: the ingress zone `public` has interfaces, which masquerading does not see; ANY, or zones of sources alone",
        "policies/mark.xml:3:2: error: the egress zone `lan` has interfaces, which are not known before routing; ANY, HOST, or zones of sources alone",
    ];
    assert_eq!(mistakes("unknown", &files), expected);
}

#[test]
fn every_service_that_comes_with_firewalld_is_read() {
    let made = Folder::new("made", &[SSH, FTP]);
    let debian = Path::new("/usr/lib/firewalld");
    let system = if debian.join("services").is_dir() { debian } else { made.0.as_path() };
    let names = fs::read_dir(system.join("services")).unwrap().map(|entry| entry.unwrap().path());
    let services: String =
        names.map(|path| format!("<service name=\"{}\"/>", path.file_stem().unwrap().to_str().unwrap())).collect();
    let own = Folder::new("all", &[("zones/public.xml", &format!("<zone>{services}</zone>"))]);
    let text = toml(Files::open(&own.0, system).unwrap(), &[], Names::NONE).unwrap();
    assert!(text.contains("-p tcp -m tcp --dport 22 -j ACCEPT"), "{text}");
    assert!(text.contains("-j CT --helper ftp"), "{text}");
}
