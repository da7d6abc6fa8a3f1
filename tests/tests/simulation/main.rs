//! Real node stacks on a simulated network.

mod chaos;
mod paths;
mod replicate;
mod survive;
