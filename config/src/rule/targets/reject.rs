//! `-j REJECT [--reject-with TYPE]`: answers and drops; in INPUT, FORWARD and OUTPUT of `filter`.
//!
//! Without a type the answer is port unreachable. `tcp-reset` asks for `-p tcp`. To what no answer is due (ICMP errors,
//! later fragments, multicast, bad checksums) the engine keeps silent; it drops all the same.
//! TOML: `{ protocol = "tcp", dport = 23, target = "REJECT", reject-with = "tcp-reset" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::{integer, nearest};
use crate::rule::{Cond, Effect, Families, Hook, Match, Table};
use serde::{Deserialize, Serialize};

/// How a packet is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the --reject-with word of its name")]
pub enum With {
    IcmpNetUnreachable,
    IcmpHostUnreachable,
    IcmpPortUnreachable,
    IcmpProtoUnreachable,
    IcmpNetProhibited,
    IcmpHostProhibited,
    IcmpAdminProhibited,
    Icmp6NoRoute,
    Icmp6AdmProhibited,
    Icmp6AddrUnreachable,
    Icmp6PortUnreachable,
    Icmp6PolicyFail,
    Icmp6RejectRoute,
    TcpReset,
}

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reject(pub With);

/// The word that iptables-save prints, another that is accepted, and the type.
type Word3 = (&'static str, &'static str, With);

const WORDS_V4: &[Word3] = &[
    ("icmp-net-unreachable", "net-unreach", With::IcmpNetUnreachable),
    ("icmp-host-unreachable", "host-unreach", With::IcmpHostUnreachable),
    ("icmp-proto-unreachable", "proto-unreach", With::IcmpProtoUnreachable),
    ("icmp-port-unreachable", "port-unreach", With::IcmpPortUnreachable),
    ("icmp-net-prohibited", "net-prohib", With::IcmpNetProhibited),
    ("icmp-host-prohibited", "host-prohib", With::IcmpHostProhibited),
    ("tcp-reset", "tcp-rst", With::TcpReset),
    ("icmp-admin-prohibited", "admin-prohib", With::IcmpAdminProhibited),
];

const WORDS_V6: &[Word3] = &[
    ("icmp6-no-route", "no-route", With::Icmp6NoRoute),
    ("icmp6-adm-prohibited", "adm-prohibited", With::Icmp6AdmProhibited),
    ("icmp6-addr-unreachable", "addr-unreach", With::Icmp6AddrUnreachable),
    ("icmp6-port-unreachable", "port-unreach", With::Icmp6PortUnreachable),
    ("tcp-reset", "tcp-reset", With::TcpReset),
    ("icmp6-policy-fail", "policy-fail", With::Icmp6PolicyFail),
    ("icmp6-reject-route", "reject-route", With::Icmp6RejectRoute),
];

fn words(family: Family) -> &'static [Word3] {
    match family {
        Family::V4 => WORDS_V4,
        Family::V6 => WORDS_V6,
    }
}

static OPTIONS: [Opt; 1] = [Opt::plain("reject-with", &[]).about("TYPE", "the answer: an ICMP error by its name, or tcp-reset with -p tcp")];

const fn extension(family: Family, cases: &'static [Case]) -> TargetExtension {
    TargetExtension {
        name: "REJECT",
        aliases: &[],
        families: Families::Only(family),
        protocol: None,
        tables: &[Table::Filter],
        hooks: Hook::Input.bit() | Hook::Forward.bit() | Hook::Output.bit(),
        options: &OPTIONS,
        build,
        summary: "Answers with an ICMP error or a TCP reset, and drops.",
        example: r#"{ protocol = "tcp", dport = 23, target = "REJECT", reject-with = "tcp-reset" }"#,
        cases,
    }
}

/// REJECT of iptables
pub static V4: TargetExtension = extension(
    Family::V4,
    &[
        Case::Prints(Family::V4, "-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
        Case::Prints(Family::V4, "-j REJECT --reject-with net-unreach", "-j REJECT --reject-with icmp-net-unreachable"),
        Case::Prints(Family::V4, "-j REJECT --reject-with host-unreach", "-j REJECT --reject-with icmp-host-unreachable"),
        Case::Prints(Family::V4, "-j REJECT --reject-with proto-unreach", "-j REJECT --reject-with icmp-proto-unreachable"),
        Case::Prints(Family::V4, "-j REJECT --reject-with port-unreach", "-j REJECT --reject-with icmp-port-unreachable"),
        Case::Prints(Family::V4, "-j REJECT --reject-with net-prohib", "-j REJECT --reject-with icmp-net-prohibited"),
        Case::Prints(Family::V4, "-j REJECT --reject-with host-prohib", "-j REJECT --reject-with icmp-host-prohibited"),
        Case::Prints(Family::V4, "-j REJECT --reject-with admin-prohib", "-j REJECT --reject-with icmp-admin-prohibited"),
        Case::Prints(Family::V4, "-p tcp -j REJECT --reject-with tcp-rst", "-p tcp -j REJECT --reject-with tcp-reset"),
        Case::Refused(Family::V4, "-j REJECT --reject-with tcp-reset", "protocol tcp"),
        Case::Refused(Family::V4, "! -p tcp -j REJECT --reject-with tcp-reset", "protocol tcp"),
        Case::Refused(Family::V4, "-j REJECT --reject-with icmp6-no-route", "not a way to refuse"),
        Case::Refused(Family::V4, "-j REJECT --reject-with", "wants a value"),
    ],
);

/// REJECT of ip6tables
pub static V6: TargetExtension = extension(
    Family::V6,
    &[
        Case::Prints(Family::V6, "-j REJECT", "-j REJECT --reject-with icmp6-port-unreachable"),
        Case::Prints(Family::V6, "-j REJECT --reject-with no-route", "-j REJECT --reject-with icmp6-no-route"),
        Case::Prints(Family::V6, "-j REJECT --reject-with adm-prohibited", "-j REJECT --reject-with icmp6-adm-prohibited"),
        Case::Prints(Family::V6, "-j REJECT --reject-with addr-unreach", "-j REJECT --reject-with icmp6-addr-unreachable"),
        Case::Prints(Family::V6, "-j REJECT --reject-with policy-fail", "-j REJECT --reject-with icmp6-policy-fail"),
        Case::Prints(Family::V6, "-j REJECT --reject-with reject-route", "-j REJECT --reject-with icmp6-reject-route"),
        Case::Prints(Family::V6, "-p tcp -j REJECT --reject-with tcp-reset", "="),
        Case::Refused(Family::V6, "-j REJECT --reject-with icmp-net-unreachable", "not a way to refuse"),
        Case::Refused(Family::V6, "-p udp -j REJECT --reject-with tcp-reset", "protocol tcp"),
    ],
);

fn build(given: &Given) -> Result<Target, Complaint> {
    let Some(word) = given.value(0) else {
        let default = match given.family {
            Family::V4 => With::IcmpPortUnreachable,
            Family::V6 => With::Icmp6PortUnreachable,
        };
        return Ok(Target::Reject(Reject(default)));
    };
    let words = words(given.family);
    let all = || words.iter().flat_map(|&(name, alias, _)| [name, alias]);
    let text = word.text.to_ascii_lowercase();
    let Some(&(_, _, with)) = words.iter().find(|(name, alias, _)| *name == text || *alias == text) else {
        let accepts = match nearest(&text, all()).filter(|_| integer(&text).is_none()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => words.iter().map(|w| w.0).collect::<Vec<_>>().join(", "),
        };
        return Err(word.complain(format!("`{}` is not a way to refuse {} packets", word.text, given.family.name()), accepts));
    };
    if with == With::TcpReset && given.protocol != Some((proto::TCP, false)) {
        return Err(word.complain("`tcp-reset` answers protocol tcp only", "-p tcp in the rule"));
    }
    Ok(Target::Reject(Reject(with)))
}

impl Action for Reject {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Reject(self.0)
    }

    fn changes_packets(&self) -> bool {
        false
    }

    fn extension(&self, family: Family) -> Option<&'static TargetExtension> {
        Some(match family {
            Family::V4 => &V4,
            Family::V6 => &V6,
        })
    }

    fn print(&self, family: Family, out: &mut String) {
        let word = words(family).iter().find(|w| w.2 == self.0).map_or("", |w| w.0);
        out.push_str(" --reject-with ");
        out.push_str(word);
    }

    fn misses(&self, conds: &[Cond]) -> Option<&'static str> {
        let tcp = |cond: &Cond| !cond.negate && matches!(cond.test, Match::Protocol(protocol) if protocol.0 == proto::TCP);
        (self.0 == With::TcpReset && !conds.iter().any(tcp)).then_some("REJECT with tcp-reset needs -p tcp")
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let known = words(family).iter().any(|w| w.2 == self.0);
        if known { Ok(()) } else { Err(format!("REJECT with an answer that is not one of {}", family.name())) }
    }
}
