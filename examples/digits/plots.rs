//! The plots: embeddings in two dimensions, loss curves, and the table as bars.
//!
//! Colours are those of Okabe and Ito, which people with any colour vision can tell apart. The font is
//! compiled in, so that a machine without fonts draws the same picture.

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font, text_anchor};
use text_anchor::{HPos, Pos, VPos};

use crate::data::{CLASSES, Split};
use crate::metrics::{Embeddings, mean_deviation};
use crate::pca::Plane;
use crate::regimes::{Regime, Run};
use crate::report::{COLUMNS, Column};

const ORANGE: RGBColor = RGBColor(230, 159, 0);
const SKY: RGBColor = RGBColor(86, 180, 233);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const YELLOW: RGBColor = RGBColor(240, 228, 66);
const DEEP_BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(170, 170, 170);

const DIGIT_COLOURS: [RGBColor; CLASSES] = [ORANGE, SKY, GREEN, YELLOW, DEEP_BLUE, VERMILION, PURPLE];

fn regime_colour(regime: Regime) -> RGBColor {
    match regime {
        Regime::Baseline => INK,
        Regime::InputMixup => SKY,
        Regime::ManifoldMixup => GREEN,
        Regime::Multimix => ORANGE,
        Regime::DenseMultimix => VERMILION,
    }
}

// Families of their own: plotters draws bold as regular where one family holds both.
const PLAIN: &str = "plain";
const BOLD: &str = "bold";

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

fn canvas(path: &Path, size: (u32, u32)) -> Result<Canvas<'_>> {
    static FONT: OnceLock<bool> = OnceLock::new();
    let registered = *FONT.get_or_init(|| {
        register_font(PLAIN, FontStyle::Normal, dejavu::sans::regular()).is_ok()
            && register_font(BOLD, FontStyle::Normal, dejavu::sans::bold()).is_ok()
    });
    anyhow::ensure!(registered, "the font compiled in cannot be read");
    let area = BitMapBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

fn text(size: u32) -> TextStyle<'static> {
    (PLAIN, size).into_font().color(&INK)
}

fn bold(size: u32) -> TextStyle<'static> {
    (BOLD, size).into_font().color(&INK)
}

/// A number on an axis: at most three decimals, no trailing zeros, no negative zero.
fn short(value: f64) -> String {
    let rounded = (value * 1e3).round() / 1e3;
    format!("{}", if rounded == 0.0 { 0.0 } else { rounded })
}

fn centred(style: TextStyle<'_>) -> TextStyle<'_> {
    style.pos(Pos::new(HPos::Center, VPos::Center))
}

/// One panel per regime: pooled embeddings of the test images (coloured by digit) and of the unknown digits
/// (crosses), first seed, scaled to length 1, in the plane of the test embeddings' two leading principal
/// components.
pub fn embeddings(path: &Path, regimes: &[Regime], runs: &[Run], split: &Split) -> Result<()> {
    let panels: Vec<Panel> =
        runs.iter().filter(|run| run.seed == 0 && regimes.contains(&run.regime)).map(Panel::of).collect();
    let columns = 3.min(panels.len() + 1);
    let rows = (panels.len() + 1).div_ceil(columns);
    let root = canvas(path, (620 * columns as u32, 640 * rows as u32 + 60))?;
    let title = "Embeddings of test images and of unknown digits: leading principal components";
    let root = root.margin(16, 0, 0, 0).titled(title, bold(28))?;
    let reach = panels.iter().flat_map(|panel| panel.test.iter().chain(&panel.ood));
    let reach = 1.05 * reach.fold(0f64, |reach, &(x, y)| reach.max(x.abs()).max(y.abs()));
    let cells = root.split_evenly((rows, columns));
    for (panel, cell) in panels.iter().zip(&cells) {
        panel.draw(cell, -reach..reach, &split.test.labels)?;
    }
    legend_of_digits(&cells[panels.len()])?;
    Ok(root.present()?)
}

struct Panel {
    regime: Regime,
    plane: Plane,
    test: Vec<(f64, f64)>,
    ood: Vec<(f64, f64)>,
}

impl Panel {
    fn of(run: &Run) -> Self {
        let (test, ood): (Embeddings, Embeddings) = (run.test.normalized(), run.ood.normalized());
        let plane = Plane::fit(&test);
        Self { regime: run.regime, test: plane.project(&test), ood: plane.project(&ood), plane }
    }

    fn draw(&self, cell: &Canvas, reach: Range<f64>, labels: &[u32]) -> Result<()> {
        let mut chart = ChartBuilder::on(cell)
            .margin(12)
            .caption(self.regime.name(), bold(26))
            .set_label_area_size(LabelAreaPosition::Left, 64)
            .set_label_area_size(LabelAreaPosition::Bottom, 56)
            .build_cartesian_2d(reach.clone(), reach)?;
        let [first, second] = self.plane.explained.map(|share| 100.0 * share);
        chart
            .configure_mesh()
            .disable_mesh()
            .x_labels(5)
            .y_labels(5)
            .label_style(text(18))
            .axis_desc_style(text(20))
            .x_desc(format!("first component ({first:.0}% of variance)"))
            .y_desc(format!("second component ({second:.0}%)"))
            .x_label_formatter(&|&x| short(x))
            .y_label_formatter(&|&y| short(y))
            .draw()?;
        chart.draw_series(self.ood.iter().map(|&at| Cross::new(at, 3, PALE.stroke_width(1))))?;
        let colour = |label: u32| DIGIT_COLOURS[label as usize];
        let dots = self.test.iter().zip(labels);
        chart.draw_series(dots.map(|(&at, &label)| Circle::new(at, 4, colour(label).mix(0.75).filled())))?;
        for digit in 0..CLASSES as u32 {
            let (at, members) = centre(&self.test, labels, digit);
            if members > 0 {
                chart.draw_series([Circle::new(at, 13, WHITE.mix(0.8).filled())])?;
                chart.draw_series([Text::new(digit.to_string(), at, centred(bold(24)))])?;
            }
        }
        Ok(())
    }
}

fn centre(points: &[(f64, f64)], labels: &[u32], digit: u32) -> ((f64, f64), usize) {
    let members: Vec<_> = points.iter().zip(labels).filter(|&(_, &label)| label == digit).collect();
    let count = members.len();
    let sum = members.iter().fold((0.0, 0.0), |(x, y), (point, _)| (x + point.0, y + point.1));
    ((sum.0 / count as f64, sum.1 / count as f64), count)
}

fn legend_of_digits(cell: &Canvas) -> Result<()> {
    let entry = |row: i32| (110, 120 + 46 * row);
    let style = text(22).pos(Pos::new(HPos::Left, VPos::Center));
    for (digit, colour) in DIGIT_COLOURS.iter().enumerate() {
        let (x, y) = entry(digit as i32);
        cell.draw(&Circle::new((x, y), 9, colour.filled()))?;
        cell.draw(&Text::new(format!("digit {digit} (test images)"), (x + 28, y), style.clone()))?;
    }
    let (x, y) = entry(CLASSES as i32);
    cell.draw(&Cross::new((x, y), 6, PALE.stroke_width(2)))?;
    let unknown = format!("digits {CLASSES} to 9, never seen in training");
    cell.draw(&Text::new(unknown, (x + 28, y), style.clone()))?;
    cell.draw(&Text::new("All panels have the same scale; first seed;", (x - 9, y + 70), style.clone()))?;
    cell.draw(&Text::new("embeddings scaled to length 1.", (x - 9, y + 102), style))?;
    Ok(())
}

/// What each regime minimised, and the loss on unmixed test images; mean over the seeds with a band of one
/// standard deviation.
pub fn losses(path: &Path, regimes: &[Regime], runs: &[Run]) -> Result<()> {
    let root = canvas(path, (1700, 760))?;
    let (left, right) = root.split_horizontally(850);
    let curves = |points: &dyn Fn(&Run) -> Vec<(usize, f64)>| -> Vec<(Regime, Curve)> {
        regimes.iter().map(|&regime| (regime, Curve::over_seeds(regime, runs, points))).collect()
    };
    let objectives = curves(&|run: &Run| (1..).zip(running_mean(&run.objective)).collect());
    let range = 0.0..1.05 * highest(&objectives);
    let titles = ["Training objective of each regime", "loss, mean of up to five epochs (nats)"];
    panel_of_losses(&left, titles, range, &objectives)?;
    let tests = curves(&|run: &Run| run.test_loss.clone());
    let range = (0.8 * lowest(&tests)..1.2 * highest(&tests)).log_scale();
    panel_of_losses(&right, ["Unmixed test images", "cross-entropy (nats, logarithmic)"], range, &tests)?;
    Ok(root.present()?)
}

fn panel_of_losses<Y>(
    area: &Canvas,
    [title, y_title]: [&str; 2],
    y_range: Y,
    curves: &[(Regime, Curve)],
) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let last_epoch = all_points(curves).map(|point| point.0).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(title, bold(26))
        .set_label_area_size(LabelAreaPosition::Left, 84)
        .set_label_area_size(LabelAreaPosition::Bottom, 56)
        .build_cartesian_2d(0.0..last_epoch, y_range)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.4))
        .label_style(text(18))
        .axis_desc_style(text(20))
        .x_desc("epoch")
        .x_label_formatter(&|epoch| format!("{epoch:.0}"))
        .y_desc(y_title)
        .y_label_formatter(&|&loss| short(loss))
        .draw()?;
    for (regime, curve) in curves {
        let colour = regime_colour(*regime);
        chart.draw_series([Polygon::new(curve.band(), colour.mix(0.15))])?;
        let line = curve.0.iter().map(|&(epoch, mean, _)| (epoch, mean));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(3)))?
            .label(regime.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 32, y)], colour.stroke_width(4)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(text(20))
        .legend_area_size(44)
        .margin(14)
        .background_style(WHITE.mix(0.85))
        .border_style(PALE)
        .draw()?;
    Ok(())
}

/// The mean of each value and up to four before it: how many mini-batches of an epoch use input mixup is
/// chance.
fn running_mean(values: &[f64]) -> Vec<f64> {
    let window = |end: usize| &values[(end + 1).saturating_sub(5)..=end];
    (0..values.len()).map(|end| mean_deviation(window(end)).0).collect()
}

/// Mean and standard deviation over the seeds, by epoch.
struct Curve(Vec<(f64, f64, f64)>);

impl Curve {
    fn over_seeds(regime: Regime, runs: &[Run], points: &dyn Fn(&Run) -> Vec<(usize, f64)>) -> Self {
        let curves: Vec<_> = runs.iter().filter(|run| run.regime == regime).map(points).collect();
        let epochs = curves.first().into_iter().flatten().map(|point| point.0).enumerate();
        Self(
            epochs
                .map(|(place, epoch)| {
                    let values: Vec<f64> = curves.iter().map(|curve| curve[place].1).collect();
                    let (mean, deviation) = mean_deviation(&values);
                    (epoch as f64, mean, deviation)
                })
                .collect(),
        )
    }

    /// The outline of mean ± deviation, kept above 0 for logarithmic axes.
    fn band(&self) -> Vec<(f64, f64)> {
        let above = self.0.iter().map(|&(epoch, mean, deviation)| (epoch, mean + deviation));
        let below =
            self.0.iter().rev().map(|&(epoch, mean, deviation)| (epoch, (mean - deviation).max(0.1 * mean)));
        above.chain(below).collect()
    }
}

fn all_points(curves: &[(Regime, Curve)]) -> impl Iterator<Item = &(f64, f64, f64)> {
    curves.iter().flat_map(|(_, curve)| &curve.0)
}

fn highest(curves: &[(Regime, Curve)]) -> f64 {
    all_points(curves).map(|&(_, mean, deviation)| mean + deviation).fold(1e-6, f64::max)
}

fn lowest(curves: &[(Regime, Curve)]) -> f64 {
    all_points(curves).map(|&(_, mean, _)| mean).filter(|&mean| mean > 0.0).fold(1.0, f64::min)
}

/// The table as bars: mean, standard deviation, and a dot for every seed. Where an axis does not start at 0,
/// its title says so.
pub fn bars(path: &Path, regimes: &[Regime], runs: &[Run]) -> Result<()> {
    let root = canvas(path, (1800, 1060))?;
    let title = "Five regimes on the digits: mean and standard deviation over the seeds (a dot for each)";
    let cells = root.margin(16, 0, 0, 0).titled(title, bold(28))?.split_evenly((2, 3));
    for (column, cell) in COLUMNS.iter().zip(&cells) {
        panel_of_bars(cell, column, regimes, runs)?;
    }
    Ok(root.present()?)
}

fn panel_of_bars(cell: &Canvas, column: &Column, regimes: &[Regime], runs: &[Run]) -> Result<()> {
    let values: Vec<Vec<f64>> = regimes.iter().map(|&regime| column.values(regime, runs)).collect();
    let axis = axis_around(&values);
    let foot = 0f64.clamp(axis.start, axis.end);
    let from = if foot == 0.0 { String::new() } else { format!("; axis from {}", short(foot)) };
    let better = if column.higher_is_better { "higher is better" } else { "lower is better" };
    let mut chart = ChartBuilder::on(cell)
        .margin(16)
        .caption(format!("{} ({better}{from})", column.name), bold(21))
        .set_label_area_size(LabelAreaPosition::Left, 170)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d(axis.clone(), (regimes.len() as f64 - 0.5)..-0.5)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.4))
        .label_style(text(18))
        .x_labels(5)
        .x_label_formatter(&|&x| short(x))
        .y_labels(0)
        .draw()?;
    let right = text(19).pos(Pos::new(HPos::Right, VPos::Center));
    for (row, (&regime, values)) in (0..).map(f64::from).zip(regimes.iter().zip(&values)) {
        let (mean, deviation) = mean_deviation(values);
        let (colour, ends) = (regime_colour(regime), [(mean - deviation, row), (mean + deviation, row)]);
        chart.draw_series([Rectangle::new(
            [(foot, row - 0.34), (mean, row + 0.34)],
            colour.mix(0.55).filled(),
        )])?;
        chart.draw_series([PathElement::new(ends, INK.stroke_width(3))])?;
        chart.draw_series(values.iter().map(|&value| Circle::new((value, row + 0.2), 4, INK.filled())))?;
        let digits = column.decimals;
        let number = format!("{mean:.digits$} ± {deviation:.digits$}");
        let name = Text::new(regime.name(), (-12, -12), right.clone());
        let number = Text::new(number, (-12, 12), right.clone());
        chart.draw_series([EmptyElement::at((axis.start, row)) + name + number])?;
    }
    Ok(())
}

/// An axis that shows all values and deviations: from 0 where they are not crowded far from it, otherwise
/// around them, in round numbers.
fn axis_around(values: &[Vec<f64>]) -> Range<f64> {
    let whiskers = |values: &Vec<f64>| {
        let (mean, deviation) = mean_deviation(values);
        [mean - deviation, mean + deviation]
    };
    let shown: Vec<f64> = values.iter().flatten().copied().chain(values.iter().flat_map(whiskers)).collect();
    let low = shown.iter().copied().fold(f64::INFINITY, f64::min);
    let high = shown.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let spread = (high - low).max(1e-3 * high.abs()).max(1e-9);
    let step = 10f64.powf(spread.log10().floor());
    let (low, high) =
        (((low - 0.4 * spread) / step).floor() * step, ((high + 0.1 * spread) / step).ceil() * step);
    match (low, high) {
        (low, high) if low > 0.0 && low < spread => 0.0..high,
        (low, high) if high < 0.0 && -high < spread => low..0.0,
        (low, high) => low..high,
    }
}
