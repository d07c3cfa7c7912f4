//! The validated configuration: everything that a TOML file can say, checked and in the engine's terms.
//!
//! [`Config`] has two halves that live differently. [`Appliance`] is what the dataplane process opens at its start: ports,
//! workers, memory; changing it needs a restart. [`Policy`] is what control publishes as a generation and the workers swap
//! between bursts: addresses, routes, neighbours, settings, rules.

use crate::facts::{Family, PortId};
use crate::rule::matches::connlabel::LABELS;
use crate::rule::matches::interface::MAX_PORTS;
use crate::rule::matches::nfacct::Account;
use crate::rule::matches::osf::{Fingerprint, MAX_FINGERPRINTS};
use crate::rule::matches::recent::Sizes as RecentSizes;
use crate::rule::targets::ct::Ct;
use crate::rule::word::integer;
use crate::rule::{Match, Target};
use crate::ruleset::Ruleset;
use crate::set::Declaration;
use crate::timeout::{MAX_POLICIES, TimeoutPolicy};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

pub use crate::vlan::{TagProtocol, Tags, Vlan};

/// A whole configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Opened once.
    pub appliance: Appliance,
    /// Swapped at run time.
    pub policy: Policy,
}

/// What the dataplane process opens at its start.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Appliance {
    /// Directory (mode 0700) of the sockets `dataplane.sock` and `control.sock` (mode 0600).
    pub run_dir: PathBuf,
    /// Cores of the workers, one worker each.
    pub cores: Vec<usize>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// UMEM frames of each worker.
    pub frames_per_worker: u32,
    /// Bytes of a UMEM frame: 2048 or 4096.
    pub frame_size: u32,
    /// Most flows that conntrack holds (`nf_conntrack_max`).
    pub max_flows: u32,
    /// Flows live on when the dataplane is started again.
    pub keep_flows: bool,
    /// Most neighbours held.
    pub max_neighbours: u32,
    /// Ports, in the order of the file: a [`PortId`] is an index here.
    pub interfaces: Vec<Interface>,
    /// Filter policy until control has published a ruleset.
    pub initial_policy: crate::rule::Policy,
    /// Where LOG lines go.
    pub log: LogTo,
    /// The host's own stack takes part, by a TAP for each port; none: it does not.
    pub host: Option<Host>,
}

impl Appliance {
    /// Whether an interface has a TAP.
    pub fn has_tap(&self, interface: &Interface) -> bool {
        self.host.is_some() && interface.local == LocalStack::Host
    }

    /// Whether its TAP gets what is neither IP nor ARP.
    pub fn gives_all_frames(&self, interface: &Interface) -> bool {
        let all = self.host.as_ref().is_some_and(|host| host.other_frames == OtherFrames::Tap);
        all && self.has_tap(interface)
    }
}

/// Where the TAPs are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Host {
    /// Network namespace by its name, as `ip netns` shows it; none: that of the dataplane process.
    pub namespace: Option<String>,
    /// Who gets what is neither IP nor ARP.
    pub other_frames: OtherFrames,
}

/// Who gets frames that are neither IPv4, IPv6 nor ARP: LLDP, STP, LACP, ... of a port with a TAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OtherFrames {
    /// The kernel, on the port's device.
    #[default]
    Device,
    /// The host, on the TAP.
    Tap,
}

/// Who is the host behind a port's own addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LocalStack {
    /// The kernel's stack, by a TAP.
    Host,
    /// The router itself: echo and refusals.
    Smoltcp,
}

/// What a worker does when its ports are quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Idle {
    /// Poll on.
    Busy,
    /// After so many microseconds without a packet, sleep in poll(2) until one comes.
    Sleep {
        /// The quiet spell.
        after_us: u32,
    },
}

/// Where the lines of LOG go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LogTo {
    /// syslog(3), facility kern, which journald reads too.
    Syslog,
    /// Appended to a file.
    File(PathBuf),
}

/// A port of the router.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// The name that rules use.
    pub name: String,
    /// A device, or a VLAN of one.
    pub kind: Kind,
    /// IP MTU; the device's where none, of a VLAN its parent's.
    pub mtu: Option<u16>,
    /// Who answers for its addresses.
    pub local: LocalStack,
}

/// What a port is made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A device.
    Device(Device),
    /// What is tagged on another port, which has a device.
    Vlan(Vlan),
}

/// The device of a port, and how it is used.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its name; often that of the port.
    pub name: String,
    /// XDP attach mode.
    pub attach: Attach,
    /// AF_XDP copy mode.
    pub copy: CopyMode,
    /// Entries of the rx and tx rings, a power of two.
    pub ring: u32,
    /// How frames are sent.
    pub tx: Transmit,
    /// What becomes of unfinished checksums; where none, that follows from the device's driver.
    pub checksums: Option<Checksums>,
}

impl Interface {
    /// Its device; none for a VLAN.
    pub fn device(&self) -> Option<&Device> {
        match &self.kind {
            Kind::Device(device) => Some(device),
            Kind::Vlan(_) => None,
        }
    }

    /// The VLAN that it is, where it is one.
    pub fn vlan(&self) -> Option<Vlan> {
        match self.kind {
            Kind::Device(_) => None,
            Kind::Vlan(vlan) => Some(vlan),
        }
    }
}

/// How the XDP program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Attach {
    /// Native, else generic.
    Auto,
    /// In the driver or not at all.
    Native,
    /// On skbs.
    Generic,
}

/// How frames get from the device into the UMEM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CopyMode {
    /// Zero-copy, else copy.
    Auto,
    /// By DMA or not at all.
    ZeroCopy,
    /// Copied by the kernel.
    Copy,
}

/// How frames get from the UMEM onto the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Transmit {
    /// Few at once through the tx ring, many through XDP, where that keeps their order; else the tx ring.
    Auto,
    /// Through the tx ring of the AF_XDP socket.
    Ring,
    /// Through XDP wherever the device takes XDP frames.
    Xdp,
}

/// What becomes of a TCP, UDP or SCTP checksum that its sender has left to its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Checksums {
    /// It is finished when the packet comes in.
    Finish,
    /// Nothing.
    AsTheyAre,
}

/// What is swapped at run time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// The names of the ports that this was compiled against, in order: the dataplane refuses another list.
    pub ports: Vec<String>,
    /// Per-port settings, by [`PortId`].
    pub port_settings: Vec<PortSettings>,
    /// Static neighbours.
    pub neighbours: Vec<StaticNeighbour>,
    /// Where routes, rules and neighbours come from.
    pub routes_from: RoutesFrom,
    /// VRFs that interfaces may be in.
    pub vrfs: Vec<Vrf>,
    /// Static routes; connected and local ones follow from the addresses.
    pub routes: Vec<Route>,
    /// Policy routing rules in order of priority, the three of the kernel's default included unless the file replaces them.
    pub rules: Vec<RoutingRule>,
    /// Settings by the names of the sysctls.
    pub sysctl: Sysctl,
    /// Other times for flows that rules choose.
    pub timeouts: Vec<TimeoutPolicy>,
    /// Names of conntrack labels.
    pub labels: Vec<Label>,
    /// Sets that rules ask and change.
    pub sets: Vec<Declaration>,
    /// Fingerprints of operating systems, for `osf`.
    pub fingerprints: Vec<Fingerprint>,
    /// Accounts that rules may count for, for `nfacct`.
    pub accounts: Vec<Account>,
    /// The status page and metrics, where the router shows them.
    pub metrics: Option<Metrics>,
    /// The compiled ruleset.
    pub ruleset: Ruleset,
}

/// The status page (`/`) and metrics (`/metrics`) over HTTP, on all of the router's own addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Metrics {
    /// TCP port.
    pub port: u16,
}

impl Policy {
    /// Whether a policy of whatever origin is one that the engine can run: ports exist, families agree, values are in range.
    /// The ruleset has its own check ([`Ruleset::verify`]).
    pub fn verify(&self) -> Result<(), String> {
        let ports = self.ports.len();
        if ports > MAX_PORTS || self.port_settings.len() != ports {
            return Err(format!("{ports} ports with {} settings", self.port_settings.len()));
        }
        let port = |port: PortId| match port.index() {
            Some(i) if i < ports => Ok(()),
            _ => Err(format!("there is no port {}", port.0)),
        };
        for neighbour in &self.neighbours {
            port(neighbour.port)?;
        }
        self.verify_vrfs()?;
        if self.routes.len() > MAX_ROUTES {
            return Err(format!("{} routes are more than {MAX_ROUTES}", self.routes.len()));
        }
        if self.routes_from == RoutesFrom::Kernel && !self.routes.is_empty() {
            return Err("routes come from the kernel, and there are others".into());
        }
        for route in &self.routes {
            let is_v4 = route.prefix.addr().is_ipv4();
            let least = if is_v4 { MIN_MTU } else { IPV6_MIN_MTU };
            if route.realm != 0 && !is_v4 {
                return Err(format!("the route to {} has a realm", route.prefix));
            }
            if route.mtu.is_some_and(|mtu| mtu < least) {
                return Err(format!("the route to {} has an MTU below {least}", route.prefix));
            }
            let RouteAction::Via(nexthops) = &route.action else { continue };
            if nexthops.is_empty() || nexthops.len() > MAX_NEXTHOPS {
                return Err(format!("the route to {} has {} next hops", route.prefix, nexthops.len()));
            }
            for hop in nexthops {
                port(hop.port)?;
                if !(1..=256).contains(&hop.weight) || hop.gateway.is_some_and(|via| via.is_ipv4() != is_v4) {
                    return Err(format!("the route to {} has a wrong next hop", route.prefix));
                }
            }
            if route.source.is_some_and(|source| source.is_ipv4() != is_v4) {
                return Err(format!("the route to {} has a source of the other family", route.prefix));
            }
        }
        for rule in &self.rules {
            let is_v4 = rule.family == Family::V4;
            if [rule.from, rule.to].into_iter().flatten().any(|net| net.addr().is_ipv4() != is_v4) {
                return Err(format!("the routing rule {} mixes families", rule.priority));
            }
            if let Some(RuleIif::Port(iif)) = rule.iif {
                port(iif)?;
            }
        }
        self.verify_timeouts()?;
        if let Some(label) = self.labels.iter().find(|label| label.bit >= LABELS || !Label::is_name(&label.name)) {
            return Err(format!("the label {:?} of bit {}", label.name, label.bit));
        }
        self.verify_sets()?;
        if self.fingerprints.len() > MAX_FINGERPRINTS {
            return Err(format!("{} fingerprints are more than {MAX_FINGERPRINTS}", self.fingerprints.len()));
        }
        self.fingerprints.iter().try_for_each(Fingerprint::verify)?;
        self.accounts.iter().try_for_each(Account::verify)?;
        if self.metrics.is_some_and(|metrics| metrics.port == 0) {
            return Err("metrics cannot be on port 0".to_string());
        }
        crate::schema::sysctl::verify(&self.sysctl)
    }

    /// VRFs with tables of their own, and interfaces in those only.
    fn verify_vrfs(&self) -> Result<(), String> {
        if self.vrfs.len() > MAX_VRFS {
            return Err(format!("{} VRFs are more than {MAX_VRFS}", self.vrfs.len()));
        }
        for (i, vrf) in self.vrfs.iter().enumerate() {
            let is_own = vrf.table == 0 || (table::DEFAULT..=table::LOCAL).contains(&vrf.table);
            let is_there = |other: &Vrf| other.name == vrf.name || other.table == vrf.table;
            if is_own || self.vrfs[..i].iter().any(is_there) {
                return Err(format!("the VRF {:?} of table {}", vrf.name, vrf.table));
            }
        }
        let is_known = |table: &u32| self.vrfs.iter().any(|vrf| vrf.table == *table);
        match self.port_settings.iter().filter_map(|settings| settings.vrf).find(|table| !is_known(table)) {
            Some(table) => Err(format!("no VRF has the table {table}")),
            None => Ok(()),
        }
    }

    /// Sets that could be in a file, each name once.
    fn verify_sets(&self) -> Result<(), String> {
        if self.sets.len() > crate::set::MAX_SETS {
            return Err(format!("{} sets are more than {}", self.sets.len(), crate::set::MAX_SETS));
        }
        let mut names = std::collections::HashSet::new();
        for set in &self.sets {
            set.verify()?;
            if !names.insert(set.header.name.as_str()) {
                return Err(format!("the set {:?} is there twice", set.header.name));
            }
        }
        Ok(())
    }

    /// Policies that could be in a file, and rules that use those only.
    fn verify_timeouts(&self) -> Result<(), String> {
        let policies = &self.timeouts;
        if policies.len() > MAX_POLICIES {
            return Err(format!("{} time-out policies are more than {MAX_POLICIES}", policies.len()));
        }
        for (i, policy) in policies.iter().enumerate() {
            let known = policy.tracker.times().len();
            let wrong = policy.times.len() > known
                || policy
                    .times
                    .iter()
                    .any(|&(index, value)| usize::from(index) >= known || value > crate::schema::sysctl::LONGEST_MS);
            if wrong || !TimeoutPolicy::is_name(&policy.name) || policies[..i].iter().any(|p| p.id() == policy.id()) {
                return Err(format!("the time-out policy {:?} cannot be", policy.name));
            }
        }
        for family in Family::ALL {
            for rule in self.ruleset.of(family).tables.iter().flat_map(|t| &t.chains).flat_map(|chain| &chain.rules) {
                let Some(Target::Ct(Ct { notrack: false, timeout: Some(name), .. })) = &rule.target else { continue };
                let protocol = rule.conds.iter().find_map(|cond| match cond.test {
                    Match::Protocol(protocol) => Some((protocol.0, cond.negate)),
                    _ => None,
                });
                let policy = policies.iter().find(|policy| policy.name == *name);
                let policy = policy.ok_or_else(|| format!("there is no time-out policy {name:?}"))?;
                policy.unfit(family, protocol).map_or(Ok(()), Err)?;
            }
        }
        Ok(())
    }

    /// The names that its rules may use.
    pub fn names(&self) -> Names<'_> {
        let recent = RecentSizes::of(&self.sysctl);
        let Policy { timeouts, labels, sets, accounts, .. } = self;
        Names { timeouts, labels, sets, accounts, mistaken: &[], foreign: &[], recent }
    }
}

/// A conntrack label's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Label {
    /// Its bit, below 128.
    pub bit: u8,
    /// Its name.
    pub name: String,
}

impl Label {
    /// Whether a label may have this name: letters, digits and `-`, and no number, which would be a bit.
    pub fn is_name(name: &str) -> bool {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=MAX_LABEL_NAME).contains(&name.len()) && name.bytes().all(good) && integer(name).is_none()
    }
}

/// Bytes of a label's name.
pub const MAX_LABEL_NAME: usize = 63;

/// Names that rules use and other sections of the file define.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Time-out policies.
    pub timeouts: &'a [TimeoutPolicy],
    /// Conntrack labels.
    pub labels: &'a [Label],
    /// Sets.
    pub sets: &'a [Declaration],
    /// Accounts with their quotas.
    pub accounts: &'a [Account],
    /// Those of any whose definition has a mistake, which has been told: a rule with such a name has none.
    pub mistaken: &'a [String],
    /// Sizes of the lists of `recent`.
    pub recent: RecentSizes,
    /// Interfaces that no port is, but rules may name: whole names, or beginnings with a `+`.
    pub foreign: &'a [String],
}

impl Names<'_> {
    /// None at all.
    pub const NONE: Names<'static> = Names {
        timeouts: &[],
        labels: &[],
        sets: &[],
        accounts: &[],
        mistaken: &[],
        foreign: &[],
        recent: RecentSizes::DEFAULT,
    };
}

/// Least MTU of IPv4 (RFC 791).
pub const MIN_MTU: u16 = 68;
/// Least MTU of IPv6 (RFC 8200 section 5).
pub const IPV6_MIN_MTU: u16 = 1280;
/// Most routes of both families together.
pub const MAX_ROUTES: usize = 1 << 22;
/// Most VRFs.
pub const MAX_VRFS: usize = 4096;
/// Most next hops of a multipath route.
pub const MAX_NEXTHOPS: usize = 256;

/// What of a port can change at run time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortSettings {
    /// Own addresses with the prefix of their network, in order: the first of a family is the primary one.
    pub addresses: Vec<IpNet>,
    /// Reverse-path filter.
    pub rp_filter: RpFilter,
    /// Its group, for `devgroup`.
    pub group: u32,
    /// The table of the VRF that it is in.
    pub vrf: Option<u32>,
}

/// Where routes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RoutesFrom {
    /// From this configuration.
    #[default]
    File,
    /// From the kernel, in the namespace of the TAPs; rules and neighbours too. The policy itself has none.
    Kernel,
}

/// A VRF: interfaces with a routing table and own addresses for themselves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vrf {
    /// Its name.
    pub name: String,
    /// Its table.
    pub table: u32,
}

/// Reverse-path filter (`rp_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RpFilter {
    /// None.
    #[default]
    Off,
    /// The route back must leave by the port that the packet came in on.
    Strict,
    /// There must be a route back.
    Loose,
}

/// A neighbour that is known beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StaticNeighbour {
    /// On this link.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: [u8; 6],
}

/// Numbers of the kernel's own tables.
pub mod table {
    /// Local and broadcast addresses.
    pub const LOCAL: u32 = 255;
    /// Where routes go that name no table.
    pub const MAIN: u32 = 254;
    /// Empty by default.
    pub const DEFAULT: u32 = 253;
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Table number.
    pub table: u32,
    /// Destination; host bits are zero.
    pub prefix: IpNet,
    /// What to do.
    pub action: RouteAction,
    /// The lower wins among equal prefixes.
    pub metric: u32,
    /// MTU of the path where smaller than the port's.
    pub mtu: Option<u16>,
    /// Preferred source of the router's own packets.
    pub source: Option<IpAddr>,
    /// Realms for `realm`: of sources in the high 16 bits, of destinations in the low ones; 0 is none. IPv4 only.
    pub realm: u32,
}

/// What a route does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RouteAction {
    /// Sends on; several are multipath.
    Via(Vec<Nexthop>),
    /// Drops without a word.
    Blackhole,
    /// Drops with host unreachable / no route.
    Unreachable,
    /// Drops with administratively prohibited.
    Prohibit,
}

/// A next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nexthop {
    /// Where it leaves. Resolved by the parser from the connected networks where the file gives only `via`.
    pub port: PortId,
    /// The gateway; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Share of flows, 1 to 256.
    pub weight: u16,
}

/// A rule of policy routing, as `ip rule`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoutingRule {
    /// Order: lower first.
    pub priority: u32,
    /// Serves this family.
    pub family: Family,
    /// All conditions together are negated.
    pub not: bool,
    /// Source prefix.
    pub from: Option<IpNet>,
    /// Destination prefix.
    pub to: Option<IpNet>,
    /// Incoming port.
    pub iif: Option<RuleIif>,
    /// Mark and mask.
    pub fwmark: Option<(u32, u32)>,
    /// TOS / traffic class (the kernel compares `tos & 0x1c` for IPv4's legacy, exact DSCP otherwise).
    pub tos: Option<u8>,
    /// What then.
    pub action: RuleAction,
}

impl RoutingRule {
    /// The rules that the kernel starts with, by priority and table: local, main, default.
    pub const KERNEL: [(u32, u32); 3] = [(0, table::LOCAL), (32766, table::MAIN), (32767, table::DEFAULT)];

    /// A rule without a condition.
    pub fn bare(priority: u32, family: Family, action: RuleAction) -> RoutingRule {
        RoutingRule { priority, family, not: false, from: None, to: None, iif: None, fwmark: None, tos: None, action }
    }

    /// [`RoutingRule::KERNEL`] for both families.
    pub fn defaults() -> Vec<RoutingRule> {
        let of = |(priority, table)| Family::ALL.map(|f| RoutingRule::bare(priority, f, RuleAction::Lookup(table)));
        RoutingRule::KERNEL.into_iter().flat_map(of).collect()
    }
}

/// The incoming side of a routing rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RuleIif {
    /// This port.
    Port(PortId),
    /// The router's own packets (`iif lo`).
    Local,
}

/// What a routing rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RuleAction {
    /// Look in this table; go on where it has no route.
    Lookup(u32),
    /// Look in the table of the VRF that the packet is in; go on where there is none (`l3mdev`).
    Vrf,
    /// Drop.
    Blackhole,
    /// Drop, host unreachable.
    Unreachable,
    /// Drop, prohibited.
    Prohibit,
}

/// Settings by the names of the kernel's sysctls; defaults are the kernel's. Times in milliseconds unless named otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each is the sysctl of its name")]
pub struct Sysctl {
    pub nf_conntrack_tcp_timeout_syn_sent: u64,
    pub nf_conntrack_tcp_timeout_syn_recv: u64,
    pub nf_conntrack_tcp_timeout_established: u64,
    pub nf_conntrack_tcp_timeout_fin_wait: u64,
    pub nf_conntrack_tcp_timeout_close_wait: u64,
    pub nf_conntrack_tcp_timeout_last_ack: u64,
    pub nf_conntrack_tcp_timeout_time_wait: u64,
    pub nf_conntrack_tcp_timeout_close: u64,
    pub nf_conntrack_tcp_timeout_max_retrans: u64,
    pub nf_conntrack_tcp_timeout_unacknowledged: u64,
    /// After SYNs of both sides. No sysctl has this name: only a time-out policy changes it.
    pub nf_conntrack_tcp_timeout_syn_sent2: u64,
    pub nf_conntrack_tcp_loose: bool,
    pub nf_conntrack_tcp_be_liberal: bool,
    /// Repetitions of one ACK from which on a connection has no more than the time-out of this name.
    pub nf_conntrack_tcp_max_retrans: u8,
    pub nf_conntrack_tcp_ignore_invalid_rst: bool,
    pub nf_conntrack_sctp_timeout_closed: u64,
    pub nf_conntrack_sctp_timeout_cookie_wait: u64,
    pub nf_conntrack_sctp_timeout_cookie_echoed: u64,
    pub nf_conntrack_sctp_timeout_established: u64,
    pub nf_conntrack_sctp_timeout_shutdown_sent: u64,
    pub nf_conntrack_sctp_timeout_shutdown_recd: u64,
    pub nf_conntrack_sctp_timeout_shutdown_ack_sent: u64,
    pub nf_conntrack_sctp_timeout_heartbeat_sent: u64,
    pub nf_conntrack_udp_timeout: u64,
    pub nf_conntrack_udp_timeout_stream: u64,
    pub nf_conntrack_icmp_timeout: u64,
    pub nf_conntrack_icmpv6_timeout: u64,
    pub nf_conntrack_gre_timeout: u64,
    pub nf_conntrack_gre_timeout_stream: u64,
    pub nf_conntrack_generic_timeout: u64,
    pub nf_conntrack_checksum: bool,
    pub nf_conntrack_acct: bool,
    /// Flows keep when they began.
    pub nf_conntrack_timestamp: bool,
    /// 0: nobody is told of what happens to flows. Else whoever listens is.
    pub nf_conntrack_events: u8,
    /// Packets of this protocol that are INVALID are logged; 255 is every protocol, 0 none.
    pub nf_conntrack_log_invalid: u8,
    /// Most addresses that a list of `recent` remembers.
    pub ip_list_tot: u32,
    /// Packets of an address that it remembers at least; 0: as many as its rules ask for.
    pub ip_pkt_list_tot: u32,
    pub ip_forward: bool,
    pub ipv6_forwarding: bool,
    pub ip_default_ttl: u8,
    pub ipv6_hop_limit: u8,
    /// Milliseconds between ICMP errors to one destination (`net.ipv4.icmp_ratelimit`); 0 is unlimited.
    pub icmp_ratelimit: u32,
    /// Same for ICMPv6.
    pub icmpv6_ratelimit: u32,
    pub icmp_echo_ignore_all: bool,
    pub icmp_echo_ignore_broadcasts: bool,
    pub accept_source_route: bool,
    /// How long an incomplete IPv4 packet waits for its fragments.
    pub ipfrag_time: u64,
    /// Bytes of packet memory that IPv4 fragments may hold, for each worker.
    pub ipfrag_high_thresh: u32,
    /// Fragments that a sender may send beyond an incomplete packet; 0 is any number.
    pub ipfrag_max_dist: u32,
    /// How long an incomplete IPv6 packet waits.
    pub nf_conntrack_frag6_timeout: u64,
    /// Bytes of packet memory that IPv6 fragments may hold, for each worker.
    pub nf_conntrack_frag6_high_thresh: u32,
    /// 0: hash of addresses; 1: of addresses, protocol and ports.
    pub fib_multipath_hash_policy: u8,
    pub neigh_base_reachable_time: u64,
    pub neigh_delay_first_probe_time: u64,
    pub neigh_retrans_time: u64,
    pub neigh_mcast_solicit: u8,
    pub neigh_ucast_solicit: u8,
    /// Packets held for one unresolved neighbour.
    pub neigh_unres_qlen: u16,
    pub neigh_gc_stale_time: u64,
}

impl Default for Sysctl {
    fn default() -> Self {
        const S: u64 = 1000;
        Sysctl {
            nf_conntrack_tcp_timeout_syn_sent: 120 * S,
            nf_conntrack_tcp_timeout_syn_recv: 60 * S,
            nf_conntrack_tcp_timeout_established: 432_000 * S,
            nf_conntrack_tcp_timeout_fin_wait: 120 * S,
            nf_conntrack_tcp_timeout_close_wait: 60 * S,
            nf_conntrack_tcp_timeout_last_ack: 30 * S,
            nf_conntrack_tcp_timeout_time_wait: 120 * S,
            nf_conntrack_tcp_timeout_close: 10 * S,
            nf_conntrack_tcp_timeout_max_retrans: 300 * S,
            nf_conntrack_tcp_timeout_unacknowledged: 300 * S,
            nf_conntrack_tcp_timeout_syn_sent2: 120 * S,
            nf_conntrack_tcp_loose: true,
            nf_conntrack_tcp_be_liberal: false,
            nf_conntrack_tcp_max_retrans: 3,
            nf_conntrack_tcp_ignore_invalid_rst: false,
            nf_conntrack_sctp_timeout_closed: 10 * S,
            nf_conntrack_sctp_timeout_cookie_wait: 3 * S,
            nf_conntrack_sctp_timeout_cookie_echoed: 3 * S,
            nf_conntrack_sctp_timeout_established: 210 * S,
            nf_conntrack_sctp_timeout_shutdown_sent: 3 * S,
            nf_conntrack_sctp_timeout_shutdown_recd: 3 * S,
            nf_conntrack_sctp_timeout_shutdown_ack_sent: 3 * S,
            nf_conntrack_sctp_timeout_heartbeat_sent: 30 * S,
            nf_conntrack_udp_timeout: 30 * S,
            nf_conntrack_udp_timeout_stream: 120 * S,
            nf_conntrack_icmp_timeout: 30 * S,
            nf_conntrack_icmpv6_timeout: 30 * S,
            nf_conntrack_gre_timeout: 30 * S,
            nf_conntrack_gre_timeout_stream: 180 * S,
            nf_conntrack_generic_timeout: 600 * S,
            nf_conntrack_checksum: true,
            nf_conntrack_acct: true,
            nf_conntrack_timestamp: false,
            nf_conntrack_events: 2,
            nf_conntrack_log_invalid: 0,
            ip_list_tot: RecentSizes::DEFAULT.addresses,
            ip_pkt_list_tot: RecentSizes::DEFAULT.packets,
            ip_forward: true,
            ipv6_forwarding: true,
            ip_default_ttl: 64,
            ipv6_hop_limit: 64,
            icmp_ratelimit: 1000,
            icmpv6_ratelimit: 1000,
            icmp_echo_ignore_all: false,
            icmp_echo_ignore_broadcasts: true,
            accept_source_route: false,
            ipfrag_time: 30 * S,
            ipfrag_high_thresh: 4 << 20,
            ipfrag_max_dist: 64,
            nf_conntrack_frag6_timeout: 60 * S,
            nf_conntrack_frag6_high_thresh: 4 << 20,
            fib_multipath_hash_policy: 0,
            neigh_base_reachable_time: 30 * S,
            neigh_delay_first_probe_time: 5 * S,
            neigh_retrans_time: S,
            neigh_mcast_solicit: 3,
            neigh_ucast_solicit: 3,
            neigh_unres_qlen: 101,
            neigh_gc_stale_time: 60 * S,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule;

    /// Two ports, a route through each kind of next hop, a rule of each kind: all in order.
    fn policy() -> Policy {
        let via = |port, gateway: Option<&str>| Nexthop {
            port: PortId(port),
            gateway: gateway.map(|via| via.parse().expect("an address")),
            weight: 1,
        };
        let route = |prefix: &str, action| Route {
            table: table::MAIN,
            prefix: prefix.parse().expect("a prefix"),
            action,
            metric: 0,
            mtu: None,
            source: None,
            realm: 0,
        };
        let from = |family, net: &str| RoutingRule {
            from: Some(net.parse().expect("a prefix")),
            iif: Some(RuleIif::Port(PortId(1))),
            ..RoutingRule::bare(5, family, RuleAction::Prohibit)
        };
        let settings = |net: &str| PortSettings {
            addresses: vec![net.parse().expect("an address")],
            rp_filter: RpFilter::Strict,
            ..Default::default()
        };
        Policy {
            ports: ["lan0", "wan0"].map(String::from).to_vec(),
            port_settings: vec![settings("10.0.0.1/24"), settings("2001:db8::1/64")],
            neighbours: vec![StaticNeighbour {
                port: PortId(1),
                address: "2001:db8::2".parse().expect("an address"),
                mac: [2; 6],
            }],
            routes_from: RoutesFrom::File,
            vrfs: Vec::new(),
            routes: vec![
                route("192.0.2.0/24", RouteAction::Via(vec![via(0, Some("10.0.0.9")), via(1, None)])),
                route("::/0", RouteAction::Via(vec![via(1, Some("2001:db8::9"))])),
                route("198.51.100.0/24", RouteAction::Blackhole),
            ],
            rules: vec![from(Family::V4, "10.0.0.0/8"), from(Family::V6, "2001:db8::/32")],
            sysctl: Sysctl::default(),
            timeouts: Vec::new(),
            labels: Vec::new(),
            sets: Vec::new(),
            fingerprints: Vec::new(),
            accounts: Vec::new(),
            metrics: Some(Metrics { port: 9100 }),
            ruleset: Ruleset::empty(rule::Policy::Accept),
        }
    }

    fn hops(policy: &mut Policy) -> &mut Vec<Nexthop> {
        match &mut policy.routes[0].action {
            RouteAction::Via(hops) => hops,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_in_order_verifies() {
        assert_eq!(policy().verify(), Ok(()));
        let mut widest = policy();
        *hops(&mut widest) = vec![Nexthop { port: PortId(0), gateway: None, weight: 256 }; MAX_NEXTHOPS];
        assert_eq!(widest.verify(), Ok(()));
    }

    #[test]
    fn forged_policies_are_refused_with_the_reason() {
        type Forge = fn(&mut Policy);
        let cases: &[(&str, Forge)] = &[
            ("2 ports with 1 settings", |p| p.port_settings.truncate(1)),
            ("3 ports with 2 settings", |p| p.ports.push("more".into())),
            ("there is no port 2", |p| p.neighbours[0].port = PortId(2)),
            ("there is no port 65535", |p| p.neighbours[0].port = PortId::NONE),
            ("the route to 192.0.2.0/24 has 0 next hops", |p| hops(p).clear()),
            ("the route to 192.0.2.0/24 has 257 next hops", |p| {
                let hop = hops(p)[0];
                hops(p).resize(MAX_NEXTHOPS + 1, hop);
            }),
            ("there is no port 7", |p| hops(p)[1].port = PortId(7)),
            ("there is no port 65535", |p| hops(p)[1].port = PortId::NONE),
            ("the route to 192.0.2.0/24 has a wrong next hop", |p| hops(p)[0].weight = 0),
            ("the route to 192.0.2.0/24 has a wrong next hop", |p| hops(p)[0].weight = 257),
            ("the route to 192.0.2.0/24 has a wrong next hop", |p| {
                hops(p)[0].gateway = Some("2001:db8::9".parse().expect("an address"));
            }),
            ("the route to 192.0.2.0/24 has a source of the other family", |p| {
                p.routes[0].source = Some("2001:db8::1".parse().expect("an address"));
            }),
            ("the route to ::/0 has a realm", |p| p.routes[1].realm = 1),
            ("the routing rule 5 mixes families", |p| p.rules[0].to = Some("::/0".parse().expect("a prefix"))),
            ("the routing rule 5 mixes families", |p| p.rules[1].family = Family::V4),
            ("the route to 192.0.2.0/24 has an MTU below 68", |p| p.routes[0].mtu = Some(67)),
            ("the route to ::/0 has an MTU below 1280", |p| p.routes[1].mtu = Some(1279)),
            ("neigh_retrans_time is 18446744073709551615: 0 to 21427200000 can be", |p| {
                p.sysctl.neigh_retrans_time = u64::MAX;
            }),
            ("icmp_ratelimit is 4294967295: 0 to 2147483647 can be", |p| p.sysctl.icmp_ratelimit = u32::MAX),
            ("ip_default_ttl is 0: 1 to 255 can be", |p| p.sysctl.ip_default_ttl = 0),
            ("fib_multipath_hash_policy is 2: 0 to 1 can be", |p| p.sysctl.fib_multipath_hash_policy = 2),
            ("neigh_unres_qlen is 1025: 0 to 1024 can be", |p| p.sysctl.neigh_unres_qlen = 1025),
            ("there is no port 2", |p| p.rules[0].iif = Some(RuleIif::Port(PortId(2)))),
        ];
        for (reason, forge) in cases {
            let mut forged = policy();
            forge(&mut forged);
            assert_eq!(forged.verify(), Err(reason.to_string()));
        }
        let names: Vec<String> = (0..=MAX_PORTS).map(|i| format!("p{i}")).collect();
        let many = Policy { port_settings: vec![PortSettings::default(); names.len()], ports: names, ..policy() };
        assert_eq!(many.verify(), Err(format!("{0} ports with {0} settings", MAX_PORTS + 1)));
    }
}
