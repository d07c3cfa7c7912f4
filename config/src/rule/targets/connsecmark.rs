//! `-j CONNSECMARK --save|--restore`, in tables `mangle` and `security`: the security context of the packet's flow.
//!
//! Save: a flow without a context gets the packet's. Restore: a packet without one gets the flow's (`connsecmark_tg`). So what
//! SECMARK says of a flow's first packet holds for all of them.
//! TOML: `{ match = "conntrack", ctstate = ["ESTABLISHED", "RELATED"], target = "CONNSECMARK", restore = true }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ConnSecMark {
    /// The flow gets the packet's context.
    Save,
    /// The packet gets the flow's context.
    Restore,
}

/// CONNSECMARK
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "CONNSECMARK",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Mangle, Table::Security],
    hooks: ANY_HOOK,
    options: &[
        Opt::flag("save", &[]).about("", "keeps the packet's context with a flow that has none"),
        Opt::flag("restore", &[]).about("", "gives a packet without a context its flow's"),
    ],
    build,
    summary: "Saves the packet's security context with its flow, or restores it from there.",
    example: r#"{ match = "conntrack", ctstate = ["ESTABLISHED", "RELATED"], target = "CONNSECMARK", restore = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-j CONNSECMARK --save", "="),
        Case::Prints(Family::V6, "-j CONNSECMARK --restore", "="),
        Case::Refused(Family::V4, "-j CONNSECMARK", "needs one of"),
        Case::Refused(Family::V4, "-j CONNSECMARK --save --restore", "cannot stand with"),
        Case::Refused(Family::V6, "-j CONNSECMARK ! --save", "cannot be negated"),
        Case::Refused(Family::V4, "-j CONNSECMARK --restore --restore", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[0, 1])?;
    match (given.get(0), given.get(1)) {
        (Some(_), _) => Ok(Target::ConnSecMark(ConnSecMark::Save)),
        (None, Some(_)) => Ok(Target::ConnSecMark(ConnSecMark::Restore)),
        (None, None) => Err(mark::needs(given, EXTENSION.options)),
    }
}

impl Action for ConnSecMark {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::ConnSecMark(*self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        out.push_str(match self {
            ConnSecMark::Save => " --save",
            ConnSecMark::Restore => " --restore",
        });
    }
}
