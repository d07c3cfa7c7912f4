//! The status page: one HTML document without scripts or pictures, which loads itself anew.

use super::{Snapshot, class};
use crate::protocol::{PortStatus, QueueLosses};
use std::fmt::Write;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:70em;color:#222}\
table{border-collapse:collapse;margin:.5em 0 1.5em}th,td{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}\
th{color:#555;font-weight:600}td.t,th.t{text-align:left}h1{font-size:1.4em}h2{font-size:1.1em;margin:0}";

/// The page; rates where there is a snapshot of shortly before.
pub fn render(now: &Snapshot, before: Option<&Snapshot>) -> String {
    let mut page = String::with_capacity(8192);
    // Writing to a String cannot fail.
    let _ = write(&mut page, now, before);
    page
}

fn write(page: &mut String, now: &Snapshot, before: Option<&Snapshot>) -> std::fmt::Result {
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
         <title>Sumun</title><style>{STYLE}</style></head><body>\n<h1>Sumun {}</h1>\n<p>up {}; ",
        env!("CARGO_PKG_VERSION"),
        uptime(now.uptime_ms)
    )?;
    match now.generation {
        0 => write!(page, "no ruleset yet: the initial policy runs")?,
        number => write!(page, "generation {number}, {} rules", now.rules)?,
    }
    if !now.settled {
        write!(page, "; workers are taking it up")?;
    }
    write!(page, "; {} routes of IPv4, {} of IPv6", now.routes.ipv4, now.routes.ipv6)?;
    writeln!(page, "; {} of {} flows. <a href=\"/metrics\">Metrics</a></p>", now.flows, now.max_flows)?;
    ports(page, now, before)?;
    losses(page, now)?;
    workers(page, now)?;
    drops(page, now)?;
    writeln!(page, "</body></html>")
}

fn ports(page: &mut String, now: &Snapshot, before: Option<&Snapshot>) -> std::fmt::Result {
    writeln!(
        page,
        "<h2>Ports</h2>\n<table><tr><th class=t>port<th class=t>device<th class=t>mode<th>received<th>packets/s<th>bit/s\
         <th>sent<th>packets/s<th>bit/s</tr>"
    )?;
    for (n, port) in now.ports.iter().enumerate() {
        let earlier = before.and_then(|before| Some((before.ports.get(n)?, now.at.saturating_sub(before.at))));
        let rate = |count: fn(&PortStatus) -> u64, times: u64| match earlier {
            // What was long ago is no rate of now.
            Some((earlier, span)) if span > 0 && span < 60_000_000_000 => {
                let new = count(port).saturating_sub(count(earlier)) as u128 * u128::from(times);
                short((new * 1_000_000_000 / u128::from(span)) as u64)
            }
            _ => "–".to_string(),
        };
        writeln!(
            page,
            "<tr><td class=t>{}<td class=t>{}<td class=t>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(&port.name),
            escape(&port.device),
            escape(&port.mode),
            port.rx_packets,
            rate(|port| port.rx_packets, 1),
            rate(|port| port.rx_bytes, 8),
            port.tx_packets,
            rate(|port| port.tx_packets, 1),
            rate(|port| port.tx_bytes, 8),
        )?;
    }
    writeln!(page, "</table>")
}

/// What the kernel lost ahead of the router, where it lost anything.
fn losses(page: &mut String, now: &Snapshot) -> std::fmt::Result {
    let all = now.ports.iter().flat_map(|port| port.losses.iter().map(|losses| (&port.name, losses)));
    let mut rows = all.filter(|(_, losses)| losses.is_any()).peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    write!(page, "<h2>Lost between device and router</h2>\n<table><tr><th class=t>port<th>queue")?;
    for (kind, why) in QueueLosses::KINDS {
        write!(page, "<th title=\"{why}\">{kind}")?;
    }
    writeln!(page, "</tr>")?;
    for (port, losses) in rows {
        write!(page, "<tr><td class=t>{}<td>{}", escape(port), losses.queue)?;
        for count in losses.each() {
            write!(page, "<td>{count}")?;
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</table>")
}

fn workers(page: &mut String, now: &Snapshot) -> std::fmt::Result {
    writeln!(
        page,
        "<h2>Workers</h2>\n<table><tr><th>core<th>received<th>replayed<th>sent<th>to the router<th>by the router<th>dropped</tr>"
    )?;
    for work in &now.workers {
        writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            work.core,
            work.received,
            work.replayed,
            work.sent,
            work.delivered + work.consumed,
            work.originated,
            work.dropped
        )?;
    }
    writeln!(page, "</table>")
}

fn drops(page: &mut String, now: &Snapshot) -> std::fmt::Result {
    writeln!(page, "<h2>Drops</h2>\n<table><tr><th class=t>reason<th class=t>class<th>packets<th class=t>why</tr>")?;
    for (reason, packets) in now.drops.iter().filter(|(_, packets)| *packets > 0) {
        let why = escape(reason.explain().trim());
        writeln!(
            page,
            "<tr><td class=t>{}<td class=t>{}<td>{packets}<td class=t>{why}</tr>",
            reason.name(),
            class(*reason)
        )?;
    }
    writeln!(page, "</table>")
}

/// Days, hours, minutes and seconds.
fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60);
    if days == 0 { clock } else { format!("{days} d {clock}") }
}

/// A number in three digits or so.
fn short(number: u64) -> String {
    let (unit, name) = match number {
        0..10_000 => return number.to_string(),
        10_000..1_000_000 => (1e3, "k"),
        1_000_000..1_000_000_000 => (1e6, "M"),
        _ => (1e9, "G"),
    };
    let value = number as f64 / unit;
    if value < 10.0 { format!("{value:.2} {name}") } else { format!("{value:.1} {name}") }
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::sample::snapshot;
    use super::*;

    #[test]
    fn the_page_shows_state_traffic_and_drops() {
        let page = render(&snapshot(101), Some(&snapshot(100)));
        for part in [
            "up 00:01:41; generation 12, 34 rules; 4 routes of IPv4, 6 of IPv6; 56 of 1000 flows",
            "<td class=t>lan0<td class=t>lan0-dev<td class=t>native, copy, 1 queue, tx ring<td>101<td>1<td>800<td>202<td>2<td>8.00 M",
            "<td class=t>wan0<td class=t>wan0-dev<td class=t>native, copy, 1 queue, tx ring<td>1010<td>10<td>8000<td>2020<td>20<td>80.0 M",
            "<tr><td class=t>wan0<td>1<td>0<td>17<td>0<td>0<td>0</tr>",
            "<tr><td>3<td>10<td>3<td>6<td>3<td>4<td>5</tr>",
            "<td class=t>policy-drop<td class=t>policy<td>7<td class=t>The policy of a built-in chain is DROP.",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("no-route"), "reasons that never occurred are left out");
        let mut whole = snapshot(101);
        whole.ports.iter_mut().for_each(|port| port.losses.clear());
        assert!(!render(&whole, None).contains("Lost between device and router"));
    }

    #[test]
    fn there_is_no_rate_without_a_moment_shortly_before() {
        assert!(render(&snapshot(101), None).contains("<td>101<td>–<td>–<td>202<td>–<td>–</tr>"));
        assert!(render(&snapshot(201), Some(&snapshot(100))).contains("<td>201<td>–"));
        let first = Snapshot { generation: 0, settled: false, ..snapshot(1) };
        assert!(render(&first, None).contains("no ruleset yet: the initial policy runs; workers are taking it up"));
    }

    #[test]
    fn text_is_escaped_and_numbers_are_short() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
        let cases = [(0, "0"), (9999, "9999"), (10_000, "10.0 k"), (1_234_567, "1.23 M"), (12_345_678_901, "12.3 G")];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
        assert_eq!(uptime(90_061_000), "1 d 01:01:01");
    }
}
