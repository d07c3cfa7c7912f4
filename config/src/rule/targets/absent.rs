//! Targets of iptables that have no meaning outside a kernel, or none any more: refused, and why, and what serves instead.

/// A target that is not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absent {
    /// As in `-j NAME`.
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

/// The target of that name among some.
pub fn find(name: &str, among: &'static [Absent]) -> Option<&'static Absent> {
    among.iter().find(|absent| absent.name == name)
}

impl Absent {
    /// Why it is refused, for people.
    pub fn refusal(&self) -> String {
        format!("the target {} {}", self.name, self.why)
    }
}
