//! SVG by hand: bars, and lines over two logarithmic axes.

use crate::results::number;
use std::fmt::Write as _;

const COLOURS: [&str; 8] = ["#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#d68910", "#5d6d7e", "#117a65", "#7b241c"];

/// What a bar stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    /// What the machine or the database does without any syncing.
    Limit,
    Peer,
}

pub struct Bar {
    pub name: String,
    pub value: f64,
    pub kind: Kind,
}

pub struct Bars {
    pub title: String,
    pub unit: &'static str,
    pub bars: Vec<Bar>,
}

fn open(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Panels of horizontal bars, one below the other, each with a scale of its own.
pub fn bars(panels: &[Bars]) -> String {
    const LEFT: f64 = 250.0;
    const WIDTH: f64 = 480.0;
    const LINE: f64 = 20.0;
    const HEAD: f64 = 34.0;
    let height: f64 = panels.iter().map(|p| HEAD + LINE * p.bars.len() as f64 + 10.0).sum();
    let mut out = open(LEFT + WIDTH + 120.0, height + 10.0);
    let mut top = 0.0;
    for panel in panels {
        let highest = panel.bars.iter().map(|b| b.value).fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(out, "<text x=\"10\" y=\"{}\" font-size=\"14\">{}</text>", top + 24.0, escape(&panel.title));
        top += HEAD;
        for bar in &panel.bars {
            let (colour, weight) = match bar.kind {
                Kind::Ours => (COLOURS[0], "bold"),
                Kind::Limit => ("#444444", "normal"),
                Kind::Peer => ("#b9c4cc", "normal"),
            };
            let (text, length) = (top + 14.0, (bar.value / highest * WIDTH).max(1.0));
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\" font-weight=\"{weight}\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"14\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{text}\">{} {}</text>",
                LEFT - 8.0,
                escape(&bar.name),
                top + 3.0,
                LEFT + length + 6.0,
                number(bar.value),
                panel.unit
            );
            top += LINE;
        }
        top += 10.0;
    }
    out + "</svg>\n"
}

/// Lines of a panel: a name, and points with positive coordinates.
pub struct Lines {
    pub title: String,
    /// What the horizontal axis counts.
    pub across: String,
    pub unit: String,
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

/// 1000000 as `1M`.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

/// The powers of ten around all values.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v.log10()), high.max(v.log10())));
    let (low, high) = (low.floor(), high.ceil());
    (low, if high > low { high } else { low + 1.0 })
}

/// Panels of lines, two beside each other. Dotted: in proportion to what the horizontal axis counts.
pub fn lines(panels: &[Lines]) -> String {
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 370.0;
    let rows = panels.len().div_ceil(2);
    let mut out = open(2.0 * WIDTH, HEIGHT * rows as f64 + 10.0);
    for (at, panel) in panels.iter().enumerate() {
        let (left, top) = ((at % 2) as f64 * WIDTH, (at / 2) as f64 * HEIGHT);
        let _ = writeln!(out, "<g transform=\"translate({left} {top})\">");
        draw(&mut out, panel);
        out.push_str("</g>\n");
    }
    out + "</svg>\n"
}

fn draw(out: &mut String, panel: &Lines) {
    const LEFT: f64 = 70.0;
    const TOP: f64 = 34.0;
    const WIDTH: f64 = 470.0;
    const HEIGHT: f64 = 220.0;
    let points = || panel.series.iter().flat_map(|(_, points)| points.iter().copied());
    if points().next().is_none() {
        return;
    }
    let ((x0, x1), (y0, y1)) = (decades(points().map(|p| p.0)), decades(points().map(|p| p.1)));
    let x = |value: f64| LEFT + (value.log10() - x0) / (x1 - x0) * WIDTH;
    let y = |value: f64| TOP + HEIGHT - (value.log10() - y0) / (y1 - y0) * HEIGHT;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{} ({})</text>", escape(&panel.title), panel.unit);
    for decade in y0 as i32..=y1 as i32 {
        let value = 10f64.powi(decade);
        let label = if decade < 0 { format!("{value:.*}", decade.unsigned_abs() as usize) } else { short(value) };
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#ddd\"/><text x=\"{1}\" y=\"{3:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            y(value),
            y(value) + 4.0
        );
    }
    for decade in x0 as i32..=x1 as i32 {
        let value = 10f64.powi(decade);
        let _ = writeln!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1}\" stroke=\"#eee\"/><text x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\">{3}</text>",
            x(value),
            TOP + HEIGHT,
            TOP + HEIGHT + 16.0,
            short(value)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        LEFT + WIDTH / 2.0,
        TOP + HEIGHT + 32.0,
        escape(&panel.across)
    );
    for (at, (name, points)) in panel.series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let place = |(a, b): &(f64, f64)| format!("{:.1},{:.1}", x(*a), y(*b));
        let line: Vec<_> = points.iter().map(place).collect();
        let _ = writeln!(out, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>", line.join(" "));
        for (a, b) in points {
            let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"{colour}\"/>", x(*a), y(*b));
        }
        // From the last point back, as far as the panel goes.
        if let Some(&(a, b)) = points.last().filter(|_| at == 0 && points.len() > 1) {
            let back = (a.log10() - x0).min(b.log10() - y0);
            let from = (10f64.powf(a.log10() - back), 10f64.powf(b.log10() - back));
            let _ = writeln!(
                out,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-dasharray=\"1 4\"/>",
                x(from.0),
                y(from.1),
                x(a),
                y(b)
            );
        }
        let (label, line) = (LEFT + 235.0 * (at % 2) as f64, TOP + HEIGHT + 52.0 + 16.0 * (at / 2) as f64);
        let _ = writeln!(
            out,
            "<rect x=\"{label}\" y=\"{}\" width=\"10\" height=\"3\" fill=\"{colour}\"/><text x=\"{}\" y=\"{line}\">{}</text>",
            line - 5.0,
            label + 15.0,
            escape(name)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_a_decade_below_one() {
        assert_eq!(decades([0.15, 4.0, 30.0].into_iter()), (-1.0, 2.0));
        assert_eq!(decades([1.0].into_iter()), (0.0, 1.0));
    }

    #[test]
    fn lengths_of_bars_are_in_proportion() {
        let bar = |name: &str, value, kind| Bar { name: name.to_owned(), value, kind };
        let bars = vec![bar("limit", 100.0, Kind::Limit), bar("a<b", 25.0, Kind::Ours)];
        let svg = bars_of(bars);
        assert!(svg.contains("width=\"480.0\"") && svg.contains("width=\"120.0\""), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains("25.0 rows"), "{svg}");
    }

    fn bars_of(bars: Vec<Bar>) -> String {
        super::bars(&[Bars { title: "title".to_owned(), unit: "rows", bars }])
    }

    #[test]
    fn ten_times_as_much_is_one_decade_further() {
        let series = vec![("line".to_owned(), vec![(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)])];
        let panel = Lines { title: "t".to_owned(), across: "rows".to_owned(), unit: "s".to_owned(), series };
        assert!(lines(&[panel]).contains("points=\"70.0,254.0 305.0,144.0 540.0,34.0\""));
    }
}
