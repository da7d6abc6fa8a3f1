//! Real node stacks on a simulated network.

mod chaos;
mod eclipse;
mod flashcrowd;
mod flood;
mod matrix;
mod partition;
mod paths;
mod replicate;
mod sleep;
mod slowlinks;
mod survive;
