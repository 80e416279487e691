//! `multimix::reference`: its algebra, its gradients, and its edges.

mod edges;
mod gradients;
mod identities;
