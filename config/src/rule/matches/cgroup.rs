//! `-m cgroup`: the control group of the process whose socket sent the packet, or will get it (`xt_cgroup.c`). INPUT, OUTPUT
//! and POSTROUTING only.
//!
//! A packet without a socket never matches, negated or not: what is forwarded has none, and nobody listens on the router. The
//! router's own packets come from sockets (but for resets of REJECT and of IPv6) that are of class 0 and of the root `/`.
//! Whether another `--path` exists is not asked, since no process can be in it.
//!
//! TOML: `{ cgroup = 0x10001, jump = "ACCEPT" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family, Socket};
use crate::rule::option::{Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Hook, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Which group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cgroup {
    /// `--path`, from the root of cgroup v2.
    Path(Box<str>),
    /// `--cgroup`, the class of net_cls.
    Class(u32),
}

/// Bytes of a path (`XT_CGROUP_PATH_MAX` without its end).
const MAX_PATH: usize = 511;
const PATH: usize = 0;
const CLASS: usize = 1;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "cgroup",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: Hook::Input.bit() | Hook::Output.bit() | Hook::Postrouting.bit(),
    options: &[
        Opt::negatable("path", &[]).about("PATH", "the group of cgroup v2, or one above it"),
        Opt::negatable("cgroup", &[]).about("CLASSID", "the class of net_cls"),
    ],
    build,
    summary: "the control group of the process that sent the packet",
    example: r#"{ cgroup = { cgroup = 0x10001 }, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m cgroup --cgroup 1", "="),
        Case::Prints(Family::V6, "-m cgroup ! --cgroup 0x10001", "-m cgroup ! --cgroup 65537"),
        Case::Prints(Family::V4, "-m cgroup --cgroup 4294967295", "="),
        Case::Prints(Family::V4, "-m cgroup --path /", "-m cgroup --path \"/\""),
        Case::Prints(Family::V6, "-m cgroup ! --path \"\"", "="),
        Case::Refused(Family::V4, "-m cgroup", "cgroup asks for --path or --cgroup"),
        Case::Refused(Family::V4, "-m cgroup --path / --cgroup 1", "cannot stand with"),
        Case::Refused(Family::V6, "-m cgroup --path / --path /", "given twice"),
        Case::Refused(Family::V4, "-m cgroup --cgroup 4294967296", "`4294967296` is not a class"),
        Case::Refused(Family::V4, "-m cgroup --cgroup web", "`web` is not a class"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let (option, test) = match (given.get(PATH), given.get(CLASS)) {
        (Some(_), Some(class)) => {
            return Err(class.word.complain("`--cgroup` cannot stand with `--path`", "one of the two"));
        }
        (None, None) => return Err(given.complain("cgroup asks for --path or --cgroup")),
        (Some(option), None) => {
            let path = &option.values[0];
            if path.text.len() > MAX_PATH {
                let what = format!("the path is longer than {MAX_PATH} bytes");
                return Err(path.complain(what, "a path from the root of cgroup v2"));
            }
            (option, Cgroup::Path(path.text.as_str().into()))
        }
        (None, Some(option)) => {
            (option, Cgroup::Class(word::number(&option.values[0], "a class", 0..=u32::MAX.into())? as u32))
        }
    };
    Ok(vec![Cond::new(option.negate, Match::Cgroup(test))])
}

impl Condition for Cgroup {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        match (self, cx.around.socket()) {
            (Cgroup::Path(path), Socket::Kernel) => yes(path.bytes().all(|byte| byte == b'/')),
            (Cgroup::Class(class), Socket::Kernel) => yes(*class == 0),
            (_, Socket::None | Socket::Of { .. }) => Outcome::Never,
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        out.push_str(not(negate));
        match self {
            Cgroup::Path(path) => {
                out.push_str(" --path ");
                word::print_text(out, path);
            }
            Cgroup::Class(class) => {
                let _ = write!(out, " --cgroup {class}");
            }
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Cgroup::Path(path) if path.len() > MAX_PATH || path.contains(|c: char| c.is_control()) => {
                Err("a path that cannot be".to_string())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Judge, parse_at};
    use super::*;
    use Outcome::{Never, No, Yes};

    #[test]
    fn the_routers_own_sockets_are_of_class_0_and_of_the_root() {
        for (text, expected) in [
            ("--cgroup 0", Yes),
            ("! --cgroup 0", No),
            ("! --cgroup 5", Yes),
            ("--path /", Yes),
            ("--path system.slice", No),
            ("! --path system.slice", Yes),
        ] {
            let mut judge = Judge::new(Family::V4, &format!("-m cgroup {text}"));
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), Never, "{text} without a socket");
            judge.socket = Socket::Kernel;
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{text}");
        }
    }

    #[test]
    fn it_stands_where_a_socket_is_known() {
        for hook in Hook::ALL {
            let answer = parse_at(Family::V4, hook.bit(), "-m cgroup --cgroup 1");
            assert_eq!(answer.is_ok(), EXTENSION.hooks & hook.bit() != 0, "{}", hook.name());
        }
        assert!(Cgroup::Path("x".repeat(512).into()).verify(Family::V4).is_err());
    }
}
