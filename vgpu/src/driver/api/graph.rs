//! Graphs: built by capture or by hand, instantiated, updated, launched.

use std::ffi::c_void;
use std::sync::Arc;

use super::transfer::check_fill;
use crate::driver::abi::{
    HostNodeParameters, In, InstantiateParameters, KernelNodeParameters, MemsetNodeParameters, Out,
    UpdateResult,
};
use crate::driver::context::{Context, current};
use crate::driver::device::device;
use crate::driver::export;
use crate::driver::graph::{Graph, GraphExec, Node, UpdateError, node_type};
use crate::driver::handle::{Handle, Registered};
use crate::driver::launch::{Arguments, Launch, Shape};
use crate::driver::library::function_of;
use crate::driver::status::{Result, Status};
use crate::driver::stream::{lock, resolve};
use crate::driver::work::{Data, Fill, HostCall, Work};

export! {
    fn cuGraphCreate(handle: Out<usize>, flags: u32) {
        device()?;
        handle.check()?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        handle.set(Graph::registry().insert(Graph::new()))
    }

    fn cuGraphDestroy(graph: Handle<Graph>) {
        device()?;
        graph.remove().map(|_| ())
    }

    fn cuGraphClone(copy: Out<usize>, graph: Handle<Graph>) {
        device()?;
        copy.check()?;
        copy.set(Graph::registry().insert(graph.get()?.duplicate()))
    }

    fn cuGraphInstantiateWithFlags(exec: Out<usize>, graph: Handle<Graph>, flags: u64) {
        exec.check()?;
        exec.set(instantiate(graph, flags)?)
    }

    fn cuGraphInstantiate_v2(
        exec: Out<usize>,
        graph: Handle<Graph>,
        failed_node: Out<usize>,
        _log: *mut c_void,
        _log_bytes: usize,
    ) {
        exec.check()?;
        failed_node.set_if_wanted(0);
        exec.set(instantiate(graph, 0)?)
    }

    fn cuGraphInstantiateWithParams(exec: Out<usize>, graph: Handle<Graph>, parameters: Out<InstantiateParameters>) {
        const SUCCESS: u32 = 0;
        const ERROR: u32 = 1;
        exec.check()?;
        let mut own = parameters.get()?;
        own.failed_node = 0;
        let outcome = instantiate(graph, own.flags);
        own.result = if outcome.is_ok() { SUCCESS } else { ERROR };
        parameters.set(own)?;
        exec.set(outcome?)
    }

    fn cuGraphExecDestroy(exec: Handle<GraphExec>) {
        device()?;
        exec.remove().map(|_| ())
    }

    fn cuGraphExecGetFlags(exec: Handle<GraphExec>, flags: Out<u64>) {
        current()?;
        flags.set(exec.get()?.flags)
    }

    fn cuGraphLaunch(exec: Handle<GraphExec>, stream: usize) {
        let context = current()?;
        let exec = exec.get()?;
        exec.launch(&context, &resolve(&context, stream)?)
    }

    fn cuGraphUpload(exec: Handle<GraphExec>, stream: usize) {
        let context = current()?;
        exec.get()?;
        resolve(&context, stream).map(|_| ())
    }

    fn cuGraphExecUpdate(exec: Handle<GraphExec>, graph: Handle<Graph>, error_node: Out<usize>, result: Out<u32>) {
        let (outcome, code, node) = update(exec, graph)?;
        error_node.set_if_wanted(node);
        result.set_if_wanted(code);
        outcome
    }

    fn cuGraphExecUpdate_v2(exec: Handle<GraphExec>, graph: Handle<Graph>, result: Out<UpdateResult>) {
        let (outcome, code, node) = update(exec, graph)?;
        result.set_if_wanted(UpdateResult { result: code, node, from_node: 0 });
        outcome
    }

    fn cuGraphGetNodes(graph: Handle<Graph>, nodes: Out<usize>, count: Out<usize>) {
        device()?;
        give_nodes(&graph.get()?.nodes(), nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle<Graph>, nodes: Out<usize>, count: Out<usize>) {
        device()?;
        let mut roots = graph.get()?.nodes();
        roots.retain(|node| lock(&node.after).is_empty());
        give_nodes(&roots, nodes, count)
    }

    fn cuGraphGetEdges(graph: Handle<Graph>, from: Out<usize>, to: Out<usize>, count: Out<usize>) {
        device()?;
        let nodes = graph.get()?.nodes();
        let edges: Vec<(usize, usize)> = nodes
            .iter()
            .flat_map(|node| lock(&node.after).iter().map(|&before| (nodes[before].handle, node.handle)).collect::<Vec<_>>())
            .collect();
        if !from.is_null() && !to.is_null() {
            let room = count.get()?;
            from.set_slice(&edges.iter().map(|edge| edge.0).collect::<Vec<_>>(), room)?;
            to.set_slice(&edges.iter().map(|edge| edge.1).collect::<Vec<_>>(), room)?;
        }
        count.set(edges.len())
    }

    fn cuGraphNodeGetDependencies(node: Handle<Node>, dependencies: Out<usize>, count: Out<usize>) {
        device()?;
        let node = node.get()?;
        let nodes = node.graph.upgrade().ok_or(Status::INVALID_VALUE)?.nodes();
        let before: Vec<Arc<Node>> = lock(&node.after).iter().map(|&index| nodes[index].clone()).collect();
        give_nodes(&before, dependencies, count)
    }

    fn cuGraphNodeGetType(node: Handle<Node>, kind: Out<u32>) {
        device()?;
        kind.set(node_type(&lock(&node.get()?.work)))
    }

    fn cuGraphAddDependencies(graph: Handle<Graph>, from: In<usize>, to: In<usize>, count: usize) {
        device()?;
        let graph = graph.get()?;
        for (from, to) in from.list(count)?.into_iter().zip(to.list(count)?) {
            let before = index_in(&graph, from)?;
            let node = Handle::<Node>::new(to).get()?;
            if index_in(&graph, to)? == before {
                return Err(Status::INVALID_VALUE);
            }
            let mut after = lock(&node.after);
            if !after.contains(&before) {
                after.push(before);
            }
        }
        Ok(())
    }

    fn cuGraphAddEmptyNode(node: Out<usize>, graph: Handle<Graph>, dependencies: In<usize>, count: usize) {
        add(node, graph, &dependencies.list(count)?, |_| Ok(Work::Empty))
    }

    fn cuGraphAddKernelNode_v2(
        node: Out<usize>,
        graph: Handle<Graph>,
        dependencies: In<usize>,
        count: usize,
        parameters: In<KernelNodeParameters>,
    ) {
        add(node, graph, &dependencies.list(count)?, |context| kernel_work(context, &parameters.get()?))
    }

    fn cuGraphAddMemsetNode(
        node: Out<usize>,
        graph: Handle<Graph>,
        dependencies: In<usize>,
        count: usize,
        parameters: In<MemsetNodeParameters>,
        _context: usize,
    ) {
        add(node, graph, &dependencies.list(count)?, |context| memset_work(context, &parameters.get()?))
    }

    fn cuGraphAddHostNode(
        node: Out<usize>,
        graph: Handle<Graph>,
        dependencies: In<usize>,
        count: usize,
        parameters: In<HostNodeParameters>,
    ) {
        add(node, graph, &dependencies.list(count)?, |_| host_work(&parameters.get()?))
    }

    fn cuGraphAddChildGraphNode(
        node: Out<usize>,
        graph: Handle<Graph>,
        dependencies: In<usize>,
        count: usize,
        child: Handle<Graph>,
    ) {
        add(node, graph, &dependencies.list(count)?, |_| child.get()?.as_work())
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle<Node>, parameters: In<KernelNodeParameters>) {
        let context = current()?;
        let node = node.get()?;
        let work = kernel_work(&context, &parameters.get()?)?;
        let mut own = lock(&node.work);
        if !matches!(*own, Work::Launch(_)) {
            return Err(Status::INVALID_VALUE);
        }
        *own = work;
        Ok(())
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        exec: Handle<GraphExec>,
        node: Handle<Node>,
        parameters: In<KernelNodeParameters>,
    ) {
        let context = current()?;
        exec.get()?.set_work(node.get()?.index, kernel_work(&context, &parameters.get()?)?)
    }

    fn cuGraphExecMemsetNodeSetParams(
        exec: Handle<GraphExec>,
        node: Handle<Node>,
        parameters: In<MemsetNodeParameters>,
        _context: usize,
    ) {
        let context = current()?;
        exec.get()?.set_work(node.get()?.index, memset_work(&context, &parameters.get()?)?)
    }

    fn cuGraphExecHostNodeSetParams(
        exec: Handle<GraphExec>,
        node: Handle<Node>,
        parameters: In<HostNodeParameters>,
    ) {
        current()?;
        exec.get()?.set_work(node.get()?.index, host_work(&parameters.get()?)?)
    }
}

const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const KNOWN_FLAGS: u64 = 15;

fn instantiate(graph: Handle<Graph>, flags: u64) -> Result<usize> {
    let context = current()?;
    let graph = graph.get()?;
    let contradictory = flags & DEVICE_LAUNCH != 0 && flags & AUTO_FREE != 0;
    if flags & !KNOWN_FLAGS != 0 || contradictory {
        return Err(Status::INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Status::NOT_SUPPORTED);
    }
    graph.instantiate(&context, flags)
}

/// What an update came to, the code for it, and the node at which it failed.
fn update(exec: Handle<GraphExec>, graph: Handle<Graph>) -> Result<(Result, u32, usize)> {
    current()?;
    let graph = graph.get()?;
    Ok(match exec.get()?.update(&graph)? {
        Ok(()) => (Ok(()), 0, 0),
        Err((error, index)) => {
            let node = match error {
                UpdateError::TopologyChanged => 0,
                UpdateError::NodeTypeChanged => graph.nodes().get(index).map_or(0, |node| node.handle),
            };
            (Err(Status::GRAPH_EXEC_UPDATE_FAILURE), error as u32, node)
        }
    })
}

/// Stores as many handles as there is room for, or only counts them.
fn give_nodes(found: &[Arc<Node>], nodes: Out<usize>, count: Out<usize>) -> Result {
    if !nodes.is_null() {
        let handles: Vec<usize> = found.iter().map(|node| node.handle).collect();
        nodes.set_slice(&handles, count.get()?)?;
    }
    count.set(found.len())
}

fn index_in(graph: &Arc<Graph>, node: usize) -> Result<usize> {
    let node = Handle::<Node>::new(node).get()?;
    if std::ptr::eq(node.graph.as_ptr(), Arc::as_ptr(graph)) {
        Ok(node.index)
    } else {
        Err(Status::INVALID_VALUE)
    }
}

fn add(
    node: Out<usize>,
    graph: Handle<Graph>,
    dependencies: &[usize],
    work: impl FnOnce(&Arc<Context>) -> Result<Work>,
) -> Result {
    node.check()?;
    let context = current()?;
    let graph = graph.get()?;
    let after: Result<Vec<usize>> = dependencies.iter().map(|&node| index_in(&graph, node)).collect();
    let index = graph.add(&context, work(&context)?, &after?)?;
    node.set(graph.nodes()[index].handle)
}

fn kernel_work(context: &Arc<Context>, parameters: &KernelNodeParameters) -> Result<Work> {
    // A node names a function, or else a kernel of a library.
    let handle = if parameters.function != 0 { parameters.function } else { parameters.kernel };
    let function = function_of(context, Handle::new(handle))?;
    let shape = Shape {
        grid: parameters.grid,
        block: parameters.block,
        dynamic_shared: parameters.shared_bytes,
        cooperative: false,
    };
    let arguments =
        Arguments { pointers: In::from_raw(parameters.parameters), extra: In::from_raw(parameters.extra) };
    Ok(Work::Launch(Arc::new(Launch::new(&context.device, function, shape, &arguments)?)))
}

fn memset_work(context: &Arc<Context>, parameters: &MemsetNodeParameters) -> Result<Work> {
    if !matches!(parameters.element_size, 1 | 2 | 4) || parameters.width == 0 || parameters.height == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let fill = Fill {
        destination: parameters.destination,
        pitch: if parameters.height == 1 { 0 } else { parameters.pitch },
        value: parameters.value,
        element_bytes: parameters.element_size as usize,
        count: parameters.width,
        rows: parameters.height,
    };
    check_fill(context, &fill)?;
    Ok(Work::Fill(fill))
}

fn host_work(parameters: &HostNodeParameters) -> Result<Work> {
    let function = parameters.function.ok_or(Status::INVALID_VALUE)?;
    Ok(Work::Host(HostCall { function, data: Data(parameters.data) }))
}
