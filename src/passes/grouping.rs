//! Groups under construction: which nodes may form one, and the order that makes their nodes follow each other.
//!
//! Groups are possible if, with each contracted to a point, the graph of nodes has no cycle. The order is the
//! topological one that is nearest to the order before.

use std::collections::BTreeSet;

use crate::ir::{GroupId, Module};

/// Groups of the nodes of a module.
pub(super) struct Grouping {
    /// For each node the nodes whose results it reads.
    sources: Vec<Vec<usize>>,
    group: Vec<Option<GroupId>>,
    names: Vec<String>,
    proposed: Vec<(usize, BTreeSet<usize>)>,
}

impl Grouping {
    /// The groups that a module has.
    pub(super) fn new(module: &Module) -> Grouping {
        let producers = module.producers();
        let sources = |operands: &[crate::ir::Value]| {
            operands.iter().filter_map(|value| producers[value.0 as usize]).collect()
        };
        Grouping {
            sources: module.nodes.iter().map(|node| sources(&node.operands)).collect(),
            group: module.nodes.iter().map(|node| node.group).collect(),
            names: module.groups.clone(),
            proposed: vec![],
        }
    }

    /// Whether a node is in a group.
    pub(super) fn is_grouped(&self, node: usize) -> bool {
        self.group[node].is_some()
    }

    /// Proposes a group of nodes that are in none.
    pub(super) fn propose(&mut self, nodes: &BTreeSet<usize>, name: &str) {
        if nodes.iter().all(|&node| !self.is_grouped(node)) {
            let id = self.names.len();
            self.names.push(name.to_owned());
            self.mark(nodes, Some(id));
            self.proposed.push((id, nodes.clone()));
        }
    }

    fn mark(&mut self, nodes: &BTreeSet<usize>, id: Option<usize>) {
        nodes.iter().for_each(|&node| self.group[node] = id.map(|id| GroupId(id as u32)));
    }

    /// Brings the nodes of the module into an order in which groups are contiguous, and marks them. If the proposals make
    /// a cycle, they are accepted one by one, and those that close one are not.
    pub(super) fn apply(mut self, module: &mut Module) {
        let order = self.order().unwrap_or_else(|| self.one_by_one());
        let nodes = std::mem::take(&mut module.nodes);
        module.nodes = order
            .into_iter()
            .map(|index| {
                let mut node = nodes[index].clone();
                node.group = self.group[index];
                node
            })
            .collect();
        module.groups = self.names;
    }

    fn one_by_one(&mut self) -> Vec<usize> {
        let proposed = std::mem::take(&mut self.proposed);
        proposed.iter().for_each(|(_, nodes)| self.mark(nodes, None));
        for (id, nodes) in &proposed {
            self.mark(nodes, Some(*id));
            if self.order().is_none() {
                self.mark(nodes, None);
            }
        }
        self.order().expect("no group was accepted that makes a cycle")
    }

    /// A topological order of the nodes with groups contiguous; of the units that are ready, the one that began first
    /// goes first. `None` if there is a cycle.
    fn order(&self) -> Option<Vec<usize>> {
        let unit = self.units();
        let n = unit.len();
        let mut members = vec![vec![]; n];
        let mut successors = vec![BTreeSet::new(); n];
        for node in 0..n {
            members[unit[node]].push(node);
            for &source in &self.sources[node] {
                if unit[source] != unit[node] {
                    successors[unit[source]].insert(unit[node]);
                }
            }
        }
        let mut waiting = vec![0; n];
        successors.iter().flatten().for_each(|&successor| waiting[successor] += 1);
        let mut ready: BTreeSet<usize> =
            (0..n).filter(|&u| !members[u].is_empty() && waiting[u] == 0).collect();
        let mut order = Vec::with_capacity(n);
        while let Some(next) = ready.pop_first() {
            order.extend(&members[next]);
            for &successor in &successors[next] {
                waiting[successor] -= 1;
                if waiting[successor] == 0 {
                    ready.insert(successor);
                }
            }
        }
        (order.len() == n).then_some(order)
    }

    /// For each node the first node of its group, or itself.
    fn units(&self) -> Vec<usize> {
        let mut first = std::collections::BTreeMap::new();
        let unit = |(node, group): (usize, &Option<GroupId>)| {
            group.map_or(node, |group| *first.entry(group).or_insert(node))
        };
        self.group.iter().enumerate().map(unit).collect()
    }
}
