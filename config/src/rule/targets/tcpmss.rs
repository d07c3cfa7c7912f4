//! `-j TCPMSS --set-mss N | --clamp-mss-to-pmtu`: the MSS option of TCP SYNs.
//!
//! The kernel asks that a tcp match of the rule wants SYN set, so that other segments never come here. Clamping needs to know
//! where the packet goes: FORWARD, OUTPUT and POSTROUTING only.
//! TOML: `{ protocol = "tcp", syn = true, out = "wan0", target = "TCPMSS", clamp-mss-to-pmtu = true }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::matches::tcp::Tcp;
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Cond, Effect, Families, Hook, Match};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The new MSS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mss {
    /// `--set-mss`
    Set(u16),
    /// `--clamp-mss-to-pmtu`: the smaller of the path MTUs of both directions, less 40 or 60.
    Clamp,
}

const SET: usize = 0;
const CLAMP: usize = 1;
/// Hooks at which the outgoing route is not known.
const BEFORE_ROUTE: u8 = Hook::Prerouting.bit() | Hook::Input.bit();
const SYN: u8 = 0x02;

/// TCPMSS
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "TCPMSS",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::TCP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::plain("set-mss", &[]).about("BYTES", "lowers the segment size to this"), Opt::flag("clamp-mss-to-pmtu", &[]).about("", "lowers it to what the paths of both directions carry")],
    build,
    summary: "Sets the maximum segment size that a TCP SYN announces, or clamps it to the path MTU.",
    example: r#"{ protocol = "tcp", syn = true, out = "wan0", target = "TCPMSS", clamp-mss-to-pmtu = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400", "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400"),
        Case::Prints(Family::V4, "-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TCPMSS --clamp-mss-to-pmtu"),
        Case::Prints(Family::V6, "-p tcp --syn -j TCPMSS --set-mss 65495", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TCPMSS --set-mss 65495"),
        Case::Prints(Family::V4, "-p tcp --syn -j TCPMSS --set-mss 0x5b4", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TCPMSS --set-mss 1460"),
        Case::Prints(Family::V6, "-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TCPMSS --clamp-mss-to-pmtu"),
        Case::Refused(Family::V4, "-p tcp --syn -j TCPMSS ! --clamp-mss-to-pmtu", "cannot be negated"),
        Case::Refused(Family::V4, "-p tcp --syn -j TCPMSS", "needs one of"),
        Case::Refused(Family::V4, "-p tcp --syn -j TCPMSS --set-mss 65516", "not a segment size"),
        Case::Refused(Family::V6, "-p tcp --syn -j TCPMSS --set-mss 65496", "not a segment size"),
        Case::Refused(Family::V4, "-p tcp --syn -j TCPMSS --set-mss 100 --clamp-mss-to-pmtu", "cannot stand with"),
        Case::Refused(Family::V4, "-p tcp -j TCPMSS --set-mss 5", "SYN"),
        Case::Refused(Family::V4, "-p tcp ! --syn -j TCPMSS --set-mss 5", "SYN"),
        Case::Refused(Family::V4, "-p tcp --tcp-flags SYN NONE -j TCPMSS --set-mss 5", "SYN"),
        Case::Refused(Family::V4, "-p udp -j TCPMSS --set-mss 5", "protocol tcp"),
        Case::Refused(Family::V4, "-j TCPMSS --set-mss 5", "protocol tcp"),
    ],
};

/// What a segment size leaves room for: 65535 less the IP header.
fn most(family: Family) -> u16 {
    u16::MAX - if family == Family::V4 { 20 } else { 40 }
}

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[SET, CLAMP])?;
    match (given.value(SET), given.get(CLAMP)) {
        (Some(word), _) => number(word, "a segment size", 0..=most(given.family) as u64).map(|mss| Target::Mss(Mss::Set(mss as u16))),
        (None, Some(clamp)) if given.hooks & BEFORE_ROUTE != 0 => Err(clamp.word.complain(
            "the path MTU is not known in PREROUTING and INPUT",
            "a chain reached from FORWARD, OUTPUT or POSTROUTING only, or --set-mss",
        )),
        (None, Some(_)) => Ok(Target::Mss(Mss::Clamp)),
        (None, None) => Err(mark::needs(given, EXTENSION.options)),
    }
}

impl Action for Mss {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Mss(*self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let _ = match self {
            Mss::Set(mss) => write!(out, " --set-mss {mss}"),
            Mss::Clamp => write!(out, " --clamp-mss-to-pmtu"),
        };
    }

    fn misses(&self, conds: &[Cond]) -> Option<&'static str> {
        let syn = |cond: &Cond| !cond.negate && matches!(cond.test, Match::Tcp(Tcp::Flags { set, .. }) if set & SYN != 0);
        (!conds.iter().any(syn)).then_some("TCPMSS is for SYNs: the rule needs -p tcp --syn, or --tcp-flags with SYN set")
    }

    fn refused_hooks(&self) -> u8 {
        match self {
            Mss::Set(_) => 0,
            Mss::Clamp => BEFORE_ROUTE,
        }
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        match self {
            Mss::Set(mss) if *mss > most(family) => Err(format!("a segment size of {mss}")),
            _ => Ok(()),
        }
    }
}
