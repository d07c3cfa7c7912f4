//! A port loses its link, and programs behind its TAP are told.

use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use sumun_config::facts::PortId;
use sumun_dataplane::host::carrier::{Carrier, Switch};
use sumun_dataplane::host::tap::Home;
use sumun_dataplane::kernel::decode::Message;
use sumun_dataplane::kernel::news::News;
use sumun_dataplane::kernel::socket::{Netlink, group};
use sumun_dataplane::port::Link;
use sumun_testbed::Host;
use sumun_testbed::host::join;

/// The kernel tells of carriers that are lost once a second, unless somebody asks (`linkwatch_urgent_event`, `rtnl_getlink`).
#[test]
fn a_lost_link_is_told_behind_the_tap_at_once() -> Result<()> {
    let named = |name: &str| Host::new(&format!("{}-carrier-{name}", std::process::id()));
    let (router, far, host) = (named("router")?, named("far")?, named("host")?);
    join(&router, "port0", &far, "eth0", 1)?;
    let link = Link {
        name: "port0".into(),
        mac: [2, 0, 0, 0, 9, 1],
        mtu: 1500,
        checksums: sumun_config::model::Checksums::AsTheyAre,
        trunk: None,
    };
    let (taps, switch) = Home::of(Some(host.name()))?.open(&[(PortId(0), &link)], Switch::open)?;
    let switch = switch?;
    let device = router.inside(|| Ok(nix::net::if_::if_nametoindex("port0")?))?;
    let mut carrier = router.inside(|| Ok(Carrier::watch(vec![(device, taps[0].index, "port0".into())])?))?;
    let mut events = host.inside(|| Ok(Netlink::open(&[group::LINK])?))?;
    let mut told = |carrier: &mut Carrier, wanted: bool| -> Result<Duration> {
        // The device's own news may take its second.
        let mut news = [PollFd::new(carrier.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut news, PollTimeout::from(5000u16))? == 1, "the device's carrier is never {wanted}");
        let begun = Instant::now();
        loop {
            carrier.follow(&switch);
            let mut is_so = false;
            events.take(|message| {
                is_so |= matches!(message, Message::News(News::Link(link)) if link.has_carrier == wanted);
            })?;
            if is_so {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < Duration::from_secs(5), "the carrier is never {wanted}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    carrier.follow(&switch);
    for _ in 0..4 {
        far.ip("link set eth0 down")?;
        let took = told(&mut carrier, false)?;
        ensure!(took < Duration::from_millis(200), "{took:?}");
        far.ip("link set eth0 up")?;
        let took = told(&mut carrier, true)?;
        ensure!(took < Duration::from_millis(200), "{took:?}");
    }
    Ok(())
}
