//! `ipset list` and `ipset save`, and the same for programs.

use super::{Format, Listing, answer, rows};
use crate::ask::Control;
use anyhow::bail;
use std::io::Write;
use std::process::ExitCode;
use sumun_config::set::{Element, Header, print};
use sumun_dataplane::protocol::{SetAnswer, SetRequest, SetRow};

/// Prints sets.
pub fn list(control: &mut Control, listing: &Listing, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut rows = rows(control, listing.name.as_deref())?;
    // Sets of sets name the others: they come last, as ipset prints them.
    rows.sort_by_key(|row| row.header.kind == sumun_config::set::Kind::ListSet);
    if listing.names {
        rows.iter().try_for_each(|row| writeln!(out, "{}", row.name))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut objects = Vec::new();
    if listing.output == Format::Xml {
        writeln!(out, "<ipsets>")?;
    }
    for (number, row) in rows.iter().enumerate() {
        let mut elements = match listing.terse && listing.output != Format::Save {
            true => Vec::new(),
            false => elements(control, &row.name)?,
        };
        if listing.sorted || row.header.kind.is_bitmap() {
            elements.sort_by_key(|element| (element.key.a, element.key.rest, element.key.b));
        }
        match listing.output {
            Format::Plain => {
                if number > 0 {
                    writeln!(out)?;
                }
                plain(out, row, &elements, listing.terse)?;
            }
            Format::Save => save(out, row, &elements)?,
            Format::Xml => xml(out, row, &elements, listing.terse)?,
            Format::Json => objects.push(json(row, &elements, listing.terse)),
        }
    }
    match listing.output {
        Format::Xml => writeln!(out, "</ipsets>")?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &objects)?;
            writeln!(out)?;
        }
        Format::Plain | Format::Save => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn elements(control: &mut Control, name: &str) -> anyhow::Result<Vec<Element>> {
    let (mut all, mut at) = (Vec::new(), Some(0));
    while let Some(from) = at {
        match answer(control, SetRequest::Elements { name: name.to_string(), from })? {
            SetAnswer::Elements { elements, next } => {
                all.extend(elements);
                at = next;
            }
            _ => bail!("sumun-dataplane gave an answer to another question"),
        }
    }
    Ok(all)
}

fn plain(out: &mut impl Write, row: &SetRow, elements: &[Element], terse: bool) -> anyhow::Result<()> {
    let SetRow { name, header, memory, references, entries, .. } = row;
    writeln!(out, "Name: {name}\nType: {}\nRevision: {}", header.kind.name(), header.kind.revision())?;
    writeln!(out, "Header: {}\nSize in memory: {memory}", print::header(header))?;
    writeln!(out, "References: {references}\nNumber of entries: {entries}")?;
    if !terse {
        writeln!(out, "Members:")?;
        elements.iter().try_for_each(|element| writeln!(out, "{}", shown(header, element)))?;
    }
    Ok(())
}

fn shown(header: &Header, element: &Element) -> String {
    let mut text = String::new();
    print::element(header, element, &mut text);
    text
}

fn save(out: &mut impl Write, row: &SetRow, elements: &[Element]) -> anyhow::Result<()> {
    let SetRow { name, header, .. } = row;
    writeln!(out, "create {name} {} {}", header.kind.name(), print::header(header))?;
    Ok(elements.iter().try_for_each(|element| writeln!(out, "add {name} {}", shown(header, element)))?)
}

/// Name and value of each option of the header; none for a flag.
fn options(header: &Header) -> Vec<(String, Option<String>)> {
    let text = print::header(header);
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut options = Vec::new();
    while let Some(name) = words.next() {
        let takes = sumun_config::set::header::takes(name) == Some(sumun_config::set::header::Takes::Word);
        options.push((name.to_string(), if takes { words.next().map(str::to_string) } else { None }));
    }
    options
}

/// The element and its options, as [`options`].
fn parts(header: &Header, element: &Element) -> (String, Vec<(&'static str, Option<String>)>) {
    let mut key = String::new();
    let extra = element.extra.as_deref().cloned().unwrap_or_default();
    print::key(header, &element.key, Some(&extra), &mut key);
    let rest = shown(header, element);
    let words = sumun_config::set::entry::words(&rest[key.len()..], 0).unwrap_or_default();
    let mut words = words.into_iter();
    let mut parts = Vec::new();
    const NAMES: [&str; 9] =
        ["timeout", "nomatch", "wildcard", "packets", "bytes", "comment", "skbmark", "skbprio", "skbqueue"];
    while let Some(word) = words.next() {
        let Some(name) = NAMES.into_iter().find(|name| *name == word.text) else { continue };
        let flag = matches!(name, "nomatch" | "wildcard");
        parts.push((name, if flag { None } else { words.next().map(|word| word.text) }));
    }
    (key, parts)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn xml(out: &mut impl Write, row: &SetRow, elements: &[Element], terse: bool) -> anyhow::Result<()> {
    let tag = |(name, value): &(String, Option<String>)| match value {
        Some(value) => format!("<{name}>{}</{name}>", escaped(value)),
        None => format!("<{name}/>"),
    };
    let SetRow { name, header, memory, references, entries, .. } = row;
    writeln!(out, "<ipset name=\"{}\">\n<type>{}</type>", escaped(name), header.kind.name())?;
    let head: String = options(header).iter().map(tag).collect();
    writeln!(out, "<revision>{}</revision>\n<header>{head}", header.kind.revision())?;
    writeln!(out, "<memsize>{memory}</memsize>\n<references>{references}</references>")?;
    writeln!(out, "<numentries>{entries}</numentries>\n</header>")?;
    if !terse {
        writeln!(out, "<members>")?;
        for element in elements {
            let (key, parts) = parts(header, element);
            let more: String = parts.into_iter().map(|(name, value)| tag(&(name.to_string(), value))).collect();
            writeln!(out, "<member><elem>{}</elem>{more}</member>", escaped(&key))?;
        }
        writeln!(out, "</members>")?;
    }
    Ok(writeln!(out, "</ipset>")?)
}

fn json(row: &SetRow, elements: &[Element], terse: bool) -> serde_json::Value {
    let value = |value: Option<String>| match value {
        None => true.into(),
        Some(text) => text.parse::<u64>().map_or_else(|_| text.into(), serde_json::Value::from),
    };
    let header: serde_json::Map<_, _> =
        options(&row.header).into_iter().map(|(name, given)| (name, value(given))).collect();
    let member = |element: &Element| {
        let (key, parts) = parts(&row.header, element);
        let mut object = serde_json::Map::new();
        object.insert("elem".to_string(), key.into());
        for (name, given) in parts {
            let is_text = name == "comment";
            let given = if is_text { given.map_or(true.into(), serde_json::Value::from) } else { value(given) };
            object.insert(name.to_string(), given);
        }
        serde_json::Value::Object(object)
    };
    let mut set = serde_json::json!({
        "name": row.name,
        "type": row.header.kind.name(),
        "revision": row.header.kind.revision(),
        "header": header,
        "memory": row.memory,
        "references": row.references,
        "entries": row.entries,
        "declared": row.declared,
    });
    if let (false, Some(object)) = (terse, set.as_object_mut()) {
        object.insert("members".to_string(), elements.iter().map(member).collect());
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::set::save::sets;

    fn row(text: &str) -> (SetRow, Vec<Element>) {
        let set = sets(text).unwrap().remove(0);
        let (name, entries) = (set.header.name.clone(), set.elements.len() as u64);
        (SetRow { name, header: set.header, memory: 64, references: 1, entries, declared: true }, set.elements)
    }

    #[test]
    fn sets_are_listed_as_ipset_lists_them() {
        let (row, elements) = row("create bad hash:net family inet timeout 600 counters comment\n\
             add bad 192.0.2.0/24 timeout 60 packets 3 bytes 5 comment \"a <b>\"\nadd bad 192.0.2.1 timeout 0 nomatch\n");
        let mut out = Vec::new();
        plain(&mut out, &row, &elements, false).unwrap();
        let expected = "Name: bad\nType: hash:net\nRevision: 7\n\
            Header: family inet hashsize 1024 maxelem 65536 timeout 600 counters comment bucketsize 12\n\
            Size in memory: 64\nReferences: 1\nNumber of entries: 2\nMembers:\n\
            192.0.2.0/24 timeout 60 packets 3 bytes 5 comment \"a <b>\"\n192.0.2.1 timeout 0 nomatch\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        xml(&mut out, &row, &elements, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("<header><family>inet</family><hashsize>1024</hashsize>"), "{text}");
        assert!(text.contains("<counters/>"), "{text}");
        let member = "<member><elem>192.0.2.0/24</elem><timeout>60</timeout><packets>3</packets><bytes>5</bytes>\
            <comment>a &lt;b&gt;</comment></member>";
        assert!(text.contains(member), "{text}");
        let json = json(&row, &elements, false);
        assert_eq!((&json["header"]["timeout"], &json["header"]["counters"]), (&600.into(), &true.into()));
        assert_eq!(
            (&json["members"][0]["elem"], &json["members"][1]["nomatch"]),
            (&"192.0.2.0/24".into(), &true.into())
        );
    }

    #[test]
    fn what_is_saved_reads_as_the_same() {
        let text = "create bad hash:ip,port family inet hashsize 1024 maxelem 65536 skbinfo bucketsize 12\n\
            add bad 192.0.2.1,tcp:80 skbmark 0x1/0xff skbprio 1:10 skbqueue 7\nadd bad 192.0.2.1,icmp:echo-request\n";
        let (row, elements) = row(text);
        let mut out = Vec::new();
        save(&mut out, &row, &elements).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
