//! A rule as iptables-save prints it, without `-A CHAIN`.

use super::targets::verdict::Verdict;
use super::{Cond, Rule, Target};
use crate::facts::Family;

/// The canonical text of a rule. `chain` names the chains of its table by their index.
pub fn print<'a>(rule: &Rule, family: Family, chain: impl Fn(u32) -> &'a str) -> String {
    let mut out = String::new();
    conditions(&rule.conds, family, &mut out);
    match &rule.target {
        None => {}
        Some(Target::Verdict(Verdict::Jump(index))) => {
            out.push_str(" -j ");
            out.push_str(chain(*index));
        }
        Some(Target::Verdict(Verdict::Goto(index))) => {
            out.push_str(" -g ");
            out.push_str(chain(*index));
        }
        Some(target) => {
            out.push_str(" -j ");
            out.push_str(target.extension(family).map_or("", |extension| extension.name));
            target.print(family, &mut out);
        }
    }
    // Every piece begins with a blank.
    if !out.is_empty() {
        out.remove(0);
    }
    out
}

/// Conditions of one `-m` stand behind it.
fn conditions(conds: &[Cond], family: Family, out: &mut String) {
    for cond in conds {
        if let Some(extension) = cond.test.extension().filter(|_| cond.opens) {
            out.push_str(" -m ");
            out.push_str(extension.name);
        }
        cond.test.print(cond.negate, family, out);
    }
}
