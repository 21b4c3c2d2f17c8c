//! Loops that become leaf functions in wide vectors: which ones, and their calls.

use super::super::emit_evex::{self, Around, Capture};
use super::body::{Body, flags};
use super::call;
use super::plan::{may_alias, walk};
use crate::kernel::{Expr, Index, Param, Stmt, Value};
use crate::targets::Wide;
use cranelift_codegen::ir::{self, InstBuilder, StackSlotData, StackSlotKind};
use cranelift_module::FuncId;
use std::collections::BTreeMap;

/// Alignment of the context that a region is passed, as a power of two.
const CONTEXT_ALIGNMENT: u8 = 6;

/// A loop that is a leaf function.
pub(super) struct Region {
    function: FuncId,
    captures: Vec<(i64, Capture)>,
}

impl<'e> Body<'e, '_, '_> {
    /// Makes the outermost loops that can be regions into leaf functions, if the target has vectors for them.
    pub(super) fn find_regions(&mut self) -> Result<(), String> {
        let Some(wide) = &self.emitter.target.wide else { return Ok(()) };
        let plan = self.plan;
        let mut definitions = BTreeMap::new();
        for part in [&plan.prologue, &plan.body] {
            walk(part, &mut |stmt| {
                if let Stmt::Let(value, expr) = stmt {
                    definitions.insert(*value, expr);
                }
            });
        }
        self.find_in(&plan.body, &definitions, wide)
    }

    fn find_in(
        &mut self,
        body: &'e [Stmt],
        definitions: &BTreeMap<Value, &'e Expr>,
        wide: &Wide,
    ) -> Result<(), String> {
        for stmt in body {
            let Stmt::For { index, body, .. } = stmt else { continue };
            let params = &self.kernel.params;
            let alias = |a: Param, b: Param| may_alias(params, a, b);
            let (kernel, ranges) = (self.kernel, self.ranges);
            let around = Around { kernel, wide, ranges, definitions, may_alias: &alias };
            match emit_evex::region(stmt, around)? {
                Some(region) if region.captures.iter().all(|(_, c)| self.can_pass(c)) => {
                    let function = self.emitter.region(region.bytes)?;
                    self.regions.insert(*index, Region { function, captures: region.captures });
                }
                _ => self.find_in(body, definitions, wide)?,
            }
        }
        Ok(())
    }

    /// A load that has been widened already has another form than the region expects.
    fn can_pass(&self, capture: &Capture) -> bool {
        !matches!(capture, Capture::Lanes(value) if self.loaded_wide(*value))
    }

    /// The parameters that a region touches.
    pub(super) fn touched_by_regions(&self, body: &[Stmt]) -> Vec<Param> {
        let mut params = vec![];
        walk(body, &mut |stmt| {
            if let Stmt::For { index, body, .. } = stmt
                && self.regions.contains_key(index)
            {
                walk(body, &mut |stmt| params.extend(stmt.addresses().iter().map(|a| a.param)));
            }
        });
        params
    }

    /// Writes what the region takes, and calls it.
    pub(super) fn call_region(&mut self, index: Index) {
        let Region { function, captures } = &self.regions[&index];
        let (function, captures) = (*function, captures.clone());
        let size = captures.iter().map(|(at, c)| at + c.bytes()).max().unwrap_or(0);
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, size as u32, CONTEXT_ALIGNMENT);
        let slot = self.b.create_sized_stack_slot(slot);
        let pointer = self.emitter.pointer();
        let context = self.b.ins().stack_addr(pointer, slot, 0);
        for (at, capture) in captures {
            for (i, part) in self.captured(&capture).into_iter().enumerate() {
                self.b.ins().store(flags(), part, context, at as i32 + 16 * i as i32);
            }
        }
        call(&mut self.b, self.emitter.module, function, &[context]);
    }

    fn captured(&mut self, capture: &Capture) -> Vec<ir::Value> {
        match capture {
            Capture::Address(address) => vec![self.pointer(address)],
            Capture::Position(terms) => vec![self.random_position(terms)],
            Capture::Scalar(value) => vec![self.scalar_value(*value)],
            Capture::Lanes(value) => self.parts(*value).as_slice().to_vec(),
        }
    }
}
