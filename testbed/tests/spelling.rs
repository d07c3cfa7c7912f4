//! The cases of all matches and targets, asked of the real iptables: what Sumun takes it takes too and prints the same, and what
//! Sumun refuses it refuses. Where they are meant to differ is [`DIFFERENT`]; an entry of it that is not true fails as well.

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use sumun_config::facts::Family;
use sumun_config::rule::option::{Case, Extension};
use sumun_config::rule::{Families, Hook, Reach, Site, Table, matches, parse_text, targets};
use sumun_config::set::{samples, save};
use sumun_testbed::Host;

/// Cases where iptables does not do what Sumun does: what it does, and why Sumun does not.
const DIFFERENT: &[(Family, &str, Real, &str)] = {
    use Family::{V4, V6};
    use Real::{Refuses, Takes};
    const EMPTY: &str = "a range from high to low holds for nothing";
    const WRAPPED: &str = "iptables cuts what is too large down to another value without a word";
    const BORN: &str = "the kernel wants to be told of an account beforehand";
    const NAMELESS: &str = "it is printed so that it cannot be read";
    const NO_LSM: &str = "the kernel has no security module that knows the context";
    const IGNORED: &str = "iptables leaves out a part of what was written";
    &[
        (V4, "-p udp -m udp --dport 53:52", Takes, EMPTY),
        (V4, "-p dccp -m dccp --dport 53:52", Takes, EMPTY),
        (V4, "-m conntrack --ctrepldstport 90:80", Takes, EMPTY),
        (V4, "-m iprange --src-range 10.0.0.9-10.0.0.1", Takes, EMPTY),
        (V4, "-m length --length 200:100", Takes, EMPTY),
        (V4, "-p ah -m ah --ahspi 7:5", Takes, EMPTY),
        (V4, "-p esp -m esp --espspi 6:5", Takes, EMPTY),
        (V4, "-m u32 --u32 0=5:3", Takes, EMPTY),
        (V4, r#"-m bpf --bytecode "2,32 0 0 4294963208,6 0 0 1""#, Takes, "Sumun's ports have no numbers of a kernel"),
        (V6, "-m frag --fragid 6:5", Takes, EMPTY),
        (V6, "-m rt --rt-segsleft 2:1", Takes, EMPTY),
        (V6, "-m srh --srh-hdr-len-gt 7 --srh-hdr-len-lt 9", Takes, IGNORED),
        (V6, "-m srh --srh-lsid a::1/ffff::ffff", Takes, IGNORED),
        (V4, "-j SNAT --to-source 1.2.3.9-1.2.3.4", Takes, EMPTY),
        (V4, "-p udp -m udp --sport 65536", Takes, WRAPPED),
        (V4, "-p dccp -m dccp --sport 65536", Takes, WRAPPED),
        (V4, "-m conntrack --ctorigsrcport 70000", Takes, WRAPPED),
        (V4, "-m connlimit --connlimit-upto 1 --connlimit-mask 33", Takes, WRAPPED),
        (V4, "-m policy --dir in --pol ipsec --mode tunnel --tunnel-src 1.2.3.4/33", Takes, WRAPPED),
        (V4, "-j NETMAP --to 10.0.0.0/33", Takes, WRAPPED),
        (V4, "-p tcp -j SYNPROXY --mss 65536", Takes, WRAPPED),
        (V4, "-p tcp -j SYNPROXY --wscale 256", Takes, WRAPPED),
        (V4, "-j IDLETIMER --label sumun-7890123456789012345678 --timeout 5", Takes, WRAPPED),
        (V4, "-j RATEEST --rateest-name a234567890123456 --rateest-interval 1s --rateest-ewmalog 2s", Takes, WRAPPED),
        (V4, "-m rateest --rateest z --rateest-gt --rateest-bps 40gbit", Takes, WRAPPED),
        (V4, "-m recent --rcheck --seconds 2147483648", Takes, WRAPPED),
        (V4, "-m helper --helper nonsense-name-that-is-very-long", Takes, WRAPPED),
        (V4, "-j LOG --log-prefix 123456789012345678901234567890", Takes, WRAPPED),
        (
            V4,
            "-j NFLOG --nflog-prefix 1234567890123456789012345678901234567890123456789012345678901234",
            Takes,
            WRAPPED,
        ),
        (V4, "-j SECMARK --selctx system_u:object_r:httpd_packet_t:s0", Refuses, NO_LSM),
        (V6, "-p tcp -j SECMARK --selctx system_u:object_r:ssh_packet_t:s0-s15:c0.c1023", Refuses, NO_LSM),
        (V4, "-j NETMAP --to 10.0.0.0/255.0.255.0", Takes, IGNORED),
        (V4, "-m conntrack --ctorigsrc 10.0.0.1/255.0.255.0", Takes, IGNORED),
        (V4, "-p tcp -j SNAT --to-source 1.2.3.4:100-200/5", Takes, IGNORED),
        (V4, "-j CONNMARK --set-mark 1 --ctmask 1", Takes, IGNORED),
        (V4, "-m policy --dir in --pol none --reqid 1", Takes, IGNORED),
        (V6, "-m physdev --physdev-out \"\"", Takes, NAMELESS),
        (V4, "-m physdev --physdev-out \"a b\"", Takes, NAMELESS),
        (V4, "-p tcp --syn -j TCPMSS --set-mss 100 --clamp-mss-to-pmtu", Takes, IGNORED),
        (V4, "-m addrtype --src-type UN", Takes, "it may be UNSPEC, UNICAST or UNREACHABLE; iptables takes the first"),
        (V4, "-m mac --mac-source 00:11:22:33:44:+5", Takes, "it is no MAC address"),
        (V4, "-m statistic --mode random --probability nan", Takes, "it is no number"),
        (V4, "-p tcp -j CT --helper sip", Takes, "Sumun has no helper for SIP"),
        (
            V4,
            "-m recent --rcheck --seconds 2147483648",
            Takes,
            "iptables-save prints it negative, and iptables refuses that",
        ),
        (
            V4,
            "-m hashlimit --hashlimit-upto 15b/s --hashlimit-name a",
            Takes,
            "iptables-save prints 0b/s, and iptables refuses that",
        ),
        (V4, "-m hashlimit --hashlimit-upto 10KB/s --hashlimit-name a", Takes, "iptables takes it for ten packets"),
        (V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-rate-interval 10 --hashlimit-name a", Takes, IGNORED),
        (V4, "-m limit --limit 1/day --limit-burst 10000", Refuses, "the kernel's 32 bits overflow, Sumun's do not"),
        (V4, "-m nfacct --nfacct-name web", Refuses, BORN),
        (V6, "-m nfacct --nfacct-name \"two words\"", Refuses, BORN),
        (V4, "-p tcp -m osf --genre \"Mac OS\"", Takes, NAMELESS),
        (V4, "-p tcp -m osf --genre abcdefghijklmnopqrstuvwxyz012345", Takes, WRAPPED),
        (V4, "-m statistic --mode nth --every 3", Refuses, "without --packet it is 0, as iptables' manual has it"),
    ]
};

/// Words of cases that iptables refuses in a table where Sumun takes them, and why.
const ELSEWHERE: &[(Table, &str, &str)] =
    &[(Table::Nat, " DROP", "the kernel can; the program thinks that one should not, whatever the rules are for")];

/// What iptables does with a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Real {
    /// Takes what Sumun refuses.
    Takes,
    /// Refuses what Sumun takes.
    Refuses,
}

/// A case and the table that it is tried in.
#[derive(Clone, Copy)]
struct Asked {
    /// The extension that it is one of.
    of: &'static str,
    table: Table,
    family: Family,
    text: &'static str,
    /// What Sumun prints; none where it refuses.
    canonical: Option<&'static str>,
}

fn asked<T>(extension: &Extension<T>) -> impl Iterator<Item = Asked> {
    let of = extension.name;
    let table = extension.tables.first().copied().unwrap_or(Table::Mangle);
    extension.cases.iter().map(move |case| match *case {
        Case::Prints(family, text, "=") => Asked { of, table, family, text, canonical: Some(text) },
        Case::Prints(family, text, canonical) => Asked { of, table, family, text, canonical: Some(canonical) },
        Case::Refused(family, text, _) => Asked { of, table, family, text, canonical: None },
    })
}

fn all_asked() -> Vec<Asked> {
    let matches = matches::EXTENSIONS.iter().flat_map(|extension| asked(extension));
    matches.chain(targets::EXTENSIONS.iter().flat_map(|extension| asked(extension))).collect()
}

/// A chain of the real program for a family, in a namespace: to be used from inside it.
#[derive(Clone, Copy)]
struct Chain {
    family: Family,
    table: Table,
    name: &'static str,
}

impl Chain {
    /// A chain that nobody jumps to.
    fn user(family: Family, table: Table) -> Chain {
        Chain { family, table, name: "c" }
    }

    fn program(self, what: &str) -> String {
        let six = if self.family == Family::V6 { "6" } else { "" };
        format!("ip{six}tables-legacy{what}")
    }

    /// Fills the chain with rules and empties all others of the table; the reason where one of them is refused.
    fn restore(self, rules: &[&str]) -> Result<Result<(), String>> {
        let lines: String = rules.iter().map(|rule| format!("-A {} {rule}\n", self.name)).collect();
        let policy = if self.name == "c" { "-" } else { "ACCEPT" };
        let text = format!("*{}\n:{} {policy} [0:0]\n{lines}COMMIT\n", self.table.name(), self.name);
        let mut command = Command::new(self.program("-restore"));
        command.arg("-w").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
        Ok(success(&child.wait_with_output()?))
    }

    /// The same for a rule whose words only a shell can tell apart: it knows single quotes.
    fn append(self, rule: &str) -> Result<Result<(), String>> {
        self.restore(&[])?.map_err(anyhow::Error::msg)?;
        let line = format!("{} -w -t {} -A {} {rule}", self.program(""), self.table.name(), self.name);
        Ok(success(&Command::new("sh").args(["-c", &line]).output()?))
    }

    fn alone(self, rule: &str) -> Result<Result<(), String>> {
        if rule.contains(" '") { self.append(rule) } else { self.restore(&[rule]) }
    }

    /// The rules of the chain.
    fn save(self) -> Result<Vec<String>> {
        let output = Command::new(self.program("-save")).args(["-t", self.table.name()]).output()?;
        ensure!(output.status.success());
        let start = format!("-A {}", self.name);
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix(&start))
            .map(|rule| rule.trim_start().to_string())
            .collect())
    }

    /// What it prints for each rule; the reason where it refuses it.
    fn printed(self, rules: &[&str]) -> Result<Vec<Result<String, String>>> {
        let together = !rules.iter().any(|rule| rule.contains(" '"));
        if together && self.restore(rules)?.is_ok() {
            let lines = self.save()?;
            ensure!(lines.len() == rules.len(), "{} lines of {} rules", lines.len(), rules.len());
            return Ok(lines.into_iter().map(Ok).collect());
        }
        match rules {
            [] => Ok(Vec::new()),
            [rule] => match self.alone(rule)? {
                Ok(()) => Ok(vec![Ok(self.save()?.join(" / "))]),
                Err(why) => Ok(vec![Err(why)]),
            },
            _ => {
                let (first, second) = rules.split_at(rules.len() / 2);
                Ok([self.printed(first)?, self.printed(second)?].concat())
            }
        }
    }
}

/// The sets that cases name.
fn make_sets() -> Result<()> {
    let mut child = Command::new("ipset").arg("restore").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(save::print(samples::sets()).as_bytes())?;
    success(&child.wait_with_output()?).map_err(anyhow::Error::msg)
}

fn success(output: &Output) -> Result<(), String> {
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_string()) }
}

fn known(case: &Asked) -> Option<Real> {
    DIFFERENT.iter().find(|entry| entry.0 == case.family && entry.1 == case.text).map(|entry| entry.2)
}

/// What is not as it should be with a case; nothing as a rule.
fn wrong(case: &Asked, real: &Result<String, String>) -> Option<String> {
    let Asked { family, text, table, canonical, .. } = *case;
    let end = match real {
        Ok(line) => format!("iptables prints {line:?}"),
        Err(why) => format!("iptables refuses it: {why}"),
    };
    let is = match (real, known(case), canonical) {
        (Ok(line), None, Some(canonical)) => line == canonical,
        (Err(_), None, None) | (Ok(_), Some(Real::Takes), None) | (Err(_), Some(Real::Refuses), Some(_)) => true,
        _ => false,
    };
    let ours = match (known(case), canonical) {
        (Some(known), _) => format!("not so any more: {known:?}"),
        (None, Some(canonical)) => format!("printed as {canonical:?}"),
        (None, None) => "refused".into(),
    };
    (!is).then(|| format!("{family:?} {} {text:?}: {ours}, {end}", table.name()))
}

/// Tries cases of one family and table, and tells what is not as it should be.
fn try_all(family: Family, table: Table, cases: &[&Asked]) -> Result<Vec<String>> {
    let chain = Chain::user(family, table);
    let (taken, refused): (Vec<&Asked>, Vec<&Asked>) = cases.iter().partition(|case| case.canonical.is_some());
    let texts: Vec<&str> = taken.iter().map(|case| case.text).collect();
    let printed = chain.printed(&texts)?;
    let mut found: Vec<String> = taken.iter().zip(&printed).filter_map(|(case, real)| wrong(case, real)).collect();
    for case in refused {
        let real = match chain.alone(case.text)? {
            Ok(()) => Ok(chain.save()?.join(" / ")),
            Err(why) => Err(why),
        };
        found.extend(wrong(case, &real));
    }
    Ok(found)
}

#[test]
fn iptables_takes_prints_and_refuses_the_same() -> Result<()> {
    let host = Host::new(&format!("{}-spelling", std::process::id()))?;
    make_estimators(&host)?;
    let cases = all_asked();
    let found = host.inside(|| {
        make_sets()?;
        let mut found = Vec::new();
        for family in Family::ALL {
            for table in Table::ALL {
                let of: Vec<&Asked> = cases.iter().filter(|c| (c.family, c.table) == (family, table)).collect();
                found.extend(try_all(family, table, &of)?);
            }
        }
        Ok(found)
    })?;
    let unknown: Vec<_> =
        DIFFERENT.iter().filter(|d| !cases.iter().any(|c| (c.family, c.text) == (d.0, d.1))).collect();
    assert!(unknown.is_empty(), "no such cases: {unknown:?}");
    assert!(found.is_empty(), "{} cases differ:\n{}", found.len(), found.join("\n"));
    Ok(())
}

/// Makes the estimators that cases of `-m rateest` ask for, with a program whose chains the others do not touch.
fn make_estimators(host: &Host) -> Result<()> {
    for name in ["y", "z"] {
        let rule = [
            "-A",
            "OUTPUT",
            "-j",
            "RATEEST",
            "--rateest-name",
            name,
            "--rateest-interval",
            "1s",
            "--rateest-ewmalog",
            "2s",
        ];
        host.run(&[&["iptables-nft"], &rule[..]].concat())?;
    }
    Ok(())
}

/// The built-in chains of all tables.
fn built_in(family: Family) -> impl Iterator<Item = (Chain, Hook)> {
    Table::ALL.into_iter().flat_map(move |table| {
        table.hooks().iter().map(move |&hook| (Chain { family, table, name: hook.name() }, hook))
    })
}

/// Whether Sumun takes a text in a built-in chain.
fn takes(text: &str, chain: Chain, hook: Hook) -> bool {
    let ports = ["lan0", "lan1", "wan0", "eth0"].map(String::from);
    let site = Site {
        families: Families::Only(chain.family),
        table: chain.table,
        reach: Reach::BuiltIn(hook),
        ports: &ports,
        names: samples::names(),
        base: 0,
        line: 0,
    };
    parse_text(text, &site).is_ok()
}

#[test]
fn iptables_takes_them_in_the_same_chains() -> Result<()> {
    let host = Host::new(&format!("{}-places", std::process::id()))?;
    make_estimators(&host)?;
    let mut cases = all_asked();
    cases.retain(|case| case.canonical.is_some() && known(case).is_none());
    let found = host.inside(|| {
        make_sets()?;
        let mut found = Vec::new();
        for family in Family::ALL {
            let cases: Vec<Asked> = cases.iter().filter(|case| case.family == family).copied().collect();
            let inhibited = |table: Table, text: &str| ELSEWHERE.iter().any(|e| e.0 == table && text.contains(e.1));
            let mut refused: Vec<Vec<bool>> = vec![Vec::new(); cases.len()];
            for (chain, hook) in built_in(family) {
                let taken: Vec<bool> = cases.iter().map(|case| takes(case.text, chain, hook)).collect();
                let texts: Vec<&str> =
                    cases.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(c, _)| c.text).collect();
                for (text, real) in texts.iter().zip(chain.printed(&texts)?) {
                    if real.is_ok() == inhibited(chain.table, text) {
                        found.push(format!("{family:?} {} {}: {text:?}: {real:?}", chain.table.name(), chain.name));
                    }
                }
                refused.iter_mut().zip(taken).for_each(|(refused, taken)| refused.push(!taken));
            }
            // Of an extension's cases that are refused in the same chains, one is asked.
            let mut asked: Vec<(&str, &[bool])> = Vec::new();
            for (case, refused) in cases.iter().zip(&refused) {
                if asked.contains(&(case.of, refused)) {
                    continue;
                }
                asked.push((case.of, refused));
                for ((chain, _), _) in built_in(family).zip(refused).filter(|(_, refused)| **refused) {
                    if chain.alone(case.text)?.is_ok() {
                        let place = format!("{family:?} {} {}", chain.table.name(), chain.name);
                        found.push(format!("{place}: {:?} is refused, iptables takes it", case.text));
                    }
                }
            }
        }
        Ok(found)
    })?;
    assert!(found.is_empty(), "{} differ:\n{}", found.len(), found.join("\n"));
    Ok(())
}
