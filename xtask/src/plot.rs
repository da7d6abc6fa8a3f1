//! Plots as SVG: cumulative distributions, and figures over a parameter.

use std::fmt::{self, Write};

/// Draws the cumulative distribution of `samples` (seconds, any order) over time; `label` names the curve.
pub(crate) fn cumulative(label: &str, samples: &[f64]) -> Result<String, fmt::Error> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let greatest = sorted.last().copied().unwrap_or(1.0).max(1e-3);
    let step = tick(greatest);
    let ticks = (greatest / step).ceil().max(1.0);
    let x = |seconds: f64| LEFT + seconds / (ticks * step) * WIDTH;
    let y = |share: f64| TOP + (1.0 - share) * HEIGHT;

    let mut svg = String::new();
    let (w, h) = (LEFT + WIDTH + 20.0, TOP + HEIGHT + 45.0);
    writeln!(svg, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif" font-size="12">"#)?;
    writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
    writeln!(svg, r#"<text x="{LEFT}" y="18" font-size="14">{} (n = {})</text>"#, escape(label), sorted.len())?;
    for i in 0..=5 {
        let share = f64::from(i) / 5.0;
        let at = y(share);
        writeln!(
            svg,
            r##"<path d="M{LEFT} {at:.1}h{WIDTH}" stroke="#ddd"/><text x="{}" y="{:.1}" text-anchor="end">{share:.1}</text>"##,
            LEFT - 6.0,
            at + 4.0
        )?;
    }
    let mut seconds = 0.0;
    while seconds <= ticks * step + step / 2.0 {
        let at = x(seconds);
        writeln!(
            svg,
            r##"<path d="M{at:.1} {TOP}v{HEIGHT}" stroke="#ddd"/><text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"##,
            TOP + HEIGHT + 16.0,
            trim(seconds)
        )?;
        seconds += step;
    }
    writeln!(svg, r#"<text x="{}" y="{}" text-anchor="middle">seconds</text>"#, LEFT + WIDTH / 2.0, TOP + HEIGHT + 36.0)?;
    write!(
        svg,
        r##"<path fill="none" stroke="#1f5fa8" stroke-width="1.5" d="M{:.1} {}"##,
        x(sorted.first().copied().unwrap_or(0.0)),
        y(0.0)
    )?;
    // A few hundred points show the same curve as a million.
    let every = (sorted.len() / POINTS).max(1);
    for (i, seconds) in sorted.iter().enumerate().filter(|(i, _)| i % every == 0 || i + 1 == sorted.len()) {
        let share = (i + 1) as f64 / sorted.len() as f64;
        write!(svg, " L{:.1} {:.1}", x(*seconds), y(share))?;
    }
    writeln!(svg, "\"/>\n</svg>")?;
    Ok(svg)
}

/// What a direction of a plot shows.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub(crate) label: String,
    /// Whether equal distances are equal ratios.
    pub(crate) log: bool,
}

/// A line of a plot.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) label: String,
    /// In order of x.
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) dashed: bool,
}

impl Axis {
    /// The ticks from below `least` to above `greatest`, with a ratio of 10 between those of a logarithmic axis.
    fn ticks(&self, least: f64, greatest: f64) -> Vec<f64> {
        if self.log {
            let (from, to) = (least.log10().floor(), greatest.log10().ceil().max(least.log10().floor() + 1.0));
            return core::iter::successors(Some(from), |power| Some(power + 1.0))
                .take_while(|power| *power <= to)
                .map(|power| 10f64.powf(power))
                .collect();
        }
        let step = tick(greatest.max(1e-3));
        let most = (greatest / step).ceil().max(1.0) * step;
        core::iter::successors(Some(0.0), |at| Some(at + step)).take_while(|at| *at <= most + step / 2.0).collect()
    }

    /// Where `at` lies between the first and the last tick, from 0 to 1.
    fn place(&self, ticks: &[f64], at: f64) -> f64 {
        let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
        if self.log { (at / first).log10() / (last / first).log10() } else { (at - first) / (last - first) }
    }
}

/// Draws each line over a common parameter; points are marked. Values below zero, or on a logarithmic axis zero, are left out.
pub(crate) fn lines(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> Result<String, fmt::Error> {
    let fits = |(at, value): &&(f64, f64)| (*at > 0.0 || !x.log) && (*value > 0.0 || !y.log) && *at >= 0.0 && *value >= 0.0;
    let shown: Vec<(f64, f64)> = lines.iter().flat_map(|line| &line.points).filter(fits).copied().collect();
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let values = shown.iter().map(of);
        (values.clone().reduce(f64::min).unwrap_or(1.0), values.reduce(f64::max).unwrap_or(1.0))
    };
    let ((x_least, x_most), (y_least, y_most)) = (bounds(|point| point.0), bounds(|point| point.1));
    let (x_ticks, y_ticks) = (x.ticks(x_least, x_most), y.ticks(y_least, y_most));
    let x_of = |at: f64| LEFT + x.place(&x_ticks, at) * WIDTH;
    let y_of = |value: f64| TOP + (1.0 - y.place(&y_ticks, value)) * HEIGHT;

    let mut svg = String::new();
    let (w, h) = (LEFT + WIDTH + 20.0, TOP + HEIGHT + 45.0 + 18.0 * lines.len() as f64);
    writeln!(svg, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif" font-size="12">"#)?;
    writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
    writeln!(svg, r#"<text x="{LEFT}" y="18" font-size="14">{}</text>"#, escape(title))?;
    for value in &y_ticks {
        let at = y_of(*value);
        let (label, text) = (LEFT - 6.0, trim(*value));
        writeln!(
            svg,
            r##"<path d="M{LEFT} {at:.1}h{WIDTH}" stroke="#ddd"/><text x="{label}" y="{:.1}" text-anchor="end">{text}</text>"##,
            at + 4.0
        )?;
    }
    for value in &x_ticks {
        let (at, text) = (x_of(*value), trim(*value));
        let below = TOP + HEIGHT + 16.0;
        writeln!(
            svg,
            r##"<path d="M{at:.1} {TOP}v{HEIGHT}" stroke="#ddd"/><text x="{at:.1}" y="{below}" text-anchor="middle">{text}</text>"##
        )?;
    }
    let (middle, under) = (LEFT + WIDTH / 2.0, TOP + HEIGHT + 36.0);
    writeln!(svg, r#"<text x="{middle}" y="{under}" text-anchor="middle">{}</text>"#, escape(&x.label))?;
    writeln!(
        svg,
        r#"<text x="14" y="{0}" text-anchor="middle" transform="rotate(-90 14 {0})">{1}</text>"#,
        TOP + HEIGHT / 2.0,
        escape(&y.label)
    )?;
    for (i, line) in lines.iter().enumerate() {
        let (colour, dash) = (COLOURS[i % COLOURS.len()], if line.dashed { r#" stroke-dasharray="6 4""# } else { "" });
        let places: Vec<_> = line.points.iter().filter(fits).map(|(at, value)| (x_of(*at), y_of(*value))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        if !path.is_empty() {
            writeln!(svg, r#"<path fill="none" stroke="{colour}" stroke-width="1.5"{dash} d="M{}"/>"#, path.join(" L"))?;
        }
        for (x, y) in places.iter().filter(|_| !line.dashed) {
            writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#)?;
        }
        let at = TOP + HEIGHT + 56.0 + 18.0 * i as f64;
        writeln!(svg, r#"<path d="M{LEFT} {at}h24" stroke="{colour}" stroke-width="2"{dash}/>"#)?;
        writeln!(svg, r#"<text x="{}" y="{}">{}</text>"#, LEFT + 32.0, at + 4.0, escape(&line.label))?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

/// A round distance between ticks that gives about five of them up to `greatest`.
fn tick(greatest: f64) -> f64 {
    let power = 10f64.powf((greatest / 5.0).log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|step| greatest / step <= 6.0).unwrap_or(10.0 * power)
}

fn trim(seconds: f64) -> String {
    let text = format!("{seconds:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const LEFT: f64 = 50.0;
const TOP: f64 = 30.0;
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 300.0;
const POINTS: usize = 500;
const COLOURS: [&str; 4] = ["#1f5fa8", "#b8442c", "#3a8540", "#7a4ea3"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_runs_from_the_lower_left_to_the_upper_end_of_its_samples() {
        let samples: Vec<_> = (1..=1000).map(|i| f64::from(i) / 1000.0).collect();
        let svg = cumulative("delivery <of> all", &samples).expect("writing to a string");
        assert!(svg.contains("M50.6 330 ") && svg.contains(" L650.0 30.0\"/>"), "{svg}");
        assert!(svg.contains("delivery &lt;of> all (n = 1000)"));
    }

    #[test]
    fn no_samples_make_an_empty_plot() {
        assert!(cumulative("nothing", &[]).expect("writing to a string").ends_with("</svg>\n"));
    }

    #[test]
    fn lines_run_from_tick_to_tick_on_both_kinds_of_axes() {
        let axis = |log| Axis { label: "x".to_owned(), log };
        let line = Line { label: "a <b>".to_owned(), points: vec![(10.0, 0.0), (100.0, 5.0), (1000.0, 10.0)], dashed: false };
        let svg = lines("title", &axis(true), &axis(false), core::slice::from_ref(&line)).expect("writing to a string");
        assert!(svg.contains("M50.0 330.0 L350.0 180.0 L650.0 30.0") && svg.contains("a &lt;b>"), "{svg}");
        let svg = lines("title", &axis(false), &axis(false), &[Line { dashed: true, ..line }]).expect("writing to a string");
        assert!(svg.contains("M56.0 330.0 L110.0 180.0 L650.0 30.0") && !svg.contains("<circle"), "{svg}");
        assert!(lines("nothing", &axis(true), &axis(true), &[]).expect("writing to a string").ends_with("</svg>\n"));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!([tick(0.9), tick(4.0), tick(60.0)], [0.2, 1.0, 10.0]);
    }
}
