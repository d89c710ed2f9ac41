//! Real containers through the engine alone: no door, no reconciler.

mod bed;
mod crash;
mod life;
mod pods;
mod restart;
mod volumes;
