//! `-m owner`: whose socket sent the packet (`xt_owner.c`). OUTPUT and POSTROUTING only.
//!
//! What the router forwards has no socket: everything says no of it, and yes where it is negated; a rule with `--suppl-groups`
//! never matches it, as in the kernel. What it says itself (ICMP,
//! neighbour discovery, resets of IPv4 connections that nobody takes) comes from sockets of its own, which exist but belong to
//! nobody; resets of REJECT and of IPv6 come from none. A range is of numbers, names are those of the machine that reads the
//! rule.
//!
//! TOML: `{ uid-owner = "1000-1999", jump = "ACCEPT" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family, Socket};
use crate::rule::option::{Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Hook, Outcome, word};
use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One option.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Owner {
    /// `--socket-exists`
    SocketExists,
    /// `--uid-owner`, both ends included.
    User(u32, u32),
    /// `--gid-owner`
    Group {
        /// First.
        first: u32,
        /// Last.
        last: u32,
        /// `--suppl-groups`: the user's other groups count too.
        others: bool,
    },
}

const SOCKET_EXISTS: usize = 0;
const UID: usize = 1;
const GID: usize = 2;
const SUPPL: usize = 3;
/// The last number that is one: -1 is nobody.
const LAST: u32 = u32::MAX - 1;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "owner",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: Hook::Output.bit() | Hook::Postrouting.bit(),
    options: &[
        Opt::negatable_flag("socket-exists", &[]).about("", "a socket sent it"),
        Opt::negatable("uid-owner", &[]).about("USER[-USER]", "the user who opened the socket, or a range of numbers"),
        Opt::negatable("gid-owner", &[]).about("GROUP[-GROUP]", "the group that opened the socket, or a range of numbers"),
        Opt::flag("suppl-groups", &[]).about("", "the user's other groups count too"),
    ],
    build,
    summary: "whose socket sent the packet",
    example: r#"{ uid-owner = "1000-1999", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m owner --uid-owner 0", "="),
        Case::Prints(Family::V4, "-m owner --uid-owner root", "-m owner --uid-owner 0"),
        Case::Prints(Family::V6, "-m owner ! --uid-owner 1000-2000", "="),
        Case::Prints(Family::V4, "-m owner --uid-owner 5-5", "-m owner --uid-owner 5"),
        Case::Prints(Family::V4, "-m owner --uid-owner 0x10", "-m owner --uid-owner 16"),
        Case::Prints(Family::V4, "-m owner --uid-owner 0-4294967294", "="),
        Case::Prints(Family::V4, "-m owner --gid-owner 0", "="),
        Case::Prints(Family::V6, "-m owner --gid-owner root", "-m owner --gid-owner 0"),
        Case::Prints(Family::V4, "-m owner ! --gid-owner 10-20", "="),
        Case::Prints(Family::V4, "-m owner --gid-owner 5 --suppl-groups", "="),
        Case::Prints(Family::V4, "-m owner --socket-exists", "="),
        Case::Prints(Family::V6, "-m owner ! --socket-exists", "="),
        Case::Prints(
            Family::V4,
            "-m owner --uid-owner 1 --gid-owner 2 --socket-exists --suppl-groups",
            "-m owner --socket-exists --uid-owner 1 --gid-owner 2 --suppl-groups",
        ),
        Case::Refused(Family::V4, "-m owner", "owner asks for --uid-owner, --gid-owner or --socket-exists"),
        Case::Refused(Family::V4, "-m owner --uid-owner no-such-user", "`no-such-user` is not a user"),
        Case::Refused(Family::V4, "-m owner --uid-owner 7-5", "runs backwards"),
        Case::Refused(Family::V4, "-m owner --uid-owner root-5", "`root-5` is not a user"),
        Case::Refused(Family::V4, "-m owner --uid-owner 5-", "`5-` is not a user"),
        Case::Refused(Family::V4, "-m owner --uid-owner 4294967295", "`4294967295` is not a user"),
        Case::Refused(Family::V6, "-m owner --uid-owner 1 --uid-owner 2", "given twice"),
        Case::Refused(Family::V4, "-m owner --gid-owner no-such-group", "`no-such-group` is not a group"),
        Case::Refused(Family::V4, "-m owner --suppl-groups", "--gid-owner before it"),
        Case::Refused(Family::V4, "-m owner --suppl-groups --gid-owner 5", "--gid-owner before it"),
        Case::Refused(Family::V4, "-m owner --socket-exists 5", "`5` is not expected"),
        Case::Refused(Family::V4, "-m owner --pid-owner 5", "no option `--pid-owner`"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    if let Some(option) = given.get(SOCKET_EXISTS) {
        conds.push(Cond::new(option.negate, Match::Owner(Owner::SocketExists)));
    }
    if let Some(option) = given.get(UID) {
        let named = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        let (first, last) = parse_ids(&option.values[0], "a user", named)?;
        conds.push(Cond::new(option.negate, Match::Owner(Owner::User(first, last))));
    }
    // iptables asks for the group first, which matters to nobody but is what it takes.
    let place = |wanted| given.options.iter().position(|option| option.option == wanted);
    if let (Some(suppl), Some(at)) = (given.get(SUPPL), place(SUPPL))
        && place(GID).is_none_or(|group| group > at)
    {
        return Err(suppl.word.complain("`--suppl-groups` needs --gid-owner before it", "--gid-owner GROUP --suppl-groups"));
    }
    if let Some(option) = given.get(GID) {
        let named = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        let (first, last) = parse_ids(&option.values[0], "a group", named)?;
        let others = given.get(SUPPL).is_some();
        conds.push(Cond::new(option.negate, Match::Owner(Owner::Group { first, last, others })));
    }
    match conds.is_empty() {
        true => Err(given.complain("owner asks for --uid-owner, --gid-owner or --socket-exists")),
        false => Ok(conds),
    }
}

/// A name, a number or a range of numbers.
fn parse_ids(word: &Word, what: &str, named: impl Fn(&str) -> Option<u32>) -> Result<(u32, u32), Complaint> {
    if let Some(id) = named(&word.text) {
        return Ok((id, id));
    }
    let accepts = || format!("a name, or a number from 0 to {LAST} or two with `-` between");
    let number = |text: &str| word::integer(text).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= LAST);
    let (first, last) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => {
            Err(word.complain(format!("`{}` runs backwards", word.text), format!("`{last}-{first}`")))
        }
        (Some(first), Some(last)) => Ok((first, last)),
        _ => Err(word.complain(format!("`{}` is not {what}", word.text), accepts())),
    }
}

impl Condition for Owner {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let socket = cx.around.socket();
        yes(match (*self, socket) {
            (Owner::SocketExists, socket) => socket != Socket::None,
            // The kernel takes the bit of the option for another question, whose answer is no (`owner_mt`).
            (Owner::Group { others: true, .. }, Socket::None) => return Outcome::Never,
            (_, Socket::None | Socket::Kernel) => false,
            (Owner::User(first, last), Socket::Of { uid, .. }) => (first..=last).contains(&uid),
            (Owner::Group { first, last, others }, Socket::Of { gid, groups, .. }) => {
                let is = |gid: &u32| (first..=last).contains(gid);
                is(&gid) || (others && groups.iter().any(is))
            }
        })
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        out.push_str(not(negate));
        let (option, first, last) = match *self {
            Owner::SocketExists => return out.push_str(" --socket-exists"),
            Owner::User(first, last) => ("uid-owner", first, last),
            Owner::Group { first, last, .. } => ("gid-owner", first, last),
        };
        let _ = write!(out, " --{option} {first}");
        if last != first {
            let _ = write!(out, "-{last}");
        }
        if matches!(self, Owner::Group { others: true, .. }) {
            out.push_str(" --suppl-groups");
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match *self {
            Owner::SocketExists => Ok(()),
            Owner::User(first, last) | Owner::Group { first, last, .. } if first <= last && last <= LAST => Ok(()),
            _ => Err("owners that cannot be".to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Judge, parse_at};
    use super::*;
    use Outcome::{Never, No, Yes};

    #[test]
    fn without_a_socket_everything_is_no_and_its_owner_is_known_where_a_process_has_it() {
        let process = Socket::Of { uid: 1000, gid: 5, groups: &[7, 9] };
        for (text, [none, kernel, of]) in [
            ("--socket-exists", [No, Yes, Yes]),
            ("! --socket-exists", [Yes, No, No]),
            ("--uid-owner 1000", [No, No, Yes]),
            ("--uid-owner 0", [No, No, No]),
            ("! --uid-owner 0", [Yes, Yes, Yes]),
            ("! --uid-owner 900-1100", [Yes, Yes, No]),
            ("--gid-owner 5", [No, No, Yes]),
            ("--gid-owner 8-9", [No, No, No]),
            ("--gid-owner 8-9 --suppl-groups", [Never, No, Yes]),
            ("! --gid-owner 7 --suppl-groups", [Never, Yes, No]),
            ("--uid-owner 1000 --gid-owner 6", [No, No, No]),
            ("--socket-exists ! --uid-owner 0", [No, Yes, Yes]),
        ] {
            for (socket, expected) in [(Socket::None, none), (Socket::Kernel, kernel), (process, of)] {
                let mut judge = Judge::new(Family::V4, &format!("-m owner {text}"));
                judge.socket = socket;
                assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{text} {socket:?}");
            }
        }
    }

    #[test]
    fn it_stands_where_packets_leave() {
        for hook in Hook::ALL {
            let answer = parse_at(Family::V6, hook.bit(), "-m owner --uid-owner 0");
            assert_eq!(answer.is_ok(), matches!(hook, Hook::Output | Hook::Postrouting), "{}", hook.name());
        }
    }

    #[test]
    fn ranges_that_cannot_be_do_not_verify() {
        for forged in [Owner::User(2, 1), Owner::User(0, u32::MAX), Owner::Group { first: 1, last: 0, others: true }] {
            assert!(forged.verify(Family::V4).is_err(), "{forged:?}");
        }
    }
}
