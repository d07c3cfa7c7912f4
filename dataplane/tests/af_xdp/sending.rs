//! The two ways out: the tx ring and XDP.

use super::rig::*;
use nix::sys::socket::{setsockopt, sockopt};
use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use sumun_config::model::{Attach, Interface, Transmit};

/// The usual ports, which send as told.
fn sending(tx: Transmit) -> Vec<Interface> {
    let mut ports = ports(Attach::Auto);
    ports.iter_mut().for_each(|port| device_of(port).tx = tx);
    ports
}

#[test]
fn a_hundred_thousand_frames_leave_through_xdp_complete_and_in_order() {
    let site = Site::new("xmit", 1);
    site.set_gro("on");
    let running = site.bridge_of(&sending(Transmit::Xdp), 2048, 1);
    assert_eq!(running.sending[1].to_string(), "xdp");
    // Now and then all lengths, else the shortest that a datagram here can have and the one that is copied by itself.
    let length = |number: u64| {
        if number.is_multiple_of(8) { (number * 37 % 1472) as usize } else { 18 - (number % 3 * 5) as usize }
    };
    site.stream(std::iter::repeat_n(200, 500), length);
    assert!(site.counter("r1", "tx_queue_0_xdp_xmit") >= 100_000);
    assert_eq!(site.counter("r1", "tx_queue_0_xdp_xmit_errors"), 0);
    assert_eq!(running.stop().made, 4096);
}

#[test]
fn few_frames_take_the_ring_and_many_xdp_and_none_overtakes() {
    let site = Site::new("mixed", 1);
    site.set_gro("on");
    let running = site.bridge_of(&sending(Transmit::Auto), 2048, 1);
    assert_eq!(running.sending[1].to_string(), "ring and xdp");
    site.stream((0..3_000).map(|i: u64| if i % 5 < 2 { 1 + i % 24 } else { 100 }), |number| (number % 1400) as usize);
    let by_xdp = site.counter("r1", "tx_queue_0_xdp_xmit");
    let all = running.seen.frames[0].load(Ordering::Relaxed);
    println!("{by_xdp} of {all} through XDP");
    // How many come together is the worker's speed; that both ways were taken is what makes order a question.
    assert!(by_xdp >= 20 && by_xdp < all, "{by_xdp} of {all} through XDP");
    running.stop();
}

#[test]
fn frames_that_no_page_holds_take_the_ring() {
    let site = Site::new("long", 1);
    for (end, device) in [("a", "a0"), ("b", "b0"), ("r", "r0"), ("r", "r1")] {
        site.ip(end, &["link", "set", device, "mtu", "3400"]);
    }
    site.set_gro("on");
    let running = site.bridge_of(&sending(Transmit::Xdp), 4096, 1);
    // 3072 bytes of frame are the limit: 42 are headers.
    site.stream(
        std::iter::repeat_n(20, 200),
        |number| if number % 100 < 60 { 3030 } else { 3031 + number as usize % 300 },
    );
    // 2,400 datagrams are short enough; a burst that has a long one takes the ring whole. Hosts say some things of their own.
    let by_xdp = site.counter("r1", "tx_queue_0_xdp_xmit");
    assert!((1_000..2_450).contains(&by_xdp), "{by_xdp} through XDP");
    running.stop();
}

#[test]
fn the_ring_steps_in_while_the_peer_takes_no_xdp_frames() {
    let site = Site::new("nonapi", 1);
    let running = site.bridge_of(&sending(Transmit::Xdp), 2048, 1);
    let turns = |wanted: bool| {
        let deadline = Instant::now() + Duration::from_secs(3);
        while running.sending[1].now() != (Transmit::Xdp, wanted) {
            assert!(Instant::now() < deadline, "not noticed: {}", running.sending[1]);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let mut before = 0;
    for gro in ["off", "on", "off", "on"] {
        site.set_gro(gro);
        turns(gro == "on");
        site.stream(std::iter::repeat_n(50, 40), |_| 100);
        let by_xdp = site.counter("r1", "tx_queue_0_xdp_xmit");
        assert_eq!(by_xdp - before >= 2_000, gro == "on", "gro {gro}: {by_xdp} after {before}");
        before = by_xdp;
    }
    running.stop();
}

#[test]
fn auto_takes_the_ring_where_two_ways_might_be_two_orders() {
    let site = Site::new("orders", 2);
    site.set_gro("on");
    let chosen = |tx| site.within("r", || open(&sending(tx), 1)).expect("opens").sending[0].to_string();
    assert_eq!([chosen(Transmit::Auto), chosen(Transmit::Ring), chosen(Transmit::Xdp)], ["ring", "ring", "xdp"]);
}

#[test]
fn calls_are_made_for_more_frames_while_receivers_keep_the_pages_of_earlier_ones() {
    let site = Site::new("stalled", 1);
    site.set_gro("on");
    let mut interfaces = sending(Transmit::Auto);
    // So that every frame makes a call.
    device_of(&mut interfaces[1]).tx = Transmit::Xdp;
    let running = site.bridge_of(&interfaces, 2048, 1);
    let socket = site.within("b", || {
        let socket = UdpSocket::bind("10.9.0.2:7").expect("a socket");
        setsockopt(&socket, sockopt::RcvBufForce, &(256 << 20)).expect("set");
        socket
    });
    let wait = |is_so: fn(&str) -> bool, pause: &dyn Fn()| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so(&running.sending[0].to_string()) {
            assert!(Instant::now() < deadline, "{}", running.sending[0]);
            pause();
        }
    };
    site.within("a", || {
        let sender = UdpSocket::bind("10.9.0.1:0").expect("a socket");
        sender.connect("10.9.0.2:7").expect("an address");
        wait(
            |how| how.starts_with("ring and xdp, from ") && how.ends_with(" frames on while receivers keep pages"),
            &|| assert!(sender.send(&[0; 18]).is_ok()),
        );
    });
    drop(socket);
    wait(|how| how == "ring and xdp", &|| std::thread::sleep(Duration::from_millis(10)));
    running.stop();
}
