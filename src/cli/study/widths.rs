//! The tensors whose widths `fqtc study bits` chooses, and what a model's rules mean by each width.
//!
//! Narrow widths may have other quantizers than wide ones: parts of a range, scales of rows. What the rules mean by a width
//! is found by compiling the model with it. Of activations only the bits are changed: their quantizers may have learned
//! parameters, which a model of another width would not have.

use crate::cli::failure::Failure;
use crate::cli::options::Model;
use crate::cli::terminal::note;
use crate::ir::{Attr, Module, Role, Scheme};
use crate::noise;
use crate::ops::rules::{self, Anchors, Place};
use crate::quant;
use crate::types::word;

/// Those of some widths that a model accepts, at least one, else what is wrong with the first. Some quantizers have narrow
/// codes only; that, or a mistake in what the model says `at` some widths, is said for those that are left out.
pub(super) fn accepted(
    widths: impl IntoIterator<Item = u32>,
    check: impl Fn(u32) -> Result<(), Failure>,
) -> Result<Vec<u32>, Failure> {
    let (mut accepted, mut refused) = (vec![], vec![]);
    for bits in widths {
        match check(bits) {
            Ok(()) => accepted.push(bits),
            Err(failure) => refused.push((bits, failure)),
        }
    }
    if accepted.is_empty() {
        return refused.into_iter().next().map_or(Ok(accepted), |(_, failure)| Err(failure));
    }
    refused.iter().for_each(|(bits, failure)| note(&format!("without {bits} bits: {}", failure.headline())));
    Ok(accepted)
}

/// A tensor of a step that is made into codes.
#[derive(Clone, Debug)]
pub(super) struct Coded {
    /// What it is.
    pub(super) role: Role,
    /// Path of the layer that rules name for it.
    pub(super) path: String,
    /// Its elements, of activations and gradients those of one image.
    pub(super) elements: u64,
    /// What the rules mean by each width that there is to choose from.
    schemes: Vec<(u32, Scheme)>,
}

impl Coded {
    /// Whether the general width decides its bits, not a rule of its own.
    pub(super) fn is_free(&self) -> bool {
        self.schemes.iter().all(|(bits, scheme)| quant::bits(&scheme.params) == *bits)
    }

    /// Its bits where the general width is one of those to choose from.
    pub(super) fn bits(&self, general: u32) -> u32 {
        quant::bits(&self.scheme(general).params)
    }

    fn scheme(&self, general: u32) -> &Scheme {
        let found = self.schemes.iter().position(|(width, _)| *width == general);
        &self.schemes[found.unwrap_or(0)].1
    }

    /// The settings that give it other bits than the general ones, and what the rules mean by them.
    pub(super) fn changes(&self, general: u32, bits: u32) -> Vec<String> {
        match self.role {
            _ if !self.is_free() || general == bits => vec![],
            Role::Activations => vec![format!("{}.activations.bits={bits}", self.path)],
            _ => changes(&self.path, self.role, self.scheme(general), self.scheme(bits)),
        }
    }
}

/// The tensors of a role in a model, from the first layer to the last.
pub(super) fn coded(
    role: Role,
    widths: &[u32],
    base: &Model,
    module: &dyn Fn(&Model) -> Result<Module, Failure>,
) -> Result<Vec<Coded>, Failure> {
    let modules = widths.iter().map(|&bits| module(&general(role, bits, base)));
    let modules = modules.collect::<Result<Vec<Module>, Failure>>()?;
    let Some(first) = modules.first() else { return Ok(vec![]) };
    let coded = noise::codes(first, role).into_iter().filter_map(|codes| {
        let schemes = widths.iter().zip(&modules);
        let schemes = schemes.map(|(&bits, module)| Some((bits, scheme(module, role, &codes.path)?)));
        Some(Coded {
            schemes: schemes.collect::<Option<Vec<(u32, Scheme)>>>()?,
            role,
            path: codes.path,
            elements: codes.elements,
        })
    });
    Ok(coded.collect())
}

/// The model in which all that is free of a role has so many bits, and everything else those of the base.
pub(super) fn model(role: Role, bits: u32, base: &Model, coded: &[Coded]) -> Model {
    if role != Role::Activations {
        return general(role, bits, base);
    }
    let mut model = base.clone();
    let of_role = coded.iter().filter(|coded| coded.role == role && coded.is_free());
    model.changes.extend(of_role.map(|coded| format!("{}.activations.bits={bits}", coded.path)));
    model
}

/// Whether a setting states the general width of a role.
pub(super) fn is_general(change: &str, role: Role) -> bool {
    let key: String = change.split('=').next().unwrap_or_default().split_whitespace().collect();
    key == format!("{}.bits", role.word())
}

/// A model with another general width of a role.
fn general(role: Role, bits: u32, base: &Model) -> Model {
    let mut model = base.clone();
    let width = match role {
        Role::Weights => &mut model.settings.wbits,
        Role::Activations => &mut model.settings.abits,
        Role::Gradients => &mut model.gbits,
    };
    *width = Some(i64::from(bits));
    model
}

/// The scheme that rules give a tensor.
fn scheme(module: &Module, role: Role, path: &str) -> Option<Scheme> {
    let name = match role {
        // Codes that the data gradient reads may have a scheme derived from it.
        Role::Gradients => {
            let place = Place { path, contractions: vec![path] };
            rules::scheme(module, &Anchors::new(module), role, &place)?
        }
        _ => {
            let codes = noise::codes(module, role).into_iter().find(|codes| codes.path == path)?;
            word(&module.nodes[*codes.quantizers.first()?].attrs, "scheme")
        }
    };
    module.schemes.get(name).cloned()
}

/// The settings that make one scheme of a tensor another.
fn changes(path: &str, role: Role, from: &Scheme, to: &Scheme) -> Vec<String> {
    let subject = format!("{path}.{}", role.word());
    if from.quantizer != to.quantizer {
        let args: Vec<String> = to.params.iter().map(|(name, attr)| format!("{name}={attr}")).collect();
        return vec![format!("{subject}={}({})", to.quantizer, args.join(","))];
    }
    let differs = |(name, attr): &(&String, &Attr)| from.params.get(*name) != Some(*attr);
    let change = |(name, attr)| format!("{subject}.{name}={attr}");
    to.params.iter().filter(differs).map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_what_differs() {
        let scheme = |quantizer: &str, bits: i64, per: &str| Scheme {
            quantizer: quantizer.to_owned(),
            params: [("bits".to_owned(), Attr::Int(bits)), ("per".to_owned(), Attr::Word(per.to_owned()))]
                .into(),
        };
        let changes = |path, from, to| changes(path, Role::Gradients, from, to);
        let [a, b] = [scheme("stochastic", 4, "row"), scheme("stochastic", 6, "tensor")];
        assert_eq!(changes("x.conv1", &a, &b), ["x.conv1.gradients.bits=6", "x.conv1.gradients.per=tensor"]);
        assert!(changes("x.conv1", &a, &a).is_empty());
        let other = scheme("nearest", 6, "tensor");
        assert_eq!(changes("y", &a, &other), ["y.gradients=nearest(bits=6,per=tensor)"]);
    }
}
