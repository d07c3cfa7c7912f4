//! A short run of the differential tester; `testbed/differential` makes long ones.

use anyhow::Result;
use sumun_config::facts::Family;
use sumun_testbed::differential::{kernel::Kernel, run};

#[test]
fn random_rules_and_traffic_end_as_in_the_kernel() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-short", std::process::id()))?;
    for family in Family::ALL {
        let mut text = String::new();
        let found = run(&mut kernel, 1, family, 0..40, 50, 3, &mut |difference| text += difference)?;
        assert_eq!(found.differences, 0, "{text}");
        // What the kernel says of its own timers falls into another case now and then; what is ours comes again.
        assert!(found.unsteady <= 2, "{text}");
        assert!(
            found.rulesets >= 35 && found.packets >= 1500,
            "{} rulesets, {} packets",
            found.rulesets,
            found.packets
        );
    }
    Ok(())
}
