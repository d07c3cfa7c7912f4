//! Looks into other namespaces: at the other ends of veths, and at where the TAPs are. A thread goes there, looks and ends.

use super::facts::{Chain, Facts, HostLink, HostSide, OtherEnd, Peer};
use super::gather::{offloads, text};
use super::host::{KEEPERS, ROUTERS};
use super::netlink::{self, Seen};
use nix::net::if_::if_indextoname;
use nix::sched::{CloneFlags, setns};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use sumun_config::model::Host;

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// What is read of each device's settings.
const SETTINGS: [(&str, &[&str]); 2] =
    [("ipv4", &["rp_filter"]), ("ipv6", &["disable_ipv6", "accept_ra", "forwarding"])];

/// What of other namespaces matters.
pub fn look(facts: &mut Facts, host: Option<&Host>, taps: &[&str]) {
    let own = netlink::links().unwrap_or_default();
    for seen in &own {
        if let Some(device) = facts.devices.get_mut(&seen.name) {
            device.promiscuous = seen.is_promiscuous;
            device.peer = (seen.kind == "veth").then(|| peer(seen));
        }
    }
    facts.host = host.map(|host| match &host.namespace {
        None => host_side(Path::new("/proc/thread-self/ns/net"), taps),
        Some(name) => {
            let path = Path::new(NAMESPACES).join(name);
            let looked = File::open(&path).ok().and_then(|file| inside(&file, || host_side(&path, taps)));
            looked.unwrap_or_else(|| HostSide { has_taps: has_taps(), ..HostSide::default() })
        }
    });
}

/// Runs code on a thread of a namespace; none where it cannot get there.
fn inside<T: Send>(namespace: &File, code: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).ok()?;
            Some(code())
        });
        thread.join().ok().flatten()
    })
}

/// The other end of a veth.
fn peer(seen: &Seen) -> Peer {
    let Some((index, namespace)) = seen.other else { return Peer::Unseen };
    let end = match namespace {
        None => other_end(index, ""),
        Some(number) => places()
            .into_iter()
            .find_map(|(prefix, file)| {
                (netlink::number_of(&file) == Some(number)).then(|| inside(&file, || other_end(index, &prefix)))?
            })
            .flatten(),
    };
    end.map_or(Peer::Unseen, Peer::Seen)
}

/// A device of the thread's namespace.
fn other_end(index: u32, prefix: &str) -> Option<OtherEnd> {
    let name = if_indextoname(index).ok()?.into_string().ok()?;
    Some(OtherEnd { offloads: offloads(&name)?, name, prefix: prefix.to_string() })
}

/// The namespaces that can be found: what comes before a command that is to be run there, and the way there. Those with names first.
fn places() -> Vec<(String, File)> {
    let named = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let named = named.map(|entry| (format!("ip netns exec {} ", entry.file_name().to_string_lossy()), entry.path()));
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let of_processes = processes.map(|process| {
        (format!("nsenter -t {} -n ", process.pid), Path::new("/proc").join(process.pid.to_string()).join("ns/net"))
    });
    let mut known = HashSet::new();
    named
        .chain(of_processes)
        .filter_map(|(prefix, path)| Some((prefix, known.insert(fs::metadata(&path).ok()?.ino()).then_some(path)?)))
        .filter_map(|(prefix, path)| Some((prefix, File::open(path).ok()?)))
        .collect()
}

fn has_taps() -> bool {
    Path::new("/dev/net/tun").exists()
}

/// What the thread's namespace, which `path` is, is like.
fn host_side(path: &Path, taps: &[&str]) -> HostSide {
    let links = netlink::links().unwrap_or_default();
    let name_of = |index: u32| Some(links.iter().find(|link| link.index == index)?.name.clone());
    let rows = links.iter().map(|link| {
        // With a number of another namespace it is not here.
        let below = link.other.filter(|(_, namespace)| namespace.is_none()).and_then(|(index, _)| name_of(index));
        (link.name.clone(), HostLink { kind: link.kind.clone(), mac: link.mac.clone(), below })
    });
    let mut chains = netlink::chains();
    chains.extend(legacy());
    HostSide {
        is_there: true,
        has_taps: has_taps(),
        loopback: links.iter().any(|link| link.name == "lo" && link.is_up),
        chains,
        settings: settings(taps),
        programs: programs(path),
        links: rows.collect(),
    }
}

/// Tables of iptables-legacy. Whether they are empty only their own programs can tell.
fn legacy() -> Vec<Chain> {
    let of = |(family, file): (&str, &str)| {
        let names = text(&format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        let family = family.to_string();
        let chain = move |table: &str| Chain {
            family: family.clone(),
            table: table.to_string(),
            name: String::new(),
            hook: "legacy".to_string(),
        };
        names.lines().map(chain).collect::<Vec<_>>()
    };
    [("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")].into_iter().flat_map(of).collect()
}

/// Of all devices, of those to come, and of the TAPs. /proc/sys/net shows the namespace of whoever reads it.
fn settings(taps: &[&str]) -> BTreeMap<String, String> {
    let devices = ["all", "default"].into_iter().chain(taps.iter().copied());
    let keys = devices.flat_map(|device| {
        SETTINGS
            .iter()
            .flat_map(move |(family, keys)| keys.iter().map(move |key| format!("{family}/conf/{device}/{key}")))
    });
    keys.filter_map(|key| Some((text(&format!("/proc/sys/net/{key}"))?, key)))
        .map(|(value, key)| (key, value))
        .collect()
}

/// Programs of interest whose namespace it is.
fn programs(path: &Path) -> Vec<String> {
    let Ok(own) = fs::metadata(path) else { return Vec::new() };
    let known = |name: &str| ROUTERS.contains(&name) || KEEPERS.iter().any(|(keeper, _)| *keeper == name);
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let names = processes.filter_map(|process| {
        let name = process.stat().ok()?.comm;
        let there = fs::metadata(format!("/proc/{}/ns/net", process.pid)).ok()?;
        (known(&name) && there.ino() == own.ino()).then_some(name)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}
