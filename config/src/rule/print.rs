//! A rule as iptables-save prints it, without `-A CHAIN`.

use super::option::MatchExtension;
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

/// Conditions of one `-m` stand behind it in the order of its options; one out of that order belongs to another `-m` of the
/// same name.
fn conditions(conds: &[Cond], family: Family, out: &mut String) {
    let mut open: Option<(&'static MatchExtension, Option<usize>)> = None;
    let mut text = String::new();
    for cond in conds {
        text.clear();
        cond.test.print(cond.negate, family, &mut text);
        let Some(extension) = cond.test.extension() else {
            open = None;
            out.push_str(&text);
            continue;
        };
        let option = first_option(extension, &text);
        let goes_on = match open {
            Some((before, last)) => std::ptr::eq(before, extension) && last < option,
            None => false,
        };
        if !goes_on {
            out.push_str(" -m ");
            out.push_str(extension.name);
        }
        out.push_str(&text);
        open = Some((extension, option));
    }
}

/// Which option of the match a text begins with; none where it is empty.
fn first_option(extension: &MatchExtension, text: &str) -> Option<usize> {
    let name = text.split(' ').find_map(|word| word.strip_prefix("--"))?;
    super::draft::position(extension.options, name)
}
