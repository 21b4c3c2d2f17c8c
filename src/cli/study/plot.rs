//! A study as charts, one SVG: accuracy against gradient bits, and the course of the loss.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::cells::{Axis, Subject};
use super::noise::Measured;
use super::statistics::Mean;
use super::summary::{Row, Study};
use crate::noise::Crossing;

/// Pixels of a drawing, and of a chart unless its legend needs more.
const WIDTH: u32 = 860;
const HEIGHT: u32 = 430;
const FONT: &str = "sans-serif";

/// Colours that people with colour blindness can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// Lengths of the dashes and the gaps of a line, in pixels; the first is longer than any line.
const DASHES: [(i32, i32); 4] = [(100_000, 1), (7, 4), (2, 4), (14, 4)];

/// Pixels from one line of a legend to the next.
const LINE: u32 = 18;
/// Characters of a label, and pixels of one.
const LABEL: usize = 48;
const CHARACTER: usize = 7;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// How a line looks.
#[derive(Clone, Copy)]
struct Look {
    colour: RGBColor,
    /// Which dashes and which kind of point.
    kind: usize,
}

impl Look {
    /// The look of a line among others: they differ in colour, and where these are used up, in dashes.
    fn of(line: usize) -> Look {
        Look::with(line, line / COLOURS.len())
    }

    fn with(colour: usize, kind: usize) -> Look {
        Look { colour: COLOURS[colour % COLOURS.len()], kind: kind % DASHES.len() }
    }

    /// The line.
    fn line(self, points: Vec<(f64, f64)>) -> DashedLineSeries<std::vec::IntoIter<(f64, f64)>, i32> {
        let (dash, gap) = DASHES[self.kind];
        DashedLineSeries::new(points, dash, gap, self.colour.stroke_width(2))
    }

    /// A point: a dot, a ring, a cross or a triangle.
    fn point<'a, C: Clone + 'static>(self, at: C) -> DynElement<'static, SVGBackend<'a>, C> {
        match self.kind {
            0 => Circle::new(at, 3, self.colour.filled()).into_dyn(),
            1 => Circle::new(at, 4, self.colour.stroke_width(1)).into_dyn(),
            2 => Cross::new(at, 4, self.colour.stroke_width(1)).into_dyn(),
            _ => TriangleMarker::new(at, 4, self.colour.filled()).into_dyn(),
        }
    }
}

/// What a legend says: labels, cut to what it has room for, with their looks.
type Legend = Vec<(String, Look)>;

/// Both charts of a study.
pub(super) fn svg(study: &Study) -> Result<String, String> {
    let axes = study.varied();
    let across = across(axes);
    let categories = across.map_or(vec![String::new()], |at| axes[at].values.clone());
    let accuracy = lines(study, across, &categories);
    let rows = study.rows();
    let labels = accuracy.iter().map(|line| line.label.clone());
    let legends = [legend_of(labels), legend_of(rows.iter().map(|row| row.label(axes)))];
    let [above, below] = legends.each_ref().map(height);
    drawn((WIDTH, above + below), |root| {
        let (above, below) = root.split_vertically(above);
        let name = across.map_or("", |at| axes[at].subject.name());
        accuracies(&with_legend(&above, &legends[0])?, study, &accuracy, name, &categories)?;
        losses(&with_legend(&below, &legends[1])?, &rows)
    })
}

/// A drawing as text.
fn drawn(size: (u32, u32), draw: impl FnOnce(&Area) -> Drawn) -> Result<String, String> {
    let mut text = String::new();
    let with_backend = |text: &mut String| -> Drawn {
        let root = SVGBackend::with_string(text, size).into_drawing_area();
        root.fill(&WHITE)?;
        draw(&root)?;
        Ok(root.present()?)
    };
    with_backend(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// A legend for lines in their order; one line needs none.
fn legend_of(labels: impl Iterator<Item = String>) -> Legend {
    let legend: Legend = labels.enumerate().map(|(i, label)| (cut(&label, LABEL), Look::of(i))).collect();
    if legend.len() > 1 { legend } else { vec![] }
}

/// Pixels that a chart with its legend needs.
fn height(legend: &Legend) -> u32 {
    HEIGHT.max((legend.len() as u32 + 4) * LINE)
}

/// Draws the legend at the right; what is left for the chart.
fn with_legend<'a>(area: &Area<'a>, legend: &Legend) -> Result<Area<'a>, Box<dyn std::error::Error>> {
    let Some(longest) = legend.iter().map(|(label, _)| label.chars().count()).max() else {
        return Ok(area.clone());
    };
    let (chart, beside) = area.split_horizontally(WIDTH - 50 - (longest * CHARACTER) as u32);
    for (i, (label, look)) in legend.iter().enumerate() {
        let y = ((i as u32 + 3) * LINE) as i32;
        let (dash, gap) = DASHES[look.kind];
        let ends = [(0, y), (26, y)];
        beside.draw(&DashedPathElement::new(ends, dash, gap, look.colour.stroke_width(2)))?;
        beside.draw(&look.point((13, y)))?;
        beside.draw(&Text::new(label.as_str(), (34, y - 7), (FONT, 13)))?;
    }
    Ok(chart)
}

/// A text with at most so many characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A line of the upper chart: places among the categories, and means.
struct Line {
    label: String,
    points: Vec<(f64, Mean)>,
}

/// Accuracy by the values of one axis, a line for each combination of the others.
fn accuracies(area: &Area, study: &Study, lines: &[Line], axis: &str, categories: &[String]) -> Drawn {
    let ends = |mean: &Mean| [mean.value - mean.error.unwrap_or(0.0), mean.value + mean.error.unwrap_or(0.0)];
    let values = lines.iter().flat_map(|line| line.points.iter().flat_map(|(_, mean)| ends(mean)));
    let (low, high) = range(values).unwrap_or((0.0, 100.0));
    let margin = (0.06 * (high - low)).max(0.5);
    let last = categories.len() as f64 - 0.5;
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{} accuracy of {}, last epoch, %", study.measured, cut(&study.model, LABEL)),
            (FONT, 18),
        )
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(52)
        .build_cartesian_2d(-0.5..last, (low - margin)..(high + margin))?;
    let name = |x: &f64| {
        let place = x.round();
        let category =
            if (x - place).abs() < 1e-6 && place >= 0.0 { categories.get(place as usize) } else { None };
        category.cloned().unwrap_or_default()
    };
    chart
        .configure_mesh()
        .max_light_lines(0)
        .disable_x_mesh()
        .x_labels(categories.len())
        .x_label_formatter(&name)
        .x_desc(axis)
        .y_label_formatter(&|y| format!("{y:.1}"))
        .label_style((FONT, 13))
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        let look = Look::of(i);
        chart.draw_series(look.line(line.points.iter().map(|(x, mean)| (*x, mean.value)).collect()))?;
        chart.draw_series(line.points.iter().map(|(x, mean)| {
            let [low, high] = ends(mean);
            ErrorBar::new_vertical(*x, low, mean.value, high, look.colour.filled(), 8)
        }))?;
    }
    Ok(())
}

/// The axis that is drawn from left to right: gradient bits, else what varies last.
fn across(axes: &[Axis]) -> Option<usize> {
    let bits = axes.iter().position(|axis| axis.subject == Subject::GradientBits && axis.values.len() > 1);
    bits.or_else(|| axes.iter().rposition(|axis| axis.values.len() > 1)).or(axes.len().checked_sub(1))
}

fn lines(study: &Study, across: Option<usize>, categories: &[String]) -> Vec<Line> {
    let axes = study.varied();
    let mut lines: Vec<(Vec<String>, Line)> = vec![];
    for row in study.rows() {
        let mut others = row.values.to_vec();
        let value = across.map_or_else(String::new, |at| std::mem::take(&mut others[at]));
        let place = categories.iter().position(|category| *category == value);
        let (Some(place), Some(mean)) = (place, row.accuracy()) else { continue };
        let at = lines.iter().position(|(key, _)| *key == others).unwrap_or_else(|| {
            let words = axes.iter().zip(&others).filter(|(_, value)| !value.is_empty());
            let words: Vec<String> = words.map(|(axis, value)| axis.subject.said(value)).collect();
            let label = if words.is_empty() { study.model.clone() } else { words.join(", ") };
            lines.push((others.clone(), Line { label, points: vec![] }));
            lines.len() - 1
        });
        lines[at].1.points.push((place as f64, mean));
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Training loss by epoch, a line for each row.
fn losses(area: &Area, rows: &[Row]) -> Drawn {
    let course = |row: &Row| -> Vec<(f64, f64)> {
        (0..).map_while(|epoch| Some((epoch as f64 + 1.0, row.training_loss(epoch)?))).collect()
    };
    let lines: Vec<_> = rows.iter().map(course).collect();
    let points = || lines.iter().flatten();
    let (_, high) = range(points().map(|(_, y)| *y)).unwrap_or((0.0, 1.0));
    let last = points().map(|(x, _)| *x).fold(2.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("training loss, mean over seeds, nats", (FONT, 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(52)
        .build_cartesian_2d(1.0..last, 0.0..(1.05 * high))?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_label_formatter(&|x| if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
        .x_desc("epoch")
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style((FONT, 13))
        .draw()?;
    for (i, line) in lines.into_iter().enumerate() {
        let look = Look::of(i);
        chart.draw_series(line.iter().map(|at| look.point(*at)))?;
        chart.draw_series(look.line(line))?;
    }
    Ok(())
}

/// Noise of gradients from the last layer to the first, in powers of ten: points measured, lines predicted; a colour for
/// each width, dashes and a kind of point for each variant.
pub(super) fn noise(all: &[Measured]) -> Result<String, String> {
    let (variants, widths) = (ranks(all, |of| of.variant.clone()), ranks(all, |of| of.gbits));
    let look = |(&variant, &width)| Look::with(width, variant);
    let looks = variants.iter().zip(&widths).map(look);
    let legend: Legend = all.iter().map(|of| cut(&of.label, LABEL)).zip(looks).collect();
    drawn((WIDTH, height(&legend)), |root| noises(&with_legend(root, &legend)?, all, &legend))
}

fn noises(area: &Area, all: &[Measured], legend: &Legend) -> Drawn {
    // Nothing has no place on a scale of powers.
    let points = |measured: &Measured, of: fn(&Crossing) -> f64| -> Vec<(f64, f64)> {
        let values = measured.crossings.iter().map(of).enumerate().filter(|(_, noise)| *noise > 0.0);
        values.map(|(i, noise)| (i as f64 + 1.0, noise)).collect()
    };
    let both = |measured| [points(measured, |c| c.measured), points(measured, |c| c.by_gains)];
    let values = all.iter().flat_map(both).flatten().map(|(_, noise)| noise);
    let (low, high) = range(values).unwrap_or((0.1, 1.0));
    let last = all.iter().map(|measured| measured.crossings.len()).max().unwrap_or(0).max(2) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("noise of gradients: measured (points), predicted by gains (lines)", (FONT, 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(72)
        .build_cartesian_2d(1.0..last, (0.6 * low..1.6 * high).log_scale())?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_label_formatter(&|x| if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
        .x_desc("quantizers from the last layer to the first")
        .y_label_formatter(&|y| format!("{y:.0e}"))
        .label_style((FONT, 13))
        .draw()?;
    for (measured, (_, look)) in all.iter().zip(legend) {
        chart.draw_series(look.line(points(measured, |c| c.by_gains)))?;
        chart.draw_series(points(measured, |c| c.measured).into_iter().map(|at| look.point(at)))?;
    }
    Ok(())
}

/// For each of some items, the place of its key among the different keys, in order of their first.
fn ranks<T, K: PartialEq>(items: &[T], key: impl Fn(&T) -> K) -> Vec<usize> {
    let mut seen: Vec<K> = vec![];
    let place = |item: &T| {
        let key = key(item);
        seen.iter().position(|known| *known == key).unwrap_or_else(|| {
            seen.push(key);
            seen.len() - 1
        })
    };
    items.iter().map(place).collect()
}

/// Least and greatest.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .fold(None, |ends, x| Some(ends.map_or((x, x), |(low, high): (f64, f64)| (low.min(x), high.max(x)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_places_among_different_keys() {
        assert_eq!(ranks(&["b8", "b4", "a8", "a4", "b2"], |x| x.chars().next()), [0, 0, 1, 1, 0]);
        assert_eq!(ranks(&["b8", "b4", "a8", "a4", "b2"], |x| x.chars().nth(1)), [0, 1, 0, 1, 2]);
    }

    #[test]
    fn many_lines_differ_in_colour_or_dashes() {
        let looks: Vec<(RGBColor, usize)> =
            (0..28).map(Look::of).map(|look| (look.colour, look.kind)).collect();
        for (i, look) in looks.iter().enumerate() {
            assert!(!looks[..i].contains(look), "line {i}");
        }
        assert_eq!((cut("abcd", 4), cut("abcde", 4)), ("abcd".to_owned(), "abc…".to_owned()));
    }

    /// Lines by their colour and how many pieces they are drawn in, and points by their shape.
    #[test]
    fn variants_differ_in_dashes_and_points() {
        let crossing = |layer: usize| {
            let noise = 0.1 * layer as f64;
            Crossing {
                layer: String::new(),
                depth: 1,
                own: 0.1,
                measured: noise,
                as_signal: noise,
                by_gains: noise,
            }
        };
        let measured = |variant: &str, gbits| Measured {
            variant: vec![variant.to_owned()],
            label: format!("{variant}, {gbits} bits"),
            gbits,
            crossings: (0..5).map(crossing).collect(),
            layers: vec![],
        };
        let all = [measured("a", 8), measured("a", 4), measured("b", 8), measured("b", 4)];
        let svg = noise(&all).expect("a drawing");
        let lines = |colour: &str| {
            svg.matches(&format!("<polyline fill=\"none\" opacity=\"1\" stroke=\"{colour}\"")).count()
        };
        for colour in ["#0072B2", "#D55E00"] {
            // The line of `a` and its sample in the legend are one piece each.
            assert!(lines(colour) > 2 + 20, "{colour}: {} pieces", lines(colour));
            let dots = format!("r=\"3\" opacity=\"1\" fill=\"{colour}\"");
            let rings = format!("r=\"4\" opacity=\"1\" fill=\"none\" stroke=\"{colour}\"");
            assert_eq!((svg.matches(&dots).count(), svg.matches(&rings).count()), (5, 5), "{colour}");
        }
        let one = noise(&all[..2]).expect("a drawing");
        assert_eq!(one.matches("stroke=\"#0072B2\" stroke-width=\"2\"").count(), 2);
        for label in ["a, 8 bits", "a, 4 bits", "b, 8 bits", "b, 4 bits"] {
            assert!(svg.contains(label), "{label}");
        }
    }
}
