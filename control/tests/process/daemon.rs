//! `sumun control` over a dataplane made of memory: what is published, when, and what is not.

use crate::bench::{Place, arg, eventually};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;

const PORTS: &[&str] = &["lan0", "wan0"];
const BAD: &str = "[interfaces.lan0]\nadresses = [\"10.0.0.1/24\"]\nring = 3\n";

#[test]
fn file_is_published_at_start_and_whenever_it_changes() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let _control = place.running_control();
    eventually("published at start", || dataplane.memory.ttl() == Some(61));
    place.write(62);
    eventually("published when replaced", || dataplane.memory.ttl() == Some(62));
    fs::write(place.config(), place.text(PORTS, 63)).unwrap();
    eventually("published when written in place", || dataplane.memory.ttl() == Some(63));
    assert_eq!(dataplane.memory.published()[0].ports, PORTS);
}

#[test]
fn file_behind_a_symbolic_link_is_watched() {
    let place = Place::new();
    for (name, ttl) in [("a", 61), ("b", 62)] {
        fs::create_dir(place.path(name)).unwrap();
        fs::write(place.path(name).join("router.toml"), place.text(PORTS, ttl)).unwrap();
    }
    symlink("a/router.toml", place.config()).unwrap();
    let dataplane = place.dataplane(PORTS);
    let _control = place.running_control();
    eventually("published at start", || dataplane.memory.ttl() == Some(61));
    fs::write(place.path("a/router.toml"), place.text(PORTS, 63)).unwrap();
    eventually("published when its target changes", || dataplane.memory.ttl() == Some(63));
    symlink("b/router.toml", place.path("new")).unwrap();
    fs::rename(place.path("new"), place.config()).unwrap();
    eventually("published when the link is moved", || dataplane.memory.ttl() == Some(62));
    fs::write(place.path("b/router.toml"), place.text(PORTS, 64)).unwrap();
    eventually("published when its new target changes", || dataplane.memory.ttl() == Some(64));
}

#[test]
fn bad_file_leaves_the_running_policy_and_is_told_with_all_its_mistakes() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let control = place.running_control();
    eventually("published at start", || dataplane.memory.ttl() == Some(61));
    place.replace(BAD);
    control.logs("is not in force");
    for place in ["router.toml:2:1: error", "router.toml:3:8: error"] {
        assert!(control.log().contains(place), "{place} is not in\n{}", control.log());
    }
    assert!(place.sumun(&["status"]).out.contains("problem"));
    assert_eq!(dataplane.memory.published().len(), 1);
    place.write(62);
    eventually("published when mended", || dataplane.memory.ttl() == Some(62));
    eventually("no problem any more", || !place.sumun(&["status"]).out.contains("problem"));
}

#[test]
fn file_that_vanishes_leaves_the_running_policy() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let control = place.running_control();
    eventually("published at start", || dataplane.memory.ttl() == Some(61));
    fs::remove_file(place.config()).unwrap();
    control.logs("cannot read");
    place.write(61);
    eventually("the same file is no problem", || !place.sumun(&["status"]).out.contains("problem"));
    assert_eq!(dataplane.memory.published().len(), 1);
}

#[test]
fn hangup_reads_the_file_again_but_what_runs_is_not_published_twice() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let control = place.running_control();
    eventually("published at start", || dataplane.memory.ttl() == Some(61));
    control.signal(Signal::SIGHUP);
    control.logs("is what sumun-dataplane runs");
    assert_eq!(dataplane.memory.published().len(), 1);
}

#[test]
fn restarted_dataplane_gets_its_policy_back() {
    let place = Place::new();
    place.write(61);
    let first = place.dataplane(PORTS);
    let control = place.running_control();
    eventually("published at start", || first.memory.ttl() == Some(61));
    drop(first);
    control.logs("waiting for it");
    let second = place.dataplane(PORTS);
    eventually("published again", || second.memory.ttl() == Some(61));
}

#[test]
fn dataplane_that_comes_after_control_gets_the_newest_file() {
    let place = Place::new();
    place.write(61);
    let control = place.running_control();
    control.logs("sumun-dataplane is not running (no socket at");
    place.write(62);
    control.logs("is not in force");
    let dataplane = place.dataplane(PORTS);
    eventually("published", || dataplane.memory.ttl() == Some(62));
    assert_eq!(dataplane.memory.published().len(), 1);
}

#[test]
fn killed_control_leaves_the_dataplane_and_its_successor_takes_over() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let first = place.running_control();
    eventually("published at start", || dataplane.memory.ttl() == Some(61));
    first.signal(Signal::SIGKILL);
    first.end();
    let second = place.running_control();
    second.logs("is what sumun-dataplane runs");
    assert_eq!(dataplane.memory.published().len(), 1, "no new generation for the same policy");
    place.write(62);
    eventually("published by the successor", || dataplane.memory.ttl() == Some(62));
}

#[test]
fn other_interfaces_wait_for_a_restart_of_the_dataplane() {
    let place = Place::new();
    place.write(61);
    let first = place.dataplane(PORTS);
    let control = place.running_control();
    eventually("published at start", || first.memory.ttl() == Some(61));
    place.replace(&place.text(&["lan0", "wan0", "dmz0"], 62));
    control.logs("needs a restart of sumun-dataplane: interfaces changed");
    assert_eq!(first.memory.published().len(), 1);
    drop(first);
    // Restarted with the old ports it gets the old policy back; with the new ones the new.
    let second = place.dataplane(PORTS);
    eventually("the last policy that fits", || second.memory.ttl() == Some(61));
    assert!(place.sumun(&["status"]).out.contains("interfaces changed"));
    drop(second);
    let third = place.dataplane(&["lan0", "wan0", "dmz0"]);
    eventually("the newest policy", || third.memory.ttl() == Some(62));
    eventually("no problem any more", || !place.sumun(&["status"]).out.contains("problem"));
}

#[test]
fn refusal_of_the_dataplane_is_told() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    dataplane.memory.refuse("a chain that is not there");
    let control = place.running_control();
    control.logs("sumun-dataplane refuses it: a chain that is not there");
    eventually("status says so", || place.sumun(&["status"]).out.contains("a chain that is not there"));
    assert_eq!(dataplane.memory.ttl(), None);
}

#[test]
fn mistakes_at_start_end_control_with_status_2() {
    let place = Place::new();
    place.replace(BAD);
    let control = place.control();
    control.logs("router.toml:3:8: error");
    assert_eq!(control.end().code(), Some(2));
}

#[test]
fn missing_file_at_start_ends_control_with_status_1() {
    let place = Place::new();
    let control = place.control();
    control.logs("cannot read");
    assert_eq!(control.end().code(), Some(1));
}

#[test]
fn second_control_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let _first = place.running_control();
    let ran = place.sumun(&["control", "--config", arg(&place.config())]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("sumun control is already running"), "{ran:?}");
    place.write(62);
    eventually("the first still publishes", || dataplane.memory.ttl() == Some(62));
}

#[test]
fn terminate_ends_control_cleanly() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let control = place.running_control();
        eventually("published", || dataplane.memory.ttl() == Some(61));
        control.signal(signal);
        assert_eq!(control.end().code(), Some(0));
        assert!(!place.run_dir().join("control.sock").exists());
    }
}

#[test]
fn bytes_that_make_no_sense_do_not_harm_control() {
    let place = Place::new();
    place.write(61);
    let dataplane = place.dataplane(PORTS);
    let _control = place.running_control();
    let header = |kind: u8, len: u8| [b'S', b'M', b'U', b'N', 1, 0, kind, 0, len, 0, 0, 0];
    let mut frames: Vec<Vec<u8>> = vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 100], vec![0xff; 5000], vec![]];
    for kind in 1..=4 {
        frames.push([&header(kind, 3)[..], b"\xff\xff\xff"].concat());
        frames.push(header(kind, 200).to_vec());
    }
    for frame in frames {
        let mut peer = UnixStream::connect(place.run_dir().join("control.sock")).unwrap();
        let _ = peer.write_all(&frame);
        let _ = peer.shutdown(std::net::Shutdown::Write);
        let _ = peer.read_to_end(&mut Vec::new());
    }
    place.write(62);
    eventually("control still publishes", || dataplane.memory.ttl() == Some(62));
}
