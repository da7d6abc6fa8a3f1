//! Real node stacks on a simulated network.

mod chaos;
mod matrix;
mod paths;
mod replicate;
mod survive;
