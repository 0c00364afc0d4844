//! Distributions of repeated measurements.

/// Three points of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quantiles {
    pub(crate) p25: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
}

impl Quantiles {
    /// Of these samples, in any order; none if there are none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |per_cent| quantile(&sorted, per_cent);
        Some(Self { p25: at(25)?, p50: at(50)?, p90: at(90)? })
    }
}

/// Between the two samples that the quantile falls between, in proportion.
fn quantile(sorted: &[f64], per_cent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let (whole, rest) = (last * per_cent / 100, last * per_cent % 100);
    let low = *sorted.get(whole)?;
    let high = sorted.get(whole + 1).copied().unwrap_or(low);
    let rest = f64::from(u8::try_from(rest).ok()?) / 100.0;
    Some(low + (high - low) * rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_do_not_mind_the_order() {
        let found = Quantiles::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!(found, Quantiles { p25: 2.0, p50: 3.0, p90: 4.6 });
    }

    #[test]
    fn one_sample_is_all_quantiles() {
        assert_eq!(Quantiles::of(&[7.0]).unwrap(), Quantiles { p25: 7.0, p50: 7.0, p90: 7.0 });
    }

    #[test]
    fn no_sample_has_none() {
        assert_eq!(Quantiles::of(&[]), None);
    }

    #[test]
    fn an_outlier_moves_only_what_is_above_it() {
        let mut samples: Vec<f64> = (0..31).map(f64::from).collect();
        samples[30] = 1e9;
        let found = Quantiles::of(&samples).unwrap();
        assert_eq!((found.p25, found.p50, found.p90), (7.5, 15.0, 27.0));
    }
}
