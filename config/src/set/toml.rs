//! Sets as sections of a configuration.

use super::{Declaration, print};
use std::fmt::Write;

/// Writes sections `[sets.NAME]` that read as these sets.
pub fn toml(sets: &[Declaration]) -> String {
    let mut out = String::new();
    for Declaration { header, elements } in sets {
        let blank = if out.is_empty() { "" } else { "\n" };
        let _ = writeln!(out, "{blank}[sets.{}]\ntype = \"{}\"", key(&header.name), header.kind.name());
        let options = print::header(header);
        let mut words = options.split(' ').filter(|word| !word.is_empty());
        while let Some(name) = words.next() {
            let takes = super::header::takes(name) == Some(super::header::Takes::Word);
            let value = if takes { words.next() } else { None };
            match value {
                Some(value) if value.bytes().all(|byte| byte.is_ascii_digit()) => writeln!(out, "{name} = {value}"),
                Some(value) => writeln!(out, "{name} = {}", quoted(value)),
                None => writeln!(out, "{name} = true"),
            }
            .unwrap_or_default();
        }
        if !elements.is_empty() {
            out.push_str("elements = [\n");
            for element in elements {
                let mut text = String::new();
                print::element(header, element, &mut text);
                let _ = writeln!(out, "    {},", quoted(&text));
            }
            out.push_str("]\n");
        }
    }
    out
}

fn key(name: &str) -> String {
    let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { name.to_string() } else { quoted(name) }
}

/// A basic string: nothing in names and elements is a control character.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Source;
    use crate::set::save;

    #[test]
    fn what_ipset_saved_is_the_same_as_sections() {
        let text = "create bad hash:net family inet hashsize 1024 maxelem 70 timeout 60 counters comment bucketsize 12\n\
            add bad 192.0.2.0/24 timeout 0 packets 3 bytes 5 comment \"a \\ b\"\nadd bad 192.0.2.7 nomatch\n\
            create v4.hosts hash:ip family inet6 netmask 64 skbinfo initval 0x00000005\n\
            add v4.hosts 2001:db8:: skbmark 0x1/0xff\n\
            create web bitmap:port range 0-1023\nadd web 80\n\
            create marks hash:ip,mark markmask 0xff\nadd marks 192.0.2.1,0x5\n\
            create all list:set size 8\nadd all bad\nadd all web\n";
        let sets = save::sets(text).unwrap();
        let file = format!("[interfaces.lan0]\naddresses = []\n{}", toml(&sets));
        let (config, _) =
            crate::schema::load(&Source::new("x.toml", file.as_str())).unwrap_or_else(|e| panic!("{file}: {e:?}"));
        // Sections have no order of their own.
        let sorted = |mut sets: Vec<Declaration>| {
            sets.sort_by(|a, b| a.header.name.cmp(&b.header.name));
            sets
        };
        assert_eq!(sorted(config.policy.sets), sorted(sets));
    }

    #[test]
    fn mistakes_of_a_section_are_told_with_their_places() {
        let file = "[interfaces.lan0]\naddresses = []\n[sets.a]\ntype = \"hash:nett\"\n[sets.b]\nfamily = \"inet\"\n\
            [sets.c]\ntype = \"hash:ip\"\nmaxelems = 3\nelements = [\"192.0.2.1 timeout 5\", \"192.0.2\", 7]\n\
            [sets.d]\ntype = \"hash:ip\"\nelements = [\"192.0.2.1 timeout 5\", \"192.0.2\", \"fe80::1\"]\n\
            [sets.e]\ntype = \"hash:ip\"\nmaxelem = 1\nelements = [\"192.0.2.1\", \"192.0.2.2\"]\n\
            [sets.f]\ntype = \"list:set\"\nelements = [\"d\", \"nowhere\", \"f\"]\n\
            [sets.g]\nfrom = \"nowhere.ipset\"\n\
            [filter.INPUT]\nrules = [\"-m set --match-set a src\", \"-m set --match-set h src\"]\n";
        let found = crate::schema::load(&Source::new("x.toml", file)).expect_err("mistakes");
        let shown: Vec<String> = found
            .iter()
            .map(|d| format!("{}: {}", &file[d.at.clone()].lines().next().unwrap_or(""), d.message))
            .collect();
        let expected = [
            "\"hash:nett\": `type` cannot be \"hash:nett\"",
            "b: `type` is missing in [sets.b]",
            "maxelems: hash:ip has no option `maxelems`",
            "timeout: `timeout` cannot be used: the set was created without timeout",
            "192.0.2: `192.0.2` is not an IPv4 address",
            "fe80::1: `fe80::1` is an IPv6 address in an IPv4 rule",
            "e: the set `e` has 2 elements",
            "h: there is no set `h`",
        ];
        for expected in expected {
            assert!(shown.iter().any(|line| line == expected), "{expected}\n{shown:#?}");
        }
        assert!(shown.iter().any(|line| line.contains("holds a set that is not there: `nowhere`")), "{shown:#?}");
        assert!(shown.iter().any(|line| line.contains("cannot read nowhere.ipset")), "{shown:#?}");
        assert!(!shown.iter().any(|line| line.contains("no set `a`")), "the mistake of a is told already: {shown:#?}");
    }
}
