//! `-m esp`: the SPI of an encapsulating security payload (`xt_esp.c`).
//!
//! A later fragment never matches, negated or not; a header cut short drops the packet. Both hold for the bare `-m esp` too.
//!
//! TOML: `{ protocol = "esp", espspi = "500:", jump = "ACCEPT" }`

use super::span::Numbered;
use super::{Condition, Match, headers};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};

/// One condition on the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Esp(pub Numbered);

/// Bytes of the header (`struct ip_esp_hdr`).
const FIXED: usize = 8;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "esp",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::ESP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("espspi", &[]).about("SPI[:SPI]", "security parameters index")],
    build,
    summary: "the SPI of an encapsulating security payload (IPsec)",
    example: r#"{ protocol = "esp", espspi = "500:", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p esp -m esp", "="),
        Case::Prints(Family::V4, "-p esp -m esp --espspi 5", "="),
        Case::Prints(Family::V4, "-p 50 --espspi 5", "-p esp -m esp --espspi 5"),
        Case::Prints(Family::V4, "-p esp -m esp ! --espspi 5:6", "="),
        Case::Prints(Family::V4, "-p esp -m esp --espspi 6:", "-p esp -m esp --espspi 6:4294967295"),
        Case::Prints(Family::V4, "-p esp -m esp --espspi :6", "-p esp -m esp --espspi 0:6"),
        Case::Prints(Family::V4, "-p esp -m esp --espspi :", "-p esp -m esp"),
        Case::Prints(Family::V6, "-p esp -m esp --espspi 0x100:0x200", "-p esp -m esp --espspi 256:512"),
        Case::Prints(Family::V6, "-p esp -m esp ! --espspi 4294967295", "="),
        Case::Refused(Family::V4, "-p esp -m esp --espspi 6:5", "runs backwards"),
        Case::Refused(Family::V4, "-p esp -m esp --espspi -5", "`-5` is not an SPI"),
        Case::Refused(Family::V6, "-p esp -m esp --espspi 4294967296", "`4294967296` is not an SPI"),
        Case::Refused(Family::V6, "-p esp -m esp --espspi 1,2", "`1,2` is not an SPI"),
        Case::Refused(Family::V6, "-m esp --espspi 5", "for protocol esp only"),
        Case::Refused(Family::V4, "-p udp -m esp", "for protocol esp only"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let (negate, asked) = Numbered::build(given, "an SPI")?;
    Ok(vec![Cond::new(negate, Match::Esp(Esp(asked)))])
}

impl Condition for Esp {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        match headers::upper(facts, cx.l3, FIXED) {
            Ok(header) => self.0.test(headers::word_at(header, 0)),
            Err(outcome) => outcome,
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print("espspi", negate, out);
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
            ("--espspi 5", 5, Yes),
            ("--espspi 5", 6, No),
            ("! --espspi 5:7", 6, No),
            ("! --espspi 5:7", 8, Yes),
            ("! --espspi :", 8, No),
        ] {
            for family in Family::ALL {
                let facts = Facts { proto: proto::ESP, ..Facts::blank(family) };
                let mut l3 = vec![0; facts.l4_off.into()];
                l3.extend(spi.to_be_bytes());
                l3.extend([0; 4]);
                assert_eq!(Judge::new(family, &format!("-p esp -m esp {text}")).ask(&facts, &l3), expected, "{text} {spi}");
            }
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for text in ["", "--espspi 5", "! --espspi 5"] {
            for family in Family::ALL {
                let judge = Judge::new(family, &format!("-p esp -m esp {text}"));
                let facts = Facts { proto: proto::ESP, ..Facts::blank(family) };
                let l3 = vec![0; usize::from(facts.l4_off) + 7];
                assert_eq!(judge.ask(&facts, &l3), Hotdrop, "{text}");
                assert_eq!(judge.ask(&Facts { frag_off: 8, ..facts }, &l3), Never, "{text}");
            }
        }
        assert!(Esp(Numbered::Is(Span { first: 2, last: 1 })).verify(Family::V4).is_err());
    }
}
