//! Targets and matches of iptables that have no meaning outside a kernel, or none any more: refused, and why, and what serves instead.

/// A target or match that is not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absent {
    /// As in `-j NAME` and `-m NAME`.
    pub name: &'static str,
    /// Why it is not here.
    pub why: &'static str,
    /// What to write instead.
    pub instead: &'static str,
}

const fn absent(name: &'static str, why: &'static str, instead: &'static str) -> Absent {
    Absent { name, why, instead }
}

/// Those that iptables still knows; as there, no chain may have such a name.
pub const ABSENT: &[Absent] = &[
    absent(
        "LED",
        "lights a LED of the kernel's, which a router in userspace cannot reach",
        "a rule without a target, which counts",
    ),
    absent("ULOG", "left the kernel with Linux 3.17", "-j NFLOG"),
    absent(
        "CLUSTERIP",
        "left the kernel with Linux 6.8, and several routers behind one MAC with it",
        "-m cluster on each router",
    ),
    absent(
        "TPROXY",
        "hands packets to a socket of the kernel's, and the router has none",
        "-j REDIRECT, or -j DNAT to a proxy",
    ),
];

/// Those that iptables has forgotten: a chain may have such a name.
pub const FORGOTTEN: &[Absent] = &[
    absent(
        "MIRROR",
        "left the kernel with Linux 2.5, since packets could circle between two hosts for ever",
        "-j REJECT",
    ),
    absent("SAME", "left the kernel with Linux 2.6.25", "-j SNAT with a range and --persistent"),
    absent("FTOS", "was never in the kernel", "-j TOS --set-tos"),
    absent("ROUTE", "was never in the kernel", "-j MARK and a routing rule for the mark, or -j TEE"),
    absent("TARPIT", "was never in the kernel", "-j DROP"),
    absent("IPMARK", "was never in the kernel", "-j HMARK, or -j MARK"),
    absent("BALANCE", "left the kernel with Linux 2.6", "-j DNAT with a range"),
];

/// Matches that are not here.
pub const MATCHES: &[Absent] = &[
    absent("ipvs", "asks a load balancer of the kernel's, and the router has none", "-m conntrack, or -m mark"),
    absent("unclean", "left the kernel with Linux 2.6", "-m conntrack --ctstate INVALID"),
    absent("geoip", "was never in the kernel", "-m set with a set of the country's networks"),
    absent("condition", "was never in the kernel", "-m set with a set that changes"),
    absent("psd", "was never in the kernel", "-m recent or -m hashlimit"),
    absent("quota2", "was never in the kernel", "-m quota, or -m nfacct for one with a name"),
    absent("fuzzy", "was never in the kernel", "-m limit or -m hashlimit"),
    absent("ipp2p", "was never in the kernel", "-m string"),
    absent("layer7", "was never in the kernel", "-m string"),
];

/// The one of that name among some.
pub fn find(name: &str, among: &'static [Absent]) -> Option<&'static Absent> {
    among.iter().find(|absent| absent.name == name)
}

impl Absent {
    /// Why it is refused, for people.
    pub fn refusal(&self, kind: &str) -> String {
        format!("the {kind} {} {}", self.name, self.why)
    }
}
