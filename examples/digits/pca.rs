//! Principal components: the plane in which a cloud of points is widest.

use crate::metrics::Embeddings;

/// The mean of a cloud and its two leading principal axes.
pub struct Plane {
    mean: Vec<f64>,
    axes: [Vec<f64>; 2],
    /// The share of the variance along each axis.
    pub explained: [f64; 2],
}

impl Plane {
    /// Fits the plane. Each axis is turned so that its largest component is positive.
    pub fn fit(cloud: &Embeddings) -> Self {
        let mean = mean(cloud);
        let mut covariance = covariance(cloud, &mean);
        let total: f64 = (0..cloud.width).map(|i| covariance[i * cloud.width + i]).sum();
        let (first, first_variance) = leading_axis(&covariance, cloud.width);
        deflate(&mut covariance, &first, first_variance);
        let (second, second_variance) = leading_axis(&covariance, cloud.width);
        let share = |variance: f64| if total > 0.0 { variance / total } else { 0.0 };
        Self { mean, axes: [first, second], explained: [share(first_variance), share(second_variance)] }
    }

    /// The coordinates of each point in the plane.
    pub fn project(&self, cloud: &Embeddings) -> Vec<(f64, f64)> {
        let along = |row: &[f32], axis: &[f64]| -> f64 {
            row.iter().zip(&self.mean).zip(axis).map(|((&x, mean), a)| (f64::from(x) - mean) * a).sum()
        };
        cloud.rows().map(|row| (along(row, &self.axes[0]), along(row, &self.axes[1]))).collect()
    }
}

fn mean(cloud: &Embeddings) -> Vec<f64> {
    let mut mean = vec![0.0; cloud.width];
    for row in cloud.rows() {
        mean.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = cloud.rows().len() as f64;
    mean.iter().map(|sum| sum / count).collect()
}

fn covariance(cloud: &Embeddings, mean: &[f64]) -> Vec<f64> {
    let width = cloud.width;
    let mut covariance = vec![0.0; width * width];
    for row in cloud.rows() {
        let centred: Vec<f64> = row.iter().zip(mean).map(|(&x, mean)| f64::from(x) - mean).collect();
        for (i, x) in centred.iter().enumerate() {
            covariance[i * width..(i + 1) * width]
                .iter_mut()
                .zip(&centred)
                .for_each(|(sum, y)| *sum += x * y);
        }
    }
    let count = cloud.rows().len() as f64;
    covariance.iter().map(|sum| sum / count).collect()
}

/// Power iteration: the unit eigenvector of the largest eigenvalue of a symmetric matrix, and that value.
fn leading_axis(matrix: &[f64], width: usize) -> (Vec<f64>, f64) {
    // A start that is orthogonal to no axis of the coordinates.
    let mut axis: Vec<f64> = (0..width).map(|i| 1.0 + i as f64 / width as f64).collect();
    let mut value = 0.0;
    for _ in 0..2000 {
        let image: Vec<f64> =
            matrix.chunks_exact(width).map(|row| row.iter().zip(&axis).map(|(m, a)| m * a).sum()).collect();
        value = image.iter().map(|x| x * x).sum::<f64>().sqrt();
        if value == 0.0 {
            break;
        }
        axis = image.iter().map(|x| x / value).collect();
    }
    let length = axis.iter().map(|x| x * x).sum::<f64>().sqrt();
    let largest = axis.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
    (axis.iter().map(|x| x / length * largest.signum()).collect(), value)
}

fn deflate(matrix: &mut [f64], axis: &[f64], value: f64) {
    for (row, a) in matrix.chunks_exact_mut(axis.len()).zip(axis) {
        row.iter_mut().zip(axis).for_each(|(m, b)| *m -= value * a * b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_cloud_is_found_with_its_variances() {
        // Points m ± 3u, m ± 1v with orthonormal u = (0.6, 0, 0.8), v = (0, 1, 0): variances 9/2 and 1/2.
        let m = [1.0, -2.0, 0.5];
        let point = |u: f32, v: f32| [m[0] + 0.6 * u, m[1] + v, m[2] + 0.8 * u];
        let values = [point(3.0, 0.0), point(-3.0, 0.0), point(0.0, 1.0), point(0.0, -1.0)].concat();
        let cloud = Embeddings { values, width: 3 };
        let plane = Plane::fit(&cloud);
        let wanted = [(3.0, 0.0), (-3.0, 0.0), (0.0, 1.0), (0.0, -1.0)];
        for (given, wanted) in plane.project(&cloud).iter().zip(wanted) {
            assert!((given.0 - wanted.0).abs() < 1e-5 && (given.1 - wanted.1).abs() < 1e-5, "{given:?}");
        }
        assert!((plane.explained[0] - 0.9).abs() < 1e-6 && (plane.explained[1] - 0.1).abs() < 1e-6);
    }

    #[test]
    fn a_single_point_has_no_variance() {
        let cloud = Embeddings { values: vec![1.0, 2.0, 1.0, 2.0], width: 2 };
        let plane = Plane::fit(&cloud);
        assert_eq!(plane.explained, [0.0, 0.0]);
        assert_eq!(plane.project(&cloud), [(0.0, 0.0); 2]);
    }
}
