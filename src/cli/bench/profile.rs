//! Time of the calls of a step, summed by class, kernel and layer.

use fqt_runtime::profile::CallTime;

use super::median;
use crate::driver::Compiled;
use crate::ir::{Layers, Module, Role};
use crate::kernel::cost::{Class, Cost, cost};
use crate::kernel::{Call, Program};
use crate::types::int;

/// What the calls of a training step are.
pub(super) struct Calls {
    /// Name of the model.
    pub(super) model: String,
    /// Bits of gradients by the broadest rule, if it quantizes them.
    pub(super) gradient_bits: Option<i64>,
    calls: Vec<CallText>,
}

struct CallText {
    layer: String,
    kernel: String,
    number: usize,
    cost: Cost,
}

impl Calls {
    pub(super) fn of(compiled: &Compiled) -> Calls {
        let program = &compiled.programs[0];
        let costs: Vec<Cost> = program.kernels.iter().map(cost).collect();
        let text = |call: &Call| CallText {
            layer: layer(&compiled.module, program, call),
            kernel: program.kernels[call.kernel].name.clone(),
            number: call.kernel,
            cost: costs[call.kernel],
        };
        let calls = compiled.schedules[0].order().map(|number| text(&program.calls[number]));
        Calls {
            model: compiled.module.name.clone(),
            gradient_bits: gradient_bits(&compiled.module),
            calls: calls.collect(),
        }
    }
}

/// The layer that a call works for: that of the first buffer which belongs to one. Results come first.
fn layer(module: &Module, program: &Program, call: &Call) -> String {
    let of = |name: &str| {
        let inside = |path: &&str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        let paths = module.nodes.iter().map(|node| node.path.as_str()).filter(|path| !path.is_empty());
        paths.filter(inside).max_by_key(|path| path.len()).map(str::to_owned)
    };
    call.args.iter().find_map(|id| of(&program.buffers[id.0 as usize].name)).unwrap_or_default()
}

fn gradient_bits(module: &Module) -> Option<i64> {
    let broadest = |rule: &&crate::ir::Rule| rule.target == Role::Gradients && rule.layers == Layers::All;
    let scheme = module.rules.iter().rev().find(broadest)?.scheme.as_ref()?;
    Some(int(&module.schemes.get(scheme)?.params, "bits"))
}

/// Sums over some calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) calls: u64,
    /// Nanoseconds of a step: those of all threads in kernels, divided by the threads.
    pub(super) time: f64,
    /// Nanoseconds of a step that threads are not in kernels: at barriers, or without an item.
    pub(super) waiting: f64,
    /// Nanoseconds in kernels, of all threads together.
    pub(super) busy: u64,
    /// Lanes of dot products that a thread without memory would do in the time of the contractions alone; nothing if that
    /// was not measured.
    pub(super) dots_at_peak: f64,
    pub(super) macs: u64,
    pub(super) dots: u64,
    pub(super) bytes: u64,
}

impl Sums {
    /// Share of the peak in the time of contractions alone, where that was measured.
    pub(super) fn share_alone(&self) -> Option<f64> {
        (self.dots_at_peak > 0.0).then(|| self.dots as f64 / self.dots_at_peak)
    }

    fn add(&mut self, other: Sums) {
        self.calls += other.calls;
        self.time += other.time;
        self.waiting += other.waiting;
        self.busy += other.busy;
        self.dots_at_peak += other.dots_at_peak;
        self.macs += other.macs;
        self.dots += other.dots;
        self.bytes += other.bytes;
    }
}

/// The calls of one kernel name in one layer.
pub(super) struct Row {
    pub(super) layer: String,
    pub(super) kernel: String,
    pub(super) class: Class,
    pub(super) sums: Sums,
}

/// Where the time of a step goes.
pub(super) struct Profile {
    /// In order of their first calls.
    pub(super) rows: Vec<Row>,
    /// Nanoseconds of a step with clocks in it.
    pub(super) step: f64,
}

impl Profile {
    /// From the times of the calls in several steps: of each call, the medians. `rates` says of each kernel how many
    /// multiply-accumulates its contractions do in the time of one lane at the peak, where that was measured.
    pub(super) fn new(
        calls: Calls,
        steps: Vec<Vec<CallTime>>,
        rates: &[Option<f64>],
        threads: usize,
    ) -> Profile {
        let mut profile = Profile { rows: vec![], step: 0.0 };
        for (i, call) in calls.calls.into_iter().enumerate() {
            let of =
                |pick: fn(&CallTime) -> u64| median(steps.iter().map(|step| pick(&step[i]))).unwrap_or(0);
            let (wall, busy) = (of(|time| time.wall), of(|time| time.busy));
            let time = (busy as f64 / threads as f64).min(wall as f64);
            profile.step += wall as f64;
            let waiting = wall as f64 - time;
            let Cost { class, macs, dots, bytes } = call.cost;
            let dots_at_peak = rates[call.number].map_or(0.0, |rate| macs as f64 / rate);
            let sums = Sums { calls: 1, time, waiting, busy, dots_at_peak, macs, dots, bytes };
            add(&mut profile.rows, Row { layer: call.layer, kernel: call.kernel, class, sums });
        }
        profile
    }

    /// The sums of a class.
    pub(super) fn class(&self, class: Class) -> Sums {
        sum(self.rows.iter().filter(|row| row.class == class))
    }

    /// The sums of each kernel name, the longest first.
    pub(super) fn by_kernel(&self) -> Vec<Row> {
        let mut rows = vec![];
        for row in &self.rows {
            add(&mut rows, Row { layer: String::new(), kernel: row.kernel.clone(), ..*row });
        }
        rows.sort_by(|a: &Row, b: &Row| b.sums.time.total_cmp(&a.sums.time));
        rows
    }

    /// The kernels of each layer, the longest first.
    pub(super) fn by_layer(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by(|a, b| b.sums.time.total_cmp(&a.sums.time));
        rows
    }
}

pub(super) fn sum<'a>(rows: impl Iterator<Item = &'a Row>) -> Sums {
    rows.fold(Sums::default(), |mut all, row| {
        all.add(row.sums);
        all
    })
}

/// Adds to the row of that layer, kernel and class, or makes it.
fn add(rows: &mut Vec<Row>, new: Row) {
    let same = |row: &&mut Row| row.layer == new.layer && row.kernel == new.kernel && row.class == new.class;
    match rows.iter_mut().find(same) {
        Some(row) => row.sums.add(new.sums),
        None => rows.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_its_kernels_and_waiting() {
        let call = |kernel: &str, class| CallText {
            layer: "conv1".into(),
            kernel: kernel.into(),
            number: usize::from(class == Class::Single),
            cost: Cost { class, macs: 8, dots: 2, bytes: 64 },
        };
        let texts = vec![
            call("contract", Class::Contraction),
            call("contract", Class::Contraction),
            call("grid", Class::Single),
        ];
        let calls = Calls { model: "m".into(), gradient_bits: None, calls: texts };
        let time = |wall, busy| CallTime { wall, busy };
        let step = |extra: u64| vec![time(100 + extra, 160), time(50, 90), time(30, 20 + extra)];
        let profile = Profile::new(calls, vec![step(0), step(1), step(1000)], &[Some(0.25), None], 2);
        assert_eq!(profile.rows.len(), 2);
        let contract = profile.class(Class::Contraction);
        assert_eq!((contract.calls, contract.time, contract.macs), (2, 125.0, 16));
        assert_eq!((contract.dots_at_peak, contract.share_alone()), (64.0, Some(0.0625)));
        assert_eq!(profile.class(Class::Single).time, 10.5);
        assert_eq!((profile.step, sum(profile.rows.iter()).waiting), (181.0, 45.5));
    }
}
