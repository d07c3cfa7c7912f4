//! Looks at the machine. Nothing is changed, and nothing is guessed: what cannot be read is left out.
//!
//! Devices are those of the caller's network namespace. /sys must show the same one, as it does behind `ip netns exec`.

use super::beyond;
use super::device::ports;
use super::facts::{Device, Facts, Place, Processor, Program};
use anyhow::{Context, ensure};
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle, EthtoolRingAttr};
use futures_util::{Stream, StreamExt};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statfs::{self, TMPFS_MAGIC, statfs};
use nix::unistd::Pid;
use procfs::Current;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use sumun_config::model::{Config, LocalStack, LogTo};
use sumun_dataplane::keep;
use sumun_dataplane::port::af_xdp;

/// What the dataplane needs, by its number among the capabilities.
const CAPABILITIES: [(&str, u8); 3] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_BPF", 39)];
/// Whoever has one of these locks what it wants: CAP_IPC_LOCK, CAP_SYS_RESOURCE.
const LOCKERS: u64 = 1 << 14 | 1 << 24;
/// How long the kernel may take to tell of a device.
const PATIENCE: Duration = Duration::from_secs(5);

/// All facts; of devices those of the configuration.
pub fn gather(config: Option<&Config>) -> anyhow::Result<Facts> {
    let mut facts = Facts::default();
    kernel(&mut facts);
    processors(&mut facts);
    if let Some(Config { appliance, .. }) = config {
        facts.run_dir = place(&appliance.run_dir).map(|place| with_own_file(place, &appliance.run_dir));
        if let LogTo::File(file) = &appliance.log {
            facts.log = file.parent().and_then(place);
        }
        for (_, wanted) in ports(appliance) {
            if let Ok(index) = if_nametoindex(wanted.name.as_str()) {
                facts.devices.insert(wanted.name.clone(), device(&wanted.name, index)?);
            }
        }
        addresses(&mut facts)?;
        runtime()?.block_on(settings(&mut facts))?;
        let taps = appliance.interfaces.iter().filter(|interface| interface.local == LocalStack::Host);
        let taps: Vec<&str> = taps.map(|interface| interface.name.as_str()).collect();
        beyond::look(&mut facts, appliance.host.as_ref(), &taps);
    }
    Ok(facts)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn kernel(facts: &mut Facts) {
    let release = text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    if let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) {
        facts.kernel = (major, minor);
    }
    let protocols = text("/proc/net/protocols");
    facts.af_xdp = protocols.map(|text| text.lines().any(|line| line.starts_with("XDP ")));
    if let Ok(status) = procfs::process::Process::myself().and_then(|process| process.status()) {
        let has = |bit: u8| status.capeff & 1 << bit != 0;
        facts.lacking = CAPABILITIES.iter().filter(|(_, bit)| !has(*bit)).map(|(name, _)| *name).collect();
        if status.capeff & LOCKERS == 0 {
            let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map(|(_, hard)| hard);
            facts.memlock = limit.ok().filter(|limit| *limit != RLIM_INFINITY);
        }
    }
    facts.memory = procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available);
    let processes = procfs::process::all_processes().into_iter().flatten();
    let mut names = processes.filter_map(|process| process.ok()?.stat().ok()).map(|stat| stat.comm);
    facts.irqbalance = names.any(|name| name == "irqbalance");
}

fn processors(facts: &mut Facts) {
    let cpu = |rest: &str| text(&format!("/sys/devices/system/cpu/{rest}"));
    let numbers = |rest: &str| cpu(rest).map(|list| read_list(&list)).unwrap_or_default();
    facts.online = numbers("online");
    facts.isolated = numbers("isolated");
    if let Ok(set) = nix::sched::sched_getaffinity(Pid::from_raw(0)) {
        facts.allowed = facts.online.iter().copied().filter(|core| set.is_set(*core) == Ok(true)).collect();
    }
    for core in facts.online.clone() {
        let siblings = numbers(&format!("cpu{core}/topology/thread_siblings_list"));
        let processor = Processor {
            siblings: siblings.into_iter().filter(|other| *other != core).collect(),
            governor: cpu(&format!("cpu{core}/cpufreq/scaling_governor")),
            node: node_of(core),
        };
        facts.processors.insert(core, processor);
    }
}

fn node_of(core: usize) -> Option<usize> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// The place of a directory, or of the nearest one above it that is there.
fn place(directory: &Path) -> Option<Place> {
    let found = directory.ancestors().find(|path| path.is_dir())?;
    let system = statfs(found).ok()?;
    /// Of linux/magic.h; nix has it not.
    const RAMFS: statfs::FsType = statfs::FsType(0x8584_58f6_u32 as _);
    Some(Place {
        directory: found.display().to_string(),
        exists: found == directory,
        in_memory: [TMPFS_MAGIC, RAMFS].contains(&system.filesystem_type()),
        free: system.blocks_available() * system.block_size() as u64,
        small_pages: in_small_pages(
            &text("/proc/self/mountinfo").unwrap_or_default(),
            &text("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default(),
            &found.canonicalize().ok()?,
        ),
    })
}

/// The mount point that a directory is on, where that is a tmpfs without large pages and the kernel could have them there.
fn in_small_pages(mounts: &str, switch: &str, directory: &Path) -> Option<String> {
    // Whatever the mount says, these two settings are for all. No such file: this kernel has none.
    if switch.is_empty() || switch.contains("[deny]") || switch.contains("[force]") {
        return None;
    }
    // `27 1 0:40 / /run rw,nosuid - tmpfs tmpfs rw,size=...`; the last of those that cover each other counts.
    let mounts = mounts.lines().filter_map(|line| {
        let (head, system) = line.split_once(" - ")?;
        let point = head.split(' ').nth(4)?.replace("\\040", " ");
        directory.starts_with(&point).then_some((point, system))
    });
    let (point, system) = mounts.max_by_key(|(point, _)| point.len())?;
    (system.starts_with("tmpfs ") && !system.contains("huge=")).then_some(point)
}

/// The same place, where what the file of flows has already counts as room for it.
fn with_own_file(mut place: Place, run_dir: &Path) -> Place {
    /// Bytes of `st_blocks`, whatever the file system has for blocks.
    const BLOCK: u64 = 512;
    let own = fs::metadata(run_dir.join(keep::FILE)).map_or(0, |file| file.blocks() * BLOCK);
    place.free += own;
    place
}

/// What /sys and the XDP interface tell of a device.
fn device(name: &str, index: u32) -> anyhow::Result<Device> {
    let base = format!("/sys/class/net/{name}");
    let number = |rest: &str| text(&format!("{base}/{rest}"))?.parse::<u64>().ok();
    let link = |rest: &str| {
        let path = fs::read_link(format!("{base}/{rest}")).ok()?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    };
    ensure!(
        number("ifindex") == Some(index.into()),
        "/sys shows another network namespace than this one, so {name} cannot be looked at: run this by `ip netns exec`"
    );
    let uevent = text(&format!("{base}/uevent")).unwrap_or_default();
    let is_veth = number("iflink") != Some(index.into()) && !uevent.contains("DEVTYPE=") && link("device").is_none();
    let survey = af_xdp::survey(name);
    Ok(Device {
        ethernet: number("type") == Some(1),
        driver: link("device/driver").or_else(|| is_veth.then(|| "veth".to_string())),
        master: link("master"),
        mtu: number("mtu").unwrap_or(0) as u32,
        xdp: survey.as_ref().map(|survey| survey.features),
        program: survey.and_then(|survey| survey.program).map(|found| Program { own: found.own, text: found.text }),
        ipv6: text(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")).as_deref() == Some("0"),
        node: number("device/numa_node").map(|node| node as usize),
        interrupts: interrupts(&base),
        spread: af_xdp::spread(name),
        ..Device::default()
    })
}

/// Interrupts of receive queues, by the number that drivers end their names with: `eth1-TxRx-0`, `virtio0-input.0`.
fn interrupts(base: &str) -> BTreeMap<usize, (u32, Vec<usize>)> {
    let names = text("/proc/interrupts").unwrap_or_default();
    let own =
        ["device/msi_irqs", "device/../msi_irqs"].iter().find_map(|path| fs::read_dir(format!("{base}/{path}")).ok());
    let own: Vec<String> =
        own.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into()).collect();
    let mut found = BTreeMap::new();
    for line in names.lines() {
        let Some((number, rest)) = line.trim_start().split_once(':') else { continue };
        let Some(name) = rest.split_whitespace().last().filter(|_| own.iter().any(|irq| irq == number)) else {
            continue;
        };
        let receives = ["rx", "input", "comp"].iter().any(|part| name.to_ascii_lowercase().contains(part));
        let queue = name.rsplit(['-', '.']).next().and_then(|last| last.parse().ok());
        let allowed = text(&format!("/proc/irq/{number}/smp_affinity_list")).map(|list| read_list(&list));
        if let (true, Some(queue), Ok(number), Some(allowed)) = (receives, queue, number.parse(), allowed) {
            found.insert(queue, (number, allowed));
        }
    }
    found
}

/// Flags and addresses of all devices.
fn addresses(facts: &mut Facts) -> anyhow::Result<()> {
    for entry in getifaddrs().context("reading the addresses of devices")? {
        let Some(device) = facts.devices.get_mut(&entry.interface_name) else { continue };
        device.up |= entry.flags.contains(InterfaceFlags::IFF_UP);
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        device.addresses.extend(v4.or(v6));
    }
    Ok(())
}

/// What ethtool netlink tells of devices.
async fn settings(facts: &mut Facts) -> anyhow::Result<()> {
    let (connection, mut handle, _) = ethtool::new_connection().context("opening a socket for ethtool")?;
    tokio::spawn(connection);
    for (name, device) in &mut facts.devices {
        // A device without such settings answers with an error.
        if let Ok(answers) = handle.channel().get(Some(name.as_str())).execute().await {
            let (mut rx, mut combined) = ((0, 0), (0, 0));
            for attribute in all(answers, |answer| answer.payload.nlas).await {
                match attribute {
                    EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(count)) => rx.0 = count,
                    EthtoolAttr::Channel(EthtoolChannelAttr::RxMax(most)) => rx.1 = most,
                    EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count)) => combined.0 = count,
                    EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(most)) => combined.1 = most,
                    _ => {}
                }
            }
            let channel = if combined.1 > 0 { "combined" } else { "rx" };
            let queues = (rx.0 + combined.0, if combined.1 > 0 { combined.1 } else { rx.1 });
            (device.channel, device.queues) = (channel, Some(queues).filter(|(now, _)| *now > 0));
        }
        if let Ok(answers) = handle.ring().get(Some(name.as_str())).execute().await {
            let mut ring = (0, 0);
            for attribute in all(answers, |answer| answer.payload.nlas).await {
                match attribute {
                    EthtoolAttr::Ring(EthtoolRingAttr::Rx(entries)) => ring.0 = entries,
                    EthtoolAttr::Ring(EthtoolRingAttr::RxMax(entries)) => ring.1 = entries,
                    _ => {}
                }
            }
            device.ring = Some(ring).filter(|(now, _)| *now > 0);
        }
        device.offloads = features(&mut handle, name).await.unwrap_or_default();
    }
    Ok(())
}

/// The offloads of a device of the thread's namespace; none where it does not tell.
pub fn offloads(name: &str) -> Option<BTreeMap<String, bool>> {
    runtime().ok()?.block_on(async {
        let (connection, mut handle, _) = ethtool::new_connection().ok()?;
        tokio::spawn(connection);
        features(&mut handle, name).await
    })
}

async fn features(handle: &mut EthtoolHandle, name: &str) -> Option<BTreeMap<String, bool>> {
    let answers = handle.feature().get(Some(name)).execute().await.ok()?;
    let (mut can, mut on, mut fixed) = (Vec::new(), Vec::new(), Vec::new());
    for attribute in all(answers, |answer| answer.payload.nlas).await {
        let (list, bits) = match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Hw(bits)) => (&mut can, bits),
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => (&mut on, bits),
            EthtoolAttr::Feature(EthtoolFeatureAttr::NoChange(bits)) => (&mut fixed, bits),
            _ => continue,
        };
        list.extend(bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name));
    }
    let changes = |name: &String| can.contains(name) && !fixed.contains(name);
    Some(on.iter().map(|name| (name.clone(), changes(name))).collect())
}

/// The attributes of all answers that come in time.
async fn all<M, E>(
    answers: impl Stream<Item = Result<M, E>>,
    attributes_of: impl Fn(M) -> Vec<EthtoolAttr>,
) -> Vec<EthtoolAttr> {
    let mut answers = std::pin::pin!(answers);
    let mut attributes = Vec::new();
    while let Ok(Some(Ok(answer))) = tokio::time::timeout(PATIENCE, answers.next()).await {
        attributes.extend(attributes_of(answer));
    }
    attributes
}

/// A small file without the white space around it.
pub fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}

/// Numbers of a list such as `0-2,5`.
fn read_list(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        let cases: [(&str, &[usize]); 4] = [("0-2,5", &[0, 1, 2, 5]), ("3", &[3]), ("", &[]), ("x,1", &[1])];
        for (list, numbers) in cases {
            assert_eq!(read_list(list), numbers);
        }
    }

    #[test]
    fn what_the_file_of_flows_has_already_is_room_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place { free: 1 << 20, ..Place::default() };
        assert_eq!(with_own_file(place.clone(), directory.path()).free, 1 << 20);
        fs::write(directory.path().join(keep::FILE), vec![1; 64 << 10]).unwrap();
        assert!(with_own_file(place, directory.path()).free >= (1 << 20) + (64 << 10));
    }

    #[test]
    fn a_tmpfs_has_large_pages_where_its_mount_or_the_kernel_says_so() {
        let mounts = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                      27 22 0:24 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=1g,mode=755\n\
                      57 27 0:40 / /run/large\\040one rw - tmpfs none rw,huge=advise\n";
        let found = |switch, directory| in_small_pages(mounts, switch, Path::new(directory));
        assert_eq!(found("always [never] deny", "/run/sumun").as_deref(), Some("/run"));
        assert_eq!(found("always [never] deny", "/run/large one/sumun"), None);
        assert_eq!(found("always [never] deny", "/runner"), None, "another file system");
        for switch in ["", "never [deny] force", "never deny [force]"] {
            assert_eq!(found(switch, "/run/sumun"), None, "{switch}");
        }
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let facts = gather(None).unwrap();
        assert!(facts.kernel >= (3, 0) && !facts.online.is_empty() && facts.memory.is_some(), "{facts:?}");
        let there = place(Path::new("/proc/no/such/directory")).unwrap();
        assert_eq!((there.directory.as_str(), there.exists), ("/proc", false));
    }
}
