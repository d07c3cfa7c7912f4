//! `-m tcpmss`: the maximum segment size that a TCP header announces (`xt_tcpmss.c`).
//!
//! It looks at the first MSS option of four bytes, in any segment. No such option is a number outside of every range, so that
//! `! --mss` holds. A header cut short, a data offset below 5 or beyond the packet drop the packet. The kernel does not ask
//! whether the packet is a later fragment: it reads what stands where a header would (for IPv6, where the IPv6 header is).
//!
//! TOML: `{ protocol = "tcp", syn = true, mss = "1:535", jump = "DROP" }`

use super::span::Span;
use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};

/// `--mss MIN[:MAX]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tcpmss(pub Span);

/// Bytes of the fixed TCP header.
const FIXED: usize = 20;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "tcpmss",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::TCP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("mss", &[]).about("MSS[:MSS]", "maximum segment size in its option")],
    build,
    summary: "the maximum segment size that a TCP header announces",
    example: r#"{ protocol = "tcp", syn = true, mss = "1:535", jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -m tcpmss --mss 1460", "="),
        Case::Prints(Family::V4, "-p tcp -m tcpmss ! --mss 0x5b4", "-p tcp -m tcpmss ! --mss 1460"),
        Case::Prints(Family::V6, "-p tcp -m tcpmss ! --mss 1:1220", "="),
        Case::Prints(Family::V4, "-p tcp -m tcpmss --mss :200", "-p tcp -m tcpmss --mss 0:200"),
        Case::Prints(Family::V4, "-p tcp -m tcpmss --mss 200:", "-p tcp -m tcpmss --mss 200:65535"),
        Case::Prints(Family::V4, "-p tcp -m tcpmss --mss :", "-p tcp -m tcpmss --mss 0:65535"),
        Case::Prints(Family::V4, "-p tcp -m tcpmss --mss 5:5", "-p tcp -m tcpmss --mss 5"),
        Case::Prints(
            Family::V4,
            "-p tcp --syn -m tcpmss --mss 1:535",
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m tcpmss --mss 1:535",
        ),
        Case::Prints(Family::V4, "-p tcp -m tcpmss --mss 5 -m tcpmss ! --mss 6", "="),
        Case::Refused(Family::V4, "-p tcp -m tcpmss --mss 65536", "`65536` is not an MSS"),
        Case::Refused(Family::V4, "-p tcp -m tcpmss --mss 200:100", "runs backwards"),
        Case::Refused(Family::V4, "-p tcp -m tcpmss --mss 1:2:3", "`2:3` is not an MSS"),
        Case::Refused(Family::V4, "-p tcp -m tcpmss", "--mss"),
        Case::Refused(Family::V4, "-m tcpmss --mss 5", "for protocol tcp only"),
        Case::Refused(Family::V6, "! -p tcp -m tcpmss --mss 5", "for protocol tcp only"),
        Case::Refused(Family::V4, "-p udp -m tcpmss --mss 5", "for protocol tcp only"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("tcpmss asks for --mss")) };
    let span = Span::parse(&option.values[0], "an MSS", u16::MAX.into())?;
    Ok(vec![Cond::new(option.negate, Match::Tcpmss(Tcpmss(span)))])
}

/// What the first MSS option says; none where there is none, an error where the header is not whole.
fn announced(header: &[u8]) -> Result<Option<u32>, Outcome> {
    let length = usize::from(header.get(12).ok_or(Outcome::Hotdrop)? >> 4) * 4;
    let options = header.get(FIXED..length).ok_or(Outcome::Hotdrop)?;
    let mut i = 0;
    while let [kind, rest @ ..] = options.get(i..).unwrap_or_default() {
        if let (2, &[4, high, low, ..]) = (kind, rest) {
            return Ok(Some(u16::from_be_bytes([high, low]).into()));
        }
        // As for `--tcp-option`: the end of the list does not end it, and a length of 0 counts as 1.
        i += match kind {
            0 | 1 => 1,
            _ => rest.first().map_or(1, |&length| length.max(1).into()),
        };
    }
    Ok(None)
}

impl Condition for Tcpmss {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let headless = facts.family == Family::V6 && facts.is_later_fragment();
        let start = if headless { 0 } else { facts.l4_off.into() };
        match announced(cx.l3.get(start..).unwrap_or_default()) {
            Ok(mss) => yes(mss.is_some_and(|mss| self.0.has(mss))),
            Err(outcome) => outcome,
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print("mss", negate, out);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.0.last > u16::MAX.into() { Err("an MSS of more than 16 bits".to_string()) } else { self.0.verify() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Judge, l4};
    use super::*;
    use Outcome::{Hotdrop, No, Yes};

    #[test]
    fn the_first_mss_option_is_compared() {
        // data offset in words, option bytes present
        for (words, options, text, expected) in [
            (6, &[2, 4, 5, 0xb4][..], "--mss 1460", Yes),
            (6, &[2, 4, 5, 0xb4], "--mss 1461:", No),
            (6, &[2, 4, 5, 0xb4], "! --mss 1:100", Yes),
            (7, &[1, 1, 1, 1, 2, 4, 0, 9], "--mss 9", Yes),
            (7, &[0, 1, 1, 1, 2, 4, 0, 9], "--mss 9", Yes), // behind the end of the list
            (7, &[2, 3, 5, 2, 4, 0, 9, 0], "--mss 9", Yes), // three bytes are no MSS
            (7, &[2, 4, 0, 8, 2, 4, 0, 9], "--mss 9", No),
            (6, &[3, 0, 2, 4], "--mss 0:", No),             // cut off by the end of the header
            (6, &[1, 1, 2, 4, 0, 9], "! --mss 9", Yes),
            (5, &[2, 4, 0, 9], "--mss 9", No),              // payload
            (5, &[], "! --mss 9", Yes),
            (4, &[], "! --mss 9", Hotdrop),
            (6, &[2, 4, 0], "--mss 9", Hotdrop),
        ] {
            for family in Family::ALL {
                let facts = l4(family, proto::TCP, 1, 2);
                let mut l3 = vec![0; usize::from(facts.l4_off) + 20];
                l3[usize::from(facts.l4_off) + 12] = words << 4;
                l3.extend_from_slice(options);
                let judge = Judge::new(family, &format!("-p tcp -m tcpmss {text}"));
                assert_eq!(judge.ask(&facts, &l3), expected, "{text} {words} {options:?}");
            }
        }
    }

    #[test]
    fn a_packet_without_a_header_is_dropped() {
        for l4_off in [20, 40, u16::MAX] {
            let facts = Facts { l4_off, ..l4(Family::V4, proto::TCP, 1, 2) };
            assert_eq!(Judge::new(Family::V4, "-p tcp -m tcpmss ! --mss 9").ask(&facts, &[0; 32]), Hotdrop);
        }
        assert!(Tcpmss(Span { first: 0, last: 65536 }).verify(Family::V4).is_err());
    }

    #[test]
    fn a_later_fragment_is_read_where_the_kernel_reads_it() {
        let mut l3 = vec![0; 72];
        (l3[12], l3[20], l3[21], l3[23]) = (0x60, 2, 4, 9);
        let facts = Facts { frag_off: 8, l4_off: 48, proto: proto::TCP, ..Facts::blank(Family::V6) };
        assert_eq!(Judge::new(Family::V6, "-p tcp -m tcpmss --mss 9").ask(&facts, &l3), Yes);
    }
}
