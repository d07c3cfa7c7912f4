//! Which multicast groups have the host's programs joined on the TAPs? As `/proc/net/igmp` and `/proc/net/igmp6` tell.

use std::collections::HashMap;
use std::path::Path;
use sumun_config::facts::Family;

/// Groups by number of device.
pub type Groups = HashMap<u32, Vec<(Family, u128)>>;

/// Most groups in all, and most bytes that are read of a file.
const MOST: usize = 1 << 14;
const MOST_BYTES: u64 = 4 << 20;

/// The groups joined in the network namespace of the calling thread.
pub fn joined() -> Groups {
    let mut groups = Groups::new();
    for (file, add) in [("igmp", v4 as fn(&str, &mut Groups)), ("igmp6", v6)] {
        if let Ok(text) = read(&Path::new("/proc/thread-self/net").join(file)) {
            add(&text, &mut groups);
        }
    }
    groups.values_mut().for_each(|groups| {
        groups.sort_unstable_by_key(|(family, group)| (family.index(), *group));
        groups.dedup();
    });
    groups
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// A line with a number of a device, then lines of its groups, in the processor's byte order.
fn v4(text: &str, groups: &mut Groups) {
    let mut link = None;
    for line in text.lines().skip(1).take(MOST) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with(char::is_whitespace) {
            if let (Some(link), Ok(group)) = (link, u32::from_str_radix(first, 16)) {
                let group = u32::from_be_bytes(group.to_ne_bytes());
                groups.entry(link).or_default().push((Family::V4, group.into()));
            }
        } else {
            link = first.parse().ok();
        }
    }
}

/// Lines of device's number, its name, the group.
fn v6(text: &str, groups: &mut Groups) {
    for line in text.lines().take(MOST) {
        let mut words = line.split_whitespace();
        let (link, _, group) = (words.next(), words.next(), words.next());
        let link = link.and_then(|link| link.parse().ok());
        let group = group.and_then(|group| u128::from_str_radix(group, 16).ok());
        if let (Some(link), Some(group)) = (link, group) {
            groups.entry(link).or_default().push((Family::V6, group));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_tables_are_read() {
        let mut groups = Groups::new();
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n2\teth0      :     2      V2\n\t\t\t\t050000E0     1 0:00000000\t\t0\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\nnonsense\n\t\t\t\tFF\n";
        v4(igmp, &mut groups);
        v6("2    eth0            ff020000000000000000000000000005     1 00000004 0\nx y\n\n", &mut groups);
        assert_eq!(groups[&1], [(Family::V4, 0xe000_0001)]);
        let v6 = 0xff02_0000_0000_0000_0000_0000_0000_0005;
        assert_eq!(groups[&2], [(Family::V4, 0xe000_0005), (Family::V4, 0xe000_0001), (Family::V6, v6)]);
        assert_eq!(groups.len(), 2);
    }

    #[test]
    fn groups_of_this_namespace_are_found() {
        // Every IPv6 device is in the group of all nodes; the loopback is one wherever there is IPv6.
        let groups = joined();
        assert!(groups.values().flatten().all(|(family, group)| match family {
            Family::V4 => group >> 28 == 0xe,
            Family::V6 => group >> 120 == 0xff,
        }));
    }
}
