//! What the kernel loses before a router sees it.

use super::rig::*;
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use sumun_config::facts::PortId;
use sumun_config::model::Attach;
use sumun_dataplane::port::Seat;
use sumun_dataplane::port::af_xdp::Opened;
use sumun_dataplane::protocol::QueueLosses;

#[test]
fn what_the_kernel_loses_before_the_router_is_counted_by_queue_and_reason() {
    let site = Site::new("lost", 1);
    run(&["ip", "netns", "exec", &site.name("a"), "sysctl", "-qw", "net.ipv6.conf.a0.disable_ipv6=1"]);
    site.ip("a", &["neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "a0"]);
    let mut interfaces = ports(Attach::Auto);
    interfaces.iter_mut().for_each(|port| device_of(port).ring = 64);
    let Opened { gauges, mut workers, .. } = site.within("r", || open(&interfaces, 1)).expect("the ports open");
    assert_eq!(
        gauges.iter().map(|gauge| (gauge.port, gauge.queue)).collect::<Vec<_>>(),
        [(PortId(0), 0), (PortId(1), 0)]
    );
    let share = &mut workers[0];
    let Seat::Own(port) = &mut share.seats[0].1 else { panic!("one worker has all ports") };
    // A worker that is busy: empty frames are there, and what comes in is not fetched.
    let mut fetched = Vec::new();
    let mut lost_of = |datagrams: u64, expected: QueueLosses| {
        port.receive(&mut share.pool, &mut fetched, 0);
        site.within("a", || {
            let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
            for _ in 0..datagrams {
                socket.send_to(&[7; 100], "10.9.0.2:9").expect("sent");
            }
        });
        let deadline = Instant::now() + Duration::from_secs(2);
        while gauges[0].read() != Some(expected) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(gauges[0].read(), Some(expected));
    };
    lost_of(64, QueueLosses::default());
    // The ring is full, whatever else is there.
    lost_of(50, QueueLosses { ring_full: 50, ..QueueLosses::default() });
    drop(workers);
    assert_eq!(gauges[0].read(), None, "the port is closed");
}

#[test]
fn frames_that_come_where_no_empty_one_is_are_counted() {
    let site = Site::new("want", 1);
    run(&["ip", "netns", "exec", &site.name("a"), "sysctl", "-qw", "net.ipv6.conf.a0.disable_ipv6=1"]);
    site.ip("a", &["neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "a0"]);
    // No worker has given the device a frame yet.
    let opened = site.open(Attach::Auto, 1).expect("the ports open");
    site.within("a", || {
        let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
        for _ in 0..30 {
            socket.send_to(&[7; 100], "10.9.0.2:9").expect("sent");
        }
    });
    let expected = QueueLosses { dropped: 30, fill_empty: 30, ..QueueLosses::default() };
    let deadline = Instant::now() + Duration::from_secs(2);
    while opened.gauges[0].read() != Some(expected) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(opened.gauges[0].read(), Some(expected));
    assert_eq!(opened.gauges[1].read(), Some(QueueLosses::default()));
}
