//! What comes in goes out, on all queues and by all workers.

use super::rig::*;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sumun_config::model::Attach;
use sumun_dataplane::port::af_xdp::Mode;

#[test]
fn ten_thousand_frames_pass_each_way_and_all_frames_are_found_again() {
    let site = Site::new("pass", 1);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(running.modes, [Mode { native: true, zero_copy: false, queues: 1, jumbo: false }; 2]);
    assert_eq!(site.echo(10_000, 1), 10_000);
    let seen = running.seen.clone();
    let census = running.stop();
    assert!(seen.frames.iter().all(|frames| frames.load(Ordering::Relaxed) >= 10_000));
    assert_eq!(seen.drops.load(Ordering::Relaxed), 0);
    assert_eq!(census.made, 4096);
}

#[test]
fn all_frames_are_found_again_when_stopped_amid_a_flood() {
    let site = Site::new("flood", 1);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(site.echo(1, 1), 1);
    let done = AtomicBool::new(false);
    let seen = running.seen.clone();
    std::thread::scope(|scope| {
        for end in ["a", "b"] {
            let (site, done) = (&site, &done);
            scope.spawn(move || {
                site.within(end, || {
                    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                    let to = if end == "a" { "10.9.0.2:9" } else { "10.9.0.1:9" };
                    while !done.load(Ordering::Relaxed) {
                        let _ = socket.send_to(&[7; 1000], to);
                    }
                })
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        let census = running.stop();
        done.store(true, Ordering::Relaxed);
        assert_eq!(census.made, 4096);
    });
    assert!(seen.frames.iter().all(|frames| frames.load(Ordering::Relaxed) > 1_000), "a flood it was");
}

#[test]
fn generic_mode_passes_frames_too() {
    let site = Site::new("generic", 1);
    let running = site.bridge(Attach::Generic, 1);
    assert_eq!(running.modes, [Mode { native: false, zero_copy: false, queues: 1, jumbo: false }; 2]);
    assert_eq!(site.echo(1_000, 1), 1_000);
    running.stop();
}

#[test]
fn two_queues_are_served_by_two_workers() {
    let site = Site::new("queues", 2);
    let running = site.bridge(Attach::Auto, 2);
    assert_eq!(running.modes, [Mode { native: true, zero_copy: false, queues: 2, jumbo: false }; 2]);
    assert_eq!(site.echo(4_000, 16), 4_000);
    assert_eq!(running.stop().made, 8192);
}

#[test]
fn one_worker_serves_all_queues() {
    let site = Site::new("both", 2);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(running.modes[0].queues, 2);
    assert_eq!(site.echo(2_000, 16), 2_000);
    running.stop();
}

#[test]
fn a_worker_without_a_queue_hands_its_frames_over() {
    let site = Site::new("over", 1);
    // Replace r1 by a device of two queues: worker 1 receives on r1's second queue only and must send on r0 through worker 0.
    site.ip("b", &["link", "del", "b0"]);
    let (b, r) = (site.name("b"), site.name("r"));
    run(&[
        "ip",
        "link",
        "add",
        "b0",
        "netns",
        &b,
        "numrxqueues",
        "2",
        "numtxqueues",
        "2",
        "type",
        "veth",
        "peer",
        "name",
        "r1",
        "netns",
        &r,
        "numrxqueues",
        "2",
        "numtxqueues",
        "2",
    ]);
    run(&["ip", "netns", "exec", &b, "ethtool", "-K", "b0", "tx", "off", "gso", "off", "tso", "off"]);
    site.ip("b", &["addr", "add", "10.9.0.2/24", "dev", "b0"]);
    site.ip("b", &["link", "set", "b0", "up"]);
    site.ip("r", &["link", "set", "r1", "up"]);
    let running = site.bridge(Attach::Auto, 2);
    assert_eq!(running.modes.iter().map(|mode| mode.queues).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(site.echo(4_000, 32), 4_000);
    assert!(running.seen.workers[1].load(Ordering::Relaxed) >= 100, "worker 1 had frames to hand over");
    assert_eq!(running.seen.drops.load(Ordering::Relaxed), 0);
    running.stop();
}

#[test]
fn what_is_not_for_the_router_reaches_the_kernel() {
    let site = Site::new("lldp", 1);
    let running = site.bridge(Attach::Auto, 1);
    // Two bridges of the kernel that speak STP, which is neither IP nor ARP: the one behind r0 takes the other for the
    // designated bridge of that link as soon as it hears it.
    let bridge = |end, priority| {
        let timers = ["stp_state", "1", "hello_time", "100", "forward_delay", "200", "priority", priority];
        site.ip(end, &[&["link", "add", "br0", "type", "bridge"], &timers[..]].concat());
        site.ip(end, &["link", "set", "br0", "up"]);
    };
    bridge("a", "4096");
    bridge("r", "8192");
    site.ip("r", &["link", "set", "r0", "master", "br0"]);
    site.ip("a", &["link", "set", "a0", "master", "br0"]);
    let hears = || site.ip("r", &["-d", "link", "show", "r0"]).contains("designated_bridge 1000.");
    let deadline = Instant::now() + Duration::from_secs(8);
    while !hears() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(hears(), "no STP frame reached the kernel");
    assert_eq!(running.seen.foreign.load(Ordering::Relaxed), 0, "the router got what is not for it");
    running.stop();
}

#[test]
fn an_idle_worker_sleeps() {
    let site = Site::new("idle", 1);
    let running = site.bridge(Attach::Auto, 1);
    std::thread::sleep(Duration::from_millis(300));
    let before = running.seen.turns.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(500));
    let turns = running.seen.turns.load(Ordering::Relaxed) - before;
    println!("idle: {turns} turns in half a second");
    // Each wake-up (a stray neighbour packet, the longest sleep) brings some turns of 50 µs; a busy loop has a million.
    assert!(turns < 20_000, "{turns} turns in half a second without a frame");
    let started = Instant::now();
    running.stop();
    assert!(started.elapsed() < Duration::from_secs(2), "a sleeping worker is told to stop and does");
}

#[test]
fn a_device_that_goes_away_leaves_the_worker_asleep_and_the_census_whole() {
    let site = Site::new("gone", 1);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(site.echo(100, 1), 100);
    site.ip("r", &["link", "del", "r1"]);
    site.within("a", || {
        let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
        for _ in 0..2_000 {
            let _ = socket.send_to(&[7; 100], "10.9.0.2:9");
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    let before = running.seen.turns.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(500));
    let turns = running.seen.turns.load(Ordering::Relaxed) - before;
    assert!(turns < 20_000, "{turns} turns in half a second without a frame");
    running.control.stop();
    let census = running.thread.join().expect("joined").expect("no worker panicked");
    assert!(census.is_complete(), "{census:?}");
}
