//! Timers of IDLETIMER in a running router.

use anyhow::Result;
use serde_json::Value;
use sumun_testbed::router::wait;
use sumun_testbed::{Lab, Router};

const RULES: &str = r#"
[mangle.FORWARD]
rules = [
  "-i lan0 -j IDLETIMER --timeout 1 --label lan",
  "-i wan0 -j IDLETIMER --timeout 600 --label wan --alarm",
]
"#;

#[test]
fn a_timer_runs_out_without_packets_and_starts_again_with_the_next() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, RULES)?;
    let is_active = || -> Result<bool> {
        let timers: Value = serde_json::from_str(&router.ask(&["timers", "--json"])?)?;
        assert_eq!((&timers[0]["label"], &timers[1]["label"]), (&"lan".into(), &"wan".into()), "{timers}");
        assert_eq!((&timers[1]["active"], &timers[1]["alarm"]), (&true.into(), &true.into()), "{timers}");
        assert!(timers[1]["left"].as_u64().is_some_and(|left| left > 500), "{timers}");
        Ok(timers[0]["active"] == true)
    };
    let told = || router.log("dataplane.log").matches("an idle timer has run out").count();
    wait("the timer to run out", || Ok(!is_active()?))?;
    wait("the log to say so", || Ok(told() == 1))?;
    assert!(lab.client1.pings("203.0.113.1", 1));
    assert!(is_active()?);
    wait("the timer to run out again", || Ok(!is_active()? && told() == 2))?;
    assert!(router.ask(&["timers"])?.contains("lan                               0 idle\n"));
    Ok(())
}
