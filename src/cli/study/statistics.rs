//! Means over seeds, with their standard errors.

/// A mean of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mean {
    pub(super) value: f64,
    /// Standard error of the mean: the sample's standard deviation over √n. Nothing is known from one value.
    pub(super) error: Option<f64>,
}

/// The mean; `None` of nothing.
pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> Option<Mean> {
    let values: Vec<f64> = values.into_iter().collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let value = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - value) * (x - value)).sum();
    let error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    Some(Mean { value, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_standard_errors() {
        assert_eq!(mean([]), None);
        assert_eq!(mean([3.0]), Some(Mean { value: 3.0, error: None }));
        // Deviations −2, 0, 0, 2 give a sample variance of 8/3, and 2/3 of the mean.
        let four = mean([1.0, 3.0, 3.0, 5.0]).expect("values");
        assert_eq!(four.value, 3.0);
        assert!((four.error.expect("more than one") - (2.0f64 / 3.0).sqrt()).abs() < 1e-15);
    }
}
