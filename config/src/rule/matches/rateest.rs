//! `-m rateest`: compares the rate that an estimator of `-j RATEEST` says with a rate, or with that of another
//! (`xt_rateest.c`).
//!
//! With `--rateest-delta` what is compared is how much each rate is below the one given for it; rates above count zero.
//! Where bits and packets are both asked for, both must compare. A rate without a value is zero. As with the kernel, an estimator
//! has to be there: some rule, in whatever table and family, counts for it. Values that mean nothing (the first ones
//! without `--rateest-delta`, all of two estimators without it) are taken and not kept.
//!
//! TOML: `{ rateest = "wan", rateest-gt = true, rateest-bps = "80mbit", target = "MARK", set-mark = 1 }`.

use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::object::{self, Object};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::targets::rateest::{MAX_NAME, estimator, split_number};
use crate::rule::word::number;
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One `-m rateest`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rateest {
    /// How rates compare.
    pub compare: Compare,
    /// The rates are subtracted from those given.
    pub delta: bool,
    /// Bytes a second, for either side, where they are asked for.
    pub bytes: Option<[u32; 2]>,
    /// Packets a second, likewise.
    pub packets: Option<[u32; 2]>,
    /// The estimators.
    pub names: Box<Names>,
    /// Their numbers.
    pub objects: [u32; 2],
}

/// The estimators of a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Names {
    /// Whose rate is compared.
    pub first: String,
    /// With whose; none for a fixed one.
    pub second: Option<String>,
}

/// How rates compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Compare {
    /// `--rateest-lt`
    Less,
    /// `--rateest-gt`
    Greater,
    /// `--rateest-eq`
    Equal,
}

/// What an estimator says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rate {
    /// A second.
    pub bytes: u64,
    /// A second.
    pub packets: u64,
}

const MODES: [(&str, Compare); 3] =
    [("rateest-lt", Compare::Less), ("rateest-gt", Compare::Greater), ("rateest-eq", Compare::Equal)];
const FIRST: usize = 0;
const SECOND: usize = 1;
const DELTA: usize = 2;
const BPS: [usize; 2] = [3, 4];
const PPS: [usize; 2] = [5, 6];
const MODE: usize = 7;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "rateest",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("rateest1", &["rateest"]).about("NAME", "the estimator whose rate is compared"),
        Opt::plain("rateest2", &[]).about("NAME", "the estimator with whose rate it is compared"),
        Opt::flag("rateest-delta", &[]).about("", "compares how much the rates are below those given"),
        Opt::optional("rateest-bps1", &[]).about("[RATE]", "bits a second that the first rate is subtracted from"),
        Opt::optional("rateest-bps2", &["rateest-bps"]).about("[RATE]", "bits a second, such as 80mbit; the second rate's"),
        Opt::optional("rateest-pps1", &[]).about("[NUMBER]", "packets a second that the first rate is subtracted from"),
        Opt::optional("rateest-pps2", &["rateest-pps"]).about("[NUMBER]", "packets a second; the second rate's"),
        Opt::negatable_flag("rateest-lt", &[]).about("", "the rate is less").repeated(),
        Opt::negatable_flag("rateest-gt", &[]).about("", "the rate is greater").repeated(),
        Opt::negatable_flag("rateest-eq", &[]).about("", "the rates are equal").repeated(),
    ],
    build,
    summary: "compares the rate that an estimator says",
    example: r#"{ rateest = "wan", rateest-gt = true, rateest-bps = "80mbit", target = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 1mbit", "-m rateest --rateest z --rateest-gt --rateest-bps 1000Kbit"),
        Case::Prints(Family::V6, "-m rateest --rateest z --rateest-lt --rateest-pps 100", "="),
        Case::Prints(Family::V4, "-m rateest --rateest1 z --rateest-eq --rateest-pps2 0x10", "-m rateest --rateest z --rateest-eq --rateest-pps 16"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-eq --rateest-pps1 100", "-m rateest --rateest z --rateest-eq --rateest-pps 0"),
        Case::Prints(Family::V4, "-m rateest ! --rateest-lt --rateest z --rateest-pps 4294967295", "-m rateest --rateest z ! --rateest-lt --rateest-pps 4294967295"),
        Case::Prints(Family::V4, "-m rateest --rateest z ! --rateest-eq --rateest-bps1 100kbps", "-m rateest --rateest z ! --rateest-eq --rateest-bps 0bit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps", "-m rateest --rateest z --rateest-gt --rateest-bps 0bit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 8", "-m rateest --rateest z --rateest-gt --rateest-bps 8bit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 12345", "-m rateest --rateest z --rateest-gt --rateest-bps 12344bit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 1kibit", "-m rateest --rateest z --rateest-gt --rateest-bps 1024bit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 1.5mbit", "-m rateest --rateest z --rateest-gt --rateest-bps 1500Kbit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 1mbps", "-m rateest --rateest z --rateest-gt --rateest-bps 8000Kbit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 1GBIT", "-m rateest --rateest z --rateest-gt --rateest-bps 1000Mbit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 100bps", "-m rateest --rateest z --rateest-gt --rateest-bps 800bit"),
        Case::Prints(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-lt --rateest-bps 5kbit", "-m rateest --rateest z --rateest-lt --rateest-bps 5000bit"),
        Case::Prints(
            Family::V4,
            "-m rateest --rateest z --rateest-gt --rateest-bps 5kbit --rateest-pps 7",
            "-m rateest --rateest z --rateest-gt --rateest-bps 5000bit --rateest-gt --rateest-pps 7",
        ),
        Case::Prints(
            Family::V4,
            "-m rateest --rateest1 z --rateest-gt --rateest2 y --rateest-bps",
            "-m rateest --rateest1 z --rateest-gt --rateest-bps --rateest2 y",
        ),
        Case::Prints(
            Family::V4,
            "-m rateest --rateest1 z --rateest-gt --rateest2 y --rateest-bps1 5kbit --rateest-bps2 6kbit",
            "-m rateest --rateest1 z --rateest-gt --rateest-bps --rateest2 y",
        ),
        Case::Prints(
            Family::V4,
            "-m rateest --rateest1 z --rateest-lt --rateest2 y --rateest-bps --rateest-pps",
            "-m rateest --rateest1 z --rateest-lt --rateest-bps --rateest-lt --rateest-pps --rateest2 y",
        ),
        Case::Prints(
            Family::V4,
            "-m rateest --rateest-delta --rateest1 z ! --rateest-gt --rateest2 y --rateest-bps1 100kbit --rateest-bps2 5kbit",
            "-m rateest --rateest-delta --rateest1 z --rateest-bps1 100000bit ! --rateest-gt --rateest-bps2 5000bit --rateest2 y",
        ),
        Case::Prints(
            Family::V4,
            "-m rateest --rateest-delta --rateest z --rateest-lt --rateest-bps 100kbit",
            "-m rateest --rateest-delta --rateest z --rateest-bps1 0bit --rateest-lt --rateest-bps2 100000bit",
        ),
        Case::Prints(
            Family::V6,
            "-m rateest --rateest-delta --rateest1 z --rateest-gt --rateest2 y --rateest-pps1 100 --rateest-pps2 50",
            "-m rateest --rateest-delta --rateest1 z --rateest-pps1 100 --rateest-gt --rateest-pps2 50 --rateest2 y",
        ),
        Case::Refused(Family::V4, "-m rateest --rateest-gt --rateest-pps 1", "rateest asks for --rateest"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-bps 1", "asks for --rateest-lt, --rateest-gt or --rateest-eq"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-gt", "asks for --rateest-bps or --rateest-pps"),
        Case::Refused(Family::V4, "-m rateest --rateest1 z --rateest2 y --rateest-delta --rateest-eq", "asks for --rateest-bps or --rateest-pps"),
        Case::Refused(Family::V4, "-m rateest --rateest1 z --rateest2 --rateest-lt --rateest-bps1 x", "asks for --rateest-lt"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-lt --rateest-bps x", "`x` is not a rate"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-lt --rateest-bps1 5kb", "`5kb` is not a rate"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-lt --rateest-bps2 kbit", "`kbit` is not a rate"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-bps 40gbit", "`40gbit` is not a rate"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-pps x", "`x` is not a number of packets"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-pps1 -1", "no option `-1`"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest-gt --rateest-pps2 4294967296", "`4294967296` is not a number of packets"),
        Case::Refused(Family::V4, "-m rateest ! --rateest z --rateest-gt --rateest-pps 1", "cannot be negated"),
        Case::Refused(Family::V4, "-m rateest --rateest z --rateest1 z --rateest-gt --rateest-pps 1", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let name = |option| given.value(option).map(|word| object::read_name(word, MAX_NAME)).transpose();
    let first = name(FIRST)?.ok_or_else(|| given.complain("rateest asks for --rateest"))?;
    let second = name(SECOND)?;
    let modes: Vec<_> = given.options.iter().filter(|o| o.option >= MODE).collect();
    let Some(mode) = modes.last() else {
        return Err(given.complain("rateest asks for --rateest-lt, --rateest-gt or --rateest-eq"));
    };
    let negate = modes.iter().any(|mode| mode.negate);
    let delta = given.get(DELTA).is_some();
    // What means something is kept: the second where there is one estimator, both where rates are subtracted.
    let kept = [delta, delta || second.is_none()];
    let rates = |options: [usize; 2], read: fn(&Word) -> Result<u32, Complaint>| {
        let mut rates = [0; 2];
        for (i, option) in options.into_iter().enumerate() {
            let rate = given.value(option).map(read).transpose()?.unwrap_or(0);
            rates[i] = if kept[i] { rate } else { 0 };
        }
        Ok(options.iter().any(|option| given.get(*option).is_some()).then_some(rates))
    };
    let (bytes, packets) = (rates(BPS, read_rate)?, rates(PPS, read_packets)?);
    if bytes.is_none() && packets.is_none() {
        return Err(given.complain("rateest asks for --rateest-bps or --rateest-pps"));
    }
    let compare = MODES[mode.option - MODE].1;
    let names = Box::new(Names { first, second });
    Ok(vec![Cond::new(negate, Match::Rateest(Rateest { compare, delta, bytes, packets, names, objects: [0; 2] }))])
}

fn read_packets(word: &Word) -> Result<u32, Complaint> {
    number(word, "a number of packets", 0..=u32::MAX.into()).map(|n| n as u32)
}

/// Bytes a second of a rate in bits.
fn read_rate(word: &Word) -> Result<u32, Complaint> {
    const PREFIXES: [(&str, f64); 9] = [
        ("", 1.0),
        ("ki", 1024.0),
        ("k", 1e3),
        ("mi", 1_048_576.0),
        ("m", 1e6),
        ("gi", 1_073_741_824.0),
        ("g", 1e9),
        ("ti", 1_099_511_627_776.0),
        ("t", 1e12),
    ];
    let parse = || {
        let (number, unit) = split_number(&word.text)?;
        let unit = unit.to_ascii_lowercase();
        let (prefix, bits) = match (unit.strip_suffix("bit"), unit.strip_suffix("bps")) {
            (Some(prefix), _) => (prefix, 1.0),
            (_, Some(prefix)) => (prefix, 8.0),
            _ => (unit.as_str(), 1.0),
        };
        let is_bare = unit == prefix;
        let (_, factor) = PREFIXES.iter().find(|(name, _)| *name == prefix && (!is_bare || prefix.is_empty()))?;
        let bytes = number * bits * factor / 8.0;
        (bytes < f64::from(u32::MAX) + 1.0).then_some(bytes as u32)
    };
    parse().ok_or_else(|| {
        word.complain(format!("`{}` is not a rate", word.text), "a number and bit, kbit, mbit, gbit or bps, kbps, ...: 80mbit")
    })
}

/// A rate as iptables prints it.
fn print_rate(out: &mut String, bytes: u32) {
    let bits = f64::from(bytes) * 8.0;
    let _ = match bits {
        1e9.. => write!(out, " {:.0}Mbit", bits / 1e6),
        1e6.. => write!(out, " {:.0}Kbit", bits / 1e3),
        _ => write!(out, " {bits:.0}bit"),
    };
}

impl Rateest {
    /// Writes what is asked of one kind of rate.
    fn print_rates(&self, negate: bool, out: &mut String, kind: &str, rates: [u32; 2], write: fn(&mut String, u32)) {
        let mode = MODES.iter().find(|(_, mode)| *mode == self.compare).map_or("", |(name, _)| name);
        if self.delta {
            let _ = write!(out, " --rateest-{kind}1");
            write(out, rates[0]);
        }
        let _ = write!(out, "{} --{mode} --rateest-{kind}", super::not(negate));
        if self.delta {
            out.push('2');
        }
        if self.delta || self.names.second.is_none() {
            write(out, rates[1]);
        }
    }

    fn compares(&self, one: u64, other: u64) -> bool {
        match self.compare {
            Compare::Less => one < other,
            Compare::Greater => one > other,
            Compare::Equal => one == other,
        }
    }
}

impl Condition for Rateest {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let rates = self.objects.map(|number| cx.around.rate(number, cx.now));
        let side = |i: usize, said: u64, given: [u32; 2]| match (i, self.delta) {
            // A fixed rate is what is given.
            (1, _) if self.names.second.is_none() => u64::from(given[1]),
            (_, true) => u64::from(given[i]).saturating_sub(said),
            (_, false) => said,
        };
        let holds = |asked: Option<[u32; 2]>, of: fn(&Rate) -> u64| {
            asked.is_none_or(|given| self.compares(side(0, of(&rates[0]), given), side(1, of(&rates[1]), given)))
        };
        yes(holds(self.bytes, |rate| rate.bytes) && holds(self.packets, |rate| rate.packets))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let Names { first, second } = &*self.names;
        if self.delta {
            out.push_str(" --rateest-delta");
        }
        let _ = write!(out, " --rateest{} {first}", if second.is_some() { "1" } else { "" });
        if let Some(rates) = self.bytes {
            self.print_rates(negate, out, "bps", rates, print_rate);
        }
        if let Some(rates) = self.packets {
            self.print_rates(negate, out, "pps", rates, |out, packets| {
                let _ = write!(out, " {packets}");
            });
        }
        if let Some(second) = second {
            let _ = write!(out, " --rateest2 {second}");
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let names = [Some(&self.names.first), self.names.second.as_ref()];
        let named = names.iter().flatten().all(|name| object::is_name(name, MAX_NAME));
        let kept = [self.delta, self.delta || self.names.second.is_none()];
        let rates = [self.bytes, self.packets];
        let stray = rates.iter().flatten().any(|rates| (0..2).any(|i| rates[i] != 0 && !kept[i]));
        if !named || stray || rates == [None; 2] {
            return Err("a comparison of rates that cannot be".to_string());
        }
        Ok(())
    }

    fn objects(&self) -> Vec<(Object, u32)> {
        let Names { first, second } = &*self.names;
        let names = [Some(first), second.as_ref()];
        names.into_iter().flatten().zip(self.objects).map(|(name, number)| (estimator(name, None), number)).collect()
    }

    fn set_objects(&mut self, numbers: &[u32]) {
        for (own, number) in self.objects.iter_mut().zip(numbers) {
            *own = *number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;

    /// What a rule says where the estimators say this: bytes and packets.
    fn holds(text: &str, first: (u64, u64), second: (u64, u64)) -> bool {
        let mut judge = Judge::new(Family::V4, text);
        judge.rates = [first, second].map(|(bytes, packets)| Rate { bytes, packets });
        judge.ask(&Facts::blank(Family::V4), &[]) == Outcome::Yes
    }

    #[test]
    fn a_rate_is_compared_with_a_fixed_one() {
        for (rate, is) in [(124, [true, false, false]), (125, [false, false, true]), (126, [false, true, false])] {
            for (mode, is) in ["lt", "gt", "eq"].into_iter().zip(is) {
                assert_eq!(holds(&format!("-m rateest --rateest a --rateest-{mode} --rateest-bps 1kbit"), (rate, 0), (0, 0)), is);
                assert_eq!(holds(&format!("-m rateest --rateest a ! --rateest-{mode} --rateest-bps 1kbit"), (rate, 0), (0, 0)), !is);
                assert_eq!(holds(&format!("-m rateest --rateest a --rateest-{mode} --rateest-pps 125"), (0, rate), (0, 0)), is);
            }
        }
    }

    #[test]
    fn bits_and_packets_must_both_compare() {
        let text = "-m rateest --rateest a --rateest-gt --rateest-bps 80 --rateest-pps 5";
        let rates = [(11, 6), (10, 6), (11, 5), (10, 5)];
        assert_eq!(rates.map(|rate| holds(text, rate, (0, 0))), [true, false, false, false]);
    }

    #[test]
    fn two_estimators_are_compared_with_each_other() {
        let text = "-m rateest --rateest1 a --rateest2 b --rateest-lt --rateest-pps";
        assert!(holds(text, (9, 4), (1, 5)));
        assert!(!holds(text, (0, 5), (1, 5)));
    }

    #[test]
    fn what_is_left_of_a_rate_is_compared_and_more_than_it_is_zero() {
        let text = "-m rateest --rateest-delta --rateest1 a --rateest-pps1 100 --rateest-gt --rateest-pps2 50 --rateest2 b";
        assert!(holds(text, (0, 60), (0, 20)), "40 and 30");
        assert!(!holds(text, (0, 80), (0, 20)), "20 and 30");
        assert!(!holds(text, (0, 200), (0, 90)), "0 and 0");
        let fixed = "-m rateest --rateest-delta --rateest a --rateest-pps1 100 --rateest-gt --rateest-pps2 50";
        assert!(holds(fixed, (0, 40), (0, 0)) && !holds(fixed, (0, 50), (0, 0)));
    }

    #[test]
    fn what_the_parser_does_not_make_does_not_verify() {
        let judge = |text: &str| Judge::new(Family::V4, text).conds.remove(0).test;
        let Match::Rateest(good) = judge("-m rateest --rateest a --rateest-gt --rateest-pps 5") else { unreachable!() };
        assert_eq!(good.verify(Family::V4), Ok(()));
        let named = |first: &str| Box::new(Names { first: first.to_string(), second: None });
        for bad in [
            Rateest { packets: None, ..good.clone() },
            Rateest { packets: Some([1, 5]), ..good.clone() },
            Rateest { names: named(""), ..good.clone() },
            Rateest { names: named("a234567890123456"), ..good.clone() },
        ] {
            assert!(bad.verify(Family::V4).is_err());
        }
    }
}
