//! What a rule remembers. A case takes far less than a second: rates are so slow that nothing is refilled meanwhile, or so fast that
//! nothing is missed.

use super::super::rng::Rng;
use super::address::not;
use super::draw::Place;

pub(super) fn condition(_: &Place, rng: &mut Rng) -> Option<String> {
    Some(match rng.below(3) {
        0 => {
            let every = 2 + rng.below(3);
            format!("-m statistic --mode nth {}--every {every} --packet {}", not(rng), rng.below(every))
        }
        1 => format!("-m limit --limit 1/hour --limit-burst {}", 1 + rng.below(6)),
        _ => "-m limit --limit 10000/sec --limit-burst 10000".into(),
    })
}
