//! `-m socket`: whether a socket of the router waits for the packet (`xt_socket.c`). PREROUTING and INPUT only.
//!
//! Nobody listens on the router, so the answer is the one of a kernel without sockets: no. As there, a rule with it has
//! fragments put together before table raw.
//!
//! TOML: `{ socket = { transparent = true }, jump = "divert" }`

use super::{Asks, Condition, Match};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Hook, Outcome};
use serde::{Deserialize, Serialize};

/// The options of one `-m socket`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Socket {
    /// `--transparent`
    pub transparent: bool,
    /// `--nowildcard`
    pub nowildcard: bool,
    /// `--restore-skmark`
    pub restore_skmark: bool,
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "socket",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: Hook::Prerouting.bit() | Hook::Input.bit(),
    options: &[
        Opt::flag("transparent", &[]).about("", "only one that may have foreign addresses"),
        Opt::flag("nowildcard", &[]).about("", "also one that listens on any address"),
        Opt::flag("restore-skmark", &[]).about("", "the packet gets the socket's mark"),
    ],
    build,
    summary: "whether a socket of the router waits for the packet: none does",
    example: r#"{ socket = { transparent = true }, jump = "divert" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m socket", "="),
        Case::Prints(Family::V4, "-m socket --transparent", "="),
        Case::Prints(Family::V6, "-m socket --nowildcard", "="),
        Case::Prints(Family::V4, "-m socket --restore-skmark", "="),
        Case::Prints(
            Family::V6,
            "-m socket --restore-skmark --nowildcard --transparent",
            "-m socket --transparent --nowildcard --restore-skmark",
        ),
        Case::Refused(Family::V4, "-m socket ! --transparent", "cannot be negated"),
        Case::Refused(Family::V4, "-m socket --nowildcard --nowildcard", "given twice"),
        Case::Refused(Family::V6, "-m socket --restore-skmark 1", "`1` is not expected"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let [transparent, nowildcard, restore_skmark] = [0, 1, 2].map(|option| given.get(option).is_some());
    Ok(vec![Cond::new(false, Match::Socket(Socket { transparent, nowildcard, restore_skmark }))])
}

impl Condition for Socket {
    fn test(&self, _: &Facts, _: &Context) -> Outcome {
        Outcome::No
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        let given = [self.transparent, self.nowildcard, self.restore_skmark];
        for (option, _) in EXTENSION.options.iter().zip(given).filter(|(_, given)| *given) {
            out.push_str(" --");
            out.push_str(option.name);
        }
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{l4, outcome, parse_at};
    use super::*;

    #[test]
    fn nobody_listens() {
        for text in ["-m socket", "-m socket --nowildcard"] {
            assert_eq!(outcome(text, &l4(Family::V4, 6, 1, 80)), Outcome::No);
        }
        for hook in Hook::ALL {
            let answer = parse_at(Family::V4, hook.bit(), "-m socket");
            assert_eq!(answer.is_ok(), matches!(hook, Hook::Prerouting | Hook::Input), "{}", hook.name());
        }
    }
}
