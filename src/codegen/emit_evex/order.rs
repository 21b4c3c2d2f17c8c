//! The order of straight code, so that few registers are alive at a time.
//!
//! Code that was written for halves side by side keeps both alive. Here every store, and every change of a register that
//! lives on, is preceded by no more than what it needs, in the order in which they were written. Stores keep their places
//! among the reads and writes of memory.

use super::vcode::{Base, Inst, Node, Operand, Reg, Vcode};
use iced_x86::Code;
use std::collections::BTreeMap;

/// Orders all code of a region.
pub(super) fn order(code: &mut Vcode) {
    let mut definitions = vec![0; code.classes.len()];
    count(&code.nodes, &mut definitions);
    code.nodes = of_nodes(std::mem::take(&mut code.nodes), &definitions);
}

fn count(nodes: &[Node], definitions: &mut [usize]) {
    for node in nodes {
        match node {
            Node::Loop { body, .. } => count(body, definitions),
            Node::Constant(reg, _) => definitions[reg.0] += 1,
            Node::Inst(inst) => inst.defines().into_iter().for_each(|reg| definitions[reg.0] += 1),
            Node::Scalar(_) => {}
        }
    }
}

fn of_nodes(nodes: Vec<Node>, definitions: &[usize]) -> Vec<Node> {
    let (mut out, mut run) = (vec![], Run::default());
    for node in nodes {
        match node {
            Node::Loop { count, pointers, body } => {
                std::mem::take(&mut run).write(&mut out);
                let body = of_nodes(body, definitions);
                out.push(Node::Loop { count, pointers, body });
            }
            node => run.push(node, definitions),
        }
    }
    run.write(&mut out);
    out
}

/// Nodes that stay together, and what has to be in front of them.
#[derive(Default)]
struct Unit {
    nodes: Vec<Node>,
    needs: Vec<usize>,
    /// Whether it is written for what it does, not for a value.
    acts: bool,
}

/// Straight code.
#[derive(Default)]
struct Run {
    units: Vec<Unit>,
    /// Who wrote a register last, and who has read it since.
    writers: BTreeMap<Reg, usize>,
    readers: BTreeMap<Reg, Vec<usize>>,
    /// The last store, and the loads since.
    store: Option<usize>,
    loads: Vec<usize>,
    /// A unit whose last node leaves a number in the scratch register for the next.
    scalar: Option<Node>,
}

impl Run {
    fn push(&mut self, node: Node, definitions: &[usize]) {
        if matches!(node, Node::Scalar(_)) {
            self.scalar = Some(node);
            return;
        }
        let at = self.units.len();
        let mut unit = Unit::default();
        let mut defines = None;
        match &node {
            Node::Inst(inst) => {
                for reg in inst.reads().chain(inst.tied) {
                    unit.needs.extend(self.writers.get(&reg));
                    self.readers.entry(reg).or_default().push(at);
                }
                self.memory(inst, &mut unit);
                defines = inst.defines();
            }
            Node::Constant(reg, _) => defines = Some(*reg),
            Node::Scalar(_) | Node::Loop { .. } => {}
        }
        if let Some(reg) = defines {
            let readers = self.readers.remove(&reg).unwrap_or_default();
            unit.needs.extend(readers.into_iter().filter(|&reader| reader != at));
            unit.needs.extend(self.writers.insert(reg, at));
            unit.acts |= definitions[reg.0] > 1;
        }
        unit.nodes = self.scalar.take().into_iter().chain([node]).collect();
        unit.needs.sort_unstable();
        unit.needs.dedup();
        self.units.push(unit);
    }

    fn memory(&mut self, inst: &Inst, unit: &mut Unit) {
        let at = self.units.len();
        let touches = |o: &Operand| matches!(o, Operand::Memory(Base::Pointer(_), _));
        if inst.code == Code::Prefetcht1_m8 {
            unit.acts = true;
        } else if inst.defines().is_none() {
            unit.acts = true;
            unit.needs.append(&mut self.loads);
            unit.needs.extend(self.store.replace(at));
        } else if inst.operands.iter().any(touches) {
            unit.needs.extend(self.store);
            self.loads.push(at);
        }
    }

    fn write(mut self, out: &mut Vec<Node>) {
        let acts = (0..self.units.len()).filter(|&i| self.units[i].acts);
        for at in acts.chain(0..self.units.len()).collect::<Vec<_>>() {
            self.visit(at, out);
        }
        out.extend(self.scalar);
    }

    fn visit(&mut self, at: usize, out: &mut Vec<Node>) {
        for needed in std::mem::take(&mut self.units[at].needs) {
            self.visit(needed, out);
        }
        out.append(&mut self.units[at].nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::select::y;
    use super::super::vcode::Class;
    use super::*;

    #[test]
    fn each_store_follows_what_it_needs_and_loads_stay_in_front() {
        let mut code = Vcode::default();
        let [a, b, c, d] = std::array::from_fn(|_| code.reg(Class::Vector));
        let at = |place| Operand::Memory(Base::Pointer(0), place);
        let load = |to, from| Inst::new(Code::VEX_Vmovdqu_ymm_ymmm256, [y(to), at(from)]);
        let abs = |to, from| Inst::new(Code::VEX_Vpabsw_ymm_ymmm256, [y(to), y(from)]);
        let store = |to, from| Inst::new(Code::VEX_Vmovdqu_ymmm256_ymm, [at(to), y(from)]);
        // Two halves side by side, in place.
        let halves = [load(a, 0), load(b, 32), abs(c, a), abs(d, b), store(0, c), store(32, d)];
        code.nodes = halves.into_iter().map(Node::Inst).collect();
        order(&mut code);
        let written = code.nodes.iter().map(|node| match node {
            Node::Inst(inst) => inst.defines(),
            _ => panic!("{node:?}"),
        });
        assert_eq!(written.collect::<Vec<_>>(), [Some(a), Some(b), Some(c), None, Some(d), None]);
    }
}
