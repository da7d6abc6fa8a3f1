//! A plot of cumulative distributions as SVG.

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
    fn ticks_are_round_and_few() {
        assert_eq!([tick(0.9), tick(4.0), tick(60.0)], [0.2, 1.0, 10.0]);
    }
}
