//! `-j ACCEPT`, `-j DROP`, `-j RETURN`, `-j QUEUE`, `-j CHAIN`, `-g CHAIN`.
//!
//! ACCEPT satisfies this table at this hook only; DROP ends the packet; RETURN goes back to the calling chain, in a built-in
//! chain to its policy. QUEUE asks a program at queue 0, as [`nfqueue`](super::nfqueue) does. A jump comes back, a goto does not. TOML: `{ protocol = "tcp", dport = 22, target = "ACCEPT" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Given, TargetExtension};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};

/// The built-in verdicts and jumps; a chain is the index within its table ([`crate::ruleset::Chains`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// This table is satisfied.
    Accept,
    /// The packet ends here.
    Drop,
    /// Back to the calling chain.
    Return,
    /// To queue 0.
    Queue,
    /// `-j CHAIN`
    Jump(u32),
    /// `-g CHAIN`
    Goto(u32),
}

const fn named(name: &'static str, build: fn(&Given) -> Result<Target, crate::rule::option::Complaint>, summary: &'static str, example: &'static str, cases: &'static [Case]) -> TargetExtension {
    TargetExtension {
        name,
        aliases: &[],
        families: Families::Both,
        protocol: None,
        tables: &[],
        hooks: ANY_HOOK,
        options: &[],
        build,
        summary,
        example,
        cases,
    }
}

/// ACCEPT
pub static ACCEPT: TargetExtension = named(
    "ACCEPT",
    |_| Ok(Target::Verdict(Verdict::Accept)),
    "Lets the packet go on to the next table.",
    r#"{ in = "lan0", target = "ACCEPT" }"#,
    &[
        Case::Prints(Family::V4, "-j ACCEPT", "="),
        Case::Prints(Family::V6, "-s 2001:db8::1/64 -j ACCEPT", "-s 2001:db8::/64 -j ACCEPT"),
        Case::Refused(Family::V4, "-j ACCEPT -j DROP", "has a target already"),
        Case::Refused(Family::V4, "-j ACCEPT extra", "not expected"),
    ],
);

/// DROP. iptables keeps it from table nat, where it would only meet first packets.
pub static DROP: TargetExtension = TargetExtension {
    tables: &[Table::Raw, Table::Mangle, Table::Filter, Table::Security],
    ..named(
        "DROP",
        |_| Ok(Target::Verdict(Verdict::Drop)),
        "Ends the packet without an answer.",
        r#"{ source = "203.0.113.0/24", target = "DROP" }"#,
        &[Case::Prints(Family::V4, "-i lan0 -j DROP", "="), Case::Prints(Family::V4, "--jump DROP", "-j DROP")],
    )
};

/// RETURN
pub static RETURN: TargetExtension = named(
    "RETURN",
    |_| Ok(Target::Verdict(Verdict::Return)),
    "Goes back to the calling chain; in a built-in chain, to its policy.",
    r#"{ destination = "192.0.2.0/24", target = "RETURN" }"#,
    &[Case::Prints(Family::V6, "-o wan+ -j RETURN", "=")],
);

/// QUEUE
pub static QUEUE: TargetExtension = named(
    "QUEUE",
    |_| Ok(Target::Verdict(Verdict::Queue)),
    "Asks a program; nobody listens here, so it drops.",
    r#"{ protocol = "tcp", dport = 80, target = "QUEUE" }"#,
    &[
        Case::Prints(Family::V4, "-j QUEUE", "="),
        Case::Prints(Family::V6, "-p tcp -j QUEUE", "="),
        Case::Refused(Family::V4, "-j QUEUE --queue-num 1", "no option `--queue-num`"),
    ],
);

impl Action for Verdict {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        match *self {
            Verdict::Accept => Effect::Accept,
            Verdict::Drop => Effect::Drop,
            Verdict::Return => Effect::Return,
            Verdict::Queue => Effect::Queue { bypass: false },
            Verdict::Jump(chain) => Effect::Jump(chain),
            Verdict::Goto(chain) => Effect::Goto(chain),
        }
    }

    fn changes_packets(&self) -> bool {
        false
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        match self {
            Verdict::Accept => Some(&ACCEPT),
            Verdict::Drop => Some(&DROP),
            Verdict::Return => Some(&RETURN),
            Verdict::Queue => Some(&QUEUE),
            Verdict::Jump(_) | Verdict::Goto(_) => None,
        }
    }

    fn print(&self, _: Family, _: &mut String) {}
}
