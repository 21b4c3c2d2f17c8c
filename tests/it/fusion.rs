//! Grouping stores less and changes nothing else: the same step with and without the passes that group, layer by layer.
//!
//! Without groups, batch norms, sums and activation functions are stored with 16 bits, each rounded; with groups only codes
//! are. Both programs start from the same memory, and at every edge between layers (codes of activations and of gradients)
//! the one without groups gets the contents of the other, so that what differs was made inside of one group. Bound: the
//! sum over the edges that vanished of half a step of their 16 bits, and the coefficients' rounding that every grid has
//! (`Step::edge_error`, `Step::grid_error`). Where no edge vanished: the same bits.

use std::collections::BTreeMap;

use fqtc::ir::{Attr, Module, Node, Value};
use fqtc::tensor::Tensor;

use crate::support::modules;
use crate::support::teacher::Step;

const GROUPING: [&str; 2] = ["fuse_conv_bn_relu", "fuse_conv_bn_relu_backward"];

fn residual() -> Module {
    let mut module = modules::resnet(4, 8, 8, "stochastic");
    modules::rectify_all(&mut module, "log_gain");
    module.schemes.get_mut("gradients").unwrap().params.insert("bits".into(), Attr::Int(8));
    module
}

fn with_pools() -> Module {
    modules::lenet(4, 16, "stochastic")
}

/// Codes in all layouts, and the steps of gradients.
fn is_code(name: &str) -> bool {
    let parts = ["codes", "blocks", "code_sum", "step", "acc_step"].map(|part| format!(".gradient0.{part}"));
    let activation = [".activation.codes", ".activation.planes"].iter().any(|part| name.contains(part));
    activation || parts.iter().any(|part| name.ends_with(part))
}

/// One step with groups; the same without, from the same codes; what that wrote itself.
struct Pair {
    name: String,
    /// With groups.
    fused: Step,
    plain: Step,
    own: BTreeMap<String, Vec<i64>>,
}

fn pairs() -> Vec<Pair> {
    let mut all = vec![];
    for module in [residual(), with_pools()] {
        for steps in [1, 3] {
            let name = format!("{}, step {steps}", module.name);
            let fused = Step::run(module.clone(), 3, steps, |_| ());
            let plain = Step::without(module.clone(), &GROUPING, 3, 1, |_| ());
            let (plain, own) = plain.beside(&fused, is_code);
            all.push(Pair { name, fused, plain, own });
        }
    }
    all
}

impl Pair {
    /// The node of the other module that does the same.
    fn counterpart(&self, node: &Node) -> &Node {
        let mut same = self.plain.nodes(&node.op).filter(|other| {
            other.path == node.path && other.attrs == node.attrs && other.results.len() == node.results.len()
        });
        same.next().unwrap()
    }

    /// How far values before the quantizer of `node` may lie apart, in steps of its grid.
    fn apart(&self, node: &Node) -> Vec<f64> {
        let other = self.counterpart(node);
        let grid = format!("{}.activation", node.path);
        let step = self.fused.step_of(node.results[0]);
        let (a, b) =
            (self.fused.grid_error(&grid, node.operands[0]), self.plain.grid_error(&grid, other.operands[0]));
        let edges = self.plain.edge_error(other.operands[0]);
        if self.fused.edge_error(node.operands[0]).iter().any(|&error| error > 0.0) {
            // Nothing vanished: no group reaches here.
            return vec![0.0; edges.len()];
        }
        (0..edges.len()).map(|i| a[i] + b[i] + edges[i] / step).collect()
    }
}

#[test]
fn groups_leave_nothing_wide_behind_contractions() {
    for Pair { name, fused, plain, .. } in pairs() {
        let wide = |step: &Step| step.buffers().filter(|name| name.ends_with(".wide")).count();
        assert!(wide(&plain) >= 3 && wide(&fused) < wide(&plain), "{name}: {} edges", wide(&plain));
        // An activation function behind a pool is in no group.
        let most = if name.starts_with("resnet") { 0 } else { 1 };
        assert!(wide(&fused) <= most, "{name}: {} edges are left", wide(&fused));
    }
}

#[test]
fn what_precedes_an_edge_is_the_same() {
    for Pair { name, fused, plain, .. } in pairs() {
        let mut seen = 0;
        for node in fused.nodes("conv2d").chain(fused.nodes("linear")) {
            for what in ["t", "unit", "weight_codes", "weight_scale", "weight_grad", "weight_grad_unit"] {
                let buffer = format!("{}.{what}", node.path);
                if fused.has(&buffer) {
                    assert!(fused.ints(&buffer) == plain.ints(&buffer), "{name}: {buffer}");
                    seen += 1;
                }
            }
        }
        for node in fused.nodes("batch_norm") {
            for what in ["variance", "gain", "running_mean", "running_variance"] {
                let buffer = format!("{}.{what}", node.path);
                assert!(fused.ints(&buffer) == plain.ints(&buffer), "{name}: {buffer}");
                seen += 1;
            }
        }
        for buffer in ["loss", "predictions", "rate", "logits.gradient16"] {
            assert!(fused.ints(buffer) == plain.ints(buffer), "{name}: {buffer}");
        }
        assert!(seen >= 15, "{name}: {seen} buffers");
    }
}

#[test]
fn codes_differ_by_the_roundings_of_the_edges_only() {
    for pair in pairs() {
        let (fused, mut differ, mut all) = (&pair.fused, 0, 0);
        for node in fused.activations() {
            let what = format!("{}, {}", pair.name, node.path);
            let (value, result) = (fused.forward(node.operands[0]), node.results[0]);
            let own = fused.codes_in(result, &pair.own[&format!("{}.activation.codes", node.path)]);
            let codes = fused.codes(result);
            for (i, apart) in pair.apart(node).into_iter().enumerate() {
                assert!(apart < 0.25, "{what}: edges are fine enough ({apart})");
                // Between codes n and n + 1, at n + 1/2, an edge's rounding may decide.
                let exact = value.data[i] / fused.step_of(result);
                let undecided = (exact - exact.floor() - 0.5).abs() <= apart;
                let difference = (own.data[i] - codes.data[i]).abs();
                assert!(
                    difference == 0.0 || undecided && difference <= (apart + 0.5).ceil(),
                    "{what}: {} with groups, {} without, from {exact} ± {apart}",
                    codes.data[i],
                    own.data[i]
                );
                differ += usize::from(difference > 0.0);
                all += 1;
            }
        }
        assert!(differ > 0, "{}: the edges have been rounded", pair.name);
        assert!(differ * 20 < all, "{}: {differ} of {all} codes differ", pair.name);
    }
}

#[test]
fn gradients_differ_where_an_edge_decides_a_mask_only() {
    for pair in pairs() {
        let Pair { name, fused, plain, .. } = &pair;
        for node in fused.nodes("batch_norm_grad") {
            let other = pair.counterpart(node);
            let (dy, same) = (node.operands[0], other.operands[0]);
            let gradient = |step: &Step, value: Value| {
                step.dense(&format!("value{}.gradient", value.0), &step.shape(value))
            };
            let (a, b) = (gradient(fused, dy), gradient(plain, same));
            let unsure = pair.undecided_masks(dy);
            let (off, added) = pair.sum_error(dy);
            let units = [fused.gradient_unit(dy), plain.gradient_unit(same)];
            for (i, (&a, &b)) in a.data.iter().zip(&b.data).enumerate() {
                let near = (a * units[0] - b * units[1]).abs() <= off * units[0];
                // A masked gradient is zero; of a sum, one part may be.
                let masked = a == 0.0 || b == 0.0 || added;
                assert!(
                    near || unsure[i] && masked,
                    "{name}, {}: gradient {i} is {a} with groups, {b} without",
                    node.path
                );
            }
            let open = unsure.iter().filter(|&&u| u).count();
            assert!(open * 5 < unsure.len(), "{name}, {}: {open} masks are undecided", node.path);
            if !added {
                pair.check_sums(node, &a, &b);
            }
        }
    }
}

impl Pair {
    /// Where a mask on the way of the gradient `value` is decided within the roundings of the edges.
    fn undecided_masks(&self, value: Value) -> Vec<bool> {
        let fused = &self.fused;
        let node = fused.producer(value);
        let either = |a: Vec<bool>, b: Vec<bool>| a.into_iter().zip(b).map(|(a, b)| a || b).collect();
        match node.op.as_str() {
            "relu_grad" | "quantize_grad" => {}
            "add" => {
                return either(
                    self.undecided_masks(node.operands[0]),
                    self.undecided_masks(node.operands[1]),
                );
            }
            _ => return vec![false; fused.shape(value).iter().product::<u64>() as usize],
        }
        let quantizer = fused.activations().find(|q| q.path == node.path).unwrap();
        let step = fused.step_of(quantizer.results[0]);
        let edge = if node.op == "relu_grad" { 0.0 } else { 255.5 };
        let value = fused.forward(node.operands[1]);
        let near =
            value.data.iter().zip(self.apart(quantizer)).map(|(v, apart)| (v / step - edge).abs() <= apart);
        either(self.undecided_masks(node.operands[0]), near.collect())
    }

    /// How far a gradient may be off in its units, and whether it begins as a sum of two: the factors of a sum follow the
    /// largest gradients, and those may have been masked. Else nothing.
    fn sum_error(&self, value: Value) -> (f64, bool) {
        let node = self.fused.producer(value);
        match node.op.as_str() {
            "relu_grad" | "quantize_grad" => self.sum_error(node.operands[0]),
            "add" => (2.0 * self.fused.expected_gradient(value).1, true),
            _ => (0.0, false),
        }
    }

    /// dβ is the sum of the gradient: with every mask the same, the same bits; else it moves by the masked elements.
    fn check_sums(&self, node: &Node, a: &Tensor, b: &Tensor) {
        let channels = *a.shape.last().unwrap() as usize;
        let name = format!("{}.beta_grad", node.path);
        let (with, without) = (self.fused.ints(&name), self.plain.ints(&name));
        let (beta, other) = (self.fused.dyadics(&name), self.plain.dyadics(&name));
        let sum = |x: &Tensor, c: usize| x.data.iter().skip(c).step_by(channels).sum::<f64>();
        for c in 0..channels {
            if sum(a, c) == sum(b, c) {
                assert_eq!(with[c], without[c], "{}, {name}, channel {c}", self.name);
            } else {
                // Both are sum·unit.
                let expected = beta[c] * sum(b, c);
                let got = other[c] * sum(a, c);
                assert!(
                    (got - expected).abs() <= expected.abs() * 1e-6,
                    "{}, {name}, channel {c}",
                    self.name
                );
            }
        }
    }
}

/// Groups of the backward pass decide nothing about rounding: gradients are stored where batch norms and contractions read
/// them, in a group or not. They reorder nodes, and random streams stay with their nodes.
#[test]
fn groups_of_the_backward_pass_change_no_bit() {
    for module in [residual(), with_pools(), modules::mlp(4, 8, "stochastic")] {
        let fused = Step::run(module.clone(), 3, 3, |_| ());
        let plain = Step::without(module, &GROUPING[1..], 3, 3, |_| ());
        let mut seen = 0;
        for name in fused.state() {
            assert!(fused.ints(name) == plain.ints(name), "{}: {name}", fused.module.name);
            seen += 1;
        }
        assert!(seen >= 10, "{seen} buffers");
    }
}
