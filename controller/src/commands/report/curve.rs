//! A curve of any length in a bounded number of points (pure): neighbours are joined to their mean, with the least and the most of them.

/// One point: a value, or several neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Where it begins.
    pub(super) x: f64,
    /// Mean.
    pub(super) y: f64,
    /// Least of what it stands for.
    pub(super) least: f64,
    /// Most of what it stands for.
    pub(super) most: f64,
    /// Nothing is known between the point before and this one.
    pub(super) after_gap: bool,
    /// Values that it stands for.
    weight: f64,
}

/// Points in the order in which they came.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    points: Vec<Point>,
    most_points: usize,
    /// Values that the next point is to stand for.
    each: f64,
    gap: bool,
    /// There are not so many gaps that points had to be joined across them.
    keeps_gaps: bool,
    count: u64,
}

impl Curve {
    /// At most `most_points`, and at least half of them once there are so many values.
    pub(super) fn new(most_points: usize) -> Self {
        Self {
            points: Vec::new(),
            most_points: most_points.max(2),
            each: 1.0,
            gap: false,
            keeps_gaps: true,
            count: 0,
        }
    }

    /// Nothing is known between what came and what comes.
    pub(super) fn gap(&mut self) {
        self.gap = !self.points.is_empty();
    }

    /// Adds a value; one that is not a number is a gap.
    pub(super) fn add(&mut self, x: f64, y: f64) {
        self.add_range(x, (y, y, y));
    }

    /// Adds a value with the least and the most that it stands for.
    pub(super) fn add_range(&mut self, x: f64, (least, y, most): (f64, f64, f64)) {
        if !(x.is_finite() && least.is_finite() && y.is_finite() && most.is_finite()) {
            self.gap();
            return;
        }
        self.count += 1;
        let new = Point {
            x,
            y,
            least,
            most,
            after_gap: self.gap,
            weight: 1.0,
        };
        let breaks = std::mem::take(&mut self.gap) && self.keeps_gaps;
        match self.points.last_mut() {
            Some(last) if !breaks && last.weight < self.each => join(last, &new),
            _ => {
                if self.points.len() >= self.most_points {
                    self.halve();
                }
                self.points.push(new);
            }
        }
    }

    fn halve(&mut self) {
        self.keeps_gaps &= keeps_gaps(&self.points, self.most_points);
        self.points = joined(&self.points, self.most_points);
        self.each *= 2.0;
    }

    /// Values that came.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Its points, joined further until there are at most so many.
    pub(super) fn points(&self, most_points: usize) -> Vec<Point> {
        let mut points = self.points.clone();
        while points.len() > most_points.max(2) {
            points = joined(&points, most_points.max(2));
        }
        points
    }
}

fn keeps_gaps(points: &[Point], most_points: usize) -> bool {
    let gaps = points.iter().filter(|point| point.after_gap).count();
    gaps < most_points / 2
}

/// Every two neighbours as one. Gaps stay, unless there are so many of them that nothing would get shorter.
fn joined(points: &[Point], most_points: usize) -> Vec<Point> {
    let keeps_gaps = keeps_gaps(points, most_points);
    let mut out: Vec<Point> = Vec::with_capacity(points.len() / 2 + 1);
    let mut is_open = false;
    for point in points {
        match out.last_mut() {
            Some(last) if is_open && !(keeps_gaps && point.after_gap) => {
                join(last, point);
                is_open = false;
            }
            _ => {
                out.push(*point);
                is_open = true;
            }
        }
    }
    out
}

fn join(into: &mut Point, other: &Point) {
    let weight = into.weight + other.weight;
    into.y = (into.y * into.weight + other.y * other.weight) / weight;
    into.least = into.least.min(other.least);
    into.most = into.most.max(other.most);
    into.weight = weight;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(points: &[Point]) -> Vec<(f64, f64, f64, f64)> {
        let one = |point: &Point| (point.x, point.least, point.y, point.most);
        points.iter().map(one).collect()
    }

    #[test]
    fn a_long_curve_keeps_its_mean_its_peaks_and_its_gaps() {
        let mut curve = Curve::new(4);
        for x in 0..16 {
            curve.add(f64::from(x), if x == 9 { 100.0 } else { 4.0 });
        }
        assert_eq!(curve.count(), 16);
        let points = curve.points(4);
        assert_eq!(
            shown(&points),
            [
                (0.0, 4.0, 4.0, 4.0),
                (4.0, 4.0, 4.0, 4.0),
                (8.0, 4.0, 28.0, 100.0),
                (12.0, 4.0, 4.0, 4.0)
            ]
        );
        assert_eq!(
            shown(&curve.points(2)),
            [(0.0, 4.0, 4.0, 4.0), (8.0, 4.0, 16.0, 100.0)]
        );

        let mut curve = Curve::new(8);
        for x in 0..9 {
            curve.add(f64::from(x), 1.0);
            if x == 2 {
                curve.add(2.5, f64::NAN);
            }
        }
        let points = curve.points(8);
        let gaps: Vec<f64> = points
            .iter()
            .filter(|point| point.after_gap)
            .map(|point| point.x)
            .collect();
        assert_eq!(gaps, [3.0], "{points:?}");
        assert_eq!(curve.count(), 9);
    }

    #[test]
    fn many_gaps_do_not_make_it_longer_than_it_may_be() {
        let mut curve = Curve::new(10);
        for x in 0..1000 {
            curve.add(f64::from(x), 1.0);
            curve.gap();
        }
        assert!(curve.points(10).len() <= 10);
        assert!(Curve::new(10).points(3).is_empty());
    }
}
