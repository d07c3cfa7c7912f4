//! From TOML to a [`Config`]: what a file may say, and all that is wrong with it in one pass.
//!
//! toml parses the text into a tree with places; each section has a module here that walks its part of the tree and checks
//! it. A walker complains and goes on: a value that cannot be used has its default, so that what depends on it can still be
//! checked. What a file says is either all right, or no [`Config`] comes out.
//!
//! # The file
//!
//! Every section but one `[interfaces.NAME]` may be left out, and every key but those marked; shown are the defaults or,
//! where there are none, examples.
//!
//! ```toml
//! [dataplane]                          # opened once: changes need a restart
//! run-dir = "/run/sumun"               # of the sockets
//! cores = [0]                          # one worker on each
//! idle = "sleep"                       # "busy": never sleep
//! idle-after = "50us"                  # quiet spell before it sleeps
//! frames = 8192                        # packet buffers of a worker
//! frame-size = 2048                    # or 4096
//! max-flows = 262144                   # nf_conntrack_max
//! keep-flows = true                    # across restarts of the dataplane, in the file `flows` of run-dir
//! max-neighbours = 1024
//! initial-policy = "DROP"              # of the filter table until rules are published; or "ACCEPT"
//! log = "syslog"                       # of LOG; or "file:/var/log/sumun.log"
//!
//! [host]                               # a TAP for each interface, where the appliance's own programs live
//! namespace = "host"                   # its name in `ip netns`; default: the dataplane's own
//! other-frames = "device"              # who gets LLDP, STP and what else is neither IP nor ARP: the kernel's device, or the "tap"
//!
//! [interfaces.lan0]                    # the name that rules use; the order of the file is that of the ports
//! device = "lan0"                      # default: the same name
//! addresses = ["192.168.1.1/24", "fd00:1::1/64"]   # fe80:: follows from the MAC
//! rp-filter = "off"                    # "strict", "loose"
//! group = 0                            # of `devgroup`; a name of /etc/iproute2/group too
//! mtu = 1500                           # default: the device's; at most 9000
//! ring = 2048                          # a power of two
//! attach = "auto"                      # "native", "generic": how the XDP program is attached
//! copy = "auto"                        # "zero-copy", "copy"
//! tx = "auto"                          # "ring", "xdp": how many frames at once are sent where there is no zero-copy
//! local = "host"                       # where there is [host]: it has a TAP; "smoltcp": it has none
//! checksums = "finish"                 # of frames whose sender left them to its device; else "as-they-are". The default
//!                                      # is "finish" on veth, virtio and TAP devices, "as-they-are" on others
//!
//! [interfaces.office]                  # a VLAN: what is tagged on the device of another interface, wherever that stands
//! parent = "lan0"                      # needed: that interface
//! vlan = 10                            # needed: 1 to 4094; or [100, 10]: two tags, the outer one first
//! vlan-protocol = "802.1Q"             # of the outer tag; or "802.1ad"
//! mtu = 1500                           # default: the parent's. addresses, rp-filter and group as above, no other keys
//!
//! [interfaces.wan0]
//! addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]
//!
//! [[neighbours]]                       # known beforehand; all three keys are needed
//! interface = "lan0"
//! address = "192.168.1.10"
//! mac = "02:00:00:00:00:0a"
//!
//! # [vrfs.blue]
//! # table = 100                        routes and own addresses for the interfaces with `vrf = "blue"`
//!
//! [[routes]]                           # static ones; those of the addresses follow by themselves
//! to = "default"                       # needed: a network, one address, or "default" of the family that `via` shows
//! via = "203.0.113.1"                  # the gateway; `dev` follows from it. For IPv4 it may be of IPv6 (RFC 5549)
//! metric = 0                           # 1024 for IPv6, as in the kernel
//! table = "main"                       # "default", "local", or a number
//!
//! [[routes]]
//! to = "198.51.100.0/24"
//! nexthops = [{ via = "203.0.113.1", weight = 1 }, { via = "203.0.113.9", weight = 2 }]
//! mtu = 1400
//! source = "203.0.113.2"
//! tos = 16                             # for packets with this TOS (`tos & 0x1c`) only; IPv4
//! realm = 10                           # of `realm`, IPv4; "5/10" has one of sources, 5, too; names of rt_realms
//!
//! [[routes]]
//! to = "2001:db8:7::/48"
//! via = "fe80::1"
//! dev = "wan0"                         # link-local gateways need it; `onlink = true`: although no network there has it
//! table = 100
//!
//! [[routes]]
//! to = "10.0.0.0/8"
//! type = "unreachable"                 # "blackhole", "prohibit"
//!
//! # [routes]                           instead of these sections and of [[rules]], where there is [host]:
//! # from = "kernel"                    routes, rules and neighbours are those of the TAPs' namespace
//!
//! [[rules]]                            # policy routing, as ip-rule(8); 0, 32766 and 32767 are there unless given here
//! priority = 100                       # needed
//! family = "ipv6"                      # default: what `from` and `to` show, else both
//! from = "fd00:1::/64"
//! to = "all"
//! iif = "lan0"                         # "lo": the router's own packets
//! fwmark = "0x1/0xff"
//! tos = 16                             # or `dscp = 46`, which looks at all six bits
//! not = false
//! table = 100                          # either this, or `action`: "blackhole", "unreachable", "prohibit"
//! suppress-prefixlength = 0            # what it finds with a prefix so short does not count: here, the default route
//!
//! [sysctl]                             # the kernel's names, short or whole; numbers in the kernel's unit
//! nf_conntrack_tcp_timeout_established = "5d"
//! nf_conntrack_udp_timeout = 30
//! net.ipv4.ip_forward = 1
//!
//! [conntrack.timeouts.short]           # a policy for `CT --timeout short`
//! protocol = "tcp"                     # needed: also udp, udplite, icmp, icmpv6, sctp, gre, generic
//! family = "ipv4"                      # default: both
//! established = "10m"                  # times by the protocol's states as nfct(8) names them, at least one
//!
//! [conntrack.labels]                   # names of labels for `connlabel`, with their bits, 0 to 127
//! customer = 3
//!
//! [foreign]                            # names that rules may use although no port has them: they match nothing
//! interfaces = ["docker0", "veth+"]    # whole names, or beginnings with a plus; "+" alone: any name
//!
//! [sets.bad]                           # a set for `-m set --match-set bad src`, as `ipset create bad hash:net` makes it
//! type = "hash:net"                    # needed; the other keys are the options of ipset create, family = "inet" and so on
//! timeout = 3600
//! counters = true
//! elements = ["192.0.2.0/24", "192.0.2.1 nomatch", "198.51.100.0-198.51.100.9 timeout 0"]   # as behind ipset add
//!
//! # [sets.worse]
//! # from = "worse.ipset"                 what ipset save wrote; or, beside `type`, a file with one element a line
//! [accounts.web]                       # a quota of what rules with `nfacct` count together; others have none
//! quota-bytes = 1000000000             # or `quota-packets`
//!
//! # [osf]
//! # fingerprints = "/usr/share/xtables/pf.os"   of operating systems, as nfnl_osf(8) reads them
//!
//! # [metrics]                            the router shows itself over HTTP on its own addresses, if INPUT lets it: "/" is a
//! # port = 9100                          status page, "/metrics" is for Prometheus. Without the section it does not
//!
//! [filter.FORWARD]                     # TABLE.CHAIN for both families; ipv4.TABLE.CHAIN and ipv6.TABLE.CHAIN for one
//! policy = "DROP"                      # built-in chains only; default: "ACCEPT"
//! rules = [                            # in iptables syntax, or as tables of fields
//!     "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
//!     { in = "lan0", protocol = "tcp", dport = 22, target = "ACCEPT" },
//!     "-j mine",
//! ]
//!
//! [filter.mine]                        # a user chain
//! rules = ["-i lan0 -j ACCEPT"]
//!
//! [ipv4.nat.POSTROUTING]
//! rules = ["-o wan0 -j MASQUERADE"]
//! ```

use self::reader::Fields;
use self::report::Sink;
use crate::diag::{Diagnostic, Source};
use crate::model::{Appliance, Config, Names, Policy};
use crate::rule::matches::recent::Sizes;
use toml::de::DeTable;

mod accounts;
mod appliance;
mod chains;
mod conntrack;
mod fields;
mod foreign;
mod host;
mod interfaces;
mod literal;
mod metrics;
mod neighbours;
mod reader;
mod report;
mod routes;
mod rules;
mod ruleset;
mod sets;
mod syntax;
pub(crate) mod sysctl;
mod values;
mod vlan;
mod vrfs;

/// Reads a whole file: its configuration and warnings, or all that is wrong with it (warnings included), in the order of
/// the file.
pub fn load(source: &Source) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (root, syntax) = DeTable::parse_recoverable(source.text());
    let mut sink = Sink::new(!syntax.is_empty());
    let config = read(root.get_ref(), source, &mut sink);
    syntax::report(syntax, source, &mut sink);
    let broken = sink.has_errors();
    let found = sink.into_sorted();
    if broken { Err(found) } else { Ok((config, found)) }
}

/// Reads the top level.
fn read<'a>(root: &'a DeTable<'a>, source: &Source, sink: &mut Sink) -> Config {
    let mut top = Fields::of(root, "the file", 0..0);
    let mut section = |key: &'static str, sink: &mut Sink| -> Option<Fields<'a>> {
        top.take(key)?.table(format!("[{key}]"), &format!("a section `[{key}]`"), sink)
    };
    let dataplane = section("dataplane", sink);
    let settings = section("sysctl", sink);
    let flows = section("conntrack", sink);
    let foreign = section("foreign", sink);
    let quotas = section("accounts", sink);
    let osf = section("osf", sink);
    let host = section("host", sink);
    let page = section("metrics", sink);
    let dataplane = appliance::read(dataplane, sink);
    let host = host::read(host, sink);
    let vrfs = vrfs::read(top.take("vrfs"), sink);
    let interfaces = interfaces::read(top.take("interfaces"), &vrfs, host.as_ref(), sink);
    let routes = routes::read(top.take("routes"), host.as_ref(), &interfaces, sink);
    let neighbours = routes.beside(top.take("neighbours"), "neighbours", "neigh", sink);
    let neighbours = neighbours::read(neighbours, &interfaces, sink);
    let rules = routes.beside(top.take("rules"), "the rules of routing", "rule", sink);
    let rules = rules::read(rules, &interfaces, &routes.routes, sink);
    let sysctl = sysctl::read(settings, sink);
    let conntrack = conntrack::read(flows, sink);
    let sets = sets::read(top.take("sets"), source, sink);
    let accounts = accounts::read(quotas, sink);
    let fingerprints = accounts::fingerprints(osf, sink);
    let metrics = metrics::read(page, &interfaces, sink);
    let ports = interfaces.names();
    let foreign = foreign::read(foreign, &ports, sink);
    let chains = chains::read(&mut top, sink);
    let mistaken = [conntrack.mistaken, sets.mistaken].concat();
    let names = Names {
        timeouts: &conntrack.timeouts,
        labels: &conntrack.labels,
        sets: &sets.sets,
        accounts: &accounts,
        mistaken: &mistaken,
        recent: Sizes::of(&sysctl),
        foreign: &foreign,
    };
    let ruleset = ruleset::read(chains, &ports, names, source, sink);
    top.finish(sink);
    Config {
        appliance: Appliance {
            run_dir: dataplane.run_dir,
            cores: dataplane.cores,
            idle: dataplane.idle,
            frames_per_worker: dataplane.frames,
            frame_size: dataplane.frame_size,
            max_flows: dataplane.max_flows,
            keep_flows: dataplane.keep_flows,
            max_neighbours: dataplane.max_neighbours,
            interfaces: interfaces.interfaces,
            initial_policy: dataplane.initial_policy,
            log: dataplane.log,
            host,
        },
        policy: Policy {
            ports,
            port_settings: interfaces.settings,
            neighbours,
            routes_from: routes.from,
            vrfs: vrfs.vrfs,
            routes: routes.routes,
            rules,
            sysctl,
            timeouts: conntrack.timeouts,
            labels: conntrack.labels,
            sets: sets.sets,
            fingerprints,
            accounts,
            metrics,
            ruleset,
        },
    }
}
