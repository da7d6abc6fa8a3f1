//! Real node stacks on a simulated network.

mod paths;
mod replicate;
mod survive;
