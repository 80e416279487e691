//! The order in which diverged threads are scheduled.
//!
//! Threads of a warp that went different ways run lowest position first, and merge when they meet. Positions
//! follow the control flow: before a join come both branches, and a loop's whole body comes before its exits,
//! so that threads reconverge as early as they can. That is a topological order of the strongly connected
//! components of the flow graph, recursively inside each of them with the edges back to its head removed.

use super::code::{Inst, Op, Pc};

/// Nesting beyond which the text's own order is kept.
const MAX_DEPTH: u32 = 48;

/// Sets `order` of the instructions of one function, whose branch targets are relative to it.
pub(super) fn assign(instructions: &mut [Inst]) {
    let graph = Graph::new(instructions);
    let mut order = Vec::with_capacity(graph.starts.len());
    let all: Vec<u32> = (0..graph.starts.len() as u32).collect();
    graph.sort(&all, None, 0, &mut order);
    let mut position = 0;
    for block in order {
        let first = graph.starts[block as usize];
        let end = graph.starts.get(block as usize + 1).copied().unwrap_or(instructions.len());
        for inst in &mut instructions[first..end] {
            inst.order = position;
            position += 1;
        }
    }
}

struct Graph {
    /// First instruction of each basic block.
    starts: Vec<usize>,
    next: Vec<Vec<u32>>,
}

fn targets(op: &Op) -> &[Pc] {
    match op {
        Op::Branch { target } => std::slice::from_ref(target),
        Op::BranchTable { targets, .. } => targets,
        _ => &[],
    }
}

fn ends_block(op: &Op) -> bool {
    matches!(op, Op::Branch { .. } | Op::BranchTable { .. } | Op::Return | Op::Exit | Op::Trap { .. })
}

impl Graph {
    fn new(instructions: &[Inst]) -> Graph {
        let mut leader = vec![false; instructions.len() + 1];
        leader[0] = true;
        for (pc, inst) in instructions.iter().enumerate() {
            for &target in targets(&inst.op) {
                leader[target as usize] = true;
            }
            leader[pc + 1] |= ends_block(&inst.op);
        }
        let starts: Vec<usize> = (0..instructions.len()).filter(|&pc| leader[pc]).collect();
        let block_of = |pc: usize| starts.partition_point(|&start| start <= pc) as u32 - 1;
        let mut next = Vec::with_capacity(starts.len());
        for (block, _) in starts.iter().enumerate() {
            let end = starts.get(block + 1).copied().unwrap_or(instructions.len());
            let last = &instructions[end - 1];
            let mut edges: Vec<u32> = targets(&last.op).iter().map(|&pc| block_of(pc as usize)).collect();
            let falls = !ends_block(&last.op) || last.guard.is_some();
            if falls && end < instructions.len() {
                edges.push(block as u32 + 1);
            }
            next.push(edges);
        }
        Graph { starts, next }
    }

    /// Appends `nodes` in order; edges to `head` are ignored.
    fn sort(&self, nodes: &[u32], head: Option<u32>, depth: u32, order: &mut Vec<u32>) {
        if depth > MAX_DEPTH {
            order.extend_from_slice(nodes);
            return;
        }
        for component in self.components(nodes, head) {
            if let [single] = component[..] {
                order.push(single);
                continue;
            }
            // The head is the block that the rest of the text enters by: the first of it.
            let first = *component.iter().min().unwrap_or(&0);
            self.sort(&component, Some(first), depth + 1, order);
        }
    }

    /// Strongly connected components (Tarjan's algorithm, with a stack of its own), in topological order.
    fn components(&self, nodes: &[u32], head: Option<u32>) -> Vec<Vec<u32>> {
        let mut inside = std::collections::HashSet::with_capacity(nodes.len());
        inside.extend(nodes.iter().copied());
        let mut state = Tarjan {
            index: vec![u32::MAX; self.next.len()],
            low: vec![0; self.next.len()],
            ..Tarjan::default()
        };
        let mut sorted: Vec<u32> = nodes.to_vec();
        sorted.sort_unstable();
        // The head first: everything inside its component is reached from it.
        if let Some(head) = head {
            sorted.retain(|&node| node != head);
            sorted.insert(0, head);
        }
        for root in sorted {
            if state.index[root as usize] == u32::MAX {
                state.visit(self, root, |node| inside.contains(&node) && Some(node) != head);
            }
        }
        state.found.reverse();
        state.found
    }
}

#[derive(Default)]
struct Tarjan {
    index: Vec<u32>,
    low: Vec<u32>,
    counter: u32,
    stack: Vec<u32>,
    on_stack: std::collections::HashSet<u32>,
    found: Vec<Vec<u32>>,
}

impl Tarjan {
    fn visit(&mut self, graph: &Graph, root: u32, allowed: impl Fn(u32) -> bool) {
        let mut work = vec![(root, 0)];
        while let Some((node, edge)) = work.pop() {
            let at = node as usize;
            if edge == 0 {
                self.index[at] = self.counter;
                self.low[at] = self.counter;
                self.counter += 1;
                self.stack.push(node);
                self.on_stack.insert(node);
            } else {
                let child = graph.next[at][edge - 1] as usize;
                if allowed(child as u32) && self.on_stack.contains(&(child as u32)) {
                    self.low[at] = self.low[at].min(self.low[child]);
                }
            }
            let Some(&child) = graph.next[at].get(edge) else {
                self.close(node);
                continue;
            };
            work.push((node, edge + 1));
            if allowed(child) && self.index[child as usize] == u32::MAX {
                work.push((child, 0));
            }
        }
    }

    fn close(&mut self, node: u32) {
        if self.low[node as usize] != self.index[node as usize] {
            return;
        }
        let mut component = Vec::new();
        while let Some(member) = self.stack.pop() {
            self.on_stack.remove(&member);
            component.push(member);
            if member == node {
                break;
            }
        }
        component.sort_unstable();
        self.found.push(component);
    }
}
