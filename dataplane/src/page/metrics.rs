//! The numbers in Prometheus' text format.
//!
//! Names begin with `sumun_`; counters end in `_total` and begin at zero with the process. Labels are few: ports, workers,
//! reasons and states, all bounded by the configuration or by this program.

use super::{Snapshot, class};
use crate::local::http::Status;
use crate::port::PortCounts;
use crate::protocol::{PortStatus, QueueLosses};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt::Error;

pub use prometheus_text::CONTENT_TYPE;

/// All numbers of a moment.
pub fn render(now: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("sumun");
    registry.register_collector(Box::new(now.clone()));
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let mut page = Page(&mut encoder);
        page.state(self)?;
        page.ports(self)?;
        page.workers(self)?;
        page.conntrack(self)?;
        page.http(self)
    }
}

/// Labels of what was lost.
fn lost(port: &str, queue: u32, kind: &str) -> [(&'static str, String); 3] {
    [("port", port.to_string()), ("queue", queue.to_string()), ("kind", kind.to_string())]
}

/// One number out of many.
type Of<T> = fn(&T) -> u64;

struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Page<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        ConstGauge::new(value as i64).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            ConstGauge::new(value as i64).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn state(&mut self, now: &Snapshot) -> Result<(), Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        self.gauges("build_info", "The version that runs", [(version, 1)])?;
        self.gauge("uptime_seconds", "Since the dataplane was started", now.uptime_ms / 1000)?;
        self.gauge("generation", "Number of the ruleset in force; 0 is the initial policy", now.generation)?;
        self.gauge("generation_settled", "Whether all workers run it", u64::from(now.settled))?;
        self.gauge("rules", "Rules of it", now.rules)?;
        let routes = [([("family", "ipv4")], now.routes.ipv4), ([("family", "ipv6")], now.routes.ipv6)];
        self.gauges("routes", "Routes in force", routes)?;
        let reasons = now.drops.iter();
        let rows = reasons.map(|(reason, packets)| ([("reason", reason.name()), ("class", class(*reason))], *packets));
        self.counters("drops", "Packets dropped", rows)?;
        self.counter("log_lines_lost", "Lines of LOG that could not be written", now.lost_lines)
    }

    fn ports(&mut self, now: &Snapshot) -> Result<(), Error> {
        let traffic: [(&str, &str, Of<PortStatus>); 4] = [
            ("port_received_packets", "Frames received", |port| port.rx_packets),
            ("port_received_bytes", "Bytes of frames received", |port| port.rx_bytes),
            ("port_sent_packets", "Frames put in line to be sent", |port| port.tx_packets),
            ("port_sent_bytes", "Bytes of frames put in line to be sent", |port| port.tx_bytes),
        ];
        for (name, help, count) in traffic {
            self.counters(name, help, now.ports.iter().map(|port| ([("port", port.name.as_str())], count(port))))?;
        }
        let troubles: [(&str, Of<PortCounts>); 4] = [
            ("stray", |counts| counts.strays),
            ("failure", |counts| counts.failures),
            ("unsendable", |counts| counts.unsendable),
            ("refused", |counts| counts.refused),
        ];
        let rows = now.ports.iter().zip(&now.port_counts).flat_map(|(port, counts)| {
            troubles.map(|(kind, count)| ([("port", port.name.as_str()), ("kind", kind)], count(counts)))
        });
        self.counters("port_troubles", "What went wrong with frames between port and device", rows)?;
        let rows = now.ports.iter().flat_map(|port| {
            port.losses.iter().flat_map(move |losses| {
                let kinds = QueueLosses::KINDS.map(|(kind, _)| kind).into_iter().zip(losses.each());
                kinds.map(move |(kind, count)| (lost(&port.name, losses.queue, kind), count))
            })
        });
        self.counters(
            "port_losses",
            "Frames that the kernel lost or refused between device and router, by queue; fill-empty counts times, of frames that are dropped too",
            rows,
        )?;
        let taps = || now.ports.iter().filter_map(|port| Some(([("port", port.name.as_str())], port.tap.as_ref()?)));
        let there = taps().map(|(port, tap)| (port, u64::from(tap.is_there)));
        self.gauges("tap_there", "Whether the TAP of a port is there: nobody has deleted it", there)?;
        let made = taps().map(|(port, tap)| (port, tap.made_again));
        self.counters("taps_made_again", "How often a TAP was made again that somebody had deleted", made)?;
        let named = taps().map(|(port, tap)| (port, u64::from(!tap.is_unnamed)));
        self.gauges(
            "tap_namespace_named",
            "Whether the namespace of a TAP has the name that the configuration says",
            named,
        )?;
        let rows = now
            .neighbours
            .iter()
            .map(|((port, state), count)| ([("port", port.as_str()), ("state", state.as_str())], *count));
        self.gauges("neighbours", "ARP and NDP entries", rows)
    }

    fn workers(&mut self, now: &Snapshot) -> Result<(), Error> {
        let rows = now.workers.iter().enumerate().flat_map(|(number, work)| {
            let fates = [
                ("received", work.received),
                ("originated", work.originated),
                ("sent", work.sent),
                ("delivered", work.delivered),
                ("consumed", work.consumed),
                ("dropped", work.dropped),
            ];
            fates.map(|(what, count)| ([("worker", number.to_string()), ("what", what.to_string())], count))
        });
        self.counters("worker_packets", "Packets of each worker by where they came from and how they ended", rows)?;
        let rows =
            now.workers.iter().enumerate().map(|(number, work)| ([("worker", number.to_string())], work.replayed));
        self.counters(
            "worker_packets_replayed",
            "Packets of each worker that went the way of their flow unjudged",
            rows,
        )
    }

    fn conntrack(&mut self, now: &Snapshot) -> Result<(), Error> {
        self.gauge("flows", "Tracked flows", now.flows.into())?;
        self.gauge("flows_max", "Most flows that there can be", now.max_flows.into())?;
        let rows = now.conntrack.workers.iter().enumerate().flat_map(|(number, counts)| {
            counts
                .iter()
                .map(move |(what, count)| ([("worker", number.to_string()), ("what", what.to_string())], *count))
        });
        self.counters("conntrack", "What connection tracking did, by the names of conntrack -S", rows)?;
        let rows = now.conntrack.invalid.iter().map(|row| ([("reason", row.reason.as_str())], row.packets));
        self.counters("conntrack_invalid", "Packets that were INVALID", rows)
    }

    fn http(&mut self, now: &Snapshot) -> Result<(), Error> {
        let rows = Status::ALL.iter().zip(now.answers).map(|(status, count)| ([("code", status.code())], count));
        self.counters("http_answers", "Answers to requests such as this one", rows)?;
        self.counter("http_turned_away", "Connections for which there was no place", now.turned_away)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::snapshot;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_numbers_are_there_under_their_names() {
        let text = render(&snapshot(100));
        for line in [
            "sumun_generation 12",
            "sumun_generation_settled 1",
            "sumun_rules 34",
            "sumun_uptime_seconds 100",
            "sumun_flows 56",
            "sumun_flows_max 1000",
            "sumun_drops_total{reason=\"policy-drop\",class=\"policy\"} 7",
            "sumun_drops_total{reason=\"no-route\",class=\"policy\"} 0",
            "sumun_port_received_packets_total{port=\"wan0\"} 1000",
            "sumun_port_sent_bytes_total{port=\"lan0\"} 100000000",
            "sumun_port_troubles_total{port=\"lan0\",kind=\"refused\"} 9",
            "sumun_port_losses_total{port=\"wan0\",queue=\"1\",kind=\"ring-full\"} 17",
            "sumun_port_losses_total{port=\"lan0\",queue=\"0\",kind=\"dropped\"} 0",
            "sumun_tap_there{port=\"lan0\"} 1",
            "sumun_tap_namespace_named{port=\"lan0\"} 1",
            "sumun_taps_made_again_total{port=\"lan0\"} 2",
            "sumun_routes{family=\"ipv6\"} 6",
            "sumun_neighbours{port=\"lan0\",state=\"REACHABLE\"} 5",
            "sumun_worker_packets_total{worker=\"0\",what=\"delivered\"} 2",
            "sumun_conntrack_total{worker=\"0\",what=\"insert\"} 60",
            "sumun_conntrack_invalid_total{reason=\"tcp-window\"} 3",
            "sumun_http_answers_total{code=\"404\"} 2",
            "sumun_http_turned_away_total 4",
            "sumun_log_lines_lost_total 8",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_a_described_metric_and_occurs_once() {
        let text = render(&snapshot(100));
        let (mut described, mut seen) = (HashSet::new(), HashSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.splitn(3, ' ');
                let (kind, name) = (words.next(), words.next().expect("a name"));
                assert!(matches!(kind, Some("HELP" | "TYPE")), "{line}");
                described.insert((kind, name));
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(sample), "{line} is there twice");
            let name = sample.split('{').next().expect("a name");
            assert!(described.contains(&(Some("TYPE"), name)), "{name} has no type:\n{text}");
            assert!(described.contains(&(Some("HELP"), name)), "{name} has no help");
        }
        assert!(seen.len() > 80, "{}", seen.len());
    }
}
