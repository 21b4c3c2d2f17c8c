//! fqtc: a compiler for fully-quantized neural-network training.
//!
//! A model file goes in, and a training step comes out that computes with integers only. This page is the
//! architecture: how data flows, where what lives, what must stay true, and how to add things. The README is for users.
//!
//! ```text
//! model.fqt ── syntax ──▶ syntax tree ── elaborate ──▶ training IR ── passes ──▶ training IR ── lower ──▶ kernel program
//!                                                          │                        │                        │
//!                                                          └──────── oracle ────────┘                 schedule, plan
//!                                                           (f64: what it means)                             │
//!              fqt-runtime ◀── codegen (Cranelift, in memory) ◀── plan_check, kernel::verify ◀───────────────┘
//! ```
//!
//! # The way of the data
//!
//! Every arrow is a function from one value to the next; nothing calls back up, and every value prints
//! (`fqtc dump --stage ast|forward|training|quantized|fused|bits|kernel|planned|clif|asm`).
//!
//! 1. [`syntax`] reads the text. It knows no layer, quantizer or setting by name.
//! 2. [`elaborate`] merges everything that is said about a model (file, recipes, `key=value`, flags) into one model without
//!    conditions, and builds its training IR: names come from the tables in [`ops`], [`quant`] and [`rectify`].
//! 3. [`passes`] quantize weights and activations, differentiate, append updates, quantize gradients, clean up and group.
//!    After each the module is numbered canonically and verified. Quantizers come before differentiation, so that clip
//!    masks and the gradients of learned clips are derivatives like all others.
//! 4. [`lower`] walks the nodes and writes one kernel program for training and two for evaluation. They share state by name.
//! 5. [`kernel::verify`] proves that accesses stay inside buffers and that no integer overflows; [`schedule`](mod@schedule)
//!    says which calls need no barrier between them; [`plan`](mod@plan) places the buffers in one arena, and [`plan_check`]
//!    replays both without knowing how they were made.
//! 6. [`codegen`] compiles every kernel to one function `(arena, args, first, last)` over a range of items. Cranelift emits
//!    everything; where the target has vectors of 256 or 512 bits, contractions and loops over lanes become leaf functions
//!    of an emitter of our own, which the Cranelift code calls; where it has tiles, contractions that are cheaper so
//!    become products of tiles.
//! 7. The runtime runs tables of calls, in chains and between barriers, on its threads; it knows data sets, checkpoints
//!    and metrics, and nothing of the compiler.
//!
//! [`driver`] is steps 3 to 5 on one page.
//!
//! # Code map
//!
//! A module uses only those above it (`tests/it/tidy.rs` has the table of edges).
//!
//! | module | what it is |
//! |---|---|
//! | [`diag`] | diagnostics with places, the table of codes, rendering, did-you-mean |
//! | [`types`] | attributes, and the typed descriptions of parameters that layers, quantizers and rectifiers publish |
//! | [`tensor`] | real tensors of the oracle |
//! | [`ir`] | the training IR: SSA over real-valued tensors, its text in both directions, its structure's verifier |
//! | [`numbers`] | real numbers at compile time become dyadics here, and nowhere else |
//! | [`kernel`] | the kernel program: builder, verifier with interval analysis, interpreter, printer, costs |
//! | [`quant`] | one file per quantizer: levels, ranges, rounding and derivative in real numbers |
//! | [`rectify`] | one file per rectification of batch norm, in real numbers and as scalar kernel code |
//! | [`bits`] | policies that choose bit-widths |
//! | [`ops`] | one file per op: attributes, types, meaning, derivative, layer; and the verifier of modules |
//! | [`bops`] | bit-operations of a module, for reports |
//! | [`targets`] | one file per machine: triple, instruction sets, costs by which contractions are tiled |
//! | [`syntax`] | model files as text: source to tree and back |
//! | [`elaborate`] | tree to training IR: precedence, blocks, rules, settings |
//! | [`passes`] | functions from one module to the next, in the order of a table |
//! | [`oracle`] | a module evaluated in f64 |
//! | [`noise`] | gradient noise by layer, measured by the oracle and predicted |
//! | [`lower`] | training IR to kernel programs: the integer arithmetic |
//! | [`schedule`](mod@schedule) | which calls follow each other without a barrier, and which run at the same time |
//! | [`plan`](mod@plan), [`plan_check`] | the memory plan; the independent checker of it and of the schedule |
//! | [`codegen`] | emission through Cranelift, in wide vectors and in tiles, code in memory, the audit of emitted bytes, the peak of the machine |
//! | [`models`], [`datasets`] | networks that come with the program; data sets it can fetch, and the built-in sample |
//! | [`driver`] | the pipeline |
//! | [`cli`] | one file per subcommand |
//!
//! `runtime/` is the package `fqt-runtime`. Its core (`abi`, `fixed`, `random`, `step`) needs no allocation, no standard
//! library and no floats: it is what emitted code calls.
//!
//! Inside [`lower`]: `nodes` and `nodes_grad` are the walk, one function per op, with `quantize_activation` and
//! `quantize_gradient`. `contract`, `weight_gradient` and `weights` set up contractions, `planes` what weight gradients
//! read, `depthwise` what is convolved channel by channel, `norm` batch norm, `pool`, `pool_overlap`, `loss` and `input`
//! what their names say, `begin` keys and the learning rate, `in_force` codes whose width moves.
//! `affine`, `grid`, `gather`, `row_scales` and `encode` are the machinery that all of them share, `codes` and `layout` tensors
//! in memory.
//!
//! # How a value stays pending
//!
//! Lowering stores as little as it can. The walk keeps for each value what is known of it:
//!
//! - *pending*: a contraction that nobody has read. The pass that reads it runs it panel by panel, and looks at the
//!   accumulators while they are in cache: batch norm's sums, the shift to 16 bits.
//! - *wide*: 16-bit integers in memory with a unit.
//! - *affine*: `Σ coef·(source − mean) + offset` per channel over wide tensors. Batch norm, its gradient, biases and residual
//!   sums only change coefficients, which are scalar kernels over channels; no element is touched.
//! - *codes*: quantized, in every layout that some consumer reads.
//!
//! A quantizer (or an edge between groups) ends this: `grid` turns the real coefficients into integers, and one `encode` pass
//! applies them and writes the codes. Gradients do the same with masks, which are recomputed from the forward sources before
//! rounding. Groups in the training IR decide what is stored between them, therefore what is rounded; everything else about
//! fusion follows from what is pending, and changes no result.
//!
//! # Invariants
//!
//! - The kernel IR has no float type. Floats exist at compile time, in the oracle, and in printed numbers only.
//! - A program that the verifier accepts cannot overflow and cannot leave its buffers; the interpreter traps both all the
//!   same.
//! - Results depend on model, data and seed: never on threads, target, order of items or time. Random bits are a keyed hash of a
//!   position; the number of items of a call follows from shapes.
//! - State is what a checkpoint holds: declared by name in lowering, first in the arena, at the same place in every program.
//! - What a user can write never panics. Errors are [`diag::Diagnostic`]s; codes with `I` mean a bug of the compiler.
//! - Unsafe code is in [`codegen::jit`] and in the runtime.
//!
//! Deliberately absent: control flow in the IR, dynamic shapes, float fallbacks, passes that know a recipe or a layer by name,
//! plug-ins, a pass manager with cached analyses, linker registration, and state in random number generators.
//!
//! # How to add
//!
//! Tables are plain statics in `mod.rs`; a test finds files that are in no table, and others run on every row.
//!
//! | to add | write | and |
//! |---|---|---|
//! | an op | `ops/foo.rs`: [`ops::Op`], and [`ops::Layer`] if the language has it | two lines in `ops/mod.rs`; its integers in [`lower`], see below |
//! | a quantizer | `quant/foo.rs`: [`quant::Quantizer`] | two lines in `quant/mod.rs`; a new way of rounding or of finding a range: `lower/encode.rs`, `lower/quantize_gradient.rs`, `lower/quantize_activation.rs` |
//! | a rectifier | `rectify/foo.rs`: [`rectify::Rectifier`], both forms | two lines in `rectify/mod.rs`, nothing else |
//! | a bit policy | `bits/foo.rs`: [`bits::Policy`] | two lines in `bits/mod.rs`, nothing else |
//! | a pass | `passes/foo.rs`: a [`passes::Pass`]; `tests/data/passes/foo/` | `mod` line and its place in the order |
//! | a recipe | `models/recipes/foo.fqt` | one line in `elaborate/recipes.rs` |
//! | a model | `models/foo.fqt` | one line in `models.rs`, and in the table of `models/README.md` |
//! | a target | `targets/foo.rs`: a [`targets::Target`] | two lines in `targets/mod.rs` |
//! | a subcommand | `cli/foo.rs` | a `mod` line and a variant in `cli/mod.rs` |
//! | a format of data | `runtime/src/data/foo.rs` | two lines in `runtime/src/data/mod.rs`; if it can be fetched, a row in `datasets/mod.rs` |
//! | an error | a row in `diag/codes/` | a case in `tests/data/ui/` |
//!
//! **Where one file is not enough.** An op's real side (types, meaning, derivative) is one file in [`ops`]; its integer side is
//! a function of the walk in [`lower`]. They are apart because the integers of an op depend on its neighbours: a batch norm
//! is coefficients if a quantizer follows and a stored tensor otherwise, and only the walk knows. An op without an integer
//! side is an error with a place (E0503), not a wrong result. For the same reason quantizers state levels, ranges and derivatives in
//! [`quant`], while lowering knows the few ways to round and to find a range that they are made of.

pub mod bits;
pub mod bops;
pub mod cli;
pub mod codegen;
pub mod datasets;
pub mod diag;
pub mod driver;
pub mod elaborate;
pub mod ir;
pub mod kernel;
pub mod lower;
pub mod models;
pub mod noise;
pub mod numbers;
pub mod ops;
pub mod oracle;
pub mod passes;
pub mod plan;
pub mod plan_check;
pub mod quant;
pub mod rectify;
pub mod schedule;
pub mod syntax;
pub mod targets;
pub mod tensor;
pub mod types;
