//! Security contexts and their numbers: rules name contexts, packets and flows carry numbers.
//!
//! A context keeps its number as long as the process runs, so that flows keep theirs over any change of rules. Workers never
//! come here; whoever shows a flow, a packet or a trace does.

use std::sync::{Arc, PoisonError, RwLock};
use sumun_config::rule::Target;
use sumun_config::ruleset::Ruleset;

/// Contexts that a router can ever have met.
const MOST: usize = 4096;

/// The contexts of a router, by one less than their number.
#[derive(Debug, Default)]
pub struct Contexts(RwLock<Vec<Arc<str>>>);

impl Contexts {
    /// Gives every SECMARK of a ruleset the number of its context.
    ///
    /// # Errors
    /// There would be too many.
    pub(super) fn number(&self, ruleset: &mut Ruleset) -> Result<(), String> {
        let chains =
            ruleset.families.iter_mut().flat_map(|family| &mut family.tables).flat_map(|table| &mut table.chains);
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            if let Some(Target::SecMark(mark)) = &mut rule.target {
                mark.number = self.number_of(&mark.context)?;
            }
        }
        Ok(())
    }

    fn number_of(&self, context: &str) -> Result<u32, String> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let at = match known.iter().position(|name| **name == *context) {
            Some(at) => at,
            None if known.len() == MOST => {
                return Err(format!("more than {MOST} security contexts since sumun-dataplane was started"));
            }
            None => {
                known.push(context.into());
                known.len() - 1
            }
        };
        Ok(at as u32 + 1)
    }

    /// The context of a number; none of zero.
    pub fn name(&self, number: u32) -> Option<Arc<str>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (number as usize).checked_sub(1).and_then(|at| known.get(at).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_keeps_its_number_and_there_are_only_so_many() {
        let contexts = Contexts::default();
        assert_eq!([contexts.number_of("a"), contexts.number_of("b"), contexts.number_of("a")], [Ok(1), Ok(2), Ok(1)]);
        assert_eq!((contexts.name(0), contexts.name(2).as_deref(), contexts.name(3)), (None, Some("b"), None));
        (2..MOST).for_each(|i| assert!(contexts.number_of(&i.to_string()).is_ok()));
        assert!(contexts.number_of("c").unwrap_err().contains("more than 4096"));
        assert_eq!(contexts.number_of("b"), Ok(2));
    }
}
