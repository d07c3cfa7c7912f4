//! The namespace of the TAPs: whether programs of the router can live there, and whether the kernel's routes can be the router's.

use super::facts::{Facts, HostSide};
use super::{Findings, Remedy, Severity};
use sumun_config::model::{Config, LocalStack, RoutesFrom};

/// Programs that set up devices by themselves, by the name that the kernel has of them (15 bytes), and how they leave TAPs alone.
pub const KEEPERS: [(&str, &str); 4] = [
    (
        "systemd-network",
        "`ManageForeignRoutes=no` and `ManageForeignRoutingPolicyRules=no` in [Network] of /etc/systemd/networkd.conf, and \
         `Unmanaged=yes` for the TAPs",
    ),
    ("NetworkManager", "`unmanaged-devices=interface-name:...` with the TAPs in [keyfile] of NetworkManager.conf"),
    (
        "dhcpcd",
        "`denyinterfaces` with the TAPs in dhcpcd.conf, but for those that shall have their addresses from DHCP",
    ),
    ("connmand", "`NetworkInterfaceBlacklist` with the TAPs in connman's main.conf"),
];
/// Programs that set routes for others.
pub const ROUTERS: [&str; 4] = ["bird", "zebra", "babeld", "gobgpd"];

/// The checks of this group.
pub fn check(facts: &Facts, config: &Config, findings: &mut Findings) {
    let (Some(host), Some(side)) = (&config.appliance.host, &facts.host) else { return };
    let name = host.namespace.as_deref();
    if !side.has_taps {
        findings.add(
            Severity::Broken,
            "host",
            "this kernel has no TAPs (/dev/net/tun)",
            "the router does not start",
            Remedy::Command("modprobe tun".into()),
        );
    }
    if let Some(name) = name.filter(|_| !side.is_there) {
        return findings.add(
            Severity::Broken,
            "host",
            format!("there is no network namespace {name}, or it cannot be entered"),
            "the router does not start",
            Remedy::run(&format!("ip netns add {name}")),
        );
    }
    let place = Place {
        inside: name.map_or_else(String::new, |name| format!("ip netns exec {name} ")),
        ip: name.map_or_else(|| "ip ".to_string(), |name| format!("ip -n {name} ")),
        taps: config.appliance.interfaces.iter().filter(|i| i.local == LocalStack::Host).map(|i| &*i.name).collect(),
    };
    devices(side, &place, findings);
    netfilter(side, &place, findings);
    settings(side, config, &place, findings);
    programs(side, config, &place, findings);
}

/// How to get there, and what is there.
struct Place<'a> {
    /// Before a command.
    inside: String,
    /// ip(8) there.
    ip: String,
    /// Names of the TAPs.
    taps: Vec<&'a str>,
}

fn devices(side: &HostSide, place: &Place, findings: &mut Findings) {
    let Place { ip, taps, .. } = place;
    if !side.loopback {
        findings.add(
            Severity::Slow,
            "host",
            "`lo` is down in the TAPs' namespace",
            "programs there do not reach each other, not even by the router's own addresses",
            Remedy::run(&format!("{ip}link set dev lo up")),
        );
    }
    for name in taps {
        let Some(link) = side.links.get(*name).filter(|link| link.kind != "tun") else { continue };
        let kind = if link.kind.is_empty() { "device" } else { &link.kind };
        findings.add(
            Severity::Broken,
            "host",
            format!("a {kind} has the name of the TAP {name}"),
            "the router does not start",
            Remedy::Command(format!("{ip}link set dev {name} down name {name}-old")),
        );
    }
    for (name, link) in side.links.iter().filter(|(_, link)| ["macvlan", "macvtap"].contains(&link.kind.as_str())) {
        let Some(tap) = link.below.as_deref().filter(|below| taps.contains(below)) else { continue };
        if side.links.get(tap).is_some_and(|below| below.mac != link.mac) {
            findings.add(
                Severity::Broken,
                "host",
                format!("{name} on the TAP {tap} has a MAC address of its own ({})", mac(&link.mac)),
                "a port takes frames to its own MAC only: what others send there is dropped (`other-host`)",
                Remedy::Advice(
                    "VRRP without virtual MACs (keepalived: no `use_vmac`); else an ipvlan in its place".into(),
                ),
            );
        }
    }
}

fn netfilter(side: &HostSide, place: &Place, findings: &mut Findings) {
    if side.chains.is_empty() {
        return;
    }
    let mut names: Vec<String> = side.chains.iter().map(ToString::to_string).collect();
    names.truncate(6);
    if side.chains.len() > names.len() {
        names.push("...".into());
    }
    let legacy = side.chains.iter().any(|chain| chain.hook == "legacy");
    let nft = side.chains.iter().any(|chain| chain.hook != "legacy");
    let mut commands = Vec::new();
    if nft {
        commands.push(format!("{}nft flush ruleset", place.inside));
    }
    for (family, program) in [("ip", "iptables-legacy"), ("ip6", "ip6tables-legacy")] {
        let tables = side.chains.iter().filter(|chain| chain.hook == "legacy" && chain.family == family);
        commands.extend(tables.map(|chain| format!("{}{program} -t {} -F", place.inside, chain.table)));
    }
    findings.add(
        Severity::Note,
        "host",
        format!("the kernel's netfilter has rules in the TAPs' namespace: {}", names.join(", ")),
        match legacy {
            true => "what INPUT and OUTPUT of the router let pass may be dropped or translated there a second time, if the legacy \
                     tables are not empty",
            false => "what INPUT and OUTPUT of the router let pass may be dropped or translated there a second time",
        },
        Remedy::Command(commands.join("; ")),
    );
}

fn settings(side: &HostSide, config: &Config, place: &Place, findings: &mut Findings) {
    let read = |key: String| side.settings.get(&key).map(String::as_str);
    // Of a TAP that is not there yet: what it will begin with.
    let of = |family: &str, tap: &str, key: &str| {
        read(format!("{family}/conf/{tap}/{key}")).or_else(|| read(format!("{family}/conf/default/{key}")))
    };
    let chosen = |is: &dyn Fn(&str) -> bool| place.taps.iter().copied().filter(|tap| is(tap)).collect::<Vec<_>>();
    let sysctl = |words: &str| format!("{}sysctl -qw {words}", place.inside);
    // ip-sysctl: the greater one of `all` and the device's own counts.
    let all = read("ipv4/conf/all/rp_filter".into()).unwrap_or("0");
    let strict = chosen(&|tap| of("ipv4", tap, "rp_filter").unwrap_or("0").max(all) == "1");
    if !strict.is_empty() && place.taps.len() > 1 {
        findings.add(
            Severity::Slow,
            "host",
            format!("the kernel's reverse-path filter is strict at {}", strict.join(", ")),
            "what comes to programs there another way than its answer would go is dropped behind INPUT, without a trace here; \
             `rp-filter` of the router's interfaces judges that already",
            Remedy::Command(sysctl("net.ipv4.conf.all.rp_filter=2")),
        );
    }
    let has_v6 = |tap: &str| {
        let ports = config.appliance.interfaces.iter().zip(&config.policy.port_settings);
        ports
            .filter(|(i, _)| i.name == tap)
            .any(|(_, settings)| settings.addresses.iter().any(|net| net.addr().is_ipv6()))
    };
    let off = chosen(&|tap| has_v6(tap) && of("ipv6", tap, "disable_ipv6") == Some("1"));
    if !off.is_empty() {
        let there = off.iter().filter(|tap| side.links.contains_key(**tap));
        let each: String =
            there.map(|tap| format!(" net.ipv6.conf.{}.disable_ipv6=0", tap.replace('.', "/"))).collect();
        let command = sysctl(&format!("net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0{each}"));
        findings.add(
            Severity::Broken,
            "host",
            format!("IPv6 is switched off at {}", off.join(", ")),
            "the addresses of IPv6 cannot be on these TAPs, and the host does not answer for them",
            // In the machine's own namespace it would switch IPv6 on for all else there too.
            match config.appliance.host.as_ref().is_some_and(|host| host.namespace.is_some()) {
                true => Remedy::run(&command),
                false => Remedy::Command(command),
            },
        );
    }
    // accept_ra 1 counts where the host does not forward, 2 everywhere.
    let listens = |tap: &str| match of("ipv6", tap, "accept_ra") {
        Some("1") => of("ipv6", tap, "forwarding") == Some("0"),
        Some("2") => true,
        _ => false,
    };
    let listening = chosen(&|tap| listens(tap) && of("ipv6", tap, "disable_ipv6") != Some("1"));
    if config.policy.routes_from == RoutesFrom::Kernel && !listening.is_empty() {
        findings.add(
            Severity::Note,
            "host",
            format!("router advertisements are believed at {}", listening.join(", ")),
            "whoever is on the link and may pass INPUT sets addresses and the default route of this router",
            Remedy::Command(sysctl("net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.forwarding=1")),
        );
    }
}

fn programs(side: &HostSide, config: &Config, place: &Place, findings: &mut Findings) {
    let runs = |name: &str| side.programs.iter().any(|program| program == name);
    if config.policy.routes_from == RoutesFrom::File {
        let routers: Vec<&str> = ROUTERS.into_iter().filter(|name| runs(name)).collect();
        if !routers.is_empty() {
            findings.add(
                Severity::Broken,
                "host",
                format!(
                    "{} runs in the TAPs' namespace, and routes come from the configuration",
                    routers.join(" and ")
                ),
                "the router does not follow its routes",
                Remedy::Advice("[routes] with `from = \"kernel\"` in place of [[routes]]".into()),
            );
        }
        return;
    }
    for (name, remedy) in KEEPERS.into_iter().filter(|(name, _)| runs(name)) {
        findings.add(
            Severity::Note,
            "host",
            format!("{name} runs in the TAPs' namespace and may set up {}", place.taps.join(", ")),
            "it removes or replaces addresses, routes and rules of others, and the router follows",
            Remedy::Advice(remedy.into()),
        );
    }
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Chain, HostLink};
    use super::super::sample::{config_of, facts, lines};
    use super::*;

    const KERNEL: &str = "[routes]\nfrom = \"kernel\"";

    /// What is found with TAPs in the namespace `tame`, and these lines of the configuration.
    fn found(rest: &str, change: impl FnOnce(&mut HostSide)) -> Vec<String> {
        let (mut facts, config) = (facts(), config_of(&format!("[host]\nnamespace = \"tame\"\n{rest}")));
        let mut side = HostSide { is_there: true, has_taps: true, loopback: true, ..HostSide::default() };
        for tap in ["lan0", "wan0"] {
            side.links.insert(tap.into(), HostLink { kind: "tun".into(), mac: vec![2; 6], below: None });
        }
        change(&mut side);
        facts.host = Some(side);
        lines(|findings| check(&facts, &config, findings))
    }

    fn set(side: &mut HostSide, settings: &[(&str, &str)]) {
        side.settings.extend(settings.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    }

    #[test]
    fn a_namespace_in_order_has_no_findings() {
        assert_eq!(found("", |_| ()), [""; 0]);
        let quiet = found(KERNEL, |side| {
            set(side, &[("ipv4/conf/all/rp_filter", "2"), ("ipv4/conf/default/rp_filter", "1")]);
            set(side, &[("ipv6/conf/default/accept_ra", "1"), ("ipv6/conf/default/forwarding", "1")]);
            side.programs = vec!["bird".into(), "sshd".into()];
        });
        assert_eq!(quiet, [""; 0]);
    }

    #[test]
    fn a_namespace_and_taps_must_be_possible() {
        let missing = found("", |side| *side = HostSide { has_taps: true, ..HostSide::default() });
        assert_eq!(
            missing,
            ["Broken host: there is no network namespace tame, or it cannot be entered -> ip netns add tame"]
        );
        assert!(found("", |side| side.has_taps = false)[0].ends_with("-> modprobe tun"));
        assert!(found("", |side| side.loopback = false)[0].ends_with("-> ip -n tame link set dev lo up"));
        let taken = found("", |side| side.links.get_mut("wan0").unwrap().kind = "veth".into());
        assert_eq!(
            taken,
            ["Broken host: a veth has the name of the TAP wan0 -> ip -n tame link set dev wan0 down name wan0-old"]
        );
    }

    #[test]
    fn a_mac_that_no_port_has_is_told() {
        let vrrp = |mac| {
            found("", |side| {
                let link = HostLink { kind: "macvlan".into(), mac, below: Some("lan0".into()) };
                side.links.insert("vrrp.51".into(), link);
            })
        };
        let own = vrrp(vec![0, 0, 0x5e, 0, 1, 51]);
        assert!(
            own[0].starts_with("Broken host: vrrp.51 on the TAP lan0 has a MAC address of its own (00:00:5e:00:01:33)")
        );
        assert_eq!(vrrp(vec![2; 6]), [""; 0]);
    }

    #[test]
    fn what_judges_a_second_time_is_told() {
        let chain = |family: &str, name: &str, hook: &str| Chain {
            family: family.into(),
            table: "filter".into(),
            name: name.into(),
            hook: hook.into(),
        };
        let rules = found("", |side| side.chains = vec![chain("ip", "INPUT", "input"), chain("ip6", "", "legacy")]);
        assert_eq!(
            rules,
            [
                "Note host: the kernel's netfilter has rules in the TAPs' namespace: ip filter INPUT (input), ip6 filter (legacy) \
              -> ip netns exec tame nft flush ruleset; ip netns exec tame ip6tables-legacy -t filter -F"
            ]
        );
    }

    #[test]
    fn settings_that_drop_or_change_what_daemons_do_are_told() {
        let strict =
            found("", |side| set(side, &[("ipv4/conf/wan0/rp_filter", "1"), ("ipv4/conf/lan0/rp_filter", "0")]));
        assert_eq!(
            strict,
            ["Slow host: the kernel's reverse-path filter is strict at wan0 \
              -> ip netns exec tame sysctl -qw net.ipv4.conf.all.rp_filter=2"]
        );
        assert_eq!(
            found("", |side| set(side, &[("ipv6/conf/default/disable_ipv6", "1")])),
            [""; 0],
            "no port has IPv6"
        );
        let off = found("[interfaces.six]\naddresses = [\"2001:db8::1/64\"]", |side| {
            set(side, &[("ipv6/conf/default/disable_ipv6", "1")]);
        });
        assert!(
            off[0].starts_with("Broken host: IPv6 is switched off at six -> ip netns exec tame sysctl -qw"),
            "{off:?}"
        );
        let hears = |side: &mut HostSide| {
            set(side, &[("ipv6/conf/default/accept_ra", "1"), ("ipv6/conf/default/forwarding", "0")]);
        };
        let advertised = found(KERNEL, hears);
        assert!(
            advertised[0].starts_with("Note host: router advertisements are believed at lan0, wan0"),
            "{advertised:?}"
        );
        assert_eq!(found("", hears), [""; 0], "the router's routes are those of the file");
    }

    #[test]
    fn routes_have_one_owner() {
        let networkd = found(KERNEL, |side| side.programs = vec!["systemd-network".into()]);
        assert!(networkd[0].starts_with("Note host: systemd-network runs in the TAPs' namespace"), "{networkd:?}");
        let unheard = found("", |side| side.programs = vec!["bird".into()]);
        assert!(
            unheard[0].starts_with("Broken host: bird runs in the TAPs' namespace, and routes come from"),
            "{unheard:?}"
        );
    }
}
