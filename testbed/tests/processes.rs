//! The two processes fail apart and find each other again; bad files change nothing.

use anyhow::Result;
use nix::sys::signal::Signal;
use sumun_testbed::router::{INTERFACES, head, wait};
use sumun_testbed::{Lab, Router};

const OPEN: &str = "[filter.FORWARD]\nrules = [\"-p icmp -j ACCEPT\", \"-p ipv6-icmp -j ACCEPT\"]\npolicy = \"DROP\"\n";

#[test]
fn forwarding_goes_on_without_control_and_a_new_control_takes_over() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, OPEN)?;
    router.end_control(Signal::SIGKILL)?;
    assert!(lab.client1.pings("203.0.113.1", 3));
    router.start_control()?;
    router.wait_for_generation(1)?;
    assert_eq!(router.status()?["generation"], 1, "the same ruleset is not published twice");
    assert!(lab.client1.pings("203.0.113.1", 3));
    Ok(())
}

#[test]
fn a_restarted_dataplane_gets_its_ruleset_back() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, OPEN)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        assert!(lab.client1.pings("203.0.113.1", 2));
        router.end_dataplane(signal)?;
        assert!(!lab.client1.pings("203.0.113.1", 1), "nobody forwards");
        router.start_dataplane()?;
        router.wait_for_generation(1)?;
        assert!(lab.client1.pings("203.0.113.1", 2), "after {signal}");
    }
    router.end_dataplane(Signal::SIGTERM)?;
    let links = lab.router.ip("-d link show")?;
    assert!(!links.contains("prog/xdp"), "no program stays behind: {links}");
    Ok(())
}

#[test]
fn until_control_speaks_everything_is_dropped() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, OPEN)?;
    router.end_control(Signal::SIGTERM)?;
    router.end_dataplane(Signal::SIGTERM)?;
    router.start_dataplane()?;
    assert!(!lab.client1.pings("203.0.113.1", 1));
    assert!(router.log("dataplane.log").contains("everything is dropped"), "{}", router.log("dataplane.log"));
    Ok(())
}

#[test]
fn a_changed_file_is_swapped_in_and_a_bad_one_changes_nothing() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, OPEN)?;
    assert!(lab.client1.pings("203.0.113.1", 2));
    router.rewrite("[filter.FORWARD]\npolicy = \"DROP\"\n")?;
    router.wait_for_generation(2)?;
    assert!(!lab.client1.pings("203.0.113.1", 1), "the new file is in force");

    router.rewrite("[filter.FORWARD]\npolicy = \"DORP\"\nrules = [\"-p tpc -j ACCEPT\"]\n")?;
    wait("the complaint", || Ok(router.log("control.log").contains("DORP")))?;
    assert!(router.log("control.log").contains("tpc"), "all mistakes are told");
    assert_eq!(router.status()?["generation"], 2);
    Ok(())
}

#[test]
fn apply_and_check_refuse_a_bad_file_with_its_place_and_status_2() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, OPEN)?;
    let bad = lab.path("bad.toml");
    let text = format!("{}{INTERFACES}[filter.FORWARD]\nrules = [\"-p tcp --dprot 22 -j ACCEPT\"]\n", head(&lab, "1"));
    let line = text.lines().position(|l| l.contains("--dprot")).expect("the line") + 1;
    std::fs::write(&bad, text)?;
    for command in ["check", "apply"] {
        let output = router.sumun(&[command, &bad.display().to_string()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("bad.toml:{line}:")), "{said}");
        assert!(said.contains("--dprot") && said.contains("dport"), "{said}");
    }
    assert_eq!(router.status()?["generation"], 1);
    Ok(())
}

#[test]
fn a_device_that_is_missing_or_down_is_named() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.router.ip("link set wan0 down")?;
    let error = Router::start(&lab, OPEN).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("wan0") && error.contains("down"), "{error}");
    lab.router.ip("link del wan0")?;
    let error = Router::start(&lab, OPEN).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("wan0"), "{error}");
    Ok(())
}
