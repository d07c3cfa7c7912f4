//! `-j ECN`, in table `mangle` of IPv4: the bits of explicit congestion notification, of TCP and of the IP header (`ecn_tg`).
//!
//! `--ecn-tcp-remove` clears ECE and CWR, for paths on which somebody drops SYNs that offer ECN. The other options, which
//! iptables keeps to itself, set each bit or the field. What changes TCP needs `-p tcp`; a packet too short for a TCP header is
//! dropped. As in the kernel a later fragment is taken for a header too: let conntrack put packets together before.
//! TOML: `{ protocol = "tcp", destination = "192.0.2.1", target = "ECN", ecn-tcp-remove = true }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Cond, Effect, Families, Match, Table};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What becomes of the bits; what is none stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ecn {
    /// ECN-Echo of TCP.
    pub ece: Option<bool>,
    /// Congestion window reduced, of TCP.
    pub cwr: Option<bool>,
    /// The two lower bits of TOS.
    pub ect: Option<u8>,
}

const REMOVE: usize = 0;
const ECE: usize = 1;
const CWR: usize = 2;
const ECT: usize = 3;

/// ECN
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "ECN",
    aliases: &[],
    families: Families::Only(Family::V4),
    protocol: None,
    tables: &[Table::Mangle],
    hooks: ANY_HOOK,
    options: &[
        Opt::flag("ecn-tcp-remove", &[]).about("", "clears ECE and CWR of TCP"),
        Opt::plain("ecn-tcp-ece", &[]).about("0|1", "clears or sets ECE of TCP"),
        Opt::plain("ecn-tcp-cwr", &[]).about("0|1", "clears or sets CWR of TCP"),
        Opt::plain("ecn-ip-ect", &[]).about("0..3", "sets the ECN field of the IP header"),
    ],
    build,
    summary: "Changes the bits of explicit congestion notification.",
    example: r#"{ protocol = "tcp", destination = "192.0.2.1", target = "ECN", ecn-tcp-remove = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -j ECN --ecn-tcp-remove", "="),
        Case::Prints(Family::V4, "-p tcp -j ECN --ecn-tcp-cwr 1", "="),
        Case::Prints(Family::V4, "-p tcp -j ECN --ecn-tcp-ece 0x1", "-p tcp -j ECN --ecn-tcp-ece 1"),
        Case::Prints(Family::V4, "-p tcp -j ECN --ecn-tcp-cwr 0 --ecn-tcp-ece 0", "-p tcp -j ECN --ecn-tcp-remove"),
        Case::Prints(
            Family::V4,
            "-p tcp -j ECN --ecn-ip-ect 2 --ecn-tcp-cwr 0 --ecn-tcp-ece 1",
            "-p tcp -j ECN --ecn-tcp-ece 1 --ecn-tcp-cwr 0 --ecn-ip-ect 2",
        ),
        Case::Prints(Family::V4, "-j ECN --ecn-ip-ect 3", "="),
        Case::Prints(
            Family::V4,
            "-p tcp -j ECN --ecn-tcp-remove --ecn-ip-ect 1",
            "-p tcp -j ECN --ecn-tcp-ece 0 --ecn-tcp-cwr 0 --ecn-ip-ect 1",
        ),
        Case::Prints(Family::V4, "-p tcp -j ECN --ecn-ip-ect 1 --ecn-tcp-remove", "-p tcp -j ECN --ecn-tcp-remove"),
        Case::Refused(Family::V4, "-j ECN", "needs one of"),
        Case::Refused(Family::V4, "-j ECN --ecn-tcp-remove", "-p tcp"),
        Case::Refused(Family::V4, "! -p tcp -j ECN --ecn-tcp-remove", "-p tcp"),
        Case::Refused(Family::V4, "-p udp -j ECN --ecn-tcp-ece 1", "-p tcp"),
        Case::Refused(Family::V4, "-p tcp -j ECN --ecn-tcp-ece 2", "`2` is not a bit"),
        Case::Refused(Family::V4, "-p tcp -j ECN --ecn-tcp-cwr on", "`on` is not a bit"),
        Case::Refused(Family::V4, "-j ECN --ecn-ip-ect 4", "`4` is not an ECN field"),
        Case::Refused(Family::V4, "-p tcp -j ECN --ecn-tcp-remove --ecn-tcp-cwr 1", "cannot stand with"),
        Case::Refused(Family::V4, "-p tcp -j ECN --ecn-tcp-ece 1 --ecn-tcp-remove", "cannot stand with"),
        Case::Refused(Family::V6, "-p tcp -j ECN --ecn-tcp-remove", "no target `ECN` for ipv6"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[REMOVE, ECE])?;
    mark::exclusive(given, &[REMOVE, CWR])?;
    let mut ecn = Ecn::default();
    for option in given.options {
        let value = |what, most| option.values.first().map(|word| number(word, what, 0..=most)).transpose();
        match option.option {
            // What was asked of the IP header before is forgotten.
            REMOVE => ecn = Ecn { ece: Some(false), cwr: Some(false), ect: None },
            ECE => ecn.ece = value("a bit", 1)?.map(|bit| bit != 0),
            CWR => ecn.cwr = value("a bit", 1)?.map(|bit| bit != 0),
            _ => ecn.ect = value("an ECN field", 3)?.map(|field| field as u8),
        }
    }
    match ecn == Ecn::default() {
        true => Err(mark::needs(given, EXTENSION.options)),
        false => Ok(Target::Ecn(ecn)),
    }
}

impl Action for Ecn {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Ecn(*self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        if *self == (Ecn { ece: Some(false), cwr: Some(false), ect: None }) {
            return out.push_str(" --ecn-tcp-remove");
        }
        let values = [(ECE, self.ece.map(u8::from)), (CWR, self.cwr.map(u8::from)), (ECT, self.ect)];
        for (option, value) in values {
            if let Some(value) = value {
                let _ = write!(out, " --{} {value}", EXTENSION.options[option].name);
            }
        }
    }

    fn misses(&self, conds: &[Cond]) -> Option<&'static str> {
        let tcp = |cond: &Cond| !cond.negate && matches!(cond.test, Match::Protocol(protocol) if protocol.0 == proto::TCP);
        let needs = self.ece.is_some() || self.cwr.is_some();
        (needs && !conds.iter().any(tcp)).then_some("ECN that changes TCP needs -p tcp in the rule")
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let is_sound = self.ect.is_none_or(|field| field <= 3) && *self != Ecn::default();
        if is_sound { Ok(()) } else { Err("ECN with bits that cannot be".to_string()) }
    }
}
