//! The curve of cost over flows as a picture (SVG), from the lines of JSON that a run wrote.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// Name in the results, name for people, colour.
const LINES: [(&str, &str, &str); 2] = [("out_redirect", "out", "#0b6e99"), ("in_redirect", "in", "#c2571a")];

/// Cost by number of flows.
type Points = Vec<(u32, f64)>;

/// Draws the curve of this file into one beside it, and names that.
pub(crate) fn run(path: &Path) -> anyhow::Result<PathBuf> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let picture = draw(&text).with_context(|| format!("{} has no curve", path.display()))?;
    let target = path.with_extension("svg");
    fs::write(&target, picture).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(target)
}

fn draw(text: &str) -> anyhow::Result<String> {
    let records = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let lines = LINES.map(|(name, title, colour)| (points(&records, name), title, colour));
    let all = || lines.iter().flat_map(|(points, ..)| points);
    let most_flows = all().map(|point| point.0).max().context("no record of the curve")?;
    let most_ns = all().map(|point| point.1).fold(0.0, f64::max);
    ensure!(most_flows > 1 && most_ns > 0.0, "one point is no curve");
    let step_ns = [10.0, 20.0, 50.0, 100.0, 200.0, 500.0].into_iter().find(|step| most_ns / step <= 8.0);
    let step_ns = step_ns.unwrap_or(1_000.0);
    let top_ns = (most_ns / step_ns).ceil() * step_ns;
    let x = |flows: u32| LEFT + (WIDTH - LEFT - RIGHT) * f64::from(flows).log2() / f64::from(most_flows).log2();
    let y = |ns: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ns / top_ns;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Cost of a packet above the floor, by flows in use (one CPU)</text>\n"
    );
    let mut ns = 0.0;
    while ns <= top_ns {
        let (y, right) = (y(ns), WIDTH - RIGHT);
        writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>")?;
        writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{ns} ns</text>", LEFT - 8.0, y + 4.0)?;
        ns += step_ns;
    }
    for (flows, _) in &lines[0].0 {
        let (x, y) = (x(*flows), HEIGHT - BOTTOM);
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{flows}</text>", y + 20.0)?;
    }
    for (points, title, colour) in &lines {
        let places: Vec<_> = points.iter().map(|(flows, ns)| format!("{:.1},{:.1}", x(*flows), y(*ns))).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            places.join(" ")
        )?;
        for (flows, ns) in points {
            let (x, y) = (x(*flows), y(*ns));
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")?;
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{colour}\">{ns:.0}</text>",
                y - 8.0
            )?;
        }
        if let Some((flows, ns)) = points.get(points.len() / 2) {
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-size=\"14\">{title}</text>",
                x(*flows) + 10.0,
                y(*ns) + 16.0
            )?;
        }
    }
    writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">flows</text>\n</svg>", WIDTH / 2.0, HEIGHT - 12.0)?;
    Ok(svg)
}

/// The points of a row, by flows.
fn points(records: &[Value], name: &str) -> Points {
    let point = |record: &Value| {
        let mut parts = record["case"].as_str()?.strip_prefix("curve/")?.split('/');
        (parts.next()? == name).then_some(())?;
        Some((parts.next()?.parse().ok()?, record["value"].as_f64()?))
    };
    let mut points: Points = records.iter().filter_map(point).collect();
    points.sort_by_key(|point| point.0);
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"case":"curve/out_redirect/1024/1","value":40.5}
{"case":"curve/out_redirect/1/1","value":30.0}
{"case":"out_redirect/1024/1","value":999.0}
{"case":"curve/in_redirect/1/1","value":20.0}
{"case":"curve/in_redirect/1024/1","value":25.0}"#;

    #[test]
    fn the_picture_has_the_points_of_the_curve_in_their_order() {
        let picture = draw(RUN).unwrap();
        assert_eq!(picture.matches("<circle").count(), 4);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(!picture.contains("999"));
        let (first, last) = (picture.find(">30<").unwrap(), picture.find(">40<").unwrap());
        assert!(first < last);
    }

    #[test]
    fn a_run_without_a_curve_is_no_picture() {
        assert!(draw(r#"{"case":"out_redirect/1024/1","value":40.0}"#).is_err());
        assert!(draw("no JSON").is_err());
    }
}
