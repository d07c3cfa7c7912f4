//! AF_XDP ports: how the router gets a device's frames without the kernel's stack, and sends its own.
//!
//! ```text
//!  device queue 0 ── XDP program ── XSKMAP[0] ── socket: fill, rx, tx, completion ── AfXdpPort of worker 0
//!  device queue 1 ──      "      ── XSKMAP[1] ── socket                           ── AfXdpPort of worker 1
//!                          └─ neither IP, ARP nor tagged: the kernel's stack, or the router, as the port wants it
//!                                                                                     (queue q: worker q mod workers)
//! ```
//! One UMEM serves all ports and all workers, so a frame goes from any port to any other without a copy. The price: the
//! kernel wants all sockets of a UMEM in the same copy mode, so zero-copy is used when every port can, else none does.
//!
//! Frames leave through the tx ring of the queue, or, many at once and where the device has no zero-copy, through XDP: see
//! [`sending`].
//!
//! Where the MTU of a device makes frames that are longer than those of the UMEM, the program and the sockets take packets
//! in pieces ([`pieces`], Linux 6.6). That is a property of the UMEM, thus of all ports.
//!
//! Opening goes in this order: look at the devices; attach the programs (their maps are empty, so all goes to the kernel
//! still); bind the sockets; put them into the maps. Whatever fails takes back all that was done. Closing is dropping: the
//! program of a device goes with the last worker's end of its port.

#![allow(unsafe_code, reason = "the UMEM's memory becomes frames here, and sockets are made of it")]

mod device;
mod error;
pub mod live;
mod losses;
mod mapping;
mod pieces;
mod program;
mod queue;
mod sending;
mod spread;
mod stalled;
mod survey;
mod watch;
mod xmit;

pub use device::Device;
pub use error::OpenError;
pub use losses::Gauge;
pub use sending::Sending;
pub use spread::{Spread, spread};
pub use survey::{Attached, Survey, survey};

use super::{Link, Port, PortCounts, Seat};
use crate::reason::DropReason;
use crate::umem::{Frame, HEADROOM, JUMBO_MTU, Pool, Region};
use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use pieces::Lost;
use program::{Longest, Program, Wanted};
use queue::{Queue, Sizes, Slots};
use sending::{Express, Outlets};
use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sumun_config::facts::PortId;
use sumun_config::model::{self, Attach, Checksums, CopyMode, Interface};
use xsk_rs::config::{BindFlags, FrameSize, Interface as DeviceName, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{FrameDesc, Socket, Umem};

/// Ethernet header and two VLAN tags: what a frame is longer than its IP packet.
const LINK_HEADER: u32 = 22;

/// Entries of the program's map where the driver does not tell how many receive queues there are.
const MOST_UNTOLD_QUEUES: u32 = 64;

/// Jumbo frames of a worker, where a port needs them: 2.4 MB. What one turn has in hands, and as many that wait.
const JUMBO_FRAMES: u32 = 256;

/// Frames that wait for a flush.
const MOST_WAITING: usize = 512;

/// How long the kernel may take to free the queue of a closed socket: a moment, and longer where many devices come and go.
const LETTING_GO: Duration = Duration::from_secs(5);

/// What is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The ports, by port number.
    pub interfaces: &'a [Interface],
    /// Those that give the router all frames, also what is neither IP, ARP nor tagged.
    pub all_frames: &'a [PortId],
    /// Workers that share the queues.
    pub workers: usize,
    /// Shares of the frames beside those of the workers, each as large as one of theirs.
    pub beside: usize,
    /// Frames dealt to each worker.
    pub frames_per_worker: u32,
    /// Bytes of a frame: 2048 or 4096.
    pub frame_size: u32,
}

/// Open ports.
pub struct Opened {
    /// What the engine needs to know of them, by port number.
    pub links: Vec<Link>,
    /// Those that have a device, by port number: what follows is in their order.
    pub ports: Vec<PortId>,
    /// How each runs.
    pub modes: Vec<Mode>,
    /// How each sends.
    pub sending: Vec<Sending>,
    /// What tells of frames that the kernel lost, for every receive queue of every port.
    pub gauges: Vec<Gauge>,
    /// What each worker gets.
    pub workers: Vec<Share>,
    /// The shares beside the workers'.
    pub beside: Vec<Pool>,
}

/// How a port runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// The program runs in the driver, not on skbs.
    pub native: bool,
    /// The device writes into the UMEM itself.
    pub zero_copy: bool,
    /// Receive queues with a socket.
    pub queues: u32,
    /// Its packets may be longer than a frame of the UMEM.
    pub jumbo: bool,
}

/// A worker's part of the open ports.
pub struct Share {
    /// Its frames.
    pub pool: Pool,
    /// Its way to each port that has a device.
    pub seats: Vec<(PortId, Seat)>,
}

/// What is on a device while it is a port. Dropping it detaches.
struct Attachment {
    program: Program,
    _multicast: OwnedFd,
}

/// One worker's queues of a device.
pub struct AfXdpPort {
    _attachment: Arc<Attachment>,
    queues: Vec<Queue>,
    slots: Slots,
    descriptors: Arc<[FrameDesc]>,
    /// The way past the tx ring, where there is one.
    express: Option<Express>,
    /// With such a way: frames to send, in order, until the next flush shows how many they are. In pieces: until it brings
    /// the frames for these.
    waiting: Vec<Frame>,
    /// Packets come and go in pieces.
    in_pieces: bool,
    /// Packets that ended while they were received.
    lost: Vec<Lost>,
    /// The queue that is asked first for received frames, so that none starves another.
    next: usize,
}

impl Port for AfXdpPort {
    fn receive(&mut self, pool: &mut Pool, rx: &mut Vec<Frame>, most: usize) {
        let mut left = most;
        for turn in 0..self.queues.len() {
            let queues = self.queues.len();
            let queue = &mut self.queues[(self.next + turn) % queues];
            let received = match self.in_pieces {
                true => queue.receive_pieces(&mut self.slots, pool, rx, &mut self.lost, left),
                false => queue.receive(&mut self.slots, rx, left),
            };
            left -= received.min(left);
            queue.refill(&mut self.slots, &self.descriptors, pool);
        }
        self.next = (self.next + 1) % self.queues.len().max(1);
    }

    fn transmit(&mut self, tx: &mut Vec<Frame>) {
        if self.express.is_some() || self.in_pieces {
            let room = MOST_WAITING - self.waiting.len().min(MOST_WAITING);
            self.waiting.extend(tx.drain(..room.min(tx.len())));
            return;
        }
        // Always the same queue, so that packets keep their order.
        if let Some(queue) = self.queues.first_mut().filter(|_| !tx.is_empty()) {
            queue.send(&mut self.slots, &self.descriptors, tx);
        }
    }

    fn flush(&mut self, pool: &mut Pool) {
        if !self.waiting.is_empty() {
            self.send_waiting(pool);
        }
        for queue in &mut self.queues {
            queue.flush(&mut self.slots, pool);
        }
    }

    fn lent(&self) -> usize {
        self.slots.lent() + self.queues.iter().map(Queue::held).sum::<usize>() + self.waiting.len() + self.lost.len()
    }

    fn lost(&mut self) -> Option<(DropReason, Frame)> {
        self.lost.pop()
    }

    fn wait_on(&self) -> Vec<BorrowedFd<'_>> {
        self.queues.iter().map(Queue::fd).collect()
    }

    fn is_sending(&self) -> bool {
        !self.waiting.is_empty() || self.queues.iter().any(Queue::is_sending)
    }

    fn count(&mut self, counts: &mut PortCounts) {
        counts.strays += std::mem::take(&mut self.slots.strays);
        for queue in &mut self.queues {
            counts.failures += std::mem::take(&mut queue.failures);
            counts.unsendable += std::mem::take(&mut queue.unsendable);
        }
        if let Some(express) = &mut self.express {
            counts.failures += std::mem::take(&mut express.failures);
            counts.refused += std::mem::take(&mut express.refused);
        }
    }
}

impl AfXdpPort {
    /// Sends what waits the way that suits its number, but never past frames that are still in the tx ring.
    fn send_waiting(&mut self, pool: &mut Pool) {
        let Some(queue) = self.queues.first_mut() else { return };
        if let Some(express) = self.express.as_mut()
            && express.suits(&self.waiting)
        {
            queue.flush(&mut self.slots, pool);
            if !queue.is_sending() {
                express.send(&mut self.waiting, pool);
            }
        }
        if !self.waiting.is_empty() {
            match self.in_pieces {
                true => queue.send_pieces(&mut self.slots, &self.descriptors, &mut self.waiting, pool),
                false => queue.send(&mut self.slots, &self.descriptors, &mut self.waiting),
            }
        }
    }
}

/// Opens all ports.
pub fn open(plan: Plan) -> Result<Opened, OpenError> {
    let Plan { interfaces, workers, beside, frame_size, .. } = plan;
    let (ports, wanted): (Vec<PortId>, Vec<&model::Device>) = with_devices(interfaces).unzip();
    check_frames(plan, &wanted)?;
    let devices: Vec<Device> = wanted.iter().map(|device| Device::find(&device.name)).collect::<Result<_, _>>()?;
    let mut own = devices.iter();
    let own = interfaces.iter().map(|interface| {
        let found = interface.device().and_then(|wanted| Some((wanted, own.next()?)));
        found.map(|(wanted, device)| link(interface, wanted, device, frame_size)).transpose()
    });
    let links = super::links(interfaces, own.collect::<Result<_, _>>()?)?;
    let jumbo = |device: &Device| device.mtu + LINK_HEADER > frame_size - HEADROOM as u32;
    let in_pieces = devices.iter().any(jumbo);
    let mut attachments = Vec::new();
    for ((wanted, device), port) in wanted.iter().zip(&devices).zip(&ports) {
        let shape = program::Shape {
            queues: device.queues.unwrap_or(MOST_UNTOLD_QUEUES),
            how: wanted.attach,
            longest: if jumbo(device) { Longest::Pieces } else { Longest::Frame },
            wanted: if plan.all_frames.contains(port) { Wanted::All } else { Wanted::Ip },
        };
        let program = Program::attach(device, shape)?;
        attachments.push(Arc::new(Attachment { program, _multicast: device.receive_multicast()? }));
    }
    // Locked memory counts against a limit for those without CAP_IPC_LOCK; where it may not be raised, the kernel says later
    // whether it suffices.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);

    let pieces = if in_pieces { BindFlags::XDP_USE_SG } else { BindFlags::empty() };
    let (sockets, pools, zero_copy) = match may_zero_copy(&wanted, &attachments)? {
        Wish::Copy => {
            let (sockets, pools) = bind_all(plan, &wanted, &devices, BindFlags::XDP_COPY | pieces)?;
            (sockets, pools, false)
        }
        wish => match bind_all(plan, &wanted, &devices, BindFlags::XDP_ZEROCOPY | pieces) {
            Ok((sockets, pools)) => (sockets, pools, true),
            Err(OpenError::NotZeroCopy { device, why }) if wish == Wish::ZeroCopyElseCopy => {
                tracing::info!("{device}: no zero-copy ({why}); the kernel copies frames of all ports");
                let (sockets, pools) = bind_all(plan, &wanted, &devices, BindFlags::XDP_COPY | pieces)?;
                (sockets, pools, false)
            }
            Err(error) => return Err(error),
        },
    };
    let outlets = Outlets::open(&wanted, &devices, zero_copy, workers);
    let modes = attachments
        .iter()
        .zip(&sockets)
        .zip(&devices)
        .map(|((attachment, bound), device)| Mode {
            native: attachment.program.native,
            zero_copy,
            queues: bound.len() as u32,
            jumbo: jumbo(device),
        })
        .collect();
    for ((device, attachment), bound) in devices.iter().zip(&attachments).zip(&sockets) {
        for (number, queue) in bound.iter().enumerate() {
            attachment.program.give(number as u32, queue.fd().as_raw_fd()).map_err(|error| OpenError::System {
                what: format!("{}: adding the socket of queue {number} to the map", device.name),
                source: io::Error::other(error.to_string()),
            })?;
        }
    }
    let gauges = ports.iter().zip(&sockets).flat_map(|(port, bound)| {
        bound.iter().enumerate().map(|(number, queue)| Gauge::new(*port, number as u32, queue.socket()))
    });
    let gauges = gauges.collect();
    let descriptors = pools.descriptors;
    let mut pools = Pool::deal(pools.frames, workers + beside);
    if in_pieces {
        Pool::deal_jumbo(&mut pools, JUMBO_FRAMES);
    }
    let beside = pools.split_off(workers);
    let mut shares: Vec<Share> = pools.into_iter().map(|pool| Share { pool, seats: Vec::new() }).collect();
    for (number, (attachment, bound)) in attachments.into_iter().zip(sockets).enumerate() {
        let owners = bound.len().min(workers);
        let mut own: Vec<Vec<Queue>> = (0..owners).map(|_| Vec::new()).collect();
        for (number, queue) in bound.into_iter().enumerate() {
            own[number % owners].push(queue);
        }
        let mut own = own.into_iter();
        for (worker, share) in shares.iter_mut().enumerate() {
            let seat = match own.next() {
                Some(queues) => {
                    let express = outlets.express(worker, number);
                    Seat::Own(Box::new(AfXdpPort {
                        _attachment: attachment.clone(),
                        queues,
                        slots: Slots::new(descriptors.len() as u32, frame_size),
                        descriptors: descriptors.clone(),
                        waiting: Vec::with_capacity(if express.is_some() || in_pieces { MOST_WAITING } else { 0 }),
                        in_pieces,
                        lost: Vec::new(),
                        express,
                        next: 0,
                    }))
                }
                None => Seat::Via(worker % owners),
            };
            share.seats.push((ports[number], seat));
        }
    }
    Ok(Opened { links, ports, modes, sending: outlets.sending(), gauges, workers: shares, beside })
}

/// The ports that have a device, with what is wanted of it.
fn with_devices(interfaces: &[Interface]) -> impl Iterator<Item = (PortId, &model::Device)> {
    let all = interfaces.iter().enumerate();
    all.filter_map(|(number, interface)| Some((PortId(number as u16), interface.device()?)))
}

fn check_frames(plan: Plan, devices: &[&model::Device]) -> Result<(), OpenError> {
    if plan.workers == 0 || devices.is_empty() {
        return Err(OpenError::Frames("a router needs a worker and a port".into()));
    }
    if !matches!(plan.frame_size, 2048 | 4096) {
        return Err(OpenError::Frames(format!("frame_size = {} is neither 2048 nor 4096", plan.frame_size)));
    }
    for device in devices {
        if !device.ring.is_power_of_two() || !(64..=16384).contains(&device.ring) {
            return Err(OpenError::Ring { device: device.name.clone(), ring: device.ring });
        }
    }
    Ok(())
}

fn link(interface: &Interface, wanted: &model::Device, device: &Device, frame_size: u32) -> Result<Link, OpenError> {
    let room = frame_size - HEADROOM as u32;
    if device.mtu > JUMBO_MTU.max(room - LINK_HEADER) {
        return Err(OpenError::Mtu { device: device.name.clone(), mtu: device.mtu, most: JUMBO_MTU });
    }
    let mtu = match interface.mtu {
        Some(wanted) if wanted as u32 > device.mtu => {
            return Err(OpenError::MtuAbove { device: device.name.clone(), wanted, mtu: device.mtu });
        }
        Some(wanted) => wanted,
        None => device.mtu as u16,
    };
    let by_driver = if device.is_virtual() { Checksums::Finish } else { Checksums::AsTheyAre };
    let checksums = wanted.checksums.unwrap_or(by_driver);
    Ok(Link { name: interface.name.clone(), mac: device.mac, mtu, checksums, trunk: None })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    ZeroCopy,
    ZeroCopyElseCopy,
    Copy,
}

/// What all ports together may be tried with: one UMEM, one copy mode.
fn may_zero_copy(wanted: &[&model::Device], attachments: &[Arc<Attachment>]) -> Result<Wish, OpenError> {
    let insists = wanted.iter().find(|device| device.copy == CopyMode::ZeroCopy);
    let forbids = wanted.iter().zip(attachments).find_map(|(device, attachment)| {
        if device.copy == CopyMode::Copy {
            Some(format!("all ports share one UMEM, and {} has copy = \"copy\"", device.name))
        } else if !attachment.program.native || device.attach == Attach::Generic {
            Some(format!("all ports share one UMEM, and {} is attached in generic mode", device.name))
        } else {
            None
        }
    });
    match (insists, forbids) {
        (Some(device), Some(why)) => Err(OpenError::NotZeroCopy { device: device.name.clone(), why }),
        (Some(_), None) => Ok(Wish::ZeroCopy),
        (None, Some(_)) => Ok(Wish::Copy),
        (None, None) => Ok(Wish::ZeroCopyElseCopy),
    }
}

/// All frames, and how xsk-rs describes each.
struct Frames {
    frames: Vec<Frame>,
    descriptors: Arc<[FrameDesc]>,
}

/// Makes a UMEM and binds a socket to each receive queue of each device.
fn bind_all(
    plan: Plan,
    wanted: &[&model::Device],
    devices: &[Device],
    copy: BindFlags,
) -> Result<(Vec<Vec<Queue>>, Frames), OpenError> {
    let frames = plan.frames_per_worker.saturating_mul((plan.workers + plan.beside) as u32);
    // The kernel gives all sockets of a UMEM fill and completion rings as it was told first: as large as the largest need.
    let fill = wanted.iter().map(|device| device.ring).max().unwrap_or(64);
    let (umem, descriptors) = umem(frames, plan.frame_size, fill)?;

    // Half of a worker's frames may wait in fill rings; the rest is for what is in its hands, queued and being sent.
    let queues: u32 = devices.iter().map(|device| device.queues.unwrap_or(1)).sum();
    let most_per_worker: u32 =
        devices.iter().map(|device| device.queues.unwrap_or(1).div_ceil(plan.workers as u32)).sum::<u32>().max(1);
    let level = plan.frames_per_worker / 2 / most_per_worker;
    if level < 32 {
        return Err(OpenError::Frames(format!(
            "frames_per_worker = {} is too few for {queues} receive queues: at least {}",
            plan.frames_per_worker,
            64 * most_per_worker
        )));
    }
    let mut ports = Vec::new();
    for (wanted, device) in wanted.iter().zip(devices) {
        let sizes = Sizes { fill, level: level.min(wanted.ring), tx: wanted.ring };
        let mut queues = Vec::new();
        for number in 0..device.queues.unwrap_or(MOST_UNTOLD_QUEUES) {
            match bind(&umem, device, number, sizes, copy) {
                Ok(queue) => queues.push(queue),
                // A driver that does not tell its queues: the kernel refuses the first that is not there.
                Err(OpenError::System { source, .. })
                    if device.queues.is_none() && number > 0 && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        ports.push(queues);
    }
    let frames = frames_of(umem, &descriptors, plan.frame_size);
    Ok((ports, Frames { frames, descriptors: descriptors.into() }))
}

fn umem(frames: u32, frame_size: u32, ring: u32) -> Result<(Umem, Vec<FrameDesc>), OpenError> {
    let what = "making the UMEM";
    let invalid =
        |error: &dyn Error| OpenError::System { what: what.into(), source: io::Error::other(error.to_string()) };
    let count = NonZeroU32::new(frames).ok_or_else(|| OpenError::Frames("frames_per_worker = 0".into()))?;
    let ring = QueueSize::new(ring).map_err(|error| invalid(&error))?;
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(frame_size).map_err(|error| invalid(&error))?)
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .build()
        .map_err(|error| invalid(&error))?;
    Umem::new(config, count, false).map_err(|error| match os_error(&error) {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => OpenError::NoAfXdp,
        Some(libc::ENOBUFS) => OpenError::LockedMemory { mib: (frames as u64 * frame_size as u64).div_ceil(1 << 20) },
        Some(errno) => OpenError::system(what, io::Error::from_raw_os_error(errno)),
        None => invalid(&error),
    })
}

fn bind(umem: &Umem, device: &Device, number: u32, sizes: Sizes, copy: BindFlags) -> Result<Queue, OpenError> {
    let what = || format!("{}: binding an AF_XDP socket to receive queue {number}", device.name);
    let size = QueueSize::new(sizes.tx)
        .map_err(|error| OpenError::System { what: what(), source: io::Error::other(error.to_string()) })?;
    let config = SocketConfig::builder()
        .rx_queue_size(size)
        .tx_queue_size(size)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let name: DeviceName = device.name.parse().map_err(|_| OpenError::Missing { device: device.name.clone() })?;
    let deadline = Instant::now() + LETTING_GO;
    loop {
        // SAFETY: loading of libxdp's own program is inhibited, as asked for.
        match unsafe { Socket::new(config, umem, &name, number) } {
            Ok((tx, rx, Some((fill, completion)))) => {
                // SAFETY: the socket is open as long as its rings are.
                let socket = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) }.try_clone_to_owned();
                let socket = Arc::new(socket.map_err(|error| OpenError::system(what(), error))?);
                return Ok(Queue::new((tx, rx, fill, completion), socket, umem.clone(), sizes));
            }
            Ok((_, _, None)) => return Err(OpenError::QueueBusy { device: device.name.clone(), queue: number }),
            // The kernel frees the queue of a closed socket a little later: from a work queue, which may wait for other work on
            // devices (rtnl_lock in xp_clear_dev).
            Err(error) if os_error(&error) == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                let source = match os_error(&error) {
                    Some(errno) => io::Error::from_raw_os_error(errno),
                    None => io::Error::other(error.to_string()),
                };
                return Err(match source.raw_os_error() {
                    Some(libc::EBUSY) => OpenError::QueueBusy { device: device.name.clone(), queue: number },
                    Some(libc::ENODEV | libc::ENXIO) => OpenError::Missing { device: device.name.clone() },
                    Some(libc::ENETDOWN) => OpenError::Down { device: device.name.clone() },
                    Some(libc::EAFNOSUPPORT) => OpenError::NoAfXdp,
                    Some(libc::EINVAL) if copy.contains(BindFlags::XDP_USE_SG) && number == 0 => {
                        OpenError::NoPieces { device: device.name.clone(), mtu: device.mtu }
                    }
                    Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted { what: what() },
                    _ if copy.contains(BindFlags::XDP_ZEROCOPY) => {
                        OpenError::NotZeroCopy { device: device.name.clone(), why: source.to_string() }
                    }
                    _ => OpenError::System { what: what(), source },
                });
            }
        }
    }
}

/// The errno behind an error of xsk-rs.
fn os_error(error: &dyn Error) -> Option<i32> {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error)
}

/// The tokens of the UMEM's frames.
fn frames_of(umem: Umem, descriptors: &[FrameDesc], frame_size: u32) -> Vec<Frame> {
    let Some(mut first) = descriptors.first().copied() else { return Vec::new() };
    debug_assert_eq!(first.addr(), HEADROOM);
    // SAFETY: no frame has been handed out yet, so nobody else reaches the first one's bytes.
    let (_, data) = unsafe { umem.frame_mut(&mut first) };
    let base = data.contents().as_ptr().addr() - HEADROOM;
    let base = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(base)).expect("a mapping is not at zero");
    // SAFETY: the UMEM is one anonymous (thus zeroed) mapping of all frames, which begins `HEADROOM` bytes before the first
    // frame's data and lives as long as the `Umem` that is kept; its address was exposed when it was given to the kernel.
    // Only the sockets of this UMEM reach the bytes, and only those of lent frames; `Queue` makes no other use of them.
    unsafe { Region::wrap(base, descriptors.len() as u32, frame_size, Box::new(umem)) }
}
