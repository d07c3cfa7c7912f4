//! `-m ah`: the SPI of IPv4's authentication header (`ipt_ah.c`).
//!
//! A later fragment never matches, negated or not; a header cut short drops the packet. Both hold for the bare `-m ah` too.
//! (For IPv6, where it is an extension header, see [`super::ah6`].)
//!
//! TOML: `{ family = "ipv4", protocol = "ah", ahspi = "500:", jump = "ACCEPT" }`

use super::span::Numbered;
use super::{Condition, Match, headers};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};

/// One condition on an authentication header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ah(pub Numbered);

/// `--ahspi`, as both families have it.
pub(super) const AHSPI: Opt = Opt::negatable("ahspi", &[]).about("SPI[:SPI]", "security parameters index");
/// Bytes of the fixed header and the first word of authentication data (`struct ip_auth_hdr`).
pub(super) const FIXED: usize = 12;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "ah",
    aliases: &[],
    families: Families::Only(Family::V4),
    protocol: Some(proto::AH),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[AHSPI],
    build,
    summary: "the SPI of an authentication header (IPsec)",
    example: r#"{ family = "ipv4", protocol = "ah", ahspi = "500:", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p ah -m ah", "="),
        Case::Prints(Family::V4, "-p ah -m ah --ahspi 5", "="),
        Case::Prints(Family::V4, "-p 51 --ahspi 5", "-p ah -m ah --ahspi 5"),
        Case::Prints(Family::V4, "-p ah -m ah ! --ahspi 5:5", "-p ah -m ah ! --ahspi 5"),
        Case::Prints(Family::V4, "-p ah -m ah --ahspi 5:", "-p ah -m ah --ahspi 5:4294967295"),
        Case::Prints(Family::V4, "-p ah -m ah ! --ahspi :0x10", "-p ah -m ah ! --ahspi 0:16"),
        Case::Prints(Family::V4, "-p ah -m ah --ahspi 010", "-p ah -m ah --ahspi 8"),
        Case::Prints(Family::V4, "-p ah -m ah --ahspi :", "-p ah -m ah"),
        Case::Refused(Family::V4, "-p ah -m ah --ahspi 4294967296", "`4294967296` is not an SPI"),
        Case::Refused(Family::V4, "-p ah -m ah --ahspi 1:2:3", "`2:3` is not an SPI"),
        Case::Refused(Family::V4, "-p ah -m ah --ahspi 7:5", "runs backwards"),
        Case::Refused(Family::V4, "-p ah -m ah --ahspi high", "`high` is not an SPI"),
        Case::Refused(Family::V4, "-p ah -m ah --ahspi 1 --ahspi 2", "twice"),
        Case::Refused(Family::V4, "-m ah --ahspi 5", "for protocol ah only"),
        Case::Refused(Family::V4, "! -p ah -m ah --ahspi 5", "for protocol ah only"),
        Case::Refused(Family::V4, "-p ah -m ah --ahlen 5", "there is no option `--ahlen`"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let (negate, asked) = Numbered::build(given, "an SPI")?;
    Ok(vec![Cond::new(negate, Match::Ah(Ah(asked)))])
}

impl Condition for Ah {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        match headers::upper(facts, cx.l3, FIXED) {
            Ok(header) => self.0.test(headers::word_at(header, 4)),
            Err(outcome) => outcome,
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print("ahspi", negate, out);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        self.0.verify()
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::super::span::Span;
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn the_spi_is_compared() {
        for (text, spi, expected) in [
            ("", 1u32, Yes),
            ("--ahspi 5", 5, Yes),
            ("--ahspi 5", 6, No),
            ("! --ahspi 5", 6, Yes),
            ("--ahspi 5:7", 7, Yes),
            ("--ahspi 5:7", 8, No),
            ("--ahspi 0xfffffff0:", u32::MAX, Yes),
            ("! --ahspi :", 5, No),
        ] {
            let mut l3 = vec![0; 20];
            l3.extend([6, 1, 0, 0]);
            l3.extend(spi.to_be_bytes());
            l3.extend([0; 4]);
            let facts = Facts { proto: proto::AH, ..Facts::blank(Family::V4) };
            assert_eq!(Judge::new(Family::V4, &format!("-p ah -m ah {text}")).ask(&facts, &l3), expected, "{text} {spi}");
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for text in ["", "--ahspi 5", "! --ahspi 5"] {
            let judge = Judge::new(Family::V4, &format!("-p ah -m ah {text}"));
            let facts = Facts { proto: proto::AH, ..Facts::blank(Family::V4) };
            assert_eq!(judge.ask(&facts, &[0; 31]), Hotdrop, "{text}");
            assert_eq!(judge.ask(&Facts { l4_off: u16::MAX, ..facts }, &[0; 32]), Hotdrop, "{text}");
            assert_eq!(judge.ask(&Facts { frag_off: 8, ..facts }, &[0; 32]), Never, "{text}");
        }
        assert!(Ah(Numbered::Is(Span { first: 2, last: 1 })).verify(Family::V4).is_err());
    }
}
