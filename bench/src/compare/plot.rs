//! Pictures of a comparison, each as SVG and as PNG: throughput by rules, throughput by flows, latency.

use super::contestants::Contestant;
use super::outcome::{Outcome, Throughput};
use super::rules::Work;
use crate::pktgen::report::grouped;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::path::Path;

const SIZE: (u32, u32) = (960, 600);

/// One for each contestant, apart also for those who see few colours (Okabe and Ito's).
fn colour(contestant: Contestant) -> RGBColor {
    match contestant {
        Contestant::Sumun => RGBColor(0, 114, 178),
        Contestant::Kernel => RGBColor(0, 0, 0),
        Contestant::IptablesLegacy => RGBColor(230, 159, 0),
        Contestant::IptablesNft => RGBColor(213, 94, 0),
        Contestant::Nft => RGBColor(0, 158, 115),
    }
}

/// A line: who, and a figure for each number of rules or flows.
type Line = (Contestant, Vec<(f64, f64)>);

/// A bar: what is below it, who, and its figure.
type Bar = (String, Contestant, f64);

/// Writes `rules`, `flows` and `latency`, as far as there are figures.
pub fn draw(outcome: &Outcome, dir: &Path) -> Result<()> {
    // The machine may have no fonts.
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the font of the pictures cannot be read"))?;
    let by_rules = lines(outcome, |row| match row.work {
        Work::Rules(count) => Some(count),
        _ => None,
    });
    let by_flows = lines(outcome, |row| (row.work == Work::Masquerade).then_some(row.flows));
    both(dir, "rules", &by_rules, |root| chart(root, "Throughput by number of rules", "rules", &by_rules))?;
    both(dir, "flows", &by_flows, |root| {
        chart(root, "Throughput of conntrack and masquerade by number of flows", "flows", &by_flows)
    })?;
    let bars = bars(outcome);
    both(dir, "latency", &bars, |root| latency(root, &bars))
}

/// A picture in both forms; none where there is nothing to draw.
fn both<T>(dir: &Path, name: &str, figures: &[T], draw: impl Fn(Canvas<'_, '_>) -> Result<()>) -> Result<()> {
    if figures.is_empty() {
        return Ok(());
    }
    let path = |extension: &str| dir.join(format!("{name}.{extension}"));
    let (svg, png) = (path("svg"), path("png"));
    draw(Canvas::Svg(&SVGBackend::new(&svg, SIZE).into_drawing_area()))?;
    draw(Canvas::Png(&BitMapBackend::new(&png, SIZE).into_drawing_area()))
}

/// Where a picture is drawn.
enum Canvas<'a, 'b> {
    Svg(&'a DrawingArea<SVGBackend<'b>, Shift>),
    Png(&'a DrawingArea<BitMapBackend<'b>, Shift>),
}

fn lines(outcome: &Outcome, x: impl Fn(&Throughput) -> Option<u32>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in &outcome.throughput {
        let Some(x) = x(row) else { continue };
        let point = (f64::from(x), row.mpps);
        match lines.iter_mut().find(|(contestant, _)| *contestant == row.contestant) {
            Some((_, points)) => points.push(point),
            None => lines.push((row.contestant, vec![point])),
        }
    }
    lines.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    lines
}

/// The 99th percentile of each, at the rates of the kernel's.
fn bars(outcome: &Outcome) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for row in &outcome.latency {
        let place = format!("{}, {:.2} Mpps", row.work, row.mpps);
        // The first of a contestant is how it is arranged for throughput.
        if !bars.iter().any(|(other, contestant, _)| *other == place && *contestant == row.contestant) {
            bars.push((place, row.contestant, row.p99_us));
        }
    }
    bars
}

fn chart(canvas: Canvas, title: &str, x: &str, lines: &[Line]) -> Result<()> {
    match canvas {
        Canvas::Svg(root) => chart_on(root, title, x, lines),
        Canvas::Png(root) => chart_on(root, title, x, lines),
    }
    .map_err(|error| anyhow!("drawing {title}: {error}"))
}

fn latency(canvas: Canvas, bars: &[Bar]) -> Result<()> {
    match canvas {
        Canvas::Svg(root) => bars_on(root, bars),
        Canvas::Png(root) => bars_on(root, bars),
    }
    .map_err(|error| anyhow!("drawing latencies: {error}"))
}

type Drawn = Result<(), String>;

fn chart_on<B: DrawingBackend>(root: &DrawingArea<B, Shift>, title: &str, x: &str, lines: &[Line]) -> Drawn {
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| error.to_string();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let xs = points().map(|point| point.0).fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let ys = points().map(|point| point.1).filter(|y| *y > 0.0);
    let (low, high) = ys.fold((f64::INFINITY, 0.0f64), |(a, b), y| (a.min(y), b.max(y)));
    let (low, high) = if high > 0.0 { (low / 1.5, high * 1.5) } else { (0.1, 1.0) };
    root.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(root)
        .caption(title, ("sans-serif", 24))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d((xs.0 / 1.5..xs.1 * 1.5).log_scale(), (low..high).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc("Mpps")
        .label_style(("sans-serif", 16))
        .light_line_style(WHITE)
        .x_label_formatter(&|x| grouped(x.round() as u64))
        .y_label_formatter(&|y| format!("{y}"))
        .draw()
        .map_err(failed)?;
    for (contestant, points) in lines {
        let colour = colour(*contestant);
        let style = colour.stroke_width(if *contestant == Contestant::Sumun { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(failed)?
            .label(contestant.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled()))).map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .label_font(("sans-serif", 16))
        .draw()
        .map_err(failed)?;
    root.present().map_err(failed)
}

fn bars_on<B: DrawingBackend>(root: &DrawingArea<B, Shift>, bars: &[Bar]) -> Drawn {
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| error.to_string();
    root.fill(&WHITE).map_err(failed)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    root.draw(&Text::new("Latency at half load, 99th percentile, µs (logarithmic)", (16, 16), text(24)))
        .map_err(failed)?;
    // A bar of one microsecond has no length.
    let digits = |figure: f64| figure.max(1.0).log10();
    let highest = bars.iter().map(|bar| digits(bar.2)).fold(1.0, f64::max);
    let (width, height) = (SIZE.0 as i32, SIZE.1 as i32);
    let (left, top) = (330, 64);
    let step = ((height - top - 16) / bars.len().max(1) as i32).clamp(12, 44);
    for (number, (name, contestant, figure)) in bars.iter().enumerate() {
        let y = top + number as i32 * step;
        let right = left + (f64::from(width - left - 180) * digits(*figure) / highest) as i32;
        let middle = y + step / 2 - 8;
        root.draw(&Text::new(name.clone(), (16, middle), text(15))).map_err(failed)?;
        root.draw(&Rectangle::new([(left, y + 2), (right.max(left + 1), y + step - 2)], colour(*contestant).filled()))
            .map_err(failed)?;
        let figure = format!("{contestant}: {figure:.1}");
        root.draw(&Text::new(figure, (right + 8, middle), text(15))).map_err(failed)?;
    }
    root.present().map_err(failed)
}
