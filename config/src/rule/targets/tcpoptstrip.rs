//! `-j TCPOPTSTRIP --strip-options LIST`, in table `mangle` for `-p tcp`: TCP options become no-ops of the same length.
//!
//! Options are named, or numbered from 2 to 255 (`tcpoptstrip_mangle_packet`). Later fragments pass untouched; a packet whose
//! TCP header is not all there is dropped. Without the option a rule strips nothing, and iptables takes it all the same.
//! TOML: `{ protocol = "tcp", in = "wan0", target = "TCPOPTSTRIP", strip-options = "timestamp,sack" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::word::{integer, nearest, split};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Kinds of options, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Strip([u64; 4]);

const NAMES: &[(&str, u8)] =
    &[("wscale", 3), ("mss", 2), ("sack-permitted", 4), ("sack", 5), ("timestamp", 8), ("md5", 19)];

/// End of options and no-op, which are no options.
const NO_OPTIONS: u64 = 0b11;

impl Strip {
    /// Of these kinds: numbers with commas between them; what cannot be stripped is left out.
    pub fn of(list: &str) -> Strip {
        let mut strip = Strip::default();
        list.split(',').filter_map(|kind| kind.parse().ok()).filter(|kind| *kind >= 2).for_each(|kind| strip.add(kind));
        strip
    }

    /// Whether options of this kind are stripped.
    #[inline]
    pub fn has(&self, kind: u8) -> bool {
        self.0[usize::from(kind >> 6)] >> (kind & 63) & 1 != 0
    }

    fn add(&mut self, kind: u8) {
        self.0[usize::from(kind >> 6)] |= 1 << (kind & 63);
    }
}

/// TCPOPTSTRIP
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "TCPOPTSTRIP",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::TCP),
    tables: &[Table::Mangle],
    hooks: ANY_HOOK,
    options: &[Opt::plain("strip-options", &[])
        .about("OPTION[,OPTION...]", "strips these: numbers from 2 to 255, or wscale, mss, sack-permitted, sack, timestamp, md5")],
    build,
    summary: "Turns TCP options into no-ops.",
    example: r#"{ protocol = "tcp", in = "wan0", target = "TCPOPTSTRIP", strip-options = "timestamp,sack" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -j TCPOPTSTRIP", "="),
        Case::Prints(Family::V4, "-p tcp -j TCPOPTSTRIP --strip-options mss", "-p tcp -j TCPOPTSTRIP --strip-options 2"),
        Case::Prints(
            Family::V4,
            "-p tcp -j TCPOPTSTRIP --strip-options wscale,mss,sack-permitted,sack,timestamp,md5",
            "-p tcp -j TCPOPTSTRIP --strip-options 2,3,4,5,8,19",
        ),
        Case::Prints(
            Family::V6,
            "-p tcp -j TCPOPTSTRIP --strip-options 255,2,254,0x10,03,64,63,128",
            "-p tcp -j TCPOPTSTRIP --strip-options 2,3,16,63,64,128,254,255",
        ),
        Case::Prints(Family::V6, "-p tcp -j TCPOPTSTRIP --strip-options 253,mss", "-p tcp -j TCPOPTSTRIP --strip-options 2,253"),
        Case::Refused(Family::V4, "-p tcp -j TCPOPTSTRIP --strip-options 0", "`0` is not a TCP option"),
        Case::Refused(Family::V4, "-p tcp -j TCPOPTSTRIP --strip-options 1", "`1` is not a TCP option"),
        Case::Refused(Family::V4, "-p tcp -j TCPOPTSTRIP --strip-options 256", "`256` is not a TCP option"),
        Case::Refused(Family::V4, "-p tcp -j TCPOPTSTRIP --strip-options MSS", "`MSS` is not a TCP option"),
        Case::Refused(Family::V4, "-p tcp -j TCPOPTSTRIP --strip-options mss,", "`` is not a TCP option"),
        Case::Refused(Family::V4, "-p tcp -j TCPOPTSTRIP --strip-options mss,mss", "`mss` is named twice"),
        Case::Refused(Family::V4, "-p tcp -j TCPOPTSTRIP ! --strip-options mss", "cannot be negated"),
        Case::Refused(Family::V4, "-j TCPOPTSTRIP --strip-options mss", "protocol tcp only"),
        Case::Refused(Family::V4, "-p udp -j TCPOPTSTRIP --strip-options mss", "protocol tcp only"),
        Case::Refused(Family::V6, "! -p tcp -j TCPOPTSTRIP --strip-options mss", "protocol tcp only"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let mut strip = Strip::default();
    for word in given.value(0).map(|list| split(list, ',')).unwrap_or_default() {
        let kind = read(&word)?;
        if strip.has(kind) {
            return Err(word.complain(format!("`{}` is named twice", word.text), "each option once"));
        }
        strip.add(kind);
    }
    Ok(Target::Strip(strip))
}

fn read(word: &Word) -> Result<u8, Complaint> {
    let named = NAMES.iter().find(|(name, _)| *name == word.text).map(|(_, kind)| *kind);
    let numbered = || integer(&word.text).and_then(|number| u8::try_from(number).ok()).filter(|kind| *kind >= 2);
    named.or_else(numbered).ok_or_else(|| {
        let names = NAMES.iter().map(|(name, _)| *name);
        let accepts = match nearest(&word.text, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("a number from 2 to 255, {}", names.collect::<Vec<_>>().join(", ")),
        };
        word.complain(format!("`{}` is not a TCP option that can be stripped", word.text), accepts)
    })
}

impl Action for Strip {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Strip(self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let mut before = " --strip-options ";
        for kind in (0..=255).filter(|kind| self.has(*kind)) {
            let _ = write!(out, "{before}{kind}");
            before = ",";
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self.0[0] & NO_OPTIONS {
            0 => Ok(()),
            _ => Err("TCPOPTSTRIP of what is no option".to_string()),
        }
    }
}
