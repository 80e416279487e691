//! Graphs: work and its order, apart from any stream, to be launched as a whole.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};

use super::context::Context;
use super::device::Device;
use super::handle::{Registered, registered};
use super::status::{Result, Status};
use super::stream::{Stream, Ticket, lock};
use super::work::Work;

/// `CUgraph`.
pub struct Graph {
    nodes: Mutex<Vec<Arc<Node>>>,
    /// Memory that nodes of the graph allocate, freed when nothing refers to the graph any more.
    memory: Arc<GraphMemory>,
}

registered!(Graph);

/// `CUgraphNode`.
pub struct Node {
    pub graph: Weak<Graph>,
    pub index: usize,
    pub handle: usize,
    pub work: Mutex<Work>,
    /// Indices of the nodes that it follows.
    pub after: Mutex<Vec<usize>>,
    /// Context that the work was made for; empty nodes and hand-built ones take the current one.
    pub context: Weak<Context>,
}

registered!(Node);

/// `CUgraphExec`.
pub struct GraphExec {
    pub context: Weak<Context>,
    /// As given to `cuGraphInstantiateWithFlags`.
    pub flags: u64,
    plan: Mutex<Arc<Plan>>,
    /// The launch before: two launches of one graph never overlap.
    last: Mutex<Arc<Ticket>>,
}

registered!(GraphExec);

/// The work of a graph in an order in which it can be executed, and its shape for comparison.
pub struct Plan {
    pub steps: Vec<Work>,
    /// For each step the node it came from and the nodes that it follows.
    shape: Vec<(usize, Vec<usize>)>,
    /// Held, not read: the steps use it.
    _memory: Arc<GraphMemory>,
}

/// Device memory that belongs to a graph.
#[derive(Default)]
struct GraphMemory(Mutex<Vec<(Arc<Device>, u64)>>);

impl Drop for GraphMemory {
    fn drop(&mut self) {
        for (device, address) in lock(&self.0).drain(..) {
            // Gone already if the context was destroyed first.
            if device.allocations.remove(address).is_some() {
                let _ = device.memory.free(address);
            }
        }
    }
}

impl Drop for Graph {
    /// The handles of its nodes end with it, also when it is the graph of a capture that failed.
    fn drop(&mut self) {
        for node in lock(&self.nodes).iter() {
            Node::registry().remove(node.handle);
        }
    }
}

impl Graph {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { nodes: Mutex::default(), memory: Arc::default() })
    }

    /// Adds a node that follows the nodes `after`; gives its index.
    pub fn add(self: &Arc<Self>, context: &Arc<Context>, work: Work, after: &[usize]) -> Result<usize> {
        let mut nodes = lock(&self.nodes);
        let index = nodes.len();
        if after.iter().any(|&earlier| earlier >= index) {
            return Err(Status::INVALID_VALUE);
        }
        let (_, node) = Node::registry().insert_with(|handle| {
            Arc::new(Node {
                graph: Arc::downgrade(self),
                index,
                handle,
                work: Mutex::new(work),
                after: Mutex::new(after.to_vec()),
                context: Arc::downgrade(context),
            })
        });
        nodes.push(node);
        Ok(index)
    }

    /// The graph owns this memory from now on.
    pub fn adopt(&self, device: &Arc<Device>, address: u64) {
        lock(&self.memory.0).push((device.clone(), address));
    }

    pub fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).clone()
    }

    /// The nodes given and all that they follow, directly or not.
    pub fn ancestors(&self, of: &[usize]) -> HashSet<usize> {
        let nodes = lock(&self.nodes);
        let mut found = HashSet::new();
        let mut open = of.to_vec();
        while let Some(index) = open.pop() {
            if found.insert(index) {
                open.extend(lock(&nodes[index].after).iter());
            }
        }
        found
    }

    /// An order in which every node comes after those that it follows; a cycle is `CUDA_ERROR_INVALID_VALUE`.
    fn plan(&self) -> Result<Arc<Plan>> {
        let nodes = lock(&self.nodes);
        let after: Vec<Vec<usize>> = nodes.iter().map(|node| lock(&node.after).clone()).collect();
        let mut done = vec![false; nodes.len()];
        let mut order = Vec::with_capacity(nodes.len());
        while order.len() < nodes.len() {
            let before = order.len();
            for index in 0..nodes.len() {
                if !done[index] && after[index].iter().all(|&earlier| done[earlier]) {
                    done[index] = true;
                    order.push(index);
                }
            }
            if order.len() == before {
                return Err(Status::INVALID_VALUE);
            }
        }
        let steps = order.iter().map(|&index| lock(&nodes[index].work).clone()).collect();
        let shape = order.iter().map(|&index| (index, after[index].clone())).collect();
        Ok(Arc::new(Plan { steps, shape, _memory: self.memory.clone() }))
    }

    /// The graph as one piece of work, for a node of another graph.
    pub fn as_work(&self) -> Result<Work> {
        Ok(Work::Graph(self.plan()?))
    }

    /// `cuGraphInstantiate`.
    pub fn instantiate(&self, context: &Arc<Context>, flags: u64) -> Result<usize> {
        let exec = GraphExec {
            context: Arc::downgrade(context),
            flags,
            plan: Mutex::new(self.plan()?),
            last: Mutex::new(Ticket::finished()),
        };
        Ok(GraphExec::registry().insert(Arc::new(exec)))
    }

    /// `cuGraphClone`: the same work in nodes of its own.
    pub fn duplicate(&self) -> Arc<Self> {
        let copy = Arc::new(Self { nodes: Mutex::default(), memory: self.memory.clone() });
        for node in self.nodes() {
            let (_, twin) = Node::registry().insert_with(|handle| {
                Arc::new(Node {
                    graph: Arc::downgrade(&copy),
                    index: node.index,
                    handle,
                    work: Mutex::new(lock(&node.work).clone()),
                    after: Mutex::new(lock(&node.after).clone()),
                    context: node.context.clone(),
                })
            });
            lock(&copy.nodes).push(twin);
        }
        copy
    }
}

/// Why an instantiated graph cannot take over another graph (`CUgraphExecUpdateResult`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpdateError {
    TopologyChanged = 2,
    NodeTypeChanged = 3,
}

impl GraphExec {
    /// `cuGraphLaunch`.
    pub fn launch(&self, context: &Arc<Context>, stream: &Arc<Stream>) -> Result {
        let mut last = lock(&self.last);
        let capturing = lock(&stream.capture).is_some();
        if !capturing {
            stream.await_ticket(last.clone());
        }
        let plan = lock(&self.plan).clone();
        stream.submit(context, Work::Graph(plan))?;
        if !capturing {
            *last = stream.last_ticket();
        }
        Ok(())
    }

    /// `cuGraphExecUpdate`: takes over the parameters of a graph of the same shape.
    pub fn update(&self, graph: &Graph) -> Result<std::result::Result<(), (UpdateError, usize)>> {
        let new = graph.plan()?;
        let mut plan = lock(&self.plan);
        if plan.shape.len() != new.shape.len() {
            return Ok(Err((UpdateError::TopologyChanged, 0)));
        }
        for (index, (old_step, new_step)) in plan.steps.iter().zip(&new.steps).enumerate() {
            let node = new.shape[index].0;
            if plan.shape[index] != new.shape[index] {
                return Ok(Err((UpdateError::TopologyChanged, node)));
            }
            if node_type(old_step) != node_type(new_step) {
                return Ok(Err((UpdateError::NodeTypeChanged, node)));
            }
        }
        *plan = new;
        Ok(Ok(()))
    }

    /// Replaces the work of one node.
    pub fn set_work(&self, node: usize, work: Work) -> Result {
        let mut plan = lock(&self.plan);
        let step = plan.shape.iter().position(|&(index, _)| index == node).ok_or(Status::INVALID_VALUE)?;
        if node_type(&plan.steps[step]) != node_type(&work) {
            return Err(Status::INVALID_VALUE);
        }
        let mut steps = plan.steps.clone();
        steps[step] = work;
        let new = Plan { steps, shape: plan.shape.clone(), _memory: plan._memory.clone() };
        *plan = Arc::new(new);
        Ok(())
    }
}

/// `CUgraphNodeType`.
pub fn node_type(work: &Work) -> u32 {
    match work {
        Work::Launch(_) => 0,
        Work::Transfer(_) => 1,
        Work::Fill(_) => 2,
        Work::Host(_) | Work::Callback(..) => 3,
        Work::Graph(_) => 4,
        Work::Empty => 5,
        Work::Record(_) => 7,
        Work::Free(_) => 11,
    }
}
