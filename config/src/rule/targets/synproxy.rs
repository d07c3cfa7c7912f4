//! `-j SYNPROXY`: the router answers SYNs in the place of a server, with a cookie, and goes to the server only for clients
//! that have sent the cookie back. So a flood of SYNs costs neither the server nor the flow table anything.
//!
//! It wants to see SYNs untracked, and the ACKs that answer its cookies INVALID:
//!
//! ```text
//! net.netfilter.nf_conntrack_tcp_loose = 0
//! raw     -A PREROUTING -p tcp --syn --dport 80 -j CT --notrack
//! filter  -A FORWARD -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460 --wscale 7 ...
//! filter  -A FORWARD -m conntrack --ctstate INVALID -j DROP
//! ```
//!
//! Options are what the server would offer: those that the client has not offered are left out, and scaling, SACK and ECN need
//! timestamps, in which they wait for the client's answer. A segment that is neither a SYN nor a plain ACK goes on to the next
//! rule. INPUT and FORWARD of every table that has them; a chain reached from OUTPUT as well is refused. iptables takes any
//! number for MSS and scale and keeps its lower bits; here what does not fit is refused.
//!
//! TOML: `{ protocol = "tcp", dport = 80, ctstate = ["INVALID", "UNTRACKED"], target = "SYNPROXY", mss = 1460, wscale = 7, sack-perm = true, timestamp = true }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Effect, Families, Hook};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What the server would offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Synproxy {
    /// `--sack-perm`
    pub sack: bool,
    /// `--timestamp`
    pub timestamp: bool,
    /// `--wscale`
    pub scale: Option<u8>,
    /// `--mss`
    pub mss: Option<u16>,
    /// `--ecn`
    pub ecn: bool,
}

const SACK: usize = 0;
const TIMESTAMP: usize = 1;
const SCALE: usize = 2;
const MSS: usize = 3;
const ECN: usize = 4;

/// SYNPROXY
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "SYNPROXY",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::TCP),
    tables: &[],
    hooks: Hook::Input.bit() | Hook::Forward.bit(),
    options: &[
        Opt::flag("sack-perm", &[]).about("", "the server takes selective acknowledgements"),
        Opt::flag("timestamp", &[]).about("", "the server takes timestamps; the other options but the MSS need them"),
        Opt::plain("wscale", &[]).about("SHIFT", "by what the server shifts its window"),
        Opt::plain("mss", &[]).about("BYTES", "the longest segment that the server takes"),
        Opt::flag("ecn", &[]).about("", "the server takes congestion notification"),
    ],
    build,
    summary: "Answers SYNs in the place of a server with a cookie, and opens the connection for clients that send it back.",
    example: r#"{ protocol = "tcp", dport = 80, ctstate = ["INVALID", "UNTRACKED"], target = "SYNPROXY", mss = 1460, wscale = 7, sack-perm = true, timestamp = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY", "="),
        Case::Prints(Family::V6, "-p tcp -j SYNPROXY", "="),
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY --sack-perm", "="),
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY --timestamp", "="),
        Case::Prints(Family::V4, "-p 6 -j SYNPROXY --ecn", "-p tcp -j SYNPROXY --ecn"),
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY --wscale 0 --mss 0", "="),
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY --wscale 14 --mss 65535", "="),
        Case::Prints(Family::V6, "-p tcp -j SYNPROXY --wscale 15", "="),
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY --wscale 255", "="),
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY --mss 0x5b4", "-p tcp -j SYNPROXY --mss 1460"),
        Case::Prints(Family::V4, "-p tcp -j SYNPROXY --mss 010 --wscale=0x7", "-p tcp -j SYNPROXY --wscale 7 --mss 8"),
        Case::Prints(
            Family::V4,
            "-p tcp -j SYNPROXY --ecn --mss 1460 --wscale 7 --timestamp --sack-perm",
            "-p tcp -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460 --ecn",
        ),
        Case::Prints(
            Family::V6,
            "-p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 9 --mss 1440",
            "-p tcp -m tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 9 --mss 1440",
        ),
        Case::Prints(Family::V4, "-p tcp --syn -j SYNPROXY --wscale 7", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j SYNPROXY --wscale 7"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --mss", "wants a value"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --mss -1", "`-1` is not a segment size"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --mss 1460x", "`1460x` is not a segment size"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --mss 65536", "`65536` is not a segment size"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --wscale 256", "`256` is not a shift"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --mss 1 --mss 2", "given twice"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY ! --mss 5", "cannot be negated"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --wscale seven", "`seven` is not a shift"),
        Case::Refused(Family::V6, "-p tcp -j SYNPROXY --wscale", "wants a value"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY --ecn --ecn", "given twice"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY ! --timestamp", "cannot be negated"),
        Case::Refused(Family::V4, "-p tcp -j SYNPROXY ! --sack-perm", "cannot be negated"),
        Case::Refused(Family::V4, "-p udp -j SYNPROXY", "protocol tcp"),
        Case::Refused(Family::V4, "! -p tcp -j SYNPROXY", "protocol tcp"),
        Case::Refused(Family::V6, "-j SYNPROXY --mss 1440", "protocol tcp"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let value = |option, what, most: u64| given.value(option).map(|word| number(word, what, 0..=most)).transpose();
    Ok(Target::Synproxy(Synproxy {
        sack: given.get(SACK).is_some(),
        timestamp: given.get(TIMESTAMP).is_some(),
        scale: value(SCALE, "a shift", u8::MAX.into())?.map(|scale| scale as u8),
        mss: value(MSS, "a segment size", u16::MAX.into())?.map(|mss| mss as u16),
        ecn: given.get(ECN).is_some(),
    }))
}

impl Action for Synproxy {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Synproxy(self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let flag = |is: bool, text: &'static str| if is { text } else { "" };
        let _ = write!(out, "{}{}", flag(self.sack, " --sack-perm"), flag(self.timestamp, " --timestamp"));
        let _ = self.scale.map(|scale| write!(out, " --wscale {scale}"));
        let _ = self.mss.map(|mss| write!(out, " --mss {mss}"));
        out.push_str(flag(self.ecn, " --ecn"));
    }
}
