//! The cases of all matches and targets, asked of the real iptables: what Sumun takes it takes too and prints the same, and what
//! Sumun refuses it refuses. Where they are meant to differ is [`DIFFERENT`]; an entry of it that is not true fails as well.

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::process::{Command, Stdio};
use sumun_config::facts::Family;
use sumun_config::rule::option::{Case, Extension};
use sumun_config::rule::{Table, matches, targets};
use sumun_testbed::Host;

/// Cases where iptables does not do what Sumun does: what it does, and why Sumun does not.
const DIFFERENT: &[(Family, &str, Real, &str)] = {
    use Family::V4;
    use Real::{Refuses, Takes};
    const EMPTY: &str = "a range from high to low holds for nothing";
    const WRAPPED: &str = "iptables cuts what is too large down to another value without a word";
    const IGNORED: &str = "iptables leaves out a part of what was written";
    &[
        (V4, "-p udp -m udp --dport 53:52", Takes, EMPTY),
        (V4, "-p dccp -m dccp --dport 53:52", Takes, EMPTY),
        (V4, "-m conntrack --ctrepldstport 90:80", Takes, EMPTY),
        (V4, "-m iprange --src-range 10.0.0.9-10.0.0.1", Takes, EMPTY),
        (V4, "-m length --length 200:100", Takes, EMPTY),
        (V4, "-p ah -m ah --ahspi 7:5", Takes, EMPTY),
        (V4, "-p esp -m esp --espspi 6:5", Takes, EMPTY),
        (V4, "-j SNAT --to-source 1.2.3.9-1.2.3.4", Takes, EMPTY),
        (V4, "-p udp -m udp --sport 65536", Takes, WRAPPED),
        (V4, "-p dccp -m dccp --sport 65536", Takes, WRAPPED),
        (V4, "-m conntrack --ctorigsrcport 70000", Takes, WRAPPED),
        (V4, "-m connlimit --connlimit-upto 1 --connlimit-mask 33", Takes, WRAPPED),
        (V4, "-j NETMAP --to 10.0.0.0/33", Takes, WRAPPED),
        (V4, "-m helper --helper nonsense-name-that-is-very-long", Takes, WRAPPED),
        (V4, "-j LOG --log-prefix 123456789012345678901234567890", Takes, WRAPPED),
        (V4, "-j NETMAP --to 10.0.0.0/255.0.255.0", Takes, IGNORED),
        (V4, "-m conntrack --ctorigsrc 10.0.0.1/255.0.255.0", Takes, IGNORED),
        (V4, "-p tcp -j SNAT --to-source 1.2.3.4:100-200/5", Takes, IGNORED),
        (V4, "-j CONNMARK --set-mark 1 --ctmask 1", Takes, IGNORED),
        (V4, "-p tcp --syn -j TCPMSS --set-mss 100 --clamp-mss-to-pmtu", Takes, IGNORED),
        (V4, "-m addrtype --src-type UN", Takes, "it may be UNSPEC, UNICAST or UNREACHABLE; iptables takes the first"),
        (V4, "-m mac --mac-source 00:11:22:33:44:+5", Takes, "it is no MAC address"),
        (V4, "-m statistic --mode random --probability nan", Takes, "it is no number"),
        (V4, "-p tcp -j CT --helper sip", Takes, "Sumun has no helper for SIP"),
        (V4, "-m limit --limit 1/day --limit-burst 10000", Refuses, "the kernel's 32 bits overflow, Sumun's do not"),
        (V4, "-m statistic --mode nth --every 3", Refuses, "without --packet it is 0, as iptables' manual has it"),
    ]
};

/// What iptables does with a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Real {
    /// Takes what Sumun refuses.
    Takes,
    /// Refuses what Sumun takes.
    Refuses,
}

/// A case and the table that it is tried in.
struct Asked {
    table: Table,
    family: Family,
    text: &'static str,
    /// What Sumun prints; none where it refuses.
    canonical: Option<&'static str>,
}

fn asked<T>(extension: &Extension<T>) -> impl Iterator<Item = Asked> {
    let table = extension.tables.first().copied().unwrap_or(Table::Mangle);
    extension.cases.iter().map(move |case| match *case {
        Case::Prints(family, text, "=") => Asked { table, family, text, canonical: Some(text) },
        Case::Prints(family, text, canonical) => Asked { table, family, text, canonical: Some(canonical) },
        Case::Refused(family, text, _) => Asked { table, family, text, canonical: None },
    })
}

/// The real program for a family, in a namespace: to be used from inside it.
struct Iptables {
    family: Family,
}

impl Iptables {
    fn program(&self, what: &str) -> String {
        let six = if self.family == Family::V6 { "6" } else { "" };
        format!("ip{six}tables-legacy{what}")
    }

    /// Puts rules into the chain `c` of a table, which they fill alone; the reason where one of them is refused.
    fn restore(&self, table: Table, rules: &[&str]) -> Result<Result<(), String>> {
        let lines: String = rules.iter().map(|rule| format!("-A c {rule}\n")).collect();
        let text = format!("*{}\n:c - [0:0]\n{lines}COMMIT\n", table.name());
        let mut command = Command::new(self.program("-restore"));
        command.arg("-w").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        Ok(if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) })
    }

    /// The same for a rule whose words only a shell can tell apart: it knows single quotes.
    fn append(&self, table: Table, rule: &str) -> Result<Result<(), String>> {
        self.restore(table, &[])?.map_err(anyhow::Error::msg)?;
        let line = format!("{} -w -t {} -A c {rule}", self.program(""), table.name());
        let output = Command::new("sh").args(["-c", &line]).output()?;
        Ok(if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) })
    }

    fn alone(&self, table: Table, rule: &str) -> Result<Result<(), String>> {
        if rule.contains(" '") { self.append(table, rule) } else { self.restore(table, &[rule]) }
    }

    /// The rules of the chain `c`.
    fn save(&self, table: Table) -> Result<Vec<String>> {
        let output = Command::new(self.program("-save")).args(["-t", table.name()]).output()?;
        ensure!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix("-A c"))
            .map(|rule| rule.trim_start().to_string())
            .collect())
    }

    /// What it prints for each rule; the reason where it refuses it.
    fn printed(&self, table: Table, rules: &[&str]) -> Result<Vec<Result<String, String>>> {
        let together = !rules.iter().any(|rule| rule.contains(" '"));
        if together && self.restore(table, rules)?.is_ok() {
            let lines = self.save(table)?;
            ensure!(lines.len() == rules.len(), "{} lines of {} rules", lines.len(), rules.len());
            return Ok(lines.into_iter().map(Ok).collect());
        }
        match rules {
            [] => Ok(Vec::new()),
            [rule] => match self.alone(table, rule)? {
                Ok(()) => Ok(vec![Ok(self.save(table)?.join(" / "))]),
                Err(why) => Ok(vec![Err(why)]),
            },
            _ => {
                let (first, second) = rules.split_at(rules.len() / 2);
                Ok([self.printed(table, first)?, self.printed(table, second)?].concat())
            }
        }
    }
}

/// Tries cases of one family and table, and tells what is not as it should be.
fn try_all(family: Family, table: Table, cases: &[&Asked]) -> Result<Vec<String>> {
    let iptables = Iptables { family };
    let mut wrong = Vec::new();
    let mut compare = |case: &Asked, real: Result<String, String>| {
        let (family, text) = (case.family, case.text);
        let known = DIFFERENT.iter().find(|entry| entry.0 == family && entry.1 == text).map(|entry| entry.2);
        let is = |expected: Real| match (&real, expected, case.canonical) {
            (Ok(_), Real::Takes, canonical) => canonical.is_none(),
            (Err(_), Real::Refuses, canonical) => canonical.is_some(),
            _ => false,
        };
        let equal = match (&real, case.canonical) {
            (Ok(line), Some(canonical)) => line == canonical,
            (Err(_), None) => true,
            _ => false,
        };
        let end = || match &real {
            Ok(line) => format!("iptables prints {line:?}"),
            Err(why) => format!("iptables refuses it: {}", why.trim()),
        };
        let ours = case.canonical.map_or("refused".into(), |canonical| format!("printed as {canonical:?}"));
        match known {
            None if !equal => wrong.push(format!("{family:?} {} {text:?}: {ours}, {}", table.name(), end())),
            Some(expected) if !is(expected) => {
                wrong.push(format!("{family:?} {text:?}: not so any more: {expected:?}; {}", end()));
            }
            _ => {}
        }
    };
    let (taken, refused): (Vec<&Asked>, Vec<&Asked>) = cases.iter().partition(|case| case.canonical.is_some());
    let texts: Vec<&str> = taken.iter().map(|case| case.text).collect();
    for (case, real) in taken.iter().zip(iptables.printed(table, &texts)?) {
        compare(case, real);
    }
    for case in refused {
        let real = iptables.alone(table, case.text)?;
        compare(case, if real.is_ok() { Ok(iptables.save(table)?.join(" / ")) } else { real.map(|()| String::new()) });
    }
    Ok(wrong)
}

#[test]
fn iptables_takes_prints_and_refuses_the_same() -> Result<()> {
    let host = Host::new(&format!("{}-spelling", std::process::id()))?;
    let cases: Vec<Asked> = matches::EXTENSIONS
        .iter()
        .flat_map(|extension| asked(extension))
        .chain(targets::EXTENSIONS.iter().flat_map(|extension| asked(extension)))
        .collect();
    let wrong = host.inside(|| {
        let mut wrong = Vec::new();
        for family in Family::ALL {
            for table in Table::ALL {
                let of: Vec<&Asked> = cases.iter().filter(|c| (c.family, c.table) == (family, table)).collect();
                wrong.extend(try_all(family, table, &of)?);
            }
        }
        Ok(wrong)
    })?;
    let unknown: Vec<_> =
        DIFFERENT.iter().filter(|d| !cases.iter().any(|c| (c.family, c.text) == (d.0, d.1))).collect();
    assert!(unknown.is_empty(), "no such cases: {unknown:?}");
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
