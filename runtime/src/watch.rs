//! Watching a run for failures that integers would keep silent about: nothing turns NaN, it only stops learning.
//!
//! The loss is watched alike in a run that was stopped and resumed; counters of layers begin anew with each process.

use crate::error::{Error, ErrorKind};
use crate::fixed::Dyadic;
use crate::program::MetricKind;
use crate::session::Tally;
use crate::train::Reading;
use std::collections::BTreeSet;
use std::fmt;

/// Steps in a row with a loss beyond the bound until a warning.
const WARN_STEPS: u32 = 100;
/// … until the run stops.
const STOP_STEPS: u32 = 300;
/// Readings of a counter in a row beyond three quarters until the run stops.
const STOP_READINGS: u32 = 3;
/// ln 2.
const LN_2: Dyadic = Dyadic::new(1_488_522_236, -31);

/// Something to look into; the run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The loss has been worse than guessing for many steps.
    HighLoss {
        /// How many.
        steps: u32,
    },
    /// More than a quarter of a layer's codes were at an end of their range.
    Saturated {
        /// Path of the layer.
        layer: String,
        /// How many, in thousandths.
        permille: u64,
    },
    /// All gradient codes of a layer were zero, in the images that are looked at.
    NoGradient {
        /// Path of the layer.
        layer: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::HighLoss { steps } => {
                write!(
                    f,
                    "the loss has been worse than guessing for {steps} steps; training may be diverging"
                )
            }
            Warning::Saturated { layer, permille } => {
                write!(
                    f,
                    "`{layer}`: {permille} of 1000 codes are at an end of their range, cut off or nearly"
                )
            }
            Warning::NoGradient { layer } => {
                let images = "in the first image of each batch";
                write!(f, "`{layer}`: all gradient codes are zero {images}; the layer may learn nothing")
            }
        }
    }
}

/// Looks at every step and every reading of the counters.
pub(crate) struct Watch {
    /// 1.5·ln(classes), at least 1, in Q16.
    loss_bound: i64,
    /// Readings in a row beyond three quarters, by counter.
    high_readings: Vec<u32>,
    warned: BTreeSet<(String, MetricKind)>,
}

impl Watch {
    pub(crate) fn new(classes: u32, counters: usize) -> Watch {
        let guessing = Dyadic::from_i64(classes as i64).log2().mul(LN_2);
        let bound = guessing.mul(Dyadic::from_i64(3)).to_fixed(15);
        Watch { loss_bound: bound.max(1 << 16), high_readings: vec![0; counters], warned: BTreeSet::new() }
    }

    /// Looks at one training step, after so many in a row with a high loss; counts it.
    pub(crate) fn step(&self, tally: &Tally, high_steps: &mut u32) -> Result<Option<Warning>, Error> {
        *high_steps = if tally.mean_loss() > self.loss_bound { high_steps.saturating_add(1) } else { 0 };
        match *high_steps {
            WARN_STEPS => Ok(Some(Warning::HighLoss { steps: WARN_STEPS })),
            STOP_STEPS => Err(diverged(format!(
                "training has diverged: the loss has been worse than guessing for {STOP_STEPS} steps"
            ))),
            _ => Ok(None),
        }
    }

    /// Looks at all counters, read since the last look.
    pub(crate) fn readings(&mut self, readings: &[Reading]) -> Result<Vec<Warning>, Error> {
        let mut warnings = Vec::new();
        for (reading, high) in readings.iter().zip(&mut self.high_readings) {
            let Reading { layer, kind, count, of, .. } = reading;
            let warning = match kind {
                MetricKind::SaturatedCodes => {
                    *high = if exceeds(*count, *of, 3) { *high + 1 } else { 0 };
                    if *high == STOP_READINGS {
                        return Err(diverged(format!(
                            "training has diverged: most of what `{layer}` computes is at an end of its range"
                        )));
                    }
                    let permille = (*count as u128 * 1000 / (*of).max(1) as u128) as u64;
                    exceeds(*count, *of, 1).then(|| Warning::Saturated { layer: layer.clone(), permille })
                }
                MetricKind::ZeroGradients => {
                    (*of > 0 && count >= of).then(|| Warning::NoGradient { layer: layer.clone() })
                }
                MetricKind::ScaleRange => None,
            };
            if let Some(warning) = warning
                && self.warned.insert((layer.clone(), *kind))
            {
                warnings.push(warning);
            }
        }
        Ok(warnings)
    }
}

/// Whether `count` is more than so many quarters of `of`.
fn exceeds(count: u64, of: u64, quarters: u128) -> bool {
    count as u128 * 4 > of as u128 * quarters
}

fn diverged(message: String) -> Error {
    Error::new(
        ErrorKind::Diverged,
        message,
        "lower the learning rate, add warm-up, or give gradients more bits; the run folder has the state after the last whole epoch, if there was one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(loss: f64) -> Tally {
        Tally { samples: 2, correct: 0, loss: (2.0 * loss * 65536.0) as i64 }
    }

    #[test]
    fn a_lasting_high_loss_warns_then_stops() {
        let (watch, mut high) = (Watch::new(10, 0), 0);
        assert_eq!(watch.loss_bound, (1.5 * 10f64.ln() * 65536.0).round() as i64);
        let mut seen = Vec::new();
        for step in 1.. {
            match watch.step(&tally(3.5), &mut high) {
                Ok(None) => {}
                Ok(Some(_)) => seen.push(step),
                Err(error) => {
                    assert_eq!((error.kind, step), (ErrorKind::Diverged, STOP_STEPS));
                    break;
                }
            }
        }
        assert_eq!(seen, [WARN_STEPS]);
        let mut high = 0;
        for step in 0..1000 {
            let loss = if step % 90 == 0 { 2.3 } else { 9.0 };
            assert_eq!(watch.step(&tally(loss), &mut high).unwrap(), None);
        }
    }

    fn reading(kind: MetricKind, count: u64) -> Reading {
        Reading { layer: "conv1".into(), kind, count, of: 100, scale: None }
    }

    #[test]
    fn counters_warn_once_and_stop_when_they_explode() {
        let mut watch = Watch::new(10, 2);
        let saturated =
            |count| [reading(MetricKind::SaturatedCodes, count), reading(MetricKind::ZeroGradients, 99)];
        assert!(watch.readings(&saturated(25)).unwrap().is_empty());
        let warnings = watch.readings(&saturated(80)).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].to_string().contains("800 of 1000 codes"), "{}", warnings[0]);
        assert!(watch.readings(&saturated(80)).unwrap().is_empty());
        assert!(watch.readings(&saturated(10)).unwrap().is_empty());
        assert!(watch.readings(&saturated(76)).is_ok() && watch.readings(&saturated(76)).is_ok());
        assert_eq!(watch.readings(&saturated(76)).unwrap_err().kind, ErrorKind::Diverged);
        let dead = [reading(MetricKind::ScaleRange, 0), reading(MetricKind::ZeroGradients, 100)];
        assert_eq!(
            Watch::new(10, 2).readings(&dead).unwrap(),
            [Warning::NoGradient { layer: "conv1".into() }]
        );
    }
}
