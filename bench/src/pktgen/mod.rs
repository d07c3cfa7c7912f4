//! `sumun-bench pktgen`: sends frames on a device, counts what arrives at a device, or both.
//!
//! | file | |
//! |---|---|
//! | [`frame`] | what frames look like |
//! | [`live`], [`ring`], [`kernel`] | the three ways to send them |
//! | [`pace`] | when they are sent |
//! | [`sink`] | what arrives: loss, order, latency |
//! | [`report`] | how it is told |

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use frame::{Families, Sizes, Traffic};
use nix::unistd::Uid;
use pace::{Limits, Sender, Sent};
use report::{Arrived, Departed, Report};
use sink::Sink;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sumun_dataplane::port::af_xdp::{Device, survey};

pub mod frame;
pub mod kernel;
pub mod live;
pub mod pace;
pub mod report;
pub mod ring;
pub mod sink;

/// How frames are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Method {
    /// As live frames, where the device takes them, else through its ring.
    Auto,
    /// BPF_PROG_TEST_RUN with live frames.
    Live,
    /// The AF_XDP ring.
    Ring,
    /// The kernel's own generator (`modprobe pktgen`); its frames are counted only.
    Kernel,
}

/// What to send, and where.
#[derive(Args)]
pub struct Options {
    /// Device to send on.
    #[arg(long, value_name = "DEVICE")]
    from: Option<String>,
    /// Device to count at; UDP that comes in there is dropped meanwhile.
    #[arg(long, value_name = "DEVICE")]
    to: Option<String>,
    /// Network namespace of the devices, as `ip netns list` names it.
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Network namespace of the device of --to, where it is another one.
    #[arg(long, value_name = "NAME", requires = "to")]
    to_netns: Option<String>,
    /// How to send.
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    method: Method,
    /// Bytes of a frame, the link's checksum of 4 bytes counted (64 is the least of Ethernet); the least that holds sequence and time
    /// where it is left out: 64 for IPv4, 84 for IPv6.
    #[arg(long)]
    size: Option<u32>,
    /// Frames of 64, 594 and 1518 bytes, 7:4:1.
    #[arg(long, conflicts_with = "size")]
    imix: bool,
    /// Flows, which differ in source address, source port and destination port.
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// Frames a second (500k, 1.5M); as fast as it goes where it is left out.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Seconds.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Frames, where they are sent before the time is over.
    #[arg(long)]
    count: Option<u64>,
    /// 4, 6 or both.
    #[arg(long, default_value = "4", value_parser = families)]
    family: Families,
    /// MAC address of the next hop; that of --to's device where it is left out.
    #[arg(long, value_parser = frame::mac)]
    dst_mac: Option<[u8; 6]>,
    /// MAC address of the sender; the device's own where it is left out.
    #[arg(long, value_parser = frame::mac)]
    src_mac: Option<[u8; 6]>,
    /// First source address; one for each eight flows.
    #[arg(long, default_value = "10.0.0.2")]
    src: Ipv4Addr,
    /// Destination address.
    #[arg(long, default_value = "203.0.113.1")]
    dst: Ipv4Addr,
    /// First source address of IPv6.
    #[arg(long, default_value = "fd00:1::2")]
    src6: Ipv6Addr,
    /// Destination address of IPv6.
    #[arg(long, default_value = "2001:db8:2::1")]
    dst6: Ipv6Addr,
    /// Core to send on.
    #[arg(long)]
    core: Option<usize>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(number) if number * unit >= 1.0 && number.is_finite() => Ok(number * unit),
        _ => bail!("not a number of frames a second from 1 on, such as 20000, 500k or 1.5M"),
    }
}

fn families(text: &str) -> Result<Families> {
    Ok(match text {
        "4" => Families::V4,
        "6" => Families::V6,
        "both" => Families::Both,
        _ => bail!("4, 6 or both"),
    })
}

/// Sends, counts, and tells.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.from.is_some() || options.to.is_some(), "nothing to do: --from DEVICE sends, --to DEVICE counts");
    ensure!((1..=1 << frame::FLOW_BITS).contains(&options.flows), "--flows is from 1 to {}", 1 << frame::FLOW_BITS);
    ensure!(options.duration.is_finite() && options.duration > 0.0, "--duration is more than no seconds");
    ensure!(options.duration <= 1e6, "--duration is at most 1,000,000 seconds");
    ensure!(Uid::effective().is_root(), "pktgen needs root: it loads XDP programs");
    let stop = pace::stop_on_signals()?;
    let sink = match &options.to {
        Some(name) => {
            let netns = options.to_netns.as_ref().or(options.netns.as_ref());
            // A sink alone does not know how many flows there will be.
            let flows = if options.from.is_some() { options.flows } else { 1 << frame::FLOW_BITS };
            Some(within(netns, || {
                let device = Device::find(name)?;
                Ok((Sink::open(&device, flows)?, device.mac))
            })?)
        }
        None => None,
    };
    let report = match (&options.from, &sink) {
        (Some(from), _) => within(options.netns.as_ref(), || send(options, from, sink.as_ref(), &stop))?,
        (None, Some((sink, _))) => count(options, sink, &stop)?,
        (None, None) => unreachable!("one of both is there"),
    };
    match options.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

/// Runs code in a network namespace, or here.
fn within<T: Send>(netns: Option<&String>, code: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match netns {
        Some(name) => {
            let is_there = Path::new("/run/netns").join(name).exists();
            ensure!(is_there, "there is no network namespace {name} (`ip netns list` names all)");
            sumun_testbed::host::inside(name, code)
        }
        None => code(),
    }
}

fn count(options: &Options, sink: &Sink, stop: &AtomicBool) -> Result<Report> {
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < options.duration && !stop.load(Ordering::Relaxed) {
        if let Some(count) = options.count
            && sink.packets()? >= count
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Report { sent: None, received: Some(Arrived::new(sink, &sink.tally()?, begun.elapsed(), None)) })
}

fn send(options: &Options, from: &str, sink: Option<&(Sink, [u8; 6])>, stop: &AtomicBool) -> Result<Report> {
    let device = Device::find(from)?;
    let Some(dst_mac) = options.dst_mac.or(sink.map(|(_, mac)| *mac)) else {
        bail!("--dst-mac is missing: the MAC address of the next hop (`ip neigh` lists neighbours)")
    };
    let mut traffic = Traffic {
        src_mac: options.src_mac.unwrap_or(device.mac),
        dst_mac,
        v4: (options.src, options.dst),
        v6: (options.src6, options.dst6),
        families: options.family,
        lengths: Vec::new(),
        flows: options.flows,
        clock: Some(frame::clock()),
    };
    let sizes = if options.imix { Sizes::Imix } else { Sizes::One(options.size) };
    if !traffic.size(sizes, device.mtu)? {
        eprintln!(
            "note: frames of {} bytes have no room for sequence and time: no latency, no order",
            options.size.unwrap_or(0)
        );
    }
    if let Some(core) = options.core {
        let known = core_affinity::get_core_ids().unwrap_or_default();
        ensure!(known.iter().any(|known| known.id == core), "--core {core}: there is no such core");
        ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: core }), "--core {core}: cannot be used");
    }
    let limits =
        Limits { rate: options.rate, duration: Duration::from_secs_f64(options.duration), count: options.count };
    let dropped_before = dropped(from)?;
    let before = sink.map(|(sink, _)| sink.tally()).transpose()?.unwrap_or_default();
    let method = match options.method {
        Method::Auto => choose(from),
        method => method,
    };
    let (sent, took) = match method {
        Method::Live => drive(&mut live::Live::open(&device, &traffic)?, &limits, stop)?,
        Method::Ring => drive(&mut ring::Ring::open(from, &traffic)?, &limits, stop)?,
        Method::Auto | Method::Kernel => {
            kernel::run(Path::new(kernel::FILES), from, options.core.unwrap_or(0), &traffic, &limits, stop)?
        }
    };
    let sent = Departed::new(method, &sent, dropped(from)?.saturating_sub(dropped_before), took);
    let received = match sink {
        Some((sink, _)) => {
            settle(sink)?;
            Some(Arrived::new(sink, &sink.tally()?.since(&before), took, Some(sent.frames)))
        }
        None => None,
    };
    Ok(Report { sent: Some(sent), received })
}

fn drive(sender: &mut dyn Sender, limits: &Limits, stop: &AtomicBool) -> Result<(Sent, Duration)> {
    let took = pace::drive(sender, limits, stop)?;
    Ok((sender.sent()?, took))
}

/// The quickest way that the device has.
fn choose(device: &str) -> Method {
    match survey(device) {
        Some(survey) if survey.features & live::TAKES_FRAMES != 0 => Method::Live,
        _ => {
            eprintln!(
                "note: {device} takes no XDP frames (on a veth: the other end has no GRO): its AF_XDP ring sends"
            );
            Method::Ring
        }
    }
}

/// Waits until nothing has come for a while: frames may be in queues still.
fn settle(sink: &Sink) -> Result<()> {
    let mut last = sink.packets()?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(20));
        let now = sink.packets()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(())
}

/// Frames to send that a device of this namespace has dropped, which it counts where they were given to it by XDP.
fn dropped(device: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").context("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    // Eight numbers of what was received, then bytes, packets, errors, dropped.
    let dropped = line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok());
    dropped.with_context(|| format!("{device}: the kernel does not count what it drops"))
}
