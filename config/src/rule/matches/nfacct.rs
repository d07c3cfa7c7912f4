//! `-m nfacct`: counts the packet for an account that rules share by its name, whatever their family (`xt_nfacct.c`).
//!
//! An account without a quota always holds. One with a quota, given in `[accounts.NAME]`, holds once more than that was
//! counted, the packet included. An account that no section describes has none; it comes into being with its first rule, and
//! goes with its last. `sumun accounts` lists them.
//!
//! TOML: `{ nfacct-name = "web" }`

use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::object::{Kind, Object, Shared};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};

/// `--nfacct-name NAME`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nfacct {
    /// The account.
    pub name: Box<str>,
    /// What is said of it.
    pub limits: Limits,
    /// Its number.
    pub object: u32,
}

/// What an account may count until it is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// None: it never is.
    pub quota: Option<Quota>,
}

/// A quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Quota {
    /// So many packets.
    Packets(u64),
    /// So many bytes of IP.
    Bytes(u64),
}

/// `[accounts.NAME]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its quota.
    pub quota: Quota,
}

/// How an account's quota stands, this packet included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has none.
    NoQuota,
    /// No more was counted than it allows.
    Within,
    /// More was.
    Beyond,
}

/// Bytes of a name (`NFACCT_NAME_MAX` less its end).
pub const MAX_NAME: usize = 31;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "nfacct",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::plain("nfacct-name", &[]).about("NAME", "the account that the packet is counted for")],
    build,
    summary: "counts for an account, and whether its quota is used up",
    example: r#"{ nfacct-name = "web" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m nfacct --nfacct-name web", "-m nfacct --nfacct-name  web"),
        Case::Prints(Family::V6, "-m nfacct --nfacct-name \"two words\"", "-m nfacct --nfacct-name  \"two words\""),
        Case::Refused(Family::V4, "-m nfacct", "nfacct asks for --nfacct-name"),
        Case::Refused(Family::V4, "-m nfacct ! --nfacct-name web", "cannot be negated"),
        Case::Refused(Family::V6, "-m nfacct --nfacct-name web --nfacct-name mail", "given twice"),
        Case::Refused(Family::V4, "-m nfacct --nfacct-name \"\"", "`` is not the name of an account"),
        Case::Refused(Family::V4, "-m nfacct --nfacct-name abcdefghijklmnopqrstuvwxyz012345", "is not the name of an account"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(name) = given.value(0) else { return Err(given.complain("nfacct asks for --nfacct-name")) };
    if !is_name(&name.text) {
        let accepts = format!("up to {MAX_NAME} bytes");
        return Err(name.complain(format!("`{}` is not the name of an account", name.text.escape_debug()), accepts));
    }
    let quota = given.names.accounts.iter().find(|account| account.name == name.text).map(|account| account.quota);
    let test = Nfacct { name: name.text.as_str().into(), limits: Limits { quota }, object: 0 };
    Ok(vec![Cond::new(false, Match::Nfacct(test))])
}

/// Whether an account can have this name.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
}

impl Account {
    /// Whether a value decoded from untrusted bytes could be one of a file.
    pub fn verify(&self) -> Result<(), String> {
        if is_name(&self.name) { Ok(()) } else { Err(format!("the account {:?}", self.name)) }
    }
}

impl Shared for Limits {
    fn join(&mut self, other: &Limits) -> Result<(), String> {
        if self == other { Ok(()) } else { Err("its quota is said in two ways".to_string()) }
    }

    fn goes_on_from(&self, before: &Limits) -> bool {
        self == before
    }

    fn verify(&self) -> Result<(), String> {
        Ok(())
    }

    fn memory(&self) -> u64 {
        64
    }
}

impl Condition for Nfacct {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        yes(cx.around.account(self.object, facts.len) != Standing::Within)
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        // With two blanks, as iptables-save has them.
        out.push_str(" --nfacct-name  ");
        word::print_text(out, &self.name);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if is_name(&self.name) { Ok(()) } else { Err(format!("the account {:?}", self.name)) }
    }

    fn objects(&self) -> Vec<(Object, u32)> {
        let account = Object { name: self.name.to_string(), family: None, kind: Kind::Account(self.limits) };
        vec![(account, self.object)]
    }

    fn set_objects(&mut self, numbers: &[u32]) {
        self.object = numbers.first().copied().unwrap_or(self.object);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;

    #[test]
    fn an_account_holds_unless_it_is_within_its_quota() {
        for (standing, expected) in
            [(Standing::NoQuota, Outcome::Yes), (Standing::Within, Outcome::No), (Standing::Beyond, Outcome::Yes)]
        {
            let mut judge = Judge::new(Family::V4, "-m nfacct --nfacct-name web");
            judge.standing = standing;
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{standing:?}");
        }
    }

    #[test]
    fn one_account_has_one_quota() {
        let quota = |quota| Limits { quota };
        assert!(quota(None).join(&quota(None)).is_ok());
        assert!(quota(None).join(&quota(Some(Quota::Bytes(1)))).is_err());
        assert!(!quota(Some(Quota::Packets(1))).goes_on_from(&quota(Some(Quota::Packets(2)))));
    }
}
